"""Who gets what next: one per node, between the queues with ready jobs and the workers with credit.

    queue:   idle --ready--> listed --served until nothing is ready--> idle
                               |  ^
             no taker has credit  a taker has credit again
                               v  |
                             starved

A turn serves the lists from queue priority 9 down to 0, and within one priority the queues in turn,
one chunk each. A chunk goes to one worker; the workers of a queue take turns too, and a chunk is at
most an even share of what is ready, so that few long jobs spread over all. A worker is only asked
for the types that it declared.

Which of the workers that ask for a queue are its takers, the roster says (`roster.py`); it is asked
when somebody comes or something changes. A queue with workers of its own divides its jobs among
them by weight (`shares.py`).

Messages are marks, not mail: "ready" said a thousand times is one mark, and the turn asks the queue
for the truth. `assign` is answered at once, for all actors live on one loop. Costs are per chunk.

Invariant: a queue with ready jobs that an attached worker with credit takes is listed.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol

from taskforge_server.engine import limits
from taskforge_server.engine.actors.ports import Journal
from taskforge_server.engine.actors.queue import QueueActor
from taskforge_server.engine.actors.queue import Worker as Taker
from taskforge_server.engine.actors.roster import Roster
from taskforge_server.engine.actors.shares import Shares
from taskforge_server.engine.runtime.actor import Actor

log = logging.getLogger(__name__)

PRIORITIES = limits.PRIORITY_MAX + 1


class Worker(Taker, Protocol):
    """A taker with credit."""

    @property
    def id(self) -> bytes: ...

    @property
    def worker_type(self) -> str: ...

    @property
    def free(self) -> int: ...


class _Stand:
    """What the dispatcher notes about one queue."""

    __slots__ = (
        "asking",
        "listed",
        "next_taker",
        "priority",
        "queue",
        "share",
        "shares",
        "starved",
        "takers",
    )

    def __init__(self, queue: QueueActor) -> None:
        self.queue = queue
        self.priority = queue.ref.priority
        self.asking: dict[Worker, bool] = {}
        """All who are attached, and whether they are takers."""
        self.takers: list[Worker] = []
        self.next_taker = 0
        self.share = 0
        """The most that a taker gets at once; with `shares`, what is divided among them."""
        self.shares: Shares[Worker] | None = None
        """The parts of the takers, where the queue has workers of its own."""
        self.listed = False
        self.starved = False


class Dispatcher(Actor[None]):
    """Matches ready jobs with workers."""

    def __init__(
        self,
        journal: Journal,
        broken: Callable[[QueueActor], None],
        roster: Roster | None = None,
    ) -> None:
        super().__init__("dispatcher", 1)
        self._journal = journal
        self._broken = broken
        self._roster = roster or Roster()
        self._stands: dict[QueueActor, _Stand] = {}
        self._lists: list[deque[_Stand]] = [deque() for _ in range(PRIORITIES)]
        # Where each worker asks, and where it is a taker.
        self._asked: dict[Worker, list[_Stand]] = {}
        self._taken: dict[Worker, list[_Stand]] = {}
        self._wake = asyncio.Event()
        self.stopped = False
        """No job starts any more: the node drains."""

    @property
    def workers(self) -> int:
        """How many workers are attached."""
        return len(self._asked)

    # marks

    def ready(self, queue: QueueActor) -> None:
        """The queue may have ready jobs."""
        stand = self._stands.get(queue)
        if stand is not None and stand.takers and not stand.listed:
            self._list(stand)

    def free(self, worker: Worker) -> None:
        """The worker has credit again: the queues that starved may go on."""
        if worker.free <= 0:
            return
        for stand in self._taken.get(worker, ()):
            if stand.starved:
                self._list(stand)

    def _list(self, stand: _Stand) -> None:
        stand.listed, stand.starved, stand.share = True, False, 0
        self._lists[stand.priority].append(stand)
        self._wake.set()

    # who is there

    def attach(self, worker: Worker, queues: list[QueueActor]) -> None:
        """The worker takes from these queues from now on, where it may."""
        stands = [self._stand(queue) for queue in queues]
        self._asked[worker] = stands
        self._taken[worker] = []
        for stand in stands:
            stand.asking[worker] = False
            self._place(stand, worker)

    def detach(self, worker: Worker) -> None:
        """The worker takes nothing any more."""
        for stand in self._taken.pop(worker, ()):
            self._forget_taker(stand, worker)
        for stand in self._asked.pop(worker, ()):
            del stand.asking[worker]

    def replace(self, old: QueueActor, new: QueueActor) -> None:
        """The queue lives on in another actor, its shard having been rebuilt."""
        stand = self._stands.pop(old, None)
        if stand is not None:
            stand.queue = new
            self._stands[new] = stand
            self.queue_changed(new)
            if not stand.listed:
                self._list(stand)

    def queue_changed(self, queue: QueueActor) -> None:
        """The queue's row, or who is assigned to it, may have changed."""
        stand = self._stands.get(queue)
        if stand is None:
            return
        if self._roster.has_own_workers(queue.ref.id) != (stand.shares is not None):
            stand.shares = Shares() if stand.shares is None else None
            stand.share = 0
        for worker in stand.asking:
            self._place(stand, worker)
        if stand.priority == queue.ref.priority:
            return
        if stand.listed:
            self._lists[stand.priority].remove(stand)
        stand.priority = queue.ref.priority
        self._list(stand)

    def worker_changed(self, worker_id: bytes) -> None:
        """The worker was drained, or takes jobs again."""
        for worker, stands in self._asked.items():
            if worker.id == worker_id:
                for stand in stands:
                    self._place(stand, worker)

    def _stand(self, queue: QueueActor) -> _Stand:
        stand = self._stands.get(queue)
        if stand is None:
            stand = self._stands[queue] = _Stand(queue)
            if self._roster.has_own_workers(queue.ref.id):
                stand.shares = Shares()
        return stand

    def _place(self, stand: _Stand, worker: Worker) -> None:
        """Make the worker a taker of the queue, or no longer, as the roster says now."""
        weight = self._roster.weight(stand.queue.ref, worker.id, worker.worker_type)
        if weight and stand.shares is not None:
            stand.shares.put(worker, weight)
        if bool(weight) == stand.asking[worker]:
            return
        stand.asking[worker] = bool(weight)
        if weight:
            stand.takers.append(worker)
            self._taken[worker].append(stand)
            if not stand.listed:
                self._list(stand)
        else:
            self._taken[worker].remove(stand)
            self._forget_taker(stand, worker)

    @staticmethod
    def _forget_taker(stand: _Stand, worker: Worker) -> None:
        stand.takers.remove(worker)
        if stand.shares is not None:
            stand.shares.remove(worker)

    # the turn

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            self.turn()

    def turn(self) -> None:
        """Give away all that can be given away."""
        for stands in reversed(self._lists):
            while stands:
                stand = stands[0]
                if not self.stopped and self._serve_safely(stand):
                    stands.rotate(-1)
                else:
                    stands.popleft()
                    stand.listed = False

    def _serve_safely(self, stand: _Stand) -> bool:
        """A queue whose table fails takes no other queue down with it."""
        try:
            return self._serve(stand)
        except Exception:
            log.exception("%s cannot start jobs", stand.queue.name)
            self._broken(stand.queue)
            return False

    def _serve(self, stand: _Stand) -> bool:
        """One chunk to one worker; whether to come back for more in this turn."""
        queue, takers = stand.queue, stand.takers
        ready = queue.ready_jobs()
        if not ready:
            return False
        if stand.shares is not None:
            return self._serve_by_weight(stand, stand.shares, ready)
        if not stand.share:
            stand.share = min(limits.ASSIGN_JOBS_MAX, -(-ready // max(1, len(takers))))
        for _ in range(len(takers)):
            stand.next_taker = (stand.next_taker + 1) % len(takers)
            worker = takers[stand.next_taker]
            free = worker.free
            if free <= 0:
                continue
            count = queue.assign(worker, min(free, stand.share))
            if count:
                self._journal.dirty(queue.shard)
                return count < ready
        # Starved for credit, or for a worker of the right type: whoever is free next tries again.
        stand.starved = True
        return False

    def _serve_by_weight(self, stand: _Stand, shares: Shares[Worker], ready: int) -> bool:
        """The same for a queue with workers of its own: to the one who is furthest behind."""
        if not stand.share:
            stand.share = ready
        for share in shares.in_turn():
            free = share.worker.free
            if free <= 0:
                continue
            most = min(free, shares.portion(share, stand.share))
            count = stand.queue.assign(share.worker, most)
            if count:
                shares.given(share, count)
                self._journal.dirty(stand.queue.shard)
                return count < ready
        stand.starved = True
        return False
