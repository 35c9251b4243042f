"""Finished jobs past their days: whole days go with their partitions, the rest by rows, and what
has not ended stays."""

import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import asyncpg
import pytest

from taskforge_server.engine.store.pool import Connection, Pool
from taskforge_server.engine.store.retention import Keeper, Retention
from tests.integration.store.conftest import Tenant
from tests.support.rows import Rows, copy_executions, copy_jobs
from tests.support.tenancy import make_queue, stranger

DAY = timedelta(days=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Ground(NamedTuple):
    """Two organisations; one keeps 7 days, the other as many as a test says."""

    connection: Connection
    today: datetime
    mine: Rows
    theirs: Rows
    organizations: tuple[bytes, bytes]

    def noon(self, days_ago: int) -> datetime:
        return self.today - days_ago * DAY + DAY / 2

    async def partitions(self, first: int, last: int) -> None:
        days = [(self.today - ago * DAY).date() for ago in (first, last)]
        await self.connection.execute("SELECT ensure_partitions($1, $2)", *days)

    async def put(
        self, rows: Rows, came: int, ended: int | None = None, ran: Sequence[int] = ()
    ) -> bytes:
        """A job of so many days ago, ended some days ago if at all, with attempts of some days;
        each has a line."""
        rows.now_us = _us(self.noon(came))
        ends: dict[str, Any] = {"attempts": len(ran)}
        if ended is not None:
            ends |= {"status": "succeeded", "finished_at": _us(self.noon(ended))}
            ends["started_at"] = _us(self.noon(ran[-1])) if ran else None
        job = rows.job(**ends)
        await copy_jobs(self.connection, [job])
        for number, day in enumerate(ran, start=1):
            rows.now_us = _us(self.noon(day))
            over = ended is not None and number == len(ran)
            attempt = rows.execution(job, number, status="succeeded" if over else "retrying")
            await copy_executions(self.connection, [attempt])
            await self.connection.execute(
                """INSERT INTO execution_logs (id, execution_id, project_id, level, message)
                VALUES ($1, $2, $3, 'info', 'm')""",
                attempt["id"][:8] + uuid.uuid4().bytes[8:],
                attempt["id"],
                rows.project_id,
            )
        return bytes(job["id"])

    def retention(
        self, theirs: int | None = 7, connection: "Connection | None" = None
    ) -> Retention:
        since = None if theirs is None else self.today - theirs * DAY
        mine, other = self.organizations
        keepers = [Keeper(mine, self.today - 7 * DAY), Keeper(other, since)]
        return Retention(connection or self.connection, keepers)

    async def round(self, theirs: int | None = 7, rows_max: int = 2) -> tuple[int, int]:
        """How many days went whole, and how many jobs by rows."""
        retention = self.retention(theirs)
        assert await retention.begin()
        dropped = [await retention.drop(day, rows_max) for day in await retention.days()]
        deleted = [await retention.delete(keeper, rows_max) for keeper in retention.keepers]
        return sum(dropped), sum(deleted)

    async def left(self) -> set[bytes]:
        """The jobs that are there; attempts and lines must be theirs."""
        jobs = {row["id"] for row in await self.connection.fetch("SELECT id FROM jobs")}
        orphans = await self.connection.fetchval(
            """SELECT count(*) FROM job_executions
            WHERE NOT EXISTS (SELECT FROM jobs WHERE jobs.id = job_executions.job_id)"""
        )
        lines = await self.connection.fetchval(
            """SELECT count(*) FROM execution_logs
            FULL JOIN job_executions ON job_executions.id = execution_logs.execution_id
            WHERE job_executions.id IS NULL OR execution_logs.id IS NULL"""
        )
        assert (orphans, lines) == (0, 0)
        return jobs


@pytest.fixture
async def ground(pool: Pool, connection: Connection, tenant: Tenant) -> Ground:
    other_organization, other_project = await stranger(connection)
    now: datetime = await connection.fetchval("SELECT now()")
    rows = []
    for project_id in (tenant.project_id, other_project):
        queue_id = await make_queue(pool, project_id)
        rows.append(Rows(len(rows) + 1, queue_id, project_id, 0))
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    organizations = (tenant.organization_id, other_organization)
    return Ground(connection, today, rows[0], rows[1], organizations)


@pytest.fixture
async def second(postgres_url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


def _us(at: datetime) -> int:
    return (at - EPOCH) // timedelta(microseconds=1)


async def test_a_day_that_nobody_keeps_goes_with_its_partitions(ground: Ground) -> None:
    await ground.partitions(10, 5)
    for days in (10, 9, 8):
        await ground.put(ground.mine, days, days, ran=[days])
        await ground.put(ground.theirs, days, days, ran=[days])
    young = await ground.put(ground.mine, 7, 7, ran=[7])
    assert await ground.round() == (3, 0), "no row was deleted by itself"
    assert await ground.left() == {young}
    assert await ground.round() == (0, 0)


async def test_old_jobs_that_have_not_ended_are_never_lost(ground: Ground) -> None:
    await ground.partitions(20, 5)
    waiting = await ground.put(ground.mine, 20)
    tried = await ground.put(ground.theirs, 19, ran=[18, 17])
    late = await ground.put(ground.mine, 16, ended=3, ran=[15, 3])
    for days in range(20, 14, -1):
        await ground.put(ground.mine, days, days, ran=[days])
    # Their days stay, and those of their attempts; others of these days went row by row.
    assert await ground.round() == (7, 6)
    assert await ground.left() == {waiting, tried, late}
    assert await ground.round() == (0, 0)


async def test_attempts_of_another_day_go_with_their_job(ground: Ground) -> None:
    """Of jobs that came before midnight and ran after it; more than one transaction of them."""
    await ground.partitions(10, 5)
    for _ in range(5):
        await ground.put(ground.mine, 10, ended=8, ran=[10, 9, 8])
    kept = await ground.put(ground.mine, 9, ended=1, ran=[9, 8, 1])
    await ground.round()
    assert await ground.left() == {kept}


async def test_who_keeps_longer_is_not_touched(ground: Ground) -> None:
    await ground.partitions(10, 5)
    for _ in range(5):
        await ground.put(ground.mine, 9, ended=8, ran=[9, 8])
    theirs = await ground.put(ground.theirs, 9, ended=9, ran=[9])
    for days in (None, 9):
        await ground.round(theirs=days)
        assert await ground.left() == {theirs}
    assert await ground.round() == (1, 0)
    assert await ground.left() == set()


async def test_a_job_that_runs_again_while_its_day_is_looked_at_stays(ground: Ground) -> None:
    await ground.partitions(9, 9)
    again = await ground.put(ground.mine, 9, ended=9)
    await ground.put(ground.mine, 9, ended=9, ran=[9])
    retention = ground.retention()
    await retention.begin()
    (day,) = [day for day in await retention.days() if day == ground.noon(9).date()]
    # Before it is detached: it is pending, or ended a moment ago.
    await ground.connection.execute(
        "UPDATE jobs SET status = 'pending', finished_at = NULL WHERE id = $1", again
    )
    assert not await ground.connection.fetchval("SELECT detach_day($1)", day)
    await ground.connection.execute(
        "UPDATE jobs SET status = 'succeeded', finished_at = now() WHERE id = $1", again
    )
    assert await ground.connection.fetchval("SELECT detach_day($1)", day)
    # Here a node was killed. The next round finds what it left, and puts back what must stay.
    assert await ground.left() == set()
    assert await ground.round() == (1, 0)
    assert await ground.left() == {again}
    assert day not in await retention.days()


async def test_a_table_that_is_read_is_left_for_later(ground: Ground, second: Connection) -> None:
    await ground.partitions(9, 9)
    gone = await ground.put(ground.mine, 9, ended=9)
    async with second.transaction():
        await second.fetch("SELECT FROM jobs")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await ground.round()
        assert await ground.left() == {gone}
        assert not await ground.retention(connection=second).begin(), "one at a time"
    assert await ground.round() == (1, 0)


async def test_the_default_partition_goes_by_rows(ground: Ground) -> None:
    for _ in range(5):
        await ground.put(ground.mine, 30, ended=30, ran=[30])
    kept = await ground.put(ground.mine, 30)
    assert await ground.round() == (0, 5)
    assert await ground.left() == {kept}
