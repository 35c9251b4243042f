"""Asks the server for the parents of jobs that this worker runs, with the worker's own credential.

Connections are made when the first handler asks.
"""

from taskforge.client.async_caller import AsyncCaller
from taskforge.client.blocking_caller import Caller
from taskforge.client.graph_calls import list_parents_of_lease
from taskforge.client.models import Parent
from taskforge.limits import REQUEST_TIMEOUT_S, RETRIES_DEFAULT
from taskforge.settings import Server


class Parents:
    """One per worker."""

    def __init__(self, server: Server, worker_id: str) -> None:
        self._server = server
        self._worker_id = worker_id
        self._caller: AsyncCaller | None = None

    async def fetch(self, job_id: str, lease: int) -> list[Parent]:
        """In the worker's loop."""
        if self._caller is None:
            self._caller = AsyncCaller(self._server, RETRIES_DEFAULT, REQUEST_TIMEOUT_S)
        found: list[Parent] = []
        cursor = None
        while True:
            call = list_parents_of_lease(cursor, self._worker_id, job_id, lease)
            page = await self._caller.execute(call)
            found += page.items
            cursor = page.next_cursor
            if cursor is None:
                return found

    def fetch_blocking(self, job_id: str, lease: int) -> list[Parent]:
        """In a thread, over a connection of its own."""
        found: list[Parent] = []
        cursor = None
        with Caller(self._server, RETRIES_DEFAULT, REQUEST_TIMEOUT_S) as caller:
            while True:
                call = list_parents_of_lease(cursor, self._worker_id, job_id, lease)
                page = caller.execute(call)
                found += page.items
                cursor = page.next_cursor
                if cursor is None:
                    return found

    async def close(self) -> None:
        """Give the connections back."""
        if self._caller is not None:
            await self._caller.close()
