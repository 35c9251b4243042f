"""Ticks of schedules in a time of our own: which have a job, over deaths and double owners."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.errors import QuotaExceeded
from taskforge_server.engine.journal.memory import MemoryShardLog
from taskforge_server.engine.model.schedule import jittered_us
from taskforge_server.engine.runtime.clock import VirtualClock
from tests.support.engine_parts import PROJECT, done
from tests.support.schedule_rows import MemoryScheduleRows
from tests.support.schedule_stage import MAIL, NIGHTLY, SLOW, START, START_US, staged


@pytest.fixture
def rows() -> MemoryScheduleRows:
    return MemoryScheduleRows()


def seconds(*which: int) -> dict[int, int]:
    return dict.fromkeys(which, 1)


async def test_each_tick_has_one_job(rows: MemoryScheduleRows) -> None:
    rows.add(NIGHTLY, START)
    async with staged(rows) as stage:
        await stage.pass_by(5)
        assert stage.ticks() == seconds(1, 2, 3, 4, 5)
        assert rows.rows[NIGHTLY].decided_at == START + timedelta(seconds=5)
        assert rows.rows[NIGHTLY].last_job_id == stage.jobs()[-1]["id"]
        assert len(stage.node.core.keys) == 0, "what the row says, no key need say"
        assert stage.moved[-1] == (1, NIGHTLY, START_US + 6_000_000)
        assert stage.node.core.counters.ticks_submitted == 5


async def test_no_job_twice_when_the_owner_dies_before_the_row_is_written(
    rows: MemoryScheduleRows,
) -> None:
    rows.add(NIGHTLY, START)
    log, clock = MemoryShardLog(), VirtualClock(START_US)
    async with staged(rows, clock, log) as stage:
        await stage.pass_by(2)
        rows.gate.clear()
        clock.advance(1)
        await stage.scheduler.turn()
        assert rows.rows[NIGHTLY].decided_at == START + timedelta(seconds=2)
        assert stage.ticks() == seconds(1, 2, 3)
        assert stage.scheduler._writing is not None
        stage.scheduler._writing.cancel()
    rows.gate.set()
    clock.advance(1)
    async with staged(rows, clock, log, "heir") as heir:
        assert heir.ticks() == seconds(1, 2, 3)
        await heir.turns()
        assert heir.ticks() == seconds(1, 2, 3, 4)
        assert [tick.problem for tick in rows.decisions] == [None] * 4
        third = rows.decisions[2]
        assert third.job_id == sorted(job["id"] for job in heir.jobs())[2], "it found that job"


async def test_of_two_owners_one_makes_the_job(rows: MemoryScheduleRows) -> None:
    rows.add(NIGHTLY, START)
    log, clock = MemoryShardLog(), VirtualClock(START_US)
    async with staged(rows, clock, log, "loser") as loser:
        loser.node.others.alive.add("winner")
        await loser.pass_by(1)
        async with staged(rows, clock, log, "winner") as winner:
            clock.advance(1)
            await asyncio.gather(loser.scheduler.turn(), winner.scheduler.turn())
            await asyncio.gather(loser.scheduler.written(), winner.scheduler.written())
            assert 1 not in loser.node.core.shards
            assert winner.ticks() == seconds(1, 2)
            clock.advance(1)
            await loser.scheduler.turn()
            await winner.turns()
            assert winner.ticks() == seconds(1, 2, 3)
            assert [tick.tick for tick in rows.decisions] == [
                START + timedelta(seconds=n) for n in (1, 2, 3)
            ]


@pytest.mark.parametrize("lost", ["lose_replies", "refusals"])
async def test_a_submit_of_unknown_outcome_is_tried_again(
    rows: MemoryScheduleRows, lost: str
) -> None:
    rows.add(NIGHTLY, START)
    log = MemoryShardLog()
    async with staged(rows, log=log) as stage:
        setattr(log, lost, 1)
        await stage.pass_by(3)
        assert stage.ticks() == seconds(1, 2, 3)


async def test_while_the_log_is_away_ticks_wait(rows: MemoryScheduleRows) -> None:
    rows.add(NIGHTLY, START)
    log = MemoryShardLog()
    async with staged(rows, log=log) as stage:
        log.gate.clear()
        stage.clock.advance(1)
        turn = asyncio.create_task(stage.scheduler.turn())
        await log.waiting.wait()
        stage.node.core.refuse_replies()
        await turn
        assert rows.decisions == []
        log.gate.set()
        await stage.pass_by(2)
        assert stage.ticks() == seconds(1, 2, 3)


async def test_the_next_turn_waits_for_the_rows_of_this_one(rows: MemoryScheduleRows) -> None:
    rows.add(NIGHTLY, START)
    async with staged(rows) as stage:
        rows.failures = 2
        stage.clock.advance(1)
        await stage.scheduler.turn()
        stage.clock.advance(1)
        await stage.scheduler.turn()
        await stage.scheduler.written()
        assert [tick.tick.second for tick in rows.decisions] == [1, 2]


@pytest.mark.parametrize(
    ("catch_up", "away_s", "expected"),
    [
        ("skip", 20, range(1, 21)),
        ("skip", 100, range(70, 101)),
        ("latest", 20, range(1, 21)),
        ("latest", 100, range(70, 101)),
        ("all", 100, range(1, 101)),
        ("all", 200, range(81, 201)),
    ],
)
async def test_what_was_missed(
    rows: MemoryScheduleRows, catch_up: str, away_s: int, expected: range
) -> None:
    rows.add(NIGHTLY, START, catch_up=catch_up, window_s=120)
    clock = VirtualClock(START_US + away_s * 1_000_000)
    async with staged(rows, clock) as stage:
        await stage.turns()
        assert stage.ticks() == seconds(*expected)
        await stage.pass_by(1)
        assert stage.ticks()[away_s + 1] == 1


@pytest.mark.parametrize(
    ("catch_up", "window_s", "expected"),
    [
        ("skip", 86_400, []),
        ("latest", 86_400, [7_200]),
        ("all", 86_400, [3_600, 7_200]),
        ("all", 3_600, [7_200]),
        ("latest", 600, []),
    ],
)
async def test_what_was_missed_of_every_hour(
    rows: MemoryScheduleRows, catch_up: str, window_s: int, expected: list[int]
) -> None:
    rows.add(NIGHTLY, START, catch_up=catch_up, window_s=window_s, cron="@hourly")
    async with staged(rows, VirtualClock(START_US + 9_000 * 1_000_000)) as stage:
        await stage.turns()
        assert stage.ticks() == seconds(*expected)
        assert stage.scheduler.book.next_us() == START_US + 10_800_000_000


async def test_a_tick_that_is_in_time_needs_no_window(rows: MemoryScheduleRows) -> None:
    rows.add(NIGHTLY, START, catch_up="all", window_s=5)
    async with staged(rows, VirtualClock(START_US + 100 * 1_000_000)) as stage:
        await stage.turns()
        assert stage.ticks() == seconds(*range(70, 101))


async def test_a_node_that_stood_still_catches_up_as_the_policy_says(
    rows: MemoryScheduleRows,
) -> None:
    rows.add(NIGHTLY, START, catch_up="skip", cron="@hourly")
    async with staged(rows) as stage:
        stage.clock.advance(2 * 3_600 + 60)
        await stage.turns()
        assert stage.ticks() == {}
        stage.clock.advance(3_540 + limits.SCHEDULE_GRACE_S)
        await stage.turns()
        assert stage.ticks() == seconds(10_800), "as late as that is in time"


async def test_overlap_skip(rows: MemoryScheduleRows) -> None:
    rows.add(NIGHTLY, START, overlap="skip")
    async with staged(rows) as stage:
        worker, outlet = await stage.node.worker(MAIL)
        await stage.pass_by(3)
        assert stage.ticks() == seconds(1)
        assert stage.problems() == ["previous_not_ended"] * 2
        assert stage.node.core.counters.ticks_skipped == 2
        await worker.receive([done(1, outlet.tokens()[0])])
        await until(lambda: outlet.of(12))
        await stage.pass_by(1)
        assert stage.ticks() == seconds(1, 4)


async def test_overlap_looks_into_the_tables_for_what_memory_let_go(
    rows: MemoryScheduleRows,
) -> None:
    away = bytes(15) + b"\1"
    rows.add(NIGHTLY, START, overlap="skip", last_job_id=away)
    rows.unfinished = {away}
    async with staged(rows) as stage:
        await stage.pass_by(1)
        assert stage.problems() == ["previous_not_ended"]
        rows.unfinished = set()
        await stage.pass_by(1)
        assert stage.ticks() == seconds(2)


async def test_overlap_knows_the_job_of_an_owner_that_died_before_its_row(
    rows: MemoryScheduleRows,
) -> None:
    rows.add(NIGHTLY, START, overlap="skip", catch_up="skip")
    log, clock = MemoryShardLog(), VirtualClock(START_US)
    async with staged(rows, clock, log) as stage:
        rows.gate.clear()
        clock.advance(1)
        await stage.scheduler.turn()
        assert stage.ticks() == seconds(1)
        assert stage.scheduler._writing is not None
        stage.scheduler._writing.cancel()
    rows.gate.set()
    clock.advance(60)
    async with staged(rows, clock, log, "heir") as heir:
        await heir.turns()
        assert heir.ticks() == seconds(1), "that one has not ended, though no row says so"
        assert set(heir.problems()) == {"previous_not_ended"}
        await heir.node.doors.cancel(heir.jobs()[0]["id"], PROJECT)
        await heir.pass_by(1)
        assert heir.ticks() == seconds(1, 62)


async def test_overlap_knows_a_job_that_was_made_during_a_change(rows: MemoryScheduleRows) -> None:
    rows.add(NIGHTLY, START, overlap="skip")
    log = MemoryShardLog()
    async with staged(rows, log=log) as stage:
        log.gate.clear()
        stage.clock.advance(1.5)
        turn = asyncio.create_task(stage.scheduler.turn())
        await log.waiting.wait()
        now = START + timedelta(seconds=1.5)
        rows.change(NIGHTLY, cron="*/2 * * * * *", decided_at=now)
        await stage.scheduler.changed(NIGHTLY)
        log.gate.set()
        await turn
        await stage.pass_by(1)
        assert stage.ticks() == seconds(1)
        assert stage.problems() == ["previous_not_ended"]
        assert rows.rows[NIGHTLY].last_job_id == stage.jobs()[0]["id"]


async def test_overlap_cancel_previous(rows: MemoryScheduleRows) -> None:
    rows.add(NIGHTLY, START, overlap="cancel_previous")
    async with staged(rows) as stage:
        await stage.pass_by(3)
        assert stage.ticks() == seconds(1, 2, 3)
        statuses = [job["status"] for job in sorted(stage.jobs(), key=lambda job: job["id"])]
        assert statuses == ["cancelled", "cancelled", "pending"]


async def test_jitter_is_the_same_whoever_reckons_it(rows: MemoryScheduleRows) -> None:
    rows.add(NIGHTLY, START, jitter_s=60)
    async with staged(rows) as stage:
        await stage.pass_by(40)
        due = sorted(job["due_us"] - START_US for job in stage.jobs())
        expected = [
            jittered_us(NIGHTLY, START_US + n * 1_000_000, 60) - START_US for n in range(1, 41)
        ]
        assert due == sorted(expected)
        spread = [due_us - n * 1_000_000 for n, due_us in enumerate(expected, 1)]
        assert 0 <= min(spread) < 10_000_000
        assert 50_000_000 < max(spread) < 60_000_000


async def test_a_change_counts_and_does_not_repeat_what_was_decided(
    rows: MemoryScheduleRows,
) -> None:
    rows.add(NIGHTLY, START)
    async with staged(rows) as stage:
        await stage.pass_by(2)
        rows.change(NIGHTLY, cron="*/10 * * * * *", decided_at=START)
        await stage.scheduler.changed(NIGHTLY)
        await stage.pass_by(18)
        assert stage.ticks() == seconds(1, 2, 10, 20)
        rows.paused.add(NIGHTLY)
        await stage.scheduler._read(None)
        assert stage.moved[-1] == (1, NIGHTLY, None)
        await stage.pass_by(20)
        assert stage.ticks() == seconds(1, 2, 10, 20)
        rows.paused.clear()
        rows.change(NIGHTLY, decided_at=START + timedelta(seconds=40))
        await stage.scheduler._read(None)
        await stage.pass_by(10)
        assert stage.ticks() == seconds(1, 2, 10, 20, 50)


async def test_a_change_during_a_tick_does_not_decide_it_twice(rows: MemoryScheduleRows) -> None:
    rows.add(NIGHTLY, START)
    log = MemoryShardLog()
    async with staged(rows, log=log) as stage:
        log.gate.clear()
        stage.clock.advance(1)
        turn = asyncio.create_task(stage.scheduler.turn())
        await log.waiting.wait()
        rows.change(NIGHTLY)
        await stage.scheduler.changed(NIGHTLY)
        await stage.scheduler.turn()  # nothing to do: the tick is out
        log.gate.set()
        await turn
        await stage.turns()
        assert stage.ticks() == seconds(1)


async def test_a_refusal_decides_the_tick_and_is_told(
    rows: MemoryScheduleRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows.add(NIGHTLY, START)
    async with staged(rows) as stage:

        def refuse(*_: object) -> None:
            raise QuotaExceeded(10, 10)

        with monkeypatch.context() as patched:
            patched.setattr(type(stage.node.core.usage), "require", refuse)
            await stage.pass_by(2)
        assert stage.problems() == ["quota_exceeded"] * 2
        await stage.pass_by(1)
        assert stage.ticks() == seconds(3)


async def test_a_job_that_cannot_be_made_is_told(rows: MemoryScheduleRows) -> None:
    rows.add(NIGHTLY, START, job='{"job_type":"send","delay_s":-1}')
    rows.add(b"o" * 16, START)
    async with staged(rows) as stage:
        await stage.pass_by(1)
        assert stage.problems() == ["invalid_input"]
        assert stage.ticks(b"o" * 16) == seconds(1), "others are not its prisoners"


async def test_a_large_payload_is_read_at_the_tick(rows: MemoryScheduleRows) -> None:
    rows.add(NIGHTLY, START, payload=None)
    rows.large[NIGHTLY] = b'{"large":true}'
    async with staged(rows) as stage:
        await stage.pass_by(1)
        assert [job["payload"] for job in stage.jobs()] == [b'{"large":true}']


async def test_a_draining_node_leaves_its_ticks_to_others(rows: MemoryScheduleRows) -> None:
    rows.add(NIGHTLY, START)
    async with staged(rows) as stage:
        stage.node.admission.draining = True
        await stage.pass_by(2)
        assert stage.jobs() == []
        assert rows.decisions == []


async def test_a_herd_goes_in_turns_and_in_one_commit_each(rows: MemoryScheduleRows) -> None:
    count = 2 * limits.SCHEDULE_TURN_TICKS + 500
    for number in range(count):
        queue = {"queue_id": SLOW.id, "shard": 2} if number % 2 else {}
        rows.add(number.to_bytes(16), START, cron="0 * * * * *", **queue)
    async with staged(rows) as stage:
        before = stage.node.log.appends
        stage.clock.advance(60)
        await stage.turns()
        assert len(stage.jobs()) == count == len(rows.decisions)
        assert len({tick.id for tick in rows.decisions}) == count
        assert stage.node.log.appends - before < 50


async def test_rows_that_cannot_be_read_stop_nobody(rows: MemoryScheduleRows) -> None:
    rows.add(NIGHTLY, START, cron="no cron")
    rows.add(b"o" * 16, START)
    async with staged(rows) as stage:
        await stage.pass_by(1)
        assert stage.ticks(b"o" * 16) == seconds(1)


async def test_the_timer_wakes_for_what_is_new(rows: MemoryScheduleRows) -> None:
    async with staged(rows) as stage:
        running = asyncio.create_task(stage.scheduler.run())
        rows.add(NIGHTLY, START - timedelta(seconds=1))
        await stage.scheduler.changed(NIGHTLY)
        await until(lambda: stage.ticks() == seconds(0))
        running.cancel()


async def test_lost_news_are_found(rows: MemoryScheduleRows) -> None:
    async with staged(rows) as stage:
        watching = asyncio.create_task(stage.scheduler.watch())
        rows.add(NIGHTLY, START)
        stage.scheduler._miss()
        async with asyncio.timeout(10):
            while not len(stage.scheduler.book):  # noqa: ASYNC110 - it pauses before it reads
                await asyncio.sleep(0.01)
        watching.cancel()


async def until(holds: Callable[[], object]) -> None:
    """Let the loop turn until it holds."""
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")
