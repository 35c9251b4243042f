"""What the use cases need of others. Whoever wires a node gives real ones.

    Engine            decides about jobs and remembers the live ones
    QueueRepository   the rows of queues
    JobReader         jobs and executions as the tables have them, a moment behind the engine
    LogReader         what handlers logged, in the table
    LogFeed           says when there is more of it

A job and an execution are dicts with the keys of `ext.table.ShardTable.get` and `executions`: ids
are bytes, times are microseconds since the Unix epoch with 0 for none, JSON is undecoded bytes.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from taskforge_server.engine.actors.ports import Hello, Outlet, WorkerInlet
from taskforge_server.engine.model.audit import Actor
from taskforge_server.engine.model.events import Told
from taskforge_server.engine.model.execution import LogLevel, LogLine
from taskforge_server.engine.model.queue import JobQueue, QueueRef, QueueSettings
from taskforge_server.engine.model.why import Explanation
from taskforge_server.engine.shard.effects import Promise
from taskforge_server.engine.shard.keys import KeyedRequest
from taskforge_server.engine.shard.unique import Outcome, Part
from taskforge_server.engine.store.job_queries import JobFilter
from taskforge_server.ext.table import SubmitBatch

JobDict = dict[str, Any]


class Repeatable(Protocol):
    """A command under a key."""

    @property
    def repeated(self) -> bool:
        """The key came before: the answer is that of the first time."""
        ...


class Engine(Protocol):
    """The node, as its doors see it."""

    def now_us(self) -> int: ...

    async def submit(self, queue: QueueRef, batch: SubmitBatch) -> bytes:
        """Durable when it returns: the ids, 16 bytes each. Raises Overloaded, Unavailable,
        OutcomeUnknown."""
        ...

    async def submit_once(
        self, queue: QueueRef, batch: SubmitBatch, key: KeyedRequest | None
    ) -> tuple[bytes, bool]:
        """The same, and whether the key came before, with what the first time gave; KeyConflict."""
        ...

    def submit_to(
        self, queue: QueueRef, batch: SubmitBatch, key: KeyedRequest | None, reply: Promise[bytes]
    ) -> Repeatable:
        """The same for one who does not wait: the promise gets the ids, or the error, ShardLost
        among them. Raises what is known at once."""
        ...

    async def submit_unique(
        self, queue: QueueRef, parts: Sequence[Part], key: KeyedRequest | None
    ) -> tuple[bytes, bool, dict[int, Outcome]]:
        """Jobs of which some ask for unique keys: the ids of what stands for them, zeros where one
        was rejected; whether the key came before; what became of those that met another job."""
        ...

    async def job(self, job_id: bytes) -> tuple[JobDict, list[JobDict]] | None:
        """The job and the executions in the owner's memory; None: ask the tables."""
        ...

    async def why(
        self,
        queue: QueueRef,
        job: JobDict,
        executions: Sequence[JobDict],
        ahead: int | None = None,
    ) -> Explanation:
        """Why a job that is not over is not running; `ahead` as the tables have it, where the
        explanation asks for it."""
        ...

    async def wait_finished(self, job_id: bytes, timeout_s: float) -> None:
        """Returns at the end of the job or of the time."""
        ...

    async def look(self, job_id: bytes) -> JobDict | None:
        """The job in the owner's memory, as it is durably; None: ask the tables."""
        ...

    def look_now(self, job_id: bytes) -> JobDict | None:
        """The same of a job whose newest event is known to be durable."""
        ...

    def watch_ends(
        self,
        project_id: bytes,
        job_ids: Sequence[bytes],
        ended: Callable[[bytes], None],
        lost: Callable[[Exception], None],
    ) -> AbstractContextManager[None]:
        """Tells of the ends of those of these jobs that memory has open now. Raises ShareUsedUp."""
        ...

    def follow_job(self, job_id: bytes, project_id: bytes, after: str | None) -> "EventFollower":
        """What happens to the job. Raises Unavailable, ShareUsedUp."""
        ...

    def follow_queue(self, queue: QueueRef, after: str | None) -> "EventFollower":
        """The same of all jobs of a queue."""
        ...

    def follow_project(self, project_id: bytes, after: str | None) -> "EventFollower":
        """The same of all jobs of a project."""
        ...

    async def cancel(self, job_id: bytes, project_id: bytes, grace_s: float = ...) -> JobDict:
        """Ends a job that waits, asks one that runs to end within the grace time. Raises NotFound
        when no such job is there, Conflict when it has ended otherwise."""
        ...

    async def cancel_many(
        self, queue: QueueRef, job_ids: list[bytes], grace_s: float
    ) -> tuple[int, int]:
        """The same for open jobs of one queue: how many are cancelled, how many were asked."""
        ...

    async def open_jobs(
        self, queue: QueueRef, place: int, most: int, looks_max: int
    ) -> tuple[list[tuple[bytes, str, str, int, bytes | None]], int]:
        """Some open jobs of a queue: id, status, type, created_us, options; and the place to go on
        from, -1 at the end."""
        ...

    async def change(
        self, job_id: bytes, project_id: bytes, *, due_us: int = -1, priority: int = -1
    ) -> JobDict:
        """A job that waits gets another time or priority. NotFound, Conflict."""
        ...

    async def requeue_once(self, job: JobDict, key: KeyedRequest | None) -> tuple[JobDict, bool]:
        """A failed or cancelled job runs again; or it did when the key came first, and then the job
        is as it is now. Conflict, KeyConflict."""
        ...

    async def requeue_many(
        self,
        queue: QueueRef,
        jobs: list[JobDict],
        first_us: int,
        interval_us: int,
        tail: bytes,
        key: KeyedRequest | None,
    ) -> tuple[bytes, bool]:
        """Failed jobs of the queue run again, in one turn: the ids of those that were failed still,
        and the tail; or what the key got when it came first, and then True. The first is due at
        `first_us`, each further one `interval_us` later. KeyConflict."""
        ...

    def queue_changed(self, queue: QueueRef) -> None: ...

    def queue_counts(self, queue: QueueRef) -> tuple[int, int, int]:
        """Pending, scheduled, processing."""
        ...

    async def attach_worker(
        self, hello: Hello, project_id: bytes, queues: Sequence[QueueRef], outlet: Outlet
    ) -> WorkerInlet:
        """Begin or take up a worker's session; the welcome goes through the outlet."""
        ...

    def heartbeat(self, worker_id: bytes, project_id: bytes) -> bool:
        """Extend the worker's leases; False when it is not known."""
        ...


class EventFollower(Protocol):
    """A reader of events at its own pace."""

    @property
    def resumed(self) -> bool:
        """It goes on behind the event that it named."""
        ...

    async def take(self) -> list[Told]:
        """The next events, when there are some."""
        ...

    def close(self) -> None: ...


class QueueRepository(Protocol):
    """The queues of projects."""

    async def create(
        self,
        project_id: bytes,
        name: str,
        priority: int,
        settings: QueueSettings,
        actor: Actor = ...,
        key: KeyedRequest | None = None,
    ) -> JobQueue:
        """Conflict when the name or the key is taken."""
        ...

    async def made_by(self, project_id: bytes, key: KeyedRequest) -> JobQueue | None:
        """The queue that this request made; KeyConflict when another one came with its key."""
        ...

    async def get(self, project_id: bytes, queue: bytes | str) -> JobQueue:
        """By id (bytes) or name; NotFound."""
        ...

    async def ids(self, project_id: bytes) -> list[bytes]:
        """Of all queues of the project, deleted ones too while their jobs are kept."""
        ...

    async def page(
        self, project_id: bytes, cursor: str | None = None, rows_max: int = ...
    ) -> tuple[list[JobQueue], str | None]:
        """In the order of names, with the cursor of the next page; InvalidInput."""
        ...

    async def update(
        self,
        project_id: bytes,
        queue_id: bytes,
        *,
        priority: int | None = None,
        settings: QueueSettings | None = None,
        actor: Actor = ...,
    ) -> JobQueue:
        """What is None stays; NotFound."""
        ...

    async def pause(
        self, project_id: bytes, queue_id: bytes, paused: bool, actor: Actor = ...
    ) -> JobQueue:
        """NotFound."""
        ...

    async def delete(
        self,
        project_id: bytes,
        queue_id: bytes,
        check: Callable[[], None],
        actor: Actor = ...,
    ) -> JobQueue:
        """The row stays while jobs of it are kept. `check` is called when all is written, and
        raises if it must not be after all; NotFound."""
        ...


class JobReader(Protocol):
    """Jobs in the tables."""

    async def get(self, project_id: bytes, job_id: bytes) -> tuple[JobDict, list[JobDict]] | None:
        """The job with its executions, the oldest first."""
        ...

    async def ends(
        self, project_id: bytes, job_ids: Sequence[bytes], output_bytes_max: int
    ) -> list[JobDict]:
        """Those of these that are the project's, without payloads; results and errors as far as so
        many bytes hold them, the others `output_omitted`."""
        ...

    async def ahead(self, project_id: bytes, job: JobDict) -> int:
        """How many jobs of its queue and type start before it, up to a bound."""
        ...

    async def executions(self, job: JobDict) -> list[JobDict]:
        """Those of a job that is known to be the caller's, the oldest first."""
        ...

    async def page(
        self,
        project_id: bytes,
        queue_ids: Sequence[bytes],
        wanted: JobFilter,
        cursor: str | None = None,
        rows_max: int = ...,
    ) -> tuple[list[JobDict], str | None]:
        """The newest first, with the cursor of the next page; InvalidInput."""
        ...


class LogReader(Protocol):
    """Lines of handlers in the table."""

    async def page(
        self,
        project_id: bytes,
        job_id: bytes,
        execution_ids: Sequence[bytes],
        level: LogLevel | None = None,
        after: bytes | None = None,
        rows_max: int = ...,
    ) -> tuple[list[LogLine], bool]:
        """Those behind the line `after`, the oldest first, and whether there are more."""
        ...


class LogFeed(Protocol):
    """News of lines of handlers."""

    def follow(self, job_id: bytes) -> AbstractContextManager[asyncio.Event]:
        """An event that is set when there may be new lines in the table."""
        ...

    async def flush(self) -> None:
        """Return when every line that has come is in the table."""
        ...
