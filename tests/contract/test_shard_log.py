"""What every log promises, over the one in Postgres and its twin in memory."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Protocol

import pytest

from taskforge_server.api.cli.embedded import EmbeddedServers
from taskforge_server.engine.errors import Unavailable
from taskforge_server.engine.journal.link import Connection
from taskforge_server.engine.journal.log import LogRow, ShardLog
from taskforge_server.engine.journal.memory import MemoryShardLog
from taskforge_server.engine.journal.postgres import PostgresShardLog
from taskforge_server.engine.store.pool import connect
from tests.support.faultproxy import FaultProxy, fault_proxy


def row(shard: int, lsn: int, writer: str = "a", size: int = 100, epoch: int = 1) -> LogRow:
    """A row whose first bytes name its writer, as a real body's nonce does."""
    prefix = f"{writer}{lsn}".encode().ljust(16, b"-")
    return LogRow(shard, lsn, epoch, 3, prefix + bytes(size))


async def everything(log: ShardLog, shard: int, after_lsn: int = 0) -> list[LogRow]:
    return [row async for row in log.read(shard, after_lsn)]


class Bench(Protocol):
    """One storage, any number of writers, and faults to order."""

    async def writer(self) -> ShardLog: ...
    async def lose_reply(self, log: ShardLog) -> None:
        """The next append of this writer is written, and its reply lost."""
        ...

    async def take_away(self, log: ShardLog) -> None:
        """The storage does not answer this writer any more."""
        ...

    async def give_back(self, log: ShardLog) -> None: ...


class MemoryBench:
    def __init__(self) -> None:
        self._log = MemoryShardLog()

    async def writer(self) -> ShardLog:
        return self._log

    async def lose_reply(self, log: ShardLog) -> None:
        self._log.lose_replies = 1

    async def take_away(self, log: ShardLog) -> None:
        self._log.refusals = 1_000_000

    async def give_back(self, log: ShardLog) -> None:
        self._log.refusals = 0


class PostgresBench:
    def __init__(self, connector: Callable[[FaultProxy], Callable[[], Awaitable[Connection]]]):
        self._connector = connector
        self.proxies: dict[int, FaultProxy] = {}
        self.spare: list[FaultProxy] = []
        self.logs: list[ShardLog] = []

    async def writer(self) -> ShardLog:
        proxy = self.spare.pop()
        log = PostgresShardLog(self._connector(proxy), retry_s=0.3)
        self.proxies[id(log)] = proxy
        self.logs.append(log)
        await log.heads([0])  # connected and prepared: the next answer is that of the append
        return log

    async def lose_reply(self, log: ShardLog) -> None:
        self.proxies[id(log)].lose_reply()

    async def take_away(self, log: ShardLog) -> None:
        self.proxies[id(log)].refuse()

    async def give_back(self, log: ShardLog) -> None:
        self.proxies[id(log)].heal()


@pytest.fixture
async def memory_bench() -> Bench:
    return MemoryBench()


@pytest.fixture
async def postgres_bench(servers: EmbeddedServers, postgres_url: str) -> AsyncIterator[Bench]:
    socket_path = servers.postgres.run_dir / ".s.PGSQL.5432"
    base = postgres_url.split("?")[0]
    name = base.rsplit("/", 1)[1]

    def connector(proxy: FaultProxy) -> Callable[[], Awaitable[Connection]]:
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}?sslmode=disable"
        return partial(connect, url, application_name="test log")

    async with fault_proxy(socket_path) as first, fault_proxy(socket_path) as second:
        bench = PostgresBench(connector)
        bench.spare = [second, first]
        yield bench
        for log in bench.logs:
            await log.close()


@pytest.fixture(params=["memory", "postgres"])
def bench(request: pytest.FixtureRequest) -> Bench:
    bench: Bench = request.getfixturevalue(f"{request.param}_bench")
    return bench


async def test_an_empty_log_has_head_zero(bench: Bench) -> None:
    log = await bench.writer()
    assert await log.heads([3, 5]) == {3: (0, 0), 5: (0, 0)}
    assert await everything(log, 3) == []


async def test_rows_come_back_in_order(bench: Bench) -> None:
    log = await bench.writer()
    for lsn in range(1, 12):
        assert await log.append([row(3, lsn, epoch=lsn // 4)]) == {3}
    assert await everything(log, 3) == [row(3, lsn, epoch=lsn // 4) for lsn in range(1, 12)]
    assert await everything(log, 3, after_lsn=9) == [row(3, 10, epoch=2), row(3, 11, epoch=2)]
    assert await log.heads([3]) == {3: (11, 2)}


async def test_one_append_writes_many_shards(bench: Bench) -> None:
    log = await bench.writer()
    shards = [5, 1, 63, 0]
    assert await log.append([row(shard, 1) for shard in shards]) == set(shards)
    assert await log.append([row(1, 2), row(5, 2)]) == {1, 5}
    found = [(r.shard, r.lsn) async for r in log.read_all({5: 0, 0: 0, 1: 1})]
    assert found == [(0, 1), (1, 2), (5, 1), (5, 2)]
    assert await log.heads(shards) == {5: (2, 1), 1: (2, 1), 63: (1, 1), 0: (1, 1)}


async def test_one_shard_has_one_row_in_an_append(bench: Bench) -> None:
    log = await bench.writer()
    with pytest.raises(ValueError, match="two rows"):
        await log.append([row(1, 1), row(1, 2)])


async def test_the_log_stays_dense(bench: Bench) -> None:
    log = await bench.writer()
    assert await log.append([row(1, 2)]) == set()
    assert await log.append([row(1, 1)]) == {1}
    assert await log.append([row(1, 3), row(2, 1)]) == {2}
    assert [r.lsn for r in await everything(log, 1)] == [1]


async def test_the_second_writer_is_fenced(bench: Bench) -> None:
    first, second = await bench.writer(), await bench.writer()
    await first.append([row(1, 1, "a"), row(2, 1, "a")])
    assert await second.append([row(1, 2, "b", epoch=2)]) == {1}
    # The first one wakes up later, with more to say.
    assert await first.append([row(1, 2, "a"), row(2, 2, "a")]) == {2}
    assert await first.append([row(1, 3, "a")]) == {1}, "the log cannot know who owns what"
    assert [r.epoch for r in await everything(first, 1)] == [1, 2, 1]


async def test_two_writers_at_one_place_at_once(bench: Bench) -> None:
    first, second = await bench.writer(), await bench.writer()
    for lsn in range(1, 30):
        one, other = await asyncio.gather(
            first.append([row(1, lsn, "a"), row(2, lsn, "a")]),
            second.append([row(2, lsn, "b"), row(1, lsn, "b")]),
        )
        assert one | other == {1, 2}
        assert not one & other


async def test_trimming_keeps_the_head(bench: Bench) -> None:
    log = await bench.writer()
    for lsn in range(1, 6):
        await log.append([row(1, lsn), row(2, lsn)])
    assert await log.trim({1: 4}) == 3
    assert [r.lsn for r in await everything(log, 1)] == [4, 5]
    assert await log.trim({1: 100, 2: 1}) == 1
    assert await log.heads([1, 2]) == {1: (5, 1), 2: (5, 1)}
    assert await log.append([row(1, 6)]) == {1}


async def test_a_late_writer_is_fenced_after_its_place_was_trimmed(bench: Bench) -> None:
    first, second = await bench.writer(), await bench.writer()
    await first.append([row(1, 1, "a")])
    for lsn in range(2, 9):
        await second.append([row(1, lsn, "b", epoch=2)])
    await second.trim({1: 8})
    assert await first.append([row(1, 2, "a")]) == set()


async def test_a_lost_reply_is_found_out(bench: Bench) -> None:
    log = await bench.writer()
    for rows in ([row(1, 1), row(2, 1)], [row(1, 2)]):
        await bench.lose_reply(log)
        try:
            mine = await log.append(rows)
        except Unavailable:
            mine = await log.append(rows)  # what a caller does
        assert mine == {r.shard for r in rows}
    assert [r.lsn for r in await everything(log, 1)] == [1, 2]


async def test_another_writer_during_a_lost_reply(bench: Bench) -> None:
    log, other = await bench.writer(), await bench.writer()
    await log.append([row(1, 1, "a")])
    await bench.lose_reply(log)
    try:
        mine = await log.append([row(1, 2, "a"), row(2, 1, "a")])
    except Unavailable:
        await other.append([row(1, 3, "b", epoch=2)])
        mine = await log.append([row(1, 2, "a"), row(2, 1, "a")])
    assert mine == {1, 2}


async def test_without_an_answer_the_caller_is_told(bench: Bench) -> None:
    log = await bench.writer()
    await log.append([row(1, 1)])
    await bench.take_away(log)
    with pytest.raises(Unavailable):
        await log.append([row(1, 2)])
    await bench.give_back(log)
    assert await log.append([row(1, 2)]) == {1}
    assert [r.lsn for r in await everything(log, 1)] == [1, 2]


async def test_big_bodies(bench: Bench) -> None:
    log = await bench.writer()
    big = [row(shard, 1, size=5_000_000 + shard) for shard in range(3)]
    assert await log.append(big) == {0, 1, 2}
    assert [r async for r in log.read_all({0: 0, 1: 0, 2: 0})] == big


async def test_appends_of_several_callers(bench: Bench) -> None:
    log = await bench.writer()
    for lsn in range(1, 4):
        done = await asyncio.gather(*(log.append([row(s, lsn)]) for s in range(10)))
        assert done == [{s} for s in range(10)]
    assert await log.heads(range(10)) == dict.fromkeys(range(10), (3, 1))


async def test_who_waits_for_its_turn_and_is_cancelled_holds_up_nobody(bench: Bench) -> None:
    log = await bench.writer()
    callers = [asyncio.create_task(log.append([row(shard, 1)])) for shard in range(8)]
    await asyncio.sleep(0)
    for place in (3, 5):
        callers[place].cancel()
    done = await asyncio.gather(*callers, return_exceptions=True)
    assert [done[place] for place in (0, 1, 2, 4, 6, 7)] == [{0}, {1}, {2}, {4}, {6}, {7}]
    assert await log.append([row(9, 1)]) == {9}


async def test_a_cancelled_append_leaves_a_usable_log(bench: Bench) -> None:
    log = await bench.writer()
    for lsn in range(1, 6):
        task = asyncio.create_task(log.append([row(1, lsn)]))
        for _ in range(lsn):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        # Nothing is known, so the same row is sent again.
        assert await log.append([row(1, lsn)]) == {1}
    assert [r.lsn for r in await everything(log, 1)] == [1, 2, 3, 4, 5]


async def test_a_row_that_waits_is_not_lost(postgres_bench: PostgresBench) -> None:
    """A dropped answer and a dead connection at once: found out within the deadline."""
    log = await postgres_bench.writer()
    proxy = postgres_bench.proxies[id(log)]
    proxy.blackhole()
    append = asyncio.create_task(log.append([row(1, 1)]))
    await asyncio.sleep(0)
    proxy.cut()
    proxy.heal()
    assert await append == {1}


async def test_rows_that_belong_together_are_written_all_or_none(bench: Bench) -> None:
    log, other = await bench.writer(), await bench.writer()
    whole = frozenset({1, 2})
    assert await log.append([row(1, 1), row(2, 1), row(3, 1)], whole) == {1, 2, 3}
    await other.append([row(2, 2, "b", epoch=2)])
    # One of them is another's now: the other one's row is not written, the third one's is.
    assert await log.append([row(1, 2), row(2, 2), row(3, 2)], whole) == {3}
    assert [r.lsn for r in await everything(log, 1)] == [1]
    assert await log.append([row(1, 2)]) == {1}


async def test_a_lost_reply_to_rows_that_belong_together(bench: Bench) -> None:
    log = await bench.writer()
    rows, whole = [row(1, 1), row(2, 1)], frozenset({1, 2})
    await bench.lose_reply(log)
    try:
        mine = await log.append(rows, whole)
    except Unavailable:
        mine = await log.append(rows, whole)
    assert mine == whole
    assert await log.heads([1, 2]) == {1: (1, 1), 2: (1, 1)}
