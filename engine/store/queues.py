"""Queues: the rows of `job_queues`. All but `all` see one project only."""

import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

import asyncpg
import msgspec

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Conflict, KeyConflict, LimitReached, NotFound
from taskforge_server.engine.model.audit import OPERATOR, Actor
from taskforge_server.engine.model.queue import JobQueue, QueueSettings, shard_of_queue
from taskforge_server.engine.model.subscription import plan_of
from taskforge_server.engine.shard.keys import KeyedRequest
from taskforge_server.engine.store.audit import record
from taskforge_server.engine.store.cursors import QUEUES, after_name, name_cursor
from taskforge_server.engine.store.pool import Lent, Pool, acquire
from taskforge_server.engine.store.schedules import require_no_schedules
from taskforge_server.engine.store.statements import sql
from taskforge_server.engine.store.subscriptions import current_subscription
from taskforge_server.engine.store.tenancy import project_tenant, tenant
from taskforge_server.ext.ids import uuid_text


class Queues:
    """The repository of `job_queues`."""

    def __init__(self, pool: Pool, shards: int) -> None:
        self._pool = pool
        self._shards = shards

    async def create(
        self,
        project_id: bytes,
        name: str,
        priority: int,
        settings: QueueSettings,
        actor: Actor = OPERATOR,
        key: KeyedRequest | None = None,
    ) -> JobQueue:
        """`Conflict` when the name or the key is taken, or the project has too many queues;
        `NotFound` without the project."""
        queue_id = uuid.uuid4().bytes
        shard = shard_of_queue(queue_id, self._shards)
        try:
            async with project_tenant(self._pool, project_id) as (connection, organization_id):
                row = await connection.fetchrow(
                    sql("queue_create"),
                    queue_id,
                    project_id,
                    name,
                    priority,
                    _text(settings),
                    shard,
                    limits.QUEUES_PER_PROJECT_MAX,
                    None if key is None else key.key,
                    None if key is None else key.body_hash,
                )
                if row is None:
                    raise Conflict(
                        f"a project has at most {limits.QUEUES_PER_PROJECT_MAX} queues",
                        code="too_many_queues",
                    )
                made = _queue(row)
                await _keep_hook(connection, made)
                await _recorded(connection, organization_id, actor, "queue.create", None, made)
                await _require_room(connection, organization_id)
        except asyncpg.UniqueViolationError:
            raise Conflict("there is a queue with this name", "name", "queue_name_taken") from None
        return made

    async def made_by(self, project_id: bytes, key: KeyedRequest) -> JobQueue | None:
        """The queue that this request made, as it is now; `KeyConflict` when the key came with
        another request. A deleted queue takes its key with it."""
        async with tenant(self._pool, project_id=project_id) as connection:
            row = await connection.fetchrow(sql("queue_made_by"), project_id, key.key)
        if row is None:
            return None
        fields = dict(row)
        if fields.pop("creation_hash") != key.body_hash:
            raise KeyConflict
        return _queue(fields)

    async def get(self, project_id: bytes, queue: bytes | str) -> JobQueue:
        """By id (bytes) or by name (text); `NotFound`."""
        name = "queue_get" if isinstance(queue, bytes) else "queue_get_by_name"
        async with tenant(self._pool, project_id=project_id) as connection:
            row = await connection.fetchrow(sql(name), project_id, queue)
        return _found(row)

    async def ids(self, project_id: bytes) -> list[bytes]:
        """Of all queues of the project, deleted ones too while their jobs are kept."""
        async with tenant(self._pool, project_id=project_id) as connection:
            return [row["id"] for row in await connection.fetch(sql("queue_ids"), project_id)]

    async def page(
        self,
        project_id: bytes,
        cursor: str | None = None,
        rows_max: int = limits.PAGE_ROWS_DEFAULT,
    ) -> tuple[list[JobQueue], str | None]:
        """A page in the order of names, and the cursor of the next one."""
        after = "" if cursor is None else after_name(QUEUES, cursor)
        async with tenant(self._pool, project_id=project_id) as connection:
            rows = await connection.fetch(sql("queue_list"), project_id, after, rows_max + 1)
        page = [_queue(row) for row in rows[:rows_max]]
        more = len(rows) > rows_max
        return page, name_cursor(QUEUES, page[-1].name) if more else None

    async def update(
        self,
        project_id: bytes,
        queue_id: bytes,
        *,
        priority: int | None = None,
        settings: QueueSettings | None = None,
        actor: Actor = OPERATOR,
    ) -> JobQueue:
        """What is None stays as it is; `NotFound`."""
        async with project_tenant(self._pool, project_id) as (connection, organization_id):
            old = _found(await connection.fetchrow(sql("queue_get_locked"), project_id, queue_id))
            new = _found(
                await connection.fetchrow(
                    sql("queue_update"),
                    project_id,
                    queue_id,
                    priority,
                    None if settings is None else _text(settings),
                )
            )
            if new != old:
                await _keep_hook(connection, new)
                await _recorded(connection, organization_id, actor, "queue.update", old, new)
        return new

    async def pause(
        self, project_id: bytes, queue_id: bytes, paused: bool, actor: Actor = OPERATOR
    ) -> JobQueue:
        """Have it start nothing from now on, or go on; `NotFound`."""
        action = "queue.pause" if paused else "queue.resume"
        async with project_tenant(self._pool, project_id) as (connection, organization_id):
            old = _found(await connection.fetchrow(sql("queue_get_locked"), project_id, queue_id))
            new = _found(
                await connection.fetchrow(sql("queue_pause"), project_id, queue_id, paused)
            )
            if new != old:
                await _recorded(connection, organization_id, actor, action, old, new)
        return new

    async def delete(
        self,
        project_id: bytes,
        queue_id: bytes,
        check: Callable[[], None],
        actor: Actor = OPERATOR,
    ) -> JobQueue:
        """Nothing goes in any more, and the name is free; the row stays for as long as jobs of it
        are kept. `check` is called when all is written, and raises if it must not be after all.
        `NotFound`; `Conflict` while schedules make jobs in it."""
        async with project_tenant(self._pool, project_id) as (connection, organization_id):
            old = _found(await connection.fetchrow(sql("queue_get_locked"), project_id, queue_id))
            await require_no_schedules(connection, queue_id)
            await connection.execute(sql("queue_assignments_delete"), queue_id)
            new = _found(await connection.fetchrow(sql("queue_archive"), project_id, queue_id))
            await _recorded(connection, organization_id, actor, "queue.delete", old, None)
            check()
        return new

    async def expire(self, archived_before: datetime, rows_max: int) -> int:
        """Drop the rows of deleted queues that no job is left of; says how many."""
        async with acquire(self._pool) as connection:
            rows = await connection.fetch(sql("queues_expire"), archived_before, rows_max)
        return len(rows)

    async def all(self) -> list[JobQueue]:
        """The queues of all projects, for a node's memory; deleted ones too."""
        async with acquire(self._pool) as connection:
            return [_queue(row) for row in await connection.fetch(sql("queue_all"))]


def _text(settings: QueueSettings) -> str:
    settings.validate()
    return msgspec.json.encode(settings).decode()


def _queue(row: asyncpg.Record | dict[str, Any]) -> JobQueue:
    return JobQueue(**{**row, "settings": QueueSettings.stored(row["settings"])})


def _found(row: asyncpg.Record | None) -> JobQueue:
    if row is None:
        raise NotFound("no such queue", "queue", code="queue_not_found")
    return _queue(row)


async def _keep_hook(connection: Lent, queue: JobQueue) -> None:
    """Whether the queue's dead letters are told of, from now on."""
    hook = queue.settings.dead_letters.hook
    name = "dead_letter_hook_end" if hook is None else "dead_letter_hook_begin"
    await connection.execute(sql(name), queue.id)


async def _require_room(connection: Lent, organization_id: bytes) -> None:
    """LimitReached when the organisation has more queues than it may. After the audit entry: other
    acts of the organisation wait for the end of this transaction, so none is miscounted."""
    subscription = await current_subscription(connection, organization_id)
    queues_max = plan_of(organization_id, subscription).limits.max_queues
    if queues_max is None:
        return
    if await connection.fetchval(sql("organization_queues"), organization_id) > queues_max:
        message = f"this organisation may have {queues_max} queues, in all its projects"
        raise LimitReached(message, "too_many_queues")


async def _recorded(
    connection: Lent,
    organization_id: bytes,
    actor: Actor,
    action: str,
    old: JobQueue | None,
    new: JobQueue | None,
) -> None:
    queue = new or old
    assert queue is not None
    target = f"queue:{uuid_text(queue.id)}"
    await record(connection, organization_id, actor, action, target, _shown(old), _shown(new))


def _shown(queue: JobQueue | None) -> dict[str, Any] | None:
    """What the audit log has of a queue."""
    if queue is None:
        return None
    return {
        "project": uuid_text(queue.project_id),
        "name": queue.name,
        "priority": queue.priority,
        "settings": queue.settings,
        "paused": queue.paused_at is not None,
    }
