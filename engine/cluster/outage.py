"""What a node says while a server that it can do without is away.

    there ──failed──► away: said once, and again every OUTAGE_TOLD_S ──over──► there: said once

Each try meets the same, twice a second: whoever reads the log wants to know when it began, that it
lasts, and when it was over.
"""

import logging
import time

from taskforge_server.engine import limits


class Outage:
    """Of one thing that is tried again and again."""

    __slots__ = ("_away", "_back", "_log", "_said_s", "_since_s")

    def __init__(self, log: logging.Logger, away: str, back: str) -> None:
        self._log = log
        self._away = away
        self._back = back
        self._since_s: float | None = None
        self._said_s = 0.0

    def failed(self, error: BaseException) -> None:
        """It did not work."""
        now_s = time.monotonic()
        if self._since_s is None:
            self._since_s = now_s
            self._log.warning("%s: %r", self._away, error)
        elif now_s - self._said_s >= limits.OUTAGE_TOLD_S:
            self._log.warning("%s, for %d s now: %r", self._away, now_s - self._since_s, error)
        else:
            return
        self._said_s = now_s

    def over(self) -> None:
        """It worked."""
        if self._since_s is not None:
            self._log.info("%s, after %d s", self._back, time.monotonic() - self._since_s)
            self._since_s = None
