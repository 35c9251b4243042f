"""Two rounds that are written at once: what the later one does before its turn."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest

from taskforge_server.engine.journal.link import Connection
from taskforge_server.engine.journal.postgres import PostgresShardLog
from taskforge_server.engine.journal.rounds import How, Projection
from taskforge_server.engine.journal.tables import PostgresTables
from taskforge_server.engine.store.pool import connect
from tests.support.journal_bench import START_US, Life, new_table

EPOCHS = {1: 1}


class Bench:
    """The tables, a writer of theirs, and a look at them from outside."""

    def __init__(self, url: str, look: Connection) -> None:
        make = partial(connect, url, application_name="test rounds")
        self.log = PostgresShardLog(make)
        self.writer = PostgresTables(make)
        self.life = Life(new_table(1))
        self._look = look

    async def statuses(self) -> list[str]:
        rows = await self._look.fetch("SELECT status FROM jobs ORDER BY status")
        return [row["status"] for row in rows]

    async def replaced(self) -> int:
        """How many rows a transaction under way has replaced: it keeps them locked."""
        free = await self._look.fetch("SELECT id FROM jobs FOR UPDATE SKIP LOCKED")
        return len(await self.statuses()) - len(free)

    async def collect(self) -> Projection:
        """What was decided since the last time, durable."""
        await self.life.commit(self.log)
        projection = self.life.table.collect(1_000, START_US * 2)
        assert projection is not None
        return projection

    async def two_rounds(self, *, again: bool) -> tuple[Projection, Projection]:
        """Two jobs wait in the tables; what becomes of them, or of one of them `again`."""
        self.life.submit(2)
        waiting = await self.collect()
        await self.writer.write_jobs([waiting], How.FAST, EPOCHS)
        self.life.table.projected(waiting)
        tokens = self.life.start(1)
        if not again:
            self.life.succeed(tokens)
        first = await self.collect()
        self.life.succeed(tokens if again else self.life.start(1))
        return first, await self.collect()


class Turn:
    """The turn of a round: when it is asked for, and when it comes."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.come = asyncio.Event()

    async def __call__(self) -> None:
        self.asked.set()
        await self.come.wait()


@pytest.fixture
async def bench(postgres_url: str) -> AsyncIterator[Bench]:
    look = await connect(postgres_url, application_name="test look")
    bench = Bench(postgres_url, look)
    yield bench
    await bench.log.close()
    await bench.writer.close()
    await look.close()


async def test_rows_of_other_jobs_are_replaced_before_its_turn(bench: Bench) -> None:
    """Nobody sees them before those of the round before it."""
    first, second = await bench.two_rounds(again=False)
    assert not second.overlaps
    turn = Turn()
    later = asyncio.create_task(bench.writer.write_jobs([second], How.FAST, EPOCHS, turn))
    await turn.asked.wait()
    assert await bench.replaced() == 1
    assert await bench.statuses() == ["pending", "pending"]
    await bench.writer.write_jobs([first], How.FAST, EPOCHS)
    turn.come.set()
    await later
    assert await bench.statuses() == ["succeeded", "succeeded"]


async def test_of_a_job_of_an_earlier_round_no_row_is_replaced_before_its_turn(
    bench: Bench,
) -> None:
    """The earlier one would wait for that row, and it for the earlier one."""
    first, second = await bench.two_rounds(again=True)
    assert second.overlaps
    turn = Turn()
    later = asyncio.create_task(bench.writer.write_jobs([second], How.FAST, EPOCHS, turn))
    await turn.asked.wait()
    assert await bench.replaced() == 0
    await bench.writer.write_jobs([first], How.FAST, EPOCHS)
    turn.come.set()
    await later
    assert await bench.statuses() == ["pending", "succeeded"]
