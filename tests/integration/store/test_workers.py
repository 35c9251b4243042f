"""Workers: written many at once, seen by their project alone."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskforge_server.engine.errors import Conflict, NotFound
from taskforge_server.engine.model.worker import Worker
from taskforge_server.engine.store.assignments import Assignments
from taskforge_server.engine.store.audit import AuditFilter, AuditLog
from taskforge_server.engine.store.pool import Connection, Pool
from taskforge_server.engine.store.tenants import Projects
from taskforge_server.engine.store.workers import Workers
from tests.integration.store.conftest import Tenant
from tests.support.tenancy import assignment, make_queue, stranger

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def worker(number: int, project_id: bytes, **fields: object) -> Worker:
    row = {"name": f"w{number}", "status": "online", "last_heartbeat": NOW} | fields
    return Worker(id=number.to_bytes(16), project_id=project_id, created_at=NOW, **row)  # type: ignore[arg-type]


async def test_upsert(pool: Pool, tenant: Tenant) -> None:
    workers = Workers(pool)
    first = [worker(number, tenant.project_id) for number in range(1, 4)]
    assert await workers.upsert(first) == {entry.id for entry in first}
    again = worker(1, tenant.project_id, name="renamed", worker_type="specialized_io")
    assert await workers.upsert([again]) == {again.id}
    found = await workers.get(tenant.project_id, again.id)
    found.validate()
    assert (found.name, found.worker_type, found.status) == ("renamed", "specialized_io", "online")


async def test_an_id_of_another_project_is_left_alone(pool: Pool, tenant: Tenant) -> None:
    workers = Workers(pool)
    other = (await Projects(pool).create(tenant.organization_id, "other")).id
    await workers.upsert([worker(1, tenant.project_id)])
    deleted = worker(3, b"d" * 16)  # its project is gone
    written = await workers.upsert([worker(1, other), worker(2, other), deleted])
    assert written == {(2).to_bytes(16)}
    with pytest.raises(NotFound):
        await workers.get(other, (1).to_bytes(16))
    assert (await workers.get(tenant.project_id, (1).to_bytes(16))).name == "w1"


async def test_news_and_silence(pool: Pool, tenant: Tenant) -> None:
    workers = Workers(pool)
    rows = [worker(number, tenant.project_id) for number in range(1, 4)]
    await workers.upsert(rows)
    later = NOW + timedelta(seconds=60)
    await workers.seen([(rows[0].id, "draining", later), (rows[1].id, "online", None)])
    await workers.forget(later)
    page, cursor = await workers.page(tenant.project_id, None, 2)
    assert [entry.status for entry in page] == ["draining", "offline"]
    assert [entry.last_heartbeat for entry in page] == [later, NOW]
    page, cursor = await workers.page(tenant.project_id, cursor, 2)
    assert [entry.status for entry in page] == ["offline"]
    assert cursor is None


async def test_a_drained_worker_stays_drained_whatever_nodes_say(
    pool: Pool, tenant: Tenant
) -> None:
    workers = Workers(pool)
    rows = [worker(number, tenant.project_id) for number in range(1, 3)]
    await workers.upsert(rows)
    ids = tenant.organization_id, tenant.project_id, rows[0].id
    drained = await workers.drain(*ids, True)
    assert (drained.status, drained.drained, drained.is_available()) == ("draining", True, False)
    await workers.seen([(rows[0].id, "online", NOW)])
    await workers.upsert([rows[0]])  # it connects again
    found = await workers.get(tenant.project_id, rows[0].id)
    assert (found.status, found.drained) == ("draining", True)
    assert await workers.drained() == {rows[0].id}
    assert await workers.drained([rows[1].id]) == set()
    await workers.seen([(rows[0].id, "offline", NOW)])
    assert (await workers.drain(*ids, True)).status == "offline"
    await workers.upsert([rows[0]])
    assert (await workers.drain(*ids, False)).status == "online"
    assert await workers.drained() == set()
    entries = await AuditLog(pool).page(tenant.organization_id, AuditFilter())
    assert [entry.action for entry in entries[0]][:2] == ["worker.resume", "worker.drain"]


async def test_heartbeats_never_go_back(pool: Pool, tenant: Tenant) -> None:
    workers = Workers(pool)
    row = worker(1, tenant.project_id)
    await workers.upsert([row])
    earlier = NOW - timedelta(seconds=60)
    await workers.seen([(row.id, "online", earlier)])
    await workers.upsert([worker(1, tenant.project_id, last_heartbeat=earlier)])
    assert (await workers.get(tenant.project_id, row.id)).last_heartbeat == NOW


async def test_lists_by_status_and_type(pool: Pool, tenant: Tenant) -> None:
    workers = Workers(pool)
    await workers.upsert(
        [
            worker(1, tenant.project_id),
            worker(2, tenant.project_id, worker_type="specialized_io"),
            worker(3, tenant.project_id, status="offline", worker_type="specialized_io"),
        ]
    )

    async def found(**wanted: Any) -> list[int]:
        page, _ = await workers.page(tenant.project_id, **wanted)
        return [int.from_bytes(entry.id) for entry in page]

    assert await found() == [1, 2, 3]
    assert await found(status="online") == [1, 2]
    assert await found(worker_type="specialized_io") == [2, 3]
    assert await found(worker_type="specialized_io", status="offline") == [3]


async def test_only_a_worker_that_is_gone_and_serves_nothing_is_deleted(
    pool: Pool, tenant: Tenant
) -> None:
    workers, assignments = Workers(pool), Assignments(pool)
    row = worker(1, tenant.project_id)
    ids = tenant.organization_id, tenant.project_id
    await workers.upsert([row])
    with pytest.raises(Conflict) as connected:
        await workers.delete(*ids, row.id)
    assert connected.value.code == "worker_connected"
    await workers.seen([(row.id, "offline", NOW)])
    queue = await make_queue(pool, tenant.project_id, "mail")
    await assignments.put(*ids, assignment(queue, row.id))
    with pytest.raises(Conflict, match="mail") as assigned:
        await workers.delete(*ids, row.id)
    assert assigned.value.code == "worker_assigned"
    await workers.expire(NOW + timedelta(days=1), 0, 10)
    await assignments.delete(*ids, queue, row.id)
    await workers.delete(*ids, row.id)
    with pytest.raises(NotFound):
        await workers.delete(*ids, row.id)


async def test_workers_that_left_long_ago_are_forgotten(pool: Pool, tenant: Tenant) -> None:
    workers = Workers(pool)
    late = NOW + timedelta(days=9)
    await workers.upsert(
        [
            worker(1, tenant.project_id, status="offline"),
            worker(2, tenant.project_id),
            worker(3, tenant.project_id, status="offline", last_heartbeat=late),
        ]
    )
    await workers.expire(NOW + timedelta(days=8), 1, 10)
    page, _ = await workers.page(tenant.project_id)
    assert [int.from_bytes(entry.id) for entry in page] == [2, 3]
    await workers.upsert(
        [
            worker(number, tenant.project_id, status="offline", last_heartbeat=later)
            for number, later in ((4, late + timedelta(days=1)), (5, late + timedelta(days=2)))
        ]
    )
    await workers.expire(NOW, 2, 10)
    page, _ = await workers.page(tenant.project_id)
    assert [int.from_bytes(entry.id) for entry in page] == [2, 4, 5]


async def test_a_foreign_worker_is_not_there(
    pool: Pool, tenant: Tenant, connection: Connection
) -> None:
    workers = Workers(pool)
    row = worker(1, tenant.project_id)
    await workers.upsert([row])
    organization_id, project_id = await stranger(connection)
    for attempt in (
        workers.get(project_id, row.id),
        workers.drain(organization_id, project_id, row.id, True),
        workers.delete(organization_id, project_id, row.id),
    ):
        with pytest.raises(NotFound):
            await attempt
    assert await workers.page(project_id) == ([], None)
    assert await workers.drained() == set()
