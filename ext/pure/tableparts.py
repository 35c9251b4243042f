"""The small parts of the table: new jobs, projections, nonces, checks of arguments."""

from dataclasses import dataclass, field

from taskforge_server.ext.pure import ids
from taskforge_server.ext.pure.tablejob import Attempt
from taskforge_server.ext.pure.tablelog import I16_MAX, I32_MAX, NEVER_US, PRIORITY_MAX

ID_BYTES = 16
COLUMNS_BYTES = 2  # a row of COPY begins with the number of its columns
ID_AT = 6  # in a row of COPY: behind that number, and the length of the id (4)
ID_TIME_BYTES = 6  # milliseconds
TOKEN_BYTES = 24
ANY_WORKER = -1
TYPE_BYTES_MAX = 255

U64 = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True)
class NewJob:
    job_type: str
    payload: bytes
    priority: int
    due_us: int
    timeout_ms: int
    max_attempts: int
    options: bytes | None


class SubmitBatch:
    """Jobs past the door, not yet with ids; it owns copies of its bytes."""

    def __init__(self) -> None:
        self.count = 0
        self.bytes_total = 0
        self._jobs: list[NewJob] = []

    def add(
        self,
        job_type: str,
        payload: bytes | bytearray | memoryview,
        priority: int = 0,
        due_us: int = 0,
        timeout_ms: int = 0,
        max_attempts: int = 0,
        options: bytes | None = None,
    ) -> None:
        """One more job. That payload is JSON and options are in order is the caller's duty."""
        check_range("bytes of job_type", len(job_type.encode()), 1, TYPE_BYTES_MAX)
        check_range("priority", priority, 0, PRIORITY_MAX)
        check_range("due_us", due_us, 0, NEVER_US)
        check_range("timeout_ms", timeout_ms, 0, I32_MAX)
        check_range("max_attempts", max_attempts, 0, I16_MAX)
        content = bytes(payload)
        check_range("bytes of payload", len(content), 1, I32_MAX)
        self._jobs.append(
            NewJob(job_type, content, priority, due_us, timeout_ms, max_attempts, options)
        )
        self.count += 1
        self.bytes_total += len(content) + len(options or b"")


@dataclass(frozen=True, eq=False, slots=True)
class Projection:
    """What the tables do not have yet, as rows of binary COPY without header and trailer."""

    shard: int
    watermark: int
    jobs_copy: tuple[bytes, ...]
    jobs_copy_rows: int
    jobs_merge: tuple[bytes, ...]
    jobs_merge_rows: int
    executions_copy: tuple[bytes, ...]
    executions_copy_rows: int
    executions_merge: tuple[bytes, ...]
    executions_merge_rows: int
    jobs_copy_ms: tuple[int, int]
    """Milliseconds of the least and of the greatest id of these rows; (0, 0): there are none."""
    executions_copy_ms: tuple[int, int]
    deletes: bytes  # ids with the lsn of their end, 24 bytes each
    overlaps: bool  # an earlier projection that is not confirmed may hold a job of it too
    keys: list[tuple[bytes, str, bytes, bytes, int]]
    _jobs: list[tuple[bytes, int]]  # id and lsn of every job taken
    _attempts: list[Attempt]
    usage: list[tuple[bytes, int, int, int]] = field(default_factory=list)
    """Whoever counts submits puts rows here, for the same transaction."""
    edges: list[tuple[bytes, bytes, bytes | None, str]] = field(default_factory=list)
    """And whoever knows what waits for what: parent, child, project, policy."""

    @property
    def rows(self) -> int:
        jobs = self.jobs_copy_rows + self.jobs_merge_rows
        return jobs + self.executions_copy_rows + self.executions_merge_rows


@dataclass(slots=True)
class Rows:
    """Rows of one table, and whether they are of an open job that stands by itself: those that
    surely are new, and those that may exist."""

    copy: list[tuple[bool, bytes]] = field(default_factory=list)
    merge: list[tuple[bool, bytes]] = field(default_factory=list)

    def add(self, row: bytes, may_exist: bool, is_open: bool = False) -> None:
        (self.merge if may_exist else self.copy).append((is_open, row))

    @property
    def copy_parts(self) -> tuple[bytes, ...]:
        return _parts(self.copy)

    @property
    def merge_parts(self) -> tuple[bytes, ...]:
        return _parts(self.merge)

    @property
    def copy_ms(self) -> tuple[int, int]:
        """Milliseconds of the least and of the greatest id of rows that surely are new."""
        times = [int.from_bytes(row[ID_AT : ID_AT + ID_TIME_BYTES]) for _, row in self.copy] or [0]
        return min(times), max(times)


class Nonces:
    """splitmix64, one u64 a batch."""

    def __init__(self, seed: int) -> None:
        self._state = seed & U64

    def next(self) -> bytes:
        self._state = (self._state + GOLDEN) & U64
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & U64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & U64
        return (z ^ (z >> 31)).to_bytes(8, "big")


def check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}: not within {low} and {high}")


def check_payloads(payloads: list[bytes], count: int) -> None:
    if len(payloads) != count:
        raise ValueError(f"{count} payloads are to be stored, not others")
    for payload in payloads:
        if type(payload) is not bytes:
            raise TypeError("a payload is stored as bytes")
        check_range("bytes of payload", len(payload), 1, I32_MAX)


def check_id(name: str, value: bytes) -> None:
    if len(value) != ID_BYTES:
        raise ValueError(f"{name} has {len(value)} bytes, not {ID_BYTES}")


def each_token(tokens: bytes) -> list[bytes]:
    if len(tokens) % TOKEN_BYTES:
        raise ValueError(f"{len(tokens)} bytes are no row of tokens")
    return [tokens[at : at + TOKEN_BYTES] for at in range(0, len(tokens), TOKEN_BYTES)]


def split_tokens(tokens: bytes) -> dict[int, bytes]:
    """The tokens by the shard number in their job id, in their order."""
    shards: dict[int, bytes] = {}
    for token in each_token(tokens):
        shard = ids.shard_of(token[:ID_BYTES])
        shards[shard] = shards.get(shard, b"") + token
    return shards


def _parts(rows: list[tuple[bool, bytes]]) -> tuple[bytes, ...]:
    """Those of each form by themselves, rows of all columns first; open jobs behind the others."""
    parts: dict[tuple[bool, int], list[bytes]] = {}
    for is_open, row in rows:
        columns = int.from_bytes(row[:COLUMNS_BYTES])
        parts.setdefault((is_open, -columns), []).append(row)
    return tuple(b"".join(parts[key]) for key in sorted(parts))
