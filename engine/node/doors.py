"""What the API may ask of a node: the engine port.

Every answer that tells of a decision waits until the decision is durable. A caller whose shard is
lost while it waits is told Unavailable: nothing was done, and it may repeat the call, here or
elsewhere. Where that is not known, because the log does not answer, it is told OutcomeUnknown.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import msgpack

from taskforge_server.engine import limits
from taskforge_server.engine.actors import outcomes, worker
from taskforge_server.engine.actors.commands import (
    Command,
    Requeue,
    RequeueMany,
    Submit,
    SubmitTicks,
)
from taskforge_server.engine.actors.control import Cancel, CancelMany, Change, tell_again
from taskforge_server.engine.actors.ports import Hello, Outlet
from taskforge_server.engine.actors.queue import QueueActor
from taskforge_server.engine.actors.uniques import SubmitUnique
from taskforge_server.engine.actors.worker import WorkerActor
from taskforge_server.engine.errors import (
    JobAway,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    ShardLost,
    Unavailable,
)
from taskforge_server.engine.model.job import FINAL
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.engine.model.why import Explanation
from taskforge_server.engine.node.admission import Admission
from taskforge_server.engine.node.core import Core
from taskforge_server.engine.node.events import Follower
from taskforge_server.engine.node.pager import Pager, may_be_away
from taskforge_server.engine.node.why import explain
from taskforge_server.engine.runtime import safeguards
from taskforge_server.engine.shard.effects import Join, Promise, Reply
from taskforge_server.engine.shard.keys import KeyedRequest
from taskforge_server.engine.shard.shard import Shard
from taskforge_server.engine.shard.shared import SharedBound
from taskforge_server.engine.shard.unique import Outcome, Part
from taskforge_server.ext.channel import ChannelClosed
from taskforge_server.ext.ids import shard_of
from taskforge_server.ext.table import SubmitBatch, split_tokens

log = logging.getLogger(__name__)

Job = dict[str, Any]
Answer = TypeVar("Answer")

TOKEN_BYTES, ID_BYTES = 24, 16
AWAY_PLACE = 1 << 64
"""Places from here on are ids of jobs that are away."""
FEATURES = ["extend"]
"""What workers may send beyond the first protocol."""


class Doors:
    """The engine as the API sees it."""

    def __init__(
        self,
        core: Core,
        admission: Admission,
        find_queue: Callable[[bytes, bytes], Awaitable[QueueRef]],
        lease_ttl_s: float,
        heartbeat_s: float,
        pager: Pager,
    ) -> None:
        """`find_queue` reads a queue by project and id; NotFound."""
        self._core = core
        self._admission = admission
        self._find_queue = find_queue
        self._pager = pager
        self._lease_ttl_s = lease_ttl_s
        self._heartbeat_s = heartbeat_s
        self._waiters = SharedBound("waits for the end of a job", limits.WAITERS_MAX)

    def now_us(self) -> int:
        return self._core.clock.now_us()

    # commands

    async def submit(self, queue: QueueRef, batch: SubmitBatch) -> bytes:
        """The ids, 16 bytes each, when the jobs are durable."""
        ids, _ = await self.submit_once(queue, batch, None)
        return ids

    async def submit_once(
        self, queue: QueueRef, batch: SubmitBatch, key: KeyedRequest | None
    ) -> tuple[bytes, bool]:
        """The same, and whether the key came before: then nothing was submitted now."""
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        command = self.submit_to(queue, batch, key, reply)
        try:
            return await reply, command.repeated
        except ShardLost as error:
            raise lost(error) from error

    def submit_to(
        self, queue: QueueRef, batch: SubmitBatch, key: KeyedRequest | None, reply: Promise[bytes]
    ) -> Submit:
        """The same for one who does not wait: the promise gets the ids, or the error, ShardLost
        among them. What refuses it at once is raised. The command says whether the key came before.
        """
        actor = self._core.queue(queue)
        self._admission.admit(batch, queue.project_id)
        command = Submit(batch, key, reply)
        self.send(actor, command)
        return command

    async def submit_ticks(
        self, queue: QueueRef, batch: SubmitBatch, keys: list[KeyedRequest]
    ) -> bytes:
        """The same for jobs of which each has a key, none of which came before."""
        actor = self._core.queue(queue)
        self._admission.admit(batch, queue.project_id)
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.send(actor, SubmitTicks(batch, keys, reply))
        try:
            return await reply
        except ShardLost as error:
            raise lost(error) from error

    async def submit_unique(
        self, queue: QueueRef, parts: Sequence[Part], key: KeyedRequest | None
    ) -> tuple[bytes, bool, dict[int, Outcome]]:
        """Jobs of which some ask for unique keys: the ids, or those of the jobs that hold the keys,
        zeros for the rejected; whether the key came before; and what became of those that met
        another job, by their places."""
        actor = self._core.queue(queue)
        for part in parts:
            self._admission.admit(part.batch, queue.project_id)
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        command = SubmitUnique(parts, key, reply)
        self.send(actor, command)
        try:
            return await reply, command.repeated, command.outcomes
        except ShardLost as error:
            raise lost(error) from error

    async def cancel(
        self, job_id: bytes, project_id: bytes, grace_s: float = limits.CANCEL_GRACE_S
    ) -> Job:
        """A job that waits is cancelled, or was already; one that runs is asked to end within the
        grace time. NotFound when it is not in memory, Conflict."""

        async def act() -> Job:
            reply: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
            job = await self._waiting(job_id, project_id)
            command = Cancel(job_id, reply, round(grace_s * 1e6), self._departures(job_id))
            return await self.command(job, command, reply)

        return await self.until_here(act)

    async def cancel_many(
        self, queue: QueueRef, job_ids: list[bytes], grace_s: float
    ) -> tuple[int, int]:
        """The same for jobs of one queue: how many are cancelled, and how many run and were asked
        to end. Those that ended since `open_jobs` showed them are passed over, those that left
        memory are brought again."""

        async def act() -> tuple[int, int]:
            reply: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
            shard = self._core.queue(queue).shard
            departures = await self._bring_all(shard, job_ids)
            command = CancelMany(job_ids, round(grace_s * 1e6), reply, departures)
            self.send(self._core.queue(queue), command)
            try:
                return await reply
            except ShardLost as error:
                raise lost(error) from error

        return await self.until_here(act)

    async def open_jobs(
        self, queue: QueueRef, place: int, most: int, looks_max: int
    ) -> tuple[list[tuple[bytes, str, str, int, bytes | None]], int]:
        """Up to `most` open jobs of a queue (id, status, type, created_us, options), and the place
        to go on from, -1: none is left. First those in memory, then those that are away, which come
        here by it."""
        actor = self._core.queue(queue)
        shard, table = actor.shard, actor.shard.table
        if place < AWAY_PLACE:
            ids, following = table.open_jobs(actor.index, place, most, looks_max)
            if following < 0 and may_be_away(shard):
                following = AWAY_PLACE
        else:
            after = (place - AWAY_PLACE).to_bytes(ID_BYTES)
            ids = await self._pager.bring_some(shard, queue.id, after, most)
            following = AWAY_PLACE + int.from_bytes(ids[-1]) if len(ids) == most else -1
        found = []
        for job_id in ids:
            if (peeked := table.peek(job_id)) is None:
                continue  # it left again
            status, _, job_type, created_us, options = peeked
            found.append((job_id, status, job_type, created_us, options))
        return found, following

    async def change(
        self, job_id: bytes, project_id: bytes, *, due_us: int = -1, priority: int = -1
    ) -> Job:
        """A job that waits is told when it is due, or its priority; NotFound when it is not in
        memory, Conflict."""

        async def act() -> Job:
            reply: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
            job = await self._waiting(job_id, project_id)
            command = Change(job_id, reply, due_us, priority, self._departures(job_id))
            return await self.command(job, command, reply)

        return await self.until_here(act)

    async def until_here(self, act: Callable[[], Awaitable[Answer]]) -> Answer:
        """What `act` returns, which brings jobs to memory and sends a command about them. Where one
        left again before its turn, nothing was done, and it is called anew; JobAway at last."""
        for _ in range(limits.AWAY_TRIES_MAX - 1):
            try:
                return await act()
            except JobAway:
                continue
        return await act()

    def _departures(self, job_id: bytes) -> int:
        return self._shard(job_id).table.departures

    async def _waiting(self, job_id: bytes, project_id: bytes) -> Job:
        """The job, in memory now; NotFound."""
        shard = self._shard(job_id)
        job = await self.bring(shard, job_id)
        if job is None or job["project_id"] != project_id:
            raise NotFound("no such job is waiting", "job_id")
        return job

    async def bring(self, shard: Shard, job_id: bytes) -> Job | None:
        """The job, in memory now if it waits; None: it does not wait, nor is it otherwise here."""
        while True:
            departures = shard.table.departures
            await self._pager.bring(shard, job_id)
            if shard.lost:
                raise moved()
            job = shard.table.get(job_id)
            if job is not None or shard.table.departures == departures:
                return job

    async def _bring_all(self, shard: Shard, job_ids: Sequence[bytes]) -> int:
        """The same for many; the departures before any of them came: the first may leave again
        before the last is here."""
        departures = shard.table.departures
        missing = [job_id for job_id in job_ids if shard.table.peek(job_id) is None]
        await asyncio.gather(*(self.bring(shard, job_id) for job_id in missing))
        return departures

    async def requeue(self, job: Job) -> Job:
        """A failed or cancelled job runs again; Conflict."""
        again, _ = await self.requeue_once(job, None)
        return again

    async def requeue_once(self, job: Job, key: KeyedRequest | None) -> tuple[Job, bool]:
        """The same, and whether the key came before: then nothing was done now."""
        if self._admission.draining:
            raise Unavailable(limits.UNAVAILABLE_RETRY_S, "this node is stopping")

        async def act() -> tuple[Job, bool]:
            reply: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
            shard = self._shard(job["id"])
            await self.bring(shard, job["id"])
            command = Requeue(job, reply, key, departures=shard.table.departures)
            return await self.command(job, command, reply), command.repeated

        return await self.until_here(act)

    async def requeue_many(
        self,
        queue: QueueRef,
        jobs: list[Job],
        first_us: int,
        interval_us: int,
        tail: bytes,
        key: KeyedRequest | None,
    ) -> tuple[bytes, bool]:
        """Failed jobs of the queue run again, as far as they are failed still: their ids and the
        tail; or what the key got when it came first, and then True."""
        self._admission.check()

        async def act() -> tuple[bytes, bool]:
            reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            shard = self._core.queue(queue).shard
            departures = await self._bring_all(shard, [job["id"] for job in jobs])
            command = RequeueMany(
                jobs, first_us, interval_us, tail, reply, key, departures=departures
            )
            self.send(self._core.queue(queue), command)
            try:
                return await reply, command.repeated
            except ShardLost as error:
                raise lost(error) from error

        return await self.until_here(act)

    async def command(self, job: Job, command: Command, reply: "asyncio.Future[Job]") -> Job:
        ref = self._core.find(job["queue_id"])
        if ref is None:
            ref = await self._find_queue(job["project_id"], job["queue_id"])
        self.send(self._core.queue(ref), command)
        try:
            return await reply
        except ShardLost as error:
            raise lost(error) from error

    def send(self, actor: QueueActor, command: Command) -> None:
        try:
            if not actor.mailbox.try_send(command):
                raise Overloaded(limits.OVERLOAD_RETRY_S, "too many calls wait for this queue")
        except ChannelClosed:
            raise moved() from None

    # reads

    async def job(self, job_id: bytes) -> tuple[Job, list[Job]] | None:
        """The job and its executions, if memory has it, once what is shown is durable."""
        shard = self._core.shards.get(shard_of(job_id))
        job = None if shard is None else shard.table.get(job_id)
        if shard is None or job is None:
            return None
        executions = shard.table.executions(job_id)
        if job["status"] == "processing":
            job["progress"] = self._core.progress.find(job_id + job["lease_lsn"].to_bytes(8))
        if job["lsn"] > shard.table.committed_lsn:
            await _durable(shard, job["lsn"])
        return job, executions

    async def wait_finished(self, job_id: bytes, timeout_s: float) -> None:
        """Returns when the job has ended, durably, when it is not in memory, or after the time."""
        shard = self._core.shards.get(shard_of(job_id))
        if shard is None:
            return
        loop = asyncio.get_running_loop()
        over_s = loop.time() + timeout_s
        job = await self.bring(shard, job_id)
        if job is None:
            return
        if job["status"] in FINAL:
            await _durable(shard, job["lsn"])
            return
        tenant = self._core.usage.tenant(job["project_id"])
        self._waiters.require(tenant)
        ended: asyncio.Future[None] = loop.create_future()
        if not shard.watch(job_id, ended):
            return
        self._waiters.add(tenant)
        try:
            await asyncio.wait((ended,), timeout=over_s - loop.time())
            if ended.done():
                ended.result()
        except ShardLost as error:
            raise moved() from error
        finally:
            self._waiters.remove(tenant)
            shard.unwatch(job_id, ended)

    async def look(self, job_id: bytes) -> Job | None:
        """The job if memory has it, once what is shown is durable."""
        shard = self._core.shards.get(shard_of(job_id))
        job = None if shard is None else shard.table.get(job_id)
        if shard is not None and job is not None and job["lsn"] > shard.table.committed_lsn:
            await _durable(shard, job["lsn"])
        return job

    def look_now(self, job_id: bytes) -> Job | None:
        """The same of a job whose newest event is known to be durable."""
        shard = self._core.shards.get(shard_of(job_id))
        return None if shard is None else shard.table.get(job_id)

    @contextmanager
    def watch_ends(
        self,
        project_id: bytes,
        job_ids: Sequence[bytes],
        ended: Callable[[bytes], None],
        lost: Callable[[Exception], None],
    ) -> Iterator[None]:
        """While it is open: `ended` is called at the durable end of each of these that memory has
        open now, `lost` when that can no longer be known. ShareUsedUp."""
        tenant = self._core.usage.tenant(project_id)
        self._waiters.require(tenant, len(job_ids))
        self._waiters.add(tenant, len(job_ids))
        watched: list[tuple[Shard, bytes, _End]] = []
        try:
            for job_id in job_ids:
                shard = self._core.shards.get(shard_of(job_id))
                end = _End(job_id, ended, lost)
                if shard is not None and shard.watch(job_id, end):
                    watched.append((shard, job_id, end))
            yield
        finally:
            self._waiters.remove(tenant, len(job_ids))
            for shard, job_id, end in watched:
                end.over = True
                shard.unwatch(job_id, end)

    # events

    def follow_job(self, job_id: bytes, project_id: bytes, after: str | None) -> Follower:
        """What happens to this job of the project from now on, or behind the event `after`.
        Unavailable, ShareUsedUp."""
        self._shard(job_id)
        return self._core.events.follow_job(job_id, self._core.usage.tenant(project_id), after)

    def follow_queue(self, queue: QueueRef, after: str | None) -> Follower:
        """The same of all jobs of a queue."""
        if queue.shard not in self._core.shards:
            raise moved()
        self._core.refs.setdefault(queue.id, queue)
        return self._core.events.follow(queue.id, self._core.usage.tenant(queue.project_id), after)

    def follow_project(self, project_id: bytes, after: str | None) -> Follower:
        """The same of all jobs of a project that this node decides about."""
        return self._core.events.follow(project_id, self._core.usage.tenant(project_id), after)

    async def why(
        self, queue: QueueRef, job: Job, executions: Sequence[Job], ahead: int | None = None
    ) -> Explanation:
        """Why a job is not running; `ahead` as the tables have it, where memory was not enough."""
        return explain(self._core, queue, job, executions, ahead)

    def queue_changed(self, queue: QueueRef) -> None:
        """The queue was made, or its row changed."""
        self._core.update(queue)

    def queue_counts(self, queue: QueueRef) -> tuple[int, int, int]:
        """Pending, scheduled, processing; Unavailable while they are still being counted."""
        actor = self._core.queue(queue)
        if not actor.shard.counted:
            raise _counting()
        return actor.shard.table.counts(actor.index)

    # workers

    def heartbeat(self, worker_id: bytes, project_id: bytes) -> bool:
        """Extend the worker's lease; False when it has none here."""
        return self._core.leases.heartbeat(worker_id, project_id)

    @property
    def lease_ttl_s(self) -> float:
        """How long the silence of a worker is forgiven."""
        return self._lease_ttl_s

    def worker_jobs(self, worker_id: bytes, project_id: bytes) -> int | None:
        """How many jobs the worker has that are not over; None when it is not connected here."""
        return self._core.leases.outstanding(worker_id, project_id)

    async def attach_worker(
        self, hello: Hello, project_id: bytes, queues: Sequence[QueueRef], outlet: Outlet
    ) -> WorkerActor:
        """A session of the worker: it keeps what it runs, and gets what it asks for.

        What the node thinks it runs but it does not name was lost on the way, and is released; or
        it died with the process that ran it, when another one speaks now.
        The welcome waits for the log where it tells of what is not durable yet.
        """
        try:
            async with asyncio.timeout(limits.WELCOME_WAIT_S):
                for ref in queues:
                    await self._core.arrival(ref.shard)
        except TimeoutError:
            raise moved() from None
        await self._require_room(hello, project_id)
        # No other turn lies between these looks and the session that takes the room.
        if self._admission.draining:
            raise Unavailable(limits.UNAVAILABLE_RETRY_S, "this node is stopping")
        actors = [self._core.queue(ref) for ref in queues]
        session = self._core.session(hello, project_id, outlet)
        try:
            kept, stale, touched = self._reconcile(session, hello)
            async with asyncio.timeout(limits.WELCOME_WAIT_S):
                await all_durable(touched)
        except (TimeoutError, ShardLost) as error:
            session.detach()
            raise moved() from error
        except BaseException:
            session.detach()
            raise
        if not session.ended:
            outlet.send(self._welcome(kept, stale))
            self._core.serve(session, actors)
            for shard, _ in session.running():
                tell_again(shard, session, self._core.clock.now_us())
        return session

    async def _require_room(self, hello: Hello, project_id: bytes) -> None:
        """Raises when the worker is one too many; here none is."""

    def _reconcile(self, session: WorkerActor, hello: Hello) -> tuple[bytes, bytes, list[Shard]]:
        """What it keeps, what is stale, and the shards that this rests on."""
        now_us = self._core.clock.now_us()
        kept: list[bytes] = []
        stale: list[bytes] = []
        named = {number: _each(part) for number, part in split_tokens(hello.running).items()}
        touched: list[Shard] = []
        for number, tokens in named.items():
            shard = self._core.shards.get(number)
            if shard is None:
                kept += tokens  # whoever owns the shard will judge
                continue
            touched.append(shard)
            running = set(shard.table.running(session.index_in(shard)))
            if not safeguards.ACTIVE.lease_comparison:
                running.update(tokens)
            held = [token for token in tokens if token in running]
            session.outstanding += len(held)
            kept += held
            stale += [token for token in tokens if token not in running]
        for shard, tokens in session.running():
            lost = set(tokens).difference(named.get(shard.number, ()))
            for token in lost:
                if session.restarted:
                    self._core.outcomes.lost(shard, token, now_us)
                else:
                    self._core.outcomes.given_back(shard, token, outcomes.NEVER_ARRIVED, now_us)
            if lost:
                self._core.touched(shard)
                self._core.journal.dirty(shard)
        return b"".join(kept), b"".join(stale), touched

    def _welcome(self, kept: bytes, stale: bytes) -> bytes:
        body = {
            "protocol": worker.PROTOCOL,
            "session": secrets.token_hex(8),
            "lease_ttl_s": self._lease_ttl_s,
            "heartbeat_s": self._heartbeat_s,
            "kept": kept,
            "stale": stale,
            "result_bytes_max": limits.RESULT_BYTES_MAX,
            "log_lines_max": limits.LOG_LINES_MAX,
            "outcome_max": worker.OUTCOME_MAX,
            "features": FEATURES,
            "progress_per_s": limits.PROGRESS_PER_S_MAX,
        }
        frame: bytes = msgpack.packb([worker.WELCOME, body])
        return frame

    def _shard(self, job_id: bytes) -> Shard:
        shard = self._core.shards.get(shard_of(job_id))
        if shard is None:
            raise moved()
        return shard


class _End:
    """A promise that tells of the end of a job, once."""

    __slots__ = ("_ended", "_job_id", "_lost", "over")

    def __init__(
        self, job_id: bytes, ended: Callable[[bytes], None], lost: Callable[[Exception], None]
    ) -> None:
        self._job_id = job_id
        self._ended = ended
        self._lost = lost
        self.over = False

    def done(self) -> bool:
        return self.over

    def set_result(self, result: None, /) -> None:
        self.over = True
        self._ended(self._job_id)

    def set_exception(self, exception: Exception, /) -> None:
        self.over = True
        self._lost(moved() if isinstance(exception, ShardLost) else exception)


async def _durable(shard: Shard, lsn: int) -> None:
    """Wait until the event at this lsn is durable."""
    reply: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    shard.effect_at(lsn, Reply(reply, None))
    try:
        await reply
    except (ShardLost, OutcomeUnknown) as error:
        raise moved() from error  # who only looks has changed nothing


async def all_durable(shards: Sequence[Shard]) -> None:
    """Wait until everything decided so far in these shards is durable."""
    if not shards:
        return
    reply: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    answer = Reply(reply, None)
    join = Join(len(shards), answer.release, answer.refuse)
    for shard in shards:
        shard.effect(join)
    await reply


def lost(error: ShardLost) -> Unavailable | OutcomeUnknown:
    """What the caller of a command is told."""
    return error.told(limits.UNAVAILABLE_RETRY_S)


def moved() -> Unavailable:
    return Unavailable(limits.UNAVAILABLE_RETRY_S, "the shard is moving: try again")


def _counting() -> Unavailable:
    return Unavailable(limits.UNAVAILABLE_RETRY_S, "the jobs of the shard are still being counted")


def _each(tokens: bytes) -> list[bytes]:
    return [tokens[at : at + TOKEN_BYTES] for at in range(0, len(tokens), TOKEN_BYTES)]
