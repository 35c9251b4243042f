"""Subscriptions, and what follows from them: the plan of a project, what an organisation has.

A subscription is changed by operators alone; the API reads.
"""

import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import msgspec

from taskforge_server.engine import limits
from taskforge_server.engine.errors import NotFound
from taskforge_server.engine.model.audit import Actor
from taskforge_server.engine.model.base import checked
from taskforge_server.engine.model.subscription import (
    FOREVER,
    Plan,
    check_overrides,
    plan_of,
)
from taskforge_server.engine.model.tenant import Subscription, SubscriptionTier
from taskforge_server.engine.store.audit import record
from taskforge_server.engine.store.cursors import SUBSCRIPTIONS, after_id, id_cursor
from taskforge_server.engine.store.pool import Lent, Pool, acquire
from taskforge_server.engine.store.statements import sql
from taskforge_server.engine.store.tenancy import tenant

_ID_BYTES = 16


class Subscriptions:
    """The repository of `subscriptions`. All see one organisation only, but for `plan_of_project`
    and `plans`, which are for a node."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(
        self,
        organization_id: bytes,
        tier: SubscriptionTier,
        overrides: Mapping[str, Any] | None = None,
        ends_at: datetime = FOREVER,
    ) -> Subscription:
        """NotFound when there is no such organisation; InvalidInput."""
        async with acquire(self._pool) as connection:
            return await create_subscription(connection, organization_id, tier, overrides, ends_at)

    async def get(self, organization_id: bytes, subscription_id: bytes) -> Subscription:
        """NotFound."""
        async with tenant(self._pool, organization_id=organization_id) as connection:
            row = await connection.fetchrow(
                sql("subscription_get"), organization_id, subscription_id
            )
        return _found(row)

    async def current(self, organization_id: bytes) -> Subscription | None:
        """The one that ends last."""
        async with tenant(self._pool, organization_id=organization_id) as connection:
            return await current_subscription(connection, organization_id)

    async def page(
        self,
        organization_id: bytes,
        cursor: str | None = None,
        rows_max: int = limits.PAGE_ROWS_DEFAULT,
    ) -> tuple[list[Subscription], str | None]:
        """A page in the order of ids, and the cursor of the next one."""
        after = bytes(_ID_BYTES) if cursor is None else after_id(SUBSCRIPTIONS, cursor)
        async with tenant(self._pool, organization_id=organization_id) as connection:
            rows = await connection.fetch(
                sql("subscription_list"), organization_id, after, rows_max + 1
            )
        page = [_subscription(row) for row in rows[:rows_max]]
        more = len(rows) > rows_max
        return page, id_cursor(SUBSCRIPTIONS, page[-1].id) if more else None

    async def update(
        self,
        organization_id: bytes,
        subscription_id: bytes,
        *,
        tier: SubscriptionTier | None = None,
        overrides: Mapping[str, Any] | None = None,
        ends_at: datetime | None = None,
    ) -> Subscription:
        """What is None stays as it is; NotFound."""
        async with acquire(self._pool) as connection:
            return await _update(
                connection, organization_id, subscription_id, tier, overrides, ends_at
            )

    async def delete(self, organization_id: bytes, subscription_id: bytes) -> None:
        """NotFound."""
        async with acquire(self._pool) as connection:
            status = await connection.execute(
                sql("subscription_delete"), organization_id, subscription_id
            )
        if status == "DELETE 0":
            raise _no_such()

    async def agree(
        self,
        organization_id: bytes,
        actor: Actor,
        *,
        tier: SubscriptionTier | None = None,
        changes: Mapping[str, Any] | None = None,
        ends_at: datetime | None = None,
    ) -> Subscription:
        """Change the current subscription, or make the first one. What is None stays; `changes`
        are limits beside the tier's, and take one back where they say "default"."""
        async with acquire(self._pool) as connection, connection.transaction():
            if await connection.fetchval(sql("organization_lock"), organization_id) is None:
                raise NotFound("no such organization", "organization_id")
            before = await current_subscription(connection, organization_id)
            overrides = {} if before is None else dict(before.limits)
            overrides |= changes or {}
            overrides = {name: value for name, value in overrides.items() if value != "default"}
            if before is None:
                after = await create_subscription(
                    connection, organization_id, tier or "starter", overrides, ends_at or FOREVER
                )
            else:
                after = await _update(
                    connection, organization_id, before.id, tier, overrides, ends_at
                )
            await record(
                connection,
                organization_id,
                actor,
                "subscription.update",
                f"subscription:{uuid.UUID(bytes=after.id)}",
                None if before is None else _state(before),
                _state(after),
            )
            return after

    # for a node

    async def plan_of_project(self, project_id: bytes) -> Plan:
        """NotFound when there is no such project."""
        async with acquire(self._pool) as connection:
            row = await connection.fetchrow(sql("plan_of_project"), project_id)
        if row is None:
            raise NotFound("no such project")
        return _plan(row)

    async def plan_of_organization(self, organization_id: bytes) -> Plan:
        """What holds for an organisation."""
        return plan_of(organization_id, await self.current(organization_id))

    async def plans(self) -> list[Plan]:
        """Of all organisations."""
        async with acquire(self._pool) as connection:
            return [_plan(row) for row in await connection.fetch(sql("plans_all"))]

    async def overview(self, month: int) -> list[tuple[str, Plan, int]]:
        """Of all organisations: name, plan, and the jobs of a month."""
        async with acquire(self._pool) as connection:
            rows = await connection.fetch(sql("subscriptions_overview"), month)
        return [(row["name"], _plan(row), row["jobs"]) for row in rows]

    async def workers(
        self, organization_id: bytes, now: datetime, silent_s: float, most: int
    ) -> set[bytes]:
        """Ids of workers that were heard of in the last `silent_s` seconds, as the tables know."""
        since = now - timedelta(seconds=silent_s)
        async with acquire(self._pool) as connection:
            rows = await connection.fetch(sql("organization_workers"), organization_id, since, most)
        return {row["id"] for row in rows}

    async def queues(self, organization_id: bytes) -> int:
        """How many queues the organisation has."""
        async with tenant(self._pool, organization_id=organization_id) as connection:
            count: int = await connection.fetchval(sql("organization_queues"), organization_id)
        return count


async def current_subscription(connection: Lent, organization_id: bytes) -> Subscription | None:
    """The one that ends last."""
    row = await connection.fetchrow(sql("subscription_current"), organization_id)
    return None if row is None else _subscription(row)


async def create_subscription(
    connection: Lent,
    organization_id: bytes,
    tier: SubscriptionTier,
    overrides: Mapping[str, Any] | None = None,
    ends_at: datetime = FOREVER,
) -> Subscription:
    """For a transaction of the caller's."""
    try:
        row = await connection.fetchrow(
            sql("subscription_create"),
            uuid.uuid4().bytes,
            organization_id,
            tier,
            _text(overrides or {}),
            ends_at,
        )
    except asyncpg.ForeignKeyViolationError:
        raise NotFound("no such organization", "organization_id") from None
    return _found(row)


async def _update(
    connection: Lent,
    organization_id: bytes,
    subscription_id: bytes,
    tier: SubscriptionTier | None,
    overrides: Mapping[str, Any] | None,
    ends_at: datetime | None,
) -> Subscription:
    row = await connection.fetchrow(
        sql("subscription_update"),
        organization_id,
        subscription_id,
        tier,
        None if overrides is None else _text(overrides),
        ends_at,
    )
    return _found(row)


def _text(overrides: Mapping[str, Any]) -> str:
    check_overrides(overrides)
    return msgspec.json.encode(dict(overrides)).decode()


def _state(row: Subscription) -> dict[str, Any]:
    return {
        "tier": row.tier,
        "limits": row.limits,
        "current_period_end": row.current_period_end.isoformat(),
    }


def _plan(row: asyncpg.Record) -> Plan:
    return plan_of(row["organization_id"], None if row["id"] is None else _subscription(row))


def _subscription(row: asyncpg.Record) -> Subscription:
    return checked({**row, "limits": msgspec.json.decode(row["limits"])}, Subscription)


def _found(row: asyncpg.Record | None) -> Subscription:
    if row is None:
        raise _no_such()
    return _subscription(row)


def _no_such() -> NotFound:
    return NotFound("no such subscription", "subscription_id")
