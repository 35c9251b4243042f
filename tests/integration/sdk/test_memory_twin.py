"""TaskForge in memory beside the server: one program comes to the same ends on both."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from taskforge import (
    AsyncClient,
    Cancel,
    Conflict,
    Context,
    Fail,
    Job,
    JobSpec,
    NotFound,
    QueueSettings,
    Retry,
    RetryPolicy,
    Snooze,
    task,
)
from taskforge.testing import MemoryTaskForge
from taskforge.worker import Worker
from taskforge_server.api.cli.serving import api_of
from taskforge_server.engine.model.tenant import api_key_text
from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.pool import connect
from tests.support.real_node import SHARDS, running_node

KEY = api_key_text(bytes(32))
AT_ONCE = RetryPolicy(max_attempts=3, base_delay_s=0.0, max_delay_s=0.0)
SETTINGS = QueueSettings(retry_policy=AT_ONCE)


@task
async def add(a: int, b: int = 1) -> int:
    return a + b


@task
def in_thread(text: str) -> list[str]:
    return text.split()


@task
async def says(ctx: Context, what: str, until: int) -> int:
    if ctx.attempt < until:
        match what:
            case "error":
                raise ValueError("no")
            case "retry":
                raise Retry("busy", delay_s=0)
            case "fail":
                raise Fail("no such order")
            case "snooze":
                raise Snooze(delay_s=0)
            case "cancel":
                raise Cancel("not wanted")
    return ctx.attempt


TASKS = [add, in_thread, says]
SPECS: list[JobSpec[Any]] = [
    add.job(a=1),
    add.job(a=1, b=5),
    JobSpec("add", {"a": "one"}, queue="default"),
    JobSpec("add", {"c": 1}, queue="default"),
    in_thread.job(text="a b"),
    says.job(what="error", until=3),
    says.job(what="error", until=9),
    JobSpec(says, {"what": "error", "until": 9}, max_attempts=1),
    JobSpec(
        says.configure(retry_policy=RetryPolicy(non_retryable=["ValueError"])),
        {"what": "error", "until": 9},
    ),
    says.job(what="retry", until=2),
    says.job(what="fail", until=9),
    says.job(what="snooze", until=6),
    says.job(what="cancel", until=9),
]


@dataclass
class Twin:
    """A TaskForge with a worker for the tasks."""

    client: AsyncClient
    settle: Callable[[str], Awaitable[Job]]
    """Let this job come to its end."""


@pytest.fixture(params=["memory", "server"])
async def twin(request: pytest.FixtureRequest) -> AsyncIterator[Twin]:
    if request.param == "memory":
        async with MemoryTaskForge(TASKS, queues={"default": SETTINGS}) as memory:
            yield Twin(memory.async_client, memory.async_client.wait)
        return
    url = request.getfixturevalue("postgres_url")
    connection = await connect(url, application_name="test")
    await bootstrap(connection, SHARDS, KEY)
    await connection.close()
    async with running_node(url) as node:
        server = api_of(node)
        base = f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}"
        async with AsyncClient(base, KEY) as client:
            await client.queues.create("default", settings=SETTINGS)
            worker = Worker(base, KEY, TASKS)
            serving = asyncio.create_task(worker.serve())
            yield Twin(client, lambda job_id: client.wait(job_id, 20))
            worker.stop()
            await serving
        await server.stop(1.0)


def ends(job: Job) -> tuple[Any, ...]:
    """What a program sees of a job that has ended, but for times and texts of errors."""
    error = job.last_error["type"] if job.last_error and job.status != "succeeded" else None
    return job.status, job.result, job.attempts, job.failed_reason, error, job.payload


async def test_the_same_ends(twin: Twin) -> None:
    handles = await twin.client.submit_many(SPECS)
    assert [ends(await twin.settle(handle.id)) for handle in handles] == [  # type: ignore[union-attr]
        ("succeeded", 2, 1, None, None, {"a": 1}),
        ("succeeded", 6, 1, None, None, {"a": 1, "b": 5}),
        ("failed", None, 1, "not_retryable", "bad_arguments", {"a": "one"}),
        ("failed", None, 1, "not_retryable", "bad_arguments", {"c": 1}),
        ("succeeded", ["a", "b"], 1, None, None, {"text": "a b"}),
        ("succeeded", 3, 3, None, None, {"what": "error", "until": 3}),
        ("failed", None, 3, "attempts_exhausted", "ValueError", {"what": "error", "until": 9}),
        ("failed", None, 1, "error", "ValueError", {"what": "error", "until": 9}),
        ("failed", None, 1, "not_retryable", "ValueError", {"what": "error", "until": 9}),
        ("succeeded", 2, 2, None, None, {"what": "retry", "until": 2}),
        ("failed", None, 1, "not_retryable", "Fail", {"what": "fail", "until": 9}),
        ("succeeded", 6, 6, None, None, {"what": "snooze", "until": 6}),
        ("cancelled", None, 1, None, "cancelled", {"what": "cancel", "until": 9}),
    ]


async def test_the_same_refusals(twin: Twin) -> None:
    client = twin.client
    with pytest.raises(NotFound) as caught:
        await client.submit("add", {"a": 1}, queue="unknown")
    assert caught.value.code == "queue_not_found"
    done = await client.submit(add, a=1)
    await twin.settle(done.id)
    with pytest.raises(Conflict) as refused:
        await done.cancel()
    assert refused.value.code == "job_not_cancellable"
    with pytest.raises(Conflict) as refused:
        await done.retry()
    assert refused.value.code == "job_not_retryable"
    later = await client.submit(add, a=1, delay_s=60)
    assert (await later.get()).status == "scheduled"
    assert (await later.cancel()).status == (await later.cancel()).status == "cancelled"
    assert (await later.retry()).status == "pending"
    assert (await twin.settle(later.id)).result == 2
