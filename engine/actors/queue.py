"""The actor of one queue on the node that owns its shard: commands in, decisions, effects.

    Submit, Cancel, Change, Requeue ──mailbox──► turn ──► events in the shard
                                          │ then, in this order
                                          ├──► dispatcher.ready(queue)   its task wakes first …
                                          └──► journal.dirty(shard)      … so that `submitted` and
                                                                        `started` share one commit
The answer to a command is an effect: it waits for the commit. Reads need no turn: all actors of a
node run on one loop, and a call between two turns sees a whole state.

`assign` is such a call too, a message from the dispatcher answered at once: it pops ready jobs for
a worker, all of them at once and without a Python object per job.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from taskforge_server.engine import limits
from taskforge_server.engine.actors import control, families, graphs, requeues, sealed, uniques
from taskforge_server.engine.actors.commands import (
    AddParents,
    Command,
    Requeue,
    RequeueMany,
    Submit,
    SubmitGraph,
    SubmitTicks,
)
from taskforge_server.engine.actors.control import Cancel, CancelMany, Change, SessionOf
from taskforge_server.engine.actors.dependencies import Dependencies
from taskforge_server.engine.actors.ports import Journal
from taskforge_server.engine.actors.repetitions import Repetitions
from taskforge_server.engine.actors.startrate import StartRate
from taskforge_server.engine.actors.uniques import SubmitUnique
from taskforge_server.engine.errors import (
    Conflict,
    InternalError,
    NotFound,
    TaskForgeError,
    Unavailable,
)
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.engine.observe.counters import Counters
from taskforge_server.engine.runtime import safeguards
from taskforge_server.engine.runtime.actor import Actor
from taskforge_server.engine.runtime.clock import Clock
from taskforge_server.engine.shard.budget import Budgets
from taskforge_server.engine.shard.deadletters import DeadLetterNews
from taskforge_server.engine.shard.effects import Effect, Join, Reply
from taskforge_server.engine.shard.keys import KeyBook
from taskforge_server.engine.shard.shard import Shard
from taskforge_server.engine.shard.usage import UsageBook
from taskforge_server.engine.vault.vault import Ring, Vault
from taskforge_server.ext.channel import ChannelClosed
from taskforge_server.ext.table import ShardTable, SubmitBatch

log = logging.getLogger(__name__)


class Worker(Protocol):
    """Somebody who takes jobs."""

    @property
    def types(self) -> frozenset[str]: ...

    def index_in(self, shard: Shard) -> int:
        """Its number in the shard's table."""
        ...

    def assignment(self, frame: bytes, count: int) -> Effect:
        """The jobs are his now; the effect sends them."""
        ...


class Dispatcher(Protocol):
    """Who matches queues and workers."""

    def ready(self, queue: "QueueActor") -> None: ...


@dataclass(frozen=True, slots=True)
class Context:
    """What all queue actors of a node share."""

    clock: Clock
    dispatcher: Dispatcher
    journal: Journal
    keys: KeyBook
    shard: Callable[[int], Shard | None]
    due: Callable[[int], None]
    counters: Counters
    dependencies: Dependencies
    vault: Vault = field(default_factory=Vault)
    usage: UsageBook = field(default_factory=UsageBook)
    budgets: Budgets = field(default_factory=Budgets)
    dead_letters: DeadLetterNews = field(default_factory=DeadLetterNews)
    session: SessionOf = lambda worker_id: None
    wake_at: Callable[["QueueActor", int], None] = lambda queue, at_us: None


class QueueActor(Actor[Command]):
    """Decides about the jobs of one queue."""

    def __init__(self, ref: QueueRef, shard: Shard, context: Context) -> None:
        super().__init__(f"queue {ref.name}", limits.QUEUE_MAILBOX_MAX)
        self.shard = shard
        self._context = context
        self.repetitions = Repetitions(ref.project_id, shard, context.keys, context.shard)
        # The first job of some batch, to measure how long it waits for its start: (id, since).
        self._probe: tuple[bytes, int] | None = None
        self.starts = StartRate()
        # What was received and waits for the journal to take what gathers.
        self._held: deque[Command] = deque()
        # The newest batch after which the dispatcher comes back by itself.
        self._rests_lsn = 0
        self._regrouping = False
        self.update(ref)

    def update(self, ref: QueueRef) -> None:
        """The queue's row changed."""
        self.ref = ref
        self.index = define(self.shard.table, ref)
        self.limited = ref.settings.limits is not None
        if not self._regrouping and not self.shard.table.regroup(self.index, 0):
            self._regrouping = True
            asyncio.get_running_loop().call_soon(self._regroup)

    def _regroup(self) -> None:
        """Keys matter now, or no longer: the jobs change their lanes, and others have their turn in
        between. None of them starts before all have."""
        if self.shard.lost:
            return
        self._regrouping = not self.shard.table.regroup(self.index, limits.REGROUP_LOOKS)
        if self._regrouping:
            asyncio.get_running_loop().call_soon(self._regroup)
        else:
            self._context.dispatcher.ready(self)

    # commands

    async def run(self) -> None:
        """As every actor; but while tenants share the node, a shard in which much gathers takes no
        more until the journal has it: so commits stay small, and whoever sends much waits."""
        try:
            while True:
                if not self._held:
                    batch = await self.mailbox.recv_many(limits.TURN_MESSAGES_MAX)
                    if not self._context.journal.crowded:
                        self.handle(batch)
                        continue
                    self._held.extend(batch)
                if self.full:
                    await self._taken()
                else:
                    self.handle(self._portion())
        except ChannelClosed:
            return

    def _portion(self) -> list[Command]:
        """Of what is held about as much as one commit beside others may hold."""
        portion: list[Command] = []
        jobs = 0
        while self._held and jobs < limits.GATHER_EVENTS_MAX:
            command = self._held.popleft()
            jobs += command.batch.count if isinstance(command, Submit) else 1
            portion.append(command)
        return portion

    @property
    def full(self) -> bool:
        """Enough gathers in the shard for one commit beside those of others."""
        return (
            self._context.journal.crowded and self.shard.gathered_events >= limits.GATHER_EVENTS_MAX
        )

    async def _taken(self) -> None:
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.shard.when_taken(lambda: None if taken.done() else taken.set_result(None))
        await taken

    def handle(self, batch: list[Command]) -> None:
        now_us = self._context.clock.now_us()
        failure: Exception | None = None
        for command in batch:
            try:
                self._decide(command, now_us)
            except TaskForgeError as refusal:
                command.reply.set_exception(refusal)
            except Exception as error:  # noqa: BLE001 - answered here, raised below
                failure = error
                command.reply.set_exception(InternalError())
        self._after_turn()
        if failure is not None:
            raise failure

    def _after_turn(self) -> None:
        """Others look at what was decided."""
        context = self._context
        self.shard.marks.drain(self.shard.table)
        context.dispatcher.ready(self)
        context.journal.dirty(self.shard)
        for due_us in (self.shard.table.next_due_us(), self.shard.expiries.next_us):
            if due_us:
                context.due(due_us)

    def _decide(self, command: Command, now_us: int) -> None:
        if command.reply.done():
            return  # the caller is gone, and was promised nothing
        if self.shard.lost:
            raise Unavailable(limits.UNAVAILABLE_RETRY_S)
        match command:
            case Submit():
                self._submit(command, now_us)
            case SubmitUnique():
                self._submit_unique(command, now_us)
            case SubmitGraph():
                self._submit_graph(command, now_us)
            case AddParents():
                control.require_here(self.shard.table, command.job_id, command.departures)
                families.add_parents(self.shard, self._context.dependencies, command, now_us)
            case SubmitTicks():
                self._submit_ticks(command, now_us)
            case Cancel():
                self._cancel(command, now_us)
            case CancelMany():
                self._cancel_many(command, now_us)
            case Change():
                control.require_here(self.shard.table, command.job_id, command.departures)
                control.change(self.shard, command, now_us)
                control.answer(self.shard, command.job_id, command.reply)
            case Requeue():
                requeues.requeue(self, self._context, command, now_us)
            case RequeueMany():
                requeues.requeue_many(self, self._context, command, now_us)

    def _submit(self, command: Submit, now_us: int) -> None:
        project_id = self.ref.project_id
        ring = self._context.vault.ring(project_id)
        request = command.key
        if request is not None:
            first, request = self.repetitions.first(request, ring, now_us)
            if first is not None:
                command.repeated = True
                self.repetitions.answer(first, Reply(command.reply, first.ids))
                return
        self._context.usage.require(project_id, command.batch.count, now_us)
        ids = self.submit_now(command.batch, now_us)
        if request is not None:
            self.repetitions.remember(request, ids, now_us)
        self.shard.effect(Reply(command.reply, ids))
        if self._probe is None:
            self._probe = (ids[:16], now_us)

    def _submit_unique(self, command: SubmitUnique, now_us: int) -> None:
        ring = self._context.vault.ring(self.ref.project_id)
        first, request = self.repetitions.first(command.key, ring, now_us)
        if first is not None:
            command.repeated = True
            self.repetitions.answer(first, Reply(command.reply, first.ids))
            return
        ids = uniques.decide(self, command, ring, now_us)
        if request is not None and any(ids):
            self.repetitions.remember(request, ids, now_us)
        self.shard.effect(Reply(command.reply, ids))

    @property
    def tenant(self) -> bytes:
        """Whose the queue is, where tenants share a bound."""
        return self._context.usage.tenant(self.ref.project_id)

    def require_usage(self, jobs: int, now_us: int) -> None:
        """The project may submit so many more; else what says why not."""
        self._context.usage.require(self.ref.project_id, jobs, now_us)

    def submit_now(self, batch: SubmitBatch, now_us: int) -> bytes:
        """These jobs are in; their ids. The project may submit so many: the caller has looked."""
        ring = self._context.vault.ring(self.ref.project_id)
        seal = None if ring is None else ring.seal_payloads
        shard, table = self.shard, self.shard.table
        ids = table.submit(self.index, batch, now_us, seal)
        self._context.usage.add(shard.usage, table.gathering_lsn, self.ref.project_id, batch.count)
        self._context.counters.submitted_jobs += batch.count
        return ids

    def _submit_graph(self, command: SubmitGraph, now_us: int) -> None:
        project_id, context = self.ref.project_id, self._context
        request = command.key
        if request is not None:
            first, request = self.repetitions.first(request, context.vault.ring(project_id), now_us)
            if first is not None:
                command.repeated = True
                self.repetitions.answer(first, Reply(command.reply, first.ids))
                return
        context.usage.require(project_id, len(command.graph.jobs), now_us)
        parts = command.parts.values()
        shards = dict.fromkeys(part.shard for part in parts)
        if any(shard.lost for shard in shards):
            raise Unavailable(limits.UNAVAILABLE_RETRY_S)
        context.vault.ring(project_id)  # raises where nothing can be sealed
        try:
            ids = b"".join(graphs.submit(command.graph, command.parts, now_us))
            if request is not None:
                self.repetitions.remember(request, ids, now_us)
        except BaseException:
            # Half a graph was decided: it must not become durable.
            for shard in shards:
                shard.give_up()
            raise
        answer = Reply(command.reply, ids)
        join = Join(len(shards), answer.release, answer.refuse)
        for shard in shards:
            shard.effect(join)
        context.journal.together(shards)
        for part in parts:
            part._after_turn()

    def _submit_ticks(self, command: SubmitTicks, now_us: int) -> None:
        keys, project_id = self._context.keys, self.ref.project_id
        known = any(keys.find(project_id, request, now_us) for request in command.keys)
        if known and safeguards.ACTIVE.tick_keys:
            # They came with a shard that was away: whoever asks again finds them.
            raise Unavailable(limits.UNAVAILABLE_RETRY_S, "some of it was submitted before")
        self._context.usage.require(project_id, command.batch.count, now_us)
        ids = self.submit_now(command.batch, now_us)
        for place, request in enumerate(command.keys):
            self.repetitions.remember(request, ids[16 * place : 16 * place + 16], now_us)
        self.shard.effect(Reply(command.reply, ids))

    def _cancel(self, command: Cancel, now_us: int) -> None:
        shard = self.shard
        sessions = self._context.session
        control.require_here(self.shard.table, command.job_id, command.departures)
        said = control.cancel(shard, command.job_id, command.grace_us, now_us, sessions)
        self._context.counters.cancelled_jobs += said == control.CANCELLED
        job = shard.table.get(command.job_id)
        assert job is not None
        shard.effect_at(job["lsn"], Reply(command.reply, job))

    def _cancel_many(self, command: CancelMany, now_us: int) -> None:
        counts = {control.CANCELLED: 0, "processing": 0}
        for job_id in command.job_ids:
            control.require_here(
                self.shard.table, job_id, command.departures
            )  # before anything is done
        for job_id in command.job_ids:
            try:
                said = control.cancel(
                    self.shard, job_id, command.grace_us, now_us, self._context.session
                )
            except (NotFound, Conflict):
                continue  # it ended while we came
            if said is not None:
                counts[said] += 1
        self._context.counters.cancelled_jobs += counts[control.CANCELLED]
        answer = counts[control.CANCELLED], counts["processing"]
        self.shard.effect(Reply(command.reply, answer))

    def close(self) -> None:
        """Refuse what still waits; the shard is gone or the node stops."""
        waiting = [*self._held, *self.mailbox.recv_nowait(limits.QUEUE_MAILBOX_MAX)]
        self._held.clear()
        self.mailbox.close()
        for command in waiting:
            if not command.reply.done():
                command.reply.set_exception(Unavailable(limits.UNAVAILABLE_RETRY_S))

    # the dispatcher's side

    def ready_jobs(self) -> int:
        """How many jobs could start now; before it says none, it sees to being asked again."""
        if self.shard.lost or self.ref.paused:
            return 0
        now_us = self._context.clock.now_us()
        count = self.shard.table.startable(self.index, now_us)
        if not count and self.limited:
            self._await_token(now_us)
        return count

    def assign(self, worker: Worker, most: int) -> int:
        """Start up to so many jobs on the worker; they are sent once that is durable."""
        shard = self.shard
        now_us = self._context.clock.now_us()
        ring = self._context.vault.ring(self.ref.project_id)
        if ring is not None and not ring.whole:
            return 0
        if 0 < shard.expiries.next_us <= now_us and not self._expire(now_us):
            return 0
        frame, count = shard.table.start(
            self.index, worker.types, worker.index_in(shard), most, now_us
        )
        if ring is not None and count:
            frame, count = self._opened(frame, count, ring, now_us)
        if count:
            shard.effect(worker.assignment(frame, count))
            self._context.counters.started_attempts += count
            self.starts.add(count, now_us)
            if (budget := self.ref.settings.retry_budget) is not None:
                self._context.budgets.started(self.ref.id, budget, count, now_us)
            if self._probe is not None:
                self._measure(self._probe)
        if count < most:
            self._come_back()
            if self.limited:
                self._await_token(now_us)
        return count

    def _await_token(self, now_us: int) -> None:
        """Have somebody look again when a bucket has a token for a job that waits."""
        if at_us := self.shard.table.next_token_us(self.index, now_us):
            self._context.wake_at(self, at_us)

    def _expire(self, now_us: int) -> bool:
        """What may not start any more is cancelled before anything starts; False: there is more of
        it than one turn has room for, and the timer goes on."""
        control.expire(self.shard, now_us, self._context.counters)
        self._context.journal.dirty(self.shard)
        next_us = self.shard.expiries.next_us
        if next_us:
            self._context.due(next_us)
        return not 0 < next_us <= now_us

    def _come_back(self) -> None:
        """A job that was started and put back in the batch that gathers may start after it."""
        table = self.shard.table
        if self._rests_lsn < table.gathering_lsn and table.rests(self.index):
            self._rests_lsn = table.gathering_lsn
            self.shard.effect(Ready(self._context.dispatcher, self))

    def _opened(self, frame: bytes, count: int, ring: Ring, now_us: int) -> tuple[bytes, int]:
        """The frame as the worker gets it; jobs whose payload cannot be opened have failed."""
        frame, unreadable = sealed.opened(frame, ring)
        shard, context = self.shard, self._context
        for token in unreadable:
            log.error("the payload of job %s cannot be opened", token[:16].hex())
            shard.table.failed(token, sealed.UNREADABLE_REASON, sealed.UNREADABLE, now_us)
            context.counters.failed_jobs += 1
            shard.ended((token[:16],))
        if unreadable:
            if self.ref.settings.dead_letters.hook is not None:
                context.dead_letters.heard(self.ref.id, shard.table.gathering_lsn)
            context.journal.dirty(shard)
            shard.effect(Ready(context.dispatcher, self))
        return frame, count - len(unreadable)

    def _measure(self, probe: tuple[bytes, int]) -> None:
        """One job at a time tells how long jobs wait: of every batch none but the first."""
        job_id, since_us = probe
        job = self.shard.table.get(job_id)
        if job is not None and not job["started_us"]:
            return
        self._probe = None
        if job is not None and not job["due_us"]:
            self._context.counters.start_latency_s.observe((job["started_us"] - since_us) / 1e6)


class Ready:
    """The mark that the queue has ready jobs, set once a batch is durable."""

    __slots__ = ("_dispatcher", "_queue")

    def __init__(self, dispatcher: Dispatcher, queue: QueueActor) -> None:
        self._dispatcher = dispatcher
        self._queue = queue

    def release(self) -> None:
        self._dispatcher.ready(self._queue)

    def refuse(self, error: Exception) -> None:
        """The shard is gone, and the queue's actor with it."""


def define(table: ShardTable, ref: QueueRef) -> int:
    """Make the queue, as it is now, known to the shard's table; its index."""
    settings = ref.settings
    return table.queue(
        ref.id,
        ref.project_id,
        ref.name,
        settings.timeout_ms,
        settings.history_code,
        settings.soft_timeout_ms,
        settings.limits if safeguards.ACTIVE.limits else None,
        ref.born_us,
        limits.REGROUP_LOOKS,
    )
