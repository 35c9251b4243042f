"""Bulk work stands back while small commits beside it are late, and for nobody else."""

from hypothesis import given
from hypothesis import strategies as st

from taskforge_server.engine import limits
from taskforge_server.engine.journal.pace import Pace

LATE_S, GOOD_S = limits.QUICK_COMMIT_S * 2, limits.QUICK_COMMIT_S / 2


class Time:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_whoever_is_alone_never_pauses() -> None:
    assert not Pace().crowded
    assert Pace().pause_s == 0.0


def test_late_commits_slow_bulk_work_down_and_good_ones_let_it_go() -> None:
    time = Time()
    pace = Pace(time)
    pace.shared(GOOD_S)
    assert pace.crowded
    assert pace.pause_s == 0.0
    pauses = []
    for _ in range(20):
        pace.shared(LATE_S)
        pauses.append(pace.pause_s)
    assert pauses[0] == limits.PAUSE_S_MIN
    assert pauses == sorted(pauses)
    assert pauses[-1] == limits.PAUSE_S_MAX
    for _ in range(100):
        pace.shared(GOOD_S)
    assert pace.pause_s == 0.0
    assert pace.crowded


def test_it_is_over_a_moment_after_the_last_small_commit() -> None:
    time = Time()
    pace = Pace(time)
    pace.shared(LATE_S)
    time.now_s += limits.CROWDED_S
    assert not pace.crowded
    assert pace.pause_s == 0.0
    pace.shared(LATE_S)
    assert pace.pause_s == limits.PAUSE_S_MIN, "what was long ago does not count"


@given(st.lists(st.floats(0, 1)))
def test_a_pause_is_bounded(took_s: list[float]) -> None:
    pace = Pace(Time())
    for took in took_s:
        pace.shared(took)
        assert pace.pause_s == 0.0 or limits.PAUSE_S_MIN <= pace.pause_s <= limits.PAUSE_S_MAX
