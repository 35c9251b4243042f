"""How many jobs that ended may wait for the tables before no more are brought; how they leave."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.journal.memory import MemoryShardLog
from taskforge_server.engine.node.pager import Pager, _end_reading
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
