"""The projector over tables in memory: rounds, repetition, bad rows, flush, watermarks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from taskforge_server.engine.journal import memory_tables
from taskforge_server.engine.journal import projector as projector_module
from taskforge_server.engine.journal.memory import MemoryShardLog
from taskforge_server.engine.journal.memory_tables import MemoryTables
from taskforge_server.engine.journal.projector import Projector
from taskforge_server.engine.journal.rounds import How, TableSource
from taskforge_server.engine.journal.trimmer import Trimmer
from taskforge_server.engine.runtime.safeguards import Safeguards
from tests.support.journal_bench import Life, new_table


@asynccontextmanager
async def running(projector: Projector) -> AsyncIterator[None]:
    task = asyncio.create_task(projector.run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class FakeClock:
    """In the place of the module `time`."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s


class Bench:
    """Some shards, a log and tables in memory, and a projector that ticks only for flushes."""

    def __init__(self, shards: int = 1, history: int = 2) -> None:
        self.log = MemoryShardLog()
        self.tables = MemoryTables()
        self.lives = [Life(new_table(shard, history)) for shard in range(shards)]
        self.projector = Projector(
            self.tables, lambda: max(life.now_us for life in self.lives), tick_s=1000.0
        )
        for life in self.lives:
            self.projector.add(TableSource(life.table, 1))

    async def commit(self) -> None:
        for life in self.lives:
            await life.commit(self.log)


async def test_finished_jobs_are_written_once_in_their_final_state() -> None:
    bench = Bench(shards=3)
    async with running(bench.projector):
        ids = [job_id for life in bench.lives for job_id in life.run(10)]
        await bench.commit()
        await bench.projector.flush()
    assert {row["status"] for row in bench.tables.jobs.values()} == {"succeeded"}
    assert sorted(bench.tables.jobs) == sorted(ids)
    assert len(bench.tables.executions) == 30
    assert bench.tables.marks == {0: 1, 1: 1, 2: 1}
    assert [life.table.jobs_resident for life in bench.lives] == [0, 0, 0]
    assert set(bench.tables.tries) == {How.FAST}
    assert bench.projector.statistics.rows == 60


async def test_what_is_not_durable_is_not_projected() -> None:
    bench = Bench()
    async with running(bench.projector):
        bench.lives[0].run(3)
        await bench.projector.flush()
        assert bench.tables.jobs == {}
        await bench.commit()
        await bench.projector.flush()
    assert len(bench.tables.jobs) == 3


async def test_a_flush_takes_open_jobs_too() -> None:
    bench = Bench()
    life = bench.lives[0]
    async with running(bench.projector):
        life.submit(2)
        tokens = life.start(1)
        await bench.commit()
        await bench.projector.flush()
        states = sorted(row["status"] for row in bench.tables.jobs.values())
        assert states == ["pending", "processing"]
        life.succeed(tokens)
        await bench.commit()
        await bench.projector.flush()
        states = sorted(row["status"] for row in bench.tables.jobs.values())
        assert states == ["pending", "succeeded"]
        assert [row["status"] for row in bench.tables.executions.values()] == ["succeeded"]
    assert bench.projector.unprojected == 0


@pytest.mark.parametrize("fault", ["doubts", "failures"])
async def test_in_doubt_all_rows_are_merged(fault: str) -> None:
    bench = Bench()
    setattr(bench.tables, fault, 2)
    async with running(bench.projector):
        bench.lives[0].run(5)
        await bench.commit()
        await bench.projector.flush()
    assert len(bench.tables.jobs) == 5
    assert bench.tables.tries[-1] is (How.MERGE if fault == "doubts" else How.FAST)
    assert bench.projector.statistics.repeats == 2


async def test_a_bad_row_never_blocks() -> None:
    bench = Bench(shards=2)
    async with running(bench.projector):
        bad, *good = bench.lives[0].run(100)
        bench.tables.refused_ids.add(bad)
        good += bench.lives[1].run(10)
        await bench.commit()
        await bench.projector.flush()
        assert sorted(bench.tables.jobs) == sorted(good)
        assert [row["id"] for row in bench.tables.put_aside] == [bad]
        await bench.projector.flush()
        more = bench.lives[0].run(1)
        await bench.commit()
        await bench.projector.flush()
    assert more[0] in bench.tables.jobs
    assert bench.tables.tries[-1] is How.FAST


async def test_executions_of_the_next_round_are_written_beside_the_jobs_of_this_one() -> None:
    bench = Bench()
    life = bench.lives[0]
    async with running(bench.projector):
        bench.tables.gate.clear()
        life.run(1)
        await bench.commit()
        first = asyncio.create_task(bench.projector.flush())
        await bench.tables.waiting.wait()
        bench.tables.executions_written.clear()
        life.run(1)
        await bench.commit()
        second = asyncio.create_task(bench.projector.flush())
        await bench.tables.executions_written.wait()
        assert len(bench.tables.executions) == 2
        assert bench.tables.jobs == {}
        assert not first.done()
        bench.tables.gate.set()
        await asyncio.gather(first, second)
    assert len(bench.tables.jobs) == 2


async def test_rounds_are_written_together_and_committed_in_their_order() -> None:
    bench = Bench()
    life = bench.lives[0]
    async with running(bench.projector):
        bench.tables.gate.clear()
        flushes = []
        for number in range(2):
            bench.tables.begun.clear()
            life.run(1)
            await bench.commit()
            flushes.append(asyncio.create_task(bench.projector.flush()))
            await bench.tables.begun.wait()
            assert bench.tables.writing == number + 1
        await bench.tables.waiting.wait()
        assert len(bench.tables.tries) == 1
        bench.tables.gate.set()
        await asyncio.gather(*flushes)
    assert bench.tables.marks == {0: 2}
    assert len(bench.tables.tries) == 2
    assert len(bench.tables.jobs) == 2


async def test_rounds_are_bounded_and_follow_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projector_module.limits, "PROJECTION_ROUND_ROWS", 20)
    monkeypatch.setattr(projector_module.limits, "PROJECTION_COLLECT_ROWS", 8)
    bench = Bench(shards=4)
    async with running(bench.projector):
        for life in bench.lives:
            life.run(50)
        await bench.commit()
        await bench.projector.flush()
    assert len(bench.tables.jobs) == 200
    assert bench.projector.statistics.rounds > 10


async def test_without_history_only_watermarks_move(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projector_module.limits, "PROJECTION_COLLECT_ROWS", 400)
    bench = Bench(history=0)
    life = bench.lives[0]
    life.table.queue(b"q" * 15 + b"\0", b"p" * 16, "mail", 0, 0)
    async with running(bench.projector):
        for _ in range(3):
            life.run(500)
            await bench.commit()
        await bench.projector.flush()
        assert bench.tables.jobs == {}
        assert bench.tables.marks == {0: 3}
        assert life.table.jobs_resident == 0


async def test_a_removed_shard_is_still_written_but_not_asked() -> None:
    bench = Bench(shards=2)
    source = TableSource(bench.lives[0].table, 1)
    bench.projector.add(source)
    async with running(bench.projector):
        bench.projector.remove(source)
        bench.lives[0].run(1)
        bench.lives[1].run(1)
        await bench.commit()
        await bench.projector.flush()
    assert {row["shard"] for row in bench.tables.jobs.values()} == {1}
    assert bench.projector.watermarks == {1: 1}


async def test_a_shard_of_a_later_owner_leaves_the_round() -> None:
    bench = Bench(shards=2)
    lost: list[int] = []
    source = TableSource(bench.lives[0].table, 1, None, lambda: lost.append(0))
    bench.projector.add(source)
    await bench.tables.fence({0: 2, 1: 1})
    async with running(bench.projector):
        for life in bench.lives:
            life.run(1)
        await bench.commit()
        await bench.projector.flush()
        bench.lives[0].run(1)
        await bench.commit()
        await bench.projector.flush()
    assert {row["shard"] for row in bench.tables.jobs.values()} == {1}
    assert {row["shard"] for row in bench.tables.executions.values()} == {1}
    assert lost == [0]
    assert bench.projector.watermarks == {1: 1}


async def test_the_lag_grows_while_the_tables_are_away() -> None:
    bench = Bench()
    async with running(bench.projector):
        bench.tables.gate.clear()
        bench.lives[0].run(1)
        await bench.commit()
        flush = asyncio.create_task(bench.projector.flush())
        await bench.tables.waiting.wait()
        before_s = bench.projector.lag_s
        assert bench.projector.lag_s > before_s
        assert bench.projector.unprojected == 1
        bench.tables.gate.set()
        await flush
        assert bench.projector.unprojected == 0


async def test_the_lag_is_that_of_the_oldest_row_while_rounds_are_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A shard that is never emptied, since more comes all the time, and one that has nothing."""
    clock = FakeClock()
    monkeypatch.setattr(projector_module, "time", clock)
    monkeypatch.setattr(projector_module.limits, "PROJECTION_ROUND_ROWS", 8)
    monkeypatch.setattr(projector_module.limits, "PROJECTION_COLLECT_ROWS", 4)
    bench = Bench(shards=2)
    busy, lags = bench.lives[0], []
    for _ in range(10):
        busy.run(8)
        await bench.commit()
    tables, write = bench.tables, bench.tables.write_jobs

    async def more_comes(*args: Any, **named: Any) -> None:
        await write(*args, **named)
        lags.append(bench.projector.lag_s)
        clock.now_s += 1.0
        if len(lags) < 40:
            busy.run(8)
            await bench.commit()

    monkeypatch.setattr(tables, "write_jobs", more_comes)
    async with running(bench.projector):
        await bench.projector.flush()
        assert len(lags) > 40, "so many rounds were cut off"
        assert 5.0 < max(lags) <= 20.0
        assert bench.projector.lag_s <= 3.0, "the rounds that were under way"


async def test_a_busy_shard_keeps_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fills each round; whoever comes behind it has the next one."""
    monkeypatch.setattr(projector_module.limits, "PROJECTION_ROUND_ROWS", 8)
    monkeypatch.setattr(projector_module.limits, "PROJECTION_COLLECT_ROWS", 4)
    bench = Bench(shards=16)
    busy = bench.lives[5]
    for _ in range(20):
        busy.run(8)
    behind = [life.run(1)[0] for life in bench.lives if life is not busy]
    await bench.commit()
    rounds, write = [], bench.tables.write_jobs

    async def count(*args: Any, **named: Any) -> None:
        await write(*args, **named)
        rounds.append(sum(job_id in bench.tables.jobs for job_id in behind))

    monkeypatch.setattr(bench.tables, "write_jobs", count)
    async with running(bench.projector):
        await bench.projector.flush()
    assert len(rounds) > 20, "so many rounds were full"
    assert rounds[6] == len(behind), "two rows of each, eight rows a round, between those of one"


async def test_trimming_lags_behind_the_watermarks(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(shards=2)
    trimmer = Trimmer(bench.log, bench.projector.watermarks)
    kept_s = projector_module.limits.LOG_KEPT_S
    async with running(bench.projector):
        for _ in range(4):
            bench.lives[0].run(1)
            await bench.commit()
        await bench.projector.flush()
    await trimmer.step(100.0)
    await trimmer.step(100.0 + kept_s - 1)
    assert trimmer.rows == 0
    await trimmer.step(100.0 + kept_s)
    assert trimmer.rows == 3
    assert [row.lsn async for row in bench.log.read(0, 0)] == [4]
    await trimmer.step(100.0 + 2 * kept_s)
    assert trimmer.rows == 3


@pytest.mark.parametrize("on", [True, False])
async def test_the_watermark_comes_with_its_rows(monkeypatch: pytest.MonkeyPatch, on: bool) -> None:
    monkeypatch.setattr(
        memory_tables.safeguards, "ACTIVE", Safeguards()._replace(projection_watermark=on)
    )
    bench = Bench()
    async with running(bench.projector):
        bench.tables.gate.clear()
        bench.lives[0].run(1)
        await bench.commit()
        flush = asyncio.create_task(bench.projector.flush())
        await bench.tables.waiting.wait()
        assert bench.tables.jobs == {}
        ahead = bench.tables.marks == {0: 1}
        assert ahead is not on, "without the safeguard a crash here forgets the job"
        bench.tables.gate.set()
        await flush
    assert bench.tables.marks == {0: 1}
