"""The SDK and the server itself, on a real database: that both mean the same by the wire."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec
import pytest

from taskforge import (
    AsyncClient,
    Client,
    Conflict,
    Context,
    FatalError,
    InvalidInput,
    JobCancelled,
    JobFailed,
    JobSpec,
    NotFound,
    QueueSettings,
    RetryPolicy,
    SubmitError,
    task,
)
from taskforge.worker import Worker
from taskforge_server.api.cli.serving import api_of
from taskforge_server.api.server import ApiServer
from taskforge_server.engine.model.tenant import api_key_text
from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.pool import connect
from tests.support.real_node import SHARDS, running_node

KEY = api_key_text(bytes(32))


class Greeting(msgspec.Struct):
    text: str
    attempt: int


@task
async def greet(ctx: Context, name: str) -> Greeting:
    ctx.logger.info("greeting")
    return Greeting(f"Hello {name}", ctx.attempt)


@task
async def quick(number: int) -> None: ...


@task
def in_thread(number: int) -> int:
    return number * 2


@task
async def second_time(ctx: Context) -> int:
    if ctx.attempt == 1:
        raise ValueError("not yet")
    return ctx.attempt


@task
async def never() -> None:
    raise FatalError("no")


@task(timeout_s=0.1, max_attempts=1)
async def too_long() -> None:
    await asyncio.Event().wait()


TASKS = [greet, quick, in_thread, second_time, never, too_long]


@dataclass
class Stack:
    """A server, a client, and a worker."""

    url: str
    client: AsyncClient
    server: ApiServer
    port: int
    worker: Worker


@pytest.fixture
async def stack(postgres_url: str) -> AsyncIterator[Stack]:
    connection = await connect(postgres_url, application_name="test")
    await bootstrap(connection, SHARDS, KEY)
    await connection.close()
    async with running_node(postgres_url) as node:
        server = api_of(node)
        port = await server.start("127.0.0.1", 0)
        url = f"http://127.0.0.1:{port}"
        async with AsyncClient(url, KEY) as client:
            policy = RetryPolicy(max_attempts=3, base_delay_s=0.0, max_delay_s=0.0)
            await client.queues.create("default", settings=QueueSettings(retry_policy=policy))
            worker = Worker(url, KEY, TASKS)
            serving = asyncio.create_task(worker.serve())
            yield Stack(url, client, server, port, worker)
            worker.stop()
            async with asyncio.timeout(20):
                await serving
        await server.stop(1.0)


async def test_jobs_of_every_kind(stack: Stack) -> None:
    client = stack.client
    greeting = await client.submit(greet, name="Ada")
    assert await greeting.wait(20) == Greeting("Hello Ada", 1)
    assert await (await client.submit(in_thread, number=4)).wait(20) == 8
    retried = await client.submit(second_time)
    assert await retried.wait(20) == 2
    job = await retried.get()
    assert (job.attempts, [e.attempt for e in job.executions], job.result) == (2, [1, 2], 2)
    with pytest.raises(JobFailed, match="not_retryable") as caught:
        await (await client.submit(never)).wait(20)
    assert caught.value.error["message"] == "no"
    with pytest.raises(JobFailed) as caught:
        await (await client.submit(too_long)).wait(20)
    assert caught.value.error["type"] == "timeout"
    with pytest.raises(JobFailed) as caught:
        await (await client.submit("quick", {"number": "x"}, queue="default")).wait(20)
    assert caught.value.error["type"] == "bad_arguments"
    assert await (await client.submit(quick, number=1)).wait(20) is None


async def test_many_jobs_and_errors_of_items(stack: Stack) -> None:
    client = stack.client
    specs = [quick.job(number=number) for number in range(12_000)]
    specs.insert(7, JobSpec("quick", {}, queue="default", priority=10))
    found = await client.submit_many(specs)
    bad = found.pop(7)
    assert isinstance(bad, SubmitError)
    assert (bad.index, bad.field) == (7, "priority")
    for handle in (found[0], found[6_000], found[-1]):
        assert not isinstance(handle, SubmitError)
        assert await handle.wait(20) is None
    async with client.buffered() as buffer:
        futures = [await buffer.submit(in_thread, number=number) for number in range(100)]
        handles = await asyncio.gather(*futures)
    assert [await handle.wait(20) for handle in handles] == [number * 2 for number in range(100)]


async def test_looking_changing_and_refusals(stack: Stack) -> None:
    client = stack.client
    later = await client.submit(greet, name="Ada", delay_s=3600, tags=["a"])
    job = await later.get()
    assert (job.status, job.payload, job.tags, job.queue) == (
        "scheduled",
        {"name": "Ada"},
        ["a"],
        "default",
    )
    await later.cancel()
    with pytest.raises(JobCancelled):
        await later.wait(20)
    await later.retry()
    assert (await later.wait(20)).text == "Hello Ada"
    with pytest.raises(Conflict):
        await later.cancel()
    with pytest.raises(InvalidInput) as caught:
        await client.submit(greet, name="Ada", priority=10)
    assert caught.value.field == "priority"
    assert caught.value.correlation_id
    with pytest.raises(NotFound):
        await client.submit("x", queue="nowhere")
    first = await client.submit(greet, name="Bob", idempotency_key="one")
    again = await client.submit(greet, name="Bob", idempotency_key="one")
    assert again.id == first.id
    with pytest.raises(Conflict, match="idempotency_key_reused"):
        await client.submit(greet, name="Eve", idempotency_key="one")
    changed = await client.queues.update("default", settings=QueueSettings(timeout_s=9.0))
    assert changed.settings.timeout_s == 9.0
    assert [queue.name async for queue in client.queues.list()] == ["default"]


async def test_the_blocking_client(stack: Stack) -> None:
    def work() -> Greeting:
        with Client(stack.url, KEY) as client:
            return client.submit(greet, name="Ada").wait(20)

    assert await asyncio.to_thread(work) == Greeting("Hello Ada", 1)


async def test_a_worker_keeps_its_jobs_over_a_broken_stream(stack: Stack) -> None:
    opened, begun = asyncio.Event(), asyncio.Event()

    @task(name="held")
    async def held(ctx: Context) -> int:
        begun.set()
        await opened.wait()
        return ctx.attempt

    worker = Worker(stack.url, KEY, [held])
    serving = asyncio.create_task(worker.serve())
    job = await stack.client.submit(held)
    await begun.wait()
    worker._link._drop_socket()
    async with asyncio.timeout(20):
        while worker._link.connections < 2:  # noqa: ASYNC110 - the link has no event for it
            await asyncio.sleep(0.01)
    opened.set()
    assert await job.wait(20) == 1
    worker.stop()
    await serving
