"""One shard as its owner sees it: the table, the ownership, and the effects kept back.

    gathering --take_batch--> in flight --on_committed--> released, in the order of the events
         \\                        \\----on_fenced--> refused with ShardLost, and the table dropped
          \\----on_fenced--------> refused
    `give_up` does as `on_fenced`, but what is in flight may be in the log.

Events are decided in the table, which moves at once; they gather until the journal takes the batch.
An effect belongs to the newest event that it depends on:

    lsn of the effect = gathering lsn   if events gather,
                        else the newest lsn in flight,
                        else none: everything decided is durable, and the effect is released at once

A read follows the same rule with the lsn of what was read: nobody is shown what may yet be lost.
Invariant: after either nothing is released, and the table is not touched again.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable

from taskforge_server.engine.errors import ShardLost
from taskforge_server.engine.shard.control import CancelBook, ExpiryBook, RequeueBook
from taskforge_server.engine.shard.edges import ShardEdges
from taskforge_server.engine.shard.effects import Effect, Promise, Reply, Wake
from taskforge_server.engine.shard.marks import Marks
from taskforge_server.engine.shard.unique import UniqueBook
from taskforge_server.engine.shard.usage import ShardUsage
from taskforge_server.ext.table import ShardTable

log = logging.getLogger(__name__)


class Shard:
    """The state of one shard under one ownership (`epoch`)."""

    __slots__ = (
        "_gathering",
        "_in_flight",
        "_on_lost",
        "_on_taken",
        "_watchers",
        "cancels",
        "counted",
        "edges",
        "epoch",
        "expiries",
        "listener",
        "lost",
        "lost_lsn",
        "marks",
        "number",
        "requeues",
        "table",
        "unique",
        "usage",
    )

    def __init__(
        self,
        number: int,
        table: ShardTable,
        epoch: int,
        on_lost: Callable[["Shard"], None] = lambda shard: None,
    ) -> None:
        self.number = number
        self.table = table
        self.epoch = epoch
        self.usage = ShardUsage()
        self.expiries = ExpiryBook()
        self.cancels = CancelBook()
        self.requeues = RequeueBook()
        self.unique = UniqueBook(table)
        self.marks = Marks([self.unique], pruned=[self.expiries, self.cancels])
        self.listener: Callable[[Shard, int, bytes], None] | None = None
        """Hears of each log row, once it is durable; None while nobody follows."""
        self.edges = ShardEdges()
        self.counted = True
        """How many jobs are away is known: after a takeover it is a moment later."""
        self.lost = False
        self.lost_lsn = 0
        """What was durable for sure when the shard was lost."""
        self._on_lost = on_lost
        self._gathering: list[Effect] = []
        self._in_flight: deque[tuple[int, list[Effect]]] = deque()
        self._on_taken: list[Callable[[], None]] = []
        self._watchers: dict[bytes, list[Promise[None]]] = {}

    # effects

    def effect(self, effect: Effect) -> None:
        """Release the effect once everything decided so far is durable."""
        if self.lost:
            effect.refuse(ShardLost(self.number))
        elif self.table.gathered_events:
            self._gathering.append(effect)
        elif self._in_flight:
            self._in_flight[-1][1].append(effect)
        else:
            effect.release()

    def effect_at(self, lsn: int, effect: Effect) -> None:
        """Release the effect once the event at this lsn is durable."""
        if self.lost:
            effect.refuse(ShardLost(self.number))
        elif lsn <= self.table.committed_lsn:
            effect.release()
        else:
            for flying_lsn, effects in self._in_flight:
                if lsn <= flying_lsn:
                    effects.append(effect)
                    return
            self._gathering.append(effect)

    # the journal's side

    @property
    def gathered_events(self) -> int:
        """How many events wait for the journal."""
        return self.table.gathered_events

    def when_taken(self, call: Callable[[], None]) -> None:
        """Call once what gathers was taken by the journal, or the shard is lost."""
        self._on_taken.append(call)

    def _taken(self) -> None:
        calls, self._on_taken = self._on_taken, []
        for call in calls:
            call()

    def take_batch(self) -> tuple[int, int, bytes] | None:
        """(lsn, events, body) of what gathered; its effects are in flight from now on."""
        if self.lost:
            return None
        batch = self.table.take_batch()
        if batch is not None:
            if self.listener is not None:
                self._gathering.append(Durable(self, batch[0], batch[2]))
            self._in_flight.append((batch[0], self._gathering))
            self._gathering = []
            if self._on_taken:
                self._taken()
        return batch

    def on_committed(self, lsn: int) -> None:
        """The row at this lsn is durable: release what waited for it, in order."""
        if self.lost:
            return
        self.table.committed(lsn)
        while self._in_flight and self._in_flight[0][0] <= lsn:
            for effect in self._in_flight.popleft()[1]:
                try:
                    effect.release()
                except Exception:
                    log.exception("an effect of shard %d failed", self.number)

    def on_fenced(self) -> None:
        """Somebody else owns the shard: nothing decided since the last commit counts."""
        self._lose(in_doubt=False)

    def give_up(self) -> None:
        """The table cannot be trusted: drop the shard. What is in flight may yet become durable."""
        self._lose(in_doubt=True)

    def _lose(self, *, in_doubt: bool) -> None:
        if self.lost:
            return
        self.lost = True
        self.lost_lsn = self.table.committed_lsn
        flying = [effect for _, effects in self._in_flight for effect in effects]
        others = [*self._gathering, *(Wake(promises) for promises in self._watchers.values())]
        self._in_flight.clear()
        self._gathering = []
        self._watchers.clear()
        # The old table goes with its memory; the number stays for those that still hold the shard.
        self.table = ShardTable(self.number, 0)
        self._refuse(flying, ShardLost(self.number, in_doubt=in_doubt))
        self._refuse(others, ShardLost(self.number))
        self._taken()
        self._on_lost(self)

    def _refuse(self, effects: Iterable[Effect], error: ShardLost) -> None:
        for effect in effects:
            try:
                effect.refuse(error)
            except Exception:
                log.exception("a refusal of shard %d failed", self.number)

    def refuse_replies(self, error: Exception) -> None:
        """Let callers go: the log does not answer. What they asked for may still happen."""
        for effects in (*(effects for _, effects in self._in_flight), self._gathering):
            for effect in effects:
                if isinstance(effect, Reply):
                    effect.refuse(error)

    # who waits for the end of a job

    def watch(self, job_id: bytes, promise: Promise[None]) -> bool:
        """Resolve the promise when the job has ended, durably. False: no such open job."""
        if self.lost or not self.table.watch(job_id, True):
            return False
        self._watchers.setdefault(job_id, []).append(promise)
        return True

    def unwatch(self, job_id: bytes, promise: Promise[None]) -> None:
        """The promise no longer matters."""
        promises = self._watchers.get(job_id, [])
        if promise in promises:
            promises.remove(promise)
            if not promises:
                del self._watchers[job_id]
                self.table.watch(job_id, False)

    def ended(self, job_ids: Iterable[bytes]) -> None:
        """These jobs just came to their final state; most are watched by nobody."""
        for job_id in job_ids:
            promises = self._watchers.pop(job_id, None)
            if promises is not None:
                self.effect(Wake(promises))


class Durable:
    """Tells the shard's listener that a log row is durable; the last effect of its batch."""

    __slots__ = ("_body", "_lsn", "_shard")

    def __init__(self, shard: Shard, lsn: int, body: bytes) -> None:
        self._shard = shard
        self._lsn = lsn
        self._body = body

    def release(self) -> None:
        if self._shard.listener is not None:
            self._shard.listener(self._shard, self._lsn, self._body)

    def refuse(self, error: Exception) -> None:
        """It may never have happened."""
