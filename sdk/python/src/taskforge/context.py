"""What a handler may know about the job it runs, and whether it should stop.

A handler gets a `Context` by naming a parameter of that type. A context is made only for such
handlers. What it logs by `Context.log` and `Context.logger` is kept by the server, with the attempt
that logged it. `lease` grows with every attempt of a job: a handler that passes it along with its
own writes can refuse those of an older attempt (a fencing token).
"""

import logging
import traceback
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol
from uuid import UUID

import msgspec

from taskforge.limits import (
    LOG_MESSAGE_CHARS_MAX,
    LOG_METADATA_BYTES_MAX,
    PROGRESS_MESSAGE_CHARS_MAX,
    TIMEOUT_S_MAX,
)

if TYPE_CHECKING:
    from taskforge.client.models import Parent

StopReason = Literal["timeout", "lease_lost", "shutdown", "cancelled"]
LogLevel = Literal["info", "warn", "error"]
PERCENT_MAX: Final = 100
LEVELS: Final[tuple[LogLevel, ...]] = ("info", "warn", "error")

logger = logging.getLogger("taskforge.job")


class LogSink(Protocol):
    """Where lines go that the server shall keep."""

    def add(self, context: "Context", level: int, message: str, metadata: bytes | None) -> None:
        """From any thread; never waits. `metadata` is JSON text."""
        ...


class ProgressSink(Protocol):
    """Where words of progress go."""

    def say(self, context: "Context", percent: float | None, message: str | None) -> None:
        """From any thread; never waits."""
        ...


class Attempt(Protocol):
    """What runs a handler."""

    deadline: float
    """On the monotonic clock; 0 without a limit."""

    def extended(self, token: bytes, deadline: float) -> None:
        """The handler has put its deadline off; from any thread."""
        ...


class ParentSource(Protocol):
    """Who knows the parents of a job that runs."""

    async def fetch(self, job_id: str, lease: int) -> "list[Parent]": ...
    def fetch_blocking(self, job_id: str, lease: int) -> "list[Parent]": ...


class JobLogger(logging.LoggerAdapter[logging.Logger]):
    """Logs here, with the job's id and attempt before each message; and for the server, from INFO
    on, whatever level the loggers here have."""

    def __init__(self, context: "Context") -> None:
        fields = {"job_id": context.job_id, "attempt": context.attempt, "queue": context.queue}
        super().__init__(logger, fields)
        self._context = context

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """See `logging.Logger.log`. What `extra` has becomes the metadata of the line."""
        if level >= logging.INFO:
            self._context._add(_wire_level(level), _text(msg, args), _metadata(kwargs))
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # this method is not the caller
        super().log(level, msg, *args, **kwargs)

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the prefix, and the fields for structured handlers."""
        extra = self.extra or {}
        kwargs["extra"] = {**extra, **(kwargs.get("extra") or {})}
        return f"[{extra.get('job_id')} #{extra.get('attempt')}] {msg}", kwargs


class Context:
    """One attempt of one job. `deadline_monotonic` is 0 when there is no time limit."""

    __slots__ = (
        "_attempt",
        "_deadline_monotonic",
        "_lines",
        "_lines_logged",
        "_logger",
        "_parents",
        "_soft_timed_out",
        "_stop_reason",
        "_token",
        "_words",
        "attempt",
        "job_type",
        "payload",
        "queue",
    )

    def __init__(
        self,
        token: bytes,
        queue: str,
        job_type: str,
        attempt: int,
        payload: bytes,
        deadline_monotonic: float = 0.0,
        lines: LogSink | None = None,
        words: ProgressSink | None = None,
        parents: ParentSource | None = None,
    ) -> None:
        self._token = token
        self.queue = queue
        self.job_type = job_type
        self.attempt = attempt
        self.payload = payload
        """The payload as it was submitted: JSON text."""
        self._deadline_monotonic = deadline_monotonic
        self._stop_reason: StopReason | None = None
        self._logger: JobLogger | None = None
        self._lines = lines
        self._lines_logged = 0
        self._words = words
        self._soft_timed_out = False
        self._attempt: Attempt | None = None
        self._parents = parents

    @property
    def job_id(self) -> str:
        """The job's id, a UUID in text form."""
        return str(UUID(bytes=self._token[:16]))

    @property
    def lease(self) -> int:
        """The fencing token: greater than that of any earlier attempt of this job."""
        return int.from_bytes(self._token[16:], "big")

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the deadline, negative after it; None without a time limit."""
        if not self._deadline_monotonic:
            return None
        return self._deadline_monotonic - monotonic()

    @property
    def deadline(self) -> datetime | None:
        """When this attempt is stopped, by this machine's clock; None without a time limit."""
        remaining_s = self.remaining_s
        if remaining_s is None:
            return None
        return datetime.fromtimestamp(datetime.now(UTC).timestamp() + remaining_s, UTC)

    def extend(self, seconds: float) -> None:
        """Let this attempt run for so long from now, if it may not already. From any thread; the
        server keeps it. One without a time limit, or that should stop, stays as it is."""
        if not 0 < seconds <= TIMEOUT_S_MAX:
            raise ValueError(f"seconds is more than 0 and at most {TIMEOUT_S_MAX}, not {seconds}")
        until = monotonic() + seconds
        attempt = self._attempt
        if attempt is None or self._stop_reason or not 0 < self._deadline_monotonic < until:
            return
        self._deadline_monotonic = attempt.deadline = until
        attempt.extended(self._token, until)

    @property
    def soft_timed_out(self) -> bool:
        """The soft time limit is over. Async handlers get SoftTimeout; sync ones look here."""
        return self._soft_timed_out

    @property
    def cancelled(self) -> bool:
        """The handler should stop. Async handlers are cancelled besides; sync ones look here."""
        return self._stop_reason is not None

    @property
    def lost(self) -> bool:
        """The lease is gone: another worker may be running this job, and no result is accepted."""
        return self._stop_reason == "lease_lost"

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the handler should stop: cancelled, timeout, lease_lost or shutdown."""
        return self._stop_reason

    @property
    def logger(self) -> JobLogger:
        """A logger that names the job in every message; the server keeps what it logs."""
        if self._logger is None:
            self._logger = JobLogger(self)
        return self._logger

    def log(self, level: LogLevel, message: str, /, **metadata: Any) -> None:
        """Keep a line with this attempt, on the server alone. From any thread; never waits.

        `metadata` is what JSON can hold; anything else is kept as its text.
        """
        if level not in LEVELS:
            raise ValueError(f"level is one of {', '.join(LEVELS)}, not {level!r}")
        self._add(LEVELS.index(level), message, _json(metadata))

    def progress(self, percent: float | None = None, message: str | None = None) -> None:
        """Tell how far this attempt is: whoever looks at the job or follows it sees it, until the
        attempt ends. From any thread; never waits. The newest word counts: those in between may not
        be told.

        `percent` is 0 to 100; `message` is cut at 1,024 characters.
        """
        if percent is not None and not 0 <= percent <= PERCENT_MAX:
            raise ValueError(f"percent is 0 to {PERCENT_MAX}, not {percent}")
        words = self._words
        if words is not None:
            text = None if message is None else _storable(message, PROGRESS_MESSAGE_CHARS_MAX)
            words.say(self, percent, text)

    async def parents(self) -> "list[Parent]":
        """The jobs that this one waited for, with their results; asked of the server."""
        source = self._parents
        return [] if source is None else await source.fetch(self.job_id, self.lease)

    async def parent_results(self) -> dict[str, Any]:
        """The results of the parents that succeeded, by their names in the graph (`ref`); of jobs
        without a name by their ids."""
        return {
            parent.ref or parent.id: parent.result
            for parent in await self.parents()
            if parent.status == "succeeded"
        }

    def parents_blocking(self) -> "list[Parent]":
        """As `parents`, for handlers that run in a thread."""
        source = self._parents
        return [] if source is None else source.fetch_blocking(self.job_id, self.lease)

    def _add(self, level: int, message: str, metadata: bytes | None) -> None:
        lines = self._lines
        if lines is not None:
            lines.add(self, level, _storable(message), metadata)

    def _close(self) -> None:
        """The attempt has ended: what is logged or told from now on is not kept."""
        self._lines = None
        self._words = None
        self._attempt = None

    def _stop(self, reason: StopReason) -> None:
        """Tell the handler to stop; the first reason stays."""
        if self._stop_reason is None:
            self._stop_reason = reason

    def __repr__(self) -> str:
        return f"Context(job_id={self.job_id}, job_type={self.job_type}, attempt={self.attempt})"


_encode = msgspec.json.Encoder(enc_hook=repr).encode
_TOO_LARGE = _encode({"taskforge": f"metadata of more than {LOG_METADATA_BYTES_MAX} bytes"})


def _wire_level(level: int) -> int:
    return 2 if level >= logging.ERROR else 1 if level >= logging.WARNING else 0


def _text(msg: object, args: tuple[object, ...]) -> str:
    """The message as `logging` makes it; one that does not fit its arguments is kept as it is."""
    text = str(msg)
    if not args:
        return text
    try:
        mapping = len(args) == 1 and isinstance(args[0], Mapping) and args[0]
        return text % (args[0] if mapping else args)
    except Exception:  # noqa: BLE001 - arguments have methods of their own
        return text


def _metadata(kwargs: Mapping[str, Any]) -> bytes | None:
    """`extra`, and the traceback of `exc_info`."""
    fields = dict(kwargs.get("extra") or {})
    error = kwargs.get("exc_info")
    if isinstance(error, BaseException):
        lines = traceback.format_exception(error)
    elif isinstance(error, tuple):
        lines = traceback.format_exception(*error)
    else:
        lines = [traceback.format_exc()] if error else []
    if lines:
        # The end of it says what happened.
        fields["exception"] = "".join(lines)[-LOG_METADATA_BYTES_MAX // 2 :]
    return _json(fields)


def _json(metadata: Mapping[str, Any]) -> bytes | None:
    """JSON text, if there is anything; keys and values that JSON lacks are kept as text."""
    if not metadata:
        return None
    try:
        data = _encode(metadata)
    except Exception:  # noqa: BLE001 - values may be anything
        data = _encode({"taskforge": _storable(repr(metadata))[: LOG_METADATA_BYTES_MAX // 8]})
    return data if len(data) <= LOG_METADATA_BYTES_MAX else _TOO_LARGE


def _storable(message: object, chars_max: int = LOG_MESSAGE_CHARS_MAX) -> str:
    """Text that UTF-8 can hold, of bounded length."""
    text = str(message)
    if len(text) > chars_max:
        text = text[: chars_max - 1] + "\N{HORIZONTAL ELLIPSIS}"
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a pair
        return text.encode(errors="replace").decode()
    return text
