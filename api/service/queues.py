"""Queues: make, list, look at, change, delete."""

from collections.abc import Callable
from dataclasses import dataclass

from taskforge_server.api.service.catalog import QueueCatalog, queue_key
from taskforge_server.api.service.ports import Engine, QueueRepository
from taskforge_server.engine import limits
from taskforge_server.engine.errors import Conflict, InvalidInput, NotFound
from taskforge_server.engine.model.audit import Actor
from taskforge_server.engine.model.queue import JobQueue, QueueRef, QueueSettings
from taskforge_server.engine.observe.metrics import QueueLength
from taskforge_server.engine.shard.keys import KeyedRequest


@dataclass(frozen=True, slots=True)
class NewQueue:
    """A queue as a caller wants it."""

    name: str
    priority: int
    settings: QueueSettings
    key: KeyedRequest | None = None
    """The request that makes it, if it may be repeated."""


class QueueService:
    """The use cases of queues; each sees one project only."""

    def __init__(self, engine: Engine, queues: QueueRepository, catalog: QueueCatalog) -> None:
        self._engine = engine
        self._queues = queues
        self._catalog = catalog

    async def create(self, project_id: bytes, new: NewQueue, actor: Actor) -> tuple[JobQueue, bool]:
        """A new queue, or the one that this request made the first time, as it is now; and which of
        both. Conflict when the name is taken, KeyConflict."""
        if isinstance(queue_key(new.name), bytes):
            raise InvalidInput("must not read like an id", "name")
        new.settings.check_relations("settings.")
        await self._check_hook(project_id, new.name, new.settings)
        first = await self._made_by(project_id, new)
        if first is not None:
            return first, True
        try:
            row = await self._queues.create(
                project_id, new.name, new.priority, new.settings, actor, new.key
            )
        except Conflict:
            # Perhaps by the same request, a moment ago.
            first = await self._made_by(project_id, new)
            if first is None:
                raise
            return first, True
        self._catalog.forget(row.ref())
        self._engine.queue_changed(self._catalog.learn(row))
        return row, False

    async def _check_hook(self, project_id: bytes, name: str, settings: QueueSettings) -> None:
        """A hook's queue must be there when the hook is set; should it be deleted later, the jobs
        of the hook wait for one of that name."""
        hook = settings.dead_letters.hook
        if hook is None or hook.queue == name:
            return
        try:
            await self._catalog.find(project_id, hook.queue)
        except NotFound:
            field = "settings.dead_letters.hook.queue"
            raise InvalidInput("this project has no such queue", field) from None

    async def _made_by(self, project_id: bytes, new: NewQueue) -> JobQueue | None:
        return None if new.key is None else await self._queues.made_by(project_id, new.key)

    async def get(self, project_id: bytes, queue: str) -> JobQueue:
        """The queue with this name or id, as its row stands; NotFound."""
        ref = await self._catalog.find(project_id, queue_key(queue))
        row = await self._queues.get(project_id, ref.id)
        self._catalog.learn(row)
        return row

    async def page(
        self, project_id: bytes, cursor: str | None, rows_max: int
    ) -> tuple[list[JobQueue], str | None]:
        """A page in the order of names, and the cursor of the next one."""
        return await self._queues.page(project_id, cursor, rows_max)

    async def update(
        self,
        project_id: bytes,
        queue: str,
        priority: int | None,
        change: Callable[[QueueSettings], QueueSettings] | None,
        actor: Actor,
    ) -> JobQueue:
        """Change what is given; running attempts keep what they started with."""
        ref = await self._catalog.find(project_id, queue_key(queue))
        settings: QueueSettings | None = None
        if change is not None:
            settings = change((await self._queues.get(project_id, ref.id)).settings)
            settings.check_relations("settings.")
            await self._check_hook(project_id, ref.name, settings)
        row = await self._queues.update(
            project_id, ref.id, priority=priority, settings=settings, actor=actor
        )
        self._engine.queue_changed(self._catalog.learn(row))
        return row

    async def pause(self, project_id: bytes, queue: str, paused: bool, actor: Actor) -> JobQueue:
        """Have the queue start nothing from now on, or go on; what runs is not touched."""
        ref = await self._catalog.find(project_id, queue_key(queue))
        row = await self._queues.pause(project_id, ref.id, paused, actor)
        self._engine.queue_changed(self._catalog.learn(row))
        return row

    async def delete(self, project_id: bytes, queue: str, actor: Actor) -> None:
        """Delete a queue without open jobs; NotFound, Conflict with what stands in the way.

        It is closed first. What had found it before is decided while the row is written, so the
        second look sees it, and then nothing was deleted."""
        ref = await self._catalog.find(project_id, queue_key(queue))
        with self._catalog.closed(ref):
            self._refuse_open(ref)
            row = await self._queues.delete(
                project_id, ref.id, lambda: self._refuse_open(ref), actor
            )
            self._catalog.forget(ref)
            self._engine.queue_changed(self._catalog.learn(row))

    def _refuse_open(self, queue: QueueRef) -> None:
        states = ("pending", "scheduled", "processing")
        counts = zip(states, self._engine.queue_counts(queue), strict=True)
        found = [f"{count} {state}" for state, count in counts if count]
        if found:
            raise Conflict(f"the queue has jobs: {', '.join(found)}", "queue", "queue_not_empty")

    async def lengths(self, project_id: bytes) -> list[QueueLength]:
        """The open jobs of all queues of the project."""
        found: list[QueueLength] = []
        cursor: str | None = None
        while True:
            page, cursor = await self._queues.page(project_id, cursor, limits.PAGE_ROWS_MAX)
            found += [QueueLength(row.name, self.counts(row)) for row in page]
            if cursor is None:
                return found

    def counts(self, row: JobQueue) -> tuple[int, int, int]:
        """How many jobs are pending, scheduled, processing."""
        return self._engine.queue_counts(row.ref())
