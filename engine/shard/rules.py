"""What happens to a job whose attempt ended without success. Pure: given all that it depends on.

    attempt failed      not retryable                -> failed "not_retryable"
                        failures >= attempts_max     -> failed "timeout", if it ran out of time,
                                                        "error", if only one attempt was allowed,
                                                        "attempts_exhausted" otherwise
                        else                         -> retried at now + backoff
    attempt was lost    crashes + 1 >= crashes_max   -> failed "quarantined"
                        else                         -> released: back to its lane

An attempt is counted when it starts. Those that were lost with their worker count as crashes; those
that a live worker gave back, as returns: neither is a failure, and a return is no crash.

    failures = attempt - crashes - returns,  with the one that is judged

The backoff is that of the queue's retry policy (`model.retry`), with a jitter that is given.
"""

from dataclasses import dataclass

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


def after_failure(
    policy: RetryPolicy,
    attempt: Attempt,
    now_us: int,
    jitter: float,
    *,
    retryable: bool = True,
    timed_out: bool = False,
) -> Retry | Fail:
    """The handler failed, or ran out of time."""
    if not retryable:
        return Fail("not_retryable")
    attempts_max = attempt.attempts_max or policy.max_attempts
    failures = max(1, attempt.number - attempt.crashes - attempt.returns)
    if failures >= attempts_max:
        if timed_out:
            return Fail("timeout")
        return Fail("error" if attempts_max == 1 else "attempts_exhausted")
    return Retry(now_us + round(backoff_s(policy, failures, jitter) * 1e6))


def after_crash(attempt: Attempt, crashes_max: int) -> Release | Fail:
    """The worker went away with the attempt."""
    return Fail("quarantined") if attempt.crashes + 1 >= crashes_max else Release()
