"""Shards that are lost while they are read, or before it is known how many jobs wait elsewhere."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress

import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Unavailable
from taskforge_server.engine.journal.memory import MemoryShardLog
from taskforge_server.engine.journal.memory_tables import MemoryTables
from taskforge_server.engine.journal.takeover import Count, Waiting
from taskforge_server.engine.model.queue import QueueRef, QueueSettings
from tests.support.engine_node import MemoryNode, jobs
from tests.support.engine_parts import PROJECT

MAIL = QueueRef(b"m" * 16, PROJECT, "mail", 0, QueueSettings(), 1)


class SlowTables(MemoryTables):
    """Tables that read and count the waiting jobs of a shard when they are told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.slow = self.failing = False
        self.readers = self.readers_most = 0

    async def unfinished(self, shard: int, running: bool) -> AsyncGenerator[bytes, None]:
        self.readers += 1
        self.readers_most = max(self.readers, self.readers_most)
        try:
            async for chunk in super().unfinished(shard, running):
                if self.slow:
                    await self.go_on.wait()
                yield chunk
        finally:
            self.readers -= 1

    async def counting(self, marks: Mapping[int, int]) -> Count:
        counted = await super().counting(marks)

        async def count() -> Sequence[Waiting]:
            await self.go_on.wait()
            if self.failing:
                raise Unavailable
            return await counted()

        return count


async def until(holds: Callable[[], object]) -> None:
    """Let the loop turn until it holds."""
    for _ in range(10_000):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


async def node_with_jobs(log: MemoryShardLog, tables: SlowTables, count: int) -> bytes:
    """A node that stopped in peace: all its jobs are in the tables."""
    async with MemoryNode(log, refs=(MAIL,), tables=tables) as node:
        ids = await node.doors.submit(MAIL, jobs(count))
        task = asyncio.create_task(node.projector.run())
        await node.projector.flush()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    return ids


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RETAKE_PAUSE_S", 0.0)


async def test_a_shard_that_is_lost_again_while_it_is_counted_is_taken_again() -> None:
    log, tables = MemoryShardLog(), SlowTables()
    await node_with_jobs(log, tables, 3)
    async with MemoryNode(log, refs=(MAIL,), tables=tables) as node:
        task = asyncio.create_task(node.projector.run())
        await node.projector.flush()
        tables.go_on.clear()
        first = node.core.shards[1]
        first.give_up()
        await until(lambda: node.core.shards.get(1) not in (None, first))
        second = node.core.shards[1]
        assert node.ownership.counting == [1]
        second.give_up()
        tables.go_on.set()
        await until(lambda: node.core.shards.get(1) not in (None, second))
        await until(lambda: not node.ownership.counting)
        assert node.doors.queue_counts(MAIL) == (3, 0, 0)
        assert node.failed == []
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_shard_whose_jobs_cannot_be_counted_is_taken_again() -> None:
    log, tables = MemoryShardLog(), SlowTables()
    await node_with_jobs(log, tables, 3)
    tables.go_on.clear()
    async with MemoryNode(log, refs=(MAIL,), tables=tables) as node:
        first = node.core.shards[1]
        tables.failing = True
        tables.go_on.set()
        await until(lambda: first.lost)
        tables.failing = False
        await until(lambda: not node.ownership.missing and not node.ownership.counting)
        assert node.doors.queue_counts(MAIL) == (3, 0, 0)


async def test_what_rests_on_all_jobs_of_a_shard_waits_until_they_are_counted() -> None:
    """A queue that looks empty for a moment must not be deleted; a wait must not end early."""
    log, tables = MemoryShardLog(), SlowTables()
    ids = await node_with_jobs(log, tables, 6)
    async with MemoryNode(log, refs=(MAIL,), tables=tables, resident_jobs_max=4) as node:
        task = asyncio.create_task(node.projector.run())
        await node.projector.flush()
        tables.go_on.clear()
        node.core.shards[1].give_up()
        await until(lambda: node.ownership.counting)
        last = ids[-16:]
        assert node.core.shards[1].table.get(last) is None
        with pytest.raises(Unavailable):
            node.doors.queue_counts(MAIL)
        waiting = asyncio.create_task(node.doors.wait_finished(last, 60.0))
        await until(lambda: node.core.shards[1].table.get(last))
        assert not waiting.done()
        tables.go_on.set()
        await until(lambda: not node.ownership.counting)
        assert node.doors.queue_counts(MAIL) == (6, 0, 0)
        await node.doors.cancel(last, PROJECT)
        await waiting
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_there_is_room_for_a_worker_when_its_shards_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not before: those who wait together would all find the same free place."""
    node = MemoryNode(MemoryShardLog(), refs=(MAIL,))
    looks: list[bool] = []

    async def require_room(hello: object, project_id: bytes) -> None:
        looks.append(1 in node.core.shards)

    monkeypatch.setattr(node.doors, "_require_room", require_room)
    attaching = asyncio.create_task(node.worker(MAIL))
    await asyncio.sleep(0)
    assert not looks
    async with node:
        await attaching
    assert looks == [True]


async def test_many_lost_shards_do_not_ask_for_more_connections_than_there_are() -> None:
    log, tables = MemoryShardLog(), SlowTables()
    count = limits.TAKEOVERS_AT_ONCE_MAX + 4
    async with MemoryNode(log, tuple(range(count)), (MAIL,), tables=tables) as node:
        task = asyncio.create_task(node.projector.run())
        await node.projector.flush()
        tables.go_on.clear()
        tables.slow, tables.readers_most = True, 0
        for shard in list(node.core.shards.values()):
            shard.give_up()
        await until(lambda: tables.readers == limits.TAKEOVERS_AT_ONCE_MAX)
        for _ in range(1000):
            await asyncio.sleep(0)
        tables.go_on.set()
        await until(lambda: not node.ownership.missing and not node.ownership.counting)
        assert tables.readers_most == limits.TAKEOVERS_AT_ONCE_MAX
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
