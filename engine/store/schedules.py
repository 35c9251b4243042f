"""Schedules: the rows of `cron_schedules`. What people do sees one project only; the engine reads
the schedules of its shards and writes what became of their ticks, many at once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import asyncpg
import msgspec

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Conflict, KeyConflict, NotFound
from taskforge_server.engine.model.audit import OPERATOR, Actor
from taskforge_server.engine.model.schedule import Schedule
from taskforge_server.engine.shard.keys import KeyedRequest
from taskforge_server.engine.store.audit import record
from taskforge_server.engine.store.cursors import SCHEDULES, after_name, name_cursor
from taskforge_server.engine.store.pool import Lent, Pool, acquire
from taskforge_server.engine.store.statements import sql
from taskforge_server.engine.store.tenancy import project_tenant, tenant
from taskforge_server.ext.ids import uuid_text


@dataclass(frozen=True, slots=True)
class PlanRow:
    """A schedule as the engine needs it."""

    id: bytes
    project_id: bytes
    queue_id: bytes
    shard: int
    cron: str
    timezone: str
    job: str
    payload: str | None
    """None: too large to be kept."""
    catch_up: Any
    window_s: int
    overlap: Any
    jitter_s: int
    decided_at: datetime
    last_job_id: bytes | None
    revision: int


class Decided(NamedTuple):
    """What became of a tick."""

    id: bytes
    tick: datetime
    job_id: bytes | None
    problem: str | None
    next_at: datetime | None
    revision: int


class Schedules:
    """The repository of `cron_schedules`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    # for people

    async def create(
        self, wanted: Schedule, actor: Actor = OPERATOR, key: KeyedRequest | None = None
    ) -> Schedule:
        """`Conflict` when the name or the key is taken, or the project has too many; `NotFound`
        without the queue."""
        wanted.validate()
        try:
            async with project_tenant(self._pool, wanted.project_id) as (connection, organization):
                row = await connection.fetchrow(
                    sql("schedule_create"),
                    wanted.id,
                    wanted.project_id,
                    wanted.queue_id,
                    wanted.name,
                    *_changeable(wanted),
                    limits.SCHEDULES_PER_PROJECT_MAX,
                    None if key is None else key.key,
                    None if key is None else key.body_hash,
                )
                if row is None:
                    raise await self._refused(connection, wanted)
                made = _schedule(row)
                await _recorded(connection, organization, actor, "schedule.create", None, made)
        except asyncpg.UniqueViolationError:
            message = "there is a schedule with this name"
            raise Conflict(message, "name", "schedule_name_taken") from None
        return made

    async def _refused(self, connection: Lent, wanted: Schedule) -> Exception:
        queue = await connection.fetchrow(
            sql("queue_get_locked"), wanted.project_id, wanted.queue_id
        )
        if queue is None:
            return NotFound("this project has no such queue", "queue", code="queue_not_found")
        most = limits.SCHEDULES_PER_PROJECT_MAX
        return Conflict(f"a project has at most {most} schedules", code="too_many_schedules")

    async def made_by(self, project_id: bytes, key: KeyedRequest) -> Schedule | None:
        """The schedule that this request made, as it is now; `KeyConflict` when the key came with
        another request. A deleted one takes its key with it."""
        async with tenant(self._pool, project_id=project_id) as connection:
            row = await connection.fetchrow(sql("schedule_made_by"), project_id, key.key)
        if row is None:
            return None
        fields = dict(row)
        if fields.pop("creation_hash") != key.body_hash:
            raise KeyConflict
        return _schedule(fields)

    async def get(self, project_id: bytes, schedule: bytes | str) -> Schedule:
        """By id (bytes) or by name (text); `NotFound`."""
        name = "schedule_get" if isinstance(schedule, bytes) else "schedule_get_by_name"
        async with tenant(self._pool, project_id=project_id) as connection:
            return _found(await connection.fetchrow(sql(name), project_id, schedule))

    async def page(
        self,
        project_id: bytes,
        cursor: str | None = None,
        rows_max: int = limits.PAGE_ROWS_DEFAULT,
        *,
        queue_id: bytes | None = None,
    ) -> tuple[list[Schedule], str | None]:
        """A page in the order of names, and the cursor of the next one."""
        after = "" if cursor is None else after_name(SCHEDULES, cursor)
        async with tenant(self._pool, project_id=project_id) as connection:
            rows = await connection.fetch(
                sql("schedule_list"), project_id, after, rows_max + 1, queue_id
            )
        page = [_schedule(row) for row in rows[:rows_max]]
        more = len(rows) > rows_max
        return page, name_cursor(SCHEDULES, page[-1].name) if more else None

    async def update(
        self,
        project_id: bytes,
        schedule_id: bytes,
        action: str,
        changes: Mapping[str, Any],
        actor: Actor = OPERATOR,
    ) -> Schedule:
        """Change these fields; `NotFound`. What is so already is no act."""
        async with project_tenant(self._pool, project_id) as (connection, organization_id):
            old = await _locked(connection, project_id, schedule_id)
            new = msgspec.structs.replace(old, **changes)
            if _shown(old) == _shown(new) and old.payload == new.payload:
                return old
            new.validate()
            await connection.execute(
                sql("schedule_update"), project_id, schedule_id, *_changeable(new)
            )
            new = await _locked(connection, project_id, schedule_id)
            await _recorded(connection, organization_id, actor, action, old, new)
        return new

    async def delete(self, project_id: bytes, schedule_id: bytes, actor: Actor = OPERATOR) -> None:
        """Its jobs stay; `NotFound`."""
        async with project_tenant(self._pool, project_id) as (connection, organization_id):
            old = await _locked(connection, project_id, schedule_id)
            await connection.execute(sql("schedule_delete"), project_id, schedule_id)
            await _recorded(connection, organization_id, actor, "schedule.delete", old, None)

    # for the engine

    async def revisions(self, shards: Sequence[int]) -> dict[bytes, int]:
        """The schedules of these shards that are not paused, with their revisions."""
        async with acquire(self._pool) as connection:
            rows = await connection.fetch(sql("schedule_revisions"), list(shards))
        return {row["id"]: row["revision"] for row in rows}

    async def plans(self, schedule_ids: Sequence[bytes]) -> list[PlanRow]:
        """Those of these schedules that are there and not paused."""
        async with acquire(self._pool) as connection:
            rows = await connection.fetch(
                sql("schedule_plans"), list(schedule_ids), limits.SCHEDULE_PAYLOAD_KEPT_BYTES_MAX
            )
        return [PlanRow(**row) for row in rows]

    async def payloads(self, schedule_ids: Sequence[bytes]) -> dict[bytes, bytes]:
        """Of those that are there."""
        async with acquire(self._pool) as connection:
            rows = await connection.fetch(sql("schedule_payloads"), list(schedule_ids))
        return {row["id"]: row["payload"].encode() for row in rows}

    async def decided(self, ticks: Iterable[Decided]) -> None:
        """Write what became of ticks; of each schedule one."""
        columns = list(zip(*ticks, strict=True))
        async with acquire(self._pool) as connection:
            await connection.execute(sql("schedule_decided"), *map(list, columns))

    async def unfinished_jobs(self, job_ids: Sequence[bytes]) -> set[bytes]:
        """Which of these have not ended, as the tables have it."""
        async with acquire(self._pool) as connection:
            rows = await connection.fetch(sql("jobs_unfinished_of"), list(job_ids))
        return {row["id"] for row in rows}

    async def expire_keys(self, before: datetime, rows_max: int) -> None:
        """Forget keys of ticks that were decided before this time."""
        async with acquire(self._pool) as connection:
            await connection.execute(sql("idempotency_keys_of_ticks_expire"), before, rows_max)


async def require_no_schedules(connection: Lent, queue_id: bytes) -> None:
    """`Conflict` when schedules make jobs in the queue, whose row the caller has locked."""
    rows = await connection.fetch(sql("schedules_of_queue"), queue_id, limits.BLOCKERS_SHOWN_MAX)
    if rows:
        names = ", ".join(row["name"] for row in rows)
        raise Conflict(f"the queue has schedules: {names}", "queue", "queue_has_schedules")


def _changeable(schedule: Schedule) -> tuple[Any, ...]:
    """What people set, in the order in which both statements take it."""
    return (
        schedule.cron,
        schedule.timezone,
        schedule.job.decode(),
        schedule.payload.decode(),
        schedule.catch_up,
        schedule.window_s,
        schedule.overlap,
        schedule.jitter_s,
        schedule.paused_at,
        schedule.decided_at,
        schedule.next_at,
    )


def _schedule(row: asyncpg.Record | dict[str, Any]) -> Schedule:
    fields = dict(row)
    texts = {name: fields[name].encode() for name in ("job", "payload")}
    return Schedule(**(fields | texts))


def _found(row: asyncpg.Record | None) -> Schedule:
    if row is None:
        message = "this project has no such schedule"
        raise NotFound(message, "schedule", code="schedule_not_found")
    return _schedule(row)


async def _locked(connection: Lent, project_id: bytes, schedule_id: bytes) -> Schedule:
    return _found(await connection.fetchrow(sql("schedule_get_locked"), project_id, schedule_id))


async def _recorded(
    connection: Lent,
    organization_id: bytes,
    actor: Actor,
    action: str,
    old: Schedule | None,
    new: Schedule | None,
) -> None:
    schedule = new or old
    assert schedule is not None
    target = f"schedule:{uuid_text(schedule.id)}"
    await record(connection, organization_id, actor, action, target, _shown(old), _shown(new))


def _shown(schedule: Schedule | None) -> dict[str, Any] | None:
    """What the audit log has of a schedule; the payload of its jobs is nobody else's business."""
    if schedule is None:
        return None
    return {
        "project": uuid_text(schedule.project_id),
        "queue": schedule.queue,
        "name": schedule.name,
        "cron": schedule.cron,
        "timezone": schedule.timezone,
        "job": msgspec.json.decode(schedule.job),
        "catch_up": schedule.catch_up,
        "window_s": schedule.window_s,
        "overlap": schedule.overlap,
        "jitter_s": schedule.jitter_s,
        "paused": schedule.paused_at is not None,
    }
