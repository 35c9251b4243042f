"""Tasks that run as long as the node does; one that ends with an error ends the node."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from taskforge_server.engine.errors import EnvironmentalError

log = logging.getLogger(__name__)


class Background:
    """The long-running tasks of a node."""

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run it until `stop`."""
        assert name not in self._tasks, name
        task = self._tasks[name] = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)

    def every(self, name: str, interval_s: float, step: Callable[[], object]) -> None:
        """Call `step` at an interval; an error of one call does not end the next ones."""

        async def repeat() -> None:
            while True:
                await asyncio.sleep(interval_s)
                try:
                    found = step()
                    if asyncio.iscoroutine(found):
                        await found
                except EnvironmentalError as error:
                    log.warning("%s: %s", name, error)
                except Exception:
                    log.exception("%s failed", name)

        self.start(name, repeat())

    async def stop(self, *names: str) -> None:
        """End these tasks, or all."""
        ended = [self._tasks.pop(name) for name in names or list(self._tasks)]
        for task in ended:
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)

    async def wait(self, name: str) -> None:
        """Wait for a task that ends by itself."""
        task = self._tasks.pop(name)
        await asyncio.gather(task, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, Exception):
            log.error("%s ended: %r", task.get_name(), error, exc_info=error)
            self._failed(error)
