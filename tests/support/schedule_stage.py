"""A node with its scheduler, in a time of its own."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgpack

from taskforge_server.api.service.schedules import TickMaker
from taskforge_server.engine.cluster.memory import Exchange, MemoryCluster
from taskforge_server.engine.journal.memory import MemoryShardLog
from taskforge_server.engine.model.queue import QueueRef, QueueSettings
from taskforge_server.engine.model.schedule import tick_key
from taskforge_server.engine.node.scheduler import Scheduler
from taskforge_server.engine.runtime.clock import VirtualClock
from tests.support.engine_node import MemoryNode
from tests.support.engine_parts import PROJECT
from tests.support.schedule_rows import MemoryScheduleRows

MAIL = QueueRef(b"m" * 16, PROJECT, "mail", 0, QueueSettings(), 1)
SLOW = QueueRef(b"s" * 16, PROJECT, "slow", 0, QueueSettings(), 2)
NIGHTLY = b"n" * 16
START = datetime(2026, 1, 1, tzinfo=UTC)
START_US = round(START.timestamp()) * 1_000_000


async def maker(project_id: bytes, now_us: int) -> TickMaker:
    return TickMaker(now_us)


class Stage:
    """A node with its scheduler, which takes turns when it is told."""

    def __init__(self, node: MemoryNode, clock: VirtualClock, rows: MemoryScheduleRows) -> None:
        self.node = node
        self.clock = clock
        self.rows = rows
        self.moved: list[tuple[int, bytes, int | None]] = []
        self.scheduler = Scheduler(
            node.core,
            node.doors,
            rows,
            MemoryCluster(Exchange(), "node"),
            lambda *told: self.moved.append(told),
        )
        self.scheduler.use(maker)

    async def turns(self) -> None:
        """All turns that there are at this time, and what they write."""
        while 0 < self.scheduler.book.next_us() <= self.clock.now_us():
            await self.scheduler.turn()
        await self.scheduler.written()

    async def pass_by(self, seconds: int) -> None:
        """Time passes as it does: second by second."""
        for _ in range(seconds):
            self.clock.advance(1)
            await self.turns()

    def ticks(self, schedule_id: bytes = NIGHTLY) -> Counter[int]:
        """How many jobs the log knows for each tick, in seconds from the start."""
        found = (second - START_US // 1_000_000 for second, _ in self.jobs_of(schedule_id))
        return Counter(found)

    def jobs_of(self, schedule_id: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
        """The jobs of its ticks, each with the second of its tick."""
        for job in self.jobs():
            key = msgpack.unpackb(job["options"])["idempotency_key"] if job["options"] else ""
            name, _, second = key.rpartition(" ")
            if name == tick_key(schedule_id, 0)[0].rpartition(" ")[0]:
                yield int(second), job

    def jobs(self) -> list[dict[str, Any]]:
        tables = [shard.table for shard in self.node.core.shards.values()]
        return [job for table in tables for job in table.snapshot()]

    def problems(self) -> list[str]:
        return [tick.problem for tick in self.rows.decisions if tick.problem is not None]


@asynccontextmanager
async def staged(
    rows: MemoryScheduleRows,
    clock: VirtualClock | None = None,
    log: MemoryShardLog | None = None,
    name: str = "node",
) -> AsyncIterator[Stage]:
    clock = clock or VirtualClock(START_US)
    refs = (MAIL, SLOW)
    async with MemoryNode(log or MemoryShardLog(), (1, 2), refs, clock, name) as node:
        stage = Stage(node, clock, rows)
        await stage.scheduler._read(None)
        yield stage
