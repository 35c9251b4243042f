"""The actor of one connected worker: frames in, completions applied, acks and jobs out.

    connected --hello--> welcomed --detach, bye, replaced, broken--> ended

A session is one connection. The lease (`leases.py`) outlives it: a worker that reconnects gets a
new session over the same lease, names what it runs, and keeps it.

    outstanding = jobs sent and neither completed nor taken back        free = credit - outstanding

A done frame is acknowledged when all that it changed is durable in all shards that it touched. A
completion counts only under the current lease; the rest is named in the ack as stale. A frame that
cannot be understood ends the session (1002): what it meant must not be guessed.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgpack

from taskforge_server.engine import limits
from taskforge_server.engine.actors import control, outcomes
from taskforge_server.engine.actors.joblogs import LogBook
from taskforge_server.engine.actors.leases import (
    SHARD_MOVED,
    STOP_FRAME,
    TRY_AGAIN_LATER,
    Lease,
    Leases,
)
from taskforge_server.engine.actors.outcomes import Outcomes
from taskforge_server.engine.actors.ports import Hello, Journal, Outlet
from taskforge_server.engine.actors.progress import ProgressBook
from taskforge_server.engine.errors import FrameError
from taskforge_server.engine.observe.counters import Counters
from taskforge_server.engine.runtime import faultpoints, safeguards
from taskforge_server.engine.runtime.actor import Actor
from taskforge_server.engine.runtime.clock import Clock
from taskforge_server.engine.shard.effects import Effect, Join
from taskforge_server.engine.shard.shard import Shard
from taskforge_server.ext.channel import ChannelClosed
from taskforge_server.ext.table import split_tokens

log = logging.getLogger(__name__)

CREDIT, DONE, HEARTBEAT, BYE, LOGS = 2, 3, 4, 5, 6
WELCOME, ACK, PONG, DRAIN, LOGS_ACK = 10, 12, 13, 15, 16
SUCCEEDED, FAILED, GIVEN_BACK, RETRY, SNOOZE, CANCELLED = 0, 1, 2, 3, 4, 5
OUTCOME_MAX = CANCELLED
"""The welcome names it: workers use no outcome beyond it."""

NORMAL, BROKEN_FRAME, REFUSED, REPLACED = 1000, 1002, 1008, 4001
PROTOCOL = 1
TOKEN_BYTES = 24
ID_BYTES = 16
INT64_MAX = 2**63 - 1
ANY_WORKER = -1

PONG_FRAME: bytes = msgpack.packb([PONG])
DRAIN_FRAME: bytes = msgpack.packb([DRAIN])


class Dispatcher(Protocol):
    """Who gives jobs to workers."""

    def free(self, worker: "WorkerActor") -> None:
        """The worker can take more."""
        ...

    def touched(self, shard: Shard) -> None:
        """Jobs of the shard may have come back to their lanes."""
        ...

    def roused(self, shard: Shard) -> None:
        """Jobs have ended that held others back by a limit."""
        ...

    def detach(self, worker: "WorkerActor") -> None: ...


@dataclass(frozen=True, slots=True)
class Context:
    """What all worker actors of a node share."""

    clock: Clock
    dispatcher: Dispatcher
    journal: Journal
    leases: Leases
    outcomes: Outcomes
    shard: Callable[[int], Shard | None]
    due: Callable[[int], None]
    counters: Counters
    logs: LogBook
    progress: ProgressBook


class WorkerActor(Actor[bytes]):
    """One session of one worker."""

    def __init__(self, hello: Hello, lease: Lease, outlet: Outlet, context: Context) -> None:
        super().__init__(f"worker {hello.name}", limits.WORKER_MAILBOX_MAX)
        self.hello = hello
        self.id = hello.worker_id
        self.worker_type = hello.worker_type
        self.types = hello.types
        self.outlet = outlet
        self.ended = False
        self.restarted = False
        """The process of the session before is gone, and what it ran with it."""
        self.outstanding = 0
        self._credit = min(hello.credit, limits.CREDIT_MAX)
        self._lease = lease
        self.features = hello.features
        self.project_id = lease.project_id
        self._context = context
        self._allowance = context.progress.allowance()
        self._failure: FrameError | None = None
        self.index_in = lease.index_in
        self.running = lease.running

    # the connection's side

    async def receive(self, frames: Sequence[bytes]) -> None:
        """Frames as they came. FrameError: an earlier one broke the session."""
        for frame in frames:
            if self._failure is not None:
                raise self._failure
            try:
                await self.mailbox.send(frame)
            except ChannelClosed:
                return  # the session ended; a connection that is closing still delivers

    def detach(self) -> None:
        """The connection is gone; the lease lives on."""
        if self.ended:
            return
        self.ended = True
        if self._lease.session is self:
            self._lease.session = None
        self._context.dispatcher.detach(self)
        self.mailbox.close()

    def end(self, code: int, reason: str) -> None:
        """End the session from this side."""
        if not self.ended:
            self.detach()
            self.outlet.close(code, reason)

    # the dispatcher's side

    @property
    def free(self) -> int:
        """How many more jobs it takes now."""
        return 0 if self.ended else self._credit - self.outstanding

    @property
    def draining(self) -> bool:
        """It asks for nothing more."""
        return self._credit == 0

    def assignment(self, frame: bytes, count: int) -> Effect:
        """The jobs are on their way: an effect that sends them."""
        self.outstanding += count
        return Assignment(self, frame, count)

    def over(self, count: int) -> None:
        """So many jobs ended, by the worker's doing or not."""
        if count:
            self.outstanding = max(0, self.outstanding - count)
            self._context.dispatcher.free(self)

    def drain(self) -> None:
        """The node stops: no new jobs, and the worker shall go elsewhere when it is done."""
        self._credit = 0
        if not self.ended:
            self.outlet.send(DRAIN_FRAME)

    # frames

    def handle(self, batch: list[bytes]) -> None:
        if self.ended:
            return
        self._context.leases.extend(self._lease)
        try:
            for frame in batch:
                self._frame(_decode(frame))
                if self.mailbox.closed:
                    return  # this frame ended the session: nothing after it counts
        except FrameError as error:
            self._failure = error
            self.end(BROKEN_FRAME, error.reason)
        except Exception:
            # No ack will come for this batch: the worker has to send it again.
            self.end(TRY_AGAIN_LATER, "internal error: connect again")
            raise

    def _frame(self, message: list[Any]) -> None:
        match message:
            case [3, seq, tokens_ok, others]:
                _check(_is_count(seq, INT64_MAX), "seq of a done frame")
                _check(type(tokens_ok) is bytes, "tokens of a done frame")
                _check(type(others) is list, "outcomes of a done frame")
                self._done(seq, tokens_ok, others)
            case [6, seq, groups]:
                _check(_is_count(seq, INT64_MAX), "seq of a log frame")
                self._log(seq, groups)
            case [7, entries]:
                self._progress(entries)
            case [2, credit]:
                _check(_is_count(credit, INT64_MAX), "credit")
                self._credit = min(credit, limits.CREDIT_MAX)
                self._context.dispatcher.free(self)
            case [8, token, extend_ms]:
                _check(type(token) is bytes and len(token) == TOKEN_BYTES, "a token")
                _check(_is_count(extend_ms, limits.TIMEOUT_S_MAX * 1000), "a time")
                self._extend(token, extend_ms * 1000)
            case [4]:
                self.outlet.send(PONG_FRAME)
            case [5]:
                self.end(NORMAL, "bye")
                self._context.leases.forget(self._lease)
            case _:
                raise FrameError("a frame of unknown kind or length")

    def _done(self, seq: int, tokens_ok: bytes, others: list[Any]) -> None:
        """Apply completions; ack when they are durable."""
        context = self._context
        turn = _Turn(context, self.index_in, context.clock.now_us())
        try:
            turn.succeed(tokens_ok)
            for outcome in others:
                turn.apply(outcome)
        except Exception:
            for shard in turn.shards:  # what was applied holds, though no ack says so
                context.journal.dirty(shard)
            raise
        context.counters.stale_completions += len(turn.stale) // TOKEN_BYTES
        self.over(turn.accepted)
        if turn.moved:
            self.end(SHARD_MOVED, "a shard moved: connect again")
        elif turn.shards:
            ack = Join(
                len(turn.shards),
                lambda: self._acknowledge(seq, turn.stale),
                lambda error: self.end(SHARD_MOVED, str(error)),
            )
            for shard in turn.shards:
                shard.effect(ack)
        else:
            self._acknowledge(seq, b"")
        for shard in turn.shards:
            if shard.table.rousing:
                context.dispatcher.roused(shard)
            if turn.put_back:
                context.dispatcher.touched(shard)
                if due_us := shard.table.next_due_us():
                    context.due(due_us)
            context.journal.dirty(shard)

    def _log(self, seq: int, groups: Any) -> None:
        """Take lines; ack when they are in the table. Who logs without a lease shall stop."""

        def written() -> None:
            if not self.ended:
                self.outlet.send(msgpack.packb([LOGS_ACK, seq]))

        stale = self._context.logs.take(self.id, groups, written)
        if stale:
            self.outlet.send(msgpack.packb([STOP_FRAME, stale]))

    def _extend(self, token: bytes, extend_us: int) -> None:
        """Put the deadline of an attempt off; it is told when that is durable."""
        context = self._context
        shard = context.shard(_shard_of(token))
        if shard is None:
            return  # whoever has the shard is asked on the next connection
        if not shard.table.holds(token, self.index_in(shard)):
            self.outlet.send(msgpack.packb([STOP_FRAME, token]))
            return
        control.extend(shard, token, extend_us, context.clock.now_us())
        shard.effect(control.Extended(self.outlet, token))
        context.journal.dirty(shard)

    def _progress(self, entries: Any) -> None:
        """Remember and tell how far its jobs are. Who has no lease shall stop."""
        stale = self._context.progress.take(self.index_in, self._allowance, entries)
        if stale:
            self.outlet.send(msgpack.packb([STOP_FRAME, stale]))

    def _acknowledge(self, seq: int, stale: bytes) -> None:
        faultpoints.hit(faultpoints.BETWEEN_COMPLETION_AND_ACK)
        if not self.ended:
            self.outlet.send(msgpack.packb([ACK, seq, stale]))


class _Turn:
    """The completions of one done frame: what they touched, and which were stale."""

    def __init__(self, context: Context, index_in: Callable[[Shard], int], now_us: int) -> None:
        """`index_in` is the number of the worker that says so: tokens can be guessed by those who
        get tokens, so that what another worker runs is as stale as what nobody runs."""
        self._context = context
        self._index_in = index_in
        self._now_us = now_us
        self.accepted = 0
        self.stale = b""
        self.shards: dict[Shard, None] = {}
        self.moved = False
        self.put_back = False
        """Some job waits again, now or for a time."""

    def succeed(self, tokens: bytes) -> None:
        """All these succeeded without a result."""
        if not tokens:
            return
        try:
            parts = split_tokens(tokens)
        except ValueError as error:
            raise FrameError(str(error)) from error
        for number, part in parts.items():
            shard = self._shard(number)
            if shard is None:
                continue
            worker = self._index_in(shard)
            if not safeguards.ACTIVE.lease_comparison:
                part, worker = _current(shard, part), ANY_WORKER
            accepted, stale, watched = shard.table.succeed(part, self._now_us, worker)
            self.accepted += accepted
            self._context.counters.succeeded_jobs += accepted
            self.stale += stale
            if watched:
                shard.ended(watched)

    def apply(self, outcome: Any) -> None:
        """One completion with something to say."""
        _check(type(outcome) is list and len(outcome) == 3, "an outcome")
        token, kind, data = outcome
        _check(type(token) is bytes and len(token) == TOKEN_BYTES, "the token of an outcome")
        _check(data is None or type(data) is bytes, "the data of an outcome")
        _check(_is_count(kind, OUTCOME_MAX), "the kind of an outcome")
        shard = self._shard(_shard_of(token))
        if shard is None:
            return
        if not safeguards.ACTIVE.lease_comparison:
            token = _current(shard, token)
        elif not shard.table.holds(token, self._index_in(shard)):
            self.stale += token
            return
        known = self._judged(shard, token, kind, data)
        if known:
            self.accepted += 1
        else:
            self.stale += token

    def _judged(self, shard: Shard, token: bytes, kind: int, data: bytes | None) -> bool:
        """Let the rules say what becomes of it; False when the lease is over after all."""
        rules, now_us = self._context.outcomes, self._now_us
        self.put_back |= kind in (FAILED, GIVEN_BACK, RETRY, SNOOZE)
        match kind:
            case 0:
                return rules.succeeded(shard, token, data, now_us)
            case 1:
                return rules.failed(shard, token, data, now_us)
            case 2:
                return rules.given_back(shard, token, outcomes.GIVEN_BACK, now_us)
            case 3:
                return rules.retry(shard, token, data, now_us)
            case 4:
                return rules.snoozed(shard, token, data, now_us)
            case _:
                return rules.cancelled(shard, token, data, now_us)

    def _shard(self, number: int) -> Shard | None:
        shard = self._context.shard(number)
        if shard is None:
            self.moved = True
        else:
            self.shards[shard] = None
        return shard


class Assignment:
    """Jobs that started on a worker, sent once that is durable."""

    __slots__ = ("_count", "_frame", "_worker")

    def __init__(self, worker: WorkerActor, frame: bytes, count: int) -> None:
        self._worker = worker
        self._frame = frame
        self._count = count

    def release(self) -> None:
        faultpoints.hit(faultpoints.AFTER_STARTED_BEFORE_SEND)
        # A worker that is gone names what it runs when it comes back: these are not among it.
        if not self._worker.ended:
            self._worker.outlet.send(self._frame)

    def refuse(self, error: Exception) -> None:
        self._worker.over(self._count)


def _decode(frame: bytes) -> list[Any]:
    try:
        message = msgpack.unpackb(frame, raw=False, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise FrameError("a frame that is not MessagePack") from error
    if not isinstance(message, list):
        raise FrameError("a frame that is no array")
    return message


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise FrameError(f"{what} cannot be understood")


def _is_count(value: object, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _shard_of(token: bytes) -> int:
    return int.from_bytes(token[6:8], "big") & 0xFFF


def _current(shard: Shard, tokens: bytes) -> bytes:
    """The same jobs under whatever lease they have now: a test build without the comparison."""
    found = []
    for start in range(0, len(tokens), TOKEN_BYTES):
        token = tokens[start : start + TOKEN_BYTES]
        job = shard.table.get(token[:ID_BYTES])
        if job is not None and job["lease_lsn"]:
            token = token[:ID_BYTES] + job["lease_lsn"].to_bytes(8, "big")
        found.append(token)
    return b"".join(found)
