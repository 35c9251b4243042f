"""What becomes of attempts that did not succeed: the rules, applied to a shard.

One place for completions that report a failure, for timeouts and for lost workers. Everything here
is exceptional and goes one job at a time; what succeeds goes in bulk through `table.succeed`.
"""

from collections.abc import Callable
from typing import Any

from taskforge_server.engine import limits
from taskforge_server.engine.actors.control import CANCELLED, wants_end
from taskforge_server.engine.actors.ports import Queues
from taskforge_server.engine.actors.verdicts import Told, checked_error, error_json, told
from taskforge_server.engine.model.joboptions import read_told
from taskforge_server.engine.model.queue import QueueSettings
from taskforge_server.engine.model.retry import RetryPolicy
from taskforge_server.engine.observe.counters import Counters
from taskforge_server.engine.shard import rules
from taskforge_server.engine.shard.budget import Budgets
from taskforge_server.engine.shard.deadletters import DeadLetterNews
from taskforge_server.engine.shard.shard import Shard
from taskforge_server.engine.vault.sealing import Field
from taskforge_server.engine.vault.vault import Vault
from taskforge_server.ext import jsontext

ID_BYTES = 16
DEFAULT_SETTINGS = QueueSettings()

WORKER_LOST = error_json("worker_lost", "the worker went away while it ran this job")
GIVEN_BACK_TYPE = "given_back"
SNOOZED_TYPE = "snoozed"
"""Errors of attempts that were put back, which are no failures."""

NEVER_ARRIVED = error_json(GIVEN_BACK_TYPE, "the worker's connection broke before the job arrived")
GIVEN_BACK = error_json(GIVEN_BACK_TYPE, "the worker stopped before it ended this job")
OUT_OF_GRACE = error_json("cancelled", "the handler did not end within its grace time")
TIMED_OUT = error_json("timeout", "the attempt took longer than its timeout")
SNOOZED = error_json(SNOOZED_TYPE, "the handler put the job off")
CANCEL_REASON = "handler"
"""Of a job that its handler cancelled; what the handler said of it is the job's last error."""


class Outcomes:
    """Ends attempts; every method says False when the lease is no longer current."""

    def __init__(
        self,
        queues: Queues,
        counters: Counters,
        jitter: Callable[[], float],
        vault: Vault | None = None,
        budgets: Budgets | None = None,
        dead_letters: DeadLetterNews | None = None,
    ) -> None:
        self._queues = queues
        self._counters = counters
        self._jitter = jitter
        self._vault = vault or Vault()
        self._budgets = budgets or Budgets()
        self._dead_letters = dead_letters or DeadLetterNews()

    def succeeded(self, shard: Shard, token: bytes, result: bytes | None, now_us: int) -> bool:
        """With a result; one that cannot be stored would be the same again: the job fails."""
        problem = _result_problem(result)
        if problem is not None:
            job = self._held(shard, token)
            if job is None:
                return False
            problem = self._sealed(shard, token, "error", problem)
            return self._fail(shard, job, token, "not_retryable", problem, now_us)
        if result is not None:
            result = self._sealed(shard, token, "result", result)
        if not shard.table.succeed_with(token, result, now_us):
            return False
        self._counters.succeeded_jobs += 1
        shard.ended((token[:ID_BYTES],))
        return True

    def failed(self, shard: Shard, token: bytes, error: bytes | None, now_us: int) -> bool:
        """The handler raised."""
        return self._after_failure(shard, token, checked_error(error), now_us)

    def retry(self, shard: Shard, token: bytes, data: bytes | None, now_us: int) -> bool:
        """The handler failed, and says when it wants to be called again."""
        return self._after_failure(shard, token, told(data, now_us), now_us)

    def snoozed(self, shard: Shard, token: bytes, data: bytes | None, now_us: int) -> bool:
        """The handler wants to be called later; this attempt counts neither way."""
        wish = told(data, now_us)
        if wish.due_us is None:
            return self._after_failure(shard, token, wish, now_us)
        job = self._held(shard, token)
        if job is None:
            return False
        if wants_end(job):
            return self._stop(shard, token, SNOOZED, now_us)
        verdict = rules.after_snooze(_attempt(job), wish.due_us, now_us)
        if isinstance(verdict, rules.Fail):
            return self._fail(shard, job, token, verdict.reason, SNOOZED, now_us)
        return shard.table.returned(token, SNOOZED, now_us, verdict.due_us)

    def cancelled(self, shard: Shard, token: bytes, data: bytes | None, now_us: int) -> bool:
        """The handler says that the job is not to be run any more."""
        error = self._sealed(shard, token, "error", told(data, now_us).error)
        if not shard.table.stopped(token, CANCEL_REASON, error, now_us):
            return False
        self._counters.cancelled_jobs += 1
        shard.ended((token[:ID_BYTES],))
        return True

    def timed_out(self, shard: Shard, token: bytes, now_us: int) -> bool:
        """The attempt is past its deadline, or past the grace time of a cancellation."""
        job = self._held(shard, token)
        if job is not None and wants_end(job):
            return self._stop(shard, token, OUT_OF_GRACE, now_us)
        self._counters.timed_out_attempts += 1
        failure = Told("timeout", timed_out=True, error=TIMED_OUT, by_server=True)
        return self._after_failure(shard, token, failure, now_us)

    def lost(self, shard: Shard, token: bytes, now_us: int) -> bool:
        """The worker is gone: back to the lane, or to quarantine."""
        job = self._held(shard, token)
        if job is None:
            return False
        if wants_end(job):
            return self._stop(shard, token, WORKER_LOST, now_us)
        verdict = rules.after_crash(_attempt(job), self._settings(job).crashes_max)
        self._counters.crashed_attempts += 1
        if isinstance(verdict, rules.Fail):
            self._counters.quarantined_jobs += 1
            return self._fail(shard, job, token, verdict.reason, WORKER_LOST, now_us)
        return shard.table.released(token, WORKER_LOST, now_us)

    def given_back(self, shard: Shard, token: bytes, error: bytes, now_us: int) -> bool:
        """A worker that lives has not ended it: back to the lane, neither a failure nor a crash."""
        job = self._held(shard, token)
        if job is not None and wants_end(job):
            return self._stop(shard, token, error, now_us)
        return shard.table.returned(token, error, now_us)

    def _after_failure(self, shard: Shard, token: bytes, failure: Told, now_us: int) -> bool:
        job = self._held(shard, token)
        if job is None:
            return False
        error = failure.error
        if not failure.by_server:
            error = self._sealed(shard, token, "error", error)
        settings = self._settings(job)
        if wants_end(job):
            return self._stop(shard, token, error, now_us)
        verdict = rules.after_failure(
            _policy(job, settings), _attempt(job), failure, now_us, self._jitter()
        )
        if isinstance(verdict, rules.Fail):
            return self._fail(shard, job, token, verdict.reason, error, now_us)
        due_us = verdict.due_us
        if settings.retry_budget is not None:
            due_us = max(
                due_us, self._budgets.retry(job["queue_id"], settings.retry_budget, now_us)
            )
        self._counters.retried_attempts += 1
        return shard.table.retried(token, due_us, error, now_us)

    def _fail(
        self,
        shard: Shard,
        job: dict[str, Any],
        token: bytes,
        reason: str,
        error: bytes,
        now_us: int,
    ) -> bool:
        lsn = shard.table.gathering_lsn
        if not shard.table.failed(token, reason, error, now_us):
            return False
        self._counters.failed_jobs += 1
        shard.ended((token[:ID_BYTES],))
        if self._settings(job).dead_letters.hook is not None:
            self._dead_letters.heard(job["queue_id"], lsn)
        return True

    def _stop(self, shard: Shard, token: bytes, error: bytes, now_us: int) -> bool:
        """The end of a running job that was cancelled."""
        if not shard.table.stopped(token, CANCELLED, error, now_us):
            return False
        self._counters.cancelled_jobs += 1
        shard.ended((token[:ID_BYTES],))
        return True

    def _sealed(self, shard: Shard, token: bytes, field: Field, text: bytes) -> bytes:
        """What a worker said, as the job's project wants it stored. Errors that the server itself
        reports say nothing of a job's content, and are stored as they are."""
        if not self._vault.active:
            return text
        job_id = token[:ID_BYTES]
        ring = self._vault.ring(shard.table.project_of(job_id) or b"")
        return text if ring is None else ring.seal(job_id, field, text)

    def _settings(self, job: dict[str, Any]) -> QueueSettings:
        queue = self._queues.find(job["queue_id"])
        return DEFAULT_SETTINGS if queue is None else queue.settings

    def _held(self, shard: Shard, token: bytes) -> dict[str, Any] | None:
        return shard.table.get(token[:ID_BYTES]) if shard.table.holds(token) else None


def _result_problem(result: bytes | None) -> bytes | None:
    if result is None:
        return None
    if len(result) > limits.RESULT_BYTES_MAX:
        return error_json(
            "result_too_large",
            f"a result of {len(result)} bytes; at most {limits.RESULT_BYTES_MAX} are kept",
        )
    try:
        jsontext.check(result, limits.JSON_DEPTH_MAX)
    except ValueError as problem:
        return error_json("invalid_result", f"the result is not JSON that can be kept: {problem}")
    return None


def _attempt(job: dict[str, Any]) -> rules.Attempt:
    return rules.Attempt(job["attempt"], job["crashes"], job["returns"], job["max_attempts"])


def _policy(job: dict[str, Any], settings: QueueSettings) -> RetryPolicy:
    """What the job says goes before what its queue says."""
    own = read_told(job["options"]).more.retry_policy
    return settings.retry_policy if own is None else own.over(settings.retry_policy)
