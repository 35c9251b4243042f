"""The parts of a process, started in order and stopped in the reverse order.

    new --start--> running --stop--> stopped

A part that fails to start stops those before it, last first, and the error goes on. A part that
fails or hangs while it stops does not keep the others from stopping.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from taskforge_server.engine import limits

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """Something with a life: how it starts and how it stops."""

    name: str
    start: Callable[[], Awaitable[object]] | None = None
    stop: Callable[[], Awaitable[object]] | None = None


class Services:
    """Parts in the order of their start."""

    def __init__(self) -> None:
        self._started: list[Part] = []

    async def start(self, part: Part) -> None:
        """Start one part after those that run; if it fails, stop them all."""
        log.debug("start %s", part.name)
        try:
            if part.start is not None:
                await part.start()
        except BaseException:
            await self.stop()
            raise
        self._started.append(part)

    async def stop(self) -> None:
        """Stop all, last first; each within its time."""
        while self._started:
            part = self._started.pop()
            if part.stop is None:
                continue
            log.debug("stop %s", part.name)
            try:
                async with asyncio.timeout(limits.PART_STOP_S):
                    await part.stop()
            except Exception:
                log.exception("%s did not stop cleanly", part.name)
