"""The soft time limit of async handlers: an exception at the place where the handler waits.

A task can only be cancelled. So the coroutine is driven by `Softly`, which turns the cancellation
that it asked for itself into a SoftTimeout on the way in, and leaves every other alone.
"""

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any

from taskforge.errors import SoftTimeout


class Softly:
    """Awaits a coroutine; `fire` raises SoftTimeout in it, once."""

    __slots__ = ("_coroutine", "_fired")

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._fired = False

    def fire(self, task: asyncio.Task[Any]) -> None:
        """The handler, suspended in this task, is over its soft limit."""
        self._fired = True
        task.cancel()

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine = self._coroutine
        error: BaseException | None = None
        while True:
            try:
                waited = coroutine.send(None) if error is None else coroutine.throw(error)
            except StopIteration as end:
                return end.value
            error = None
            try:
                yield waited
            except GeneratorExit:
                coroutine.close()
                raise
            except asyncio.CancelledError as cancelled:
                error = self._meant(cancelled)
            except BaseException as other:  # noqa: BLE001 - it is the handler's to see
                error = other

    def _meant(self, cancelled: asyncio.CancelledError) -> BaseException:
        """Ours, or that of somebody who wants the handler to end."""
        fired, self._fired = self._fired, False
        task = asyncio.current_task()
        if not fired or task is None or task.cancelling() != 1:
            return cancelled
        task.uncancel()
        return SoftTimeout("the soft time limit is over")
