"""The journal over a log in memory: group commit, order, fences, a log that is away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.journal import journal as journal_module
from taskforge_server.engine.journal.busypoll import BusyPoll
from taskforge_server.engine.journal.journal import Journal
from taskforge_server.engine.journal.log import LogRow
from taskforge_server.engine.journal.memory import MemoryShardLog
from taskforge_server.engine.runtime.safeguards import Safeguards


class Notes:
    """A shard that gathers notes instead of events."""

    def __init__(self, number: int, journal: Journal, trace: list[str]) -> None:
        self.number = number
        self.epoch = 1
        self.journal = journal
        self.gathered: list[str] = []
        self.lsn = 0
        self.trace = trace

    def say(self, note: str) -> None:
        self.gathered.append(note)
        self.journal.dirty(self)

    @property
    def gathered_events(self) -> int:
        return len(self.gathered)

    def take_batch(self) -> tuple[int, int, bytes] | None:
        if not self.gathered:
            return None
        notes, self.gathered = self.gathered, []
        self.lsn += 1
        return self.lsn, len(notes), f"{self.number:<16}{','.join(notes)}".encode()

    def on_committed(self, lsn: int) -> None:
        self.trace.append(f"{self.number}@{lsn}")

    def on_fenced(self) -> None:
        self.trace.append(f"{self.number} fenced")


class Calls(BusyPoll):
    """Notes which commits the loop stays awake for."""

    def __init__(self, trace: list[str]) -> None:
        super().__init__()
        self.trace = trace

    def begin(self) -> None:
        self.trace.append("begin")

    def end(self) -> None:
        self.trace.append("end")


@asynccontextmanager
async def running(log: MemoryShardLog, busy_poll: BusyPoll | None = None) -> AsyncIterator[Journal]:
    journal = Journal(log, busy_poll=busy_poll)
    task = asyncio.create_task(journal.run())
    yield journal
    journal.stop()
    await task


async def said(log: MemoryShardLog, shard: int) -> list[str]:
    return [row.body[16:].decode() async for row in log.read(shard, 0)]


async def test_what_comes_during_a_commit_is_the_next_batch() -> None:
    log = MemoryShardLog()
    trace: list[str] = []
    async with running(log) as journal:
        one, two = Notes(1, journal, trace), Notes(2, journal, trace)
        log.gate.clear()
        one.say("a")
        one.say("b")
        await log.waiting.wait()
        for note in "cde":
            one.say(note)
            two.say(note)
        assert trace == []
        log.gate.set()
        await journal.settle()
        assert trace == ["1@1", "1@2", "2@1"]
    assert await said(log, 1) == ["a,b", "c,d,e"]
    assert await said(log, 2) == ["c,d,e"]
    assert journal.statistics.commits == 2
    assert journal.statistics.events == 8


async def test_stopping_writes_what_is_gathered() -> None:
    log = MemoryShardLog()
    trace: list[str] = []
    async with running(log) as journal:
        Notes(1, journal, trace).say("a")
    assert trace == ["1@1"]


async def test_a_fenced_shard_is_told_and_the_others_go_on() -> None:
    log = MemoryShardLog()
    trace: list[str] = []
    await log.append([LogRow(1, 1, 2, 1, b"somebody else's row")])
    async with running(log) as journal:
        one, two = Notes(1, journal, trace), Notes(2, journal, trace)
        one.say("a")
        two.say("a")
        await journal.settle()
    assert trace == ["1 fenced", "2@1"]
    assert journal.statistics.fenced == 1


async def test_a_lost_reply_releases_once() -> None:
    log = MemoryShardLog()
    trace: list[str] = []
    log.lose_replies = 2
    async with running(log) as journal:
        Notes(1, journal, trace).say("a")
        await journal.settle()
        assert journal.available
    assert trace == ["1@1"]
    assert await said(log, 1) == ["a"]
    assert journal.statistics.retries == 2


async def test_while_the_log_is_away_nothing_is_released() -> None:
    log = MemoryShardLog()
    trace: list[str] = []
    log.refusals = 1_000_000
    async with running(log) as journal:
        one = Notes(1, journal, trace)
        one.say("a")
        await log.refused.wait()
        assert not journal.available
        one.say("b")
        assert journal.behind_bytes == 17
        assert trace == []
        log.refusals = 0
        await journal.settle()
        assert journal.available
        assert trace == ["1@1", "1@2"]


async def test_stopping_does_not_wait_for_a_log_that_is_away() -> None:
    log = MemoryShardLog()
    trace: list[str] = []
    log.refusals = 1_000_000
    async with running(log) as journal:
        Notes(1, journal, trace).say("a")
        await log.refused.wait()
        assert not journal.available
    assert trace == []


async def test_a_commit_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module.limits, "APPEND_BYTES_MAX", 40)
    log = MemoryShardLog()
    trace: list[str] = []
    async with running(log) as journal:
        for number in range(9):
            Notes(number, journal, trace).say("x")
        await journal.settle()
    assert trace == [f"{number}@1" for number in range(9)]
    assert log.appends == 3


async def test_forgotten_shards_are_not_asked() -> None:
    log = MemoryShardLog()
    trace: list[str] = []
    async with running(log) as journal:
        one = Notes(1, journal, trace)
        one.say("a")
        journal.forget(one)
        await journal.settle()
    assert trace == []


@pytest.mark.parametrize(
    ("off", "expected"),
    [("fence", ["1@1"]), ("release_after_commit", ["1@1", "1 fenced"])],
)
async def test_safeguards_matter(
    monkeypatch: pytest.MonkeyPatch, off: str, expected: list[str]
) -> None:
    monkeypatch.setattr(journal_module.safeguards, "ACTIVE", Safeguards()._replace(**{off: False}))
    log = MemoryShardLog()
    trace: list[str] = []
    await log.append([LogRow(1, 1, 2, 1, b"somebody else's row")])
    async with running(log) as journal:
        Notes(1, journal, trace).say("a")
        await journal.settle()
    assert trace == expected, "without it an effect goes out that the log does not hold"


async def test_who_has_little_to_say_does_not_wait_for_who_has_much() -> None:
    log = MemoryShardLog()
    trace: list[str] = []
    async with running(log) as journal:
        big, small = Notes(1, journal, trace), Notes(2, journal, trace)
        log.gate.clear()
        for number in range(journal_module.limits.QUICK_EVENTS_MAX + 1):
            big.say(str(number))
        await log.waiting.wait()
        small.say("a")
        big.say("while it flies")
        for _ in range(5):
            await asyncio.sleep(0)
        assert log.appends == 2
        assert [shard.number for shard in journal._flying] in ([1, 2], [2, 1])
        assert not journal.crowded
        log.gate.set()
        await journal.settle()
        assert journal.crowded, "both kinds were under way at one time"
    assert trace[-1] == "1@2", "one append of a shard at a time, in order"
    assert sorted(trace) == ["1@1", "1@2", "2@1"]


async def test_small_commits_are_shared_while_what_others_said_is_written_to_the_tables() -> None:
    trace: list[str] = []
    async with running(MemoryShardLog()) as journal:
        big, small = Notes(1, journal, trace), Notes(2, journal, trace)
        small.say("a")
        await journal.settle()
        for number in range(journal_module.limits.QUICK_EVENTS_MAX + 1):
            big.say(str(number))
        await journal.settle()
        big.say("its own")
        await journal.settle()
        assert not journal.crowded, "nobody waits beside it"
        small.say("b")
        await journal.settle()
        assert journal.crowded


async def test_a_lane_that_is_away_leaves_the_other_one_going_and_closes_the_door() -> None:
    log = MemoryShardLog()
    trace: list[str] = []
    async with running(log) as journal:
        big, small = Notes(1, journal, trace), Notes(2, journal, trace)
        log.refusals = 1_000_000
        for number in range(journal_module.limits.QUICK_EVENTS_MAX + 1):
            big.say(str(number))
        await log.refused.wait()
        small.say("a")
        assert not journal.available
        assert trace == []
        log.refusals = 0
        await journal.settle()
        assert journal.available
    assert sorted(trace) == ["1@1", "2@1"]


async def test_what_belongs_together_goes_in_one_append_however_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal_module.limits, "APPEND_BYTES_MAX", 1)
    log = MemoryShardLog()
    async with running(log) as journal:
        shards = [Notes(number, journal, []) for number in range(4)]
        for shard in shards:
            shard.say("x")
        journal.together(shards[1:])
        await journal.settle()
    assert log.appends == 1


async def test_a_shard_takes_down_what_was_decided_with_it() -> None:
    """Fenced in the log, or lost before its batch was taken: nothing of the others is written."""
    log = MemoryShardLog()
    trace: list[str] = []
    async with running(log) as journal:
        one, two, three = (Notes(number, journal, trace) for number in (1, 2, 3))
        await log.append([LogRow(2, 1, 9, 1, b"another owner's "), LogRow(3, 1, 1, 1, b"mine" * 4)])
        three.lsn = 1
        for shard in (one, two, three):
            shard.say("x")
        journal.together([one, two])
        await journal.settle()
        assert sorted(trace) == ["1 fenced", "2 fenced", "3@2"]
        trace.clear()
        one.say("y")
        journal.together([one, three])
        await journal.settle()
        assert trace == ["1 fenced"]
    assert await said(log, 1) == []


async def test_the_loop_stays_awake_for_lone_commits_alone() -> None:
    log = MemoryShardLog()
    trace: list[str] = []
    polled: list[str] = []
    async with running(log, Calls(polled)) as journal:
        one, two = Notes(1, journal, trace), Notes(2, journal, trace)
        one.say("alone")
        await journal.settle()
        assert polled == ["begin", "end"]
        one.say("two shards")
        two.say("two shards")
        await journal.settle()
        for _ in range(limits.BUSY_POLL_EVENTS_MAX + 1):
            one.say("many")
        await journal.settle()
        assert polled == ["begin", "end"]
        for _ in range(limits.QUICK_EVENTS_MAX + 1):
            one.say("fills the log")
        await journal.settle()
        two.say("alone, while the tables are written")
        await journal.settle()
    assert polled == ["begin", "end"]
    assert len(trace) == 6
