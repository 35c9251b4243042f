"""Dead letters: list, put back, purge, by filter and in bounded pieces.

    page of the tables ──► one command of the queue ──► all of it in one row of the log

Who puts dead letters back at a rate gives them due times, one after the other, and the cursor
carries on where the last one is due: nothing has to stay in memory, and a crash changes nothing.
With an Idempotency-Key the ids and the cursor are remembered in the log with what was done, so a
repetition does nothing and is answered alike, also by another owner.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from taskforge_server.api.service.catalog import QueueCatalog, queue_key
from taskforge_server.api.service.encryption import Opener
from taskforge_server.api.service.ports import Engine, JobDict
from taskforge_server.engine import limits
from taskforge_server.engine.errors import InvalidInput
from taskforge_server.engine.model.audit import Actor
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.engine.shard.keys import KeyedRequest
from taskforge_server.engine.store.cursors import DEAD_LETTERS, after_place, place_cursor
from taskforge_server.engine.store.dead_letters import FIRST, DeadLetterFilter, Place, place_at
from taskforge_server.ext.ids import uuid_text

_ID_BYTES = 16
_US_BYTES = 8
_TAIL_BYTES = 2 * _US_BYTES + _ID_BYTES
_END = bytes(_TAIL_BYTES)


class DeadLetterRows(Protocol):
    """Failed jobs in the tables."""

    async def page(
        self,
        project_id: bytes,
        queue_id: bytes,
        wanted: DeadLetterFilter,
        after: Place,
        rows_max: int,
        bytes_max: int | None = None,
    ) -> tuple[list[JobDict], Place | None]:
        """The newest failure first, and where to go on."""
        ...

    async def attempts(
        self, project_id: bytes, job_ids: Sequence[bytes], most: int
    ) -> dict[bytes, list[JobDict]]:
        """The newest attempts of each."""
        ...

    async def count(
        self, project_id: bytes, queue_id: bytes, wanted: DeadLetterFilter, after: Place, most: int
    ) -> int:
        """How many there are, `most` at most."""
        ...

    async def purge(
        self,
        queue_id: bytes,
        job_ids: Sequence[bytes],
        project_id: bytes,
        actor: Actor,
        about: dict[str, Any],
    ) -> list[bytes]:
        """Delete these, as far as they are dead letters still, and tell the audit log; which."""
        ...

    async def record_requeue(
        self, project_id: bytes, queue_id: bytes, actor: Actor, about: dict[str, Any]
    ) -> None:
        """Tell the audit log what is about to be put back."""
        ...


@dataclass(frozen=True, slots=True)
class Piece:
    """How much of the dead letters one request is about."""

    wanted: DeadLetterFilter
    most: int
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a piece, or would."""

    count: int
    job_ids: list[bytes]
    cursor: str | None
    more: bool
    """There are more than were counted or seen to."""
    repeated: bool = False


class DeadLetterService:
    """The use cases of dead letters; each sees one project only."""

    def __init__(
        self, engine: Engine, rows: DeadLetterRows, catalog: QueueCatalog, opener: Opener
    ) -> None:
        self._engine = engine
        self._rows = rows
        self._catalog = catalog
        self._opener = opener

    async def page(
        self, project_id: bytes, queue: str, piece: Piece, attempts_max: int
    ) -> tuple[QueueRef, list[tuple[JobDict, list[JobDict]]], str | None]:
        """The queue, dead letters of it with their newest attempts, where to go on; NotFound. A
        page ends where it becomes heavy."""
        ref = await self._catalog.any(project_id, queue_key(queue))
        after, _ = _place(piece.cursor)
        jobs, following = await self._some(project_id, ref, piece, after)
        attempts: dict[bytes, list[JobDict]] = {}
        if attempts_max and jobs:
            ids = [job["id"] for job in jobs]
            attempts = await self._rows.attempts(project_id, ids, attempts_max)
        found = [await self._opener.found(job, attempts.get(job["id"], [])) for job in jobs]
        return ref, found, _cursor(following, 0)

    async def count(self, project_id: bytes, queue: str, piece: Piece) -> Done:
        """How many a requeue or a purge would see to from here on, and some of them."""
        ref = await self._catalog.find(project_id, queue_key(queue))
        after, _ = _place(piece.cursor)
        most = limits.DEAD_LETTERS_COUNT_MAX
        count = await self._rows.count(project_id, ref.id, piece.wanted, after, most + 1)
        sample, _ = await self._rows.page(
            project_id, ref.id, piece.wanted, after, limits.DEAD_LETTERS_SAMPLE
        )
        return Done(min(count, most), [job["id"] for job in sample], None, count > most)

    async def requeue(
        self,
        project_id: bytes,
        queue: str,
        piece: Piece,
        per_s: float | None,
        key: KeyedRequest | None,
        actor: Actor,
    ) -> Done:
        """Let some run again, the newest failure first; NotFound, KeyConflict, InvalidInput."""
        ref = await self._catalog.find(project_id, queue_key(queue))
        after, due_us = _place(piece.cursor)
        jobs, following = await self._some(project_id, ref, piece, after)
        interval_us = 0 if per_s is None else round(1e6 / per_s)
        first_us = max(due_us, self._engine.now_us()) if interval_us else 0
        next_us = first_us + interval_us * len(jobs)
        if next_us > self._engine.now_us() + limits.SCHEDULE_AHEAD_S_MAX * 1_000_000:
            days = limits.SCHEDULE_AHEAD_S_MAX // 86_400
            raise InvalidInput(
                f"at this rate some would start after more than {days} days", "per_s"
            )
        if jobs:
            about = _about(ref, piece) | {"per_s": per_s, "jobs": len(jobs)}
            await self._rows.record_requeue(project_id, ref.id, actor, about)
        answer, repeated = await self._engine.requeue_many(
            ref, jobs, first_us, interval_us, _tail(following, next_us), key
        )
        ids, cursor = _read(answer)
        return Done(len(ids), ids, cursor, cursor is not None, repeated)

    async def purge(self, project_id: bytes, queue: str, piece: Piece, actor: Actor) -> Done:
        """Delete some, the newest failure first; NotFound. Who was put back a moment ago stays,
        though the tables still have it as failed."""
        ref = await self._catalog.any(project_id, queue_key(queue))
        after, _ = _place(piece.cursor)
        jobs, following = await self._some(project_id, ref, piece, after)
        gone: list[bytes] = []
        ids = [job["id"] for job in jobs if not self._was_put_back(job["id"])]
        if ids:
            gone = await self._rows.purge(ref.id, ids, project_id, actor, _about(ref, piece))
        return Done(len(gone), gone, _cursor(following, 0), following is not None)

    def _was_put_back(self, job_id: bytes) -> bool:
        job = self._engine.look_now(job_id)
        return job is not None and job["status"] != "failed"

    async def _some(
        self, project_id: bytes, ref: QueueRef, piece: Piece, after: Place
    ) -> tuple[list[JobDict], Place | None]:
        """What one request may see to."""
        return await self._rows.page(
            project_id, ref.id, piece.wanted, after, piece.most, limits.DEAD_LETTERS_BYTES_MAX
        )


def _about(ref: QueueRef, piece: Piece) -> dict[str, Any]:
    """What the audit log has of a request."""
    wanted = msgspec.to_builtins(piece.wanted)
    given = {name: value for name, value in wanted.items() if value is not None}
    return {"project": uuid_text(ref.project_id), "name": ref.name, "filter": given}


def _place(cursor: str | None) -> tuple[Place, int]:
    """Where to go on, and when the next one put back may be due; InvalidInput."""
    if cursor is None:
        return FIRST, 0
    (failed_us, due_us), job_id = after_place(DEAD_LETTERS, cursor, 2)
    return place_at(failed_us, job_id), due_us


def _cursor(place: Place | None, due_us: int) -> str | None:
    if place is None:
        return None
    return place_cursor(DEAD_LETTERS, (place.failed_us, due_us), place.job_id)


def _tail(place: Place | None, due_us: int) -> bytes:
    """A place in the form of two ids."""
    if place is None:
        return _END
    return place.failed_us.to_bytes(_US_BYTES) + due_us.to_bytes(_US_BYTES) + place.job_id


def _read(answer: bytes) -> tuple[list[bytes], str | None]:
    """The ids and the cursor in what the log remembers."""
    ids, tail = answer[:-_TAIL_BYTES], answer[-_TAIL_BYTES:]
    found = [ids[at : at + _ID_BYTES] for at in range(0, len(ids), _ID_BYTES)]
    if tail == _END:
        return found, None
    failed_us, due_us = (int.from_bytes(tail[at : at + _US_BYTES]) for at in (0, _US_BYTES))
    return found, place_cursor(DEAD_LETTERS, (failed_us, due_us), tail[2 * _US_BYTES :])
