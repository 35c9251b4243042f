"""The structs of the tables: which values they refuse, and what their methods say."""

import zlib
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from taskforge_server.engine.errors import Conflict, InvalidInput
from taskforge_server.engine.model.base import Model
from taskforge_server.engine.model.dependency import JobDependency
from taskforge_server.engine.model.execution import ExecutionLog, JobExecution
from taskforge_server.engine.model.job import FINAL, JOB_STATUSES, MOVES, UNFINISHED, Job
from taskforge_server.engine.model.queue import JobQueue, QueueSettings, shard_of_queue
from taskforge_server.engine.model.retry import RetryPolicy
from taskforge_server.engine.model.tenant import (
    ApiKey,
    Organization,
    Project,
    Subscription,
    User,
    api_key_hash,
    api_key_text,
)
from taskforge_server.engine.model.worker import QueueWorkerAssignment, Worker

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
A, B = bytes(16), bytes(range(16))

ROWS: dict[str, Model] = {
    "organization": Organization(id=A, name="Acme", billing_email="a@b.c", created_at=NOW),
    "user": User(
        id=A,
        organization_id=B,
        email="a@b.c",
        password_hash="x",
        role="admin",
        created_at=NOW,
    ),
    "subscription": Subscription(
        id=A, organization_id=B, tier="pro", limits={"max_workers": 3}, current_period_end=NOW
    ),
    "project": Project(id=A, organization_id=B, name="p", created_at=NOW),
    "api_key": ApiKey(id=A, project_id=B, key_hash="x", name="k", permissions=["jobs:write"]),
    "queue": JobQueue(id=A, project_id=B, name="q", created_at=NOW, shard=3),
    "job": Job(
        id=A,
        queue_id=B,
        project_id=B,
        job_type="t",
        payload={"n": 1},
        created_at=NOW,
        updated_at=NOW,
    ),
    "worker": Worker(id=A, project_id=B, name="w", created_at=NOW),
    "assignment": QueueWorkerAssignment(queue_id=A, worker_id=B, created_at=NOW),
    "execution": JobExecution(id=A, job_id=B, worker_id=A, started_at=NOW, created_at=NOW),
    "log": ExecutionLog(id=A, execution_id=B, level="info", message="", metadata={}, logged_at=NOW),
    "dependency": JobDependency(parent_job_id=A, child_job_id=B, created_at=NOW),
}


@pytest.mark.parametrize("name", ROWS)
def test_valid_rows_pass(name: str) -> None:
    ROWS[name].validate()


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("organization", "name", ""),
        ("organization", "name", "  "),
        ("organization", "name", "a\0b"),
        ("organization", "name", "x" * 256),
        ("organization", "billing_email", "nobody"),
        ("organization", "billing_email", "a@"),
        ("organization", "billing_email", "a@b@c"),
        ("organization", "id", b"short"),
        ("organization", "created_at", datetime(2026, 1, 1)),  # noqa: DTZ001 - what is refused
        ("user", "email", "@b"),
        ("user", "role", "root"),
        ("subscription", "tier", "gold"),
        ("project", "name", "\n"),
        ("api_key", "permissions", ["x"] * 65),
        ("queue", "priority", 10),
        ("queue", "priority", -1),
        ("queue", "priority", True),
        ("queue", "shard", 4096),
        ("job", "status", "done"),
        ("job", "priority", 10),
        ("job", "job_type", ""),
        ("worker", "worker_type", "special"),
        ("worker", "status", "gone"),
        ("assignment", "weight", 0),
        ("execution", "attempt_number", 0),
        ("execution", "status", "done"),
        ("log", "level", "debug"),
        ("dependency", "parent_job_id", B),
    ],
)
def test_invalid_fields_are_named(name: str, field: str, value: Any) -> None:
    row = msgspec.structs.replace(ROWS[name], **{field: value})
    with pytest.raises(InvalidInput) as caught:
        row.validate()
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"timeout": 0}', "timeout"),
        ('{"timeout": "1"}', "timeout"),
        ('{"history": "some"}', "history"),
        ('{"crashes_max": 0}', "crashes_max"),
        ('{"retry_policy": {"max_attempts": 0}}', "retry_policy.max_attempts"),
        ('{"retry_policy": {"backoff_multiplier": 0.5}}', "retry_policy.backoff_multiplier"),
        ('{"retry_policy": {"base_delay": 9, "max_delay": 8}}', "retry_policy.max_delay"),
    ],
)
def test_invalid_settings_are_named(text: str, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        QueueSettings.stored(text).validate()
    assert caught.value.field == field


def test_settings_go_through_json() -> None:
    settings = QueueSettings(
        retry_policy=RetryPolicy(max_attempts=2), timeout=1.5, history="failed", crashes_max=1
    )
    assert QueueSettings.stored(msgspec.json.encode(settings)) == settings
    assert QueueSettings.stored("{}") == QueueSettings()
    assert settings.timeout_ms == 1500
    assert settings.history_code == 1


def test_settings_of_a_newer_version_are_read() -> None:
    stored = '{"timeout": 3, "new": 1, "retry_policy": {"max_attempts": 7, "newer": 2}}'
    settings = QueueSettings.stored(stored)
    assert (settings.timeout, settings.retry_policy.max_attempts) == (3, 7)


def test_unknown_settings_of_a_caller_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="retry_polcy"):
        msgspec.json.decode('{"retry_polcy": {}}', type=QueueSettings)


def test_shard_of_a_queue_is_stable_and_spread() -> None:
    assert shard_of_queue(A, 64) == 21
    shards = {shard_of_queue(number.to_bytes(16), 64) for number in range(1000)}
    assert shards == set(range(64))


def test_moves_agree_with_the_states() -> None:
    reached = frozenset().union(*(to for _, to in MOVES.values()))
    assert reached == set(JOB_STATUSES)
    for move, (states, _) in MOVES.items():
        assert move == "requeued" or not states & FINAL
    assert set(JOB_STATUSES) == UNFINISHED | FINAL


def test_job_readiness() -> None:
    job = ROWS["job"]
    assert isinstance(job, Job)
    assert job.is_ready_for_execution(NOW)
    later = msgspec.structs.replace(job, status="scheduled", scheduled_for=NOW)
    assert later.is_ready_for_execution(NOW)
    assert not later.is_ready_for_execution(NOW - timedelta(seconds=1))
    waiting = msgspec.structs.replace(job, status="scheduled")
    assert not waiting.is_ready_for_execution(NOW)


def test_job_retries() -> None:
    job = msgspec.structs.replace(ROWS["job"], status="failed", attempts=3)
    assert isinstance(job, Job)
    assert job.can_be_retried(4)
    assert not job.can_be_retried(3)
    assert not msgspec.structs.replace(job, max_attempts=3).can_be_retried(4)
    assert not msgspec.structs.replace(job, status="succeeded").can_be_retried(4)


def test_execution_ends_once() -> None:
    execution = ROWS["execution"]
    assert isinstance(execution, JobExecution)
    assert execution.get_duration() is None
    ended = execution.mark_succeeded(NOW + timedelta(seconds=2), "out")
    assert (ended.status, ended.output) == ("succeeded", "out")
    assert ended.get_duration() == timedelta(seconds=2)
    with pytest.raises(Conflict):
        ended.mark_failed(NOW)


def test_worker_health() -> None:
    worker = ROWS["worker"]
    assert isinstance(worker, Worker)
    assert not worker.is_healthy(NOW, 30)
    beating = msgspec.structs.replace(worker, last_heartbeat=NOW, status="online")
    assert beating.is_available()
    assert beating.is_healthy(NOW + timedelta(seconds=29), 30)
    assert not beating.is_healthy(NOW + timedelta(seconds=30), 30)


def test_subscription_limits() -> None:
    subscription = ROWS["subscription"]
    assert isinstance(subscription, Subscription)
    assert subscription.get_max_workers() == 3
    assert subscription.get_max_jobs_per_month() is None
    assert subscription.is_active(NOW - timedelta(seconds=1))
    assert not subscription.is_active(NOW)


def test_api_keys() -> None:
    text = api_key_text(bytes(range(32)))
    # As the guide tells scanners.
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    checksum = sum(digits.index(char) * 62**place for place, char in enumerate(text[:-7:-1]))
    assert (text[:3], len(text), checksum) == ("tf_", 52, zlib.crc32(text[:-6].encode()))
    assert api_key_text(b"\xff" * 32) != text
    assert len(api_key_text(bytes(32))) == len(api_key_text(b"\xff" * 32)) == len(text)
    assert text not in api_key_hash(text)


def test_api_key_permissions_and_expiry() -> None:
    key = ROWS["api_key"]
    assert isinstance(key, ApiKey)
    assert key.has_permission("jobs:write")
    assert not key.has_permission("jobs:read")
    assert msgspec.structs.replace(key, permissions=["*"]).has_permission("jobs:read")
    assert not key.is_expired(NOW)
    assert msgspec.structs.replace(key, expires_at=NOW).is_expired(NOW + timedelta(seconds=1))
