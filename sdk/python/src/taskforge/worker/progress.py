"""Words of handlers on how far they are, on their way to the server.

    say ──► the newest of each job ──when due, or before an end of a job is sent──► frame

Handlers speak from any thread and never wait; the rest belongs to the loop. Words are coalesced: a
job that speaks often is told of some five times a second. They are not acknowledged, and what is
said while there is no connection is forgotten: the next word says more.
"""

import asyncio
import threading
from collections.abc import Callable
from time import monotonic

from taskforge.context import Context
from taskforge.limits import PROGRESS_FRAME_MAX, PROGRESS_JOBS_MAX, PROGRESS_LINGER_S
from taskforge.worker import frames


class Words:
    """Gathers what handlers say, and seals it into frames."""

    def __init__(self, loop: asyncio.AbstractEventLoop, flush: Callable[[], None]) -> None:
        """`flush` is called in the loop when there is something to send."""
        self.per_s = 0
        """Words that the server takes in a second; 0: none."""
        self._loop = loop
        self._flush = flush
        self._lock = threading.Lock()
        self._newest: dict[bytes, frames.Word] = {}
        self._scheduled = False
        self._room = 0.0
        self._filled_at = self._sent_at = 0.0

    def say(self, context: Context, percent: float | None, message: str | None) -> None:
        """A handler tells how far it is. From any thread."""
        token = context._token
        with self._lock:
            if not self.per_s or (
                token not in self._newest and len(self._newest) >= PROGRESS_JOBS_MAX
            ):
                return
            self._newest[token] = (token, percent, message)
            wake = not self._scheduled
            self._scheduled = True
        if wake:
            try:
                self._loop.call_soon_threadsafe(self._linger)
            except RuntimeError:
                pass  # the loop is closed: nobody sends this any more

    def _linger(self) -> None:
        """The first word goes at once; those that follow are gathered."""
        self._loop.call_later(max(0.0, self._sent_at + PROGRESS_LINGER_S - monotonic()), self._due)

    def _due(self) -> None:
        with self._lock:
            self._scheduled = False
        self._flush()

    def seal(self, connected: bool) -> list[bytes]:
        """Frames of what was said, as much as the server takes now."""
        if not self._newest:
            return []
        now = monotonic()
        with self._lock:
            if not connected or not self.per_s:
                self._newest.clear()
                return []
            self._room += (now - self._filled_at) * self.per_s
            self._room = min(self._room, float(self.per_s))
            self._filled_at = now
            count = min(len(self._newest), int(self._room))
            self._room -= count
            words = [self._newest.pop(token) for token in list(self._newest)[:count]]
            again = bool(self._newest) and not self._scheduled
            self._scheduled = self._scheduled or again
        self._sent_at = now
        if again:
            self._linger()
        parts = range(0, len(words), PROGRESS_FRAME_MAX)
        return [frames.progress(words[at : at + PROGRESS_FRAME_MAX]) for at in parts]
