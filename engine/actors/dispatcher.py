"""Who gets what next: one per node, between the queues with ready jobs and the workers with credit.

    queue:   idle --ready--> listed --served until nothing is ready--> idle
                               |  ^ ^
             no taker has credit  | '--what gathers was taken-- held
                               |  | a taker has credit again     ^ full, while tenants share the log
                               v  |                              |
                             starved                          (listed)

Whose turn it is among those listed, `turns.py` says: projects by weight, queues of a project by
priority, and none starves. Each turn is one chunk to one worker; the workers of a queue take turns
too, and a chunk is at most an even share of what is ready, so that few long jobs spread over all.
A worker is only asked for the types that it declared. After PORTION_JOBS_MAX jobs the loop has its
turn.

Which of the workers that ask for a queue are its takers, the roster says (`roster.py`); it is asked
when somebody comes or something changes. A queue with workers of its own divides its jobs among
them by weight (`shares.py`).

Messages are marks, not mail: "ready" said a thousand times is one mark, and the turn asks the queue
for the truth. `assign` is answered at once, for all actors live on one loop. Costs are per chunk.

Invariant: a queue with ready jobs that an attached worker with credit takes is listed, or held.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from taskforge_server.engine import limits
from taskforge_server.engine.actors.ports import Journal
from taskforge_server.engine.actors.queue import QueueActor
from taskforge_server.engine.actors.queue import Worker as Taker
from taskforge_server.engine.actors.roster import Roster
from taskforge_server.engine.actors.shares import Shares
from taskforge_server.engine.actors.turns import Turns
from taskforge_server.engine.runtime.actor import Actor

log = logging.getLogger(__name__)


def _monotonic_us() -> int:
    return time.monotonic_ns() // 1000


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
        "held",
        "listed",
        "next_taker",
        "priority",
        "queue",
        "share",
        "shares",
        "since_us",
        "starved",
        "takers",
        "ticket",
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
        self.held = False
        """Enough gathers in its shard: the journal's next look at it lists it again."""
        self.since_us = 0
        self.ticket = 0


class Dispatcher(Actor[None]):
    """Matches ready jobs with workers."""

    def __init__(
        self,
        journal: Journal,
        broken: Callable[[QueueActor], None],
        roster: Roster | None = None,
        monotonic_us: Callable[[], int] = _monotonic_us,
    ) -> None:
        super().__init__("dispatcher", 1)
        self._monotonic_us = monotonic_us
        self._journal = journal
        self._broken = broken
        self._roster = roster or Roster()
        self._stands: dict[QueueActor, _Stand] = {}
        self._turns: Turns[_Stand] = Turns()
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
        if stand is not None and stand.takers and not stand.listed and not stand.held:
            self._list(stand)

    def free(self, worker: Worker) -> None:
        """The worker has credit again: the queues that starved may go on."""
        if worker.free <= 0:
            return
        for stand in self._taken.get(worker, ()):
            if stand.starved:
                self._list(stand)

    def _list(self, stand: _Stand) -> None:
        stand.listed, stand.starved, stand.held, stand.share = True, False, False, 0
        self._turns.put(stand.queue.ref.project_id, stand, self._monotonic_us())
        self._wake.set()

    def _hold(self, stand: _Stand) -> None:
        """Come back when the journal has what gathers."""
        stand.held = True

        def taken() -> None:
            if stand.held:
                self._list(stand)

        stand.queue.shard.when_taken(taken)

    def weigh(self, project_id: bytes, weight: int) -> None:
        """What part of the node's work the project gets, in relation to others."""
        self._turns.weigh(project_id, weight)

    def asking(self, queue: QueueActor) -> list[tuple[Worker, bool]]:
        """Who is attached for the queue, and whether jobs of it go there."""
        stand = self._stands.get(queue)
        return [] if stand is None else list(stand.asking.items())

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
            self._turns.take_away(stand)
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
            more = True
            while more:
                more = self._portion(limits.PORTION_JOBS_MAX)
                await asyncio.sleep(0)

    def turn(self) -> None:
        """Give away all that can be given away."""
        while self._portion(limits.PORTION_JOBS_MAX):
            pass

    def _portion(self, jobs_max: int) -> bool:
        """Give away about so many jobs; whether there may be more."""
        now_us, turns = self._monotonic_us(), self._turns
        given = 0
        while given < jobs_max:
            picked = turns.pick(now_us)
            if picked is None:
                return False
            stand, late = picked
            stand.listed = False
            count = 0 if self.stopped else self._serve_safely(stand, late, now_us)
            turns.given(count)
            given += max(count, limits.PORTION_CHUNK_JOBS)
        return bool(turns)

    def _serve_safely(self, stand: _Stand, late: bool, now_us: int) -> int:
        """A queue whose table fails takes no other queue down with it."""
        try:
            ready = stand.queue.ready_jobs()
            count = self._serve(stand, ready, late) if ready else 0
        except Exception:
            log.exception("%s cannot start jobs", stand.queue.name)
            self._broken(stand.queue)
            return 0
        if count:
            self._journal.dirty(stand.queue.shard)
            stand.since_us = now_us
            # Where limits hold, only a look of its own finds that nothing more may start.
            if count < ready or stand.queue.limited:
                stand.listed = True
                self._turns.put(stand.queue.ref.project_id, stand, now_us)
        if count >= ready:
            stand.since_us = 0
        return count

    def _serve(self, stand: _Stand, ready: int, late: bool) -> int:
        """One chunk to one worker; how many jobs. What is late gets a small part of the credit."""
        queue, takers = stand.queue, stand.takers
        if queue.full:
            self._hold(stand)
            return 0
        if stand.shares is not None:
            return self._serve_by_weight(stand, stand.shares, ready, late)
        if not stand.share:
            stand.share = min(limits.ASSIGN_JOBS_MAX, -(-ready // max(1, len(takers))))
        for _ in range(len(takers)):
            stand.next_taker = (stand.next_taker + 1) % len(takers)
            worker = takers[stand.next_taker]
            free = worker.free
            if free <= 0:
                continue
            count = queue.assign(worker, min(_part(free, late), stand.share))
            if count:
                return count
        # Starved for credit, or for a worker of the right type: whoever is free next tries again.
        stand.starved = True
        return 0

    def _serve_by_weight(
        self, stand: _Stand, shares: Shares[Worker], ready: int, late: bool
    ) -> int:
        """The same for a queue with workers of its own: to the one who is furthest behind."""
        if not stand.share:
            stand.share = ready
        for share in shares.in_turn():
            free = share.worker.free
            if free <= 0:
                continue
            most = min(_part(free, late), shares.portion(share, stand.share))
            count = stand.queue.assign(share.worker, most)
            if count:
                shares.given(share, count)
                return count
        stand.starved = True
        return 0


def _part(free: int, late: bool) -> int:
    return max(1, free // limits.LATE_PART) if late else free
