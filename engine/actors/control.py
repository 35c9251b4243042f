"""What people tell jobs that are there: end, start at another time, go first; and jobs that expire.

    cancel   waits ──► cancelled at once
             runs ───► it stands in its options (cancel_us), its deadline is the end of the grace
                 │ then, durably, the handler is told: frame 17
                 ├── succeeds in time ──► succeeded: the work is done, and has its result
                 ├── ends otherwise, or its worker is lost ──► stopped: cancelled
                 └── the grace is over ──► stopped: cancelled, and the lease is gone

    expire   was never started by then ──► cancelled, "expired"

That a running job shall end stands in its options, so it holds over a restart of the node, and for
a worker that connects anew.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgpack

from taskforge_server.engine import limits
from taskforge_server.engine.actors.ports import Outlet
from taskforge_server.engine.errors import Conflict, JobAway, NotFound
from taskforge_server.engine.model.joboptions import more_anew, read_told
from taskforge_server.engine.observe.counters import Counters
from taskforge_server.engine.shard.effects import Promise, Reply
from taskforge_server.engine.shard.shard import Shard
from taskforge_server.ext.table import NEVER_US, ShardTable, TransitionError

CANCEL_FRAME, EXTENDED_FRAME = 17, 18
CANCELS = "cancel"
"""The feature of workers that know frame 17."""
CANCELLED, EXPIRED = "cancelled", "expired"
ID_BYTES = 16

Job = dict[str, Any]


class Session(Protocol):
    """A connected worker."""

    outlet: Outlet

    @property
    def id(self) -> bytes: ...

    @property
    def features(self) -> frozenset[str]:
        """What it knows beyond the first protocol."""
        ...


SessionOf = Callable[[bytes], Session | None]
"""The connected worker of an id."""


@dataclass(slots=True)
class Cancel:
    """A job shall end; answered with the job, also when it is cancelled already."""

    job_id: bytes
    reply: Promise[Job]
    grace_us: int = round(limits.CANCEL_GRACE_S * 1e6)
    """How long the handler may take if it runs."""
    departures: int = 0
    """Those of the table, when the job was seen in memory."""


@dataclass(slots=True)
class CancelMany:
    """These jobs shall end; answered with how many did, and how many run and were asked to."""

    job_ids: list[bytes]
    grace_us: int
    reply: Promise[tuple[int, int]]
    departures: int = 0
    """Those of the table, when the jobs were seen in memory."""


@dataclass(slots=True)
class Change:
    """A waiting job is told when it is due, its priority; -1: as it is. Answered with the job."""

    job_id: bytes
    reply: Promise[Job]
    due_us: int = -1
    priority: int = -1
    departures: int = 0
    """Those of the table, when the job was seen in memory."""


def require_here(table: ShardTable, job_id: bytes, departures: int) -> None:
    """JobAway where the job may wait in the tables alone: it is not here, and since somebody looked
    some jobs were let go. `departures`: those of the table at that time."""
    if table.departures != departures and table.peek(job_id) is None:
        raise JobAway(limits.UNAVAILABLE_RETRY_S)


def answer(shard: Shard, job_id: bytes, reply: Promise[Job]) -> None:
    """With the job as it is now, once that is durable."""
    job = shard.table.get(job_id)
    assert job is not None
    shard.effect(Reply(reply, job))


def cancel(
    shard: Shard, job_id: bytes, grace_us: int, now_us: int, session_of: SessionOf
) -> str | None:
    """Cancel a job that waits, or ask a running one to end: its status then; None: nothing new was
    said. NotFound, Conflict."""
    peeked = shard.table.peek(job_id)
    if peeked is None:
        raise NotFound("no such job is waiting")
    status = peeked[0]
    if status == "processing":
        return status if _ask(shard, job_id, grace_us, now_us, session_of) else None
    if status == CANCELLED:
        return None
    try:
        shard.table.cancelled(job_id, CANCELLED, now_us)
    except TransitionError as error:
        raise Conflict("this job has ended", code="job_not_cancellable") from error
    shard.ended((job_id,))
    return CANCELLED


def _ask(shard: Shard, job_id: bytes, grace_us: int, now_us: int, session_of: SessionOf) -> bool:
    """Ask a running job to end, from now on within the grace; False: a sooner end is asked for."""
    table = shard.table
    job = table.get(job_id)
    assert job is not None
    more = read_told(job["options"]).more
    ends_us = now_us + grace_us
    if more.cancel_us and 0 < job["deadline_us"] <= ends_us:
        return False
    if job["deadline_us"]:
        ends_us = min(ends_us, job["deadline_us"])
    told = more_anew(job["options"], cancel_us=more.cancel_us or now_us)
    table.change(job_id, now_us, options=told, deadline_us=ends_us)
    session = session_of(job["worker_id"] or b"")
    if session is not None and CANCELS in session.features:
        shard.effect(CancelHandlers(session.outlet, [token_of(job)], ends_us - now_us))
    return True


def change(shard: Shard, command: Change, now_us: int) -> None:
    """Tell a waiting job. NotFound, Conflict."""
    table = shard.table
    job = table.get(command.job_id)
    if job is None:
        raise NotFound("no such job is waiting")
    told = read_told(job["options"])
    if job["status"] not in ("pending", "scheduled"):
        raise Conflict(
            f"only a job that waits can be changed: this one is {job['status']}",
            code="job_not_changeable",
        )
    if command.due_us >= 0:
        if job["due_us"] >= NEVER_US:
            raise Conflict("it waits for other jobs, not for a time", code="job_not_changeable")
        if not job["attempt"] and 0 < told.more.expires_us <= command.due_us:
            raise Conflict("it would expire before it is due", code="job_not_changeable")
    table.change(command.job_id, now_us, due_us=command.due_us, priority=command.priority)


def wants_end(job: Job) -> bool:
    """Whether somebody asked to cancel it while it ran."""
    return job["options"] is not None and read_told(job["options"]).more.cancel_us != 0


def tell_again(shard: Shard, session: Session, now_us: int) -> None:
    """A worker connected anew: name the jobs that it still runs and shall end."""
    if CANCELS not in session.features:
        return
    for job_id in shard.cancels.jobs():
        job = shard.table.get(job_id)
        if job is None or job["status"] != "processing" or not wants_end(job):
            shard.cancels.forget(job_id)
        elif job["worker_id"] == session.id:
            left_us = max(0, job["deadline_us"] - now_us)
            shard.effect(CancelHandlers(session.outlet, [token_of(job)], left_us))


def extend(shard: Shard, token: bytes, extend_us: int, now_us: int) -> bool:
    """The attempt may run for so long from now, if that is longer than it may already. False: it
    has no deadline, or shall end."""
    job = shard.table.get(token[:ID_BYTES])
    if job is None or not job["deadline_us"] or wants_end(job):
        return False
    if job["deadline_us"] < now_us + extend_us:
        shard.table.change(job["id"], now_us, deadline_us=now_us + extend_us)
    return True


def expire(shard: Shard, now_us: int, counters: Counters) -> int:
    """Cancel jobs that were not started in their time, EXPIRE_JOBS_MAX at most; how many."""
    ended = []
    for job_id in shard.expiries.take(now_us, limits.EXPIRE_JOBS_MAX):
        peeked = shard.table.peek(job_id)
        if peeked is None or peeked[0] not in ("pending", "scheduled") or peeked[1]:
            continue  # it ended, or was started in time
        if not 0 < read_told(peeked[4]).more.expires_us <= now_us:
            continue  # it was cancelled in time, and runs again
        shard.table.cancelled(job_id, EXPIRED, now_us)
        ended.append(job_id)
    counters.cancelled_jobs += len(ended)
    shard.ended(ended)
    return len(ended)


def begun_anew(options: bytes | None) -> bytes | None:
    """The options of a job that runs again after its end: what was said of that life is over."""
    more = read_told(options).more
    if not more.cancel_us and not more.expires_us:
        return options
    return more_anew(options, cancel_us=0, expires_us=0) or None


def token_of(job: Job) -> bytes:
    """The token of a running job."""
    token: bytes = job["id"] + job["lease_lsn"].to_bytes(8, "big")
    return token


class CancelHandlers:
    """Tells a worker that these jobs shall end, once that is durable."""

    __slots__ = ("_grace_us", "_outlet", "_tokens")

    def __init__(self, outlet: Outlet, tokens: list[bytes], grace_us: int) -> None:
        self._outlet = outlet
        self._tokens = tokens
        self._grace_us = grace_us

    def release(self) -> None:
        grace_ms = self._grace_us // 1000
        self._outlet.send(msgpack.packb([CANCEL_FRAME, b"".join(self._tokens), grace_ms]))

    def refuse(self, error: Exception) -> None:
        """The shard is gone; whoever has it now tells the worker when that connects."""


class Extended:
    """Tells a worker that its deadline is put off, once that is durable."""

    __slots__ = ("_outlet", "_token")

    def __init__(self, outlet: Outlet, token: bytes) -> None:
        self._outlet = outlet
        self._token = token

    def release(self) -> None:
        self._outlet.send(msgpack.packb([EXTENDED_FRAME, self._token]))

    def refuse(self, error: Exception) -> None:
        """The worker asks again on its next connection."""
