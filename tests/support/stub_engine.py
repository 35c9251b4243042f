"""A small engine in memory, and the repositories beside it: what the API needs, nothing durable.

One shard. Submits of one turn of the loop are answered together at its end, as a
group commit would. `work_off` is the worker: it starts and ends what waits. `tables` is what the
projector would have written: `project` moves finished jobs there.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import msgpack
import msgspec

from taskforge_server.api.service.tenants import TenantRows
from taskforge_server.engine.actors.ports import Hello, Outlet
from taskforge_server.engine.errors import (
    Conflict,
    FrameError,
    KeyConflict,
    NotFound,
    TaskForgeError,
)
from taskforge_server.engine.model.audit import OPERATOR, Actor, AuditEntry, AuditHead, Verdict
from taskforge_server.engine.model.execution import LogLevel, LogLine
from taskforge_server.engine.model.queue import JobQueue, QueueRef, QueueSettings
from taskforge_server.engine.model.tenant import ApiKey, Project, api_key_hash
from taskforge_server.engine.node.events import EventHub, Follower
from taskforge_server.engine.shard.effects import Promise
from taskforge_server.engine.shard.keys import KeyedRequest
from taskforge_server.engine.shard.unique import Outcome, Part
from taskforge_server.engine.store.audit import AuditFilter
from taskforge_server.engine.store.job_queries import JobFilter
from taskforge_server.engine.store.pool import Pool
from taskforge_server.ext.table import ShardTable, SubmitBatch, TransitionError

JobDict = dict[str, Any]
SHARD = 7
NOW_US = 1_790_000_000_000_000
CREATED_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class StubSession:
    """A worker's session: keeps what came, and says goodbye when it is told to."""

    def __init__(self, hello: Hello, outlet: Outlet) -> None:
        self.hello = hello
        self.outlet = outlet
        self.frames: asyncio.Queue[Any] = asyncio.Queue()
        self.detached = asyncio.Event()

    async def receive(self, frames: Sequence[bytes]) -> None:
        for frame in frames:
            try:
                decoded = msgpack.unpackb(frame)
            except ValueError as error:  # msgpack's errors are such
                raise FrameError(f"not MessagePack: {error}") from None
            if not isinstance(decoded, list) or not decoded or decoded[0] not in (2, 3, 4, 5, 6):
                raise FrameError("no frame of a worker")
            self.frames.put_nowait(decoded)
            if decoded[0] == 5:
                self.outlet.close(1000, "bye")

    def detach(self) -> None:
        self.detached.set()


@dataclass(slots=True)
class StubCommand:
    """A submit, taken."""

    repeated: bool


class StubEngine:
    """The engine port. `refusal`, when set, is what every submit gets."""

    def __init__(self) -> None:
        self.table = ShardTable(SHARD, 1)
        self.clock_us = NOW_US
        self.refusal: TaskForgeError | None = None
        self.sessions: list[StubSession] = []
        self.session_waiters: asyncio.Queue[StubSession] = asyncio.Queue()
        self.changed: list[QueueRef] = []
        self.hold: asyncio.Event | None = None
        """When set, submits wait for it before they are durable."""
        self.waiters = 0
        self._indexes: dict[bytes, int] = {}
        self._keys: dict[tuple[bytes, str], tuple[bytes, bytes]] = {}
        self._waiting: list[tuple[Promise[bytes], bytes]] = []
        self._committing: asyncio.Task[None] | None = None
        self._enders: dict[bytes, asyncio.Event] = {}
        self._watchers: dict[bytes, list[Callable[[bytes], None]]] = {}
        self.events = EventHub({}, {}, lambda: 0)

    def now_us(self) -> int:
        return self.clock_us

    def _index(self, queue: QueueRef) -> int:
        index = self._indexes.get(queue.id)
        if index is None:
            settings = queue.settings
            index = self.table.queue(
                queue.id, queue.project_id, queue.name, settings.timeout_ms, settings.history_code
            )
            self._indexes[queue.id] = index
        return index

    async def submit(self, queue: QueueRef, batch: SubmitBatch) -> bytes:
        ids, _ = await self.submit_once(queue, batch, None)
        return ids

    async def submit_once(
        self, queue: QueueRef, batch: SubmitBatch, key: KeyedRequest | None
    ) -> tuple[bytes, bool]:
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        command = self.submit_to(queue, batch, key, reply)
        return await reply, command.repeated

    def submit_to(
        self, queue: QueueRef, batch: SubmitBatch, key: KeyedRequest | None, reply: Promise[bytes]
    ) -> StubCommand:
        if self.refusal is not None:
            raise self.refusal
        loop = asyncio.get_running_loop()
        if key is not None and (known := self._keys.get((queue.project_id, key.key))):
            if known[0] != key.body_hash:
                raise KeyConflict
            loop.call_soon(reply.set_result, known[1])
            return StubCommand(repeated=True)
        ids = self.table.submit(self._index(queue), batch, self.clock_us)
        if key is not None:
            self._keys[queue.project_id, key.key] = (key.body_hash, ids)
        if not self._waiting:
            self._committing = loop.create_task(self._commit_in_time())
        self._waiting.append((reply, ids))
        return StubCommand(repeated=False)

    async def submit_unique(
        self, queue: QueueRef, parts: Sequence[Part], key: KeyedRequest | None
    ) -> tuple[bytes, bool, dict[int, Outcome]]:
        """Every job is the first one with its key."""
        ids = [await self.submit(queue, part.batch) for part in parts]
        return b"".join(ids), False, {}

    async def _commit_in_time(self) -> None:
        await asyncio.sleep(0)
        if self.hold is not None:
            await self.hold.wait()
        self._commit()

    def _commit(self) -> None:
        waiting, self._waiting = self._waiting, []
        if (batch := self.table.take_batch()) is not None:
            self.table.committed(batch[0])
        for reply, ids in waiting:
            if not reply.done():
                reply.set_result(ids)

    async def job(self, job_id: bytes) -> tuple[JobDict, list[JobDict]] | None:
        job = self.table.get(job_id)
        return None if job is None else (job, self.table.executions(job_id))

    async def wait_finished(self, job_id: bytes, timeout_s: float) -> None:
        ended = self._enders.setdefault(job_id, asyncio.Event())
        self.waiters += 1
        try:
            async with asyncio.timeout(timeout_s):
                await ended.wait()
        except TimeoutError:
            pass
        finally:
            self.waiters -= 1

    async def look(self, job_id: bytes) -> JobDict | None:
        return self.table.get(job_id)

    def look_now(self, job_id: bytes) -> JobDict | None:
        return self.table.get(job_id)

    @contextmanager
    def watch_ends(
        self,
        project_id: bytes,
        job_ids: Sequence[bytes],
        ended: Callable[[bytes], None],
        lost: Callable[[Exception], None],
    ) -> Iterator[None]:
        for job_id in job_ids:
            self._watchers.setdefault(job_id, []).append(ended)
        yield
        for job_id in job_ids:
            self._watchers[job_id].remove(ended)

    def follow_job(self, job_id: bytes, project_id: bytes, after: str | None) -> Follower:
        return self.events.follow_job(job_id, project_id, after)

    def follow_queue(self, queue: QueueRef, after: str | None) -> Follower:
        return self.events.follow(queue.id, queue.project_id, after)

    def follow_project(self, project_id: bytes, after: str | None) -> Follower:
        return self.events.follow(project_id, project_id, after)

    async def cancel(self, job_id: bytes, project_id: bytes, grace_s: float = 30.0) -> JobDict:
        job = self.table.get(job_id)
        if job is None or job["project_id"] != project_id:
            raise NotFound("no such job is waiting")
        try:
            self.table.cancelled(job_id, "cancelled", self.clock_us)
        except TransitionError:
            if job["status"] != "cancelled":
                raise Conflict("only a job that waits", code="job_not_cancellable") from None
        cancelled = self.table.get(job_id)
        assert cancelled is not None
        return cancelled

    async def cancel_many(
        self, queue: QueueRef, job_ids: list[bytes], grace_s: float
    ) -> tuple[int, int]:
        for job_id in job_ids:
            await self.cancel(job_id, queue.project_id, grace_s)
        return len(job_ids), 0

    async def open_jobs(
        self, queue: QueueRef, place: int, most: int, looks_max: int
    ) -> tuple[list[tuple[bytes, str, str, int, bytes | None]], int]:
        ids, following = self.table.open_jobs(self._index(queue), place, most, looks_max)
        found = []
        for job_id in ids:
            peeked = self.table.peek(job_id)
            assert peeked is not None
            status, _, job_type, created_us, options = peeked
            found.append((job_id, status, job_type, created_us, options))
        return found, following

    async def change(
        self, job_id: bytes, project_id: bytes, *, due_us: int = -1, priority: int = -1
    ) -> JobDict:
        job = self.table.get(job_id)
        if job is None or job["project_id"] != project_id:
            raise NotFound("no such job is waiting")
        try:
            self.table.change(job_id, self.clock_us, due_us=due_us, priority=priority)
        except TransitionError:
            raise Conflict("only a job that waits", code="job_not_changeable") from None
        changed = self.table.get(job_id)
        assert changed is not None
        return changed

    async def requeue_once(self, job: JobDict, key: KeyedRequest | None) -> tuple[JobDict, bool]:
        if key is not None and (known := self._keys.get((job["project_id"], key.key))):
            if known[0] != key.body_hash:
                raise KeyConflict
            return self.table.get(job["id"]) or job, True
        try:
            self.table.requeue(job, self.clock_us)
        except TransitionError:
            raise Conflict("only failed ones", code="job_not_retryable") from None
        again = self.table.get(job["id"])
        assert again is not None
        if key is not None:
            self._keys[job["project_id"], key.key] = (key.body_hash, job["id"])
        return again, False

    async def requeue_many(
        self,
        queue: QueueRef,
        jobs: list[JobDict],
        first_us: int,
        interval_us: int,
        tail: bytes,
        key: KeyedRequest | None,
    ) -> tuple[bytes, bool]:
        return tail, False

    def queue_changed(self, queue: QueueRef) -> None:
        self.changed.append(queue)

    def queue_counts(self, queue: QueueRef) -> tuple[int, int, int]:
        return self.table.counts(self._index(queue))

    async def attach_worker(
        self, hello: Hello, project_id: bytes, queues: Sequence[QueueRef], outlet: Outlet
    ) -> StubSession:
        session = StubSession(hello, outlet)
        self.sessions.append(session)
        self.session_waiters.put_nowait(session)
        outlet.send(msgpack.packb([10, {"protocol": 1, "session": "s", "kept": hello.running}]))
        return session

    def heartbeat(self, worker_id: bytes, project_id: bytes) -> bool:
        return any(session.hello.worker_id == worker_id for session in self.sessions)

    # the worker's side

    def work_off(self, queue: QueueRef, *, fail: bool = False, result: bytes | None = None) -> int:
        """Start and end all that waits in the queue."""
        worker = self.table.worker(uuid.UUID(int=3).bytes)
        index = self._index(queue)
        frame, count = self.table.start(index, None, worker, 1000, self.clock_us)
        if not count:
            return 0
        tokens: bytes = msgpack.unpackb(frame, strict_map_key=False)[4]
        for at in range(0, len(tokens), 24):
            token = tokens[at : at + 24]
            if fail:
                self.table.failed(token, "not_retryable", b'{"type":"E"}', self.clock_us + 1000)
            else:
                self.table.succeed_with(token, result, self.clock_us + 1000)
            if (ended := self._enders.get(token[:16])) is not None:
                ended.set()
            for watcher in self._watchers.get(token[:16], ()):
                watcher(token[:16])
        return count


class StubQueues:
    """The repository of queues."""

    def __init__(self) -> None:
        self.rows: dict[bytes, JobQueue] = {}
        self.keys: dict[tuple[bytes, str], tuple[bytes, bytes]] = {}
        self.reads = 0
        self.actors: list[Actor] = []

    async def create(
        self,
        project_id: bytes,
        name: str,
        priority: int,
        settings: QueueSettings,
        actor: Actor = OPERATOR,
        key: KeyedRequest | None = None,
    ) -> JobQueue:
        self.actors.append(actor)
        if any((row.project_id, row.name) == (project_id, name) for row in self.rows.values()):
            raise Conflict("there is a queue with this name", "name", "queue_name_taken")
        row = JobQueue(
            id=uuid.uuid4().bytes,
            project_id=project_id,
            name=name,
            priority=priority,
            settings=settings,
            created_at=CREATED_AT,
            shard=SHARD,
        )
        self.rows[row.id] = row
        if key is not None:
            self.keys[project_id, key.key] = (key.body_hash, row.id)
        return row

    async def made_by(self, project_id: bytes, key: KeyedRequest) -> JobQueue | None:
        known = self.keys.get((project_id, key.key))
        if known is None:
            return None
        if known[0] != key.body_hash:
            raise KeyConflict
        return self.rows[known[1]]

    async def get(self, project_id: bytes, queue: bytes | str) -> JobQueue:
        self.reads += 1
        for row in self.rows.values():
            if row.project_id == project_id and (
                queue == row.id or (queue == row.name and row.archived_at is None)
            ):
                return row
        raise NotFound("no such queue", "queue")

    async def ids(self, project_id: bytes) -> list[bytes]:
        return [row.id for row in self.rows.values() if row.project_id == project_id]

    async def delete(
        self,
        project_id: bytes,
        queue_id: bytes,
        check: Callable[[], None],
        actor: Actor = OPERATOR,
    ) -> JobQueue:
        old = await self.get(project_id, queue_id)
        check()
        row = msgspec.structs.replace(old, archived_at=CREATED_AT)
        self.rows[row.id] = row
        return row

    async def page(
        self, project_id: bytes, cursor: str | None = None, rows_max: int = 100
    ) -> tuple[list[JobQueue], str | None]:
        rows = sorted(
            (
                row
                for row in self.rows.values()
                if row.project_id == project_id and row.archived_at is None
            ),
            key=lambda row: row.name,
        )
        rows = [row for row in rows if cursor is None or row.name > cursor]
        return rows[:rows_max], rows[rows_max - 1].name if len(rows) > rows_max else None

    async def update(
        self,
        project_id: bytes,
        queue_id: bytes,
        *,
        priority: int | None = None,
        settings: QueueSettings | None = None,
        actor: Actor = OPERATOR,
    ) -> JobQueue:
        self.actors.append(actor)
        old = await self.get(project_id, queue_id)
        row = JobQueue(
            id=old.id,
            project_id=old.project_id,
            name=old.name,
            priority=old.priority if priority is None else priority,
            settings=old.settings if settings is None else settings,
            created_at=old.created_at,
            shard=old.shard,
        )
        self.rows[row.id] = row
        return row

    async def pause(
        self, project_id: bytes, queue_id: bytes, paused: bool, actor: Actor = OPERATOR
    ) -> JobQueue:
        self.actors.append(actor)
        old = await self.get(project_id, queue_id)
        row = msgspec.structs.replace(old, paused_at=old.created_at if paused else None)
        self.rows[row.id] = row
        return row


class StubDeadLetters:
    """There are none."""

    async def page(self, *given: object) -> tuple[list[JobDict], None]:
        return [], None

    async def attempts(self, *given: object) -> dict[bytes, list[JobDict]]:
        return {}

    async def count(self, *given: object) -> int:
        return 0

    async def purge(self, *given: object) -> list[bytes]:
        return []

    async def record_requeue(self, *given: object) -> None:
        """Nobody asks."""


class StubJobs:
    """The reader of the tables."""

    def __init__(self) -> None:
        self.rows: dict[bytes, tuple[JobDict, list[JobDict]]] = {}

    async def ends(
        self, project_id: bytes, job_ids: Sequence[bytes], output_bytes_max: int
    ) -> list[JobDict]:
        found = [self.rows[job_id][0] for job_id in job_ids if job_id in self.rows]
        return [job for job in found if job["project_id"] == project_id]

    def project(self, engine: StubEngine) -> None:
        """All that the engine has also stands in the tables."""
        for job in engine.table.snapshot():
            self.rows[job["id"]] = (job, engine.table.executions(job["id"]))

    async def get(self, project_id: bytes, job_id: bytes) -> tuple[JobDict, list[JobDict]] | None:
        found = self.rows.get(job_id)
        return found if found is not None and found[0]["project_id"] == project_id else None

    async def executions(self, job: JobDict) -> list[JobDict]:
        return self.rows[job["id"]][1] if job["id"] in self.rows else []

    async def page(
        self,
        project_id: bytes,
        queue_ids: Sequence[bytes],
        wanted: JobFilter,
        cursor: str | None = None,
        rows_max: int = 100,
    ) -> tuple[list[JobDict], str | None]:
        jobs = [job for job, _ in self.rows.values() if job["queue_id"] in queue_ids]
        if wanted.statuses is not None:
            jobs = [job for job in jobs if job["status"] in wanted.statuses]
        if wanted.job_type is not None:
            jobs = [job for job in jobs if job["job_type"] == wanted.job_type]
        jobs.sort(key=lambda job: job["id"], reverse=True)
        if cursor is not None:
            jobs = [job for job in jobs if job["id"] < bytes.fromhex(cursor)]
        more = len(jobs) > rows_max
        return jobs[:rows_max], jobs[rows_max - 1]["id"].hex() if more else None


class StubKeys:
    """The rows of API keys."""

    def __init__(self) -> None:
        self.rows: dict[str, ApiKey] = {}
        self.reads = 0
        self.before_read: Callable[[], None] = lambda: None

    def add(
        self,
        text: str,
        project_id: bytes,
        permissions: Sequence[str] = ("*",),
        expires_at: datetime | None = None,
    ) -> ApiKey:
        key = ApiKey(
            id=uuid.uuid4().bytes,
            project_id=project_id,
            key_hash=api_key_hash(text),
            name="a key",
            permissions=list(permissions),
            expires_at=expires_at,
        )
        self.rows[key.key_hash] = key
        return key

    async def find(self, text: str) -> ApiKey | None:
        self.reads += 1
        self.before_read()
        return self.rows.get(api_key_hash(text))

    async def used(self, seen_at: Mapping[bytes, datetime]) -> None:
        """Nobody asks."""


class StubProjects:
    """The rows of projects: every project is there."""

    async def get(self, project_id: bytes) -> Project:
        return Project(
            id=project_id, organization_id=bytes(16), name="project", created_at=CREATED_AT
        )


class StubAudit:
    """An audit log in which nothing stands."""

    async def tell(
        self, project_id: bytes, actor: Actor, action: str, target: str, about: dict[str, Any]
    ) -> None:
        """Heard and forgotten."""

    async def page(
        self,
        organization_id: bytes,
        wanted: AuditFilter,
        cursor: str | None = None,
        rows_max: int = 100,
    ) -> tuple[list[AuditEntry], str | None]:
        return [], None

    async def entries(
        self, organization_id: bytes, after: int = 0
    ) -> AsyncIterator[list[AuditEntry]]:
        for nothing in list[list[AuditEntry]]():
            yield nothing

    async def verify(self, organization_id: bytes, noted: AuditHead | None = None) -> Verdict:
        return Verdict(AuditHead(), [])


NO_TENANTS = TenantRows.of(cast(Pool, None))
"""For interfaces that are not asked for organisations, projects or keys: there is no database."""


class StubLogs:
    """What handlers logged, and the news of it, in memory."""

    def __init__(self) -> None:
        self.lines: list[LogLine] = []
        self.followers: dict[bytes, set[asyncio.Event]] = {}
        self.flushes = 0

    def add(self, line: LogLine) -> None:
        self.lines.append(line)
        for news in self.followers.get(line.job_id, ()):
            news.set()

    async def page(
        self,
        project_id: bytes,
        job_id: bytes,
        execution_ids: Sequence[bytes],
        level: LogLevel | None = None,
        after: bytes | None = None,
        rows_max: int = 100,
    ) -> tuple[list[LogLine], bool]:
        found = [
            line
            for line in sorted(self.lines, key=lambda line: line.id)
            if line.project_id == project_id
            and line.execution_id in execution_ids
            and level in (None, line.level)
            and line.id > (after or b"")
        ]
        return found[:rows_max], len(found) > rows_max

    @contextmanager
    def follow(self, job_id: bytes) -> Iterator[asyncio.Event]:
        news = asyncio.Event()
        self.followers.setdefault(job_id, set()).add(news)
        try:
            yield news
        finally:
            self.followers[job_id].discard(news)

    async def flush(self) -> None:
        self.flushes += 1
