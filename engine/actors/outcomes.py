"""What becomes of attempts that did not succeed: the rules, applied to a shard.

One place for completions that report a failure, for timeouts and for lost workers. Everything here
is exceptional and goes one job at a time; what succeeds goes in bulk through `table.succeed`.
"""

import json
from collections.abc import Callable
from typing import Any

from taskforge_server.engine import limits
from taskforge_server.engine.actors.ports import Queues
from taskforge_server.engine.model.queue import QueueSettings
from taskforge_server.engine.observe.counters import Counters
from taskforge_server.engine.shard import rules
from taskforge_server.engine.shard.shard import Shard
from taskforge_server.engine.vault.sealing import Field
from taskforge_server.engine.vault.vault import Vault
from taskforge_server.ext import jsontext

ID_BYTES = 16
DEFAULT_SETTINGS = QueueSettings()


def error_json(kind: str, message: str) -> bytes:
    """An error that the server itself reports, in the form of those of handlers."""
    return json.dumps({"type": kind, "message": message}).encode()


WORKER_LOST = error_json("worker_lost", "the worker went away while it ran this job")
NEVER_ARRIVED = error_json("given_back", "the worker's connection broke before the job arrived")
GIVEN_BACK = error_json("given_back", "the worker stopped before it ended this job")
TIMED_OUT = error_json("timeout", "the attempt took longer than its timeout")


class Outcomes:
    """Ends attempts; every method says False when the lease is no longer current."""

    def __init__(
        self,
        queues: Queues,
        counters: Counters,
        jitter: Callable[[], float],
        vault: Vault | None = None,
    ) -> None:
        self._queues = queues
        self._counters = counters
        self._jitter = jitter
        self._vault = vault or Vault()

    def succeeded(self, shard: Shard, token: bytes, result: bytes | None, now_us: int) -> bool:
        """With a result; one that cannot be stored would be the same again: the job fails."""
        problem = _result_problem(result)
        if problem is not None:
            problem = self._sealed(shard, token, "error", problem)
            return self._fail(shard, token, "not_retryable", problem, now_us)
        if result is not None:
            result = self._sealed(shard, token, "result", result)
        if not shard.table.succeed_with(token, result, now_us):
            return False
        self._counters.succeeded_jobs += 1
        shard.ended((token[:ID_BYTES],))
        return True

    def failed(self, shard: Shard, token: bytes, error: bytes | None, now_us: int) -> bool:
        """The handler raised."""
        checked, retryable = checked_error(error)
        checked = self._sealed(shard, token, "error", checked)
        return self._after_failure(shard, token, checked, now_us, retryable=retryable)

    def timed_out(self, shard: Shard, token: bytes, now_us: int) -> bool:
        """The attempt is past its deadline."""
        self._counters.timed_out_attempts += 1
        return self._after_failure(shard, token, TIMED_OUT, now_us, timed_out=True)

    def lost(self, shard: Shard, token: bytes, now_us: int) -> bool:
        """The worker is gone: back to the lane, or to quarantine."""
        job = self._held(shard, token)
        if job is None:
            return False
        verdict = rules.after_crash(_attempt(job), self._settings(job).crashes_max)
        self._counters.crashed_attempts += 1
        if isinstance(verdict, rules.Fail):
            self._counters.quarantined_jobs += 1
            return self._fail(shard, token, verdict.reason, WORKER_LOST, now_us)
        return shard.table.released(token, WORKER_LOST, now_us)

    def given_back(self, shard: Shard, token: bytes, error: bytes, now_us: int) -> bool:
        """A worker that lives has not ended it: back to the lane, neither a failure nor a crash."""
        return shard.table.returned(token, error, now_us)

    def _after_failure(
        self,
        shard: Shard,
        token: bytes,
        error: bytes,
        now_us: int,
        *,
        retryable: bool = True,
        timed_out: bool = False,
    ) -> bool:
        job = self._held(shard, token)
        if job is None:
            return False
        verdict = rules.after_failure(
            self._settings(job).retry_policy,
            _attempt(job),
            now_us,
            self._jitter(),
            retryable=retryable,
            timed_out=timed_out,
        )
        if isinstance(verdict, rules.Fail):
            return self._fail(shard, token, verdict.reason, error, now_us)
        self._counters.retried_attempts += 1
        return shard.table.retried(token, verdict.due_us, error, now_us)

    def _fail(self, shard: Shard, token: bytes, reason: str, error: bytes, now_us: int) -> bool:
        if not shard.table.failed(token, reason, error, now_us):
            return False
        self._counters.failed_jobs += 1
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


def checked_error(error: bytes | None) -> tuple[bytes, bool]:
    """The error as it is stored, and whether the handler allows a retry."""
    try:
        if error is None or len(error) > limits.ERROR_BYTES_MAX:
            raise ValueError("missing or too large")
        jsontext.check(error, limits.JSON_DEPTH_MAX)
        content = json.loads(error)
        if not isinstance(content, dict):
            raise ValueError("not an object")
    except ValueError as problem:
        return error_json("invalid_error", f"the worker reported no usable error: {problem}"), True
    return error, content.get("retryable") is not False


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
