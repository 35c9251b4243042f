"""Limits of queues and of group keys, under random commands and crashes.

Both tables get the same commands (`Pair`), and what they start is judged by an oracle that knows
nothing of how they choose: it counts what runs, keeps the times of all starts, and looks at every
window between two of them. It says whether a limit was exceeded, whether the order within a group
held, whether somebody was passed over who might have started, and whether turns were fair.
"""

import copy
from dataclasses import dataclass, field
from itertools import pairwise
from types import ModuleType
from typing import Any, NamedTuple

import msgpack
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
)

from taskforge_server.ext import table as compiled
from taskforge_server.ext.pure import table as pure
from tests.support.machines import run_machine
from tests.support.table_model import Call, call, weighted
from tests.support.table_pages import joined
from tests.support.table_pair import Pair, Tables

EPOCH_US = 1_700_000_000_000_000
SHARD = 7
PROJECT = b"p" * 16
ERROR = b'{"type":"ValueError","message":"no"}'
TYPES = ("mail", "resize")
KEYS = ("", "ada", "ada", "bob", "bob", "eve")
QUEUES = 2
SECOND_NS = 1_000_000_000


class Rate(NamedTuple):
    interval_ns: int = 0
    burst: int = 0


class Limits(NamedTuple):
    running_max: int = 0
    key_running_max: int = 0
    rate: Rate = Rate()
    key_rate: Rate = Rate()
    fair: bool = False
    idle_max: int = 2

    def given(self) -> tuple[int, ...]:
        head = (self.running_max, self.key_running_max)
        return (*head, *self.rate, *self.key_rate, int(self.fair), self.idle_max)

    @property
    def forgets(self) -> bool:
        """Whether a key may be forgotten that owes: then keys that come owe as much as it did, and
        somebody waits whom the limits alone would let start."""
        return bool(self.key_rate.interval_ns) and self.idle_max < len(set(KEYS))


rates = st.sampled_from(
    [Rate(SECOND_NS, 1), Rate(SECOND_NS // 3, 2), Rate(7_777_777, 5), Rate(60 * SECOND_NS, 3)]
)
# One limit by itself shows more of it than several that hide each other.
limits = st.one_of(
    st.integers(1, 5).map(lambda most: Limits(running_max=most)),
    st.integers(1, 2).map(lambda most: Limits(key_running_max=most)),
    rates.map(lambda rate: Limits(rate=rate)),
    rates.map(lambda rate: Limits(key_rate=rate, idle_max=100)),
    rates.map(lambda rate: Limits(key_rate=rate, idle_max=0)),
    st.just(Limits(fair=True)),
    st.builds(
        Limits,
        running_max=st.sampled_from([0, 0, 3]),
        key_running_max=st.sampled_from([0, 2]),
        rate=st.one_of(st.just(Rate()), rates),
        key_rate=st.one_of(st.just(Rate()), rates),
        fair=st.booleans(),
        idle_max=st.sampled_from([0, 1, 100]),
    ),
)
births_us = st.sampled_from([0, EPOCH_US, EPOCH_US + 1, EPOCH_US + 1])
"""Nobody knows when; as late as the first ownership; after it."""
queues = st.sampled_from([0, 0, 0, 1])
picks = st.integers(0, 10_000)
steps_us = st.one_of(
    st.just(0), st.integers(1, 500_000), st.integers(1, 10_000_000), st.integers(-2_000, -1)
)
types_taken = st.sampled_from([None, None, None, frozenset({"mail"}), frozenset({"resize", "x"})])
new_jobs = st.fixed_dictionaries(
    {
        "key": st.sampled_from(KEYS),
        "job_type": st.sampled_from(TYPES),
        "priority": st.sampled_from([0, 0, 0, 5]),
        "delay_us": st.sampled_from([0, 0, 0, 1_500_000]),
    }
)


# One rule with weights: hypothesis leaves some of many rules out of each run.
calls: st.SearchStrategy[Call] = weighted(
    *call(
        6,
        "submit",
        queue=queues,
        jobs=st.lists(new_jobs, min_size=3, max_size=10),
        step_us=steps_us,
    ),
    *call(
        12,
        "start",
        queue=queues,
        types=types_taken,
        most=st.sampled_from([1, 2, 5]),
        step_us=steps_us,
    ),
    *call(6, "succeed", pick=picks, step_us=steps_us),
    *call(
        3,
        "end_badly",
        pick=picks,
        how=st.sampled_from(["failed", "retried", "released", "returned", "stopped"]),
    ),
    *call(1, "cancel", pick=picks),
    *call(2, "requeue", pick=picks, step_us=steps_us),
    *call(
        1,
        "change_key",
        pick=picks,
        key=st.sampled_from(KEYS),
        status=st.sampled_from(["pending", "processing"]),
    ),
    *call(1, "change_priority", pick=picks, priority=st.integers(0, 9)),
    *call(2, "due", step_us=steps_us),
    *call(
        1,
        "change_limits",
        queue=queues,
        wanted=limits,
        looks_max=st.sampled_from([10_000, 10_000, 3]),
    ),
    *call(2, "regroup", queue=queues, looks_max=st.sampled_from([10_000, 3])),
    *call(3, "ask", queue=queues, pick=picks, step_us=steps_us),
    *call(3, "commit"),
    *call(2, "write"),
    *call(1, "crash", step_us=st.integers(0, 3_000_000)),
)


@dataclass(frozen=True)
class Start:
    clock_ns: int
    key: str


@dataclass
class Known:
    """A job as the oracle knows it."""

    queue: int
    key: str
    job_type: str
    priority: int
    status: str
    token: bytes = b""


def known_of(job: dict[str, Any], status: str) -> Known:
    """A job of the table."""
    options = msgpack.unpackb(job["options"]) if job["options"] else {}
    token = job["id"] + job["lease_lsn"].to_bytes(8, "big")
    group_key = options.get("group_key", "")
    return Known(job["queue_id"][0], group_key, job["job_type"], job["priority"], status, token)


@dataclass
class Judge:
    """What was started in one queue, and what its limits are."""

    limits: Limits
    clock_ns: int = 0
    floor_ns: int = 0
    """When it was taken for granted that all which was allowed had just been started; 0: never."""
    starts: list[Start] = field(default_factory=list)
    rate_since: int = 0
    """From which start on the present rate counts; `exact` until something of the past was lost."""
    key_rate_since: int = 0
    exact: bool = True
    backlog_since: dict[str, int] = field(default_factory=dict)
    """Since which start a key has had jobs that might start at any moment."""

    def change(self, wanted: Limits) -> None:
        old = self.limits
        if wanted.rate != old.rate:
            self.rate_since = len(self.starts)
        if wanted.key_rate != old.key_rate:
            self.key_rate_since = len(self.starts)
        if wanted != old:
            self.exact = False
            self.backlog_since.clear()
        self.limits = wanted

    def in_rate(self, rate: Rate, since: int, key: str | None, more: int) -> bool:
        """Whether `more` starts now leave every window within burst + length / interval."""
        times = [self.floor_ns] * rate.burst if self.floor_ns else []
        times += [s.clock_ns for s in self.starts[since:] if key is None or s.key == key]
        times += [self.clock_ns] * more
        return all(
            len(times) - at <= rate.burst + (times[-1] - first) // rate.interval_ns
            for at, first in enumerate(times)
        )

    def broken(self, running: dict[str, int], key: str, more: int = 0) -> str:
        """The limit that is exceeded, or would be by one more start; "" if none is."""
        of_all = sum(running.values()) + more
        if self.limits.running_max and of_all > self.limits.running_max:
            return "running_max"
        if self.limits.rate.interval_ns and not self.in_rate(
            self.limits.rate, self.rate_since, None, more
        ):
            return "rate"
        if not key:
            return ""
        if self.limits.key_running_max and running.get(key, 0) + more > self.limits.key_running_max:
            return "key_running_max"
        if self.limits.key_rate.interval_ns and not self.in_rate(
            self.limits.key_rate, self.key_rate_since, key, more
        ):
            return "key_rate"
        return ""


class LimitsMachine(RuleBasedStateMachine):
    """Random commands to both tables, judged after each."""

    subject: ModuleType = pure

    @initialize(first=limits, born_us=births_us)
    def begin(self, first: Limits, born_us: int) -> None:
        self.now_us = EPOCH_US + 1_000_000  # no step back leads to before the first ownership
        self.born_us = born_us
        self.judges = [Judge(first, exact=not first.forgets), Judge(Limits())]
        if born_us <= EPOCH_US:
            self.judges[0].floor_ns = EPOCH_US * 1000
        self.jobs: dict[bytes, Known] = {}
        self.dead: dict[bytes, dict[str, Any]] = {}  # failed, and in the tables alone
        self.seed = 1
        self.log: dict[int, bytes] = {}
        self.tables = Tables()
        self.pair = self.fresh_pair()
        self.pair.call("owned", "node", self.seed, EPOCH_US)
        self.commit()

    @rule(call=calls)
    def do(self, call: Call) -> None:
        getattr(self, call.name)(**call.args)
        self.end_backlogs()

    def fresh_pair(self) -> Pair:
        pair = Pair(self.subject, SHARD, self.seed)
        for index in range(QUEUES):
            self.define(pair, index)
        assert pair.call("worker", b"w" * 16) == 0
        return pair

    def define(self, pair: Pair, index: int, looks_max: int = 10_000) -> None:
        given = self.judges[index].limits.given()
        args = (
            *(bytes([index]) * 16, PROJECT, f"queue-{index}"),
            *(0, 2, 0, given, self.born_us, looks_max),
        )
        assert pair.call("queue", *args) == index

    def tick(self, step_us: int) -> int:
        self.now_us += step_us
        return self.now_us

    def running(self, queue: int) -> dict[str, int]:
        counts: dict[str, int] = {}
        for job in self.jobs.values():
            if job.queue == queue and job.status == "processing":
                counts[job.key] = counts.get(job.key, 0) + 1
        return counts

    def pending(self, queue: int, types: frozenset[str] | None = None) -> dict[bytes, Known]:
        return {
            job_id: job
            for job_id, job in self.jobs.items()
            if job.queue == queue
            and job.status == "pending"
            and (types is None or job.job_type in types)
        }

    # --- decisions --------------------------------------------------------------------------------

    def submit(self, queue: int, jobs: list[dict[str, Any]], step_us: int) -> None:
        now_us = self.tick(step_us)
        given = [
            {
                "job_type": job["job_type"],
                "payload": b"{}",
                "priority": job["priority"],
                "due_us": now_us + job["delay_us"] if job["delay_us"] else 0,
                "options": msgpack.packb({"group_key": job["key"]}) if job["key"] else None,
            }
            for job in jobs
        ]
        ids = self.pair.submit(queue, given, now_us)
        for place, job in enumerate(jobs):
            self.jobs[ids[16 * place : 16 * place + 16]] = Known(
                queue,
                job["key"],
                job["job_type"],
                job["priority"],
                "scheduled" if job["delay_us"] else "pending",
            )

    def start(self, queue: int, types: frozenset[str] | None, most: int, step_us: int) -> None:
        now_us = self.tick(step_us)
        if not self.pending(queue):  # rather a queue that has something
            queue = 1 - queue
        judge = self.judges[queue]
        startable = self.pair.call("startable", queue, now_us)
        judge.clock_ns = max(judge.clock_ns, now_us * 1000)
        if judge.limits == Limits(idle_max=judge.limits.idle_max):
            judge.clock_ns = now_us * 1000  # nothing looks at the clock
        self.find_backlogs(queue, types)
        frame, count = self.pair.call("start", queue, types, 0, most, now_us)
        if not self.pair.call("regroup", queue, 0):
            assert (startable, count) == (0, 0), "before all are where the limits look"
            return
        assert count <= min(most, startable)
        tokens = msgpack.unpackb(frame, strict_map_key=False)[4] if count else b""
        for place in range(count):
            self.judge_start(queue, types, tokens[24 * place : 24 * place + 24])
        self.check_fairness(queue)
        if count < most:
            self.check_nobody_was_passed_over(queue, types)

    def judge_start(self, queue: int, types: frozenset[str] | None, token: bytes) -> None:
        judge = self.judges[queue]
        job = self.jobs[token[:16]]
        assert job.status == "pending"
        rivals = {i: j for i, j in self.pending(queue, types).items() if j.key == job.key}
        first = min(rivals, key=lambda job_id: (-rivals[job_id].priority, job_id))
        assert first == token[:16], "overtaken within its group"
        if not judge.limits.fair:
            for job_id, other in self.pending(queue, types).items():
                ahead = (-other.priority, job_id) < (-job.priority, token[:16])
                if ahead and judge.exact:
                    assert judge.broken(self.running(queue), other.key, 1), "passed over"
        job.status, job.token = "processing", token
        judge.starts.append(Start(judge.clock_ns, job.key))
        assert not judge.broken(self.running(queue), job.key)

    def check_nobody_was_passed_over(self, queue: int, types: frozenset[str] | None) -> None:
        judge, running = self.judges[queue], self.running(queue)
        if not judge.exact or self.pair.call("rests", queue):
            return
        for job in self.pending(queue, types).values():
            assert judge.broken(running, job.key, 1), "somebody might have started"

    def find_backlogs(self, queue: int, types: frozenset[str] | None) -> None:
        """Keys with jobs that wait, in a queue where nothing but their turn keeps them back."""
        judge = self.judges[queue]
        bound = judge.limits.key_running_max or judge.limits.key_rate.interval_ns
        if not judge.limits.fair or bound or types is not None or self.pair.call("rests", queue):
            judge.backlog_since.clear()
            return
        keys = {job.key for job in self.pending(queue).values()}
        judge.backlog_since = {key: judge.backlog_since.get(key, len(judge.starts)) for key in keys}

    def end_backlogs(self) -> None:
        """A key of which nothing waits any more comes anew with its next job."""
        for queue, judge in enumerate(self.judges):
            if judge.backlog_since:
                keys = {job.key for job in self.pending(queue).values()}
                judge.backlog_since = {k: at for k, at in judge.backlog_since.items() if k in keys}

    def check_fairness(self, queue: int) -> None:
        """Two keys that had jobs all the time were served equally often, but for one round."""
        judge = self.judges[queue]
        keys = {job.key for job in self.pending(queue).values()} & judge.backlog_since.keys()
        for one in keys:
            for other in keys:
                since = max(judge.backlog_since[one], judge.backlog_since[other])
                served = [start.key for start in judge.starts[since:]]
                assert abs(served.count(one) - served.count(other)) <= 2, "an unfair share"

    def choose(self, pick: int, *statuses: str) -> bytes | None:
        fit = [job_id for job_id, job in self.jobs.items() if job.status in statuses]
        return fit[pick % len(fit)] if fit else None

    def finish(self, pick: int, status: str, command: str, *args: Any) -> None:
        """A running job ends: a queue that can start one now, and could not before, is roused."""
        job_id = self.choose(pick, "processing")
        if job_id is None:
            return
        job = self.jobs[job_id]
        before = self.pair.call("startable", job.queue, self.now_us)
        self.pair.call("take_roused")
        accepted = self.pair.call(command, job.token, *args)
        assert accepted == ((1, b"", []) if command == "succeed" else True)
        job.status = status
        roused = self.pair.call("take_roused")
        if not before and status != "pending" and self.pending(job.queue):
            after = self.pair.call("startable", job.queue, self.now_us)
            assert (job.queue in roused) >= bool(after), "nobody is told that it may go on"

    def succeed(self, pick: int, step_us: int) -> None:
        self.finish(pick, "succeeded", "succeed", self.tick(step_us))

    def end_badly(self, pick: int, how: str) -> None:
        now_us = self.now_us
        match how:
            case "failed":
                self.finish(pick, "failed", "failed", "error", ERROR, now_us)
            case "retried":
                self.finish(pick, "scheduled", "retried", now_us + 1_000_000, ERROR, now_us)
            case "stopped":
                self.finish(pick, "cancelled", "stopped", "cancelled", ERROR, now_us)
            case _:
                self.finish(pick, "pending", how, ERROR, now_us)

    def cancel(self, pick: int) -> None:
        job_id = self.choose(pick, "pending", "scheduled")
        if job_id is not None:
            assert self.pair.call("cancelled", job_id, "no", self.now_us)
            self.jobs[job_id].status = "cancelled"

    def requeue(self, pick: int, step_us: int) -> None:
        """A dead letter runs again, from memory or from the tables; limits count it like others."""
        now_us = self.tick(step_us)
        job_id = self.choose(pick, "failed", "cancelled")
        if job_id is not None:
            self.pair.call("requeue", self.pair.oracle.get(job_id), now_us)
            self.jobs[job_id].status = "pending"
        elif self.dead:
            job_id = sorted(self.dead)[pick % len(self.dead)]
            job = self.dead.pop(job_id)
            self.pair.call("requeue", job, now_us)
            self.jobs[job_id] = known_of(job, "pending")

    def change_key(self, pick: int, key: str, status: str) -> None:
        """A job becomes one of another group, with what it counts for."""
        job_id = self.choose(pick, status)
        if job_id is None:
            return
        job = self.jobs[job_id]
        options = msgpack.packb({"tags": ["x"], "group_key": key}) if key else b""
        assert self.pair.call("change", job_id, self.now_us, options=options)
        job.key = key

    def change_priority(self, pick: int, priority: int) -> None:
        job_id = self.choose(pick, "pending")
        if job_id is not None:
            assert self.pair.call("change", job_id, self.now_us, priority=priority)
            self.jobs[job_id].priority = priority

    def due(self, step_us: int) -> None:
        self.pair.call("due", self.tick(step_us), 1000)
        for job_id, job in self.jobs.items():
            if job.status == "scheduled":
                job.status = self.pair.oracle.get(job_id)["status"]

    def change_limits(self, queue: int, wanted: Limits, looks_max: int) -> None:
        self.judges[queue].change(wanted)
        self.define(self.pair, queue, looks_max)

    def regroup(self, queue: int, looks_max: int) -> None:
        """The jobs go on to change their lanes."""
        assert self.pair.call("regroup", queue, looks_max) >= (looks_max > 3)

    def ask(self, queue: int, pick: int, step_us: int) -> None:
        """The answers of both agree; who waits for nothing but a token is told when it is there."""
        now_us = self.tick(step_us)
        job_id = self.choose(pick, "pending", "processing", "scheduled")
        blocked = self.pair.call("blocked", queue, now_us, job_id)
        running = self.running(queue)
        for block in blocked:
            assert len(block["holders"]) <= 10
            assert all(self.jobs[i].status == "processing" for i in block["holders"])
        self.pair.call("ready", queue, None)
        startable = self.pair.call("startable", queue, now_us)
        next_us = self.pair.call("next_token_us", queue, now_us)
        most = self.judges[queue].limits.running_max
        full = most and sum(running.values()) >= most
        moving = not self.pair.call("regroup", queue, 0)
        if self.pending(queue) and not startable and not full and not moving:
            keyed = self.judges[queue].limits.key_running_max
            assert next_us > now_us or (keyed and running), "nothing will ever wake it"
        if next_us:
            later = copy.deepcopy(self.pair.oracle)
            assert later.next_token_us(queue, next_us) != next_us

    # --- the log ----------------------------------------------------------------------------------

    def commit(self) -> None:
        taken = self.pair.take_batch()
        if taken is not None:
            self.log[taken[0]] = taken[2]
            self.pair.call("committed", taken[0])

    def write(self) -> None:
        """Into the tables, as the projector does."""
        self.commit()
        before = self.pair.oracle.snapshot()
        projections = self.pair.collect(1000, 2**62)
        if projections is not None:
            self.tables.apply(projections.oracle)
            self.pair.projected(projections)
        left = {job["id"] for job in self.pair.oracle.snapshot()}
        gone = [job for job in before if job["id"] not in left and job["status"] == "failed"]
        self.dead |= {job["id"]: job for job in gone}
        self.jobs = {job_id: job for job_id, job in self.jobs.items() if job_id in left}

    def crash(self, step_us: int) -> None:
        """What was not durable never reached a worker; the next owner knows what the log says."""
        lost = self.pair.oracle.gathering_lsn
        kept: dict[bytes, Known] = {}
        self.seed += 1
        self.pair = self.fresh_pair()
        self.pair.call("load", self.tables.unfinished(False))
        for lsn, body in self.log.items():
            if lsn > self.tables.watermark:
                self.pair.call("replay", lsn, body)
        self.pair.call("adopt", max([*self.log, self.tables.watermark]))
        self.pair.call("owned", "node", self.seed, self.tick(step_us))
        self.commit()
        for job in self.pair.oracle.snapshot():
            kept[job["id"]] = known_of(job, job["status"])
        self.jobs = kept
        for judge in self.judges:
            judge.exact = False
            judge.backlog_since.clear()
        assert lost

    def teardown(self) -> None:
        """When all has ended no slot is taken, and no group is left that owes nothing."""
        if not hasattr(self, "pair"):
            return
        self.pair.same_state()
        while (job_id := self.choose(0, "processing")) is not None:
            self.finish(list(self.jobs).index(job_id) * 0, "succeeded", "succeed", self.now_us)
        for queue in range(QUEUES):
            assert self.pair.call("blocked", queue, self.now_us + 10**12) == []


def run(subject: ModuleType, examples: int, steps: int = 50) -> None:
    machine = type("Machine", (LimitsMachine,), {"subject": subject})
    run_machine(machine, examples, steps)


def test_compiled_table_obeys_the_limits_and_agrees_with_the_plain_one() -> None:
    run(compiled, examples=60, steps=40)


def test_no_call_takes_more_jobs_to_their_groups_than_it_may_look_at() -> None:
    table, batch = compiled.ShardTable(SHARD, 1), compiled.SubmitBatch()
    for number in range(2_000):
        batch.add("mail", b"{}", options=msgpack.packb({"group_key": str(number)}))
    queue = table.queue(b"q" * 16, PROJECT, "q", 0, 2)
    table.submit(queue, batch, EPOCH_US)
    sizes = [table.bytes_resident]
    given = Limits(key_running_max=1).given()
    table.queue(b"q" * 16, PROJECT, "q", 0, 2, 0, given, looks_max=500)
    sizes.append(table.bytes_resident)
    for over in (False, False, True):
        assert table.startable(queue, EPOCH_US) == 0
        assert table.regroup(queue, 1_000 if over else 250) is over or over
        sizes.append(table.bytes_resident)
    table.regroup(queue, 1_000)
    sizes.append(table.bytes_resident)
    group_bytes = (sizes[-1] - sizes[0]) // 2_000
    assert group_bytes > 0
    grown = [size - before for before, size in pairwise(sizes)]
    assert [size // group_bytes for size in grown] == [500, 250, 250, 1_000, 0]
    assert table.startable(queue, EPOCH_US) == 2_000


HOURLY = Rate(3_600 * SECOND_NS, 1)


@pytest.mark.parametrize("limited", [Limits(rate=HOURLY), Limits(key_rate=HOURLY)])
@pytest.mark.parametrize("late_us", [None, 0, 1])
def test_a_bucket_is_full_where_nothing_was_before_and_empty_for_the_next_owner(
    limited: Limits, late_us: int | None
) -> None:
    machine = type("Machine", (LimitsMachine,), {"subject": compiled})()
    machine.begin(first=limited, born_us=0 if late_us is None else EPOCH_US + late_us)
    job = {"key": "ada", "job_type": "mail", "priority": 0, "delay_us": 0}
    machine.submit(0, [job] * 3, 0)
    machine.start(0, None, 5, 0)
    young = late_us == 1
    assert len(machine.judges[0].starts) == young
    machine.succeed(0, 1_000_000)
    machine.write()
    machine.crash(1_000_000)
    machine.start(0, None, 5, 1_000_000)
    assert len(machine.judges[0].starts) == young, "more than the rate over both owners"
    machine.start(0, None, 5, 3_600_000_000)
    assert len(machine.judges[0].starts) == young + 1


def test_jobs_that_come_back_from_the_tables_do_not_empty_the_buckets_of_their_owner() -> None:
    """What was tried in this ownership is known; of an earlier one it is guessed."""
    machine = type("Machine", (LimitsMachine,), {"subject": compiled})()
    machine.begin(first=Limits(rate=HOURLY), born_us=0)
    job = {"key": "", "job_type": "mail", "priority": 0, "delay_us": 0}
    machine.submit(1, [job], 3_590_000_000)
    machine.start(1, None, 1, 0)
    machine.end_badly(0, "retried")
    machine.write()
    assert machine.pair.call("release_scheduled", machine.now_us) == 1
    machine.pair.call("begin_reading")
    machine.pair.call("fault_in", joined(machine.tables.open_rows("scheduled")))
    machine.pair.call("end_reading")
    machine.submit(0, [job], 10_000_000)
    assert machine.pair.call("startable", 0, machine.now_us) == 1


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_limits_at_length() -> None:
    run(compiled, examples=5_000, steps=100)
