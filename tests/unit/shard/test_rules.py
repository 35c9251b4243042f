"""Every failed attempt is retried, released or ended as the rules say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge_server.engine import limits
from taskforge_server.engine.model.retry import RetryPolicy
from taskforge_server.engine.shard.rules import (
    Attempt,
    Fail,
    Failure,
    Release,
    Retry,
    Snooze,
    after_crash,
    after_failure,
    after_snooze,
)

NOW_US = 1_700_000_000_000_000
FAILED = Failure()
POLICY = RetryPolicy(max_attempts=3, base_delay=2.0, max_delay=10.0, backoff_multiplier=2.0)


def test_the_delay_grows_with_failures_not_with_crashes() -> None:
    first = after_failure(POLICY, Attempt(1, 0, 0, 0), FAILED, NOW_US, 0.5)
    second = after_failure(POLICY, Attempt(2, 0, 0, 0), FAILED, NOW_US, 0.5)
    crashed = after_failure(POLICY, Attempt(4, 3, 0, 0), FAILED, NOW_US, 0.5)
    given_back = after_failure(POLICY, Attempt(5, 0, 4, 0), FAILED, NOW_US, 0.5)
    assert first == Retry(NOW_US + 1_000_000)
    assert second == Retry(NOW_US + 2_000_000)
    assert crashed == given_back == first


@pytest.mark.parametrize(
    ("attempt", "retryable", "timed_out", "reason"),
    [
        (Attempt(1, 0, 0, 0), False, False, "not_retryable"),
        (Attempt(3, 0, 0, 0), True, False, "attempts_exhausted"),
        (Attempt(3, 0, 0, 0), True, True, "timeout"),
        (Attempt(1, 0, 0, 1), True, False, "error"),
        (Attempt(5, 2, 0, 0), True, False, "attempts_exhausted"),
    ],
)
def test_a_job_fails_for_good(
    attempt: Attempt, retryable: bool, timed_out: bool, reason: str
) -> None:
    verdict = after_failure(POLICY, attempt, Failure("E", retryable, timed_out), NOW_US, 0.0)
    assert verdict == Fail(reason)


def test_the_jobs_own_attempts_count_before_the_policys() -> None:
    assert isinstance(after_failure(POLICY, Attempt(3, 0, 0, 5), FAILED, NOW_US, 0.0), Retry)


def test_crashes_lead_to_quarantine() -> None:
    assert after_crash(Attempt(1, 0, 0, 0), 3) == Release()
    assert after_crash(Attempt(3, 2, 0, 0), 3) == Fail("quarantined")


@given(
    failures=st.integers(1, 2_000),
    crashes=st.integers(0, 50),
    returns=st.integers(0, 50),
    own=st.integers(0, 1_000),
    jitter=st.floats(0, 1, exclude_max=True),
)
def test_a_job_is_never_tried_more_often_than_allowed_nor_waits_too_long(
    failures: int, crashes: int, returns: int, own: int, jitter: float
) -> None:
    attempt = Attempt(failures + crashes + returns, crashes, returns, own)
    verdict = after_failure(POLICY, attempt, FAILED, NOW_US, jitter)
    assert isinstance(verdict, Fail) == (failures >= (own or POLICY.max_attempts))
    if isinstance(verdict, Retry):
        assert NOW_US <= verdict.due_us <= NOW_US + 10_000_000


@pytest.mark.parametrize(
    ("failure", "verdict"),
    [
        (Failure("ValueError"), Fail("not_retryable")),
        (Failure("timeout", timed_out=True), Fail("timeout")),
        (Failure("TypeError"), Retry(NOW_US + 1_000_000)),
        # A time that the handler names does not change that.
        (Failure("ValueError", due_us=NOW_US + 5), Fail("not_retryable")),
    ],
)
def test_errors_of_some_types_are_not_tried_again(failure: Failure, verdict: Retry | Fail) -> None:
    policy = RetryPolicy(base_delay=2.0, non_retryable=("ValueError", "timeout"))
    assert after_failure(policy, Attempt(1, 0, 0, 0), failure, NOW_US, 0.5) == verdict


@pytest.mark.parametrize(
    ("wished_us", "due_us"),
    [
        (NOW_US + 42_000_000, NOW_US + 42_000_000),
        (NOW_US - 1, NOW_US),
        (0, NOW_US),
        (2**62, NOW_US + limits.RETRY_DELAY_S_MAX * 1_000_000),
    ],
)
def test_a_handler_says_when_within_bounds(wished_us: int, due_us: int) -> None:
    once = Attempt(1, 0, 0, 0)
    failure = Failure(due_us=wished_us)
    assert after_failure(POLICY, once, failure, NOW_US, 0.5) == Retry(due_us)
    assert after_snooze(once, wished_us, NOW_US) == Snooze(due_us)


def test_a_wish_does_not_buy_attempts() -> None:
    failure = Failure(due_us=NOW_US + 1)
    verdict = after_failure(POLICY, Attempt(3, 0, 0, 0), failure, NOW_US, 0.5)
    assert verdict == Fail("attempts_exhausted")


@given(number=st.integers(1, 30_000), returns=st.integers(0, 300), crashes=st.integers(0, 100))
def test_snoozes_end_by_their_own_bound_alone(number: int, returns: int, crashes: int) -> None:
    verdict = after_snooze(Attempt(number, crashes, returns, 1), NOW_US + 7, NOW_US)
    if returns < limits.SNOOZES_MAX:
        assert verdict == Snooze(NOW_US + 7)
    else:
        assert verdict == Fail("snoozes_exhausted")
