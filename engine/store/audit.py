"""The audit log: entries are added in the transaction of the act that they tell of, and never
changed."""

from typing import Any

from taskforge_server.engine.model.audit import Actor, AuditEntry, state_text
from taskforge_server.engine.store.pool import Lent
from taskforge_server.engine.store.statements import sql


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
