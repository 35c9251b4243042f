"""One connection that is ours alone, made again when it broke; and what a broken one looks like.

    absent --get--> open --discard, or found closed--> absent

A statement that failed in doubt, timed out or was cancelled leaves a connection whose state nobody
knows: its owner discards it. `get` connects once; how often to try is the owner's business, with
`Backoff` between the tries.

    error of class 22, 23      the data are at fault: another try with the same data fails too
    error of class 0A, 42      the statement is at fault: our mistake, or a schema that is not ours
    all others                 the environment: the server is away, full, starting, failing over
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import asyncpg

from taskforge_server.engine import limits

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Connect: TypeAlias = Callable[[], Awaitable[Connection]]
"""Makes a connection that gives and takes ids as 16 raw bytes."""

DATA_CLASSES: Final = ("22", "23")
STATEMENT_CLASSES: Final = ("0A", "42")

DATABASE_ERRORS: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # A statement meets a connection that the server has ended but not closed yet.
    asyncpg.InternalClientError,
)
"""What a call to the driver raises for a reason outside this process, or for its data."""


class Link:
    """One connection, or none at the moment."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self.connects = 0
        """How many connections were made."""

    async def get(self) -> Connection:
        """The open connection, or a new one; raises what the driver raises."""
        connection = self.here
        if connection is None:
            self._connection = None
            connection = await self._connect()
            self._connection = connection
            self.connects += 1
        return connection

    @property
    def here(self) -> "Connection | None":
        """The connection, if it is open now."""
        connection = self._connection
        return None if connection is None or connection.is_closed() else connection

    def discard(self) -> None:
        """Cut the connection without a word to the server."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def close(self) -> None:
        """Say goodbye to the server, but not for long."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            await connection.close(timeout=limits.CONNECT_TIMEOUT_S)
        except DATABASE_ERRORS:
            connection.terminate()


class Backoff:
    """Pauses between tries: each twice the one before, up to a bound."""

    def __init__(self) -> None:
        self._next_s = limits.RECONNECT_PAUSE_S_MIN

    async def pause(self, left_s: float = limits.RECONNECT_PAUSE_S_MAX) -> None:
        """Wait, but not beyond what is left of a deadline."""
        pause_s = min(self._next_s, left_s)
        self._next_s = min(self._next_s * 2, limits.RECONNECT_PAUSE_S_MAX)
        await asyncio.sleep(pause_s)


def is_data_error(error: BaseException) -> bool:
    """The rows are at fault, not the server and not the statement."""
    if isinstance(error, asyncpg.DataError):  # found by the driver, or class 22
        return True
    return isinstance(error, asyncpg.PostgresError) and _class(error) in DATA_CLASSES


def is_statement_error(error: BaseException) -> bool:
    """The statement does not fit the schema."""
    return isinstance(error, asyncpg.PostgresError) and _class(error) in STATEMENT_CLASSES


def is_environmental(error: BaseException) -> bool:
    """Trying again later may succeed."""
    return (
        isinstance(error, DATABASE_ERRORS)
        and not is_data_error(error)
        and not is_statement_error(error)
    )


def _class(error: asyncpg.PostgresError) -> str:
    return (getattr(error, "sqlstate", None) or "")[:2]
