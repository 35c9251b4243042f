"""Backoff: within its bounds for every policy, and as the formula says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge_server.engine import limits
from taskforge_server.engine.errors import InvalidInput
from taskforge_server.engine.model.queue import QueueSettings
from taskforge_server.engine.model.retry import (
    Backoff,
    RetryPolicy,
    RetryPolicyChange,
    RetryPolicyUpdate,
    backoff_s,
    wait_s,
)

delays = st.floats(0, limits.RETRY_DELAY_S_MAX, allow_nan=False)


@st.composite
def any_policy(draw: st.DrawFn) -> RetryPolicy:
    one, other = draw(delays), draw(delays)
    backoff: Backoff = draw(st.sampled_from(("exponential", "linear", "fixed", "list")))
    return RetryPolicy(
        base_delay=min(one, other),
        max_delay=max(one, other),
        backoff_multiplier=draw(st.floats(1, limits.BACKOFF_MULTIPLIER_MAX)),
        backoff=backoff,
        delays=tuple(draw(st.lists(delays, min_size=1, max_size=4))) if backoff == "list" else (),
        jitter=draw(st.sampled_from(("full", "none"))),
    )


policies = any_policy()
growing = policies.filter(lambda policy: policy.backoff != "list")
randoms = st.floats(0, 1, exclude_max=True)


@given(policies, st.integers(1, limits.ATTEMPTS_MAX), randoms)
def test_delay_stays_in_its_bounds(policy: RetryPolicy, failures: int, random: float) -> None:
    policy.validate()
    wait = wait_s(policy, failures)
    most = max(policy.delays) if policy.backoff == "list" else policy.max_delay
    assert 0 <= wait <= most
    delay = backoff_s(policy, failures, random)
    assert delay == wait if policy.jitter == "none" else 0 <= delay <= wait


@given(growing, st.integers(1, limits.ATTEMPTS_MAX - 1))
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


@pytest.mark.parametrize(
    ("backoff", "waits"),
    [
        ("exponential", [2, 4, 8, 9]),
        ("linear", [2, 4, 6, 8]),
        ("fixed", [2, 2, 2, 2]),
        ("list", [7, 1, 1, 1]),
    ],
)
def test_the_shapes_of_backoff(backoff: Backoff, waits: list[float]) -> None:
    own = (7.0, 1.0) if backoff == "list" else ()
    policy = RetryPolicy(base_delay=2, max_delay=9, backoff=backoff, delays=own, jitter="none")
    assert [backoff_s(policy, failures, 0.9) for failures in (1, 2, 3, 4)] == waits


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"backoff": "list"}, "delays"),
        ({"delays": (1.0,)}, "delays"),
        ({"base_delay": 400.0}, "max_delay"),
        ({"base_delay": 400.0, "backoff": "linear"}, "max_delay"),
    ],
)
def test_fields_that_contradict_each_other(fields: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        RetryPolicy(**fields).check_relations("retry_policy.")  # type: ignore[arg-type]
    assert refusal.value.field == f"retry_policy.{field}"


def test_a_fixed_delay_knows_no_greatest_one() -> None:
    policy = RetryPolicy(backoff="fixed", base_delay=400.0)
    policy.validate()
    assert wait_s(policy, 3) == 400.0


def test_what_a_job_says_goes_before_what_its_queue_says_field_by_field() -> None:
    own = RetryPolicyUpdate(backoff="fixed", base_delay=5.0)
    merged = own.over(RetryPolicy(max_attempts=9, jitter="none", non_retryable=("E",)))
    assert merged == RetryPolicy(
        max_attempts=9, jitter="none", non_retryable=("E",), backoff="fixed", base_delay=5.0
    )
    assert RetryPolicyChange().over(merged) == merged


@given(any_policy(), any_policy())
def test_any_mixture_of_two_policies_gives_a_delay(queue: RetryPolicy, job: RetryPolicy) -> None:
    own = RetryPolicyChange(backoff=job.backoff, base_delay=job.base_delay)
    assert 0 <= wait_s(own.over(queue), 3) <= limits.RETRY_DELAY_S_MAX


@pytest.mark.parametrize(
    "own",
    [
        RetryPolicyUpdate(backoff="list"),
        RetryPolicyUpdate(delays=(1.0,)),
        RetryPolicyUpdate(base_delay=5.0, max_delay=1.0),
    ],
)
def test_what_a_job_says_makes_sense_by_itself(own: RetryPolicyUpdate) -> None:
    with pytest.raises(InvalidInput, match=r"retry_policy|must|only|needs"):
        own.check_own("retry_policy.")


def test_stored_settings_of_a_newer_version_are_read() -> None:
    text = """{"retry_policy": {"max_attempts": 2, "new": 1}, "new": 2, "retry_budget": {"new": 3},
        "dead_letters": {"keep_s": 60, "hook": {"queue": "q", "job_type": "t", "new": 4}}}"""
    settings = QueueSettings.stored(text)
    assert settings.retry_policy.max_attempts == 2
    assert settings.retry_budget is not None
    assert settings.dead_letters.hook is not None
    assert settings.dead_letters.hook.queue == "q"
    assert QueueSettings.stored("""{"retry_budget": null, "dead_letters": {"hook": null}}""") == (
        QueueSettings()
    )
