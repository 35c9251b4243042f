"""The background of a node: rows of workers, tasks that last, the timer for due jobs."""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime

import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.actors.ports import Hello
from taskforge_server.engine.errors import Unavailable
from taskforge_server.engine.model.worker import Worker, WorkerStatus
from taskforge_server.engine.node.background import Background
from taskforge_server.engine.node.timer import DueTimer
from taskforge_server.engine.node.workerrows import WorkerRows, moment
from taskforge_server.engine.runtime.clock import VirtualClock
from taskforge_server.engine.shard.shard import Shard
from taskforge_server.ext.table import ShardTable, SubmitBatch

NOW_US = 1_700_000_000_000_000
PROJECT = b"p" * 16


class Table:
    """Rows of workers; away while told so."""

    def __init__(self) -> None:
        self.rows: dict[bytes, tuple[WorkerStatus, datetime | None]] = {}
        self.away = False
        self.written = asyncio.Event()

    async def upsert(self, workers: Sequence[Worker]) -> set[bytes]:
        await self.seen((row.id, row.status, row.last_heartbeat) for row in workers)
        return {row.id for row in workers}

    async def seen(self, news: Iterable[tuple[bytes, WorkerStatus, datetime | None]]) -> None:
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable
        self.rows |= {worker_id: (status, at) for worker_id, status, at in news}
        self.written.set()


def hello(worker_id: bytes) -> Hello:
    return Hello(worker_id, "w", "general", ("mail",), frozenset({"send"}), 1, b"", "test")


async def test_the_newest_word_about_each_worker_is_written() -> None:
    table = Table()
    rows = WorkerRows(table)
    one, two = b"1" * 16, b"2" * 16
    rows.attached(hello(one), PROJECT, NOW_US)
    rows.attached(hello(two), PROJECT, NOW_US)
    rows.status(two, "draining", NOW_US + 1)
    await rows.write()
    assert table.rows == {
        one: ("online", moment(NOW_US)),
        two: ("draining", moment(NOW_US + 1)),
    }
    table.away = True
    rows.status(one, "offline", NOW_US + 2)
    with pytest.raises(Unavailable):
        await rows.write()
    table.away = False
    await rows.write()
    assert table.rows[one] == ("offline", moment(NOW_US + 2))


async def test_a_new_worker_is_written_at_once() -> None:
    table = Table()
    rows = WorkerRows(table)
    task = asyncio.create_task(rows.run())
    rows.attached(hello(b"1" * 16), PROJECT, NOW_US)
    await asyncio.wait_for(table.written.wait(), 10)
    task.cancel()


async def test_a_task_that_ends_with_an_error_is_told_of() -> None:
    failures: list[Exception] = []
    background = Background(failures.append)
    steps = asyncio.Event()
    calls = 0

    def step() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ValueError("once")
        steps.set()

    async def broken() -> None:
        raise RuntimeError("broken")

    background.every("step", 0.0, step)
    background.start("broken", broken())
    await asyncio.wait_for(steps.wait(), 10)
    assert [str(failure) for failure in failures] == ["broken"]
    await background.stop("step")
    await background.stop()


async def test_the_timer_is_armed_for_the_earliest() -> None:
    clock = VirtualClock()
    asked = asyncio.Event()

    def shards() -> tuple[()]:
        asked.set()
        return ()

    timer = DueTimer(clock, shards, lambda shard, queues: None)
    timer.note(clock.now_us() + 3_600_000_000)
    timer.note(0)
    assert not asked.is_set()
    timer.note(clock.now_us() - 1)  # due already: in the next turn of the loop
    await asyncio.wait_for(asked.wait(), 10)
    timer.stop()


async def test_a_million_due_jobs_take_their_turns() -> None:
    clock = VirtualClock()
    shards = [Shard(number, ShardTable(number, number), 1) for number in (1, 2)]
    batch = SubmitBatch()
    for _ in range(10_000):
        batch.add("send", b"1", due_us=clock.now_us() + 1)
    for shard in shards:
        shard.table.queue(b"q" * 16, PROJECT, "mail", 0, 0)
        for _ in range(50):
            shard.table.submit(0, batch, clock.now_us())
            shard.take_batch()
    clock.advance(1.0)
    told: list[Shard] = []
    timer = DueTimer(clock, lambda: shards, lambda shard, queues: told.append(shard))
    timer.note(1)
    pending = turns = 0
    while pending < 1_000_000:
        await asyncio.sleep(0)  # one turn of the loop
        moved = sum(shard.table.counts(0)[0] for shard in shards) - pending
        assert moved <= limits.DUE_JOBS_MAX
        pending += moved
        turns += moved > 0
        if turns == 2:
            assert set(told) == set(shards), "no shard waits for the herd of another"
    assert len(told) >= turns == -(-1_000_000 // limits.DUE_JOBS_MAX)
    timer.stop()
