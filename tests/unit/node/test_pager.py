"""How many jobs that ended may wait for the tables before no more are brought; how they leave."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.journal.memory import MemoryShardLog
from taskforge_server.engine.node.pager import Pager, _end_reading
from taskforge_server.engine.runtime.clock import VirtualClock
from taskforge_server.engine.shard.shard import Shard as RealShard
from taskforge_server.ext.table import ShardTable, SubmitBatch
from tests.support.journal_bench import Life, new_table


@dataclass
class Table:
    ended: int

    @property
    def unprojected(self) -> int:
        return self.ended


@dataclass(eq=False)
class Shard:
    table: Table


@dataclass
class Core:
    shards: dict[int, Shard] = field(default_factory=dict)
    clock: VirtualClock = field(default_factory=VirtualClock)


@pytest.mark.parametrize(
    ("ended", "stopped"),
    [
        ([limits.PAGING_ENDED_MAX], []),
        ([limits.PAGING_ENDED_MAX + 1, limits.PAGE_JOBS_MAX, 0], [0]),
        # Many shards with a little of it each are as much as one with all.
        ([limits.PAGING_ENDED_MAX // 100] * 200 + [9], [*range(200)]),
        ([limits.PAGING_ENDED_MAX // 400] * 200 + [9], []),
    ],
)
def test_shards_wait_that_have_too_much_of_what_the_tables_lack(
    ended: list[int], stopped: list[int]
) -> None:
    core = Core({number: Shard(Table(jobs)) for number, jobs in enumerate(ended)})
    behind: set[Any] = Pager(cast(Any, core), cast(Any, None))._behind()
    assert behind == {core.shards[number] for number in stopped}


async def test_what_ended_while_rows_were_read_leaves_in_portions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Others have their turn between two of them."""
    monkeypatch.setattr(limits, "LEAVE_JOBS", 2)
    life = Life(new_table(1))
    life.table.begin_reading()
    life.run(5)
    await life.commit(MemoryShardLog())
    ended = life.table.collect(100, life.now_us)
    assert ended is not None
    life.table.projected(ended, True)
    ending, seen = asyncio.ensure_future(_end_reading(cast(Any, life.table))), []
    while not ending.done():
        seen.append(life.table.jobs_resident)
        await asyncio.sleep(0)
    assert seen == [5, 3, 1]
    assert not life.table.reading


HOUR_US = 3_600_000_000


def waiting_shard(clock: VirtualClock, jobs: int, in_us: int) -> RealShard:
    """Jobs of one lane, due in so long, that the tables know."""
    table = ShardTable(1, 1)
    table.queue(b"q" * 16, b"p" * 16, "mail", 0, 2)
    batch = SubmitBatch()
    for _ in range(jobs):
        batch.add("email", b"1", due_us=clock.now_us() + in_us)
    table.submit(0, batch, clock.now_us())
    taken = table.take_batch()
    assert taken is not None
    table.committed(taken[0])
    projection = table.collect(jobs, 2**62)
    assert projection is not None
    table.projected(projection)
    return RealShard(1, table, 1)


def pager_of(
    clock: VirtualClock, shard: RealShard, resident_jobs_max: int, refused: Collection[int] = ()
) -> Pager:
    core = Core({1: cast(Any, shard)}, clock)
    return Pager(cast(Any, core), cast(Any, None), resident_jobs_max, refused=lambda: refused)


@pytest.mark.parametrize(
    ("in_us", "left"), [(0, [14, 11, 8, 5, 4]), (2 * HOUR_US, [14, 11, 8, 5, 2, 0])]
)
async def test_waiting_jobs_leave_in_portions(
    monkeypatch: pytest.MonkeyPatch, in_us: int, left: list[int]
) -> None:
    """Others have their turn between two of them."""
    monkeypatch.setattr(limits, "LET_GO_JOBS", 3)
    clock = VirtualClock()
    shard = waiting_shard(clock, 14, in_us)
    turn, seen = asyncio.ensure_future(pager_of(clock, shard, 8).turn()), []
    while not turn.done():
        seen.append(shard.table.jobs_resident)
        await asyncio.sleep(0)
    assert [now for now, before in zip(seen, [0, *seen], strict=False) if now != before] == left
    assert sum(shard.table.counts(0)) == 14


@pytest.mark.parametrize("what", ["lost", "refused", "read"])
@pytest.mark.parametrize("in_us", [0, 2 * HOUR_US])
async def test_a_shard_is_left_alone_when_it_is_lost_or_read_meanwhile_or_a_row_is_refused(
    monkeypatch: pytest.MonkeyPatch, in_us: int, what: str
) -> None:
    """A job whose row was refused is in memory alone."""
    monkeypatch.setattr(limits, "LET_GO_JOBS", 3)
    clock = VirtualClock()
    shard = waiting_shard(clock, 14, in_us)
    table = shard.table
    refused = set[int]()
    turn = asyncio.ensure_future(pager_of(clock, shard, 8, refused).turn())
    await asyncio.sleep(0)
    assert table.jobs_resident == 11
    match what:
        case "lost":
            shard.on_fenced()
        case "refused":
            refused.add(1)
        case "read":
            table.begin_reading()
    await turn
    assert table.jobs_resident == 11
