"""Connections to Postgres, with a deadline on everything that may hang, and its promises checked.

Ids cross as 16 raw bytes (`uuid` and `uuid[]`); times as aware datetimes in UTC; `json` and `jsonb`
as text, which nobody here decodes.

A dead peer is found by three means: the kernel (keepalive, TCP user timeout), the client (a timeout
on acquire, connect and command), the server (`statement_timeout`). A connection whose command timed
out or was cancelled in flight is closed by asyncpg's pool, never given to the next caller.
"""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg

from taskforge_server.engine import limits
from taskforge_server.engine.errors import ConfigError, Unavailable
from taskforge_server.engine.store.statements import sql

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Lent: TypeAlias = "Connection | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
"""A connection of our own, or one lent by the pool."""

SERVER_VERSION_MIN = 16
PROMISES = ("fsync", "full_page_writes", "synchronous_commit")
"""What an acknowledged commit rests on. `synchronous_commit` may also be `remote_apply`."""

UNREACHABLE = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # starting, stopping, or our statement_timeout
    asyncpg.InsufficientResourcesError,  # too many connections, disk or memory full
    asyncpg.InternalClientError,
)
"""What a server that is away, starting, stopping or full looks like."""


async def connect(
    url: str, *, application_name: str, statement_timeout_s: float = limits.STATEMENT_TIMEOUT_S
) -> Connection:
    """One connection for an owner of its own: the journal, the projector, a migration."""
    connection: Connection = await asyncpg.connect(
        url, **_options(application_name, statement_timeout_s)
    )
    try:
        await _prepare(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def open_pool(url: str, *, application_name: str, connections_max: int) -> Pool:
    """A pool for reads and configuration; connects at once, so that a wrong URL is found here:
    Unavailable, which says what the server or the network said."""
    pool: Pool = asyncpg.create_pool(
        url,
        min_size=1,
        max_size=connections_max,
        init=_prepare,
        **_options(application_name, limits.STATEMENT_TIMEOUT_S),
    )
    try:
        await pool
    except (OSError, asyncpg.PostgresError) as error:
        told = str(error) or type(error).__name__
        message = f"PostgreSQL cannot be used: {told} (postgres_url says where it is)"
        raise Unavailable(message=message) from error
    return pool


@asynccontextmanager
async def acquire(pool: Pool) -> AsyncIterator[Lent]:
    """Borrow a connection; `Unavailable` when there is none in time or the server goes away."""
    try:
        async with pool.acquire(timeout=limits.ACQUIRE_TIMEOUT_S) as connection:
            yield connection
    except UNREACHABLE as error:
        raise Unavailable(message="the database is not available now: try again") from error
    except asyncpg.InterfaceError as error:
        if isinstance(error, ValueError):  # an argument of the wrong type is our mistake
            raise
        raise Unavailable(message="the database is not available now: try again") from error


async def check_server(connection: Lent, *, unsafe: bool) -> None:
    """Refuse a server that is too old, or that may forget commits (unless `unsafe`)."""
    row = await connection.fetchrow(sql("server_check"))
    assert row is not None
    if row["version"] // 10_000 < SERVER_VERSION_MIN:
        problem = f"PostgreSQL {row['version'] // 10_000} is too old: {SERVER_VERSION_MIN} or later"
        raise ConfigError("postgres_url", "its server", problem)
    weak = [name for name in PROMISES if row[name] not in ("on", "remote_apply")]
    if weak and not unsafe:
        problem = (
            f"{', '.join(weak)} must be on, or acknowledged jobs are lost in a crash; "
            "for experiments set unsafe=true"
        )
        raise ConfigError("postgres_url", "its server", problem)


def _options(application_name: str, statement_timeout_s: float) -> dict[str, Any]:
    return {
        "timeout": limits.CONNECT_TIMEOUT_S,
        # The server's timeout comes first: it leaves the connection usable.
        "command_timeout": statement_timeout_s + limits.CONNECT_TIMEOUT_S,
        "server_settings": {
            "application_name": application_name,
            "statement_timeout": str(int(statement_timeout_s * 1000)),
            "idle_in_transaction_session_timeout": str(int(statement_timeout_s * 1000)),
            "timezone": "UTC",
            "tcp_keepalives_idle": str(limits.TCP_KEEPALIVE_IDLE_S),
            "tcp_keepalives_interval": str(limits.TCP_KEEPALIVE_INTERVAL_S),
            "tcp_keepalives_count": str(limits.TCP_KEEPALIVE_COUNT),
            "tcp_user_timeout": str(int(limits.TCP_USER_TIMEOUT_S * 1000)),
        },
    }


async def _prepare(connection: Lent) -> None:
    """What every new connection gets; asyncpg awaits it before anybody else has it."""
    _watch_peer(connection)
    await connection.set_type_codec(
        "uuid", schema="pg_catalog", encoder=bytes, decoder=bytes, format="binary"
    )


def _watch_peer(connection: Lent) -> None:
    """Let the kernel end a TCP connection whose peer no longer answers."""
    # asyncpg offers no way to its socket but this attribute.
    transport = getattr(connection, "_transport", None)
    peer = transport.get_extra_info("socket") if transport is not None else None
    if peer is None or peer.family not in (socket.AF_INET, socket.AF_INET6):
        return
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", limits.TCP_KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", limits.TCP_KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", limits.TCP_KEEPALIVE_COUNT),
        ("TCP_USER_TIMEOUT", int(limits.TCP_USER_TIMEOUT_S * 1000)),
    ):
        if hasattr(socket, name):  # not every system has all of them
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
