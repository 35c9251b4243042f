"""Schedules in plain words: which ticks have a job, and what becomes of the job before.

It knows nothing of cron, books, keys or rows: a tick is a second that fits, found by asking each of
them, and the tables of the guide (missed ticks, overlap) are written down once more. The machine in
`tests/unit/node/test_schedule_machine.py` holds the engine against it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

SECOND_US = 1_000_000
GRACE_US = 30 * SECOND_US
UNENDED = ("waiting", "processing")


@dataclass
class Job:
    """The job of a tick."""

    due_us: int
    status: str = "waiting"
    asked: bool = False
    """It runs, and shall end."""


@dataclass
class Schedule:
    """`fits` says whether it ticks in a second since the epoch; `since_us`: what was until then is
    decided; `served`: a worker starts what is due; `chance`: where in its jitter the job of a
    second is due, 0 to 1."""

    fits: Callable[[int], bool]
    served: bool
    chance: Callable[[int], float]
    since_us: int
    catch_up: str
    window_s: int
    overlap: str
    jitter_s: int
    paused: bool = False
    jobs: dict[int, Job] = field(default_factory=dict)
    passed_over: int = 0
    """Ticks without a job, since the one before had not ended."""

    def ticks(self, after_us: int, until_us: int) -> list[int]:
        """All seconds after the one moment and not after the other in which it ticks."""
        seconds = range(after_us // SECOND_US + 1, until_us // SECOND_US + 1)
        return [second for second in seconds if self.fits(second)]

    def next(self, now_us: int) -> int:
        second = now_us // SECOND_US + 1
        while not self.fits(second):
            second += 1
        return second

    def wanted(self, now_us: int) -> list[int]:
        """The ticks to be decided now, the oldest first."""
        if self.paused:
            return []
        window_us = now_us - self.window_s * SECOND_US
        late_us = now_us - GRACE_US
        open_ticks = self.ticks(max(self.since_us, min(window_us, late_us - SECOND_US)), now_us)
        in_time = [second for second in open_ticks if second * SECOND_US >= late_us]
        missed = [second for second in open_ticks if second not in set(in_time)]
        kept = [second for second in missed if second * SECOND_US > window_us]
        match self.catch_up:
            case "all":
                return kept + in_time
            case "latest" if not in_time:
                return kept[-1:]
        return in_time

    def turn(
        self, now_us: int, most: int = 1_000_000, lost: bool = False, closed: bool = False
    ) -> None:
        """Decide so many of them. `lost`: the node dies before it has written down that it did; the
        jobs are there all the same. `closed`: no job can be made."""
        for second in self.wanted(now_us)[:most]:
            if second not in self.jobs:
                if not self._may_follow(second):
                    self.passed_over += not lost
                elif closed:
                    return
                else:
                    self.jobs[second] = self._job(second)
                    self.due(now_us)
            if not lost:
                self.since_us = second * SECOND_US

    def due(self, now_us: int) -> None:
        """What is due starts."""
        for job in self.jobs.values():
            if self.served and job.status == "waiting" and job.due_us <= now_us:
                job.status = "processing"

    def _job(self, second: int) -> Job:
        return Job(round((second + self.chance(second) * self.jitter_s) * SECOND_US))

    def _may_follow(self, second: int) -> bool:
        """Whether the tick has a job, the one before being as it is."""
        before = [made for made in self.jobs if made < second]
        last = self.jobs[max(before)] if before else None
        if last is not None and last.status in UNENDED:
            if self.overlap == "skip":
                return False
            if self.overlap == "cancel_previous" and last.status == "waiting":
                last.status = "cancelled"
            elif self.overlap == "cancel_previous":
                last.asked = True
        return True
