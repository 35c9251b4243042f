"""A pool on a fresh database, with one project to own things."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.pool import Connection, Pool, connect, open_pool


@dataclass(frozen=True)
class Tenant:
    organization_id: bytes
    project_id: bytes


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[Pool]:
    opened = await open_pool(postgres_url, application_name="test", connections_max=4)
    yield opened
    await opened.close()


@pytest.fixture
async def connection(postgres_url: str) -> AsyncIterator[Connection]:
    opened = await connect(postgres_url, application_name="test")
    yield opened
    await opened.close()


@pytest.fixture
async def tenant(connection: Connection) -> Tenant:
    made = await bootstrap(connection, shards=64)
    return Tenant(made.organization_id, made.project_id)
