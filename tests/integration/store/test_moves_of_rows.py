"""Rows of jobs that somebody moves while others write: a job stands once, in its newest state."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest
from pogo_core.util.migrate import apply

from taskforge_server.engine.journal.link import Connection
from taskforge_server.engine.journal.postgres import PostgresShardLog
from taskforge_server.engine.journal.rounds import How, Projection
from taskforge_server.engine.journal.tables import PostgresTables
from taskforge_server.engine.store.pool import connect
from tests.support.journal_bench import START_US, Life, new_table

STEP = "0035_open_jobs_apart.sql"
EPOCHS = {1: 1}
TODAY = datetime.fromtimestamp(START_US / 1e6, UTC).date()
WAITS = """SELECT EXISTS (SELECT FROM pg_stat_activity
    WHERE wait_event_type = 'Lock' AND datname = current_database())"""
JOBS = "SELECT status, tableoid::regclass::text AS place FROM jobs"


async def begun(look: Connection, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Somebody's work, once it waits for the test."""
    task = asyncio.create_task(work)
    while not task.done() and not await look.fetchval(WAITS):  # noqa: ASYNC110 - the server says it
        await asyncio.sleep(0)
    return task


class Bench:
    """A shard with one job, what of it is written, and a look at the rows."""

    def __init__(self, url: str, look: Connection) -> None:
        make = partial(connect, url, application_name="test moves")
        self.log = PostgresShardLog(make)
        self.writer = PostgresTables(make)
        self.life = Life(new_table(1))
        self.look = look

    async def failed_and_put_back(self) -> Projection:
        """The job failed, and its row says so. Now it waits again: what is to be written."""
        (job_id,) = self.life.submit(1)
        (token,) = self.life.start(1)
        self.life.table.failed(token, "error", b'{"type":"E"}', self.life.tick())
        snapshot = self.life.table.get(job_id)
        assert snapshot is not None
        failed = await self._collect()
        await self.writer.write_jobs([failed], How.FAST, EPOCHS)
        self.life.table.projected(failed)
        self.life.table.requeue(snapshot, self.life.tick())
        return await self._collect()

    async def _collect(self) -> Projection:
        await self.life.commit(self.log)
        projection = self.life.table.collect(1_000, START_US * 2)
        assert projection is not None
        return projection

    async def rows(self) -> list[tuple[str, str]]:
        return [(row["status"], row["place"]) for row in await self.look.fetch(JOBS)]


@pytest.fixture
async def bench(postgres_url: str, connection: Connection) -> AsyncIterator[Bench]:
    bench = Bench(postgres_url, connection)
    yield bench
    await bench.log.close()
    await bench.writer.close()


@pytest.mark.parametrize("how", [How.FAST, How.MERGE])
async def test_a_day_is_made_while_a_job_of_it_is_put_back(bench: Bench, how: How) -> None:
    """Its row moves from the default partition into the new day."""
    put_back = await bench.failed_and_put_back()
    assert await bench.rows() == [("failed", "jobs_default")]
    async with bench.look.transaction():
        await bench.look.execute("SELECT ensure_partitions($1, $1)", TODAY)
        writing = await begun(bench.look, bench.writer.write_jobs([put_back], how, EPOCHS))
    await writing
    assert await bench.rows() == [("pending", "jobs_open")]


async def test_a_day_goes_while_a_job_of_it_is_put_back(bench: Bench, postgres_url: str) -> None:
    """The day was taken out already, and its job has to stay: nobody knows its queue."""
    await bench.look.execute("SELECT ensure_partitions($1, $1)", TODAY)
    put_back = await bench.failed_and_put_back()
    assert await bench.look.fetchval("SELECT detach_day($1)", TODAY)
    other = await connect(postgres_url, application_name="test other")
    dropping = []

    async def turn() -> None:
        """Of what is written and not committed yet."""
        drop = other.fetchval("SELECT drop_detached_jobs($1, '{}', '{}')", TODAY)
        dropping.append(await begun(bench.look, drop))

    await bench.writer.write_jobs([put_back], How.FAST, EPOCHS, turn)
    await asyncio.gather(*dropping)
    assert await bench.rows() == [("pending", "jobs_open")]
    await other.close()


async def test_attempts_are_read_while_open_jobs_are_moved(
    empty_postgres_url: str, tmp_path: Path
) -> None:
    """Who reads them has them, and comes for jobs then: the step must not wait for the one with
    the other in its hands."""
    with as_file(files("taskforge_server.engine.store") / "migrations") as folder:
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    text = (tmp_path / STEP).read_text()
    (tmp_path / STEP).unlink()
    locks, _, rest = text.partition("-- migrate: apply")[2].partition(";")
    step, reader, look = [
        await connect(empty_postgres_url, application_name="test step") for _ in range(3)
    ]
    await apply(step, tmp_path, schema_name="public")
    for connection in (step, reader):
        await connection.execute("SET deadlock_timeout = '1ms'")

    async def read() -> list[Any]:
        async with reader.transaction():
            await reader.execute("SET LOCAL ROLE taskforge_tenant")
            return list(await reader.fetch("SELECT FROM job_executions"))

    async with step.transaction():
        await step.execute(locks)
        reading = await begun(look, read())
        await step.execute(rest.partition("-- migrate: rollback")[0])
    assert await reading == []
    for connection in (step, reader, look):
        await connection.close()
