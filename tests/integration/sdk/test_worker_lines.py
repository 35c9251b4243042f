"""Lines of handlers on the wire: before the end of their job, and again on a new connection."""

import asyncio
from typing import Any

from taskforge import Context, task
from tests.integration.sdk.test_worker import Gate, running
from tests.support.stub_stream import (
    DONE,
    LOGS,
    STOP,
    Connection,
    StubStream,
    encode,
    jobs_frame,
    token,
)


@task
async def talks(ctx: Context, number: int) -> None:
    ctx.log("info", f"line {number}")


@task
def talks_in_a_thread(ctx: Context) -> None:
    ctx.log("warn", "from a thread")


def messages(connection: Connection) -> list[tuple[bytes, int, str]]:
    """Token, number and message of each line that came."""
    return [
        (one, number + place, entry[2])
        for _, _, groups in connection.logs
        for one, number, entries in groups
        for place, entry in enumerate(entries)
    ]


async def test_lines_come_before_the_end_of_their_job() -> None:
    async with StubStream() as stub, running(stub, talks, talks_in_a_thread):
        connection = await stub.connected()
        jobs = [(token(n), "talks", b'{"number":%d}' % n) for n in range(1, 50)]
        jobs.append((token(50), "talks_in_a_thread", b"{}"))
        await connection.send(jobs_frame("default", jobs))
        await stub.until(lambda: len(stub.ok) == 50)
        seen: set[bytes] = set()
        logs, ended = iter(connection.logs), iter(connection.done)
        for kind in connection.kinds:
            if kind == LOGS:
                seen |= {group[0] for group in next(logs)[2]}
            elif kind == DONE:
                tokens = next(ended)[2]
                assert {tokens[at : at + 24] for at in range(0, len(tokens), 24)} <= seen
        assert len(seen) == 50


async def test_unacknowledged_lines_come_first_on_the_next_connection() -> None:
    async with StubStream() as stub, running(stub, talks) as (worker, _):
        stub.auto_ack = False
        first = await stub.connected()
        await first.send(jobs_frame("default", [(token(1), "talks", b'{"number":1}')]))
        await stub.until(lambda: len(first.done) == 1)
        assert messages(first) == [(token(1), 1, "line 1")]
        stub.auto_ack = True
        await stub.cut(first)
        second = await stub.connected(2)
        await stub.until(lambda: len(second.done) == 1)
        assert second.kinds.index(LOGS) < second.kinds.index(DONE)
        assert messages(second) == messages(first)
        await _empty(worker)


async def test_lines_of_refused_leases_do_not_come_again() -> None:
    async with StubStream() as stub, running(stub, talks) as (worker, _):
        stub.auto_ack = False
        first = await stub.connected()
        jobs = [(token(n), "talks", b'{"number":%d}' % n) for n in (1, 2)]
        await first.send(jobs_frame("default", jobs))
        await stub.until(lambda: len(messages(first)) == 2 and bool(first.done))
        stub.auto_ack, stub.stale = True, {token(1)}
        await stub.cut(first)
        second = await stub.connected(2)
        await stub.until(lambda: bool(second.done))
        assert messages(second) == [(token(2), 1, "line 2")]
        await _empty(worker)


async def test_a_handler_that_logs_without_a_lease_is_stopped() -> None:
    gate = Gate()
    async with StubStream() as stub, running(stub, gate.task):
        connection = await stub.connected()
        await connection.send(jobs_frame("default", [(token(1), "gated", b"{}")]))
        await gate.some.wait()
        gate.begun[0].log("info", "a")
        await stub.until(lambda: bool(connection.logs))
        await connection.send(encode([STOP, token(1)]))
        await gate.cancelled.wait()
        assert gate.begun[0].lost


async def test_a_worker_stops_when_its_lines_are_acknowledged() -> None:
    async with StubStream() as stub, running(stub, talks) as (worker, serving):
        connection = await stub.connected()
        await connection.send(jobs_frame("default", [(token(1), "talks", b'{"number":1}')]))
        await stub.until(lambda: bool(connection.done))
        worker.stop()
        async with asyncio.timeout(20):
            await serving
        assert connection.bye
        assert worker._lines.empty


async def test_an_older_server_gets_no_lines() -> None:
    stub = StubStream()
    stub.log_lines_max = 0
    async with stub, running(stub, talks):
        connection = await stub.connected()
        await connection.send(jobs_frame("default", [(token(1), "talks", b'{"number":1}')]))
        await stub.until(lambda: bool(connection.done))
        assert connection.logs == []


async def _empty(worker: Any) -> None:
    async with asyncio.timeout(20):
        while not worker._lines.empty:  # noqa: ASYNC110 - it has no event for it
            await asyncio.sleep(0.001)
