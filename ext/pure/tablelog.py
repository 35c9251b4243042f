"""The log body of a shard: what an event is, and how a batch of them is written and read back.

    body   = 0x01 | crc32 of what follows (4 bytes, big endian) | header | event | event | …
    header = msgpack [nonce (8 bytes), base_us, queues, types, workers, number of events]
    event  = msgpack [kind, field, …]

Queues, types and workers are named once in the header, in order of first use, and by index in the
events. Times `at_us` are written relative to `base_us`, the time of the first event; other times
are absolute. A body that is damaged, or does not have exactly this shape, raises BodyError.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgpack

VERSION = 1
HEADER_BYTES = 5
I64_MAX = 2**63 - 1
I16_MAX = 2**15 - 1
I32_MAX = 2**31 - 1
PRIORITY_MAX = 9
RETURNS_MAX = 255
NEVER_US = 2**62  # the due time of a job that is held: it waits until it is told otherwise
RETURNED_FIELDS_PLAIN = 4  # of `returned` without a due time
REQUEUED_FIELDS_BEFORE = 13  # of `requeued` in logs that do not know returns

T = TypeVar("T")


class BodyError(ValueError):
    """A log body that is damaged, of an unknown version, or out of its turn."""


@dataclass(frozen=True, slots=True)
class Submitted:
    job_id: bytes
    queue_id: bytes
    job_type: str
    priority: int
    at_us: int
    due_us: int
    timeout_ms: int
    max_attempts: int
    payload: bytes
    options: bytes | None


@dataclass(frozen=True, slots=True)
class Started:
    job_id: bytes
    worker_id: bytes
    attempt: int
    at_us: int
    deadline_us: int


@dataclass(frozen=True, slots=True)
class Succeeded:
    job_id: bytes
    at_us: int
    result: bytes | None


@dataclass(frozen=True, slots=True)
class Retried:
    job_id: bytes
    at_us: int
    due_us: int
    error: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    job_id: bytes
    at_us: int
    reason: str
    error: bytes


@dataclass(frozen=True, slots=True)
class Released:
    job_id: bytes
    at_us: int
    error: bytes


@dataclass(frozen=True, slots=True)
class Returned:
    job_id: bytes
    at_us: int
    error: bytes
    due_us: int = 0


@dataclass(frozen=True, slots=True)
class Changed:
    """The job is told something new; -1 and None: as it is."""

    job_id: bytes
    at_us: int
    due_us: int
    priority: int
    payload: bytes | None
    options: bytes | None
    deadline_us: int


@dataclass(frozen=True, slots=True)
class Stopped:
    job_id: bytes
    at_us: int
    reason: str
    error: bytes


@dataclass(frozen=True, slots=True)
class Cancelled:
    job_id: bytes
    at_us: int
    reason: str


@dataclass(frozen=True, slots=True)
class Requeued:
    job_id: bytes
    queue_id: bytes
    job_type: str
    priority: int
    at_us: int
    created_us: int
    timeout_ms: int
    max_attempts: int
    attempt: int
    crashes: int
    returns: int
    payload: bytes
    options: bytes | None


@dataclass(frozen=True, slots=True)
class Keyed:
    project_id: bytes
    key: str
    body_hash: bytes
    at_us: int
    job_ids: bytes


@dataclass(frozen=True, slots=True)
class Owned:
    node: str
    epoch: int
    at_us: int


JobEvent = (
    Submitted
    | Started
    | Succeeded
    | Retried
    | Failed
    | Released
    | Returned
    | Cancelled
    | Requeued
    | Changed
    | Stopped
)
Event = JobEvent | Keyed | Owned


@dataclass(frozen=True, slots=True)
class Batch:
    """What a body says."""

    nonce: bytes
    queues: list[bytes]
    workers: list[bytes]
    events: list[Event]


def encode(nonce: bytes, events: Sequence[Event]) -> bytes:
    """The body of a batch; it has at least one event."""
    names = _Names(events[0].at_us)
    packed = [msgpack.packb(names.fields(event)) for event in events]
    header = [nonce, names.base_us, names.queues, names.types, names.workers, len(events)]
    content = msgpack.packb(header) + b"".join(packed)
    return bytes([VERSION]) + zlib.crc32(content).to_bytes(4, "big") + content


class _Names:
    """The tables of one body, filled while its events are written."""

    def __init__(self, base_us: int) -> None:
        self.base_us = base_us
        self.queues: list[bytes] = []
        self.types: list[str] = []
        self.workers: list[bytes] = []

    def fields(self, event: Event) -> list[Any]:
        at = event.at_us - self.base_us
        match event:
            case Submitted() as e:
                q, t = _index(self.queues, e.queue_id), _index(self.types, e.job_type)
                head = [1, e.job_id, q, t, e.priority, at]
                return [*head, e.due_us, e.timeout_ms, e.max_attempts, e.payload, e.options]
            case Started() as e:
                w = _index(self.workers, e.worker_id)
                return [2, e.job_id, w, e.attempt, at, e.deadline_us]
            case Succeeded() as e:
                return [3, e.job_id, at, e.result]
            case Retried() as e:
                return [4, e.job_id, at, e.due_us, e.error]
            case Failed() as e:
                return [5, e.job_id, at, e.reason, e.error]
            case Released() as e:
                return [6, e.job_id, at, e.error]
            case Cancelled() as e:
                return [7, e.job_id, at, e.reason]
            case Requeued() as e:
                q, t = _index(self.queues, e.queue_id), _index(self.types, e.job_type)
                head = [8, e.job_id, q, t, e.priority, at, e.created_us, e.timeout_ms]
                counts = [e.max_attempts, e.attempt, e.crashes, e.returns]
                return [*head, *counts, e.payload, e.options]
            case Keyed() as e:
                return [9, e.project_id, e.key, e.body_hash, at, e.job_ids]
            case Owned() as e:
                return [10, e.node, e.epoch, at]
            case Returned() as e:
                return [11, e.job_id, at, e.error, *([e.due_us] if e.due_us else [])]
            case Changed() as e:
                told = [e.due_us, e.priority, e.payload, e.options, e.deadline_us]
                return [12, e.job_id, at, *told]
            case Stopped() as e:
                return [13, e.job_id, at, e.reason, e.error]


def _index(table: list[T], value: T) -> int:
    if value not in table:
        table.append(value)
    return table.index(value)


def decode(body: bytes) -> Batch:
    """The inverse of `encode`; anything else than one whole, sound body raises BodyError."""
    if len(body) < HEADER_BYTES:
        raise BodyError(f"a body of {len(body)} bytes")
    if body[0] != VERSION:
        raise BodyError(f"version {body[0]}, this node reads {VERSION}")
    content = body[HEADER_BYTES:]
    if zlib.crc32(content) != int.from_bytes(body[1:HEADER_BYTES], "big"):
        raise BodyError("the checksum does not fit")
    try:
        return _read(content)
    except BodyError:
        raise
    except (ValueError, TypeError, msgpack.UnpackException) as problem:
        raise BodyError(f"not msgpack: {problem}") from problem


def _read(content: bytes) -> Batch:
    unpacker = msgpack.Unpacker(max_buffer_size=len(content), strict_map_key=False)
    unpacker.feed(content)
    header = _Fields(unpacker.unpack())
    nonce, base_us = header.raw(8), header.integer(-I64_MAX, I64_MAX)
    queues = [_raw(q, 16) for q in header.array()]
    types = [_text(t) for t in header.array()]
    workers = [_raw(w, 16) for w in header.array()]
    count = header.integer()
    header.end()
    reader = _Reader(base_us, queues, types, workers)
    events = []
    for _ in range(count):
        fields = _Fields(unpacker.unpack())
        events.append(reader.event(fields))
        fields.end()
    if unpacker.tell() != len(content):
        raise BodyError("bytes after the last event")
    return Batch(nonce, queues, workers, events)


@dataclass(frozen=True, slots=True)
class _Reader:
    base_us: int
    queues: list[bytes]
    types: list[str]
    workers: list[bytes]

    def event(self, f: "_Fields") -> Event:
        kind = f.integer()
        match kind:
            case 1:
                return self._submitted(f)
            case 2:
                job_id, worker_id = f.raw(16), f.named(self.workers)
                return Started(job_id, worker_id, f.integer(1, I16_MAX), self._at(f), f.integer())
            case 3:
                return Succeeded(f.raw(16), self._at(f), f.raw_or_none())
            case 4:
                return Retried(f.raw(16), self._at(f), f.integer(), f.raw())
            case 5:
                return Failed(f.raw(16), self._at(f), f.text(), f.raw())
            case 6:
                return Released(f.raw(16), self._at(f), f.raw())
            case 7:
                return Cancelled(f.raw(16), self._at(f), f.text())
            case 8:
                return self._requeued(f)
            case 9:
                project_id, key, body_hash = f.raw(16), f.text(), f.raw()
                return Keyed(project_id, key, body_hash, self._at(f), f.ids())
            case 10:
                return Owned(f.text(), f.integer(), self._at(f))
            case 11:
                plain = f.size == RETURNED_FIELDS_PLAIN
                returned = f.raw(16), self._at(f), f.raw()
                return Returned(*returned, 0 if plain else f.integer(1, NEVER_US))
            case 12:
                return self._changed(f)
            case 13:
                return Stopped(f.raw(16), self._at(f), f.text(), f.raw())
        raise BodyError(f"an event of unknown kind {kind}")

    def _submitted(self, f: "_Fields") -> Submitted:
        return Submitted(
            job_id=f.raw(16),
            queue_id=f.named(self.queues),
            job_type=f.named(self.types),
            priority=f.integer(0, PRIORITY_MAX),
            at_us=self._at(f),
            due_us=f.integer(),
            timeout_ms=f.integer(0, I32_MAX),
            max_attempts=f.integer(0, I16_MAX),
            payload=f.raw(),
            options=f.raw_or_none(),
        )

    def _requeued(self, f: "_Fields") -> Requeued:
        return Requeued(
            job_id=f.raw(16),
            queue_id=f.named(self.queues),
            job_type=f.named(self.types),
            priority=f.integer(0, PRIORITY_MAX),
            at_us=self._at(f),
            created_us=f.integer(),
            timeout_ms=f.integer(0, I32_MAX),
            max_attempts=f.integer(0, I16_MAX),
            attempt=f.integer(0, I16_MAX),
            crashes=f.integer(0, I16_MAX),
            returns=f.integer(0, RETURNS_MAX) if f.size != REQUEUED_FIELDS_BEFORE else 0,
            payload=f.raw(),
            options=f.raw_or_none(),
        )

    def _changed(self, f: "_Fields") -> Changed:
        return Changed(
            job_id=f.raw(16),
            at_us=self._at(f),
            due_us=f.integer(-1, NEVER_US),
            priority=f.integer(-1, PRIORITY_MAX),
            payload=f.content_or_none(),
            options=f.raw_or_none(),
            deadline_us=f.integer(-1),
        )

    def _at(self, f: "_Fields") -> int:
        return self.base_us + f.integer(-I64_MAX, I64_MAX)


class _Fields:
    """The fields of one msgpack array, taken in order; one that does not fit raises BodyError."""

    def __init__(self, values: object) -> None:
        if not isinstance(values, list):
            raise BodyError(f"{type(values).__name__} where an array must stand")
        self._values = values
        self._next = 0
        self.size = len(values)

    def _take(self) -> object:
        if self._next == len(self._values):
            raise BodyError(f"an array of {len(self._values)} fields is too short")
        self._next += 1
        return self._values[self._next - 1]

    def end(self) -> None:
        if self._next != len(self._values):
            raise BodyError(f"an array of {len(self._values)} fields is too long")

    def integer(self, low: int = 0, high: int = I64_MAX) -> int:
        value = self._take()
        if type(value) is not int or not low <= value <= high:
            raise BodyError(f"{value!r} is no integer within {low} and {high}")
        return value

    def raw(self, size: int | None = None) -> bytes:
        return _raw(self._take(), size)

    def raw_or_none(self) -> bytes | None:
        value = self._take()
        return None if value is None else _raw(value, None)

    def content_or_none(self) -> bytes | None:
        value = self.raw_or_none()
        if value == b"":
            raise BodyError("a payload of no bytes")
        return value

    def ids(self) -> bytes:
        value = self.raw()
        if len(value) % 16:
            raise BodyError(f"{len(value)} bytes are no row of ids")
        return value

    def text(self) -> str:
        return _text(self._take())

    def array(self) -> list[object]:
        value = self._take()
        if not isinstance(value, list):
            raise BodyError(f"{type(value).__name__} where an array must stand")
        return value

    def named(self, table: list[T]) -> T:
        index = self.integer()
        if index >= len(table):
            raise BodyError(f"index {index} into a table of {len(table)}")
        return table[index]


def _raw(value: object, size: int | None) -> bytes:
    if not isinstance(value, bytes) or (size is not None and len(value) != size):
        raise BodyError(f"{value!r} where {size or 'some'} bytes must stand")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise BodyError(f"{value!r} where a string must stand")
    return value
