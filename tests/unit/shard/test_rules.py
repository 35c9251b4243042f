"""Every failed attempt is retried, released or ended as the rules say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge_server.engine.model.retry import RetryPolicy
from taskforge_server.engine.shard.rules import (
    Attempt,
    Fail,
    Release,
    Retry,
    after_crash,
    after_failure,
)

NOW_US = 1_700_000_000_000_000
POLICY = RetryPolicy(max_attempts=3, base_delay=2.0, max_delay=10.0, backoff_multiplier=2.0)


def test_the_delay_grows_with_failures_not_with_crashes() -> None:
    first = after_failure(POLICY, Attempt(1, 0, 0, 0), NOW_US, 0.5)
    second = after_failure(POLICY, Attempt(2, 0, 0, 0), NOW_US, 0.5)
    crashed = after_failure(POLICY, Attempt(4, 3, 0, 0), NOW_US, 0.5)
    given_back = after_failure(POLICY, Attempt(5, 0, 4, 0), NOW_US, 0.5)
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
    verdict = after_failure(POLICY, attempt, NOW_US, 0.0, retryable=retryable, timed_out=timed_out)
    assert verdict == Fail(reason)


def test_the_jobs_own_attempts_count_before_the_policys() -> None:
    assert isinstance(after_failure(POLICY, Attempt(3, 0, 0, 5), NOW_US, 0.0), Retry)


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
    verdict = after_failure(POLICY, attempt, NOW_US, jitter)
    assert isinstance(verdict, Fail) == (failures >= (own or POLICY.max_attempts))
    if isinstance(verdict, Retry):
        assert NOW_US <= verdict.due_us <= NOW_US + 10_000_000
