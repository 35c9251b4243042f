"""Logs of handlers from the SDK to the table and back, against the real server."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from uuid import UUID

import pytest
from typer.testing import CliRunner

from taskforge import (
    AsyncClient,
    Client,
    Context,
    FatalError,
    JobFailed,
    LogLine,
    NotFound,
    QueueSettings,
    RetryPolicy,
    task,
)
from taskforge.worker import Worker
from taskforge_server.api.cli.main import app
from taskforge_server.api.cli.serving import api_of
from taskforge_server.api.server import ApiServer
from taskforge_server.engine import limits
from taskforge_server.engine.errors import Unavailable
from taskforge_server.engine.model.tenant import api_key_text
from taskforge_server.engine.node.node import Node
from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.pool import connect
from tests.support.real_node import SHARDS, running_node

KEY = api_key_text(bytes(32))


class Steps:
    """Handlers wait here until the test lets them go on."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go = asyncio.Event()


steps = Steps()


@task
async def talk(ctx: Context, lines: int) -> int:
    for number in range(1, lines + 1):
        ctx.log("info", f"step {number}", number=number)
    return lines


@task
async def in_two_attempts(ctx: Context) -> None:
    ctx.logger.warning("attempt %d", ctx.attempt, extra={"deep": {"a": [1, None]}})
    if ctx.attempt == 1:
        try:
            raise ValueError("not yet")
        except ValueError:
            ctx.logger.exception("it failed")
            raise


@task
def from_threads(ctx: Context, threads: int) -> None:
    def work(number: int) -> None:
        for step in range(20):
            ctx.log("error", f"{number} {step}")

    started = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


@task
async def in_steps(ctx: Context) -> None:
    ctx.log("info", "before")
    steps.begun.set()
    await steps.go.wait()
    ctx.log("info", "after")


@task
async def fails(ctx: Context) -> None:
    ctx.log("error", "it fails")
    raise FatalError("no")


@dataclass
class Stack:
    """A node, its server, a client and a worker."""

    node: Node
    server: ApiServer
    url: str
    client: AsyncClient
    worker: Worker

    async def lines(self, job_id: str) -> list[LogLine]:
        """All lines that the server has by now."""
        await self.node.log_writer.flush()
        return [line async for line in self.client.logs(job_id)]


@pytest.fixture
async def stack(postgres_url: str) -> AsyncIterator[Stack]:
    global steps
    steps = Steps()
    connection = await connect(postgres_url, application_name="test")
    await bootstrap(connection, SHARDS, KEY)
    await connection.close()
    async with running_node(postgres_url) as node:
        server = api_of(node)
        url = f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}"
        async with AsyncClient(url, KEY) as client:
            for name in ("default", "quiet"):
                history = "none" if name == "quiet" else "all"
                await client.queues.create(name, settings=QueueSettings(history=history))
            tasks = [talk, in_two_attempts, from_threads, in_steps]
            worker = Worker(url, KEY, tasks, queues=["default", "quiet"])
            serving = asyncio.create_task(worker.serve())
            yield Stack(node, server, url, client, worker)
            worker.stop()
            async with asyncio.timeout(20):
                await serving
        await server.stop(1.0)


async def test_lines_of_every_attempt_are_listed(stack: Stack) -> None:
    job = await stack.client.submit(talk, lines=250)
    assert await job.wait(20) == 250
    lines = await stack.lines(job.id)
    assert [(line.number, line.message) for line in lines] == [
        (number, f"step {number}") for number in range(1, 251)
    ]
    assert lines[9].metadata == {"number": 10}
    found = await job.get()
    assert {line.execution_id for line in lines} == {found.executions[0].id}
    started_at, finished_at = found.executions[0].started_at, found.executions[0].finished_at
    assert started_at is not None
    assert finished_at is not None
    assert all(line.logged_at and started_at <= line.logged_at for line in lines)


async def test_the_logger_of_a_handler(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "taskforge.job"):
        job = await stack.client.submit(in_two_attempts)
        await job.wait(20)
    lines = await stack.lines(job.id)
    assert [(line.attempt, line.level, line.message) for line in lines] == [
        (1, "warn", "attempt 1"),
        (1, "error", "it failed"),
        (2, "warn", "attempt 2"),
    ]
    assert lines[0].metadata == {"deep": {"a": [1, None]}}
    assert "ValueError: not yet" in lines[1].metadata["exception"]
    # What is logged here follows the levels here; the caller is the handler.
    record = next(record for record in caplog.records if record.name == "taskforge.job")
    assert (record.levelname, record.funcName) == ("ERROR", "in_two_attempts")
    second = [line async for line in stack.client.logs(job.id, attempt=2)]
    assert [line.message for line in second] == ["attempt 2"]
    errors = [line async for line in stack.client.logs(job.id, level="error")]
    assert [line.message for line in errors] == ["it failed"]


async def test_lines_from_threads_are_numbered_without_gaps(stack: Stack) -> None:
    job = await stack.client.submit(from_threads, threads=8)
    await job.wait(20)
    lines = await stack.lines(job.id)
    assert [line.number for line in lines] == list(range(1, 161))
    assert len({line.message for line in lines}) == 160


async def test_a_job_is_followed_while_it_runs(stack: Stack) -> None:
    job = await stack.client.submit(in_steps)
    async with aclosing(stack.client.follow_logs(job.id)) as following:
        assert (await anext(following)).message == "before"
        steps.go.set()
        assert [line.message async for line in following] == ["after"]


async def test_the_blocking_client_lists_and_follows(stack: Stack) -> None:
    job = await stack.client.submit(in_steps)
    await steps.begun.wait()
    seen: list[str] = []
    loop = asyncio.get_running_loop()

    def work() -> list[str]:
        with Client(stack.url, KEY) as client:
            for line in client.follow_logs(job.id):
                seen.append(line.message)
                loop.call_soon_threadsafe(steps.go.set)
            return [line.message for line in client.logs(job.id)]

    assert await asyncio.to_thread(work) == ["before", "after"] == seen


async def test_the_command(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKFORGE_URL", stack.url)
    monkeypatch.setenv("TASKFORGE_API_KEY", KEY)
    job = await stack.client.submit(talk, lines=2)
    shown = await asyncio.to_thread(CliRunner().invoke, app, ["logs", job.id, "--follow"])
    assert shown.exit_code == 0
    assert [row.split(" ", 1)[1] for row in shown.stdout.splitlines()] == [
        "#1 info  step 1 number=1",
        "#1 info  step 2 number=2",
    ]
    shown = await asyncio.to_thread(CliRunner().invoke, app, ["logs", job.id, "--level", "warn"])
    assert (shown.exit_code, shown.stdout) == (0, "")
    shown = await asyncio.to_thread(CliRunner().invoke, app, ["logs", str(UUID(int=7))])
    assert shown.exit_code == 1


async def test_following_goes_on_after_a_broken_connection(stack: Stack) -> None:
    job = await stack.client.submit(in_steps)
    async with aclosing(stack.client.follow_logs(job.id)) as following:
        assert (await anext(following)).message == "before"
        events = stack.server._door._api.events
        events.stop()  # ends the stream as a server does that stops
        async with asyncio.timeout(10):
            while events.count:  # noqa: ASYNC110 - it has no event for it
                await asyncio.sleep(0)
        events._stopping.clear()
        steps.go.set()
        assert [line.message async for line in following] == ["after"]


async def test_a_job_that_is_not_there(stack: Stack) -> None:
    with pytest.raises(NotFound):
        await anext(stack.client.follow_logs(str(UUID(int=7))))
    with pytest.raises(NotFound):
        await anext(stack.client.logs(str(UUID(int=7))))
    with pytest.raises(ValueError, match="not the id"):
        await anext(stack.client.follow_logs("nonsense"))


async def test_a_full_log_says_so(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOG_LINES_MAX", 10)
    job = await stack.client.submit(talk, lines=50)
    await job.wait(20)
    lines = await stack.lines(job.id)
    assert [line.number for line in lines] == list(range(1, 12))
    assert (lines[-1].level, lines[-1].metadata) == ("warn", {"taskforge": "log_full"})


async def test_without_history_nothing_is_kept(stack: Stack) -> None:
    job = await stack.client.submit("talk", {"lines": 3}, queue="quiet")
    await job.wait(20)
    await stack.node.log_writer.flush()
    count = await stack.node.pool.fetchval("SELECT count(*) FROM execution_logs")
    assert count == 0
    # Frames without lines to keep are acked too.
    async with asyncio.timeout(10):
        while not stack.worker._lines.empty:  # noqa: ASYNC110 - it has no event for it
            await asyncio.sleep(0.001)


async def test_where_only_failures_are_kept_so_are_their_lines(stack: Stack) -> None:
    settings = QueueSettings(history="failed", retry_policy=RetryPolicy(base_delay_s=0.0))
    await stack.client.queues.create("failures", settings=settings)
    worker = Worker(stack.url, KEY, [in_two_attempts, fails], queues=["failures"])
    serving = asyncio.create_task(worker.serve())
    succeeded = [await stack.client.submit("in_two_attempts", queue="failures") for _ in range(3)]
    failed = await stack.client.submit("fails", queue="failures")
    with pytest.raises(JobFailed):
        await failed.wait(20)
    async with asyncio.timeout(20):
        while len(stack.node.core.logs._doubtful):  # noqa: ASYNC110 - it has no event for it
            await asyncio.sleep(0.01)
    await stack.node._delete_unkept_logs()
    count = "SELECT count(*) FROM execution_logs"
    async with asyncio.timeout(20):
        while await stack.node.pool.fetchval(count) > 1:  # noqa: ASYNC110 - the upkeep is at it
            await asyncio.sleep(0.01)
    for job in succeeded:
        with pytest.raises(NotFound):
            await stack.lines(job.id)
    assert [line.message for line in await stack.lines(failed.id)] == ["it fails"]
    assert await stack.node.pool.fetchval(count) == 1
    worker.stop()
    await serving


async def test_lines_are_written_once_over_a_broken_stream(stack: Stack) -> None:
    table = stack.node.log_writer._table
    written = asyncio.Event()

    class Slow:
        """Writes, and says so only when the worker has come again."""

        async def add(self, lines: list[object]) -> int:
            refused = await table.add(lines)  # type: ignore[arg-type]
            written.set()
            async with asyncio.timeout(20):
                while stack.worker._link.connections < 2:  # noqa: ASYNC110 - no event for it
                    await asyncio.sleep(0.001)
            return refused

    stack.node.log_writer._table = Slow()  # type: ignore[assignment]
    job = await stack.client.submit(in_steps)
    await written.wait()
    # The ack is lost with the connection: the line comes again.
    stack.worker._link._drop_socket()
    steps.go.set()
    await job.wait(20)
    assert [line.message for line in await stack.lines(job.id)] == ["before", "after"]


async def test_lines_wait_while_the_database_is_away(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LOG_RETRY_S", 0.01)
    table, tries = stack.node.log_writer._table, 0

    class Away:
        async def add(self, lines: list[object]) -> int:
            nonlocal tries
            tries += 1
            if tries < 3:
                raise Unavailable()
            return await table.add(lines)  # type: ignore[arg-type]

    stack.node.log_writer._table = Away()  # type: ignore[assignment]
    job = await stack.client.submit(talk, lines=3)
    await job.wait(20)
    assert [line.number for line in await stack.lines(job.id)] == [1, 2, 3]
    assert tries == 3
