"""Dependencies between jobs: of one project only, made once, listed from both ends."""

import pytest

from taskforge_server.engine.errors import InvalidInput, NotFound
from taskforge_server.engine.store.dependencies import JobDependencies
from taskforge_server.engine.store.pool import Connection, Pool
from taskforge_server.engine.store.tenants import Projects
from tests.integration.store.conftest import Tenant
from tests.support.rows import Rows, copy_jobs

START_US = 1_740_823_200_000_000


async def _jobs(connection: Connection, project_id: bytes, count: int, shard: int) -> list[bytes]:
    rows = Rows(shard, bytes(16), project_id, START_US)
    jobs = [rows.job() for _ in range(count)]
    await copy_jobs(connection, jobs)
    return [job["id"] for job in jobs]


async def test_from_its_making_to_its_end(
    pool: Pool, connection: Connection, tenant: Tenant
) -> None:
    table, project_id = JobDependencies(pool), tenant.project_id
    first, second, child = await _jobs(connection, project_id, 3, 1)
    made = await table.create(project_id, first, child)
    assert await table.create(project_id, first, child) == made
    await table.create(project_id, second, child)
    assert await table.get(project_id, first, child) == made
    page, cursor = await table.parents(project_id, child, None, 1)
    assert ([row.parent_job_id for row in page], cursor is None) == ([first], False)
    page, cursor = await table.parents(project_id, child, cursor, 1)
    assert ([row.parent_job_id for row in page], cursor) == ([second], None)
    page, cursor = await table.children(project_id, first)
    assert ([row.child_job_id for row in page], cursor) == ([child], None)
    await table.delete(project_id, first, child)
    for call in (table.get, table.delete):
        with pytest.raises(NotFound):
            await call(project_id, first, child)
    with pytest.raises(InvalidInput):
        await table.create(project_id, child, child)


async def test_of_one_project_only(pool: Pool, connection: Connection, tenant: Tenant) -> None:
    table, project_id = JobDependencies(pool), tenant.project_id
    other = (await Projects(pool).create(tenant.organization_id, "other")).id
    parent, child = await _jobs(connection, project_id, 2, 1)
    (theirs,) = await _jobs(connection, other, 1, 2)
    for pair in ((parent, theirs), (theirs, child), (parent, bytes(16))):
        with pytest.raises(NotFound):
            await table.create(project_id, *pair)
    await table.create(project_id, parent, child)
    for call in (table.get, table.create, table.delete):
        with pytest.raises(NotFound):
            await call(other, parent, child)
    assert await table.parents(other, child) == ([], None)
    assert await table.children(other, parent) == ([], None)
    assert await table.get(project_id, parent, child)
