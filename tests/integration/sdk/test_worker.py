"""A worker against a stand-in of the server: connections, leases, heartbeats, stopping."""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from taskforge import Context, Task, task
from taskforge.errors import WorkerRefused
from taskforge.worker import Worker, main
from taskforge.worker.cli import find_tasks
from tests.support.stub_stream import (
    DRAIN,
    JOBS,
    STOP,
    StubStream,
    encode,
    jobs_frame,
    split,
    token,
)


@task
async def quick() -> None: ...


@task
async def double(number: int) -> int:
    return number * 2


class Gate:
    """A handler that waits for the test, and the contexts it was started with."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.begun: list[Context] = []
        self.some = asyncio.Event()
        self.cancelled = asyncio.Event()

        @task(name="gated")
        async def gated(ctx: Context) -> str:
            self.begun.append(ctx)
            self.some.set()
            try:
                await self.opened.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
            return "opened"

        self.task = gated


@asynccontextmanager
async def running(
    stub: StubStream, *tasks: Task[..., Any], **options: Any
) -> AsyncIterator[tuple[Worker, "asyncio.Task[None]"]]:
    """A worker that serves until the block ends."""
    worker = Worker(stub.url, "key", tasks, **options)
    serving = asyncio.create_task(worker.serve())
    try:
        yield worker, serving
    finally:
        if not serving.done():
            worker.stop()
            worker.stop()
            async with asyncio.timeout(20):
                await serving


async def test_jobs_run_and_are_acknowledged() -> None:
    async with StubStream() as stub, running(stub, quick, double, queues=["a", "b"]) as (worker, _):
        connection = await stub.connected()
        assert connection.hello["worker_id"] == worker.worker_id.bytes
        assert connection.hello["queues"] == ["a", "b"]
        assert connection.hello["types"] == ["quick", "double"]
        assert connection.hello["credit"] == worker.concurrency
        assert connection.hello["running"] == b""
        assert stub.authorizations == {"Bearer key"}
        await connection.send(
            jobs_frame("a", [(token(1), "quick", b"{}"), (token(2), "double", b'{"number":4}')])
        )
        await stub.until(lambda: stub.ok == [token(1)] and stub.ended == {token(2): (0, 8)})


async def test_credit_grows_with_the_rate_of_short_jobs() -> None:
    async with StubStream() as stub, running(stub, quick, concurrency=10):
        connection = await stub.connected()
        jobs = [(token(number), "quick", b"{}") for number in range(5_000)]
        await connection.send(jobs_frame("default", jobs))
        await stub.until(lambda: any(credit > 10 for credit in connection.credits))


async def test_a_broken_connection_keeps_leases_and_completions() -> None:
    gate = Gate()
    async with StubStream() as stub, running(stub, quick, double, gate.task) as (worker, _):
        stub.auto_ack = False
        first = await stub.connected()
        jobs = [(token(1), "quick", b"{}"), (token(2), "double", b'{"number":1}')]
        jobs += [(token(3), "gated", b"{}")]
        await first.send(jobs_frame("default", jobs))
        await gate.some.wait()
        await stub.until(lambda: bool(stub.ok and stub.ended))
        await stub.cut(first)
        stub.auto_ack = True
        second = await stub.connected(2)
        assert second.hello["worker_id"] == worker.worker_id.bytes
        assert set(split(second.hello["running"])) == {token(1), token(2), token(3)}
        await stub.until(lambda: len(stub.ok) == 2)
        assert [frame[1] for frame in second.done] == [frame[1] for frame in first.done]
        assert second.done == first.done
        gate.opened.set()
        await stub.until(lambda: token(3) in stub.ended)
        await stub.cut(second)
        third = await stub.connected(3)
        assert third.hello["running"] == b""


async def test_work_goes_on_without_a_connection() -> None:
    gate = Gate()
    async with StubStream() as stub, running(stub, gate.task) as (worker, _):
        first = await stub.connected()
        await first.send(jobs_frame("default", [(token(1), "gated", b"{}")]))
        await gate.some.wait()
        await stub.stop()
        gate.opened.set()
        await worker._pool.wait_idle()
        await stub.start()
        await stub.connected(2)
        await stub.until(lambda: stub.ended == {token(1): (0, "opened")})


async def test_leases_that_are_refused_stop_their_handlers_and_drop_their_completions() -> None:
    gate = Gate()
    async with StubStream() as stub, running(stub, quick, gate.task):
        stub.auto_ack = False
        first = await stub.connected()
        jobs = [(token(1), "quick", b"{}"), (token(2), "quick", b"{}"), (token(3), "gated", b"{}")]
        await first.send(jobs_frame("default", jobs))
        await gate.some.wait()
        await stub.until(lambda: len(stub.ok) == 2)
        stub.stale = {token(1), token(3)}
        stub.auto_ack = True
        stub.ok.clear()
        await stub.cut(first)
        second = await stub.connected(2)
        await gate.cancelled.wait()
        assert gate.begun[0].lost
        await stub.until(lambda: stub.ok == [token(2)])
        assert token(3) not in stub.ended
        stub.stale = set()
        await stub.cut(second)
        assert (await stub.connected(3)).hello["running"] == b""


async def test_stop_frames_cancel_handlers() -> None:
    gate = Gate()
    async with StubStream() as stub, running(stub, gate.task, quick):
        connection = await stub.connected()
        await connection.send(jobs_frame("default", [(token(1), "gated", b"{}")]))
        await gate.some.wait()
        await connection.send(encode([STOP, token(1)]))
        await gate.cancelled.wait()
        assert gate.begun[0].stop_reason == "lease_lost"
        await connection.send(jobs_frame("default", [(token(2), "quick", b"{}")]))
        await stub.until(lambda: stub.ok == [token(2)])
        assert stub.ended == {}


async def test_a_time_limit_ends_a_handler() -> None:
    gate = Gate()
    async with StubStream() as stub, running(stub, gate.task):
        connection = await stub.connected()
        frame = jobs_frame("default", [(token(1), "gated", b"{}")], {0: {"timeout_ms": 100}})
        await connection.send(frame)
        await stub.until(lambda: token(1) in stub.ended)
        outcome, error = stub.ended[token(1)]
        assert (outcome, error["type"], error["retryable"]) == (1, "timeout", True)
        assert gate.begun[0].stop_reason == "timeout"


async def test_heartbeats_go_on_while_a_handler_blocks_the_loop() -> None:
    """The handler blocks its loop until three lease times of heartbeats have arrived."""
    beats = threading.Semaphore(0)

    @task
    async def blocks() -> str:
        for _ in range(9):
            assert beats.acquire(timeout=20)
        return "survived"

    async with StubStream(lease_ttl_s=0.15, heartbeat_s=0.05) as stub:
        worker = Worker(stub.url, "key", [blocks])
        thread = threading.Thread(target=lambda: asyncio.run(worker.serve()))
        thread.start()
        connection = await stub.connected()
        await connection.send(jobs_frame("default", [(token(1), "blocks", b"{}")]))
        await stub.until(lambda: _pass_on(stub, beats) and token(1) in stub.ended)
        assert stub.ended == {token(1): (0, "survived")}
        worker.stop()
        await asyncio.to_thread(thread.join, 20)
        assert not thread.is_alive()


async def test_heartbeats_end_when_the_loop_is_blocked_for_too_long() -> None:
    blocked, given_up, release = threading.Event(), threading.Event(), threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "are left to end" in record.getMessage():
                given_up.set()

    @task
    async def wedged() -> None:
        blocked.set()
        release.wait(20)

    listener = Listener()
    logging.getLogger("taskforge.worker").addHandler(listener)
    async with StubStream(heartbeat_s=0.02) as stub:
        worker = Worker(stub.url, "key", [wedged], wedged_after_s=0.1)
        thread = threading.Thread(target=lambda: asyncio.run(worker.serve()))
        thread.start()
        connection = await stub.connected()
        await connection.send(jobs_frame("default", [(token(1), "wedged", b"{}")]))
        assert await asyncio.to_thread(blocked.wait, 20)
        assert await asyncio.to_thread(given_up.wait, 20)
        release.set()
        await stub.until(lambda: stub.ok == [token(1)])
        worker.stop()
        await asyncio.to_thread(thread.join, 20)
    logging.getLogger("taskforge.worker").removeHandler(listener)


def test_the_credit_is_what_can_be_in_progress() -> None:
    sync = task(name="sync")(lambda: None)
    for tasks, slots in (([quick], 10), ([sync], 20), ([quick, sync], 20)):
        assert Worker("http://host", "key", tasks, concurrency=10, threads=20).slots == slots


def _pass_on(stub: StubStream, beats: threading.Semaphore) -> bool:
    if stub.heartbeats:
        beats.release(stub.heartbeats)
        stub.heartbeats = 0
    return True


async def test_a_heartbeat_that_is_refused_makes_a_new_connection() -> None:
    async with StubStream(heartbeat_s=0.05) as stub, running(stub, quick):
        await stub.connected()
        stub.known = False
        await stub.connected(2)
        stub.known = True
        await stub.until(lambda: not stub.last.closed)


async def test_a_silent_connection_is_given_up() -> None:
    async with StubStream(heartbeat_s=0.05) as stub, running(stub, quick):
        stub.answer_pings = False
        await stub.connected(2)
        stub.answer_pings = True


async def test_a_quiet_connection_is_kept() -> None:
    async with StubStream(heartbeat_s=0.05) as stub, running(stub, quick):
        await stub.connected()
        await stub.until(lambda: stub.heartbeats >= 8)
        assert len(stub.connections) == 1


async def test_stopping_lets_handlers_finish_and_says_bye() -> None:
    gate = Gate()
    async with StubStream() as stub, running(stub, gate.task, quick) as (worker, serving):
        connection = await stub.connected()
        await connection.send(jobs_frame("default", [(token(1), "gated", b"{}")]))
        await gate.some.wait()
        worker.stop()
        await stub.until(lambda: connection.credits[-1:] == [0])
        assert not serving.done()
        gate.opened.set()
        await serving
        await stub.until(lambda: connection.closed)
        assert connection.bye
        assert stub.ended == {token(1): (0, "opened")}


async def test_stopping_twice_gives_back_what_does_not_end() -> None:
    gate = Gate()
    async with StubStream() as stub, running(stub, gate.task, concurrency=1) as (worker, serving):
        connection = await stub.connected()
        jobs = [(token(number), "gated", b"{}") for number in (1, 2)]
        await connection.send(jobs_frame("default", jobs))
        await gate.some.wait()
        worker.stop()
        worker.stop()
        await serving
        await stub.until(lambda: connection.closed)
        assert connection.bye
        assert stub.ended == {token(1): (2, None), token(2): (2, None)}
        assert gate.begun[0].stop_reason == "shutdown"


async def test_a_draining_node_is_left_when_nothing_is_held() -> None:
    gate = Gate()
    async with StubStream() as stub, running(stub, gate.task):
        first = await stub.connected()
        await first.send(jobs_frame("default", [(token(1), "gated", b"{}")]))
        await gate.some.wait()
        await first.send(encode([DRAIN]))
        assert len(stub.connections) == 1
        gate.opened.set()
        second = await stub.connected(2)
        assert second.hello["running"] == b""
        assert token(1) in stub.ended


@pytest.mark.parametrize("status", [401, 403])
async def test_a_key_that_is_refused_ends_the_worker(status: int) -> None:
    async with StubStream() as stub:
        stub.refuse_status = status
        with pytest.raises(WorkerRefused, match=str(status)):
            await Worker(stub.url, "key", [quick]).serve()


async def test_a_hello_that_is_refused_ends_the_worker() -> None:
    async with StubStream() as stub, running(stub, quick) as (_, serving):
        connection = await stub.connected()
        await stub.cut(connection, 1008)
        with pytest.raises(WorkerRefused, match="cut"):
            await serving


async def test_other_refusals_are_tried_again() -> None:
    async with StubStream() as stub:
        stub.refuse_status = 503
        async with running(stub, quick):
            await stub.until(lambda: bool(stub.authorizations))
            stub.refuse_status = 0
            first = await stub.connected()
            await stub.cut(first, 1013)
            await stub.connected(2)


@pytest.mark.parametrize(
    "frame",
    [b"\xc1", encode([99]), encode([JOBS, "q", ["quick"], b"", b"short", [b"{}"], {}])],
)
async def test_a_frame_without_sense_makes_a_new_connection(frame: bytes) -> None:
    async with StubStream() as stub, running(stub, quick):
        first = await stub.connected()
        await first.send(frame)
        await stub.connected(2)


def test_a_worker_refuses_wrong_options() -> None:
    with pytest.raises(ValueError, match="at least one task"):
        Worker("http://host", "key", [])
    with pytest.raises(ValueError, match="two tasks"):
        Worker("http://host", "key", [quick, task(name="quick")(lambda: None)])
    for option in ({"concurrency": 0}, {"threads": 0}, {"queues": []}, {"grace_s": -1}):
        with pytest.raises(ValueError, match=next(iter(option))):
            Worker("http://host", "key", [quick], **option)  # type: ignore[arg-type]


PROGRAM = """
import asyncio
from taskforge import task

@task
async def slow(path: str) -> str:
    with open(path, "w") as file:
        file.write("begun")
    await asyncio.sleep(0.2)
    return "done"

@task
def other() -> None: ...

some = [other]
"""


async def test_the_command_finishes_its_jobs_on_sigterm(tmp_path: Path) -> None:
    (tmp_path / "jobs_of_test.py").write_text(PROGRAM)
    async with StubStream() as stub:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "taskforge.worker", "jobs_of_test", "--name", "tester"),
            cwd=tmp_path,
            env={**os.environ, "TASKFORGE_URL": stub.url, "TASKFORGE_API_KEY": "key"},
        )
        try:
            connection = await stub.connected()
            assert connection.hello["name"] == "tester"
            assert connection.hello["types"] == ["slow", "other"]
            path = tmp_path / "mark"
            payload = b'{"path": "%s"}' % str(path).encode()
            await connection.send(jobs_frame("default", [(token(1), "slow", payload)]))
            while not path.exists():  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(20):
                assert await process.wait() == 0
            assert stub.ended == {token(1): (0, "done")}
            assert connection.bye
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def test_the_command_finds_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jobs_of_find.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(tmp_path)
    assert [found.name for found in find_tasks("jobs_of_find")] == ["slow", "other"]
    assert [found.name for found in find_tasks("jobs_of_find:slow")] == ["slow"]
    assert [found.name for found in find_tasks("jobs_of_find:some")] == ["other"]
    with pytest.raises(ValueError, match="not a task"):
        find_tasks("jobs_of_find:asyncio")


def test_the_command_names_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no_such_module", "--api-key", "k"]) == 2
    assert "no_such_module" in capsys.readouterr().err
    assert main(["json", "--api-key", "k"]) == 2
    assert "no tasks" in capsys.readouterr().err
