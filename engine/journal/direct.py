"""A statement that is called all the time and waited for, on the shortest way through the driver.

    idle --run--> under way --its tag, an error--> idle
                      '--timeout--> the connection is cut, and the call raises

`PreparedStatement.fetch` of the driver makes and ends a timer for each call, and goes through five
layers before the message is sent (docs/decisions/0032-where-a-lone-submit-waits.md). Here the
driver's protocol is called at once, and one timer, which looks again when it was too early, watches
all calls. Errors, lost connections and cancellation are the driver's, as always.

Both names of the driver that are private, `_protocol` and `_state`, are used here and nowhere else;
so releases of the driver are taken one by one (pyproject.toml).
"""

import asyncio
from typing import Any, TypeAlias

import asyncpg
from asyncpg.protocol import NO_TIMEOUT

from taskforge_server.engine.journal.link import Connection

Prepared: TypeAlias = "asyncpg.prepared_stmt.PreparedStatement[asyncpg.Record]"


class DirectStatement:
    """A prepared statement without rows; one call at a time on its connection."""

    def __init__(self, connection: Connection, prepared: Prepared, timeout_s: float) -> None:
        self._connection = connection
        # The server is told to forget the statement when this object goes.
        self._prepared = prepared
        self._protocol: Any = connection._protocol  # type: ignore[attr-defined]
        self._state: Any = prepared._state  # type: ignore[attr-defined]
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._until_s = 0.0
        """When the call under way has taken too long; 0: none is."""

    async def run(self, arguments: tuple[object, ...]) -> bytes:
        """Its command tag. Raises what the driver raises."""
        self._until_s = self._loop.time() + self._timeout_s
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._look)
        try:
            _, tag, _ = await self._protocol.bind_execute(
                self._state, arguments, "", 0, True, NO_TIMEOUT
            )
        finally:
            self._until_s = 0.0
        found: bytes = tag
        return found

    def _look(self) -> None:
        """End a call that takes too long, or look again when it would."""
        self._timer = None
        if not self._until_s:
            return
        left_s = self._until_s - self._loop.time()
        if left_s > 0.0:
            self._timer = self._loop.call_later(left_s, self._look)
        else:
            self._connection.terminate()
