"""Where a round is copied to: straight into the partition of its day, or into the table."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from functools import partial

import asyncpg
import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.journal.link import Connection
from taskforge_server.engine.journal.postgres import PostgresShardLog
from taskforge_server.engine.journal.rounds import How, Projection
from taskforge_server.engine.journal.statements import sql
from taskforge_server.engine.journal.tables import PostgresTables
from taskforge_server.engine.store.pool import connect
from tests.support.journal_bench import START_US, TOLD, Life, new_table

EPOCHS = {1: 1}
DAY = timedelta(days=1)
TODAY = datetime.fromtimestamp(START_US / 1e6, UTC).date()
MIDNIGHT_US = int(datetime.combine(TODAY + DAY, datetime.min.time(), UTC).timestamp()) * 1_000_000
# A trigger for the whole statement is that of the table which the statement names.
NOTE_COPIES = """
    CREATE TABLE copies (target text);
    CREATE FUNCTION note_copy() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO copies VALUES (TG_TABLE_NAME);
        RETURN NULL;
    END $$;
    DO $$ DECLARE target regclass; BEGIN
        FOR target IN
            SELECT relid FROM pg_partition_tree('jobs')
            UNION ALL SELECT relid FROM pg_partition_tree('job_executions')
        LOOP
            EXECUTE format('CREATE TRIGGER note_copy BEFORE INSERT ON %s
                FOR EACH STATEMENT EXECUTE FUNCTION note_copy()', target);
        END LOOP;
    END $$"""
PLACES = """
    SELECT tableoid::regclass::text AS place FROM jobs
    UNION ALL SELECT tableoid::regclass::text FROM job_executions ORDER BY place"""


class Bench:
    """Rounds of one shard, where they are copied to, and where their rows are."""

    def __init__(self, url: str, look: Connection) -> None:
        make = partial(connect, url, application_name="test days")
        self.log = PostgresShardLog(make)
        self.writer = PostgresTables(make)
        self.life = Life(new_table(1))
        self.look = look

    async def write(self) -> list[str]:
        """Write what was decided since the last time; which tables it was copied to."""
        projection = await self.collect()
        await self.writer.write_executions([projection], How.FAST, EPOCHS)
        await self.writer.write_jobs([projection], How.FAST, EPOCHS, self.turn)
        self.life.table.projected(projection)
        targets = await self.look.fetch("DELETE FROM copies RETURNING target")
        return sorted(row["target"] for row in targets)

    async def collect(self) -> Projection:
        """What was decided since the last time."""
        await self.life.commit(self.log)
        projection = self.life.table.collect(1_000, START_US * 2)
        assert projection is not None
        return projection

    async def turn(self) -> None:
        """The turn of jobs that are copied and not committed yet."""

    async def places(self) -> list[str]:
        return [row["place"] for row in await self.look.fetch(PLACES)]


def parts(day: date) -> list[str]:
    """Those of attempts, and of jobs that ended."""
    return [f"{table}_p{day:%Y%m%d}" for table in ("job_executions", "jobs")]


OPEN = "jobs_open"


@pytest.fixture
async def bench(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(limits, "COPY_PARTITION_BYTES_MIN", 1)
    look = await connect(postgres_url, application_name="test look")
    await look.execute("SELECT ensure_partitions($1, $2)", TODAY, TODAY + DAY)
    await look.execute(NOTE_COPIES)
    bench = Bench(postgres_url, look)
    yield bench
    await bench.log.close()
    await bench.writer.close()
    await look.close()


async def test_rows_of_one_day_go_into_its_partition(bench: Bench) -> None:
    bench.life.run(2)
    assert await bench.write() == parts(TODAY)
    assert await bench.places() == sorted(parts(TODAY) * 2)


async def test_rows_of_both_forms_go_there(bench: Bench) -> None:
    bench.life.run(1)
    bench.life.submit(1)
    bench.life.submit(1, options=TOLD)
    assert await bench.write() == sorted([*parts(TODAY), OPEN, OPEN])
    assert await bench.places() == sorted([*parts(TODAY), OPEN, OPEN])


async def test_few_rows_go_into_the_table(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "COPY_PARTITION_BYTES_MIN", 10_000)
    bench.life.run(2)
    assert await bench.write() == ["job_executions", "jobs"]
    assert await bench.places() == sorted(parts(TODAY) * 2)


async def test_jobs_that_ended_go_from_the_open_ones_into_their_day(bench: Bench) -> None:
    bench.life.submit(1)
    assert await bench.write() == [OPEN]
    bench.life.succeed(bench.life.start(1))
    assert await bench.write() == parts(TODAY)
    assert await bench.places() == parts(TODAY)


@pytest.mark.parametrize("how", list(How))
async def test_a_job_stands_once_however_it_is_written(bench: Bench, how: How) -> None:
    """It ends, and what is late or comes again is older than what is there."""
    rounds = []
    for step in (lambda: bench.life.submit(1), lambda: bench.life.succeed(bench.life.start(1))):
        step()
        rounds.append(await bench.collect())
        await bench.writer.write_jobs(rounds[-1:], how, EPOCHS)
    assert await bench.places() == [parts(TODAY)[1]]
    for late in (How.MERGE, How.CAREFUL):
        for again in rounds:
            await bench.writer.write_jobs([again], late, EPOCHS)
            assert await bench.places() == [parts(TODAY)[1]]
    assert not bench.writer.refused_rows


async def test_open_jobs_of_two_days_go_where_open_jobs_are(bench: Bench) -> None:
    bench.life.now_us = MIDNIGHT_US - 10_000
    bench.life.submit(1)
    bench.life.now_us = MIDNIGHT_US
    bench.life.submit(1)
    assert await bench.write() == [OPEN]
    assert await bench.places() == [OPEN, OPEN]


async def test_rows_of_two_days_go_into_the_table(bench: Bench) -> None:
    bench.life.now_us = MIDNIGHT_US - 10_000
    bench.life.run(1)
    bench.life.now_us = MIDNIGHT_US
    bench.life.run(1)
    assert await bench.write() == ["job_executions", "jobs"]
    assert await bench.places() == sorted(parts(TODAY) + parts(TODAY + DAY))


async def test_an_attempt_is_of_the_day_in_which_it_began(bench: Bench) -> None:
    bench.life.submit(1)
    bench.life.now_us = MIDNIGHT_US
    bench.life.succeed(bench.life.start(1))
    places = [parts(TODAY + DAY)[0], parts(TODAY)[1]]
    assert await bench.write() == places
    assert await bench.places() == places


async def test_rows_of_a_day_without_partition_go_into_the_table(bench: Bench) -> None:
    bench.life.now_us += 5 * DAY // timedelta(microseconds=1)
    bench.life.run(1)
    assert await bench.write() == ["job_executions", "jobs"]
    assert await bench.places() == ["job_executions_default", "jobs_default"]


async def test_rows_of_a_day_that_was_taken_out_go_into_the_table(bench: Bench) -> None:
    bench.life.run(1)
    assert await bench.write() == parts(TODAY)
    await bench.look.execute("SELECT detach_day($1)", TODAY)
    bench.life.run(1)
    assert await bench.write() == ["job_executions", "jobs"]
    assert await bench.places() == ["job_executions_default", "jobs_default"]


async def test_no_day_is_taken_out_while_rows_are_copied_into_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who changes a table and then its partitions waits at the table, before it has anything."""
    tried = []

    async def detach() -> None:
        await bench.look.execute("SET lock_timeout = '20ms'")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await bench.look.execute("SELECT detach_day($1)", TODAY)
        with pytest.raises(asyncpg.LockNotAvailableError):
            async with bench.look.transaction():
                await bench.look.execute("LOCK TABLE ONLY jobs")
        tried.append(TODAY)

    monkeypatch.setattr(bench, "turn", detach)
    bench.life.run(1)
    assert await bench.write() == parts(TODAY)
    assert tried == [TODAY]


async def test_a_partition_that_is_not_ours_to_fill_is_left_to_its_table(bench: Bench) -> None:
    """The rights on a table are not those on its partitions, nor is their row security."""
    look, (_, part) = bench.look, parts(TODAY)
    days = (TODAY - date(1970, 1, 1)).days

    async def found() -> str | None:
        await look.execute("SET LOCAL ROLE copier")
        name: str | None = await look.fetchval(sql("jobs_partition"), days)
        await look.execute("RESET ROLE")
        return name

    changes = look.transaction()
    await changes.start()
    await look.execute("CREATE ROLE copier")
    await look.execute("GRANT SELECT, INSERT, DELETE ON jobs TO copier")
    assert await found() is None
    await look.execute(f"GRANT INSERT ON {part} TO copier")
    assert await found() == part
    await look.execute(f"ALTER TABLE {part} ENABLE ROW LEVEL SECURITY")
    assert await found() is None
    await changes.rollback()
