"""Two shard tables driven by the same commands, and a stand-in for the tables of the database.

`Pair` asks the plain table (the oracle) and the table under test (the subject) the same thing and
compares what they say: values, kinds of exceptions, log bodies, rows. A difference fails with both
sides decoded. `Tables` holds what projections wrote, as strict about keys and states as a database
is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pprint import pformat
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

from taskforge_server.ext.pure import table as oracle_module
from taskforge_server.ext.pure.tablelog import decode
from taskforge_server.ext.pure.tablerows import (
    EXECUTION_COLUMNS,
    JOB_COLUMNS,
    SIGNATURE,
    Columns,
    decode_row,
    split_rows,
)

COUNTERS = (
    "jobs_resident",
    "unprojected",
    "ended",
    "committed_lsn",
    "gathering_lsn",
    "gathered_events",
    "departures",
    "reading",
)
ROW_PARTS: dict[str, Columns] = {
    "jobs_copy": JOB_COLUMNS,
    "jobs_merge": JOB_COLUMNS,
    "executions_copy": EXECUTION_COLUMNS,
    "executions_merge": EXECUTION_COLUMNS,
}
UNORDERED = frozenset({"running", "expired", "short", "crowded"})


def read_rows(columns: Columns, *parts: bytes) -> list[dict[str, Any]]:
    return [
        decode_row(columns, data[start:end]) for data in parts for start, end in split_rows(data)
    ]


class RefusedError(Exception):
    """Both sides raised an exception of this name."""

    @property
    def name(self) -> str:
        return str(self.args[0])


class Projections(NamedTuple):
    oracle: Any
    subject: Any


class Pair:
    """The oracle and the subject, in the same state as long as no call failed."""

    def __init__(self, subject: ModuleType, shard: int, seed: int) -> None:
        self._modules = (oracle_module, subject)
        self.oracle = oracle_module.ShardTable(shard, seed)
        self.subject: Any = subject.ShardTable(shard, seed)

    def call(self, name: str, *args: Any, **named: Any) -> Any:
        """The common answer; raises RefusedError when both refuse."""
        return self._both(name, (args, args), named)

    def submit(self, queue: int, jobs: Sequence[dict[str, Any]], now_us: int, *seal: Any) -> bytes:
        batches = []
        for module in self._modules:
            batch = module.SubmitBatch()
            for job in jobs:
                batch.add(**job)
            batches.append(batch)
        sizes = [(batch.count, batch.bytes_total) for batch in batches]
        assert sizes[0] == sizes[1], f"(count, bytes_total) of the batch: {sizes}"
        args = [(queue, batch, now_us, *seal) for batch in batches]
        job_ids: bytes = self._both("submit", (args[0], args[1]))
        return job_ids

    def take_batch(self) -> tuple[int, int, bytes] | None:
        taken = self.oracle.take_batch(), self.subject.take_batch()
        if taken[0] != taken[1]:
            shown = [pformat(_read_batch(one), width=120) for one in taken]
            raise AssertionError(_differ("take_batch()", *shown))
        return taken[0]

    def collect(self, rows_max: int, settled_us: int) -> Projections | None:
        pair = Projections(
            self.oracle.collect(rows_max, settled_us), self.subject.collect(rows_max, settled_us)
        )
        call = f"collect({rows_max}, {settled_us})"
        if pair.oracle is None or pair.subject is None:
            assert pair.oracle is pair.subject, _differ(call, repr(pair.oracle), repr(pair.subject))
            return None
        for part, columns in ROW_PARTS.items():
            expected, got = getattr(pair.oracle, part), getattr(pair.subject, part)
            if expected != got:
                raise AssertionError(_rows_differ(f"{call}.{part}", columns, expected, got))
        names = ["shard", "watermark", "rows", "deletes", "overlaps", "keys"]
        names += ["jobs_copy_ms", "executions_copy_ms"]
        for name in [*names, *(f"{part}_rows" for part in ROW_PARTS)]:
            expected, got = getattr(pair.oracle, name), getattr(pair.subject, name)
            assert expected == got, _differ(f"{call}.{name}", repr(expected), repr(got))
        return pair

    def projected(self, pair: Projections, whole: bool = False) -> None:
        self._both("projected", ((pair.oracle, whole), (pair.subject, whole)))

    def same_state(self) -> None:
        """Compare what can be seen of the whole state."""
        for name in COUNTERS:
            expected, got = getattr(self.oracle, name), getattr(self.subject, name)
            assert expected == got, _differ(name, repr(expected), repr(got))
        assert_same_jobs("snapshot()", self.oracle.snapshot(), self.subject.snapshot())

    def _both(
        self,
        name: str,
        args: tuple[tuple[Any, ...], tuple[Any, ...]],
        named: Mapping[str, Any] = MappingProxyType({}),
    ) -> Any:
        expected, expected_error = _outcome(self.oracle, name, args[0], named)
        got, got_error = _outcome(self.subject, name, args[1], named)
        call = f"{name}{args[0]!r}{dict(named) or ''}"
        assert expected_error == got_error, _differ(
            call, expected_error or repr(expected), got_error or repr(got)
        )
        if name in UNORDERED and expected is not None:
            expected, got = sorted(expected), sorted(got)
        assert (type(expected), expected) == (type(got), got), _differ(
            call, repr(expected), repr(got)
        )
        if expected_error:
            raise RefusedError(expected_error)
        return expected


def assert_same_jobs(what: str, expected: list[dict[str, Any]], got: list[dict[str, Any]]) -> None:
    if expected != got:
        raise AssertionError(_jobs_differ(what, expected, got))


def _outcome(
    table: Any, name: str, args: tuple[Any, ...], named: Mapping[str, Any]
) -> tuple[Any, str]:
    """What the call gives, or the name of what it raises."""
    try:
        return getattr(table, name)(*args, **named), ""
    except (ValueError, RuntimeError) as error:
        return None, type(error).__name__


def _differ(what: str, expected: str, got: str) -> str:
    return f"{what} differs\n--- oracle\n{expected}\n--- subject\n{got}"


def _read_batch(taken: tuple[int, int, bytes] | None) -> Any:
    if taken is None:
        return None
    lsn, events, body = taken
    try:
        return lsn, events, decode(body), body.hex()
    except ValueError as problem:
        return lsn, events, f"unreadable: {problem}", body.hex()


def _rows_differ(
    what: str, columns: Columns, expected: tuple[bytes, ...], got: tuple[bytes, ...]
) -> str:
    """Only the rows and columns that are not the same."""
    try:
        return _jobs_differ(what, read_rows(columns, *expected), read_rows(columns, *got))
    except ValueError as problem:
        shown = [" | ".join(part.hex(" ") for part in parts) for parts in (expected, got)]
        return _differ(what, shown[0], f"{shown[1]}\nunreadable: {problem}")


def _jobs_differ(what: str, expected: list[dict[str, Any]], got: list[dict[str, Any]]) -> str:
    ids = [[row["id"].hex() for row in rows] for rows in (expected, got)]
    if ids[0] != ids[1]:
        return _differ(f"{what}: ids in order", pformat(ids[0]), pformat(ids[1]))
    lines = [
        f"  {row['id'].hex()} ({row['status']}).{name}: oracle {row[name]!r}, subject {other!r}"
        for row, twin in zip(expected, got, strict=True)
        for name, other in twin.items()
        if row.get(name, "no such key") != other
    ]
    return "\n".join([f"{what} differs", *(lines or ["  only in bytes or missing keys"])])


def job_ids(p: Any) -> set[bytes]:
    """The jobs whose rows a projection writes or deletes."""
    rows = read_rows(JOB_COLUMNS, *p.jobs_copy, *p.jobs_merge)
    return {row["id"] for row in rows} | {job_id for job_id, _ in _places(p.deletes)}


class Row(NamedTuple):
    lsn: int
    values: dict[str, Any]
    data: bytes


@dataclass
class Tables:
    """`jobs`, `job_executions` and the watermark, as projections left them."""

    jobs: dict[bytes, Row] = field(default_factory=dict)
    executions: dict[bytes, Row] = field(default_factory=dict)
    keys: dict[tuple[bytes, str], tuple[bytes, bytes, int]] = field(default_factory=dict)
    watermark: int = 0

    def apply(self, p: Any) -> None:
        """One transaction. A copied row that is there already is an error, as in a database."""
        assert p.watermark >= self.watermark, "the watermark went back"
        self.apply_executions(p)
        self._copy(self.jobs, JOB_COLUMNS, *p.jobs_copy)
        self._merge(self.jobs, JOB_COLUMNS, *p.jobs_merge)
        for job_id, lsn in _places(p.deletes):
            _drop(self.jobs, job_id, lsn)
            for run_id, run in list(self.executions.items()):
                if run.values["job_id"] == job_id:
                    _drop(self.executions, run_id, lsn)
        for project_id, key, *rest in p.keys:
            self.keys.setdefault((project_id, key), tuple(rest))
        self.watermark = p.watermark

    def apply_executions(self, p: Any) -> None:
        """A transaction before that of the jobs, on another connection."""
        self._copy(self.executions, EXECUTION_COLUMNS, *p.executions_copy)
        self._merge(self.executions, EXECUTION_COLUMNS, *p.executions_merge)

    def unfinished(self, file: bool) -> bytes:
        """The rows of open jobs by id, as COPY OUT gives them: bare, or as a whole file."""
        open_rows = [
            row.data
            for _, row in sorted(self.jobs.items())
            if row.values["status"] in ("pending", "scheduled", "processing")
        ]
        data = b"".join(open_rows)
        return SIGNATURE + bytes(8) + data + b"\xff\xff" if file else data

    def open_rows(self, *statuses: str) -> list[Row]:
        """Rows in these states, in the order in which their jobs start."""
        rows = [row for row in self.jobs.values() if row.values["status"] in statuses]
        return sorted(rows, key=lambda row: (-row.values["priority"], row.values["id"]))

    @staticmethod
    def _rows(columns: Columns, parts: Iterable[bytes]) -> list[Row]:
        each = [data[start:end] for data in parts for start, end in split_rows(data)]
        rows = [(decode_row(columns, row), row) for row in each]
        if columns is JOB_COLUMNS:
            for values, _ in rows:
                _assert_state(values)
        return [Row(values["lsn"], values, raw) for values, raw in rows]

    def _copy(self, table: dict[bytes, Row], columns: Columns, *parts: bytes) -> None:
        for row in self._rows(columns, parts):
            assert row.values["id"] not in table, f"duplicate key in COPY: {row.values}"
            table[row.values["id"]] = row

    def _merge(self, table: dict[bytes, Row], columns: Columns, *parts: bytes) -> None:
        for row in self._rows(columns, parts):
            old = table.get(row.values["id"])
            if old is None or row.lsn >= old.lsn:
                table[row.values["id"]] = row


def _assert_state(job: dict[str, Any]) -> None:
    """What partial indexes rely on: a job that has not ended has no time at which it did, and only
    one that failed says why."""
    ended = job["status"] in ("succeeded", "failed", "cancelled")
    assert (job["finished_at"] is not None) == ended, job
    assert (job["failed_reason"] is not None) == (job["status"] == "failed"), job


def _places(joined: bytes) -> list[tuple[bytes, int]]:
    """Ids with an lsn each."""
    each = (joined[at : at + 24] for at in range(0, len(joined), 24))
    return [(place[:16], int.from_bytes(place[16:], "big")) for place in each]


def _drop(table: dict[bytes, Row], row_id: bytes, lsn: int) -> None:
    """A newer row stays."""
    if row_id in table and table[row_id].lsn <= lsn:
        del table[row_id]
