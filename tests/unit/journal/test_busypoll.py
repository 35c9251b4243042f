"""The loop stays awake from one lone commit to the next, and for nothing else."""

from collections.abc import Callable

from taskforge_server.engine import limits
from taskforge_server.engine.journal.busypoll import BusyPoll

SOON_S, LATE_S = limits.BUSY_POLL_GAP_S / 4, limits.BUSY_POLL_GAP_S * 2


class Loop:
    """Calls what is put back, as a loop does, at times that the test says."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.due: list[Callable[[], None]] = []

    def poll(self, cores: int = 2) -> BusyPoll:
        return BusyPoll(lambda call: self.due.append(call), lambda: self.now_s, cores)

    def awake_after(self, pause_s: float) -> bool:
        """Whether it still looks for events so much later."""
        self.now_s += pause_s
        due, self.due = self.due, []
        for call in due:
            call()
        return bool(self.due)


def commit(loop: Loop, poll: BusyPoll) -> None:
    poll.begin()
    loop.awake_after(SOON_S)
    poll.end()


def test_the_first_commit_finds_it_asleep() -> None:
    loop = Loop()
    poll = loop.poll()
    poll.begin()
    assert not loop.due
    poll.end()
    assert not loop.awake_after(0.0)


def test_it_stays_awake_from_call_to_call_and_then_sleeps() -> None:
    loop = Loop()
    poll = loop.poll()
    commit(loop, poll)
    for _ in range(3):
        assert len(loop.due) <= 1
        loop.awake_after(SOON_S)
        poll.begin()
        assert loop.awake_after(SOON_S)
        poll.end()
        assert loop.awake_after(SOON_S)
    assert not loop.awake_after(LATE_S)


def test_a_commit_after_a_pause_lets_it_sleep() -> None:
    loop = Loop()
    poll = loop.poll()
    for _ in range(3):
        loop.awake_after(LATE_S)
        commit(loop, poll)
        assert not loop.due


def test_a_commit_that_takes_long_is_waited_for_asleep() -> None:
    loop = Loop()
    poll = loop.poll()
    commit(loop, poll)
    poll.begin()
    assert loop.awake_after(limits.BUSY_POLL_S_MAX / 2)
    assert not loop.awake_after(limits.BUSY_POLL_S_MAX)
    poll.end()
    assert not loop.awake_after(SOON_S)


def test_a_single_core_is_left_to_those_it_waits_for() -> None:
    loop = Loop()
    poll = loop.poll(cores=1)
    for _ in range(3):
        commit(loop, poll)
        assert not loop.due
