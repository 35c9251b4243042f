"""The audit log: entries are added in the transaction of the act that they tell of, and never
changed. Each organisation has a log of its own."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from taskforge_server.engine import limits
from taskforge_server.engine.model.audit import (
    Actor,
    AuditEntry,
    AuditHead,
    Chain,
    Verdict,
    state_text,
)
from taskforge_server.engine.store.cursors import AUDIT, after_number, number_cursor
from taskforge_server.engine.store.pool import Lent, Pool, acquire
from taskforge_server.engine.store.statements import sql
from taskforge_server.engine.store.tenancy import tenant


async def record(
    connection: Lent,
    organization_id: bytes,
    actor: Actor,
    action: str,
    target: str,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> AuditEntry:
    """Add an entry, in the transaction of the caller's act, as its last statement: from here on
    other acts of the organisation wait for the end of the transaction.

    `action` is `<noun>.<verb>`, `target` is `<kind>:<id>`; `before` and `after` hold the fields
    that the act concerns, as JSON values."""
    if not connection.is_in_transaction():
        raise RuntimeError("an audit entry belongs to the transaction of its act")
    head = await connection.fetchrow(sql("audit_head"), organization_id)
    assert head is not None
    entry = AuditEntry(
        organization_id=organization_id,
        sequence=head["sequence"] + 1,
        at=head["at"],
        actor_kind=actor.kind,
        actor_id=actor.id or None,
        address=actor.address,
        correlation_id=actor.correlation_id,
        action=action,
        target=target,
        before=state_text(before),
        after=state_text(after),
        previous_hash=head["hash"],
    ).sealed()
    entry.validate()
    await connection.execute(sql("audit_append"), *_values(entry))
    return entry


def _values(entry: AuditEntry) -> tuple[Any, ...]:
    """In the order of the statement, which is the order of the fields."""
    return tuple(getattr(entry, name) for name in entry.__struct_fields__)


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries; None does not matter."""

    actor_id: bytes | None = None
    action: str | None = None
    target: str | None = None


class QueueKept(NamedTuple):
    """What a queue's log says of jobs whose rows may be gone; None: nothing."""

    queue_id: bytes
    whole_since: datetime | None
    """Then it kept less than all for the last time."""
    failed_since: datetime | None
    """Then failed jobs were deleted, or could be, for the last time."""


class AuditLog:
    """Reads the logs."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def tell(
        self, project_id: bytes, actor: Actor, action: str, target: str, about: dict[str, Any]
    ) -> None:
        """An act of this project that is about to be done, where another log makes it durable."""
        async with acquire(self._pool) as connection, connection.transaction():
            organization_id = await connection.fetchval(sql("project_organization"), project_id)
            await record(connection, organization_id, actor, action, target, None, about)

    async def page(
        self,
        organization_id: bytes,
        wanted: AuditFilter,
        cursor: str | None = None,
        rows_max: int = limits.PAGE_ROWS_DEFAULT,
    ) -> tuple[list[AuditEntry], str | None]:
        """A page, the newest first, and the cursor of the next one."""
        before = limits.AUDIT_SEQUENCE_MAX if cursor is None else after_number(AUDIT, cursor)
        values = [organization_id, before, rows_max + 1, wanted.actor_id, wanted.action]
        name = "audit_list"
        if wanted.target is not None:
            name = "audit_list_of_target"
            values.append(wanted.target)
        async with tenant(self._pool, organization_id=organization_id) as connection:
            rows = await connection.fetch(sql(name), *values)
        page = [AuditEntry(**row) for row in rows[:rows_max]]
        more = len(rows) > rows_max
        return page, number_cursor(AUDIT, page[-1].sequence) if more else None

    async def entries(
        self, organization_id: bytes, after: int = 0
    ) -> AsyncIterator[list[AuditEntry]]:
        """All entries after the one with this number, in their order, some at a time. What is added
        meanwhile may be among them."""
        while True:
            async with tenant(self._pool, organization_id=organization_id) as connection:
                rows = await connection.fetch(
                    sql("audit_from"), organization_id, after, limits.AUDIT_READ_ROWS
                )
            if rows:
                yield [AuditEntry(**row) for row in rows]
                after = rows[-1]["sequence"]
            if len(rows) < limits.AUDIT_READ_ROWS:
                return

    async def verify(self, organization_id: bytes, noted: AuditHead | None = None) -> Verdict:
        """Read the whole log and its head as of one moment, and check every link."""
        chain = Chain(noted)
        async with (
            acquire(self._pool) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            await connection.fetchrow(sql("tenant"), organization_id.hex(), "")
            row = await connection.fetchrow(sql("audit_head_get"), organization_id)
            head = AuditHead() if row is None else AuditHead(row["sequence"], row["hash"])
            while True:
                rows = await connection.fetch(
                    sql("audit_from"), organization_id, chain.last.sequence, limits.AUDIT_READ_ROWS
                )
                for entry in rows:
                    chain.add(AuditEntry(**entry))
                if len(rows) < limits.AUDIT_READ_ROWS:
                    break
        chain.end(head)
        return Verdict(head, chain.faults)

    async def organizations(self) -> list[bytes]:
        """Whoever has a log, or should have one."""
        async with acquire(self._pool) as connection:
            return [row["id"] for row in await connection.fetch(sql("audit_organizations"))]

    async def queues_kept(self) -> list[QueueKept]:
        """Of all queues that were ever told to keep less than all, or purged."""
        async with acquire(self._pool) as connection:
            return [QueueKept(*row) for row in await connection.fetch(sql("audit_queues_kept"))]
