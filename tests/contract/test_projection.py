"""Projection, takeover and replay, over the tables in Postgres and their twin in memory."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, Protocol

import msgpack
import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Unavailable
from taskforge_server.engine.journal.check import check
from taskforge_server.engine.journal.checked_tables import PostgresCheckedTables
from taskforge_server.engine.journal.log import LogRow, ShardLog
from taskforge_server.engine.journal.memory import MemoryShardLog
from taskforge_server.engine.journal.memory_tables import MemoryTables
from taskforge_server.engine.journal.postgres import PostgresShardLog
from taskforge_server.engine.journal.projector import Projector
from taskforge_server.engine.journal.rounds import (
    Fenced,
    How,
    Projection,
    RowExists,
    RowsRefused,
    TableSource,
    TableWriter,
)
from taskforge_server.engine.journal.statements import sql
from taskforge_server.engine.journal.tables import PostgresTables
from taskforge_server.engine.journal.takeover import (
    FencedTables,
    LogGapError,
    Taken,
    Taker,
)
from taskforge_server.engine.model.queue import QueueRef, QueueSettings
from taskforge_server.engine.node.adapters import StoredJobs
from taskforge_server.engine.runtime.clock import VirtualClock
from taskforge_server.engine.store.pool import Pool, connect, open_pool
from taskforge_server.ext.pure.table import ShardTable
from taskforge_server.ext.pure.tablejob import page_row
from taskforge_server.ext.pure.tablerows import JOB_COLUMNS, split_rows
from tests.support.journal_bench import PROJECT, START_US, TOLD, Life, new_table, queue_id
from tests.support.table_pair import read_rows

NEWEST = 1_000
"""An epoch that no takeover of these tests comes to."""


class Storage(Protocol):
    """A log with its tables, and a look at what they hold."""

    log: ShardLog
    writer: TableWriter
    reader: FencedTables

    async def jobs(self) -> dict[bytes, str]:
        """Status by id."""
        ...

    async def executions(self) -> list[tuple[bytes, str, int]]:
        """(job, status, attempt), sorted."""
        ...

    async def refused(self) -> int:
        """How many rows were put aside."""
        ...


class MemoryStorage:
    def __init__(self) -> None:
        self.log = MemoryShardLog()
        self.tables = MemoryTables()
        self.writer = self.reader = self.tables

    async def jobs(self) -> dict[bytes, str]:
        return {row["id"]: row["status"] for row in self.tables.jobs.values()}

    async def executions(self) -> list[tuple[bytes, str, int]]:
        rows = self.tables.executions.values()
        return sorted((row["job_id"], row["status"], row["attempt_number"]) for row in rows)

    async def refused(self) -> int:
        return len(self.tables.put_aside)


class PostgresStorage:
    def __init__(self, url: str, pool: Pool) -> None:
        self.make = make = partial(connect, url, application_name="test journal")
        self.log = PostgresShardLog(make)
        self.writer = PostgresTables(make)
        self.reader = StoredJobs(pool, VirtualClock(START_US), connect=make)
        self._pool = pool

    async def jobs(self) -> dict[bytes, str]:
        rows = [(row["id"], row["status"]) for row in await self._pool.fetch("TABLE jobs")]
        assert len(dict(rows)) == len(rows), "a job stands there twice"
        return dict(rows)

    async def executions(self) -> list[tuple[bytes, str, int]]:
        rows = await self._pool.fetch("TABLE job_executions")
        return sorted((row["job_id"], row["status"], row["attempt_number"]) for row in rows)

    async def refused(self) -> int:
        return len(await self._pool.fetch("TABLE projection_errors"))


@pytest.fixture
async def memory_storage() -> Storage:
    return MemoryStorage()


@pytest.fixture
async def postgres_storage(postgres_url: str) -> AsyncIterator[Storage]:
    pool = await open_pool(postgres_url, application_name="test look", connections_max=4)
    storage = PostgresStorage(postgres_url, pool)
    yield storage
    await storage.log.close()
    await storage.writer.close()
    await pool.close()


@pytest.fixture(params=["memory", "postgres"])
def storage(request: pytest.FixtureRequest) -> Storage:
    storage: Storage = request.getfixturevalue(f"{request.param}_storage")
    return storage


def everything(table: ShardTable) -> Projection:
    projection = table.collect(1_000_000, START_US * 2)
    assert projection is not None
    return projection


async def project(storage: Storage, taken: Taken[ShardTable]) -> None:
    """Write all that is durable, what was collected at the takeover first."""
    projection = taken.early or taken.table.collect(1_000_000, START_US * 2)
    while projection is not None:
        await write(storage, [projection], How.FAST)
        taken.table.projected(projection)
        projection = taken.table.collect(1_000_000, START_US * 2)


async def write(
    storage: Storage, projections: list[Projection], how: How, epoch: int = NEWEST
) -> None:
    epochs = {projection.shard: epoch for projection in projections}
    await storage.writer.write_executions(projections, how, epochs)
    await storage.writer.write_jobs(projections, how, epochs)


def taker(
    storage: Storage, node: str = "node", page_jobs: int = limits.PAGE_JOBS_MAX
) -> Taker[ShardTable]:
    return Taker(storage.log, storage.reader, node, lambda: START_US, new_table, page_jobs)


# --- the writer ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", list(How))
async def test_rows_of_both_forms_arrive_in_every_way(storage: Storage, how: How) -> None:
    lives = [Life(new_table(shard)) for shard in (1, 2)]
    ids = [job_id for life in lives for job_id in life.run(20)]
    told = [job_id for life in lives for job_id in life.submit(3, options=TOLD)]
    for life in lives:
        await life.commit(storage.log)
    await write(storage, [everything(life.table) for life in lives], how)
    expected = dict.fromkeys(ids, "succeeded") | dict.fromkeys(told, "pending")
    assert await storage.jobs() == expected
    assert await storage.executions() == sorted((job_id, "succeeded", 1) for job_id in ids)
    assert await storage.reader.watermarks([1, 2, 3]) == {1: 1, 2: 1, 3: 0}


async def test_a_job_that_comes_twice_in_a_round_once_in_each_form(storage: Storage) -> None:
    life = Life(new_table(1))
    (job_id,) = life.submit(1)
    forms = []
    for step in (lambda: None, lambda: life.start(1), lambda: life.succeed(life.start(1))):
        step()
        await life.commit(storage.log)
        forms.append(everything(life.table))
    waiting, running, over = forms
    assert running.jobs_merge[0][:2] != over.jobs_merge[0][:2]
    await write(storage, [waiting], How.FAST)
    await write(storage, [running, over], How.FAST)
    assert await storage.jobs() == {job_id: "succeeded"}


async def test_an_open_row_becomes_a_final_one(storage: Storage) -> None:
    life = Life(new_table(1))
    (job_id,) = life.submit(1, priority=7, options=None)
    tokens = life.start(1)
    await life.commit(storage.log)
    first = everything(life.table)
    await write(storage, [first], How.FAST)
    assert await storage.jobs() == {job_id: "processing"}
    life.table.projected(first)
    life.succeed(tokens)
    await life.commit(storage.log)
    await write(storage, [everything(life.table)], How.FAST)
    assert await storage.jobs() == {job_id: "succeeded"}
    assert await storage.executions() == [(job_id, "succeeded", 1)]


async def test_both_rows_of_a_job_in_one_round(storage: Storage) -> None:
    life = Life(new_table(1))
    (job_id,) = life.submit(1)
    tokens = life.start(1)
    await life.commit(storage.log)
    first = everything(life.table)
    life.succeed(tokens)
    await life.commit(storage.log)
    both = [first, everything(life.table)]
    for how in (How.FAST, How.MERGE, How.CAREFUL):
        await write(storage, both, how)
        assert await storage.jobs() == {job_id: "succeeded"}
        both.reverse()  # late and out of order: the newest row stays
        if how is How.FAST:
            with pytest.raises(RowExists):
                await write(storage, both, How.FAST)


async def test_an_old_row_never_replaces_a_newer_one(storage: Storage) -> None:
    life = Life(new_table(1))
    (job_id,) = life.submit(1)
    tokens = life.start(1)
    await life.commit(storage.log)
    old = everything(life.table)
    life.succeed(tokens)
    await life.commit(storage.log)
    new = everything(life.table)
    await write(storage, [old, new], How.FAST)
    await write(storage, [old], How.MERGE)
    assert await storage.jobs() == {job_id: "succeeded"}
    assert await storage.executions() == [(job_id, "succeeded", 1)]
    assert await storage.reader.watermarks([1]) == {1: new.watermark}


async def test_a_row_takes_the_place_of_an_older_one_alone(storage: Storage) -> None:
    life = Life(new_table(1))
    (job_id,) = life.submit(1)
    await life.commit(storage.log)
    waiting = everything(life.table)
    tokens = life.start(1)
    await life.commit(storage.log)
    running = everything(life.table)
    life.succeed(tokens)
    await life.commit(storage.log)
    over = everything(life.table)
    for projection, how in ((waiting, How.FAST), (over, How.FAST), (running, How.MERGE)):
        if how is How.MERGE:
            with pytest.raises(RowExists):
                await write(storage, [projection], How.FAST)
        await write(storage, [projection], how)
    assert await storage.jobs() == {job_id: "succeeded"}
    assert await storage.executions() == [(job_id, "succeeded", 1)]


async def test_deletes_go_with_their_executions(storage: Storage) -> None:
    life = Life(new_table(1, history=1))
    life.queue = life.table.queue(b"q" * 15 + b"\1", PROJECT, "mail", 0, 1)
    keep, *_ = life.submit(2)
    tokens = life.start(2)
    await life.commit(storage.log)
    first = everything(life.table)
    await write(storage, [first], How.FAST)
    life.table.projected(first)
    life.succeed([token for token in tokens if token[:16] != keep])
    await life.commit(storage.log)
    await write(storage, [everything(life.table)], How.FAST)
    assert await storage.jobs() == {keep: "processing"}
    assert await storage.executions() == [(keep, "started", 1)]


async def test_a_late_delete_spares_what_a_later_owner_requeued(storage: Storage) -> None:
    (old,) = await taker(storage, "old").take([1])
    life = Life(old.table, old.epoch)
    life.queue = life.table.queue(queue_id(1), PROJECT, "mail", 0, 0)
    (job_id,) = life.submit(1)
    await life.commit(storage.log)
    await project(storage, old)
    life.table.cancelled(job_id, "cancelled", life.tick())
    await life.commit(storage.log)
    late = everything(life.table)
    (new,) = await taker(storage, "new").take([1])
    follower = Life(new.table, new.epoch)
    new.table.requeue(new.table.get(job_id) or {}, follower.tick())
    await follower.commit(storage.log)
    await project(storage, new)
    await write(storage, [late], How.MERGE)
    assert await storage.jobs() == {job_id: "pending"}


async def test_keys_are_kept(storage: Storage) -> None:
    life = Life(new_table(1))
    ids = b"".join(life.submit(2))
    life.table.keyed(PROJECT, "order-1", b"hash", ids, life.now_us)
    await life.commit(storage.log)
    projection = everything(life.table)
    for how in (How.FAST, How.MERGE, How.CAREFUL):
        await write(storage, [projection], how) if how is not How.FAST else None
    expected = [(PROJECT, "order-1", b"hash", ids, life.now_us)]
    assert [tuple(key) for key in await storage.reader.keys(1)] == expected
    assert list(await storage.reader.keys(2)) == []


async def test_the_database_refuses_a_row(postgres_storage: Storage) -> None:
    """U+0000 in a payload: the door refuses it, and were it to slip through, one row is lost."""
    life = Life(new_table(1))
    good = life.run(5)
    bad = life.submit(3, payload=b'{"text": "\\u0000"}')
    bad += life.submit(1, payload=b'{"text": "\\u0000"}', options=TOLD)
    good += life.run(1500)
    await life.commit(postgres_storage.log)
    projection = everything(life.table)
    await postgres_storage.writer.write_executions([projection], How.FAST, {1: NEWEST})
    with pytest.raises(RowsRefused):
        await postgres_storage.writer.write_jobs([projection], How.FAST, {1: NEWEST})
    assert await postgres_storage.jobs() == {}
    await postgres_storage.writer.write_jobs([projection], How.CAREFUL, {1: NEWEST})
    assert sorted(await postgres_storage.jobs()) == sorted(good)
    assert not set(bad) & set(await postgres_storage.jobs())
    assert await postgres_storage.refused() == 4


async def test_a_round_whose_turn_does_not_come_is_written_in_its_turn(
    postgres_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its transaction is undone: what comes before must not wait for its rows."""
    monkeypatch.setattr(limits, "PROJECTION_TURN_S", 0.0)
    life = Life(new_table(1))
    rounds, ids = [], []
    for _ in range(2):
        ids += life.run(3)
        await life.commit(postgres_storage.log)
        rounds.append(everything(life.table))
    turn, asked = asyncio.Event(), asyncio.Semaphore(0)

    async def its_turn() -> None:
        asked.release()
        await turn.wait()

    writer, epochs = postgres_storage.writer, {1: NEWEST}
    later = asyncio.create_task(writer.write_jobs(rounds[1:], How.FAST, epochs, its_turn))
    for _ in range(2):
        await asked.acquire()
    # The same rows: they would wait for those of the other transaction, if there were one.
    await writer.write_jobs(rounds, How.MERGE, epochs)
    turn.set()
    with pytest.raises(RowExists):
        await later
    await writer.write_jobs(rounds[1:], How.MERGE, epochs)
    assert sorted(await postgres_storage.jobs()) == sorted(ids)


async def test_the_projector_gets_past_refused_rows(postgres_storage: Storage) -> None:
    life = Life(new_table(1))
    projector = Projector(postgres_storage.writer, lambda: life.now_us, tick_s=1000.0)
    projector.add(TableSource(life.table, NEWEST))
    task = asyncio.create_task(projector.run())
    life.submit(1, payload=b'"\\ud800"')
    good = life.run(10)
    await life.commit(postgres_storage.log)
    await projector.flush()
    assert sorted(await postgres_storage.jobs()) == sorted(good)
    assert await postgres_storage.refused() == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# --- taking over --------------------------------------------------------------------------------


async def test_a_new_shard_starts_empty(storage: Storage) -> None:
    taken = await taker(storage).take([4, 2])
    assert [(t.table.shard, t.epoch, t.head_lsn) for t in taken] == [(2, 1, 1), (4, 1, 1)]
    assert taken[0].table.jobs_resident == 0
    again = await taker(storage).take([2])
    assert (again[0].epoch, again[0].head_lsn) == (2, 2)


async def test_the_new_owner_knows_what_the_old_one_knew(storage: Storage) -> None:
    old = await taker(storage).take(range(3))
    lives = [Life(t.table, t.epoch) for t in old]
    for life, taken in zip(lives, old, strict=True):
        life.run(5)
        life.submit(4)
        life.start(2)
        await life.commit(storage.log)
        await project(storage, taken)
        life.succeed(life.start(0)[:1])
        life.run(3)
        life.submit(1)
        await life.commit(storage.log)
    for life, new in zip(lives, await taker(storage).take(range(3)), strict=True):
        expected = [job for job in life.table.snapshot() if job["finished_us"] == 0]
        found = [job for job in new.table.snapshot() if job["finished_us"] == 0]
        assert found == expected
        assert len(found) == 3
        assert new.jobs_loaded == 4
        assert new.epoch == 2
        # And the log goes on from there.
        follower = Life(new.table, new.epoch)
        follower.run(1)
        await follower.commit(storage.log)


async def test_a_shard_works_when_its_first_jobs_are_there(storage: Storage) -> None:
    """The jobs that run are there, and no job overtakes one that waits in the tables."""
    old = Life(new_table(1))
    ids = old.submit(9)
    (urgent,) = old.submit(1, priority=9)
    running = old.start(1)
    await old.commit(storage.log)
    await write(storage, [everything(old.table)], How.FAST)
    (taken,) = await taker(storage, page_jobs=3).take([1])
    table, new = taken.table, Life(taken.table)
    assert running[0][:16] == urgent
    assert table.running(new.worker) == running
    assert {job["id"] for job in table.snapshot()} == {urgent, *ids[:3]}
    (late,) = new.submit(1)
    assert {token[:16] for token in new.start(1_000)} == {urgent, *ids[:3]}
    for waiting in await taken.counted:
        table.count_away(*(waiting.queue_id, waiting.project_id, waiting.pending, 0))
    assert table.counts(new.queue)[0] == 7
    (lane,) = table.short(1)
    table.begin_reading()
    place = table.place(lane[0], lane[2])
    async for chunk in storage.reader.page(1, lane[1], lane[2], place, 10):
        table.next_in(lane[0], lane[2], chunk)
    table.end_reading(10)
    assert {token[:16] for token in new.start(6)} == {urgent, *ids}
    assert {token[:16] for token in new.start(1_000)} == {urgent, *ids, late}
    assert table.short(1) == []


async def test_a_page_has_all_of_its_jobs(storage: Storage) -> None:
    """Those that were told much, and those that have been started and given back."""
    life = Life(new_table(1))
    named = {
        "idempotency_key": "i",
        "unique_key": "u",
        "group_key": "g",
        "tags": ["a"],
        "keep": True,
    }
    told = msgpack.packb(named | {"more": b"{}"})
    life.submit(1, b"{}", priority=7, options=told, timeout_ms=1_500, max_attempts=3)
    life.submit(3, b"[]", due_us=START_US)
    tokens = life.start(2)
    life.table.released(tokens[0], b"{}", life.tick())
    life.table.returned(tokens[1], b"{}", life.tick())
    await life.commit(storage.log)
    written = everything(life.table)
    await write(storage, [written], How.FAST)
    page = storage.reader.page(1, queue_id(1), "email", (9, bytes(16)), 10)
    data = b"".join([chunk async for chunk in page])
    rows = read_rows(JOB_COLUMNS, *written.jobs_copy)
    rows.sort(key=lambda row: (-row["priority"], row["id"]))
    assert [data[start:end] for start, end in split_rows(data)] == [page_row(row) for row in rows]


async def test_what_the_log_says_of_jobs_that_wait_in_the_tables(storage: Storage) -> None:
    """A new owner reads the jobs that the tail names, wherever they stand in their lanes."""
    (old,) = await taker(storage).take([1])
    life = Life(old.table, old.epoch)
    ids = life.submit(8)
    await life.commit(storage.log)
    await project(storage, old)
    life.table.cancelled(ids[6], "no", START_US)
    life.table.change(ids[7], START_US, priority=9)
    await life.commit(storage.log)
    (new,) = await taker(storage, page_jobs=2).take([1])
    jobs = {job["id"]: job["status"] for job in new.table.snapshot()}
    assert jobs == {**dict.fromkeys((ids[0], ids[1], ids[7]), "pending"), ids[6]: "cancelled"}
    follower = Life(new.table, new.epoch)
    assert follower.start(10)[0][:16] == ids[7]
    for waiting in await new.counted:
        new.table.count_away(*(waiting.queue_id, waiting.project_id, waiting.pending, 0))
    assert sum(new.table.counts(follower.queue)) == 7


async def test_scheduled_jobs_beyond_the_horizon_are_not_read(storage: Storage) -> None:
    old = Life(new_table(1))
    near, far = old.submit(1, due_us=START_US + 1_000_000), old.submit(2, due_us=START_US * 2)
    await old.commit(storage.log)
    await write(storage, [everything(old.table)], How.FAST)
    (new,) = await taker(storage).take([1])
    assert [job["id"] for job in new.table.snapshot()] == near
    place = new.table.due_place()
    assert place is not None
    new.table.begin_reading()
    async for chunk in storage.reader.due(1, place, START_US * 3, 10):
        new.table.due_in(chunk)
    new.table.end_reading()
    assert {job["id"] for job in new.table.snapshot()} == {*near, *far}


async def test_what_is_replayed_is_projected_again_without_harm(storage: Storage) -> None:
    (old,) = await taker(storage).take([1])
    life = Life(old.table)
    ids = life.run(6)
    open_ids = life.submit(2)
    await life.commit(storage.log)
    # The executions are there, but the crash came before the jobs.
    projection = everything(life.table)
    await storage.writer.write_executions([projection], How.FAST, {1: NEWEST})
    (new,) = await taker(storage).take([1])
    projector = Projector(storage.writer, lambda: START_US * 2, tick_s=1000.0)
    projector.add(TableSource(new.table, new.epoch), new.early)
    task = asyncio.create_task(projector.run())
    await projector.flush()
    expected = dict.fromkeys(ids, "succeeded") | dict.fromkeys(open_ids, "pending")
    assert await storage.jobs() == expected
    assert len(await storage.executions()) == 6
    assert await storage.reader.watermarks([1]) == {1: new.head_lsn}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_a_crash_left_of_an_attempt_goes_with_its_job(storage: Storage) -> None:
    """Swept while it ran: its execution was written, not the job; the new owner sees its end."""
    (old,) = await taker(storage).take([1])
    life = Life(old.table)
    life.submit(1)
    tokens = life.start(1)
    await life.commit(storage.log)
    await storage.writer.write_executions([everything(life.table)], How.FAST, {1: NEWEST})
    assert [status for _, status, _ in await storage.executions()] == ["started"]
    (new,) = await taker(storage).take([1])
    follower = Life(new.table, new.epoch)
    new.table.queue(queue_id(1), PROJECT, "mail", 0, 1)
    follower.succeed(tokens)
    await follower.commit(storage.log)
    await project(storage, new)
    assert await storage.jobs() == {}
    assert await storage.executions() == []


async def test_keys_come_from_the_tables_and_from_the_log(storage: Storage) -> None:
    (old,) = await taker(storage).take([1])
    life = Life(old.table)
    life.table.keyed(PROJECT, "first", b"1", b"", life.tick())
    await life.commit(storage.log)
    await project(storage, old)
    life.table.keyed(PROJECT, "second", b"2", b"", life.tick())
    await life.commit(storage.log)
    (new,) = await taker(storage).take([1])
    assert [key[1] for key in new.keys] == ["first", "second"]


async def test_the_old_owner_is_fenced(storage: Storage) -> None:
    old = (await taker(storage, "old").take([1]))[0]
    await taker(storage, "new").take([1])
    late = Life(old.table, old.epoch)
    late.run(1)
    batch = late.table.take_batch()
    assert batch is not None
    assert await storage.log.append([LogRow(1, batch[0], old.epoch, batch[1], batch[2])]) == set()


async def test_an_earlier_owner_writes_no_rows_any_more(storage: Storage) -> None:
    """A job without history that ended under the new owner would else come back, and run again."""
    (old,) = await taker(storage, "old").take([1])
    life = Life(old.table, old.epoch)
    life.queue = life.table.queue(queue_id(1), PROJECT, "mail", 0, 1)
    life.submit(1)
    tokens = life.start(1)
    await life.commit(storage.log)
    late = everything(life.table)
    (new,) = await taker(storage, "new").take([1])
    follower = Life(new.table, new.epoch)
    new.table.queue(queue_id(1), PROJECT, "mail", 0, 1)
    follower.succeed(tokens)
    await follower.commit(storage.log)
    await project(storage, new)
    for how in How:
        with pytest.raises(Fenced) as fence:
            await storage.writer.write_executions([late], how, {1: old.epoch})
        assert fence.value.shards == {1}
        with pytest.raises(Fenced):
            await storage.writer.write_jobs([late], how, {1: old.epoch})
    assert await storage.jobs() == {}
    assert await storage.executions() == []
    marks = await storage.reader.watermarks([1])
    assert marks == {1: new.table.committed_lsn}
    (third,) = await taker(storage, "third").take([1])
    assert third.jobs_loaded == 0
    # Who was slow to fence does not open the tables again.
    await storage.reader.fence({1: new.epoch})
    with pytest.raises(Fenced):
        await storage.writer.write_jobs([late], How.MERGE, {1: new.epoch})


async def test_a_takeover_waits_for_what_is_about_to_commit(
    postgres_storage: PostgresStorage,
) -> None:
    """Else it would read the tables before rows that it does not know of."""
    storage = postgres_storage
    (old,) = await taker(storage, "old").take([1])
    writer, look = await storage.make(), await storage.make()
    writing = writer.transaction()
    await writing.start()
    await writer.fetch(sql("watermarks_advance"), [1], [7], [old.epoch])
    fencing = asyncio.create_task(storage.reader.fence({1: old.epoch + 1}))
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    waits += " AND datname = current_database()"
    while not await look.fetchval(waits):  # noqa: ASYNC110 - the server says it, to who asks
        await asyncio.sleep(0)
    assert not fencing.done()
    await writing.commit()
    await fencing
    assert await storage.reader.watermarks([1]) == {1: 7}
    await writer.close()
    await look.close()


async def test_two_takers_at_once_both_end_with_one_owner(storage: Storage) -> None:
    results: list[Any] = await asyncio.gather(
        taker(storage, "a").take(range(4)), taker(storage, "b").take(range(4))
    )
    heads = await storage.log.heads(range(4))
    for shard, (lsn, epoch) in heads.items():
        owners: list[Taken[ShardTable]] = [
            taken for result in results for taken in result if taken.table.shard == shard
        ]
        assert sorted(owner.epoch for owner in owners) == [1, 2]
        assert (lsn, epoch) == (2, 2)


async def test_a_gap_is_named(storage: Storage) -> None:
    life = Life((await taker(storage).take([1]))[0].table)
    for _ in range(4):
        life.run(1)
        await life.commit(storage.log)
    await storage.log.trim({1: 3})
    with pytest.raises(LogGapError, match="shard 1 has a gap: 1 is missing, 3 follows"):
        await taker(storage).take([1])


class BusyLog(MemoryShardLog):
    """Another owner writes between each look and each append."""

    async def append(self, rows: Sequence[LogRow]) -> set[int]:
        for row in rows:
            await super().append([row._replace(body=b"another owner's decisions")])
        return await super().append(rows)


async def test_a_taker_that_always_loses_gives_up() -> None:
    storage = MemoryStorage()
    storage.log = BusyLog()
    with pytest.raises(Unavailable):
        await taker(storage).take([1])


# --- the check ----------------------------------------------------------------------------------


async def test_the_check_reads_the_real_tables(postgres_storage: PostgresStorage) -> None:
    storage = postgres_storage
    queues = [QueueRef(queue_id(s), PROJECT, "mail", 0, QueueSettings(), s) for s in range(3)]
    projector = Projector(storage.writer, lambda: START_US * 2, tick_s=1000.0)
    task = asyncio.create_task(projector.run())
    for taken in await taker(storage).take(range(3)):
        life = Life(taken.table, taken.epoch)
        projector.add(life.source(taken.early), taken.early)
        life.submit_child(*life.run(20)[:2])
        options = msgpack.packb({"unique_key": "u", "tags": ["a", "b"]})
        life.submit(10, payload=b'{"a": 1.50, "b": [1e2, "\xc3\xa4"]}', options=options)
        first, second, third, *_ = life.start(5)
        life.table.succeed_with(first, b'{"ok":true}', life.tick())
        life.table.failed(second, "error", b'{"type":"F"}', life.tick())
        life.table.retried(third, life.tick() + 1_000_000, b'{"type":"E"}', life.now_us)
        await life.commit(storage.log)
    await projector.flush()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    tables = PostgresCheckedTables(storage.make, storage.reader)
    assert await check(storage.log, tables, queues, range(3)) == []
    connection = await storage.make()
    await connection.execute("UPDATE jobs SET attempts = 9 WHERE shard = 1 AND status = 'failed'")
    await connection.execute("DELETE FROM job_executions WHERE shard = 2 AND status = 'failed'")
    await connection.execute("UPDATE monthly_usage SET jobs = jobs - 1 WHERE shard = 2")
    await connection.execute(
        """DELETE FROM job_dependencies AS edge USING jobs
        WHERE jobs.id = edge.parent_job_id AND jobs.shard = 0"""
    )
    await connection.close()
    found = await check(storage.log, tables, queues, range(3))
    kinds = [(difference.kind, difference.shard) for difference in found]
    assert kinds == [
        ("edge missing", 0),
        ("edge missing", 0),
        ("job attempts", 1),
        ("execution missing", 2),
        ("usage jobs", 2),
    ]
