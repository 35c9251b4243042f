"""The rows of `workers`, kept up to date in the background.

    attached --written at once in bulk--> online --heartbeats, every WORKER_ROWS_S--> online
    detached, drained, lease over --> offline

People read these rows; the engine never does. So they may be late, they are written many at a time,
and when the database is away the newest state is written when it is back.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from taskforge_server.engine import limits
from taskforge_server.engine.actors.ports import Hello
from taskforge_server.engine.errors import TaskForgeError
from taskforge_server.engine.model.worker import Worker, WorkerStatus

log = logging.getLogger(__name__)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class WorkerTable(Protocol):
    """Where the rows are."""

    async def upsert(self, workers: Sequence[Worker]) -> set[bytes]: ...
    async def seen(self, news: Iterable[tuple[bytes, WorkerStatus, datetime | None]]) -> None: ...


class WorkerRows:
    """What is to be written about workers; the newest word about each."""

    def __init__(
        self, table: WorkerTable, refused: Callable[[bytes], None] = lambda worker_id: None
    ) -> None:
        """`refused` hears of a worker that has no row: its id belongs to another project, or its
        own project is gone."""
        self._table = table
        self._refused = refused
        self._new: dict[bytes, Worker] = {}
        self._news: dict[bytes, tuple[WorkerStatus, datetime | None]] = {}
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()

    def attached(self, hello: Hello, project_id: bytes, now_us: int) -> None:
        """The worker connected."""
        at = moment(now_us)
        if len(self._new) < limits.WORKERS_MAX:
            self._new[hello.worker_id] = Worker(
                id=hello.worker_id,
                project_id=project_id,
                name=hello.name,
                worker_type=hello.worker_type,  # type: ignore[arg-type]  # checked at the door
                status="online",
                last_heartbeat=at,
                created_at=at,
            )
        self._news.pop(hello.worker_id, None)
        self._wake.set()

    def status(self, worker_id: bytes, status: WorkerStatus, seen_us: int) -> None:
        """The worker was last heard of then, and is this now."""
        if worker_id in self._news or len(self._news) < limits.WORKERS_MAX:
            self._news[worker_id] = (status, moment(seen_us))

    def left(self) -> set[bytes]:
        """Workers that are gone, and whose rows do not say so yet."""
        return {worker_id for worker_id, (status, _) in self._news.items() if status == "offline"}

    async def run(self) -> None:
        """Write now and then; at once when a worker is new."""
        while True:
            try:
                async with asyncio.timeout(limits.WORKER_ROWS_S):
                    await self._wake.wait()
            except TimeoutError:
                pass  # the interval is over
            self._wake.clear()
            try:
                await self.write()
            except TaskForgeError as error:
                log.warning("workers not written: %s", error)
                await asyncio.sleep(limits.WORKER_ROWS_S)

    async def write(self) -> None:
        """Write what is new; what fails is kept for the next time. One write at a time: an earlier
        word must not be written over a later one."""
        async with self._writing:
            await self._write()

    async def _write(self) -> None:
        while self._new:
            part = dict(list(self._new.items())[: limits.WORKER_ROWS_MAX])
            written = await self._table.upsert(list(part.values()))
            for worker_id, row in part.items():
                if self._new.get(worker_id) is row:
                    del self._new[worker_id]
                if worker_id not in written:
                    self._refused(worker_id)
                    # What was said of it would be written to the row of somebody else.
                    self._news.pop(worker_id, None)
        while self._news:
            news = dict(list(self._news.items())[: limits.WORKER_ROWS_MAX])
            await self._table.seen((key, status, at) for key, (status, at) in news.items())
            for worker_id, word in news.items():
                if self._news.get(worker_id) is word:
                    del self._news[worker_id]


def moment(us: int) -> datetime:
    return EPOCH + timedelta(microseconds=us)
