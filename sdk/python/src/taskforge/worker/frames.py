"""The frames of the worker stream: one MessagePack array per WebSocket message, its kind first.

What arrives is decoded into structs, payloads staying bytes. What leaves is encoded here.
A token names one attempt of one job: job id (16 bytes) and lease (8 bytes, big endian).
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from taskforge.limits import PROTOCOL, TOKEN_BYTES

SUCCEEDED: Final = 0
FAILED: Final = 1
GIVEN_BACK: Final = 2
RETRY: Final = 3
SNOOZE: Final = 4
CANCELLED: Final = 5

Outcome = tuple[bytes, int, bytes | None]
"""Token, one of the outcomes above, and JSON text: the result, the error, or what is wanted."""

LogEntry = tuple[int, int, str, bytes | None]
"""A line: level (0 info, 1 warn, 2 error), its age in microseconds, message, JSON text."""

LogGroup = tuple[bytes, int, list[LogEntry]]
"""Token, the number of the first line, and lines numbered from there on."""


Word = tuple[bytes, float | None, str | None]
"""Token, percent and message of a handler that says how far it is."""


class _WelcomeBody(msgspec.Struct, frozen=True):
    protocol: int
    lease_ttl_s: float
    heartbeat_s: float
    session: str = ""
    kept: bytes = b""
    stale: bytes = b""
    result_bytes_max: int = 0
    log_lines_max: int = 0
    outcome_max: int = GIVEN_BACK
    progress_per_s: int = 0
    features: list[str] = []


class Welcome(msgspec.Struct, array_like=True, tag=10, frozen=True):
    """The session stands; which of the announced leases hold."""

    body: _WelcomeBody


class _More(msgspec.Struct, frozen=True):
    """What of the things that a job was told matters here."""

    soft_timeout_s: float = 0.0


_read_more = msgspec.json.Decoder(_More).decode


class Extra(msgspec.Struct, frozen=True):
    """What is not usual about a job: a later attempt, or a time limit."""

    attempt: int = 1
    timeout_ms: int = 0
    deadline_us: int = 0
    soft_timeout_ms: int = 0
    more: bytes | None = None

    @property
    def soft_timeout_s(self) -> float:
        """Until the handler is told; 0: it is not. What the job says goes before its queue."""
        if self.more is not None and (own := _read_more(self.more).soft_timeout_s):
            return own
        return self.soft_timeout_ms / 1000


class Jobs(msgspec.Struct, array_like=True, tag=11, frozen=True):
    """Jobs to run. `kinds` has one byte a job, an index into `types`; empty: all are types[0]."""

    queue: str
    types: list[str]
    kinds: bytes
    tokens: bytes
    payloads: list[bytes]
    extras: dict[int, Extra] = {}


class Ack(msgspec.Struct, array_like=True, tag=12, frozen=True):
    """Every completion of the done frame `seq` is durable, but for the stale ones."""

    seq: int
    stale: bytes = b""


class Pong(msgspec.Struct, array_like=True, tag=13, frozen=True):
    """The server lives."""


class Stop(msgspec.Struct, array_like=True, tag=14, frozen=True):
    """The leases of these jobs are gone."""

    tokens: bytes


class Drain(msgspec.Struct, array_like=True, tag=15, frozen=True):
    """The node is going away: finish, then connect anew."""


class LogsAck(msgspec.Struct, array_like=True, tag=16, frozen=True):
    """The lines of the log frame `seq` are in the table, or not wanted."""

    seq: int


class CancelJobs(msgspec.Struct, array_like=True, tag=17, frozen=True):
    """Somebody wants these jobs to end; after the grace time their leases are gone."""

    tokens: bytes
    grace_ms: int = 0


class Extended(msgspec.Struct, array_like=True, tag=18, frozen=True):
    """The server has heard of the new deadline of this job."""

    token: bytes


ServerFrame = Welcome | Jobs | Ack | Pong | Stop | Drain | LogsAck | CancelJobs | Extended

decode = msgspec.msgpack.Decoder(ServerFrame).decode
_encode = msgspec.msgpack.Encoder().encode

FEATURES: Final = ["cancel"]
"""What this worker knows beyond the first protocol."""

HEARTBEAT: Final = _encode([4])
BYE: Final = _encode([5])


def hello(
    *,
    worker_id: bytes,
    name: str,
    worker_type: str,
    queues: Sequence[str],
    types: Sequence[str],
    credit: int,
    running: bytes,
    sdk: str,
    instance: bytes,
) -> bytes:
    """The first frame of a connection: who we are, what we take, what we hold."""
    return _encode(
        [
            1,
            {
                "protocol": PROTOCOL,
                "worker_id": worker_id,
                "name": name,
                "worker_type": worker_type,
                "queues": queues,
                "types": types,
                "credit": credit,
                "running": running,
                "sdk": sdk,
                "instance": instance,
                "features": FEATURES,
            },
        ]
    )


def credit(jobs: int) -> bytes:
    """The most unfinished jobs that the server may have with us from now on."""
    return _encode([2, jobs])


def done(seq: int, tokens_ok: bytes, others: Sequence[Outcome]) -> bytes:
    """Completions: `tokens_ok` succeeded without a result."""
    return _encode([3, seq, tokens_ok, others])


def extend(token: bytes, extend_s: float) -> bytes:
    """The job may run for so long from now."""
    return _encode([8, token, max(1, round(extend_s * 1000))])


def logs(seq: int, groups: Sequence[LogGroup]) -> bytes:
    """Lines that handlers logged."""
    return _encode([6, seq, groups])


def progress(words: Sequence[Word]) -> bytes:
    """How far handlers say that they are."""
    return _encode([7, words])


def check_jobs(frame: Jobs) -> int:
    """How many jobs the frame has; ValueError when its parts do not fit together."""
    count = len(frame.payloads)
    if len(frame.tokens) != count * TOKEN_BYTES:
        raise ValueError(f"{count} payloads but {len(frame.tokens)} bytes of tokens")
    if frame.kinds and len(frame.kinds) != count:
        raise ValueError(f"{count} payloads but {len(frame.kinds)} kinds")
    if count and max(frame.kinds, default=0) >= len(frame.types):
        raise ValueError("a job's kind is not among the types")
    return count


def split(tokens: bytes) -> set[bytes]:
    """The single tokens."""
    return {tokens[start : start + TOKEN_BYTES] for start in range(0, len(tokens), TOKEN_BYTES)}
