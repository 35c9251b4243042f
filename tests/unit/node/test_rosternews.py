"""News of what people want of workers: heard, made good when lost, read no more than needed."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.actors.roster import Roster
from taskforge_server.engine.cluster.memory import Exchange, MemoryCluster
from taskforge_server.engine.errors import Unavailable
from taskforge_server.engine.node.rosternews import RosterNews

WORKER, QUEUE, OTHER = b"w" * 16, b"q" * 16, b"o" * 16


class Tables:
    """The rows; away while told so."""

    def __init__(self) -> None:
        self.away = False
        self.drained_rows: set[bytes] = set()
        self.weights: dict[bytes, dict[bytes, int]] = {}
        self.reads: list[Sequence[bytes] | None] = []

    async def drained(self, worker_ids: Sequence[bytes] | None = None) -> set[bytes]:
        self.reads.append(worker_ids)
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable
        wanted = self.drained_rows
        return set(wanted) if worker_ids is None else wanted & set(worker_ids)

    async def active(
        self, queue_ids: Sequence[bytes] | None = None
    ) -> dict[bytes, dict[bytes, int]]:
        if self.away:
            raise Unavailable
        return {
            queue_id: dict(weights)
            for queue_id, weights in self.weights.items()
            if queue_ids is None or queue_id in queue_ids
        }


class Decider:
    """Somebody with a roster, who tells of every word."""

    def __init__(self) -> None:
        self.roster = Roster()
        self.told = asyncio.Event()

    def assign(self, queue_id: bytes, weights: Mapping[bytes, int]) -> None:
        self.roster.assign(queue_id, weights)
        self.told.set()

    def drain_worker(self, worker_id: bytes, drained: bool) -> None:
        self.roster.drain(worker_id, drained)
        self.told.set()

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                self.told.clear()
                await self.told.wait()


class Member:
    """One node's share of it."""

    def __init__(self, exchange: Exchange, name: str, tables: Tables) -> None:
        self.decider = Decider()
        self.cluster = MemoryCluster(exchange, name)
        self.news = RosterNews(self.cluster, tables, tables, self.decider)
        self.roster = self.decider.roster

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Member"]:
        await self.cluster.start()
        task = asyncio.create_task(self.news.run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.cluster.stop()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ROSTER_READ_PAUSE_S", 0.0)


async def test_a_change_holds_here_at_once_and_elsewhere_soon() -> None:
    tables, exchange = Tables(), Exchange()
    async with (
        Member(exchange, "a", tables).running() as here,
        Member(exchange, "b", tables).running() as there,
    ):
        tables.drained_rows.add(WORKER)
        tables.weights[QUEUE] = {WORKER: 2}
        await here.news.changed(workers=[WORKER], queues=[QUEUE])
        assert here.roster.drained == {WORKER}
        assert here.roster.has_own_workers(QUEUE)
        await there.decider.until(lambda: there.roster.has_own_workers(QUEUE))
        assert there.roster.drained == {WORKER}
        tables.drained_rows.clear()
        tables.weights.clear()
        await here.news.changed(workers=[WORKER], queues=[QUEUE])
        assert (here.roster.drained, here.roster.has_own_workers(QUEUE)) == (set(), False)
        await there.decider.until(lambda: not there.roster.has_own_workers(QUEUE))
        assert there.roster.drained == set()


async def test_lost_news_is_made_good_after_the_gap() -> None:
    tables, exchange = Tables(), Exchange()
    tables.drained_rows.add(OTHER)
    async with (
        Member(exchange, "a", tables).running() as here,
        Member(exchange, "b", tables).running() as there,
    ):
        await there.decider.until(lambda: there.roster.drained == {OTHER})
        exchange.go_down()
        tables.drained_rows = {WORKER}
        await here.news.changed(workers=[WORKER, OTHER])
        assert there.roster.drained == {OTHER}
        exchange.come_back()
        await there.decider.until(lambda: there.roster.drained == {WORKER})


async def test_without_the_database_what_is_known_stays_and_is_read_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "ROSTER_READ_S", 0.01)
    tables = Tables()
    tables.weights[QUEUE] = {WORKER: 1}
    member = Member(Exchange(), "a", tables)
    await member.news.read_all()
    tables.away = True
    tables.weights[OTHER] = {WORKER: 1}
    await member.news.changed(queues=[OTHER])
    assert member.roster.queues_with_own_workers == {QUEUE}
    async with member.running():
        tables.away = False
        await member.decider.until(lambda: member.roster.has_own_workers(OTHER))


async def test_only_what_was_told_is_read() -> None:
    tables, exchange = Tables(), Exchange()
    async with (
        Member(exchange, "a", tables).running() as here,
        Member(exchange, "b", tables).running() as there,
    ):
        # The first listening counts as a gap.
        while tables.reads.count(None) < 2:  # noqa: ASYNC110 - a plain list tells nobody
            await asyncio.sleep(0)
        tables.reads.clear()
        tables.drained_rows.add(WORKER)
        await here.news.changed(workers=[WORKER])
        await there.decider.until(lambda: WORKER in there.roster.drained)
        assert {tuple(read or ()) for read in tables.reads} == {(WORKER,)}
