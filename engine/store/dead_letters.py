"""Dead letters: failed jobs by queue, as the tables have them, and how far their hooks have come.

Lists go from the newest failure back, so a job that is put back and fails again while somebody
walks through them is not met a second time. Each look is bounded by LOOK rows whatever its filter
leaves of them: a page may have few entries, or none, and still say where to go on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import asyncpg

from taskforge_server.engine import limits
from taskforge_server.engine.model.audit import Actor
from taskforge_server.engine.model.job import FailedReason
from taskforge_server.engine.store.audit import record
from taskforge_server.engine.store.job_queries import EPOCH, LAST_ID, JobDict, execution_of, job_of
from taskforge_server.engine.store.pool import Lent, Pool, acquire
from taskforge_server.engine.store.statements import sql
from taskforge_server.engine.store.tenancy import tenant
from taskforge_server.ext.ids import uuid_text

LOOK = limits.DEAD_LETTERS_LOOK
_END = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterFilter:
    """Which dead letters; what is None does not matter."""

    reasons: tuple[FailedReason, ...] | None = None
    job_type: str | None = None
    tags: tuple[str, ...] | None = None
    """All of them."""
    failed_from: datetime | None = None
    """Included."""
    failed_before: datetime | None = None
    """Not included."""


class Place(NamedTuple):
    """Behind this dead letter goes it on."""

    failed_at: datetime
    job_id: bytes

    @property
    def failed_us(self) -> int:
        return (self.failed_at - EPOCH) // timedelta(microseconds=1)


def place_at(failed_us: int, job_id: bytes) -> Place:
    """The same from microseconds; those beyond all times come from nobody."""
    most = (_END - EPOCH) // timedelta(microseconds=1)
    return Place(EPOCH + timedelta(microseconds=min(failed_us, most)), job_id)


FIRST = Place(_END, LAST_ID)


class DeadLetters:
    """Reads and deletes failed jobs; keeps the places of hooks."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def page(
        self,
        project_id: bytes,
        queue_id: bytes,
        wanted: DeadLetterFilter,
        after: Place,
        rows_max: int,
        bytes_max: int | None = None,
    ) -> tuple[list[JobDict], Place | None]:
        """Some of the queue's, the newest failure first, and where to go on; None: that was all.
        With `bytes_max` no more than have payloads and errors of so many bytes, but one at least.
        """
        values = _values(queue_id, wanted, after)
        async with tenant(self._pool, project_id=project_id) as connection:
            found: list[JobDict] = []
            weight = 0
            rows = connection.cursor(
                sql("dead_letters"), *values, rows_max + 1, LOOK, prefetch=limits.DEAD_LETTERS_FETCH
            )
            async for row in rows:
                if len(found) == rows_max or (
                    bytes_max is not None and weight and weight + _weight(row) > bytes_max
                ):
                    return found, _place(found[-1])
                found.append(job_of(row))
                weight += _weight(row)
            last = await connection.fetchrow(sql("dead_letters_seen"), *values[:5], LOOK)
        return found, None if last is None else Place(last["finished_at"], last["id"])

    async def attempts(
        self, project_id: bytes, job_ids: Sequence[bytes], most: int
    ) -> dict[bytes, list[JobDict]]:
        """The newest attempts of each job, in order; the older ones that are too much for one look
        are left out."""
        found: dict[bytes, list[JobDict]] = {job_id: [] for job_id in job_ids}
        async with tenant(self._pool, project_id=project_id) as connection:
            rows = await connection.fetch(
                sql("dead_letter_attempts"), list(job_ids), most, limits.DEAD_LETTERS_BYTES_MAX
            )
        for row in rows:
            found[row["job_id"]].append(execution_of(row))
        return found

    async def count(
        self, project_id: bytes, queue_id: bytes, wanted: DeadLetterFilter, after: Place, most: int
    ) -> int:
        """How many there are from a place on, of those that one look sees; `most` at most."""
        values = _values(queue_id, wanted, after)
        async with tenant(self._pool, project_id=project_id) as connection:
            count: int = await connection.fetchval(sql("dead_letters_count"), *values, most, LOOK)
        return count

    async def purge(
        self,
        queue_id: bytes,
        job_ids: Sequence[bytes],
        project_id: bytes,
        actor: Actor,
        about: dict[str, Any],
    ) -> list[bytes]:
        """Delete these, as far as they are dead letters still; which went. The audit log is told in
        the same transaction."""
        async with acquire(self._pool) as connection, connection.transaction():
            rows = await connection.fetch(
                sql("dead_letters_delete"), queue_id, list(job_ids), timeout=limits.BULK_TIMEOUT_S
            )
            gone = [row["id"] for row in rows]
            if gone:
                after = about | {"purged": len(gone)}
                await _recorded(connection, project_id, queue_id, actor, "purge", after)
        return gone

    async def record_requeue(
        self, project_id: bytes, queue_id: bytes, actor: Actor, about: dict[str, Any]
    ) -> None:
        """Tell the audit log what is about to be put back."""
        async with acquire(self._pool) as connection, connection.transaction():
            await _recorded(connection, project_id, queue_id, actor, "requeue", about)

    async def expire(self, queue_id: bytes, failed_before: datetime, rows_max: int) -> int:
        """Delete some that failed before this; how many went."""
        async with acquire(self._pool) as connection:
            return _count(
                await connection.execute(
                    sql("dead_letters_expire"),
                    queue_id,
                    failed_before,
                    rows_max,
                    timeout=limits.BULK_TIMEOUT_S,
                )
            )

    # hooks

    async def hooks_due(self, queue_id: bytes, rows_max: int) -> tuple[list[JobDict], int] | None:
        """Dead letters whose hooks are to be submitted, in the order of the log, and up to which
        lsn the tables know all; None: the queue has no hook."""
        async with acquire(self._pool) as connection:
            rows = await connection.fetch(sql("dead_letter_hook_due"), queue_id, rows_max)
        if not rows:
            return None
        return [job_of(row) for row in rows if row["id"] is not None], rows[0]["watermark"]

    async def hook_place(self, queue_id: bytes) -> tuple[int, bytes] | None:
        """(lsn, job id) up to which all hooks are submitted; None: the queue has no hook."""
        async with acquire(self._pool) as connection:
            row = await connection.fetchrow(sql("dead_letter_hook_get"), queue_id)
        return None if row is None else (row["lsn"], row["job_id"])

    async def hooks_submitted(self, queue_id: bytes, lsn: int, job_id: bytes) -> None:
        """All up to this place are, durably."""
        async with acquire(self._pool) as connection:
            await connection.execute(sql("dead_letter_hook_move"), queue_id, lsn, job_id)


def _values(queue_id: bytes, wanted: DeadLetterFilter, after: Place) -> list[Any]:
    """In the order of the statements."""
    return [
        queue_id,
        after.failed_at,
        after.job_id,
        wanted.failed_from or EPOCH,
        wanted.failed_before or _END,
        None if wanted.reasons is None else list(wanted.reasons),
        wanted.job_type,
        None if wanted.tags is None else list(wanted.tags),
    ]


def _weight(row: asyncpg.Record) -> int:
    return len(row["payload"] or "") + len(row["last_error"] or "")


def _place(job: JobDict) -> Place:
    return place_at(job["finished_us"], job["id"])


def _count(status: str) -> int:
    return int(status.rpartition(" ")[2])


async def _recorded(
    connection: Lent,
    project_id: bytes,
    queue_id: bytes,
    actor: Actor,
    verb: str,
    about: dict[str, Any],
) -> None:
    organization_id = await connection.fetchval(sql("project_organization"), project_id)
    action, target = f"dead_letters.{verb}", f"queue:{uuid_text(queue_id)}"
    await record(connection, organization_id, actor, action, target, None, about)
