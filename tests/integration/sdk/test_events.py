"""Progress, live events and waits from the SDK to the real server and back."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

import pytest

from taskforge import (
    AsyncClient,
    Client,
    Context,
    FatalError,
    JobCancelled,
    JobEvent,
    JobFailed,
    NotFound,
    QueueSettings,
    RetryPolicy,
    task,
)
from taskforge.worker import Worker
from taskforge_server.api.cli.serving import api_of
from taskforge_server.api.server import ApiServer
from taskforge_server.engine import limits
from taskforge_server.engine.model.tenant import api_key_text
from taskforge_server.engine.node.node import Node
from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.job_queries import JobQueries
from taskforge_server.engine.store.pool import connect
from taskforge_server.ext.ids import uuid_text
from taskforge_server.ext.table import SubmitBatch
from tests.support.real_node import SHARDS, running_node

KEY = api_key_text(bytes(32))


class Steps:
    """Handlers wait here until the test lets them go on."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go_on = threading.Event()


steps = Steps()


@task
async def walk(ctx: Context) -> str:
    ctx.progress(50, "half of it")
    await steps.go.wait()
    ctx.progress(100)
    return "there"


@task
def compute(ctx: Context) -> str:
    ctx.progress(10, "x" * 2_000)
    steps.go_on.wait(20)
    return "computed"


@task
async def second_time(ctx: Context) -> int:
    if ctx.attempt == 1:
        raise ValueError("not yet")
    return ctx.attempt


@task
async def number(n: int) -> int:
    return n


@task
async def large(size: int) -> str:
    return "x" * size


@task
async def never() -> None:
    raise FatalError("no")


TASKS = [walk, compute, second_time, number, large, never]


@dataclass
class Stack:
    url: str
    client: AsyncClient
    node: Node
    server: ApiServer
    port: int


@pytest.fixture
async def stack(postgres_url: str) -> AsyncIterator[Stack]:
    global steps
    steps = Steps()
    connection = await connect(postgres_url, application_name="test")
    await bootstrap(connection, SHARDS, KEY)
    await connection.close()
    async with running_node(postgres_url, settle_s=0.05) as node:
        server = api_of(node)
        port = await server.start("127.0.0.1", 0)
        url = f"http://127.0.0.1:{port}"
        async with AsyncClient(url, KEY) as client:
            policy = RetryPolicy(max_attempts=3, base_delay_s=0.0, max_delay_s=0.0)
            await client.queues.create("default", settings=QueueSettings(retry_policy=policy))
            worker = Worker(url, KEY, TASKS)
            serving = asyncio.create_task(worker.serve())
            stack = Stack(url, client, node, server, port)
            yield stack
            steps.go.set()
            steps.go_on.set()
            worker.stop()
            async with asyncio.timeout(20):
                await serving
        await stack.server.stop(1.0)  # a test may have put another in its place


async def test_a_job_is_followed_to_its_end(stack: Stack) -> None:
    job = await stack.client.submit(walk)
    seen = []
    async with asyncio.timeout(20):
        async for event in job.events():
            seen.append(event)
            if event.progress is not None and event.progress.percent == 50:
                steps.go.set()
    assert seen[0].event == "state"
    assert seen[-1].event == "succeeded"
    assert [event.final for event in seen] == [False] * (len(seen) - 1) + [True]
    said = [event.progress for event in seen if event.progress is not None]
    assert (said[0].percent, said[0].message) == (50, "half of it")
    assert said[-1].percent == 100
    assert {(event.job_id, event.queue, event.job_type) for event in seen} == {
        (job.id, "default", "walk")
    }
    after = [event async for event in job.events()]
    assert [(event.event, event.status, event.final) for event in after] == [
        ("state", "succeeded", True)
    ]


async def test_a_queue_is_followed_through_retries(stack: Stack) -> None:
    async with aclosing(stack.client.events(queue="default")) as events:
        first = asyncio.ensure_future(anext(events))
        await followed(stack)
        job = await stack.client.submit(second_time)
        seen = [await first]
        async with asyncio.timeout(20):
            while not seen[-1].final:
                seen.append(await anext(events))
    assert [event.event for event in seen] == [
        "submitted",
        "started",
        "retried",
        "started",
        "succeeded",
    ]
    assert [event.attempt for event in seen if event.event == "started"] == [1, 2]
    assert {event.job_id for event in seen} == {job.id}


async def test_a_broken_stream_goes_on_where_it_was(stack: Stack) -> None:
    await stack.client.queues.create("other")
    async with aclosing(stack.client.events()) as events:
        first = asyncio.ensure_future(anext(events))
        await followed(stack)
        jobs = [await stack.client.submit("x", queue="other", payload={"n": 0})]
        seen = [await first]
        await stack.server.stop(1.0)
        ids = [await submit_there(stack, "other") for _ in range(3)]
        server = stack.server = api_of(stack.node)
        await server.start("127.0.0.1", stack.port)
        async with asyncio.timeout(20):
            seen += [await anext(events) for _ in range(3)]
    assert [event.event for event in seen] == ["submitted"] * 4
    assert [event.job_id for event in seen[1:]] == ids
    assert seen[0].job_id == jobs[0].id


async def test_progress_is_shown_while_the_job_runs(stack: Stack) -> None:
    job = await stack.client.submit(compute)
    async with aclosing(job.events()) as events:
        async with asyncio.timeout(20):
            async for event in events:
                if event.progress is not None:
                    break
    progress = (await job.get()).progress
    assert progress is not None
    assert progress.percent == 10
    assert progress.message is not None
    assert len(progress.message) == 1_024
    steps.go_on.set()
    assert await job.wait(20) == "computed"
    assert (await job.get()).progress is None


async def test_waiting_for_all_and_for_any(stack: Stack) -> None:
    client = stack.client
    jobs = [await client.submit(number, n=n) for n in range(5)]
    ends = await client.wait_all(jobs, 20)
    assert [end.value() for end in ends] == list(range(5))
    held = await client.submit(walk)
    bad = await client.submit(never)
    (end,) = await client.wait_any([held, bad.id], 20)
    assert (end.id, end.status, end.failed_reason) == (bad.id, "failed", "not_retryable")
    with pytest.raises(JobFailed):
        end.value()
    with pytest.raises(TimeoutError):
        await client.wait_all([held], 0.05)
    waiting = asyncio.create_task(client.wait_all([held, bad, jobs[0]], 20))
    steps.go.set()
    assert [end.status for end in await waiting] == ["succeeded", "failed", "succeeded"]
    assert await client.wait_all([]) == []
    with pytest.raises(NotFound):
        await client.wait_all([held.id[:-4] + "ffff"], 1)


async def test_a_wait_is_told_of_a_cancel_and_reads_no_table_meanwhile(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = stack.client
    later = await client.submit(number, n=1, delay_s=3_600)
    waiting = asyncio.create_task(client.wait_all([later], 20))
    await watched(stack)
    read: list[str] = []
    for name in ("get", "ends", "page"):
        monkeypatch.setattr(JobQueries, name, lambda *args, name=name: read.append(name))
    await later.cancel()
    (end,) = await waiting
    assert end.status == "cancelled"
    assert read == []
    with pytest.raises(JobCancelled):
        end.value()


async def test_large_results_are_fetched_by_themselves(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "WAIT_RESULT_BYTES_MAX", 5_000)
    jobs = [await stack.client.submit(large, size=3_000) for _ in range(3)]
    ends = await stack.client.wait_all(jobs, 20)
    assert [len(end.result) for end in ends] == [3_000] * 3
    await stack.node.projector.flush()
    ends = await stack.client.wait_all(jobs, 20)
    assert [len(end.result) for end in ends] == [3_000] * 3


async def test_the_blocking_client(stack: Stack) -> None:
    def work() -> tuple[list[JobEvent], list[object]]:
        with Client(stack.url, KEY) as client:
            jobs = [client.submit(number, n=n) for n in range(2)]
            events = list(jobs[0].events())
            ends = client.wait_all(jobs, 20)
            assert client.wait_any(jobs, 20)
            return events, [end.value() for end in ends]

    events, values = await asyncio.to_thread(work)
    assert events[0].event == "state"
    assert events[-1].final
    assert values == [0, 1]


async def followed(stack: Stack) -> None:
    """Somebody follows something."""
    async with asyncio.timeout(20):
        while not len(stack.node.core.events):  # noqa: ASYNC110 - a look at another part
            await asyncio.sleep(0)


async def watched(stack: Stack) -> None:
    """Some call waits for jobs."""
    async with asyncio.timeout(20):
        while not stack.node.doors._waiters:  # noqa: ASYNC110 - the same
            await asyncio.sleep(0)


async def submit_there(stack: Stack, queue: str) -> str:
    """Past the API, which is away."""
    (project_id,) = {ref.project_id for ref in stack.node.core.refs.values()}
    ref = (await stack.node.queues.get(project_id, queue)).ref()
    batch = SubmitBatch()
    batch.add("x", b"{}")
    return uuid_text(await stack.node.doors.submit(ref, batch))
