"""The journal against the real server: plans, and a server that ends its connections."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import asyncpg
import pytest

from taskforge_server.api.cli.embedded import EmbeddedServers
from taskforge_server.engine.journal.direct import DirectStatement
from taskforge_server.engine.journal.link import Connection
from taskforge_server.engine.journal.log import LogRow
from taskforge_server.engine.journal.postgres import PostgresShardLog
from taskforge_server.engine.journal.projector import Projector
from taskforge_server.engine.journal.rounds import How, TableSource
from taskforge_server.engine.journal.statements import sql
from taskforge_server.engine.journal.tables import PostgresTables, whole_days
from taskforge_server.engine.store.pool import connect
from taskforge_server.ext.ids import IdSource
from tests.support.faultproxy import fault_proxy
from tests.support.journal_bench import START_US, Life, new_table

DAY = timedelta(days=1)
VICTIMS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1"
WAITS = """
SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'
"""
FILL = """
INSERT INTO shard_log (shard, lsn, epoch, events, body)
SELECT shard, lsn, 1, 1, '\\x00'
FROM generate_series(0, 63) AS shard, generate_series(1, 500) AS lsn
"""


@pytest.fixture
async def look(postgres_url: str) -> AsyncIterator[Connection]:
    """A connection of the test's own."""
    connection = await connect(postgres_url, application_name="test look")
    yield connection
    await connection.close()


def connector(url: str) -> Callable[[], Awaitable[Connection]]:
    return partial(connect, url, application_name="victim")


def body(shard: int, lsn: int) -> bytes:
    return f"{shard:>6}.{lsn:>9}".encode().ljust(2_000, b"-")


class Progress:
    """Lets the killer strike once for every step of the work, and no more often."""

    def __init__(self) -> None:
        self._steps = asyncio.Semaphore(0)
        self.ended = 0

    def step(self) -> None:
        self._steps.release()

    async def kill(self, look: Connection) -> None:
        """End the victims' connections at each step, wherever they are by then."""
        while True:
            await self._steps.acquire()
            self.ended += len(await look.fetch(VICTIMS, "victim"))


@pytest.mark.parametrize("ours", [True, False])
async def test_a_row_that_meets_another_one_on_its_way(
    postgres_url: str, look: Connection, ours: bool
) -> None:
    """The primary key makes it wait for the transaction that was first, and tell by its end."""
    log = PostgresShardLog(connector(postgres_url))
    await log.append([LogRow(1, 1, 1, 1, body(1, 1))])
    other = look.transaction()
    await other.start()
    written = body(1, 2) if ours else body(7, 7)
    await look.execute(sql("log_append_one"), 1, 2, 1, 1, written)
    append = asyncio.create_task(log.append([LogRow(1, 2, 1, 1, body(1, 2))]))
    while not await look.fetchval(WAITS, "victim"):
        pass
    await other.commit()
    assert await append == ({1} if ours else set())
    assert await log.append([LogRow(1, 3, 1, 1, body(1, 3))]) == {1}
    await log.close()


async def test_a_call_without_an_answer_is_cut_when_its_own_time_is_up(
    servers: EmbeddedServers, postgres_url: str
) -> None:
    name = postgres_url.split("?")[0].rsplit("/", 1)[1]
    async with fault_proxy(servers.postgres.run_dir / ".s.PGSQL.5432") as proxy:
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}?sslmode=disable"
        connection = await connect(url, application_name="test direct")
        slow = await connection.prepare("SELECT pg_sleep(0.15)")
        direct = DirectStatement(connection, slow, timeout_s=0.2)
        assert await direct.run(()) == b"SELECT 1"
        proxy.blackhole()
        begun_s = asyncio.get_running_loop().time()
        with pytest.raises(asyncpg.ConnectionDoesNotExistError):
            await direct.run(())
        assert asyncio.get_running_loop().time() - begun_s > 0.15  # not with the time of the first
        with pytest.raises(asyncpg.InterfaceError):
            await direct.run(())


# asyncpg leaves a socket to the garbage collector when the server ends it while it connects.
UNCLOSED = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@UNCLOSED
async def test_appends_while_connections_are_ended(postgres_url: str, look: Connection) -> None:
    log = PostgresShardLog(connector(postgres_url))

    progress = Progress()

    async def write() -> None:
        for lsn in range(1, 61):
            if lsn % 4 == 0:
                progress.step()
            rows = [LogRow(shard, lsn, 1, 1, body(shard, lsn)) for shard in range(3)]
            assert await log.append(rows) == {0, 1, 2}

    killer = asyncio.create_task(progress.kill(look))
    await write()
    killer.cancel()
    await asyncio.gather(killer, return_exceptions=True)
    assert progress.ended > 0
    for shard in range(3):
        rows = [row async for row in log.read(shard, 0)]
        assert [row.lsn for row in rows] == list(range(1, 61))
        assert all(row.body == body(row.shard, row.lsn) for row in rows)
    await log.close()


@UNCLOSED
async def test_projection_while_connections_are_ended(postgres_url: str, look: Connection) -> None:
    log = PostgresShardLog(partial(connect, postgres_url, application_name="steady"))
    tables = PostgresTables(connector(postgres_url))
    life = Life(new_table(1))
    projector = Projector(tables, lambda: START_US * 2, tick_s=1000.0)
    projector.add(TableSource(life.table, 1))
    running = asyncio.create_task(projector.run())
    ids: list[bytes] = []

    progress = Progress()

    async def write() -> None:
        for _ in range(10):
            progress.step()
            ids.extend(life.run(50))
            await life.commit(log)
            await projector.flush()

    killer = asyncio.create_task(progress.kill(look))
    await write()
    for task in (running, killer):
        task.cancel()
    await asyncio.gather(running, killer, return_exceptions=True)
    assert progress.ended > 0
    rows = await look.fetch("SELECT id, status FROM jobs WHERE status = 'succeeded'")
    assert sorted(row["id"] for row in rows) == sorted(ids)
    assert await look.fetchval("SELECT count(*) FROM job_executions") == len(ids)
    assert await look.fetchval("SELECT lsn FROM shard_projection WHERE shard = 1") == 10
    await tables.close()
    await log.close()


@pytest.mark.parametrize(
    ("name", "tables"),
    [
        ("jobs_replaced", ("jobs", "jobs_open", "jobs_ended", "jobs_p{day}")),
        ("executions_replaced", ("job_executions", "job_executions_p{day}")),
    ],
)
async def test_rows_are_replaced_in_the_partitions_of_their_days(
    look: Connection, name: str, tables: tuple[str, ...]
) -> None:
    """However many days are kept, no other is planned for, nor locked."""
    day = datetime.fromtimestamp(START_US / 1e6, UTC).date()
    await look.execute("SELECT ensure_partitions($1, $2)", day - DAY, day + DAY)
    await look.execute(sql("projector_session"), "10000", "10000")
    ids = [IdSource(1, number).next(START_US + number) for number in range(2)]
    async with look.transaction():
        await look.execute(sql(name), b"".join(ids), *whole_days(*ids), [0, 9])
        locked = await look.fetch(
            "SELECT relname FROM pg_locks JOIN pg_class ON pg_class.oid = relation"
            " WHERE pid = pg_backend_pid() AND mode = 'RowExclusiveLock' AND relkind IN ('r', 'p')"
        )
    assert {row["relname"] for row in locked} == {
        table.format(day=f"{day:%Y%m%d}") for table in tables
    }


async def test_rows_are_found_by_their_ids_before_statistics_know_of_them(
    postgres_url: str, look: Connection
) -> None:
    """A scan of all that is newer than the statistics, for each row, would take hours."""
    log = PostgresShardLog(partial(connect, postgres_url, application_name="test journal"))
    tables = PostgresTables(partial(connect, postgres_url, application_name="test journal"))
    life = Life(new_table(1))
    for number in range(2):
        ids = life.submit(1_000) if number else life.run(1_000)
        await life.commit(log)
        projection = life.table.collect(1_000_000, START_US * 2)
        assert projection is not None
        await tables.write_jobs([projection], How.FAST, {1: 1})
        life.table.projected(projection)
        if not number:
            await look.execute("ANALYZE jobs")
    await look.execute(sql("projector_session"), "10000", "10000")
    explain = "EXPLAIN (FORMAT JSON) " + sql("jobs_replaced")
    known = b"".join(ids), *whole_days(ids[0], ids[-1]), [0, 9]
    plan = json.loads(await look.fetchval(explain, *known))
    _, rows = plan[0]["Plan"]["Plans"]
    assert {scan["Relation Name"] for scan in rows["Plans"]} == {"jobs_open", "jobs_default"}
    for scan in rows["Plans"]:
        assert scan["Node Type"] == "Index Scan"
        assert "= ANY" in scan["Index Cond"]
    await tables.close()
    await log.close()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("log_append", ([1, 2], [501, 501], [1, 1], [1, 1], [b"a", b"b"])),
        ("log_append_one", (1, 501, 1, 1, b"a")),
        ("log_heads", (list(range(64)),)),
        ("log_prefixes", ([1], [500], 16)),
        ("log_read", ([1, 2], [490, 490])),
        ("log_trim", ([1, 2], [10, 10])),
    ],
)
async def test_the_log_is_reached_by_its_key(
    look: Connection, name: str, arguments: tuple[Any, ...]
) -> None:
    await look.execute(FILL)
    await look.execute("ANALYZE shard_log")
    await look.execute("SET plan_cache_mode = force_generic_plan")
    plan = json.loads(await look.fetchval(f"EXPLAIN (FORMAT JSON) {sql(name)}", *arguments))
    scans = [node for node in nodes(plan[0]["Plan"]) if node.get("Relation Name") == "shard_log"]
    assert scans
    assert not [node for node in scans if node["Node Type"] == "Seq Scan"]


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """All nodes of a plan."""
    return [plan, *(node for below in plan.get("Plans", []) for node in nodes(below))]
