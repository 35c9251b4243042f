"""When API keys were last used: gathered in memory, written now and then for all keys at once.

What is not written when the process dies is told by the next use of the key.
"""

import asyncio
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from taskforge_server.engine import limits
from taskforge_server.engine.errors import TaskForgeError

log = logging.getLogger(__name__)


class UseWriter(Protocol):
    """The rows of API keys."""

    async def used(self, seen_at: Mapping[bytes, datetime]) -> None:
        """Remember when keys (by id) were last used."""
        ...


class LastUsed:
    """Runs from `start` to `stop`, which writes what is left."""

    def __init__(self, keys: UseWriter, every_s: float = limits.API_KEYS_USED_S) -> None:
        self._keys = keys
        self._every_s = every_s
        self._seen_at: dict[bytes, datetime] = {}
        self._writing = asyncio.Lock()
        self._writer: asyncio.Task[None] | None = None

    def note(self, key_id: bytes, at: datetime) -> None:
        """The key was used."""
        if len(self._seen_at) < limits.API_KEYS_USED_MAX or key_id in self._seen_at:
            self._seen_at[key_id] = at

    def start(self) -> None:
        self._writer = asyncio.create_task(self._run(), name="last use of API keys")

    async def stop(self) -> None:
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        await self.write()

    async def write(self) -> None:
        """Write what has gathered; what cannot be written now waits for the next time."""
        async with self._writing:
            seen_at, self._seen_at = self._seen_at, {}
            if not seen_at:
                return
            try:
                await self._keys.used(seen_at)
            except BaseException as error:
                self._seen_at = seen_at | self._seen_at
                if not isinstance(error, TaskForgeError):
                    raise
                log.warning("last use of %d API keys not written: %s", len(seen_at), error)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            await self.write()
