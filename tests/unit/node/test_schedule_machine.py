"""Schedules, held against plain words (`tests/support/schedule_model.py`).

Two schedules live through time that passes or is lost, changes, pauses, jobs that end or do not,
nodes that die between a job and its row, and nodes that do not know that they are dead. After each
step every tick has the job that it should have, one at most, and rows and book say the same.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from taskforge_server.api.service.encryption import Opener
from taskforge_server.api.service.schedules import SchedulePorts, ScheduleService
from taskforge_server.engine import limits
from taskforge_server.engine.actors.control import wants_end
from taskforge_server.engine.actors.worker import WorkerActor
from taskforge_server.engine.journal.memory import MemoryShardLog
from taskforge_server.engine.model.audit import OPERATOR
from taskforge_server.engine.model.schedule import jittered_us
from taskforge_server.engine.node.scheduler import RETRY_US
from taskforge_server.engine.runtime.clock import VirtualClock
from taskforge_server.ext.ids import uuid_text
from tests.support.engine_parts import PROJECT, KeptOutlet, done
from tests.support.machines import LoopMachine, run_machine
from tests.support.schedule_model import SECOND_US, UNENDED, Job, Schedule
from tests.support.schedule_rows import MemoryScheduleRows
from tests.support.schedule_stage import SLOW, START, START_US, Stage, staged
from tests.support.table_model import Call, call, weighted

CREDIT = 10_000
KOLKATA_S = 19_800
JITTER_S = 20
HOUR_S, DAY_S = 3_600, 86_400
TURNS_MAX = 200
WAITS, RUNS = b"w" * 16, b"r" * 16
"""The schedule of a queue without workers, and that of one whose jobs start at once."""

TICKS: dict[tuple[str, str], Callable[[int], bool]] = {
    ("*/10 * * * * *", "UTC"): lambda s: s % 10 == 0,
    ("*/25 * * * * *", "UTC"): lambda s: s % 60 in (0, 25, 50),
    ("10 * * * * *", "Asia/Kolkata"): lambda s: s % 60 == 10,
    ("30 */2 * * * *", "UTC"): lambda s: s % 120 == 30,
    ("@hourly", "Asia/Kolkata"): lambda s: (s + KOLKATA_S) % HOUR_S == 0,
    ("0 6 * * *", "Asia/Kolkata"): lambda s: (s + KOLKATA_S) % DAY_S == 6 * HOUR_S,
}
fields = {
    "when": st.sampled_from([*TICKS]),
    "catch_up": st.sampled_from(["skip", "latest", "all"]),
    "window_s": st.sampled_from([120, 12, 45, 4_000]),
    "overlap": st.sampled_from(["allow", "skip", "cancel_previous"]),
    "jitter_s": st.sampled_from([0, 0, JITTER_S]),
}
schedules = st.fixed_dictionaries(fields)
changes = st.one_of(
    *(st.fixed_dictionaries({name: values}) for name, values in fields.items()), schedules
)
which = st.sampled_from([WAITS, RUNS])
picks = st.integers(0, 10_000)
steps_s = st.sampled_from([10, 0.5, 1, 27, 30, 31, 60])
away_s = st.sampled_from([1, 0, 25, 31, 70, 500, 5_000, 80_000])
# One rule with weights: hypothesis leaves some of many rules out of each run.
calls: st.SearchStrategy[Call] = weighted(
    *call(8, "pass_time", step_s=steps_s),
    *call(3, "stand_still", step_s=away_s),
    *call(3, "change", schedule=which, told=changes, heard=st.booleans()),
    *call(2, "pause", schedule=which, heard=st.booleans()),
    *call(4, "end", pick=picks),
    *call(2, "cancel", pick=picks),
    *call(2, "die", away_s=away_s),
    *call(3, "die_before_the_row", step_s=steps_s, away_s=away_s, told=st.none() | changes),
    *call(2, "die_before_the_log", step_s=steps_s, away_s=away_s),
    *call(2, "two_owners", step_s=steps_s),
    *call(2, "change_at_a_tick", schedule=which, told=st.none() | changes, step_s=steps_s),
    *call(
        2,
        "change_before_the_row",
        schedule=which,
        told=st.none() | changes,
        step_s=steps_s,
        pick=picks,
    ),
    *call(2, "put_off", step_s=steps_s),
    *call(1, "unknown_outcome", written=st.booleans(), step_s=steps_s),
    *call(1, "rows_away", step_s=steps_s),
)


class Desk:
    """What the service of schedules tells; `heard`: whether the news comes."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.heard = True

    def now_us(self) -> int:
        return self.stage.clock.now_us()

    async def schedule_changed(self, schedule_id: bytes) -> None:
        if self.heard:
            await self.stage.scheduler.changed(schedule_id)
        else:
            await self.stage.scheduler._read(None)  # what is looked up now and then


class ScheduleMachine(LoopMachine):
    """Two schedules, one node after the other, and whatever may happen to them."""

    @initialize(waits=schedules, runs=schedules)
    def begin(self, waits: dict[str, Any], runs: dict[str, Any]) -> None:
        self.rows, self.log = MemoryScheduleRows(), MemoryShardLog()
        self.clock = VirtualClock(START_US)
        self.models = {WAITS: modelled(WAITS, waits), RUNS: modelled(RUNS, runs)}
        self.rows.add(WAITS, START, **stored(waits))
        self.rows.add(RUNS, START, queue_id=SLOW.id, shard=2, **stored(runs))
        self.nodes = 0
        self.tokens: dict[bytes, bytes] = {}
        self.seq = 0
        self.run(self.open())
        self.begun = True

    @rule(call=calls)
    def do(self, call: Call) -> None:
        self.take(call)

    @property
    def now_us(self) -> int:
        return self.clock.now_us()

    # nodes

    async def open(self) -> None:
        """A node takes the shards; the worker comes back with what it runs."""
        self.stack = AsyncExitStack()
        self.nodes += 1
        self.stage = await self.stack.enter_async_context(
            staged(self.rows, self.clock, self.log, f"node-{self.nodes}")
        )
        self.desk = Desk(self.stage)
        vault = self.stage.node.core.vault
        ports = SchedulePorts(self.desk, self.rows, vault)  # type: ignore[arg-type]
        self.service = ScheduleService(ports, None, None, Opener(vault))  # type: ignore[arg-type]
        self.worker, self.outlet = await self.attach()

    async def attach(self) -> tuple[WorkerActor, KeptOutlet]:
        running, self.heard = b"".join(self.tokens.values()), 0
        return await self.stage.node.worker(SLOW, credit=CREDIT, running=running)

    async def close(self) -> None:
        self.hear()
        writing = self.stage.scheduler._writing
        if writing is not None:
            writing.cancel()
        await self.stack.aclose()

    async def die(self, away_s: float) -> None:
        """Between two turns."""
        await self.close()
        self.clock.advance(away_s)
        await self.open()

    async def die_before_the_row(
        self, step_s: float, away_s: float, told: dict[str, Any] | None
    ) -> None:
        """The jobs of a turn are there, but no row says so; it may be changed meanwhile."""
        await self.pass_time(step_s)
        self.rows.gate.clear()
        made = sum(len(model.jobs) for model in self.models.values())
        for model in self.models.values():
            model.turn(self.now_us, 1, lost=True)
        await self.stage.scheduler.turn()
        await self.close()
        self.rows.gate.set()
        self.seen["jobs without their row"] += made < sum(
            len(model.jobs) for model in self.models.values()
        )
        self.clock.advance(away_s)
        if told is not None:
            self.desk.schedule_changed = nobody  # type: ignore[method-assign]
            await self.tell(RUNS, told)
        await self.open()

    async def die_before_the_log(self, step_s: float, away_s: float) -> None:
        """What a turn decided was never durable."""
        await self.pass_time(step_s)
        self.log.gate.clear()
        turn = await self.turn_at_the_gate()
        if turn.done():
            for model in self.models.values():
                model.turn(self.now_us, 1)
            await self.stage.scheduler.written()
        turn.cancel()
        await asyncio.gather(turn, return_exceptions=True)
        await self.close()
        self.log.gate.set()
        self.log.waiting.clear()
        self.clock.advance(away_s)
        await self.open()

    async def turn_at_the_gate(self) -> asyncio.Task[None]:
        """A turn that has come to the log, or found nothing to say there."""
        self.log.waiting.clear()
        turn = asyncio.create_task(self.stage.scheduler.turn())
        waiting = asyncio.create_task(self.log.waiting.wait())
        await asyncio.wait([turn, waiting], return_when=asyncio.FIRST_COMPLETED)
        self.seen["a turn at the log"] += not turn.done()
        waiting.cancel()
        return turn

    async def two_owners(self, step_s: float) -> None:
        """Another node takes the shards, and this one does not know it when the ticks come."""
        loser, stack = self.stage, self.stack
        self.hear()
        loser.node.others.alive.add(f"node-{self.nodes + 1}")
        await self.open()
        await self.pass_time(step_s)
        await asyncio.gather(loser.scheduler.turn(), self.stage.scheduler.turn())
        await self.turns()
        await loser.scheduler.written()
        await loser.scheduler._read(None)
        shards = loser.node.core.shards.values()
        assert not [shard for shard in loser.scheduler.book.shards() if shard not in shards]
        await stack.aclose()

    # time

    async def pass_time(self, step_s: float) -> None:
        """Timers come before ticks."""
        self.clock.advance(step_s)
        await self.start_what_is_due()

    async def stand_still(self, step_s: float) -> None:
        """The node is there, and late."""
        self.clock.advance(step_s)

    async def put_off(self, step_s: float) -> None:
        """Nothing can be decided for a while."""
        await self.pass_time(step_s)
        self.stage.node.admission.draining = True
        for model in self.models.values():
            model.turn(self.now_us, closed=True)
            self.seen["put off"] += bool(model.wanted(self.now_us))
        await self.stage.turns()
        assert all(map(self.as_modelled, self.models))
        self.stage.node.admission.draining = False
        self.clock.advance(RETRY_US / SECOND_US)

    async def unknown_outcome(self, written: bool, step_s: float) -> None:
        """An append is answered with an error, whether it was done or not."""
        setattr(self.log, "lose_replies" if written else "refusals", 1)
        await self.pass_time(step_s)
        await self.turns()
        self.log.lose_replies = self.log.refusals = 0

    async def rows_away(self, step_s: float) -> None:
        """Rows are not written at once."""
        self.rows.failures = 1
        await self.pass_time(step_s)
        await self.turns()
        self.rows.failures = 0

    # people, and a worker

    async def change(self, schedule: bytes, told: dict[str, Any], heard: bool) -> None:
        self.desk.heard = heard
        await self.tell(schedule, told)

    async def tell(self, schedule: bytes, told: dict[str, Any] | None) -> None:
        """Change it, or pause it or go on; both as the guide says."""
        model = self.models[schedule]
        name: Any = uuid_text(schedule)
        if told is None:
            await (self.service.resume if model.paused else self.service.pause)(
                PROJECT, name, OPERATOR
            )
            if model.paused:
                model.since_us = max(model.since_us, self.now_us)
            model.paused = not model.paused
            return
        await self.service.update(PROJECT, name, stored(told), None, OPERATOR)
        for field, value in told.items():
            if field != "when":
                setattr(model, field, value)
            elif model.fits is not TICKS[value]:
                model.fits, model.since_us = TICKS[value], max(model.since_us, self.now_us)

    async def pause(self, schedule: bytes, heard: bool) -> None:
        self.desk.heard = heard
        await self.tell(schedule, None)

    async def change_at_a_tick(
        self, schedule: bytes, told: dict[str, Any] | None, step_s: float
    ) -> None:
        """While its job is on its way into the log."""
        await self.pass_time(step_s)
        self.log.gate.clear()
        turn = await self.turn_at_the_gate()
        for model in self.models.values():
            model.turn(self.now_us, 1)
        self.desk.heard = True
        await self.tell(schedule, told)
        self.log.gate.set()
        await turn

    async def change_before_the_row(
        self, schedule: bytes, told: dict[str, Any] | None, step_s: float, pick: int
    ) -> None:
        """While what was decided is on its way into the rows; and a handler ends."""
        await self.pass_time(step_s)
        self.rows.gate.clear()
        changed = self.models[schedule]
        fits, passed_over = changed.fits, changed.passed_over
        for model in self.models.values():
            model.turn(self.now_us, 1)
        await self.stage.scheduler.turn()
        await self.start_what_is_due()
        await self.end(pick)
        self.desk.heard = True
        await self.tell(schedule, told)
        if changed.fits is not fits:
            changed.passed_over = passed_over  # of ticks before the change no row tells
        self.rows.gate.set()
        await self.stage.scheduler.written()

    def pick(self, pick: int) -> tuple[Job, dict[str, Any]] | None:
        """One of the jobs that have not ended, the newest most often."""
        open_jobs = [
            (model.jobs[second], job)
            for schedule, model in self.models.items()
            for second, job in self.stage.jobs_of(schedule)
            if model.jobs[second].status in UNENDED
        ]
        open_jobs.sort(key=lambda each: each[1]["id"], reverse=True)
        return open_jobs[min(pick % 4, pick % len(open_jobs))] if open_jobs else None

    async def end(self, pick: int) -> None:
        """A handler ends, whether it shall or not."""
        running = [job for job in self.models[RUNS].jobs.values() if job.status == "processing"]
        if not running:
            return
        ended = running[-1 - min(pick % 4, pick % len(running))]
        [found] = [
            job
            for second, job in self.stage.jobs_of(RUNS)
            if self.models[RUNS].jobs[second] is ended
        ]
        self.seq += 1
        await self.worker.receive([done(self.seq, self.tokens.pop(found["id"]))])
        ended.status = "succeeded"

    async def cancel(self, pick: int) -> None:
        """Somebody cancels a job."""
        picked = self.pick(pick)
        if picked is None:
            return
        job, found = picked
        await self.stage.node.doors.cancel(found["id"], PROJECT)
        if job.status == "processing":
            job.asked = True
        else:
            job.status = "cancelled"

    def hear(self) -> int:
        """What the worker was given; how many it runs now."""
        tokens = self.outlet.tokens()[self.heard :]
        self.heard += len(tokens)
        self.tokens |= {token[:16]: token for token in tokens}
        return len(self.tokens)

    def all_run(self) -> bool:
        """The worker has what should run."""
        jobs = self.models[RUNS].jobs.values()
        return self.hear() == sum(job.status == "processing" for job in jobs)

    # what holds

    async def settle(self) -> None:
        """All that is due is done; it is as the model says."""
        await self.start_what_is_due()
        await self.turns()
        await until(lambda: self.all_run() and all(map(self.as_modelled, self.models)))
        for schedule, model in self.models.items():
            self.rows_and_book_agree(schedule, model)

    async def turns(self) -> None:
        """Decide all that there is to decide at this moment."""
        for model in self.models.values():
            model.turn(self.now_us)
        await self.stage.turns()

    async def start_what_is_due(self) -> None:
        """Timers come before ticks."""
        core, model = self.stage.node.core, self.models[RUNS]
        for shard in core.shards.values():
            shard.table.due(self.now_us, limits.DUE_JOBS_MAX)
            core.touched(shard)
        model.due(self.now_us)
        await until(self.all_run)

    def as_modelled(self, schedule: bytes) -> bool:
        """One job for each tick that should have one, in the state that it should have."""
        jobs = self.models[schedule].jobs
        found = Counter(second for second, _ in self.stage.jobs_of(schedule))
        return found == Counter(jobs.keys()) and all(
            STATUS.get(found["status"], found["status"]) == jobs[second].status
            and wants_end(found) == jobs[second].asked
            and (found["status"] != "scheduled" or found["due_us"] == jobs[second].due_us)
            for second, found in self.stage.jobs_of(schedule)
        )

    def rows_and_book_agree(self, schedule: bytes, model: Schedule) -> None:
        row = self.rows.rows[schedule]
        assert round(row.decided_at.timestamp() * SECOND_US) == model.since_us
        runs = self.stage.scheduler.runs(row.shard)
        assert runs == ({} if model.paused else {schedule: model.next(self.now_us) * SECOND_US})
        problems = Counter(tick.problem for tick in self.rows.decisions if tick.id == schedule)
        assert problems["previous_not_ended"] == model.passed_over
        assert problems.total() == problems[None] + model.passed_over

    def teardown(self) -> None:
        super().teardown()
        for model in self.models.values() if self.begun else ():
            self.seen.update(f"{model.catch_up} {model.overlap}" for _ in model.jobs)
            self.seen.update(job.status for job in model.jobs.values())
            self.seen["passed over"] += model.passed_over
            self.seen["asked"] += sum(job.asked for job in model.jobs.values())


STATUS = {"pending": "waiting", "scheduled": "waiting"}


def modelled(schedule: bytes, told: dict[str, Any]) -> Schedule:
    rest = {name: value for name, value in told.items() if name != "when"}
    return Schedule(TICKS[told["when"]], schedule == RUNS, chance_of(schedule), START_US, **rest)


def chance_of(schedule: bytes) -> Callable[[int], float]:
    """Where in a jitter of a second a job is due: whatever it is, it is always that."""

    def chance(second: int) -> float:
        due_us = jittered_us(schedule, second * SECOND_US, JITTER_S)
        at = (due_us / SECOND_US - second) / JITTER_S
        assert 0 <= at < 1
        return at

    return chance


def stored(told: dict[str, Any]) -> dict[str, Any]:
    """As a row has it."""
    rest = {name: value for name, value in told.items() if name != "when"}
    return rest | (
        dict(zip(("cron", "timezone"), told["when"], strict=True)) if "when" in told else {}
    )


async def nobody(schedule_id: bytes) -> None:
    """Hears of a change."""


async def until(holds: Callable[[], bool]) -> None:
    """Let the loop turn until it holds."""
    for _ in range(TURNS_MAX):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


POLICIES = [
    (catch_up, overlap)
    for catch_up in ("skip", "latest", "all")
    for overlap in ("allow", "skip", "cancel_previous")
]
WANTED = {
    *(f"{catch_up} {overlap}" for catch_up, overlap in POLICIES),
    "waiting",
    "processing",
    "succeeded",
    "cancelled",
    "asked",
    "passed over",
    "put off",
    "a turn at the log",
    "jobs without their row",
}


def what_is_rare(seen: Counter[str]) -> None:
    """Every policy, through everything once: examples may leave some of it out."""
    for catch_up, overlap in POLICIES:
        machine = ScheduleMachine.counting(seen)()
        told = {"when": ("*/10 * * * * *", "UTC"), "catch_up": catch_up, "window_s": 45}
        told |= {"overlap": overlap, "jitter_s": 0}
        other = {"overlap": overlap, "jitter_s": JITTER_S}
        slow = told | {"when": ("10 * * * * *", "Asia/Kolkata"), "window_s": 4_000}
        machine.begin(slow, told | {"overlap": "allow"})
        soon = {"overlap": overlap}
        everything = {"catch_up": "all", "window_s": 120}
        for name, args in (
            ("pass_time", {"step_s": 10}),
            ("stand_still", {"step_s": 70}),
            ("stand_still", {"step_s": 500}),
            ("end", {"pick": 0}),
            ("cancel", {"pick": 0}),
            ("die_before_the_row", {"step_s": 10, "away_s": 0, "told": soon}),
            ("die_before_the_row", {"step_s": 10, "away_s": 0, "told": other}),
            ("die_before_the_row", {"step_s": 10, "away_s": 70, "told": None}),
            ("die_before_the_log", {"step_s": 10, "away_s": 10}),
            ("two_owners", {"step_s": 10}),
            ("pause", {"schedule": WAITS, "heard": False}),
            ("pass_time", {"step_s": 10}),
            ("pause", {"schedule": WAITS, "heard": True}),
            ("put_off", {"step_s": 10}),
            ("change_at_a_tick", {"schedule": RUNS, "told": told, "step_s": 10}),
            ("unknown_outcome", {"written": True, "step_s": 10}),
            ("change_before_the_row", {"schedule": RUNS, "told": told, "step_s": 10, "pick": 0}),
            ("rows_away", {"step_s": 10}),
            ("die_before_the_row", {"step_s": 60, "away_s": 1, "told": everything}),
        ):
            machine.take(Call(name, args))
        machine.teardown()


def run(examples: int, steps: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    run_machine(ScheduleMachine.counting(seen), examples, steps)
    return seen


def test_schedules_tick_as_the_guide_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SCHEDULE_RETRY_S", 0.0)
    seen = run(examples=40, steps=30)
    what_is_rare(seen)
    assert not {what for what in WANTED if not seen[what]}, seen


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_schedules_tick_as_the_guide_says_at_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SCHEDULE_RETRY_S", 0.0)
    run(examples=3_000, steps=60)
