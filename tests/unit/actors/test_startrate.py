"""The rate of starts follows what happened lately."""

import pytest

from taskforge_server.engine.actors.startrate import StartRate

SECOND_US = 1_000_000


def after(seconds: int, jobs: int, rate: StartRate, begin_us: int = SECOND_US) -> int:
    """So many jobs in each second; the time at the end."""
    for number in range(seconds * 10):
        rate.add(jobs // 10, begin_us + number * SECOND_US // 10)
    return begin_us + seconds * SECOND_US


@pytest.mark.parametrize("seconds", [2, 5, 60])
def test_a_steady_stream_is_measured_after_any_time(seconds: int) -> None:
    rate = StartRate()
    now_us = after(seconds, 100, rate)
    assert rate.per_s(now_us) == pytest.approx(100, rel=0.1)
    assert rate.total == seconds * 100


def test_what_is_over_fades() -> None:
    rate = StartRate()
    assert rate.per_s(SECOND_US) == 0.0
    now_us = after(60, 100, rate)
    assert 30 < rate.per_s(now_us + 10 * SECOND_US) < 45
    assert rate.per_s(now_us + 3_600 * SECOND_US) == 0.0
