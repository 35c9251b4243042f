"""Following a job's log, or what happens to jobs: streams of events that are taken up again where
they broke off. No sockets.

    new ──path──► connected ──events──► connected ──`end`──► over
                      └── broken, or ended without `end`: the path goes on behind the last line

What the server says of lines is JSON in server-sent events; comments only say that it lives.
"""

from collections.abc import Iterator
from typing import Protocol, TypeVar
from urllib.parse import quote

import msgspec

from taskforge.client import calls
from taskforge.client.http1 import ProtocolError, Response, ResponseParser
from taskforge.client.models import JobEvent, LogLevel, LogLine
from taskforge.limits import EVENT_BYTES_MAX

_read_line = msgspec.json.Decoder(LogLine).decode
_read_job_event = msgspec.json.Decoder(JobEvent).decode
_END = "end"
T_co = TypeVar("T_co", covariant=True)


class Resumable(Protocol[T_co]):
    """A stream that goes on behind what was seen of it, on another connection."""

    over: bool
    """All was seen."""

    def path(self) -> str:
        """What to ask for on a new connection."""
        ...

    def feed(self, data: bytes) -> Iterator[T_co]:
        """What these bytes complete."""
        ...

    def ended(self) -> None:
        """The answer has come to its end."""
        ...


class Following:
    """One reader of one job's log."""

    def __init__(
        self, job_id: str, attempt: int | None, level: LogLevel | None, after: str | None
    ) -> None:
        self.over = False
        """The job has ended, and every line was seen."""
        self._base = f"{calls.job_path(job_id)}/logs/stream"
        self._attempt = attempt
        self._level = level
        self._after = after
        self._received = b""

    def path(self) -> str:
        """What to ask for on a new connection."""
        self._received = b""
        query = calls.query_text(
            {"attempt": self._attempt, "level": self._level, "after": self._after}
        )
        return f"{self._base}?{query}" if query else self._base

    def feed(self, data: bytes) -> Iterator[LogLine]:
        """The lines that these bytes of the stream complete."""
        *blocks, self._received = (self._received + data).split(b"\n\n")
        if len(self._received) > EVENT_BYTES_MAX:
            raise ProtocolError("an event is larger than the bound")
        for block in blocks:
            name, _, text = event_of(block)
            if name == _END:
                self.over = True
            elif text and not name:
                try:
                    line = _read_line(text)
                except msgspec.DecodeError as error:
                    raise ProtocolError(f"an event that makes no sense: {error}") from None
                self._after = line.id
                yield line

    def ended(self) -> None:
        """Without its last event the stream is not over: the server drains, another goes on."""


class Watching:
    """One reader of what happens to a job, or to the jobs of a queue or project."""

    def __init__(self, path: str, after: str | None, *, one_job: bool) -> None:
        self.over = False
        """The one job has ended."""
        self._path = path
        self._after = after
        self._one_job = one_job
        self._received = b""

    def path(self) -> str:
        """What to ask for on a new connection."""
        self._received = b""
        query = calls.query_text({"after": self._after or None})
        return f"{self._path}?{query}" if query else self._path

    def feed(self, data: bytes) -> Iterator[JobEvent]:
        """The events that these bytes of the stream complete."""
        *blocks, self._received = (self._received + data).split(b"\n\n")
        if len(self._received) > EVENT_BYTES_MAX:
            raise ProtocolError("an event is larger than the bound")
        for block in blocks:
            _, id, text = event_of(block)
            if not text:
                continue
            try:
                event = _read_job_event(text)
            except msgspec.DecodeError as error:
                raise ProtocolError(f"an event that makes no sense: {error}") from None
            self._after = id or self._after
            self.over = self._one_job and event.final
            yield event
            if self.over:
                return

    def ended(self) -> None:
        """The stream of a queue or project has no end: the server drains, another goes on."""


def job_events(job_id: str, after: str | None) -> Watching:
    """What happens to a job, to its end."""
    return Watching(f"{calls.job_path(job_id)}/events", after, one_job=True)


def events(queue: str | None, after: str | None) -> Watching:
    """What happens to the jobs of a queue, or of the whole project."""
    path = "/v1/events" if queue is None else f"/v1/queues/{quote(queue, safe='')}/events"
    return Watching(path, after, one_job=False)


def event_of(block: bytes) -> tuple[str, str, bytes]:
    """Kind, id and data of an event; fields that nobody needs are passed over."""
    name, id, data = "", "", []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"event":
            name = value.strip().decode(errors="replace")
        elif field == b"id":
            id = value.strip().decode(errors="replace")
        elif field == b"data":
            data.append(value.removeprefix(b" "))
    return name, id, b"\n".join(data)


class StreamParser(ResponseParser):
    """A response whose body is taken as it comes, if it is a success."""

    def take(self) -> bytes:
        """What has come of the body and was not taken; nothing of a refusal."""
        if self._status != 200 or not self._chunked:
            return b""
        taken = bytes(self._body)
        self._body.clear()
        return taken


def refused(response: Response) -> bool:
    """Whether the stream's end is a refusal that a later try may not meet; others are raised."""
    if response.status == 200:
        return False
    if response.status in calls.RETRIED_STATUSES:
        return True
    raise calls.problem_error(response)
