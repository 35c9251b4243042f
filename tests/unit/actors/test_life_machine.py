"""The life of jobs, held against a queue in plain words (`tests/support/life_model.py`).

Random commands and frames of a worker go through the queue's actor, the dispatcher, the leases and
the rules; nodes die between two commits. After each step every job is where the model says, what
was started was started in the model's order, and a table that is made of the log alone says the
same as the living one.
"""

import copy
import dataclasses
import json
from collections import Counter
from typing import Any, get_args

import msgpack
import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
)

from taskforge.worker import frames
from taskforge_server.engine import limits
from taskforge_server.engine.actors.commands import Requeue, RequeueMany, Submit
from taskforge_server.engine.actors.control import (
    CANCEL_FRAME,
    EXTENDED_FRAME,
    Cancel,
    Change,
    expire,
    tell_again,
)
from taskforge_server.engine.actors.leases import STOP_FRAME
from taskforge_server.engine.actors.queue import define
from taskforge_server.engine.errors import Conflict
from taskforge_server.engine.model.joboptions import JobOptions, pack_told
from taskforge_server.engine.model.queue import QueueSettings
from taskforge_server.engine.model.retry import RetryPolicyChange
from taskforge_server.ext.pure import tablelog
from taskforge_server.ext.table import ShardTable, SubmitBatch
from tests.support.engine_parts import EngineParts, done
from tests.support.life_model import ENDED, BudgetJudge, Job, Queue
from tests.support.machines import run_machine
from tests.support.table_model import Call, call, weighted

SNOOZES_MAX = 2
CREDIT = 3
ERRORS = ("ValueError", "TypeError", "timeout")
BUDGET = {"ratio": 0.25, "per_s": 0.25}
RETRY, SNOOZE, CALLED_OFF = 3, 4, 5
JOBS = 11
TOLD = STOP, CANCEL, EXTENDED = STOP_FRAME, CANCEL_FRAME, EXTENDED_FRAME

policies = st.fixed_dictionaries(
    {
        "max_attempts": st.sampled_from([3, 2, 1, 5]),
        "base_delay": st.sampled_from([0.5, 1.0, 2.0]),
        "max_delay": st.sampled_from([2.0, 3.0, 100.0]),
        "backoff_multiplier": st.sampled_from([1.0, 2.0, 3.0]),
        "backoff": st.sampled_from(["exponential", "linear", "fixed"]),
        "jitter": st.sampled_from(["full", "none"]),
        "non_retryable": st.sampled_from([(), (), ("TypeError",), ("timeout",)]),
    }
)
own_policies = st.sampled_from(
    [
        {},
        {},
        {"backoff": "list", "delays": (3.0, 0.0, 1.5)},
        {"backoff": "fixed", "base_delay": 2.0, "jitter": "none"},
        {"max_attempts": 2, "non_retryable": ("ValueError",)},
        {"backoff": "linear", "max_delay": 3.0},
    ]
)
picks = st.integers(0, 10_000)
jitters = st.sampled_from([0.0, 0.25, 0.5, 0.875])
ahead_us = st.sampled_from([-5_000_000, 0, 1, 1_500_000, 10_000_000, 2**62])
new_jobs = st.fixed_dictionaries(
    {
        "priority": st.sampled_from([0, 0, 3, 9]),
        "delay_us": st.sampled_from([0, 0, 0, 1_000_000, 4_000_000]),
        "expires_s": st.sampled_from([0, 0, 2, 6]),
        "timeout_ms": st.sampled_from([0, 0, 1_500]),
        "soft_s": st.sampled_from([0, 0, 1.25]),
        "attempts_max": st.sampled_from([0, 0, 1, 4]),
        "own": own_policies,
    }
)
verdicts = weighted(
    *call(1, "succeed"),
    *call(
        5,
        "fail",
        error=st.sampled_from([*ERRORS, "ValueError", "ValueError"]),
        retryable=st.sampled_from([True, True, True, True, False]),
    ),
    *call(2, "retry", error=st.sampled_from(ERRORS), at_us=ahead_us, later=st.booleans()),
    *call(4, "snooze", at_us=ahead_us, later=st.booleans()),
    *call(3, "give_back"),
    *call(1, "call_off"),
)
# One rule with weights: hypothesis leaves some of many rules out of each run.
calls: st.SearchStrategy[Call] = weighted(
    *call(6, "submit", jobs=st.lists(new_jobs, min_size=1, max_size=3)),
    *call(20, "end", pick=picks, verdict=verdicts, jitter=jitters),
    *call(2, "extend", pick=picks, more_ms=st.sampled_from([1, 2_000, 60_000])),
    *call(2, "lose_worker"),
    *call(4, "pass_time", step_us=st.sampled_from([0, 300_000, 1_000_000, 4_000_000])),
    *call(6, "timers", jitter=jitters, step_us=st.sampled_from([0, 0, 2_000_000, 5_000_000])),
    *call(2, "cancel", pick=picks, grace_us=st.sampled_from([1_000_000, 3_000_000])),
    *call(2, "change", pick=picks, ahead_us=ahead_us, priority=st.sampled_from([-1, 0, 9])),
    *call(3, "requeue", pick=picks),
    *call(1, "requeue_many", interval_us=st.sampled_from([0, 1_500_000])),
    *call(
        1,
        "change_queue",
        policy=policies,
        timeout_s=st.sampled_from([None, 2.5]),
        soft_s=st.sampled_from([None, 0.5]),
    ),
    *call(1, "pause"),
    *call(2, "take_over", pick=picks, undone=verdicts, jitter=jitters),
    *call(1, "the_log_says_the_same"),
)


class Answer:
    """What a caller waits with."""

    value: Any = None
    error: Exception | None = None

    def done(self) -> bool:
        return self.value is not None or self.error is not None

    def set_result(self, result: Any, /) -> None:
        self.value = result

    def set_exception(self, error: Exception, /) -> None:
        self.error = error


class LifeMachine(RuleBasedStateMachine):
    """One queue, one worker, and whatever may happen to them."""

    seen: Counter[str]
    """What came about, over all runs."""

    @initialize(
        policy=policies,
        crashes_max=st.sampled_from([3, 2, 1, 9]),
        budget=st.sampled_from([None, BUDGET]),
    )
    def begin(self, policy: dict[str, Any], crashes_max: int, budget: Any) -> None:
        self.model = Queue(policy, crashes_max, SNOOZES_MAX)
        self.budget = budget
        self.parts = EngineParts()
        self.queue = self.parts.queue("mail", **self.settings())
        self.seq = 0
        self.retries: list[bytes] = []
        self.tokens: list[bytes] = []
        self.told: list[tuple[Any, ...]] = []
        self.connect()
        self.settle()

    @rule(call=calls)
    def do(self, call: Call) -> None:
        getattr(self, call.name)(**call.args)
        self.settle()
        self.everything_is_as_the_model_says()

    def settings(self) -> dict[str, Any]:
        timeout_us = self.model.timeout_us
        return {
            "retry_policy": dict(self.model.policy),
            "crashes_max": self.model.crashes_max,
            "retry_budget": self.budget,
            "timeout": timeout_us / 1e6 if timeout_us else None,
            "soft_timeout": self.model.soft_us / 1e6 if self.model.soft_us else None,
        }

    def connect(self) -> None:
        """The worker comes, and names what it runs."""
        self.judge = BudgetJudge(**BUDGET)
        self.worker, self.outlet = self.parts.worker(["mail"], CREDIT, features=["cancel"])
        self.worker.outstanding = len(self.model.of("processing"))
        self.heard = 0

    @property
    def now_us(self) -> int:
        return self.parts.clock.now_us()

    @property
    def table(self) -> ShardTable:
        return self.parts.shards[1].table

    def send(self, command: Any) -> Answer:
        reply: Answer = command.reply
        self.queue.handle([command])
        return reply

    # --- what the engine does by itself --------------------------------------------------

    def settle(self) -> None:
        """All that may start starts, and is durable; the worker gets it in the model's order."""
        free = CREDIT - len(self.model.of("processing"))
        expected = self.model.start(free, self.now_us)
        self.parts.dispatcher.ready(self.queue)
        self.parts.settle()
        new = self.outlet.frames[self.heard :]
        self.heard += len(new)
        tokens = [token for frame in new if frame[0] == JOBS for token in self.begun(frame)]
        assert [token[:16] for token in tokens] == expected, "started in another order"
        said = [
            (kind, held[at : at + 24], *rest)
            for kind, held, *rest in (frame for frame in new if frame[0] in TOLD)
            for at in range(0, len(held), 24)
        ]
        assert sorted(said) == sorted(self.told), "the worker was told something else"
        self.seen.update(f"told {frame[0]}" for frame in said)
        self.told.clear()
        self.tokens += tokens
        if tokens:
            self.judge.started(len(tokens), self.now_us)
        self.durable = copy.deepcopy(self.model)

    def begun(self, frame: list[Any]) -> list[bytes]:
        """The leases that the worker reads out of a frame, each with the limits of its attempt."""
        read = frames.decode(msgpack.packb(frame))
        assert isinstance(read, frames.Jobs)
        tokens = [read.tokens[at : at + 24] for at in range(0, len(read.tokens), 24)]
        for place, token in enumerate(tokens):
            job, extra = self.model.jobs[token[:16]], read.extras.get(place, frames.Extra())
            limits_us = round(extra.soft_timeout_s * 1e6), extra.timeout_ms * 1000
            assert limits_us == self.model.limits_of(job)
            assert (extra.attempt, extra.deadline_us) == (job.attempt, job.deadline_us)
            self.seen.update({"a soft limit": limits_us[0] > 0, "a hard limit": limits_us[1] > 0})
            job.token = token
        return tokens

    def pass_time(self, step_us: int) -> None:
        """No timer has come round yet."""
        self.parts.clock.advance(step_us / 1e6)

    def timers(self, jitter: float, step_us: int) -> None:
        """Those of the leases, of expiry and of due times; the worker was heard of."""
        self.pass_time(step_us)
        self.parts.jitter = jitter
        self.worker._context.leases.extend(self.worker._lease)
        shard = self.parts.shards[1]
        self.told += [(STOP, job.token) for job in self.model.late(self.now_us)]
        self.retries += self.model.time_out(self.now_us, jitter)
        self.parts.leases.sweep([shard])
        self.check_retries()
        expire(shard, self.now_us, self.parts.counters)
        self.model.expire(self.now_us)
        self.parts.journal.dirty(shard)
        self.parts.due()
        self.model.due(self.now_us)

    def check_retries(self) -> None:
        """What is to be tried again is due when its policy says; with a budget perhaps later."""
        for job_id in self.retries:
            job, found = self.model.jobs[job_id], self.table.get(job_id)
            assert found is not None
            if self.budget is not None:
                self.judge.retried(job.due_us, found["due_us"], self.now_us)
                self.seen["put off by the budget"] += found["due_us"] > job.due_us
                job.due_us = found["due_us"]
            self.seen[f"retry {({**self.model.policy, **job.own})['backoff']}"] += 1
        self.retries.clear()

    # --- what callers do --------------------------------------------------

    def submit(self, jobs: list[dict[str, Any]]) -> None:
        batch, made = SubmitBatch(), []
        for told in jobs:
            due_us = self.now_us + told["delay_us"] if told["delay_us"] else 0
            expires_us = self.now_us + told["expires_s"] * 1_000_000 if told["expires_s"] else 0
            own = RetryPolicyChange(**told["own"]) if told["own"] else None
            soft_s = told["soft_s"]
            more = JobOptions(expires_us=expires_us, retry_policy=own, soft_timeout_s=soft_s)
            options = pack_told({"more": more})
            attempts_max, timeout_ms = told["attempts_max"], told["timeout_ms"]
            batch.add("send", b"{}", told["priority"], due_us, timeout_ms, attempts_max, options)
            job = Job(b"", told["priority"], "scheduled" if due_us else "pending", due_us)
            job.attempts_max, job.own, job.expires_us = attempts_max, told["own"], expires_us
            job.timeout_us, job.soft_us = timeout_ms * 1000, round(soft_s * 1e6)
            made.append(job)
        reply = self.send(Submit(batch, None, Answer()))
        assert not reply.done(), "an answer before its commit"
        self.parts.journal.commit()
        for place, job in enumerate(made):
            job.id = reply.value[16 * place : 16 * place + 16]
            self.model.jobs[job.id] = job

    def pick(self, pick: int, *statuses: str) -> Job | None:
        """Mostly a job in one of these states, sometimes any."""
        fit = self.model.of(*statuses) if pick % 8 != 7 else []
        among = fit or [*self.model.jobs.values()]
        return among[pick // 8 % len(among)] if among else None

    def cancel(self, pick: int, grace_us: int) -> None:
        job = self.pick(pick, "pending", "scheduled", "processing")
        if job is None:
            return
        reply = self.send(Cancel(job.id, Answer(), grace_us))
        news = self.model.is_news(job, grace_us, self.now_us)
        fits = self.model.cancelled(job, grace_us, self.now_us)
        if news:
            self.told.append((CANCEL, job.token, (job.deadline_us - self.now_us) // 1000))
        self.parts.journal.commit()
        assert isinstance(reply.error, Conflict) != fits

    def change(self, pick: int, ahead_us: int, priority: int) -> None:
        """At another time, or now; first or last."""
        job = self.pick(pick, "pending", "scheduled")
        if job is None:
            return
        due_us = -1 if ahead_us > 2**60 else max(0, self.now_us + ahead_us)
        reply = self.send(Change(job.id, Answer(), due_us, priority))
        fits = self.model.changed(job, due_us, priority, self.now_us)
        self.parts.journal.commit()
        assert isinstance(reply.error, Conflict) != fits

    def requeue(self, pick: int) -> None:
        job = self.pick(pick, "failed", "cancelled")
        if job is None:
            return
        reply = self.send(Requeue(self.table.get(job.id) or {}, Answer()))
        fits = self.model.requeued(job)
        self.parts.journal.commit()
        assert isinstance(reply.error, Conflict) != fits

    def requeue_many(self, interval_us: int) -> None:
        """The dead letters, at a pace; and others that somebody else was faster with."""
        self.count_ends()
        jobs = [*self.model.jobs.values()]
        found = [self.table.get(job.id) or {} for job in jobs]
        reply = self.send(RequeueMany(found, self.now_us, interval_us, b"", Answer()))
        again = self.model.requeued_at_a_pace(jobs, interval_us, self.now_us)
        self.parts.journal.commit()
        assert reply.value == b"".join(again)
        self.seen["at a pace"] += bool(interval_us and again[1:])

    def change_queue(
        self, policy: dict[str, Any], timeout_s: float | None, soft_s: float | None
    ) -> None:
        """Its jobs are judged by what it says when they end."""
        self.model.policy = policy
        self.model.timeout_us = round((timeout_s or 0) * 1e6)
        self.model.soft_us = round((soft_s or 0) * 1e6)
        self.tell_queue()

    def pause(self) -> None:
        """Or go on."""
        self.model.paused = not self.model.paused
        self.tell_queue()

    def tell_queue(self) -> None:
        wanted = msgspec.convert(self.settings(), QueueSettings)
        ref = dataclasses.replace(self.queue.ref, settings=wanted, paused=self.model.paused)
        self.parts.refs[ref.id] = ref
        self.queue.update(ref)

    # --- what workers say --------------------------------------------------

    def end(self, pick: int, verdict: Call, jitter: float) -> None:
        """An attempt ends, mostly one that runs; for others the worker is told that it is late."""
        current = [job.token for job in self.model.of("processing")]
        among = current if current and pick % 16 != 15 else self.tokens
        if not among:
            return
        token = among[pick // 16 % len(among)]
        self.parts.jitter = jitter
        job = self.model.running(token)
        self.seq += 1
        frame = getattr(self, verdict.name)(token, job, jitter, **verdict.args)
        self.worker.handle([done(self.seq, *frame)])
        self.check_retries()
        if job is None:
            self.parts.journal.commit()
            assert self.outlet.frames[-1][2] == token, "a lease that is over counted"

    def extend(self, pick: int, more_ms: int) -> None:
        """A handler wants more time, mostly one that runs; others are told to stop."""
        current = [job.token for job in self.model.of("processing")]
        among = current if current and pick % 16 != 15 else self.tokens
        if not among:
            return
        token = among[pick // 16 % len(among)]
        job = self.model.running(token)
        self.worker.handle([msgpack.packb([8, token, more_ms])])
        if job is not None:
            self.model.extended(job, more_ms * 1000, self.now_us)
        self.told.append((EXTENDED if job else STOP, token))

    def succeed(self, token: bytes, job: Job | None, jitter: float) -> tuple[Any, ...]:
        if job:
            self.model.succeeded(job)
        return (token,)

    def fail(
        self, token: bytes, job: Job | None, jitter: float, error: str, retryable: bool
    ) -> tuple[Any, ...]:
        if job and self.model.failed(job, error, retryable, None, self.now_us, jitter):
            self.retries.append(job.id)
        return b"", (token, 1, told(error, retryable=retryable))

    def retry(
        self, token: bytes, job: Job | None, jitter: float, error: str, at_us: int, later: bool
    ) -> tuple[Any, ...]:
        wish, wish_us = self.wish(at_us, later)
        if job and self.model.failed(job, error, True, wish_us, self.now_us, jitter):
            self.retries.append(job.id)
        wish["error"] = json.loads(told(error))
        return b"", (token, RETRY, json.dumps(wish).encode())

    def snooze(
        self, token: bytes, job: Job | None, jitter: float, at_us: int, later: bool
    ) -> tuple[Any, ...]:
        wish, wish_us = self.wish(at_us, later)
        if job:
            self.model.snoozed(job, wish_us, self.now_us)
        return b"", (token, SNOOZE, json.dumps(wish).encode())

    def wish(self, at_us: int, later: bool) -> tuple[dict[str, Any], int]:
        """In so many milliseconds, or at a time."""
        if later and at_us < 2**60:
            return {"delay_ms": at_us // 1000}, self.now_us + at_us // 1000 * 1000
        return {"at_us": self.now_us + at_us}, self.now_us + at_us

    def give_back(self, token: bytes, job: Job | None, jitter: float) -> tuple[Any, ...]:
        if job:
            self.model.given_back(job)
        return b"", (token, 2, None)

    def call_off(self, token: bytes, job: Job | None, jitter: float) -> tuple[Any, ...]:
        if job:
            self.model.called_off(job)
        return b"", (token, CALLED_OFF, json.dumps({"error": {"type": "E"}}).encode())

    def lose_worker(self) -> None:
        """Its lease runs out; another process comes in its place."""
        self.parts.leases.sweep([])  # time that passed unseen is forgiven
        self.worker._lease.deadline_us = self.parts.clock.monotonic_us()
        self.parts.leases.sweep([])
        assert self.worker.ended
        for job in self.model.of("processing"):
            self.model.lost(job)
        judge = self.judge
        self.connect()
        self.judge = judge

    # --- the log --------------------------------------------------

    def take_over(self, pick: int, undone: Call, jitter: float) -> None:
        """The node dies with something decided that is not durable; the next one knows the log."""
        if self.model.of("processing"):
            self.end(pick * 16, undone, jitter)
        self.model = copy.deepcopy(self.durable)
        before = self.parts
        self.parts = EngineParts(clock=before.clock)
        self.parts.journal.bodies = before.journal.bodies
        self.queue = self.parts.queue("mail", **self.settings())
        self.tell_queue()
        shard = self.parts.shards[1]
        self.replay(shard.table)
        shard.table.adopt(len(self.parts.journal.bodies))
        shard.marks.drain(shard.table)
        self.parts.leases.recover(shard)
        self.connect()
        self.told.clear()
        for job in self.model.of("processing"):
            if job.cancel:
                left_us = max(0, job.deadline_us - self.now_us)
                self.told.append((CANCEL, job.token, left_us // 1000))
        tell_again(shard, self.worker, self.now_us)
        self.parts.due()
        self.model.due(self.now_us)

    def replay(self, table: ShardTable) -> None:
        for _, lsn, body in self.parts.journal.bodies:
            table.replay(lsn, body)

    def the_log_says_the_same(self) -> None:
        fold = ShardTable(1, 99)
        define(fold, self.queue.ref)
        self.replay(fold)
        self.model.due(self.now_us)
        self.parts.due()
        fold.due(self.now_us, len(self.model.jobs))
        assert fold.snapshot() == self.table.snapshot()

    def everything_is_as_the_model_says(self) -> None:
        found = {job["id"]: job for job in self.table.snapshot()}
        assert found.keys() == self.model.jobs.keys()
        for job_id, job in self.model.jobs.items():
            assert seen_of(found[job_id]) == wanted_of(job)

    def teardown(self) -> None:
        if not hasattr(self, "parts"):
            return
        self.the_log_says_the_same()
        for _, _, body in self.parts.journal.bodies:
            self.seen.update(type(event).__name__ for event in tablelog.decode(body).events)
        self.count_ends()

    def count_ends(self) -> None:
        self.seen.update(f"{job.status} {job.reason}" for job in self.model.of(*ENDED))


def told(error: str, **more: Any) -> bytes:
    return json.dumps({"type": error, "message": "no", **more}).encode()


def seen_of(job: dict[str, Any]) -> dict[str, Any]:
    names = ("status", "priority", "attempt", "crashes", "returns", "reason")
    token = job["id"] + job["lease_lsn"].to_bytes(8, "big")
    return {name: job[name] for name in names} | {
        "due_us": job["due_us"] if job["status"] == "scheduled" else None,
        "deadline_us": job["deadline_us"] if job["status"] == "processing" else None,
        "token": token if job["status"] == "processing" else None,
    }


def wanted_of(job: Job) -> dict[str, Any]:
    names = ("status", "priority", "attempt", "crashes", "returns", "reason")
    return {name: getattr(job, name) for name in names} | {
        "due_us": job.due_us if job.status == "scheduled" else None,
        "deadline_us": job.deadline_us if job.status == "processing" else None,
        "token": job.token if job.status == "processing" else None,
    }


EVENTS = {event.__name__ for event in get_args(tablelog.JobEvent)}
ENDS = {
    "succeeded None",
    *(f"cancelled {reason}" for reason in ("cancelled", "handler", "expired")),
    *(
        f"failed {reason}"
        for reason in (
            "not_retryable",
            "attempts_exhausted",
            "error",
            "timeout",
            "quarantined",
            "snoozes_exhausted",
        )
    ),
}
LIMITS = {"a soft limit", "a hard limit", *(f"told {kind}" for kind in TOLD)}
PAUSES = {f"retry {backoff}" for backoff in ("exponential", "linear", "fixed", "list")}


def run(examples: int, steps: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    run_machine(type("Machine", (LifeMachine,), {"seen": seen}), examples, steps)
    return seen


def what_is_rare(seen: Counter[str]) -> None:
    """A job is snoozed too often, another fails too often, both are put back; one has a limit, gets
    more time, is cancelled: examples may come to none of it."""
    machine = type("Machine", (LifeMachine,), {"seen": seen})()
    policy = {
        "max_attempts": 2,
        "base_delay": 1.0,
        "max_delay": 2.0,
        "backoff_multiplier": 2.0,
        "backoff": "exponential",
        "jitter": "none",
        "non_retryable": (),
    }
    job = {
        "priority": 0,
        "delay_us": 0,
        "expires_s": 0,
        "timeout_ms": 0,
        "soft_s": 0,
        "attempts_max": 0,
    }
    snooze = Call("snooze", {"at_us": 0, "later": True})
    fail = Call("fail", {"error": "ValueError", "retryable": True})
    machine.begin(policy, 3, None)

    def do(name: str, **args: Any) -> None:
        machine.do(Call(name, args))

    do("change_queue", policy=policy, timeout_s=2.5, soft_s=0.5)
    do("submit", jobs=[job | {"own": {}, "timeout_ms": 1_500}])
    do("cancel", pick=0, grace_us=3_000_000)
    do("extend", pick=0, more_ms=60_000)
    do("cancel", pick=0, grace_us=3_000_000)
    do("cancel", pick=0, grace_us=1_000_000)
    do("take_over", pick=0, undone=fail, jitter=0.5)
    do("timers", jitter=0.5, step_us=5_000_000)
    do("change_queue", policy=policy, timeout_s=None, soft_s=None)
    for verdicts in ([snooze] * (SNOOZES_MAX + 1), [fail] * 2):
        do("submit", jobs=[job | {"own": {}}])
        for verdict in verdicts:
            do("end", pick=0, verdict=verdict, jitter=0.5)
            do("pass_time", step_us=4_000_000)
            do("timers", jitter=0.5, step_us=0)
    do("requeue_many", interval_us=1_500_000)
    machine.teardown()


def test_jobs_live_as_the_guides_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SNOOZES_MAX", SNOOZES_MAX)
    seen = run(examples=100, steps=50)
    what_is_rare(seen)
    wanted = EVENTS | ENDS | PAUSES | LIMITS | {"put off by the budget", "at a pace"}
    assert not {what for what in wanted if not seen[what]}, seen


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_jobs_live_as_the_guides_say_at_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SNOOZES_MAX", SNOOZES_MAX)
    run(examples=3_000, steps=80)
