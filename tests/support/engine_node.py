"""A node without servers: the core, its doors and a journal on a log in memory, all running."""

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from taskforge_server.engine import limits
from taskforge_server.engine.actors.ports import Hello
from taskforge_server.engine.actors.worker import WorkerActor
from taskforge_server.engine.errors import NotFound
from taskforge_server.engine.journal.journal import Journal
from taskforge_server.engine.journal.memory import MemoryShardLog
from taskforge_server.engine.journal.memory_tables import MemoryTables
from taskforge_server.engine.journal.projector import Projector
from taskforge_server.engine.journal.takeover import Taker
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.engine.node.admission import Admission
from taskforge_server.engine.node.core import Core
from taskforge_server.engine.node.doors import Doors
from taskforge_server.engine.node.ownership import Ownership
from taskforge_server.engine.node.pager import Pager, page_jobs
from taskforge_server.engine.runtime.clock import Clock, VirtualClock
from taskforge_server.ext.table import SubmitBatch
from tests.support.engine_parts import PROJECT, TTL_S, KeptOutlet

MEMORY_BYTES_MAX = 1 << 30
UNPROJECTED_MAX = 1_000_000


class Others:
    """The other nodes that live."""

    def __init__(self) -> None:
        self.alive: set[str] = set()
        self.hinted: set[int] = set()

    async def is_alive(self, node_id: str) -> bool:
        return node_id in self.alive

    def hint(self, shards: Iterable[int]) -> None:
        self.hinted = set(shards)


class MemoryNode:
    """Owns some shards of a log in memory; `async with` runs it."""

    def __init__(
        self,
        log: MemoryShardLog,
        shards: tuple[int, ...] = (1,),
        refs: tuple[QueueRef, ...] = (),
        clock: Clock | None = None,
        name: str = "node",
        tables: MemoryTables | None = None,
        resident_jobs_max: int = limits.RESIDENT_JOBS_DEFAULT,
    ) -> None:
        self.log = log
        self.clock = clock or VirtualClock()
        self.tables = tables or MemoryTables()
        self.journal = Journal(log)
        self.projector = Projector(self.tables, self.clock.now_us)
        self.failed: list[object] = []
        self.others = Others()
        self.core = Core(self.clock, self.journal, TTL_S, self.failed.append)
        self.admission = Admission(
            MEMORY_BYTES_MAX, UNPROJECTED_MAX, lambda: self.journal.available, self.core.counters
        )
        self.pager = Pager(self.core, self.tables, resident_jobs_max)
        self.doors = Doors(self.core, self.admission, self._find, TTL_S, TTL_S / 3, self.pager)
        self.refs = refs
        self.ownership = Ownership(
            name,
            self.core,
            self.journal,
            self.projector,
            log,
            Taker(
                log,
                self.tables,
                name,
                self.clock.now_us,
                self.core.new_table,
                page_jobs(resident_jobs_max),
            ),
            self.others,
            self._queues,
            self.failed.append,
            self.tables.usage_of,
        )
        self._numbers = shards
        self._task: asyncio.Task[None] | None = None
        self._looks: asyncio.Task[None]

    async def _find(self, project_id: bytes, queue_id: bytes) -> QueueRef:
        raise NotFound("no such queue")

    async def _queues(self) -> tuple[QueueRef, ...]:
        return self.refs

    async def __aenter__(self) -> Self:
        self.core.start()
        self._task = asyncio.create_task(self.journal.run())
        self._looks = asyncio.create_task(self.core.dependencies.run())
        await self.ownership.take_all(self._numbers)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._task is not None
        await self.ownership.stop()
        await self.pager.stop()
        self._task.cancel()
        self._looks.cancel()
        await asyncio.gather(self._task, self._looks, return_exceptions=True)
        await self.core.stop()

    async def worker(
        self,
        *queues: QueueRef,
        credit: int = 100,
        worker_id: bytes = b"w" * 16,
        running: bytes = b"",
        types: frozenset[str] = frozenset({"send"}),
        instance: bytes = b"",
        features: frozenset[str] = frozenset(),
    ) -> tuple[WorkerActor, KeptOutlet]:
        hello = Hello(
            worker_id,
            "worker",
            "general",
            tuple(ref.name for ref in queues),
            types,
            credit,
            running,
            "test",
            instance,
            features,
        )
        outlet = KeptOutlet()
        return await self.doors.attach_worker(hello, PROJECT, queues, outlet), outlet


def jobs(count: int = 1, due_us: int = 0, payload: bytes = b"{}") -> SubmitBatch:
    """Jobs of type `send`."""
    batch = SubmitBatch()
    for _ in range(count):
        batch.add("send", payload, 0, due_us)
    return batch
