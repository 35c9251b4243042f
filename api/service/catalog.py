"""Which queue does a caller mean: a bounded cache by name and by id, in front of the rows.

    unknown --find--> cached --QUEUE_TTL_S, forget()--> unknown

A submit asks `cached`, which makes no query and no task. A miss asks the rows; callers that miss
the same queue at one time share one look-up, and beyond LOOKUPS_AT_ONCE_MAX look-ups callers are
turned away. What is not there is not cached: a queue may be used as soon as it was made.

A deleted queue is found by `any` alone, for as long as jobs of it are kept; and while somebody
deletes a queue (`closed`), so is that one.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from taskforge_server.api.service.ports import QueueRepository
from taskforge_server.engine import limits
from taskforge_server.engine.errors import NotFound, Unavailable
from taskforge_server.engine.model.queue import JobQueue, QueueRef
from taskforge_server.ext.ids import uuid_bytes

_Key = tuple[bytes, str | bytes]


def queue_key(text: str) -> str | bytes:
    """What a caller wrote, as a name or, where it reads like one, an id."""
    try:
        return uuid_bytes(text)
    except ValueError:
        return text


class QueueCatalog:
    """The queues that this process has lately seen, and the way to the others."""

    def __init__(
        self,
        queues: QueueRepository,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
        entries_max: int = limits.QUEUES_CACHED_MAX,
    ) -> None:
        self._queues = queues
        self._monotonic_s = monotonic_s
        self._entries_max = entries_max
        self._known: dict[_Key, tuple[QueueRef, float]] = {}
        self._lists: dict[bytes, tuple[list[bytes], float]] = {}
        self._lookups: dict[_Key, asyncio.Task[QueueRef]] = {}
        self._closed: set[bytes] = set()
        self.changes = 0
        """How often something that `cached` said before ceased to hold."""

    def cached(self, project_id: bytes, queue: str | bytes) -> QueueRef | None:
        """The queue with this name or id, if it is known and fresh."""
        found = self._known.get((project_id, queue))
        if found is None or found[1] < self._monotonic_s():
            return None
        ref = found[0]
        return None if ref.archived or ref.id in self._closed else ref

    async def find(self, project_id: bytes, queue: str | bytes) -> QueueRef:
        """The queue with this name (text) or id (bytes); NotFound."""
        known = self.cached(project_id, queue)
        if known is not None:
            return known
        ref = await self.any(project_id, queue)
        if ref.archived or ref.id in self._closed:
            raise _not_found()
        return ref

    async def any(self, project_id: bytes, queue: str | bytes) -> QueueRef:
        """The same; a deleted queue is found by its id."""
        found = self._known.get((project_id, queue))
        if found is not None and found[1] >= self._monotonic_s():
            return found[0]
        key = (project_id, queue)
        lookup = self._lookups.get(key)
        if lookup is None:
            if len(self._lookups) >= limits.LOOKUPS_AT_ONCE_MAX:
                raise Unavailable(limits.UNAVAILABLE_RETRY_S)
            lookup = asyncio.create_task(self._look_up(project_id, queue))
            self._lookups[key] = lookup
            lookup.add_done_callback(lambda _: self._lookups.pop(key, None))
        # A caller that gives up must not take the look-up from the others.
        return await asyncio.shield(lookup)

    async def ids(self, project_id: bytes) -> list[bytes]:
        """The ids of all queues of the project, deleted ones too."""
        found = self._lists.get(project_id)
        if found is not None and found[1] >= self._monotonic_s():
            return found[0]
        ids = await self._queues.ids(project_id)
        _make_room(self._lists, limits.PRINCIPALS_MAX)
        self._lists[project_id] = (ids, self._monotonic_s() + limits.QUEUE_TTL_S)
        return ids

    def learn(self, row: JobQueue) -> QueueRef:
        """Remember a row that was just read or written, in place of what was known."""
        ref = row.ref()
        known = self._known.get((row.project_id, row.id))
        if known is not None and known[0] == ref:
            ref = known[0]  # one object while nothing changes: others compare by identity first
        else:
            self.changes += 1
        expires_s = self._monotonic_s() + limits.QUEUE_TTL_S
        # The name of a deleted queue may be another's by now.
        for key in (row.id,) if ref.archived else (row.name, row.id):
            _make_room(self._known, self._entries_max)
            self._known[row.project_id, key] = (ref, expires_s)
        return ref

    def forget(self, queue: QueueRef) -> None:
        """The queue is new or has changed: what is known of it, and of which there are, is old."""
        self.changes += 1
        for key in (queue.name, queue.id):
            self._known.pop((queue.project_id, key), None)
        self._lists.pop(queue.project_id, None)

    @contextmanager
    def closed(self, queue: QueueRef) -> Iterator[None]:
        """Nobody finds the queue meanwhile: what is sent to it from here on is refused."""
        self.changes += 1
        self._closed.add(queue.id)
        try:
            yield
        finally:
            self._closed.discard(queue.id)

    async def _look_up(self, project_id: bytes, queue: str | bytes) -> QueueRef:
        try:
            return self.learn(await self._queues.get(project_id, queue))
        except NotFound:
            raise _not_found() from None


def _not_found() -> NotFound:
    return NotFound("this project has no such queue", "queue", code="queue_not_found")


def _make_room(
    cache: dict[bytes, tuple[list[bytes], float]] | dict[_Key, tuple[QueueRef, float]],
    entries_max: int,
) -> None:
    """Forget the oldest entry of a full cache."""
    if len(cache) >= entries_max:
        del cache[next(iter(cache))]  # type: ignore[arg-type]
