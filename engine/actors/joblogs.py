"""Lines that handlers log: which of them count, numbered and bounded by execution.

    frame ──► lease current? ──no──► stale: the worker stops that handler
                 │ yes
                 ▼
              number new? ──► room left in the execution? ──► sink: written in bulk, then acked

Nothing here is an event: lines change no job, and they are not in the log of the shard. A worker
keeps a frame until its ack and sends it again on a new connection; the numbers of the lines tell
what is there already. What is remembered of an execution is forgotten once its lease is over.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from taskforge_server.engine import limits
from taskforge_server.engine.actors.ports import Queues
from taskforge_server.engine.errors import FrameError
from taskforge_server.engine.model.execution import LogLevel, LogLine
from taskforge_server.engine.observe.counters import Counters
from taskforge_server.engine.runtime.clock import Clock
from taskforge_server.engine.shard.shard import Shard
from taskforge_server.ext import jsontext
from taskforge_server.ext.ids import execution_id, shard_of

LEVELS: Final[tuple[LogLevel, ...]] = ("info", "warn", "error")
ID_BYTES = 16
TOKEN_BYTES = 24
NO_METADATA = b"{}"
BAD_METADATA = b'{"taskforge":"metadata that cannot be kept"}'
FULL = "the log of this execution is full: what follows is not kept"
FULL_METADATA = b'{"taskforge":"log_full"}'

Written = Callable[[], None]


class LogSink(Protocol):
    """Where lines go that count."""

    def add(self, lines: list[LogLine], written: Written) -> None:
        """Write them soon; `written` is called when they are in the table, or given up."""
        ...


class NoSink:
    """Keeps nothing: for a node without tables."""

    def add(self, lines: list[LogLine], written: Written) -> None:
        written()


class LogBook:
    """All executions of a node that log."""

    def __init__(
        self,
        clock: Clock,
        shard: Callable[[int], Shard | None],
        queues: Queues,
        counters: Counters,
        sink: LogSink | None = None,
    ) -> None:
        self.sink: LogSink = sink or NoSink()
        self._clock = clock
        self._shard = shard
        self._queues = queues
        self._counters = counters
        self._attempts: dict[bytes, _Attempt] = {}
        self._sweep_at = limits.LOG_ATTEMPTS_SWEPT
        self._doubtful: deque[tuple[bytes, bytes]] = deque(maxlen=limits.LOG_DOUBTFUL_MAX)
        """Jobs and executions that are kept only if the job fails."""

    def __len__(self) -> int:
        return len(self._attempts)

    def take(self, worker_id: bytes, groups: Any, written: Written) -> bytes:
        """Take the lines of a frame of this worker; the tokens whose leases are over. FrameError:
        the frame makes no sense, and none of it is taken."""
        checked, count = [], 0
        _check(type(groups) is list, "the groups of a log frame")
        for group in groups:
            checked.append(_group(group))
            count += len(checked[-1][2])
        _check(count <= limits.LOG_FRAME_LINES_MAX, "a log frame of so many lines")
        now_us = self._clock.now_us()
        lines: list[LogLine] = []
        stale: list[bytes] = []
        for token, number, entries in checked:
            shard = self._shard(shard_of(token[:ID_BYTES]))
            if shard is None:
                self._counters.log_lines_dropped += len(entries)
                continue
            attempt = self._attempt(shard, token, worker_id)
            if attempt is None:
                stale.append(token)
                self._counters.log_lines_stale += len(entries)
            elif attempt.kept:
                self._counters.log_lines_dropped += attempt.take(number, entries, now_us, lines)
        if lines:
            self.sink.add(lines, written)
        else:
            written()
        return b"".join(stale)

    def _attempt(self, shard: Shard, token: bytes, worker_id: bytes) -> "_Attempt | None":
        """What is known of the execution under this lease; None: it is not this worker's now."""
        if not shard.table.holds(token):
            self._attempts.pop(token, None)
            return None
        attempt = self._attempts.get(token)
        if attempt is not None and attempt.worker_id == worker_id:
            return attempt
        job = shard.table.get(token[:ID_BYTES])
        if job is None or job["worker_id"] != worker_id:
            return None
        if len(self._attempts) >= self._sweep_at:
            self._sweep()
        queue = self._queues.find(job["queue_id"])
        kept = queue is None or queue.settings.history != "none"
        attempt = self._attempts[token] = _Attempt(job, kept)
        if queue is not None and queue.settings.history == "failed":
            self._doubtful.append((attempt.job_id, attempt.execution_id))
        return attempt

    def in_the_tables(self) -> list[bytes]:
        """Executions that were kept only if their job failed, and of which the tables know by now;
        each is named once."""
        found = []
        for _ in range(min(len(self._doubtful), limits.LOG_DOUBTFUL_LOOKS)):
            job_id, attempt_id = self._doubtful.popleft()
            shard = self._shard(shard_of(job_id))
            if shard is None:
                continue  # its lines stay until their day is dropped
            if shard.table.get(job_id) is None:
                found.append(attempt_id)
            else:
                self._doubtful.append((job_id, attempt_id))
        return found

    def _sweep(self) -> None:
        """Forget executions that have ended; how often follows from how many go on."""
        for token in list(self._attempts):
            shard = self._shard(shard_of(token[:ID_BYTES]))
            if shard is None or not shard.table.holds(token):
                del self._attempts[token]
        self._sweep_at = max(limits.LOG_ATTEMPTS_SWEPT, 2 * len(self._attempts))


class _Attempt:
    """One execution that logs."""

    __slots__ = (
        "_bytes",
        "_full",
        "_next",
        "_project_id",
        "_started_us",
        "execution_id",
        "job_id",
        "kept",
        "worker_id",
    )

    def __init__(self, job: dict[str, Any], kept: bool) -> None:
        self.kept = kept
        self.worker_id: bytes = job["worker_id"]
        self.job_id: bytes = job["id"]
        self._project_id: bytes = job["project_id"]
        self._started_us: int = job["started_us"]
        self.execution_id = execution_id(self.job_id, job["attempt"], self._started_us)
        self._next = 1
        self._bytes = 0
        self._full = False

    def take(self, number: int, entries: list[Any], now_us: int, lines: list[LogLine]) -> int:
        """Add to `lines` what is new of these, which are numbered from `number` on; how many there
        is no room for."""
        dropped = 0
        for place in range(max(0, self._next - number), len(entries)):
            if self._full:
                dropped = len(entries) - place
                break
            level, age_us, message, metadata = entries[place]
            at_us = max(self._started_us, now_us - age_us)
            message, metadata = _message(message), _metadata(metadata)
            self._bytes += len(message) + len(metadata)
            count = number + place
            if count > limits.LOG_LINES_MAX or self._bytes > limits.LOG_BYTES_MAX:
                self._full = True
                count = min(count, limits.LOG_LINES_MAX + 1)
                level, message, metadata = LEVELS.index("warn"), FULL, FULL_METADATA
            lines.append(
                LogLine(
                    execution_id=self.execution_id,
                    number=count,
                    job_id=self.job_id,
                    project_id=self._project_id,
                    level=LEVELS[level],
                    message=message,
                    metadata=metadata,
                    logged_us=at_us,
                )
            )
        self._next = max(self._next, number + len(entries))
        return dropped


def _group(group: Any) -> tuple[bytes, int, list[Any]]:
    """The lines of one execution: token, number of the first, lines."""
    _check(type(group) is list and len(group) == 3, "a group of lines")
    token, number, entries = group
    _check(type(token) is bytes and len(token) == TOKEN_BYTES, "the token of a group of lines")
    _check(type(number) is int and 1 <= number <= limits.LOG_NUMBER_MAX, "the number of a line")
    _check(type(entries) is list, "the lines of a group")
    for entry in entries:
        _check(type(entry) is list and len(entry) == 4, "a line")
        level, age_us, message, metadata = entry
        _check(type(level) is int and 0 <= level < len(LEVELS), "the level of a line")
        _check(type(age_us) is int and 0 <= age_us < 2**62, "the age of a line")
        _check(type(message) is str, "the message of a line")
        _check(metadata is None or type(metadata) is bytes, "the metadata of a line")
    return token, number, entries


def _message(text: str) -> str:
    """As it can be stored: without U+0000, and not longer than a message may be."""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    most = limits.LOG_MESSAGE_BYTES_MAX
    if len(text) * 4 > most and len(data := text.encode()) > most:
        return data[:most].decode(errors="ignore")
    return text


def _metadata(data: bytes | None) -> bytes:
    """As it can be stored; what cannot be is replaced by a word that says so."""
    if data is None:
        return NO_METADATA
    try:
        if len(data) > limits.LOG_METADATA_BYTES_MAX or not data.lstrip().startswith(b"{"):
            return BAD_METADATA
        jsontext.check(data, limits.JSON_DEPTH_MAX)
    except ValueError:
        return BAD_METADATA
    return data


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise FrameError(f"{what} cannot be understood")
