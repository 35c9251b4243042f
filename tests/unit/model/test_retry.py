"""Backoff: within its bounds for every policy, and as the formula says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge_server.engine import limits
from taskforge_server.engine.model.retry import RetryPolicy, backoff_s

delays = st.floats(0, limits.RETRY_DELAY_S_MAX, allow_nan=False)
policies = st.builds(
    lambda one, other, multiplier: RetryPolicy(
        base_delay=min(one, other), max_delay=max(one, other), backoff_multiplier=multiplier
    ),
    delays,
    delays,
    st.floats(1, limits.BACKOFF_MULTIPLIER_MAX),
)
randoms = st.floats(0, 1, exclude_max=True)


@given(policies, st.integers(1, limits.ATTEMPTS_MAX), randoms)
def test_delay_stays_in_its_bounds(policy: RetryPolicy, failures: int, random: float) -> None:
    policy.validate()
    assert 0 <= backoff_s(policy, failures, random) <= policy.max_delay


@given(policies, st.integers(1, limits.ATTEMPTS_MAX - 1))
def test_the_widest_delay_never_shrinks(policy: RetryPolicy, failures: int) -> None:
    assert backoff_s(policy, failures, 0.5) <= backoff_s(policy, failures + 1, 0.5)


def test_formula() -> None:
    policy = RetryPolicy(base_delay=2, max_delay=10, backoff_multiplier=3)
    assert [backoff_s(policy, failures, 0.5) for failures in (1, 2, 3)] == [1, 3, 5]
    assert backoff_s(policy, 1, 0) == 0


@pytest.mark.parametrize(("failures", "random"), [(0, 0.5), (1, 1.0), (1, -0.1)])
def test_senseless_arguments(failures: int, random: float) -> None:
    with pytest.raises(ValueError, match=r"is"):
        backoff_s(RetryPolicy(), failures, random)


def test_may_retry() -> None:
    policy = RetryPolicy(max_attempts=2)
    assert policy.may_retry(1)
    assert not policy.may_retry(2)
