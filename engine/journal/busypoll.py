"""Looking for the answer instead of sleeping until it comes, while lone commits follow one another.

    asleep --a commit begins BUSY_POLL_GAP_S after the last one, or sooner--> polling
    polling --it took BUSY_POLL_S_MAX; none began BUSY_POLL_GAP_S after it--> asleep

Who submits call after call waits for this process to be woken twice a call, and a core that has
gone to sleep takes its time. So the loop stays awake from one such call to the next: it looks for
events without waiting for them. A call of the loop puts itself back at its end, and all else has
its turn in between. Figures: docs/decisions/0032-where-a-lone-submit-waits.md.

Invariant: after a commit that came later than the gap the loop sleeps as ever. So it costs nothing
when there is little to do, and where there is much nobody asks for it (`Journal`). On a single core
it would keep the core from those it waits for: it does nothing there.
"""

import asyncio
import os
import time
from collections.abc import Callable

from taskforge_server.engine import limits


class BusyPoll:
    """Told when a lone commit begins and ends; in the loop that it keeps awake."""

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object] | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
        cores: int | None = None,
    ) -> None:
        self._call_soon = call_soon
        self._monotonic_s = monotonic_s
        self._useful = (cores or len(os.sched_getaffinity(0))) > 1
        self._ended_s = float("-inf")
        self._until_s = float("-inf")
        self._called = False

    def begin(self) -> None:
        """A lone commit is sent."""
        now_s = self._monotonic_s()
        if self._useful and now_s - self._ended_s <= limits.BUSY_POLL_GAP_S:
            self._until_s = now_s + limits.BUSY_POLL_S_MAX
            if not self._called:
                self._called = True
                self._again()

    def end(self) -> None:
        """It is over. Whoever waited for it may be about to send the next."""
        self._ended_s = self._monotonic_s()
        if self._called:
            self._until_s = self._ended_s + limits.BUSY_POLL_GAP_S

    def _look(self) -> None:
        if self._monotonic_s() < self._until_s:
            self._again()
        else:
            self._called = False

    def _again(self) -> None:
        call_soon = self._call_soon or asyncio.get_running_loop().call_soon
        call_soon(self._look)
