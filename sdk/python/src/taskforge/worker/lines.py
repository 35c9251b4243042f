"""Lines that handlers log, on their way to the server.

    gathering ──seal──► sealed (sequence number, kept) ──ack──► forgotten
                            └──connection lost: sent again, in order, without stale ones

Handlers add lines from any thread; the rest belongs to the loop. Lines are numbered from 1 in each
attempt, under the same lock that gathers them, so they leave in the order of their numbers and a
number that is missing was dropped. What is not acknowledged is bounded: beyond LOG_BYTES_MAX new
lines are dropped, for a handler must never wait for its log.
"""

import asyncio
import threading
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

from taskforge.context import Context
from taskforge.limits import (
    LOG_BYTES_MAX,
    LOG_FRAME_BYTES,
    LOG_FRAME_LINES_MAX,
    LOG_LINE_BYTES,
    LOG_LINGER_S,
)
from taskforge.worker import frames


class Line(NamedTuple):
    """One line; `level` as on the wire, `at` on the monotonic clock, `metadata` JSON text."""

    token: bytes
    number: int
    level: int
    at: float
    message: str
    metadata: bytes | None

    @property
    def weight(self) -> int:
        """What it takes in memory and on the wire, about."""
        return LOG_LINE_BYTES + len(self.message) + len(self.metadata or b"")


class SealedLines:
    """One log frame that is not acknowledged yet."""

    __slots__ = ("lines", "seq", "weight")

    def __init__(self, seq: int, lines: list[Line]) -> None:
        self.seq = seq
        self.lines = lines
        self.weight = sum(line.weight for line in lines)

    def encode(self) -> bytes:
        """The frame as it goes over the wire now: it says how old each line is."""
        now = monotonic()
        groups: list[frames.LogGroup] = []
        follows: dict[bytes, tuple[int, list[frames.LogEntry]]] = {}
        for line in self.lines:
            entry = (line.level, round((now - line.at) * 1e6), line.message, line.metadata)
            number, entries = follows.get(line.token, (0, []))
            if number != line.number:
                entries = []
                groups.append((line.token, line.number, entries))
            entries.append(entry)
            follows[line.token] = line.number + 1, entries
        return frames.logs(self.seq, groups)


class Lines:
    """Gathers lines, seals them into frames, keeps the frames until they are acknowledged."""

    def __init__(self, loop: asyncio.AbstractEventLoop, flush: Callable[[], None]) -> None:
        """`flush` is called in the loop when there is something to seal."""
        self.lines_max = 0
        """Lines of one attempt that the server keeps; 0: it takes none."""
        self.dropped_lines = 0
        self._loop = loop
        self._flush = flush
        self._lock = threading.Lock()
        self._gathered: list[Line] = []
        self._gathered_bytes = 0
        self._sealed_bytes = 0
        self._scheduled = False
        self._hurried = False
        self._seq = 0
        self._sealed: dict[int, SealedLines] = {}

    def add(self, context: Context, level: int, message: str, metadata: bytes | None) -> None:
        """A handler has logged. From any thread."""
        with self._lock:
            number = context._lines_logged = context._lines_logged + 1
            if not self.lines_max or number > self.lines_max + 1:
                return  # the one before made the server say that there is no more room
            line = Line(context._token, number, level, monotonic(), message, metadata)
            if self._gathered_bytes + self._sealed_bytes + line.weight > LOG_BYTES_MAX:
                self.dropped_lines += 1
                return
            self._gathered.append(line)
            self._gathered_bytes += line.weight
            hurry = self._gathered_bytes >= LOG_FRAME_BYTES and not self._hurried
            wake = hurry or not self._scheduled
            self._scheduled = True
            self._hurried = self._hurried or hurry
        if wake:
            try:
                self._loop.call_soon_threadsafe(self._due if hurry else self._linger)
            except RuntimeError:
                pass  # the loop is closed: nobody sends this any more

    def _linger(self) -> None:
        self._loop.call_later(LOG_LINGER_S, self._due)

    def _due(self) -> None:
        with self._lock:
            self._scheduled = self._hurried = False
        self._flush()

    def seal(self) -> list[SealedLines]:
        """Frames for all that was gathered."""
        with self._lock:
            gathered, self._gathered = self._gathered, []
            self._sealed_bytes += self._gathered_bytes
            self._gathered_bytes = 0
        if not self.lines_max:  # the server of this connection takes none
            self._forget(sum(line.weight for line in gathered))
            return []
        found = []
        part: list[Line] = []
        weight = 0
        for line in gathered:
            weight += line.weight
            if part and (weight > LOG_FRAME_BYTES or len(part) == LOG_FRAME_LINES_MAX):
                found.append(self._frame(part))
                part, weight = [], line.weight
            part.append(line)
        if part:
            found.append(self._frame(part))
        return found

    def _frame(self, lines: list[Line]) -> SealedLines:
        self._seq += 1
        frame = self._sealed[self._seq] = SealedLines(self._seq, lines)
        return frame

    def acknowledged(self, seq: int) -> None:
        """The server has the lines of this frame, or wants none of them."""
        frame = self._sealed.pop(seq, None)
        if frame is not None:
            self._forget(frame.weight)

    def resend(self, stale: set[bytes]) -> list[SealedLines]:
        """The frames for a new connection, oldest first, without lines of refused leases."""
        for frame in list(self._sealed.values()):
            kept = [line for line in frame.lines if line.token not in stale] if stale else None
            if not self.lines_max:
                kept = []
            if kept is not None and len(kept) < len(frame.lines):
                self._forget(frame.weight)
                del self._sealed[frame.seq]
                if kept:
                    again = self._sealed[frame.seq] = SealedLines(frame.seq, kept)
                    self._forget(-again.weight)
        return [self._sealed[seq] for seq in sorted(self._sealed)]

    def _forget(self, weight: int) -> None:
        with self._lock:
            self._sealed_bytes -= weight

    @property
    def empty(self) -> bool:
        """Everything is acknowledged."""
        return not self._gathered and not self._sealed
