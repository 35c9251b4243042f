"""How far running jobs are, as their handlers say: kept in memory, told to those who follow.

    frame ──► lease current? ──no──► stale: the worker stops that handler
                 │ yes
                 ▼
              remembered, the newest alone ──► told ──► forgotten once the lease is over

Nothing here is an event of the log: progress changes no job, and a restart forgets it until the
handler speaks again. So what handlers say of themselves never stands in the log or the tables.
"""

from collections.abc import Callable
from typing import Any, Protocol

from taskforge_server.engine import limits
from taskforge_server.engine.errors import FrameError
from taskforge_server.engine.model.events import Progress
from taskforge_server.engine.observe.counters import Counters
from taskforge_server.engine.runtime.clock import Clock
from taskforge_server.engine.shard.shard import Shard
from taskforge_server.engine.shard.shared import SharedBound
from taskforge_server.ext.ids import shard_of

ID_BYTES = 16
TOKEN_BYTES = 24
PERCENT_MAX = 100


class Running:
    """A job under one lease whose handler has said something."""

    __slots__ = ("attempt", "job_id", "job_type", "progress", "project_id", "queue_id", "tenant")

    def __init__(self, job: dict[str, Any], tenant: bytes) -> None:
        self.tenant = tenant
        self.job_id: bytes = job["id"]
        self.queue_id: bytes = job["queue_id"]
        self.project_id: bytes = job["project_id"]
        self.job_type: str = job["job_type"]
        self.attempt: int = job["attempt"]
        self.progress = Progress(None, None, 0)


class ProgressSink(Protocol):
    """Who tells others of progress."""

    def progress(self, running: Running) -> None:
        """The handler of this job has said something new."""
        ...


class Allowance:
    """What one worker may still say: PROGRESS_PER_S_MAX in a second."""

    __slots__ = ("_at_us", "_left")

    def __init__(self, now_us: int) -> None:
        self._left = float(limits.PROGRESS_PER_S_MAX)
        self._at_us = now_us

    def take(self, wanted: int, now_us: int) -> int:
        """How many of so many are taken."""
        grown = max(0, now_us - self._at_us) / 1e6 * limits.PROGRESS_PER_S_MAX
        self._left = min(float(limits.PROGRESS_PER_S_MAX), self._left + grown)
        self._at_us = now_us
        taken = min(wanted, int(self._left))
        self._left -= taken
        return taken


class ProgressBook:
    """The progress of all jobs that run on a node."""

    def __init__(
        self,
        clock: Clock,
        shard: Callable[[int], Shard | None],
        counters: Counters,
        tenant: Callable[[bytes], bytes] = lambda project_id: project_id,
    ) -> None:
        """`tenant` says who shares the bound with others."""
        self.sink: ProgressSink | None = None
        self._clock = clock
        self._shard = shard
        self._counters = counters
        self._tenant = tenant
        self._running: dict[bytes, Running] = {}
        self._bound = SharedBound("jobs with progress", limits.PROGRESS_JOBS_MAX)
        self._new = 0
        self._sweep_after = limits.LOG_ATTEMPTS_SWEPT

    def allowance(self) -> Allowance:
        """That of a new session."""
        return Allowance(self._clock.monotonic_us())

    def take(self, index_in: Callable[[Shard], int], allowance: Allowance, entries: Any) -> bytes:
        """Take a frame of the worker that `index_in` numbers; the tokens whose leases it does not
        have. FrameError: the frame makes no sense, and none of it is taken."""
        _check(type(entries) is list, "the entries of a progress frame")
        _check(len(entries) <= limits.PROGRESS_FRAME_MAX, "a progress frame of so many entries")
        for entry in entries:
            _check_entry(entry)
        taken = allowance.take(len(entries), self._clock.monotonic_us())
        self._counters.progress_dropped += len(entries) - taken
        now_us = self._clock.now_us()
        stale = []
        for token, percent, message in entries[:taken]:
            running = self._held(token, index_in)
            if running is None:
                stale.append(token)
                continue
            running.progress = Progress(percent, _message(message), now_us)
            if self.sink is not None:
                self.sink.progress(running)
        return b"".join(stale)

    def find(self, token: bytes) -> Progress | None:
        """What the handler under this lease said last."""
        running = self._running.get(token)
        return None if running is None else running.progress

    def _held(self, token: bytes, index_in: Callable[[Shard], int]) -> Running | None:
        shard = self._shard(shard_of(token[:ID_BYTES]))
        if shard is None or not shard.table.holds(token, index_in(shard)):
            self._forget(token)
            return None
        running = self._running.get(token)
        if running is None:
            job = shard.table.get(token[:ID_BYTES])
            if job is None:
                return None
            running = Running(job, self._tenant(job["project_id"]))
            self._new += 1
            if self._new >= self._sweep_after:
                self._sweep()
            if self._bound.room(running.tenant) > 0:
                self._running[token] = running
                self._bound.add(running.tenant)
        return running

    def _forget(self, token: bytes) -> None:
        running = self._running.pop(token, None)
        if running is not None:
            self._bound.remove(running.tenant)

    def _sweep(self) -> None:
        """Forget what no longer runs; how often follows from how much goes on."""
        for token in list(self._running):
            shard = self._shard(shard_of(token[:ID_BYTES]))
            if shard is None or not shard.table.holds(token):
                self._forget(token)
        self._new = 0
        self._sweep_after = max(limits.LOG_ATTEMPTS_SWEPT, len(self._running))


def _check_entry(entry: Any) -> None:
    _check(type(entry) is list and len(entry) == 3, "an entry of a progress frame")
    token, percent, message = entry
    _check(type(token) is bytes and len(token) == TOKEN_BYTES, "the token of a progress entry")
    known = percent is None or (type(percent) in (int, float) and 0 <= percent <= PERCENT_MAX)
    _check(known, "the percent of a progress entry")
    _check(message is None or type(message) is str, "the message of a progress entry")


def _message(text: str | None) -> str | None:
    """Not longer than a message may be."""
    most = limits.PROGRESS_MESSAGE_BYTES_MAX
    if text is not None and len(text) * 4 > most and len(data := text.encode()) > most:
        return data[:most].decode(errors="ignore")
    return text


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise FrameError(f"{what} cannot be understood")
