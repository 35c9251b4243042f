"""What people decide about workers, told from node to node: a message says whom or which queue it
concerns, the rows say what.

    changed here ──rows──► the dispatcher ──tell──► other nodes ──► rows ──► their dispatchers

Messages may be lost: after a gap, and at an interval, all rows are read. One reading at a time, so
that an old one never comes after a newer one.
"""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol

from taskforge_server.engine import limits
from taskforge_server.engine.actors.roster import Roster
from taskforge_server.engine.cluster.port import ROSTER_CHANGED, Cluster
from taskforge_server.engine.errors import TaskForgeError

log = logging.getLogger(__name__)

WORKER: Final = b"w"
QUEUE: Final = b"q"


class DrainedWorkers(Protocol):
    """The rows of workers."""

    async def drained(self, worker_ids: Sequence[bytes] | None = None) -> set[bytes]: ...


class ActiveAssignments(Protocol):
    """The rows of assignments."""

    async def active(
        self, queue_ids: Sequence[bytes] | None = None
    ) -> dict[bytes, dict[bytes, int]]: ...


class Decider(Protocol):
    """Whose roster is kept up to date."""

    roster: Roster

    def assign(self, queue_id: bytes, weights: Mapping[bytes, int]) -> None: ...

    def drain_worker(self, worker_id: bytes, drained: bool) -> None: ...


class RosterNews:
    """Keeps the roster of this node up to date."""

    def __init__(
        self,
        cluster: Cluster,
        workers: DrainedWorkers,
        assignments: ActiveAssignments,
        decider: Decider,
    ) -> None:
        self._cluster = cluster
        self._workers = workers
        self._assignments = assignments
        self._decider = decider
        self._heard: set[bytes] = set()
        self._gap = False
        self._wake = asyncio.Event()
        self._reading = asyncio.Lock()
        cluster.subscribe(ROSTER_CHANGED, self._hear, self._miss)

    async def changed(
        self, *, workers: Collection[bytes] = (), queues: Collection[bytes] = ()
    ) -> None:
        """The rows of these were changed here: it holds on this node when this returns, and on the
        others soon."""
        try:
            await self._read(workers, queues)
        except TaskForgeError as error:
            log.warning("what is wanted of workers was not read, and will be: %s", error)
            self._miss()
        for kind, ids in ((WORKER, workers), (QUEUE, queues)):
            for row_id in ids:
                self._cluster.publish(ROSTER_CHANGED, kind + row_id)

    async def read_all(self) -> None:
        """All rows, as they are now."""
        await self._read(None, None)

    async def run(self) -> None:
        """Read what was told, and everything now and then."""
        while True:
            try:
                async with asyncio.timeout(limits.ROSTER_READ_S):
                    await self._wake.wait()
            except TimeoutError:
                self._gap = True  # a message may have been lost
            # What is told in quick succession is read once.
            await asyncio.sleep(limits.ROSTER_READ_PAUSE_S)
            self._wake.clear()
            try:
                await self._read_news()
            except TaskForgeError as error:
                log.warning("what is wanted of workers was not read: %s", error)
                self._gap = True

    def _hear(self, message: bytes) -> None:
        self._heard.add(message)
        self._wake.set()

    def _miss(self) -> None:
        self._gap = True
        self._wake.set()

    async def _read_news(self) -> None:
        gap, heard = self._gap, self._heard
        self._gap, self._heard = False, set()
        if gap:
            await self.read_all()
        elif heard:
            workers = [message[1:] for message in heard if message[:1] == WORKER]
            queues = [message[1:] for message in heard if message[:1] == QUEUE]
            await self._read(workers, queues)

    async def _read(
        self, workers: Collection[bytes] | None, queues: Collection[bytes] | None
    ) -> None:
        """The rows of these; None: of all."""
        decider = self._decider
        async with self._reading:
            if workers is None or workers:
                drained = await self._workers.drained(None if workers is None else list(workers))
                asked = decider.roster.drained | drained if workers is None else workers
                for worker_id in asked:
                    decider.drain_worker(worker_id, worker_id in drained)
            if queues is None or queues:
                active = await self._assignments.active(None if queues is None else list(queues))
                known = decider.roster.queues_with_own_workers
                for queue_id in known | set(active) if queues is None else queues:
                    decider.assign(queue_id, active.get(queue_id, {}))
