"""The actors of a node, wired: shards, their queues, the dispatcher, workers and their leases.

    adopt(shard)   queues are defined in its table, its actors run, its workers have fresh leases
    drop(shard)    its actors end, what waits in them is refused; queues that workers are attached
                   to come back with the shard when it is adopted again

A queue has an actor from its first use on. Nothing here does I/O: the log is behind the journal.
"""

import asyncio
import logging
import random
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from taskforge_server.engine import limits
from taskforge_server.engine.actors import control
from taskforge_server.engine.actors import queue as queue_module
from taskforge_server.engine.actors import worker as worker_module
from taskforge_server.engine.actors.dependencies import Dependencies, SeenParents
from taskforge_server.engine.actors.dispatcher import Dispatcher
from taskforge_server.engine.actors.joblogs import LogBook
from taskforge_server.engine.actors.leases import Leases
from taskforge_server.engine.actors.outcomes import Outcomes
from taskforge_server.engine.actors.ports import Hello, Journal, Outlet
from taskforge_server.engine.actors.progress import ProgressBook
from taskforge_server.engine.actors.queue import QueueActor, define
from taskforge_server.engine.actors.roster import Roster
from taskforge_server.engine.actors.worker import WorkerActor
from taskforge_server.engine.errors import OutcomeUnknown, Unavailable
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.engine.node.events import EventHub
from taskforge_server.engine.node.timer import DueTimer, QueueTimer
from taskforge_server.engine.observe.counters import Counters
from taskforge_server.engine.runtime import safeguards
from taskforge_server.engine.runtime.actor import Actor, Supervisor
from taskforge_server.engine.runtime.clock import Clock
from taskforge_server.engine.shard.budget import Budgets
from taskforge_server.engine.shard.deadletters import DeadLetterNews
from taskforge_server.engine.shard.keys import KeyBook
from taskforge_server.engine.shard.shard import Shard
from taskforge_server.engine.shard.usage import UsageBook
from taskforge_server.engine.vault.vault import Vault
from taskforge_server.ext.table import ShardTable

log = logging.getLogger(__name__)


class Core:
    """What decides, in one loop."""

    def __init__(
        self,
        clock: Clock,
        journal: Journal,
        lease_ttl_s: float,
        failed: Callable[[Actor[Any]], None],
        worker_ended: Callable[[bytes], None] = lambda worker_id: None,
    ) -> None:
        """`failed` hears of an actor that was given up and is not tied to a shard, `worker_ended`
        of a worker that left or lost its lease."""
        self.clock = clock
        self.journal = journal
        self.counters = Counters()
        self.vault = Vault()
        self.usage = UsageBook()
        self.keys = KeyBook(tenant=self.usage.tenant)
        self.budgets = Budgets()
        self.dead_letters = DeadLetterNews()
        self.shards: dict[int, Shard] = {}
        self.refs: dict[bytes, QueueRef] = {}
        self.shard_listeners: list[Callable[[], None]] = []  # told of shards that come and go
        self.sessions: set[WorkerActor] = set()
        self._arrivals: dict[int, asyncio.Future[None]] = {}
        self._failed = failed
        self._actors: dict[bytes, QueueActor] = {}
        self._actors_of: dict[Shard, dict[int, QueueActor]] = {}
        # Actors of shards that are gone, to be replaced when the shard is back.
        self._retired: dict[bytes, QueueActor] = {}
        self.supervisor = Supervisor(self._given_up, clock.monotonic_us)
        self.roster = Roster()
        self.dispatcher = Dispatcher(journal, _give_up, self.roster, clock.monotonic_us)
        self.due_timer = DueTimer(clock, self.shards.values, self._due, [self._expire])
        self.token_timer: QueueTimer[QueueActor] = QueueTimer(clock, self.dispatcher.ready)
        # Not for secrets: it spreads retries.
        jitter = random.random
        self.outcomes = Outcomes(
            self, self.counters, jitter, self.vault, self.budgets, self.dead_letters
        )
        self.dependencies = Dependencies(
            clock, journal, self.shards.get, self._freed, self.counters, self.usage.tenant
        )
        self.leases = Leases(clock, lease_ttl_s, self.outcomes, journal, self.touched, worker_ended)
        self._queue_context = queue_module.Context(
            clock,
            self.dispatcher,
            journal,
            self.keys,
            self.shards.get,
            self.due_timer.note,
            self.counters,
            self.dependencies,
            self.vault,
            self.usage,
            budgets=self.budgets,
            dead_letters=self.dead_letters,
            session=self.leases.session,
            wake_at=self.token_timer.note,
        )
        self.logs = LogBook(clock, self.shards.get, self, self.counters)
        self.progress = ProgressBook(clock, self.shards.get, self.counters, self.usage.tenant)
        self.events = EventHub(self.shards, self.refs, clock.monotonic_us)
        self.progress.sink = self.events
        self._worker_context = worker_module.Context(
            clock,
            self,
            journal,
            self.leases,
            self.outcomes,
            self.shards.get,
            self.due_timer.note,
            self.counters,
            self.logs,
            self.progress,
        )

    def start(self) -> None:
        self.supervisor.start(self.dispatcher)

    async def stop(self) -> None:
        self.due_timer.stop()
        self.token_timer.stop()
        await self.supervisor.stop_all()
        for actor in self._actors.values():
            actor.close()

    def sweep(self) -> None:
        """End leases and attempts whose time is over."""
        self.leases.sweep(list(self.shards.values()))
        for shard in self.shards.values():
            self.due_timer.note(shard.table.next_due_us())
            if shard.table.rousing:
                self.roused(shard)

    # ports of the actors

    def find(self, queue_id: bytes) -> QueueRef | None:
        return self.refs.get(queue_id)

    def free(self, worker: WorkerActor) -> None:
        self.dispatcher.free(worker)

    def roused(self, shard: Shard) -> None:
        """Jobs have ended that held others of their queue back by a limit."""
        actors = self._actors_of.get(shard, {})
        for index in shard.table.take_roused():
            if (actor := actors.get(index)) is not None:
                self.dispatcher.ready(actor)

    def touched(self, shard: Shard) -> None:
        """Jobs of the shard may have come back to their lanes."""
        shard.table.take_roused()  # all of them hear of it
        for actor in self._actors_of.get(shard, {}).values():
            self.dispatcher.ready(actor)

    def detach(self, worker: WorkerActor) -> None:
        self.dispatcher.detach(worker)
        self.sessions.discard(worker)

    def grown(self, number: int) -> None:
        """More jobs of the shard were loaded."""
        if (shard := self.shards.get(number)) is not None:
            shard.marks.drain(shard.table)
            self.dependencies.adopt(number)
            self.touched(shard)
            self._note(shard)

    def _note(self, shard: Shard) -> None:
        """Have the timer look at the shard when something of it is due."""
        self.due_timer.note(shard.table.next_due_us())
        self.due_timer.note(shard.expiries.next_us)

    def _expire(self, shard: Shard, now_us: int) -> int:
        """Cancel what was not started in its time; when to look again."""
        if 0 < shard.expiries.next_us <= now_us:
            control.expire(shard, now_us, self.counters)
            self.journal.dirty(shard)
            self.touched(shard)
        return shard.expiries.next_us

    def _freed(self, shard: Shard, queue_id: bytes) -> None:
        """A job of the queue waits for no other any more."""
        actor = self._actors.get(queue_id)
        if actor is not None and actor.shard is shard:
            self.dispatcher.ready(actor)
        self.due_timer.note(shard.table.next_due_us())

    def _due(self, shard: Shard, queues: list[int]) -> None:
        actors = self._actors_of.get(shard, {})
        for index in queues:
            # A queue without an actor has no worker either: its jobs wait in their lanes.
            if (actor := actors.get(index)) is not None:
                self.dispatcher.ready(actor)

    # shards

    def adopt(self, shard: Shard, refs: Iterable[QueueRef]) -> None:
        """The shard is ours: take up its queues and workers."""
        assert shard.number not in self.shards
        self.shards[shard.number] = shard
        self._actors_of[shard] = {}
        for ref in refs:
            if ref.shard == shard.number:
                self.refs[ref.id] = ref
                define(shard.table, ref)
                if ref.settings.dead_letters.hook is not None:
                    self.dead_letters.heard(ref.id, shard.table.committed_lsn)
        shard.marks.add_children(SeenParents(self.dependencies, shard))
        shard.marks.drain(shard.table)
        self.dependencies.adopt(shard.number)
        for queue_id, old in list(self._retired.items()):
            if old.ref.shard == shard.number:
                del self._retired[queue_id]
                self.dispatcher.replace(old, self.queue(self.refs.get(queue_id, old.ref)))
        if (arrival := self._arrivals.pop(shard.number, None)) is not None:
            arrival.set_result(None)
        self.events.adopted(shard)
        workers = self.leases.recover(shard) if safeguards.ACTIVE.recovered_leases else 0
        self._note(shard)
        self._tell_listeners()
        log.debug("shard %d adopted, %d workers run jobs of it", shard.number, workers)

    async def arrival(self, number: int) -> None:
        """Returns when the shard is here. Callers bound how long they wait."""
        if number in self.shards:
            return
        arrival = self._arrivals.get(number)
        if arrival is None:
            arrival = self._arrivals[number] = asyncio.get_running_loop().create_future()
        await asyncio.shield(arrival)

    def new_table(self, number: int) -> ShardTable:
        """An empty table that knows the shard's queues."""
        table = ShardTable(number, int.from_bytes(secrets.token_bytes(8)))
        for ref in self.refs.values():
            if ref.shard == number:
                define(table, ref)
        return table

    def drop(self, shard: Shard) -> None:
        """The shard is no longer ours."""
        if self.shards.get(shard.number) is not shard:
            return
        del self.shards[shard.number]
        self.counters.shards_lost += 1
        self.events.lost(shard)
        self.keys.drop_shard(shard.number)
        self.usage.drop(shard.usage)
        self.dependencies.drop(shard)
        for actor in self._actors_of.pop(shard).values():
            del self._actors[actor.ref.id]
            self._retired[actor.ref.id] = actor
            self.supervisor.stop(actor)
            actor.close()
        self._tell_listeners()

    def _tell_listeners(self) -> None:
        for listener in self.shard_listeners:
            listener()

    def _given_up(self, actor: Actor[Any], error: Exception) -> None:
        if isinstance(actor, QueueActor):
            # Its table may be broken: what the log says is the truth.
            actor.shard.give_up()
        elif not isinstance(actor, WorkerActor):  # a session that fails has ended itself
            self._failed(actor)

    # queues

    def queue(self, ref: QueueRef) -> QueueActor:
        """The actor of the queue; Unavailable when its shard is not here."""
        actor = self._actors.get(ref.id)
        if actor is None:
            return self._new_queue(ref)
        if actor.ref is not ref:
            if actor.ref != ref:
                self.update(ref)
            else:
                actor.ref = ref  # one object, so that the next comparison is by identity
        return actor

    def _new_queue(self, ref: QueueRef) -> QueueActor:
        shard = self.shards.get(ref.shard)
        if shard is None:
            raise Unavailable(limits.UNAVAILABLE_RETRY_S, "this node does not own the queue now")
        actor = QueueActor(ref, shard, self._queue_context)
        self.refs[ref.id] = ref
        self._actors[ref.id] = actor
        self._actors_of[shard][actor.index] = actor
        self.supervisor.start(actor)
        return actor

    def update(self, ref: QueueRef) -> None:
        """The queue's row changed."""
        self.refs[ref.id] = ref
        shard = self.shards.get(ref.shard)
        if shard is not None and ref.settings.dead_letters.hook is not None:
            self.dead_letters.heard(ref.id, shard.table.gathering_lsn - 1)
        actor = self._actors.get(ref.id)
        if actor is not None:
            actor.update(ref)
            self.dispatcher.queue_changed(actor)
            self.dispatcher.ready(actor)  # it may have been paused, or held back by a limit
        elif shard is not None:
            define(shard.table, ref)

    # workers

    def session(self, hello: Hello, project_id: bytes, outlet: Outlet) -> WorkerActor:
        """A session of the worker; it takes the place of the one before, but for one of another
        process: Unavailable while that is connected."""
        lease = self.leases.take(hello.worker_id, project_id)
        restarted = lease.instance not in (b"", hello.instance)
        if lease.session is not None:
            if restarted:
                message = "another process is connected under this worker id"
                raise Unavailable(limits.UNAVAILABLE_RETRY_S, message)
            lease.session.end(worker_module.REPLACED, "replaced by a newer connection")
        lease.instance = hello.instance
        worker = WorkerActor(hello, lease, outlet, self._worker_context)
        worker.restarted = restarted
        lease.session = worker
        self.sessions.add(worker)
        return worker

    def serve(self, worker: WorkerActor, queues: list[QueueActor]) -> None:
        """The session is welcomed: let it work."""
        self.supervisor.start(worker)
        self.dispatcher.attach(worker, queues)

    def assign(self, queue_id: bytes, weights: Mapping[bytes, int]) -> None:
        """These workers serve the queue from now on, in these proportions; none: any does."""
        changed = self.roster.assign(queue_id, weights)
        if changed and (actor := self._actors.get(queue_id)) is not None:
            self.dispatcher.queue_changed(actor)

    def drain_worker(self, worker_id: bytes, drained: bool) -> None:
        """The worker gets nothing new, wherever and whenever it connects, or gets jobs again."""
        if self.roster.drain(worker_id, drained):
            self.dispatcher.worker_changed(worker_id)

    def expel(self, worker_id: bytes) -> None:
        """The worker is not to be here under this id: its jobs go back to their queues."""
        for worker in [worker for worker in self.sessions if worker.id == worker_id]:
            worker.end(worker_module.REFUSED, "this worker id belongs to another project")
        self.leases.drop(worker_id)

    def drain(self) -> None:
        """Start nothing more; tell the workers."""
        self.dispatcher.stopped = True
        for worker in list(self.sessions):
            worker.drain()

    def queues(self) -> Iterable[QueueActor]:
        """The queues in use."""
        return list(self._actors.values())

    def refuse_replies(self) -> None:
        """The log has been away for too long: let callers go."""
        error = OutcomeUnknown(limits.UNAVAILABLE_RETRY_S)
        for shard in self.shards.values():
            shard.refuse_replies(error)

    async def idle(self) -> None:
        """Wait until no connected worker has unfinished jobs."""
        while any(worker.outstanding for worker in self.sessions):  # noqa: ASYNC110 - rare, bounded
            await asyncio.sleep(limits.SWEEP_S)


def _give_up(queue: QueueActor) -> None:
    """The queue's table fails: its shard is rebuilt from the log."""
    queue.shard.give_up()
