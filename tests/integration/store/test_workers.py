"""Workers: written many at once, seen by their project alone."""

from datetime import UTC, datetime, timedelta

import pytest

from taskforge_server.engine.errors import NotFound
from taskforge_server.engine.model.worker import Worker
from taskforge_server.engine.store.pool import Pool
from taskforge_server.engine.store.tenants import Projects
from taskforge_server.engine.store.workers import Workers
from tests.integration.store.conftest import Tenant

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
    assert await workers.upsert([worker(1, other), worker(2, other)]) == {(2).to_bytes(16)}
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
