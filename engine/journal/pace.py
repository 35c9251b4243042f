"""How much bulk work stands back while small commits run beside it.

    alone --a small commit beside big ones--> crowded  --none for CROWDED_S--> alone
                                                | ^
                               late: pause more '-' in time: pause less

Small commits are those of everybody but the few who fill the log. While there are both, the small
ones say how the machine is doing: when they are late, big commits and the projector pause between
their portions, longer and longer up to PAUSE_S_MAX; when they are in time, less and less. Whoever
is alone is never held up, and nobody is held up for good: work is slower, not refused.
"""

import time
from collections.abc import Callable

from taskforge_server.engine import limits


class Pace:
    """What the lanes of the journal tell the projector, and themselves."""

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._until_s = 0.0
        self._pause_s = 0.0

    @property
    def crowded(self) -> bool:
        """Somebody with little to say shares the node with somebody who has much."""
        return self._monotonic_s() < self._until_s

    @property
    def pause_s(self) -> float:
        """What bulk work waits after each portion."""
        return self._pause_s if self.crowded else 0.0

    def shared(self, took_s: float) -> None:
        """A small commit took so long beside a big one."""
        if not self.crowded:
            self._pause_s = 0.0
        self._until_s = self._monotonic_s() + limits.CROWDED_S
        if took_s > limits.QUICK_COMMIT_S:
            wanted_s = max(limits.PAUSE_S_MIN, self._pause_s * limits.PAUSE_GROWTH)
            self._pause_s = min(wanted_s, limits.PAUSE_S_MAX)
        else:
            self._pause_s *= limits.PAUSE_SHRINKS
            if self._pause_s < limits.PAUSE_S_MIN:
                self._pause_s = 0.0
