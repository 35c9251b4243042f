"""Partitions: one for open jobs, and days that any number of nodes make ahead."""

import asyncio
from datetime import UTC, datetime, timedelta

from taskforge_server.engine import limits
from taskforge_server.engine.store.job_queries import EPOCH
from taskforge_server.engine.store.partitions import ensure_partitions
from taskforge_server.engine.store.pool import Connection, Pool
from tests.support.rows import Rows, copy_jobs

TABLES = 3
OPEN_INDEXES = {"jobs_bound", "jobs_pending", "jobs_scheduled", "jobs_running"}
DAY = timedelta(days=1)


def rows_of(day: datetime) -> Rows:
    return Rows(1, bytes(16), bytes(16), (day - EPOCH) // timedelta(microseconds=1))


async def server_noon(connection: Connection) -> datetime:
    now: datetime = await connection.fetchval("SELECT now()")
    return now.astimezone(UTC).replace(hour=12, minute=0, second=0, microsecond=0)


async def where(connection: Connection, job_id: bytes) -> str:
    name: str = await connection.fetchval(
        "SELECT tableoid::regclass::text FROM jobs WHERE id = $1", job_id
    )
    return name


async def test_made_ahead_and_again(connection: Connection) -> None:
    assert await ensure_partitions(connection) == 0, "migrating made them"
    noon = await server_noon(connection)
    rows = rows_of(noon + limits.PARTITIONS_AHEAD_DAYS * DAY)
    job = rows.job(status="succeeded")
    await copy_jobs(connection, [job])
    day = f"{noon + limits.PARTITIONS_AHEAD_DAYS * DAY:%Y%m%d}"
    assert await where(connection, job["id"]) == f"jobs_p{day}"


async def test_several_nodes_at_once(pool: Pool) -> None:
    async def one() -> int:
        async with pool.acquire() as connection:
            return await ensure_partitions(connection, limits.PARTITIONS_AHEAD_DAYS + 2)

    assert sorted(await asyncio.gather(*(one() for _ in range(4)))) == [0, 0, 0, 2 * TABLES]


async def test_midnight_is_a_border(connection: Connection) -> None:
    midnight = (await server_noon(connection)).replace(hour=0)
    rows = rows_of(midnight - timedelta(milliseconds=1))
    rows.step_us = 0
    last = rows.job(status="succeeded")
    rows.now_us += 1000
    first = rows.job(status="succeeded")
    await copy_jobs(connection, [last, first])
    assert await where(connection, last["id"]) == f"jobs_p{midnight - DAY:%Y%m%d}"
    assert await where(connection, first["id"]) == f"jobs_p{midnight:%Y%m%d}"


async def test_rows_of_the_default_partition_move(connection: Connection) -> None:
    far = limits.PARTITIONS_AHEAD_DAYS + 1
    rows = rows_of(await server_noon(connection) + far * DAY)
    job = rows.job(status="cancelled")
    await copy_jobs(connection, [job])
    assert await where(connection, job["id"]) == "jobs_default"
    assert await ensure_partitions(connection, far) == TABLES
    assert (await where(connection, job["id"])).startswith("jobs_p")
    assert await connection.fetchval("SELECT count(*) FROM jobs") == 1


async def test_an_open_job_has_no_day(connection: Connection) -> None:
    """It moves to that of its id when it ends."""
    noon = await server_noon(connection)
    rows = rows_of(noon)
    jobs = [rows.job(), rows.job(status="scheduled"), rows.job(status="processing")]
    await copy_jobs(connection, jobs)
    assert {await where(connection, job["id"]) for job in jobs} == {"jobs_open"}
    end = "UPDATE jobs SET status = 'succeeded', finished_at = now() WHERE id = $1"
    await connection.execute(end, jobs[0]["id"])
    assert await where(connection, jobs[0]["id"]) == f"jobs_p{noon:%Y%m%d}"


async def test_partitions_have_every_index(connection: Connection) -> None:
    """Days have those of ended jobs; what leads to open ones is theirs alone."""
    rows = await connection.fetch(
        """SELECT indrelid::regclass::text AS name, count(*) AS indexes,
            array_agg(indexrelid::regclass::text) AS names FROM pg_index
        WHERE indrelid::regclass::text LIKE 'jobs%' GROUP BY 1"""
    )
    indexes = {row["name"]: row["indexes"] for row in rows}
    names = {row["name"]: set(row["names"]) for row in rows}
    of_all, of_open = indexes.pop("jobs"), indexes.pop("jobs_open")
    assert set(indexes.values()) == {of_all + 1}, "and a primary key"
    assert of_open == of_all + 1 + len(OPEN_INDEXES)
    assert names["jobs_open"] >= OPEN_INDEXES
    assert len(indexes) > limits.PARTITIONS_AHEAD_DAYS
