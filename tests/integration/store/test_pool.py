"""Connections: how ids cross, which servers are refused, what an absent server looks like."""

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from taskforge_server.api.cli.embedded import EmbeddedServers
from taskforge_server.engine.errors import ConfigError, Unavailable
from taskforge_server.engine.store.pool import Connection, Pool, acquire, check_server, open_pool
from tests.support.servers import temporary_servers


@pytest.fixture
def own_servers() -> Iterator[EmbeddedServers]:
    """Servers that the test may kill."""
    with temporary_servers() as servers:
        yield servers


async def test_ids_cross_as_bytes(pool: Pool) -> None:
    one = uuid.uuid4()
    async with acquire(pool) as connection:
        assert await connection.fetchval("SELECT $1::uuid", one.bytes) == one.bytes
        assert await connection.fetchval("SELECT $1::uuid::text", one.bytes) == str(one)
        assert await connection.fetchval("SELECT $1::uuid[]", [one.bytes]) == [one.bytes]


async def test_a_sound_server_passes(connection: Connection) -> None:
    await check_server(connection, unsafe=False)


async def test_a_server_that_forgets_is_refused(connection: Connection) -> None:
    for value in ("off", "local"):
        await connection.execute(f"SET synchronous_commit = {value}")
        with pytest.raises(ConfigError, match=r"synchronous_commit must be on.*unsafe=true"):
            await check_server(connection, unsafe=False)
        await check_server(connection, unsafe=True)


async def test_fsync_off_is_refused() -> None:
    with temporary_servers({"fsync": "off", "full_page_writes": "off"}) as servers:
        pool = await open_pool(servers.postgres_url, application_name="test", connections_max=1)
        async with acquire(pool) as connection:
            with pytest.raises(ConfigError, match="fsync, full_page_writes must be on"):
                await check_server(connection, unsafe=False)
        await pool.close()


async def test_a_statement_has_a_deadline(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskforge_server.engine.limits.STATEMENT_TIMEOUT_S", 0.05)
    pool = await open_pool(postgres_url, application_name="test", connections_max=1)
    with pytest.raises(Unavailable):
        async with acquire(pool) as connection:
            await connection.execute("SELECT pg_sleep(60)")
    async with acquire(pool) as connection:
        assert await connection.fetchval("SELECT 1") == 1
    await pool.close()


async def test_a_pool_that_is_exhausted(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskforge_server.engine.limits.ACQUIRE_TIMEOUT_S", 0.05)
    pool = await open_pool(postgres_url, application_name="test", connections_max=1)
    async with acquire(pool):
        with pytest.raises(Unavailable):
            async with acquire(pool):
                raise AssertionError("a second connection")
    await pool.close()


async def test_a_cancelled_command_leaves_nothing_for_the_next(postgres_url: str) -> None:
    pool = await open_pool(postgres_url, application_name="test", connections_max=1)

    async def slow() -> None:
        async with acquire(pool) as connection:
            sent.set()
            await connection.fetchval("SELECT pg_sleep(60), 'late'")

    for number in range(5):
        sent = asyncio.Event()
        task = asyncio.create_task(slow())
        await sent.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with acquire(pool) as connection:
            assert await connection.fetchval("SELECT $1::int", number) == number
    await pool.close()


async def test_wrong_arguments_are_our_mistake(pool: Pool) -> None:
    wrong: Any = "not a number"
    with pytest.raises(asyncpg.DataError):
        async with acquire(pool) as connection:
            await connection.fetchval("SELECT $1::int", wrong)


async def test_a_server_that_dies_and_comes_back(own_servers: EmbeddedServers) -> None:
    pool = await open_pool(own_servers.postgres_url, application_name="test", connections_max=2)
    own_servers.postgres.kill()
    with pytest.raises(Unavailable):
        async with acquire(pool) as connection:
            await connection.fetchval("SELECT 1")
    with pytest.raises(Unavailable):
        async with acquire(pool) as connection:
            await connection.fetchval("SELECT 1")
    await asyncio.to_thread(own_servers.postgres.start)
    async with acquire(pool) as connection:
        assert await connection.fetchval("SELECT 1") == 1
    await pool.close()


async def test_a_session_that_is_terminated(pool: Pool, connection: Connection) -> None:
    async def lose_it() -> None:
        async with acquire(pool) as victim:
            pid = victim.get_server_pid()
            await connection.execute("SELECT pg_terminate_backend($1, 5000)", pid)
            await victim.fetchval("SELECT 1")

    with pytest.raises(Unavailable):
        await lose_it()
    async with acquire(pool) as other:
        assert await other.fetchval("SELECT 1") == 1
