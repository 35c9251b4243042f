"""Bootstrap, organisations, projects, API keys."""

import asyncio
from datetime import UTC, datetime

import pytest

from taskforge_server.engine.errors import ConfigError, Conflict, NotFound
from taskforge_server.engine.store.api_keys import ApiKeys, NewKey
from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.pool import Connection, Pool
from taskforge_server.engine.store.tenants import Organizations, Projects
from tests.integration.store.conftest import Tenant


async def test_bootstrap_makes_what_is_missing_once(connection: Connection, pool: Pool) -> None:
    first = await bootstrap(connection, 64)
    assert first.new_api_key is not None
    key = await ApiKeys(pool).find(first.new_api_key)
    assert key is not None
    assert key.project_id == first.project_id
    assert key.has_permission("anything")
    second = await bootstrap(connection, 64)
    assert (second.project_id, second.new_api_key) == (first.project_id, None)
    assert (await Projects(pool).get(first.project_id)).organization_id == first.organization_id
    assert (await Organizations(pool).get(first.organization_id)).name == "default"


async def test_bootstrap_on_several_nodes_at_once(pool: Pool) -> None:
    async def one() -> tuple[bytes, str | None]:
        async with pool.acquire() as connection:
            made = await bootstrap(connection, 64)
            return made.project_id, made.new_api_key

    results = await asyncio.gather(*(one() for _ in range(4)))
    assert len({project for project, _ in results}) == 1
    assert len([key for _, key in results if key is not None]) == 1


async def test_bootstrap_with_a_given_key(connection: Connection, pool: Pool) -> None:
    for _ in range(2):
        made = await bootstrap(connection, 64, "a-key-of-our-own")
        assert made.new_api_key is None
    key = await ApiKeys(pool).find("a-key-of-our-own")
    assert key is not None
    assert key.project_id == made.project_id


async def test_the_number_of_shards_is_fixed(connection: Connection) -> None:
    await bootstrap(connection, 64)
    with pytest.raises(ConfigError, match=r"shards.*32 is not 64"):
        await bootstrap(connection, 32)


async def test_keys_are_stored_as_hashes_only(connection: Connection) -> None:
    made = await bootstrap(connection, 64)
    assert made.new_api_key is not None
    rows = await connection.fetch("SELECT * FROM api_keys")
    assert rows
    assert made.new_api_key not in str(rows)


async def test_unknown_keys_and_parents(pool: Pool, tenant: Tenant) -> None:
    keys = ApiKeys(pool)
    assert await keys.find("unknown") is None
    with pytest.raises(NotFound):
        await keys.create(tenant.organization_id, bytes(16), NewKey("k", "text", []))
    with pytest.raises(NotFound):
        await Projects(pool).create(bytes(16), "p")
    with pytest.raises(NotFound):
        await Projects(pool).get(bytes(16))
    with pytest.raises(NotFound):
        await Organizations(pool).get(bytes(16))
    new = NewKey("k", "text", ["jobs:read"])
    await keys.create(tenant.organization_id, tenant.project_id, new)
    with pytest.raises(Conflict):
        await keys.create(tenant.organization_id, tenant.project_id, new)


async def test_last_use_never_goes_back(pool: Pool, tenant: Tenant) -> None:
    keys = ApiKeys(pool)
    key = await keys.create(tenant.organization_id, tenant.project_id, NewKey("k", "text", []))
    late, early = datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
    for at in (late, early):
        await keys.used({key.id: at})
    found = await keys.find("text")
    assert found is not None
    assert found.last_used_at == late
