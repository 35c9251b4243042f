"""Queues: made once by name, seen by their project alone, listed by name."""

import json
import uuid

import asyncpg
import msgspec
import pytest

from taskforge_server.engine.errors import Conflict, InvalidInput, KeyConflict, NotFound
from taskforge_server.engine.model.audit import Actor
from taskforge_server.engine.model.queue import QueueSettings, RetryPolicy, shard_of_queue
from taskforge_server.engine.shard.keys import KeyedRequest
from taskforge_server.engine.store.audit import AuditFilter, AuditLog
from taskforge_server.engine.store.cursors import JOBS, QUEUES, id_cursor, name_cursor
from taskforge_server.engine.store.pool import Pool
from taskforge_server.engine.store.queues import Queues
from taskforge_server.engine.store.tenants import Projects
from tests.integration.store.conftest import Tenant

SETTINGS = QueueSettings(retry_policy=RetryPolicy(max_attempts=2), timeout=9, history="failed")


async def test_create_and_get(pool: Pool, tenant: Tenant) -> None:
    queues = Queues(pool, 64)
    made = await queues.create(tenant.project_id, "email", 7, SETTINGS)
    made.validate()
    assert made.shard == shard_of_queue(made.id, 64)
    assert (made.priority, made.settings) == (7, SETTINGS)
    assert await queues.get(tenant.project_id, made.id) == made
    assert await queues.get(tenant.project_id, "email") == made
    assert await queues.all() == [made]
    assert made.ref().id == made.id


async def test_a_name_is_taken_within_a_project(pool: Pool, tenant: Tenant) -> None:
    queues = Queues(pool, 64)
    await queues.create(tenant.project_id, "email", 0, SETTINGS)
    with pytest.raises(Conflict) as caught:
        await queues.create(tenant.project_id, "email", 0, SETTINGS)
    assert (caught.value.field, caught.value.code) == ("name", "queue_name_taken")
    other = await Projects(pool).create(tenant.organization_id, "other")
    await queues.create(other.id, "email", 0, SETTINGS)


async def test_a_request_makes_one_queue(pool: Pool, tenant: Tenant) -> None:
    queues, project_id = Queues(pool, 64), tenant.project_id
    key = KeyedRequest("key", b"hash")
    assert await queues.made_by(project_id, key) is None
    made = await queues.create(project_id, "email", 0, SETTINGS, key=key)
    assert await queues.made_by(project_id, key) == made
    with pytest.raises(KeyConflict):
        await queues.made_by(project_id, KeyedRequest("key", b"other"))
    with pytest.raises(Conflict):
        await queues.create(project_id, "post", 0, SETTINGS, key=key)
    other = await Projects(pool).create(tenant.organization_id, "other")
    assert await queues.made_by(other.id, key) is None
    await queues.create(other.id, "email", 0, SETTINGS, key=key)
    await queues.delete(project_id, made.id, lambda: None)
    assert await queues.made_by(project_id, key) is None
    await queues.create(project_id, "email", 0, SETTINGS, key=key)


async def test_other_projects_see_nothing(pool: Pool, tenant: Tenant) -> None:
    queues = Queues(pool, 64)
    made = await queues.create(tenant.project_id, "email", 0, SETTINGS)
    other = (await Projects(pool).create(tenant.organization_id, "other")).id
    for call in (
        queues.get(other, made.id),
        queues.get(other, "email"),
        queues.update(other, made.id, priority=1),
    ):
        with pytest.raises(NotFound):
            await call
    assert await queues.page(other) == ([], None)
    assert (await queues.get(tenant.project_id, made.id)).priority == 0


async def test_update_keeps_what_is_not_given(pool: Pool, tenant: Tenant) -> None:
    queues = Queues(pool, 64)
    made = await queues.create(tenant.project_id, "email", 3, SETTINGS)
    changed = await queues.update(tenant.project_id, made.id, priority=4)
    assert (changed.priority, changed.settings, changed.shard) == (4, SETTINGS, made.shard)
    changed = await queues.update(tenant.project_id, made.id, settings=QueueSettings())
    assert (changed.priority, changed.settings) == (4, QueueSettings())


async def test_pages(pool: Pool, tenant: Tenant) -> None:
    queues = Queues(pool, 64)
    names = sorted(f"queue ü {number}" for number in range(7))
    for name in reversed(names):
        await queues.create(tenant.project_id, name, 0, QueueSettings())
    found: list[str] = []
    cursor = None
    for _ in range(4):
        page, cursor = await queues.page(tenant.project_id, cursor, 2)
        found += [queue.name for queue in page]
    assert found == names
    assert cursor is None


@pytest.mark.parametrize(
    "cursor",
    ["x", "", "=", "ü", "a" * 5000, id_cursor(JOBS, bytes(16)), name_cursor(QUEUES, "a")[:-1]],
)
async def test_broken_cursors(pool: Pool, cursor: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await Queues(pool, 64).page(bytes(16), cursor)
    assert caught.value.field == "cursor"


async def test_invalid_settings_never_reach_the_table(pool: Pool, tenant: Tenant) -> None:
    wrong = QueueSettings(retry_policy=RetryPolicy(base_delay=9, max_delay=8))
    with pytest.raises(InvalidInput):
        await Queues(pool, 64).create(tenant.project_id, "email", 0, wrong)
    with pytest.raises(asyncpg.CheckViolationError):
        await Queues(pool, 64).create(tenant.project_id, "email", 10, QueueSettings())


async def test_changes_are_in_the_audit_log(pool: Pool, tenant: Tenant) -> None:
    queues, actor = Queues(pool, 64), Actor("api_key", b"k" * 16, "192.0.2.7", "request-1")
    made = await queues.create(tenant.project_id, "email", 3, SETTINGS, actor)
    await queues.update(tenant.project_id, made.id, priority=3, actor=actor)
    changed = await queues.update(tenant.project_id, made.id, priority=4, actor=actor)
    with pytest.raises(Conflict):
        await queues.create(tenant.project_id, "email", 0, SETTINGS, actor)
    target = f"queue:{uuid.UUID(bytes=made.id)}"
    entries, _ = await AuditLog(pool).page(tenant.organization_id, AuditFilter(target=target))
    assert [entry.action for entry in entries] == ["queue.update", "queue.create"]
    assert {(e.actor_kind, e.actor_id, e.address, e.correlation_id) for e in entries} == {
        ("api_key", b"k" * 16, "192.0.2.7", "request-1")
    }
    before, after = (json.loads(text or "null") for text in (entries[0].before, entries[0].after))
    assert (before["priority"], after["priority"]) == (3, 4)
    assert after == before | {"priority": 4}
    assert after["settings"] == json.loads(msgspec.json.encode(changed.settings))
