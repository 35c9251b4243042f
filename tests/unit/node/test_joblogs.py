"""The buffer of lines: bounded, emptied in order, and news of it on every node."""

import asyncio
from collections.abc import Sequence

import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.cluster.memory import Exchange, MemoryCluster
from taskforge_server.engine.errors import Unavailable
from taskforge_server.engine.model.execution import LogLine
from taskforge_server.engine.node.joblogs import LogNews, LogWriter
from taskforge_server.engine.observe.counters import Counters

JOB, OTHER_JOB = b"j" * 16, b"k" * 16


class Table:
    """Keeps what is written; fails when it is told to."""

    def __init__(self) -> None:
        self.lines: list[LogLine] = []
        self.deleted: list[bytes] = []
        self.writes: list[int] = []
        self.away = False
        self.refuses = 0

    async def add(self, lines: Sequence[LogLine]) -> int:
        if self.away:
            raise Unavailable()
        self.lines += lines
        self.writes.append(len(lines))
        return self.refuses

    async def delete(self, execution_ids: Sequence[bytes]) -> None:
        if self.away:
            raise Unavailable()
        self.deleted += execution_ids


class Parts:
    """A writer on its own."""

    def __init__(self, exchange: Exchange | None = None, name: str = "a") -> None:
        self.table = Table()
        self.counters = Counters()
        self.cluster = MemoryCluster(exchange or Exchange(), name)
        self.news = LogNews(self.cluster)
        self.writer = LogWriter(self.table, self.news, self.counters)
        self.written: list[int] = []

    def add(self, seq: int, count: int = 1, project: bytes = b"p" * 16, job: bytes = JOB) -> None:
        lines = [
            LogLine(
                execution_id=b"e" * 16,
                number=number,
                job_id=job,
                project_id=project,
                level="info",
                message="x" * 100,
                logged_us=0,
            )
            for number in range(1, count + 1)
        ]
        self.writer.add(lines, lambda: self.written.append(seq))


async def test_frames_are_acked_in_their_order_once_they_are_written() -> None:
    parts = Parts()
    for seq in range(5):
        parts.add(seq, 3)
    assert parts.written == []
    await parts.writer.write()
    assert parts.written == [0, 1, 2, 3, 4]
    assert parts.table.writes == [15]
    assert (parts.writer.bytes_held, parts.counters.log_lines_written) == (0, 15)


async def test_a_batch_is_bounded() -> None:
    parts = Parts()
    for seq in range(4):
        parts.add(seq, limits.LOG_WRITE_ROWS // 2)
    await parts.writer.write()
    assert parts.table.writes == [limits.LOG_WRITE_ROWS] * 2


async def test_what_fails_keeps_its_place() -> None:
    parts = Parts()
    parts.table.away = True
    parts.add(1)
    with pytest.raises(Unavailable):
        await parts.writer.write()
    parts.add(2)
    assert parts.written == []
    assert parts.writer.bytes_held > 0
    parts.table.away = False
    await parts.writer.write()
    assert parts.written == [1, 2]


async def test_lines_beyond_the_bounds_are_dropped_and_acked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "LOG_BUFFER_BYTES_MAX", 3000)
    monkeypatch.setattr(limits, "LOG_BUFFER_PROJECT_BYTES_MAX", 2000)
    parts = Parts()
    for seq in range(7):
        parts.add(seq)
    # One project fills its share; others have room until the whole is full.
    assert parts.written == [5, 6]
    for seq in range(10, 20):
        parts.add(seq, project=bytes([seq]) * 16)
    assert parts.writer.bytes_held <= 3000
    assert parts.counters.log_lines_dropped == len(parts.written)
    dropped = len(parts.written)
    await parts.writer.write()
    assert len(parts.table.lines) == 17 - dropped
    parts.written.clear()
    parts.add(30)
    await parts.writer.write()
    assert parts.written == [30]


async def test_refused_lines_are_counted() -> None:
    parts = Parts()
    parts.table.refuses = 1
    parts.add(1, 3)
    await parts.writer.write()
    assert (parts.counters.log_lines_written, parts.counters.log_lines_dropped) == (2, 1)


async def test_a_flush_waits_for_what_was_added_before() -> None:
    parts = Parts()
    running = asyncio.create_task(parts.writer.run())
    await parts.writer.flush()  # nothing waits
    parts.add(1)
    await parts.writer.flush()
    assert parts.written == [1]
    parts.add(2)
    flushes = [asyncio.create_task(parts.writer.flush()) for _ in range(3)]
    async with asyncio.timeout(20):
        await asyncio.gather(*flushes)
    assert parts.written == [1, 2]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_deletion_that_fails_is_tried_again() -> None:
    parts = Parts()
    parts.table.away = True
    ids = [bytes([number]) * 16 for number in range(3)]
    with pytest.raises(Unavailable):
        await parts.writer.delete_unkept(ids[:2])
    parts.table.away = False
    await parts.writer.delete_unkept(ids[2:])
    await parts.writer.delete_unkept([])
    assert parts.table.deleted == ids


async def test_followers_on_every_node_hear_of_their_jobs() -> None:
    exchange = Exchange()
    here, there = Parts(exchange, "a"), Parts(exchange, "b")
    for parts in (here, there):
        await parts.cluster.start()
    with (
        here.news.follow(JOB) as near,
        there.news.follow(JOB) as far,
        there.news.follow(OTHER_JOB) as other,
    ):
        for news in (near, far, other):
            news.clear()
        here.add(1)
        await here.writer.write()
        async with asyncio.timeout(20):
            await near.wait()
            await far.wait()
        assert not other.is_set()
    assert here.news._followers == there.news._followers == {}
    for parts in (here, there):
        await parts.cluster.stop()
