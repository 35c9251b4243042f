"""A queue in plain words: what becomes of its jobs, whatever is told them and however they end.

It knows nothing of tables, events, heaps or books: a list of jobs that is scanned for every
question, and the tables of the guides (retries, control) written down once more. The machine in
`tests/unit/actors/test_life_machine.py` holds the engine against it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

WAITING = ("pending", "scheduled")
ENDED = ("succeeded", "failed", "cancelled")
SECOND_US = 1_000_000
DELAY_S_MAX = 7 * 86_400

Policy = Mapping[str, Any]


@dataclass
class Job:
    """What is known of a job. `own` goes before the policy of the queue, field by field."""

    id: bytes
    priority: int = 0
    status: str = "pending"
    due_us: int = 0
    attempts_max: int = 0
    own: Policy = field(default_factory=dict)
    expires_us: int = 0
    timeout_us: int = 0
    soft_us: int = 0
    attempt: int = 0
    crashes: int = 0
    returns: int = 0
    token: bytes = b""
    deadline_us: int = 0
    cancel: bool = False
    reason: str | None = None


@dataclass
class Queue:
    """All jobs of one queue, and what the queue says."""

    policy: Policy
    crashes_max: int
    snoozes_max: int
    timeout_us: int = 0
    soft_us: int = 0
    paused: bool = False
    jobs: dict[bytes, Job] = field(default_factory=dict)

    def of(self, *statuses: str) -> list[Job]:
        return [job for job in self.jobs.values() if job.status in statuses]

    def running(self, token: bytes) -> Job | None:
        """The job whose lease this is, if it still is."""
        job = self.jobs.get(token[:16])
        return job if job and job.status == "processing" and job.token == token else None

    # time

    def due(self, now_us: int) -> None:
        """What waited for its time waits for a worker from now on."""
        for job in self.of("scheduled"):
            if job.due_us <= now_us:
                job.status = "pending"

    def expire(self, now_us: int) -> None:
        """What was never started by its time is not started any more."""
        for job in self.of(*WAITING):
            if not job.attempt and 0 < job.expires_us <= now_us:
                self._end(job, "cancelled", "expired")

    def late(self, now_us: int) -> list[Job]:
        """Those whose attempts have run out of time."""
        return [job for job in self.of("processing") if 0 < job.deadline_us <= now_us]

    def time_out(self, now_us: int, jitter: float) -> list[bytes]:
        """Attempts that ran out of time; the jobs that shall run again."""
        return [
            job.id
            for job in self.late(now_us)
            if self.failed(job, "timeout", True, None, now_us, jitter, late=True)
        ]

    def start(self, most: int, now_us: int) -> list[bytes]:
        """The jobs that begin, in their order: the greatest priority, then the oldest."""
        if self.paused or most <= 0 or not self.of("pending"):
            return []
        self.expire(now_us)
        first = sorted(self.of("pending"), key=lambda job: (-job.priority, job.id))[:most]
        for job in first:
            _, timeout_us = self.limits_of(job)
            job.status, job.due_us = "processing", 0
            job.attempt += 1
            job.deadline_us = now_us + timeout_us if timeout_us else 0
        return [job.id for job in first]

    def limits_of(self, job: Job) -> tuple[int, int]:
        """How long an attempt may run until its handler is told, and until it is stopped; 0: for
        ever. What the job says goes before the queue."""
        return job.soft_us or self.soft_us, job.timeout_us or self.timeout_us

    # how attempts end; each says whether the job shall run again

    def succeeded(self, job: Job) -> bool:
        self._end(job, "succeeded", None)
        return False

    def failed(
        self,
        job: Job,
        error_type: str,
        retryable: bool,
        wish_us: int | None,
        now_us: int,
        jitter: float,
        late: bool = False,
    ) -> bool:
        """The handler raised, or was `late`; `wish_us` is when it wants to be called again."""
        if job.cancel:
            self._end(job, "cancelled", "cancelled")
            return False
        policy = {**self.policy, **job.own}
        most = job.attempts_max or policy["max_attempts"]
        failures = job.attempt - job.crashes - job.returns
        if not retryable:
            self._end(job, "failed", "not_retryable")
        elif error_type in policy["non_retryable"]:
            self._end(job, "failed", "timeout" if late else "not_retryable")
        elif failures >= most and late:
            self._end(job, "failed", "timeout")
        elif failures >= most:
            self._end(job, "failed", "error" if most == 1 else "attempts_exhausted")
        else:
            chance = 1.0 if policy["jitter"] == "none" else jitter
            wait_us = round(chance * wait_s(policy, failures) * SECOND_US)
            due_us = now_us + wait_us if wish_us is None else reachable_us(wish_us, now_us)
            job.status, job.due_us = "scheduled", due_us
            return True
        return False

    def snoozed(self, job: Job, wish_us: int, now_us: int) -> bool:
        """The handler puts the job off."""
        if job.cancel:
            self._end(job, "cancelled", "cancelled")
        elif job.returns >= self.snoozes_max:
            self._end(job, "failed", "snoozes_exhausted")
        else:
            job.returns += 1
            job.status, job.due_us = "scheduled", reachable_us(wish_us, now_us)
            return True
        return False

    def given_back(self, job: Job) -> bool:
        """The worker stops before it has ended the job."""
        if job.cancel:
            self._end(job, "cancelled", "cancelled")
            return False
        job.returns += 1
        job.status = "pending"
        return True

    def called_off(self, job: Job) -> bool:
        """The handler says that the job is not to be run any more."""
        self._end(job, "cancelled", "handler")
        return False

    def lost(self, job: Job) -> bool:
        """The worker died with it."""
        if job.cancel:
            self._end(job, "cancelled", "cancelled")
        elif job.crashes + 1 >= self.crashes_max:
            self._end(job, "failed", "quarantined")
        else:
            job.crashes += 1
            job.status = "pending"
            return True
        return False

    def extended(self, job: Job, more_us: int, now_us: int) -> None:
        """The handler asks for more time: it gets some if it had a limit and shall not end."""
        if job.deadline_us and not job.cancel:
            job.deadline_us = max(job.deadline_us, now_us + more_us)

    # what people say

    def cancelled(self, job: Job, grace_us: int, now_us: int) -> bool:
        """False: it has ended."""
        if job.status == "processing":
            if self.is_news(job, grace_us, now_us):
                ends_us = now_us + grace_us
                job.deadline_us = min(ends_us, job.deadline_us or ends_us)
            job.cancel = True
        elif job.status in WAITING:
            self._end(job, "cancelled", "cancelled")
        return job.status not in ("succeeded", "failed")

    def is_news(self, job: Job, grace_us: int, now_us: int) -> bool:
        """Whether the handler is told: not where it shall end sooner already."""
        sooner = 0 < job.deadline_us <= now_us + grace_us
        return job.status == "processing" and not (job.cancel and sooner)

    def changed(self, job: Job, due_us: int, priority: int, now_us: int) -> bool:
        """Another time, another priority; -1: as it is. False: not this one, not so."""
        if job.status not in WAITING:
            return False
        if due_us >= 0 and not job.attempt and 0 < job.expires_us <= due_us:
            return False
        if due_us >= 0:
            job.due_us = due_us
            job.status = "scheduled" if due_us > now_us else "pending"
        if priority >= 0:
            job.priority = priority
        return True

    def requeued(self, job: Job) -> bool:
        """It runs again, as if nobody had said when it shall end."""
        if job.status not in ("failed", "cancelled"):
            return False
        job.status, job.due_us, job.reason = "pending", 0, None
        job.cancel, job.expires_us = False, 0
        return True

    def requeued_at_a_pace(self, jobs: list[Job], interval_us: int, now_us: int) -> list[bytes]:
        """Those of these that have failed run again, each so long after the one before."""
        again = [job for job in jobs if job.status == "failed" and self.requeued(job)]
        for place, job in enumerate(again):
            if place and interval_us:
                job.status, job.due_us = "scheduled", now_us + place * interval_us
        return [job.id for job in again]

    def _end(self, job: Job, status: str, reason: str | None) -> None:
        job.status, job.reason = status, reason


def wait_s(policy: Policy, failures: int) -> float:
    """How long a job waits that failed so often, before the jitter."""
    base, most = policy["base_delay"], policy["max_delay"]
    match policy["backoff"]:
        case "fixed":
            return float(base)
        case "list":
            delays = [*policy["delays"], *[policy["delays"][-1]] * failures]
            return float(delays[failures - 1])
        case "linear":
            return float(min(most, sum([base] * failures)))
    wait = base
    for _ in range(failures - 1):
        wait = min(most, wait * policy["backoff_multiplier"])
    return float(min(most, wait))


def reachable_us(wish_us: int, now_us: int) -> int:
    """A time that a handler names: not past, and not beyond all patience."""
    return max(now_us, min(wish_us, now_us + DELAY_S_MAX * SECOND_US))


@dataclass
class BudgetJudge:
    """That retries keep to their budget, since one owner has the queue."""

    ratio: float
    per_s: float
    since_us: int = 0
    starts: int = 0
    due_us: list[int] = field(default_factory=list)

    def started(self, count: int, now_us: int) -> None:
        self.since_us = self.since_us or now_us
        self.starts += count

    def retried(self, wanted_us: int, due_us: int, now_us: int) -> None:
        """A retry that its policy wants then is due then."""
        self.since_us = self.since_us or now_us
        self.due_us.append(due_us)
        assert due_us >= wanted_us, "a budget never makes a retry sooner"
        if due_us > wanted_us:
            owed_us = len(self.due_us) / self.per_s * SECOND_US
            assert due_us <= now_us + owed_us + 1, "put off for longer than all of them cost"
        for count, at_us in enumerate(sorted(self.due_us), start=1):
            gained = self.ratio * self.starts + self.per_s * (at_us - self.since_us) / SECOND_US
            assert count <= gained + 1e-3, "more retries are due than the budget has"
