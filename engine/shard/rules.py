"""What happens to a job whose attempt ended without success. Pure: given all that it depends on.

    attempt failed      not retryable, or an error
                        of a non-retryable type      -> failed "not_retryable"
                        failures >= attempts_max     -> failed "timeout", if it ran out of time,
                                                        "error", if only one attempt was allowed,
                                                        "attempts_exhausted" otherwise
                        the handler says when        -> retried then
                        else                         -> retried at now + backoff
    handler puts it off returns >= snoozes_max       -> failed "snoozes_exhausted"
                        else                         -> put off until then
    attempt was lost    crashes + 1 >= crashes_max   -> failed "quarantined"
                        else                         -> released: back to its lane

An attempt is counted when it starts. Those that were lost with their worker count as crashes; those
that a live worker gave back, or put off, as returns: neither is a failure, a return is no crash.

    failures = attempt - crashes - returns,  with the one that is judged

The backoff is that of the retry policy (`model.retry`), with a jitter that is given. What a handler
says goes before it, and stays within RETRY_DELAY_S_MAX: a job may wait too short, but is not lost.
The budget for retries (`shard.budget`) can make a retry later, never earlier.
"""

from dataclasses import dataclass

from taskforge_server.engine import limits
from taskforge_server.engine.model.retry import RetryPolicy, backoff_s


@dataclass(frozen=True, slots=True)
class Retry:
    """The job runs again when this time has come."""

    due_us: int


@dataclass(frozen=True, slots=True)
class Release:
    """The job goes back to its lane at once."""


@dataclass(frozen=True, slots=True)
class Fail:
    """The job has failed for good."""

    reason: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """What the rules need to know of a running job."""

    number: int
    crashes: int
    returns: int
    attempts_max: int
    """The job's own; 0: the policy's."""


@dataclass(frozen=True, slots=True)
class Snooze:
    """The job is put off: it runs again when this time has come, as if it had not been tried."""

    due_us: int


@dataclass(frozen=True, slots=True)
class Failure:
    """What is known of a failed attempt beside the job."""

    error_type: str = ""
    retryable: bool = True
    """False: the handler says that no further attempt can succeed."""
    timed_out: bool = False
    due_us: int | None = None
    """When the handler wants it to be tried again; None: as the policy says."""


def after_failure(
    policy: RetryPolicy, attempt: Attempt, failure: Failure, now_us: int, jitter: float
) -> Retry | Fail:
    """The handler failed, or ran out of time."""
    if not failure.retryable:
        return Fail("not_retryable")
    if failure.error_type in policy.non_retryable:
        return Fail("timeout" if failure.timed_out else "not_retryable")
    attempts_max = attempt.attempts_max or policy.max_attempts
    failures = max(1, attempt.number - attempt.crashes - attempt.returns)
    if failures >= attempts_max:
        if failure.timed_out:
            return Fail("timeout")
        return Fail("error" if attempts_max == 1 else "attempts_exhausted")
    if failure.due_us is not None:
        return Retry(within_reach(failure.due_us, now_us))
    return Retry(now_us + round(backoff_s(policy, failures, jitter) * 1e6))


def after_snooze(attempt: Attempt, due_us: int, now_us: int) -> Snooze | Fail:
    """The handler wants to be called again later, and has neither failed nor succeeded."""
    if attempt.returns >= limits.SNOOZES_MAX:
        return Fail("snoozes_exhausted")
    return Snooze(within_reach(due_us, now_us))


def after_crash(attempt: Attempt, crashes_max: int) -> Release | Fail:
    """The worker went away with the attempt."""
    return Fail("quarantined") if attempt.crashes + 1 >= crashes_max else Release()


def within_reach(due_us: int, now_us: int) -> int:
    """A time that somebody else named, not before now and not beyond what anybody may wait."""
    return min(max(due_us, now_us), now_us + limits.RETRY_DELAY_S_MAX * 1_000_000)
