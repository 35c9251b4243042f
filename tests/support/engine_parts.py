"""The middle of a node under a test's hands: actors without tasks, commits when told.

parts = EngineParts()                     one shard, a virtual clock
queue = parts.queue("mail")               a QueueActor
worker = parts.worker(["mail"])           a session whose outlet keeps the frames
reply = parts.submit(queue, 3)            one turn of the queue
parts.settle()                            dispatcher's turn, then one commit
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import msgpack
import msgspec

from taskforge_server.engine import limits
from taskforge_server.engine.actors import queue as queue_module
from taskforge_server.engine.actors import worker as worker_module
from taskforge_server.engine.actors.commands import Submit
from taskforge_server.engine.actors.dependencies import Dependencies, SeenParents
from taskforge_server.engine.actors.dispatcher import Dispatcher
from taskforge_server.engine.actors.joblogs import LogBook
from taskforge_server.engine.actors.leases import Leases
from taskforge_server.engine.actors.outcomes import Outcomes
from taskforge_server.engine.actors.ports import Hello
from taskforge_server.engine.actors.progress import ProgressBook
from taskforge_server.engine.actors.queue import QueueActor
from taskforge_server.engine.actors.roster import Roster
from taskforge_server.engine.actors.worker import WorkerActor
from taskforge_server.engine.model.joboptions import JobOptions, pack_told
from taskforge_server.engine.model.queue import QueueRef, QueueSettings
from taskforge_server.engine.observe.counters import Counters
from taskforge_server.engine.runtime.clock import VirtualClock
from taskforge_server.engine.shard.budget import Budgets
from taskforge_server.engine.shard.keys import KeyBook, KeyedRequest
from taskforge_server.engine.shard.shard import Shard
from taskforge_server.engine.vault.vault import Vault
from taskforge_server.ext.table import ShardTable, SubmitBatch

PROJECT = b"p" * 16
TTL_S = 10.0


class KeptOutlet:
    """A connection that keeps what was sent."""

    def __init__(self) -> None:
        self.frames: list[list[Any]] = []
        self.closed: tuple[int, str] | None = None
        self.arrived = asyncio.Event()
        """Set by every frame, and at the end."""

    def send(self, frame: bytes) -> None:
        assert self.closed is None, "a frame after the close"
        self.frames.append(msgpack.unpackb(frame, strict_map_key=False))
        self.arrived.set()

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)
        self.arrived.set()

    def of(self, kind: int) -> list[list[Any]]:
        return [frame for frame in self.frames if frame[0] == kind]

    def tokens(self) -> list[bytes]:
        """Of all jobs that were sent, in their order."""
        joined = b"".join(frame[4] for frame in self.of(11))
        return [joined[at : at + 24] for at in range(0, len(joined), 24)]

    def payloads(self) -> list[bytes]:
        return [payload for frame in self.of(11) for payload in frame[5]]


class StepJournal:
    """Takes batches when told, commits them when told; both at once is `commit`."""

    def __init__(self) -> None:
        self.crowded = False
        self.waiting: dict[Shard, None] = {}
        self.flying: list[tuple[Shard, int]] = []
        self.bodies: list[tuple[int, int, bytes]] = []

    def dirty(self, shard: Shard) -> None:
        self.waiting[shard] = None

    def together(self, shards: Iterable[Shard]) -> None:
        for shard in shards:
            self.dirty(shard)

    def take(self) -> int:
        """How many shards had something."""
        shards, self.waiting = self.waiting, {}
        for shard in shards:
            batch = shard.take_batch()
            if batch is not None:
                self.flying.append((shard, batch[0]))
                self.bodies.append((shard.number, batch[0], batch[2]))
        return len(self.flying)

    def commit(self) -> int:
        """How many rows became durable."""
        self.take()
        flying, self.flying = self.flying, []
        for shard, lsn in flying:
            shard.on_committed(lsn)
        return len(flying)


class EngineParts:
    """Queues, dispatcher, workers, leases of a node, all of them held still."""

    def __init__(self, shards: Iterable[int] = (1,), clock: VirtualClock | None = None) -> None:
        self.clock = clock or VirtualClock()
        self.journal = StepJournal()
        self.counters = Counters()
        self.keys = KeyBook()
        self.vault = Vault()
        self.shards = {n: Shard(n, ShardTable(n, n), 1) for n in shards}
        self.refs: dict[bytes, QueueRef] = {}
        self.broken: list[QueueActor] = []
        self.due_us: list[int] = []
        self.wakes_us: list[int] = []
        self.jitter = 0.5
        self.roster = Roster()
        self.dispatcher = Dispatcher(
            self.journal, self.broken.append, self.roster, self.clock.monotonic_us
        )
        self.budgets = Budgets()
        self.outcomes = Outcomes(self, self.counters, lambda: self.jitter, self.vault, self.budgets)
        self.actors: dict[str, QueueActor] = {}
        self.leases = Leases(self.clock, TTL_S, self.outcomes, self.journal, self.touched)
        self.dependencies = Dependencies(
            self.clock, self.journal, self.shards.get, self.freed, self.counters
        )
        for shard in self.shards.values():
            shard.marks.add_children(SeenParents(self.dependencies, shard))
        self._queue_context = queue_module.Context(
            self.clock,
            self.dispatcher,
            self.journal,
            self.keys,
            self.shards.get,
            self.due_us.append,
            self.counters,
            self.dependencies,
            self.vault,
            budgets=self.budgets,
            session=self.leases.session,
            wake_at=lambda queue, at_us: self.wakes_us.append(at_us),
        )
        self.logs = LogBook(self.clock, self.shards.get, self, self.counters)
        self.progress = ProgressBook(self.clock, self.shards.get, self.counters)
        self._worker_context = worker_module.Context(
            self.clock,
            self,
            self.journal,
            self.leases,
            self.outcomes,
            self.shards.get,
            self.due_us.append,
            self.counters,
            self.logs,
            self.progress,
        )

    # ports

    def freed(self, shard: Shard, queue_id: bytes) -> None:
        for actor in self.actors.values():
            if actor.ref.id == queue_id:
                self.dispatcher.ready(actor)

    def find(self, queue_id: bytes) -> QueueRef | None:
        return self.refs.get(queue_id)

    def free(self, worker: WorkerActor) -> None:
        self.dispatcher.free(worker)

    def detach(self, worker: WorkerActor) -> None:
        self.dispatcher.detach(worker)

    def roused(self, shard: Shard) -> None:
        indexes = shard.table.take_roused()
        for actor in self.actors.values():
            if actor.shard is shard and actor.index in indexes:
                self.dispatcher.ready(actor)

    def touched(self, shard: Shard) -> None:
        for actor in self.actors.values():
            if actor.shard is shard:
                self.dispatcher.ready(actor)

    # building

    def queue(
        self,
        name: str,
        priority: int = 0,
        shard: int = 1,
        project_id: bytes = PROJECT,
        **settings: Any,
    ) -> QueueActor:
        ref = QueueRef(
            name.encode().ljust(16, b"."),
            project_id,
            name,
            priority,
            msgspec.convert(settings, QueueSettings),
            shard,
        )
        self.refs[ref.id] = ref
        actor = self.actors[name] = QueueActor(ref, self.shards[shard], self._queue_context)
        return actor

    def worker(
        self,
        queues: Iterable[str],
        credit: int = 100,
        types: Iterable[str] = ("send",),
        worker_id: bytes = b"w" * 16,
        worker_type: str = "general",
        features: Iterable[str] = (),
    ) -> tuple[WorkerActor, KeptOutlet]:
        hello = Hello(
            worker_id,
            "worker",
            worker_type,
            tuple(queues),
            frozenset(types),
            credit,
            b"",
            "test",
            features=frozenset(features),
        )
        lease = self.leases.take(worker_id, PROJECT)
        outlet = KeptOutlet()
        worker = WorkerActor(hello, lease, outlet, self._worker_context)
        lease.session = worker
        self.dispatcher.attach(worker, [self.actors[name] for name in hello.queues])
        return worker, outlet

    # doing

    def assign(self, queue: QueueActor, weights: Mapping[bytes, int]) -> None:
        """These workers serve the queue."""
        self.roster.assign(queue.ref.id, weights)
        self.dispatcher.queue_changed(queue)

    def drain(self, worker_id: bytes, drained: bool = True) -> None:
        self.roster.drain(worker_id, drained)
        self.dispatcher.worker_changed(worker_id)

    def submit(
        self,
        queue: QueueActor,
        jobs: int = 1,
        *,
        job_type: str = "send",
        priority: int = 0,
        due_us: int = 0,
        key: KeyedRequest | None = None,
        max_attempts: int = 0,
        payload: bytes = b"{}",
        more: JobOptions | None = None,
        timeout_ms: int = 0,
        group_key: str | None = None,
    ) -> "asyncio.Future[bytes]":
        batch = SubmitBatch()
        for _ in range(jobs):
            options = pack_told({"more": more, "group_key": group_key})
            batch.add(job_type, payload, priority, due_us, timeout_ms, max_attempts, options)
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        queue.handle([Submit(batch, key, reply)])
        return reply

    def settle(self) -> None:
        """Dispatch and commit until nothing moves."""
        self.dispatcher.turn()
        while self.journal.commit():
            self.dispatcher.turn()

    def wait(self, seconds: float) -> None:
        """Let time pass, with the sweeps of a node that is not held up."""
        ends_us = self.clock.monotonic_us() + round(seconds * 1e6)
        while (left_us := ends_us - self.clock.monotonic_us()) > 0:
            self.clock.advance(min(limits.SWEEP_S, left_us / 1e6))
            self.leases.sweep(self.shards.values())

    def due(self) -> None:
        """What is due by now goes to its lanes."""
        for shard in self.shards.values():
            if shard.table.due(self.clock.now_us(), limits.DUE_JOBS_MAX)[0]:
                self.touched(shard)


def done(seq: int, ok: bytes = b"", *others: tuple[bytes, int, bytes | None]) -> bytes:
    """A done frame."""
    frame: bytes = msgpack.packb([3, seq, ok, [list(other) for other in others]])
    return frame
