"""Retries never exceed their budget, at any time, whatever happened before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge_server.engine import limits
from taskforge_server.engine.model.retry import RetryBudget
from taskforge_server.engine.shard.budget import Budgets

QUEUE = b"q" * 16
BUDGET = RetryBudget(ratio=0.5, per_s=2.0)

steps = st.lists(
    st.tuples(st.sampled_from(("start", "retry")), st.integers(0, 3_000_000)), max_size=150
)


@given(steps, st.floats(0, 1), st.floats(0.1, 50))
def test_no_more_retries_are_due_than_the_budget_has(
    steps: list[tuple[str, int]], ratio: float, per_s: float
) -> None:
    budget = RetryBudget(ratio=ratio, per_s=per_s)
    budgets = Budgets()
    budgets.started(QUEUE, budget, 0, 0)
    now_us, started, due = 0, 0, []
    for what, later_us in steps:
        now_us += later_us
        if what == "start":
            budgets.started(QUEUE, budget, 1, now_us)
            started += 1
        else:
            due.append(budgets.retry(QUEUE, budget, now_us))
            assert due[-1] >= now_us
    for count, due_us in enumerate(sorted(due), start=1):
        assert count <= ratio * started + per_s * due_us / 1e6 + 1e-3


def test_a_storm_is_stretched_to_the_floor() -> None:
    budgets = Budgets()
    due = [budgets.retry(QUEUE, BUDGET, 0) for _ in range(6)]
    assert due == [500_000, 1_000_000, 1_500_000, 2_000_000, 2_500_000, 3_000_000]


def test_attempts_that_start_pay_for_retries() -> None:
    budgets = Budgets()
    budgets.started(QUEUE, BUDGET, 10, 0)
    assert [budgets.retry(QUEUE, BUDGET, 0) for _ in range(6)] == [0, 0, 0, 0, 0, 500_000]


def test_what_was_saved_fades_and_a_debt_is_paid() -> None:
    budgets = Budgets()
    budgets.started(QUEUE, BUDGET, 1_000_000, 0)
    later_us = round(40 * limits.BUDGET_WINDOW_S * 1e6)
    # No more is left of a million attempts than the floor gave in the window.
    at_once = [budgets.retry(QUEUE, BUDGET, later_us) == later_us for _ in range(30)]
    assert sum(at_once) == BUDGET.per_s * limits.BUDGET_WINDOW_S
    assert budgets.retry(QUEUE, BUDGET, later_us) == later_us + 5_500_000
    assert budgets.retry(QUEUE, BUDGET, 2 * later_us) == 2 * later_us


def test_no_retry_is_put_off_for_ever() -> None:
    budgets = Budgets()
    slow = RetryBudget(ratio=0, per_s=limits.BUDGET_PER_S_MIN)
    due = [budgets.retry(QUEUE, slow, 0) for _ in range(10_000)]
    assert due[-1] == limits.RETRY_DELAY_S_MAX * 1_000_000


@pytest.mark.parametrize("back_us", [0, 1_000_000])
def test_a_clock_that_is_set_back_gives_nothing(back_us: int) -> None:
    budgets = Budgets()
    first = budgets.retry(QUEUE, BUDGET, 5_000_000)
    assert budgets.retry(QUEUE, BUDGET, 5_000_000 - back_us) == first + 500_000 - back_us
