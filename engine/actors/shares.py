"""Whose turn it is among the workers that are assigned to one queue: in proportion to weights.

    used(worker) = jobs given to it / its weight        next: who has used least and takes something

Who cannot take (no credit, no job of its types) is passed over, so nothing waits for it; what it
missed it gets back later, up to CATCH_UP_JOBS, so that the parts are right over time and nobody who
comes back after an hour gets everything for an hour. Who is new begins where the others stand.

Costs are per chunk: the list stays nearly sorted, and sorting such a list is one pass over it.
"""

from operator import attrgetter
from typing import Generic, TypeVar

from taskforge_server.engine import limits

W = TypeVar("W")


class Share(Generic[W]):
    """One worker's part of a queue."""

    __slots__ = ("used", "weight", "worker")

    def __init__(self, worker: W, weight: int, used: float) -> None:
        self.worker = worker
        self.weight = weight
        self.used = used


_used = attrgetter("used")


class Shares(Generic[W]):
    """The parts of all workers of one queue."""

    def __init__(self) -> None:
        self._shares: list[Share[W]] = []
        self._weights = 0
        # What the one had used who was served last and was not behind.
        self._level = 0.0

    def put(self, worker: W, weight: int) -> None:
        """The worker takes part with this weight from now on."""
        for share in self._shares:
            if share.worker is worker:
                self._weights += weight - share.weight
                share.weight = weight
                return
        behind = min((share.used for share in self._shares), default=0.0)
        self._shares.append(Share(worker, weight, max(behind, self._level)))
        self._weights += weight

    def remove(self, worker: W) -> None:
        """The worker takes no part any more, if it did."""
        for at, share in enumerate(self._shares):
            if share.worker is worker:
                self._weights -= share.weight
                del self._shares[at]
                return

    def in_turn(self) -> list[Share[W]]:
        """All of them, the one first who is to get the next jobs."""
        self._shares.sort(key=_used)
        return self._shares

    def portion(self, share: Share[W], jobs: int) -> int:
        """Its part of so many jobs, as far as one chunk may hold them; 1 at least."""
        return min(limits.ASSIGN_JOBS_MAX, -(-jobs * share.weight // self._weights))

    def given(self, share: Share[W], jobs: int) -> None:
        """So many jobs went to it."""
        behind_max = limits.CATCH_UP_JOBS / self._weights
        begin = max(share.used, self._level - behind_max)
        self._level = max(self._level, begin)
        share.used = begin + jobs / share.weight
