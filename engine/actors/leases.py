"""Leases: how long silence is forgiven, and the sweep that ends them.

    held --frame or heartbeat--> held, until now + lease_ttl
       \\--------deadline-------> ended: all that the worker runs is released, its session closed

A worker has one deadline for everything that it runs; whoever hears from it moves that deadline,
nothing is done per job. The sweep looks at the deadlines at an interval, by the monotonic clock. A
sweep that comes late finds that this process was held up, and heard nobody meanwhile: it moves all
deadlines by as much. The same sweep ends attempts that are past their own timeout, and it measures
that by the database's clock, as deadlines are in the log.

A worker that is away keeps its lease for the rest of its time and may come back to what it runs.
After a takeover every worker that the log names as running something has a fresh lease.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Protocol

import msgpack

from taskforge_server.engine import limits
from taskforge_server.engine.actors.outcomes import Outcomes
from taskforge_server.engine.actors.ports import Journal, Outlet
from taskforge_server.engine.errors import Overloaded, PermissionDenied
from taskforge_server.engine.runtime.clock import Clock
from taskforge_server.engine.shard.shard import Shard

log = logging.getLogger(__name__)

STOP_FRAME = 14
TRY_AGAIN_LATER = 1013
SHARD_MOVED = 4002
ID_BYTES = 16


class Session(Protocol):
    """The connected worker behind a lease."""

    outlet: Outlet
    outstanding: int
    id: bytes

    @property
    def features(self) -> frozenset[str]:
        """What it knows beyond the first protocol."""
        ...

    @property
    def draining(self) -> bool:
        """It asks for nothing more."""
        ...

    def over(self, count: int) -> None:
        """So many of its jobs ended without its doing."""
        ...

    def end(self, code: int, reason: str) -> None:
        """Close the connection; nothing more comes or goes."""
        ...


class Lease:
    """One worker's hold on everything that it runs."""

    __slots__ = ("_indexes", "deadline_us", "instance", "project_id", "session", "worker_id")

    def __init__(self, worker_id: bytes, project_id: bytes, deadline_us: int) -> None:
        self.worker_id = worker_id
        self.project_id = project_id
        self.deadline_us = deadline_us
        self.session: Session | None = None
        self.instance = b""
        """The process that holds it; empty while that is not known."""
        self._indexes: dict[Shard, int] = {}

    def index_in(self, shard: Shard) -> int:
        """The worker's number in the shard's table."""
        index = self._indexes.get(shard)
        if index is None:
            index = self._indexes[shard] = shard.table.worker(self.worker_id)
        return index

    def running(self) -> list[tuple[Shard, list[bytes]]]:
        """What it runs, as far as this node owns it."""
        for shard in [shard for shard in self._indexes if shard.lost]:
            del self._indexes[shard]
        found = [(shard, shard.table.running(index)) for shard, index in self._indexes.items()]
        return [(shard, tokens) for shard, tokens in found if tokens]


class Leases:
    """All leases of a node."""

    def __init__(
        self,
        clock: Clock,
        ttl_s: float,
        outcomes: Outcomes,
        journal: Journal,
        freed: Callable[[Shard], None],
        ended: Callable[[bytes], None] = lambda worker_id: None,
    ) -> None:
        """`freed` hears of shards whose jobs may have come back, `ended` of workers that left."""
        self._clock = clock
        self._ttl_us = round(ttl_s * 1e6)
        self._outcomes = outcomes
        self._journal = journal
        self._freed = freed
        self._ended = ended
        self._leases: dict[bytes, Lease] = {}
        self._swept_us = 0
        self._sweeps = 0

    def __len__(self) -> int:
        return len(self._leases)

    def take(self, worker_id: bytes, project_id: bytes) -> Lease:
        """The lease of this worker, fresh; a new one if it has none."""
        lease = self._leases.get(worker_id)
        if lease is None:
            if len(self._leases) >= limits.WORKERS_MAX:
                raise Overloaded(limits.OVERLOAD_RETRY_S, "this node knows too many workers")
            lease = self._new(worker_id, project_id)
        elif lease.project_id != project_id:
            raise PermissionDenied("this worker id belongs to another project")
        self.extend(lease)
        return lease

    def heartbeat(self, worker_id: bytes, project_id: bytes) -> bool:
        """The worker lives. False: it holds no lease here."""
        lease = self._leases.get(worker_id)
        if lease is None or lease.project_id != project_id:
            return False
        self.extend(lease)
        return True

    def extend(self, lease: Lease) -> None:
        lease.deadline_us = self._clock.monotonic_us() + self._ttl_us

    def heard(self) -> list[tuple[bytes, bool, int]]:
        """Every worker: whether it asks for nothing more, and when it was last heard of."""
        ahead_us = self._clock.now_us() - self._clock.monotonic_us() - self._ttl_us
        return [
            (
                lease.worker_id,
                lease.session is not None and lease.session.draining,
                lease.deadline_us + ahead_us,
            )
            for lease in self._leases.values()
        ]

    def outstanding(self, worker_id: bytes, project_id: bytes) -> int | None:
        """How many jobs the worker has that are not over; None when it is not connected."""
        lease = self._leases.get(worker_id)
        if lease is None or lease.project_id != project_id or lease.session is None:
            return None
        return lease.session.outstanding

    def session(self, worker_id: bytes) -> Session | None:
        """The connection of this worker, if it has one here."""
        lease = self._leases.get(worker_id)
        return None if lease is None else lease.session

    def forget(self, lease: Lease) -> None:
        """The worker said goodbye: nothing is forgiven any more, nothing is waited for."""
        if self._leases.pop(lease.worker_id, None) is not None:
            self._release(lease)
            self._ended(lease.worker_id)

    def drop(self, worker_id: bytes) -> None:
        """The same for a worker by its id, if it has a lease."""
        if (lease := self._leases.get(worker_id)) is not None:
            self.forget(lease)

    def recover(self, shard: Shard) -> int:
        """Give every worker that runs something in a shard just taken a fresh lease; how many.

        One that is connected already has to connect anew: only its hello tells which of these jobs
        it has, and which were lost on the way.
        """
        # The number of an id that no worker has is the number of workers known so far.
        count = 0
        for index in range(shard.table.worker(bytes(ID_BYTES))):
            tokens = shard.table.running(index)
            job = shard.table.get(tokens[0][:ID_BYTES]) if tokens else None
            if job is not None and job["worker_id"] is not None:
                self._recover_lease(job["worker_id"], job["project_id"]).index_in(shard)
                count += 1
        return count

    def _recover_lease(self, worker_id: bytes, project_id: bytes) -> Lease:
        """The lease of a worker that the log names, fresh. Whoever took the id for another project
        before the shard was here has to go; there is room for all whom the log names."""
        lease = self._leases.get(worker_id)
        if lease is not None and lease.session is not None:
            lease.session.end(SHARD_MOVED, "a shard came: connect again")
        if lease is not None and lease.project_id != project_id:
            self.forget(lease)
            lease = None
        if lease is None:
            lease = self._new(worker_id, project_id)
        self.extend(lease)
        return lease

    def _new(self, worker_id: bytes, project_id: bytes) -> Lease:
        lease = self._leases[worker_id] = Lease(worker_id, project_id, 0)
        return lease

    # the sweep

    def sweep(self, shards: Iterable[Shard]) -> None:
        """End the leases and the attempts whose time is over."""
        monotonic_us = self._clock.monotonic_us()
        self._forgive(monotonic_us)
        for lease in [x for x in self._leases.values() if x.deadline_us <= monotonic_us]:
            del self._leases[lease.worker_id]
            log.info("lease of worker %s ran out", lease.worker_id.hex())
            self._release(lease)
            if lease.session is not None:
                lease.session.end(TRY_AGAIN_LATER, "the lease ran out: connect again")
            self._ended(lease.worker_id)
        self._end_attempts(list(shards))

    def _end_attempts(self, shards: list[Shard]) -> None:
        """Those past their deadline; of a herd one part in each sweep, each shard first in turn."""
        now_us, left = self._clock.now_us(), limits.EXPIRE_JOBS_MAX
        self._sweeps += 1
        first = self._sweeps % max(1, len(shards))
        for shard in shards[first:] + shards[:first]:
            if left and (tokens := shard.table.expired(now_us)):
                self._time_out(shard, tokens[:left], now_us)
                left -= min(left, len(tokens))

    def _forgive(self, monotonic_us: int) -> None:
        """Give back to the workers the time that this process was held up since the last sweep."""
        late_us = monotonic_us - self._swept_us - round(limits.SWEEP_LATE_S * 1e6)
        if self._swept_us and late_us > 0:
            log.warning("held up for %.1f s: leases are that much longer", late_us / 1e6)
            for lease in self._leases.values():
                lease.deadline_us += late_us
        self._swept_us = monotonic_us

    def _release(self, lease: Lease) -> None:
        now_us = self._clock.now_us()
        for shard, tokens in lease.running():
            for token in tokens:
                self._outcomes.lost(shard, token, now_us)
            self._touched(shard)

    def _time_out(self, shard: Shard, tokens: list[bytes], now_us: int) -> None:
        stopped: dict[bytes, list[bytes]] = {}
        for token in tokens:
            job = shard.table.get(token[:ID_BYTES])
            if job is None or not self._outcomes.timed_out(shard, token, now_us):
                continue
            if job["worker_id"] is not None:
                stopped.setdefault(job["worker_id"], []).append(token)
        for worker_id, lost in stopped.items():
            lease = self._leases.get(worker_id)
            if lease is not None and lease.session is not None:
                session = lease.session
                session.over(len(lost))
                shard.effect(StopHandlers(session.outlet, lost))
        self._touched(shard)

    def _touched(self, shard: Shard) -> None:
        self._freed(shard)
        self._journal.dirty(shard)


class StopHandlers:
    """Tells a worker that the leases of these jobs are gone, once that is durable."""

    __slots__ = ("_outlet", "_tokens")

    def __init__(self, outlet: Outlet, tokens: list[bytes]) -> None:
        self._outlet = outlet
        self._tokens = tokens

    def release(self) -> None:
        self._outlet.send(msgpack.packb([STOP_FRAME, b"".join(self._tokens)]))

    def refuse(self, error: Exception) -> None:
        """The shard is gone, and with it what we know of these leases."""
