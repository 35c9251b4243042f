"""Assignments: between a queue and a worker of one project, counted, audited."""

from datetime import UTC, datetime

import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Conflict, InvalidInput, NotFound
from taskforge_server.engine.model.worker import Worker
from taskforge_server.engine.store.assignments import Assignments
from taskforge_server.engine.store.audit import AuditFilter, AuditLog
from taskforge_server.engine.store.pool import Connection, Pool
from taskforge_server.engine.store.workers import Workers
from tests.integration.store.conftest import Tenant
from tests.support.tenancy import assignment, make_queue, stranger

NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def make_workers(pool: Pool, project_id: bytes, *ids: bytes) -> None:
    rows = [Worker(id=key, project_id=project_id, name="w", created_at=NOW) for key in ids]
    await Workers(pool).upsert(rows)


A, B = b"a" * 16, b"b" * 16


async def test_make_change_list_and_take_back(pool: Pool, tenant: Tenant) -> None:
    assignments = Assignments(pool)
    ids = tenant.organization_id, tenant.project_id
    mail, slow = [await make_queue(pool, tenant.project_id, name) for name in ("mail", "slow")]
    await make_workers(pool, tenant.project_id, A, B)
    made = await assignments.put(*ids, assignment(mail, A, 3))
    made.validate()
    assert (made.weight, made.is_active) == (3, True)
    await assignments.put(*ids, assignment(mail, B))
    await assignments.put(*ids, assignment(slow, B, 7))
    assert await assignments.active() == {mail: {A: 3, B: 1}, slow: {B: 7}}
    changed = await assignments.put(*ids, assignment(mail, A, 5, is_active=False))
    assert changed.created_at == made.created_at
    assert await assignments.put(*ids, assignment(mail, A, 5, is_active=False)) == changed
    assert await assignments.get(tenant.project_id, mail, A) == changed
    assert await assignments.active([mail]) == {mail: {B: 1}}
    first, cursor = await assignments.page(tenant.project_id, mail, None, 1)
    second, end = await assignments.page(tenant.project_id, mail, cursor, 1)
    assert ([row.worker_id for row in first + second], end) == ([A, B], None)
    await assignments.delete(*ids, mail, B)
    with pytest.raises(NotFound):
        await assignments.delete(*ids, mail, B)
    assert await assignments.active([mail]) == {}
    entries, _ = await AuditLog(pool).page(tenant.organization_id, AuditFilter())
    # What was so already is no act.
    assert [entry.action for entry in entries if entry.action.startswith("assignment")] == [
        "assignment.delete",
        "assignment.update",
        "assignment.create",
        "assignment.create",
        "assignment.create",
    ]


async def test_what_is_not_there_cannot_be_assigned(
    pool: Pool, tenant: Tenant, connection: Connection
) -> None:
    assignments = Assignments(pool)
    ids = tenant.organization_id, tenant.project_id
    queue = await make_queue(pool, tenant.project_id)
    await make_workers(pool, tenant.project_id, A)
    with pytest.raises(NotFound) as no_worker:
        await assignments.put(*ids, assignment(queue))
    assert no_worker.value.code == "worker_not_found"
    with pytest.raises(NotFound) as no_queue:
        await assignments.put(*ids, assignment(b"q" * 16, A))
    assert no_queue.value.code == "queue_not_found"
    with pytest.raises(InvalidInput):
        await assignments.put(*ids, assignment(queue, A, limits.ASSIGNMENT_WEIGHT_MAX + 1))
    other = await stranger(connection)
    foreign = await make_queue(pool, other[1])
    await make_workers(pool, other[1], B)
    for queue_id, worker_id in ((queue, B), (foreign, A), (foreign, B)):
        with pytest.raises(NotFound):
            await assignments.put(*ids, assignment(queue_id, worker_id))
    await assignments.put(*ids, assignment(queue, A))
    with pytest.raises(NotFound):
        await assignments.get(other[1], queue, A)
    with pytest.raises(NotFound):
        await assignments.delete(*other, queue, A)
    assert await assignments.page(other[1], queue) == ([], None)


async def test_a_queue_has_a_bounded_number(
    pool: Pool, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "QUEUE_ASSIGNMENTS_MAX", 1)
    assignments = Assignments(pool)
    ids = tenant.organization_id, tenant.project_id
    queue = await make_queue(pool, tenant.project_id)
    await make_workers(pool, tenant.project_id, A, B)
    await assignments.put(*ids, assignment(queue, A))
    with pytest.raises(Conflict) as full:
        await assignments.put(*ids, assignment(queue, B))
    assert full.value.code == "too_many_assignments"
    await assignments.put(*ids, assignment(queue, A, 9))


async def test_assignments_go_with_their_queue(
    pool: Pool, tenant: Tenant, connection: Connection
) -> None:
    assignments = Assignments(pool)
    queue = await make_queue(pool, tenant.project_id)
    await make_workers(pool, tenant.project_id, A)
    await assignments.put(tenant.organization_id, tenant.project_id, assignment(queue, A))
    await connection.execute("UPDATE job_queues SET archived_at = now() WHERE id = $1", queue)
    assert await assignments.active() == {}
    await connection.execute("DELETE FROM job_queues WHERE id = $1", queue)
    assert await connection.fetchval("SELECT count(*) FROM queue_worker_assignments") == 0
