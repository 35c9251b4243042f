"""A live job and its attempts: the states, the moves between them, and how others see them.

                submitted            started               succeeded, failed
    (nothing) ─────────────► pending ───────► processing ────────────────────► succeeded, failed
        │                    ▲  ▲ │              │   │
        │ submitted,      due│  │ └─ cancelled   │   │ retried
        │ due later          │  └── released, ───┘   │
        │                    │      returned         │
        └──────────────► scheduled ◄─────────────────┘
                             └──── cancelled ────► cancelled

`stopped` takes a processing job to cancelled, `changed` tells an open one something new: a waiting
one may become scheduled or pending by it. A job that is due at NEVER_US is held: it is scheduled
without a time. `requeued` takes a failed or cancelled job back to pending. That a scheduled job is
due follows from the clock and is no event, so a log may start or cancel a job that its reader holds
as scheduled.
"""

from dataclasses import dataclass, field
from typing import Any

import msgpack

from taskforge_server.ext.pure import ids
from taskforge_server.ext.pure.tablelog import NEVER_US, PRIORITY_MAX
from taskforge_server.ext.pure.tablerows import (
    EXECUTION_COLUMNS,
    JOB_COLUMNS,
    PAGE_COLUMNS,
    PAGE_ZEROS,
    Columns,
    decode_row,
    encode_row,
    plain,
    split_rows,
)

PENDING = "pending"
SCHEDULED = "scheduled"
PROCESSING = "processing"
SUCCEEDED = "succeeded"
FAILED = "failed"
CANCELLED = "cancelled"
FINAL = frozenset({SUCCEEDED, FAILED, CANCELLED})
OPEN = frozenset({PENDING, SCHEDULED, PROCESSING})

# The one transition table: the states in which a job may make each move.
MOVES = {
    "started": frozenset({PENDING, SCHEDULED}),
    "succeeded": frozenset({PROCESSING}),
    "retried": frozenset({PROCESSING}),
    "failed": frozenset({PROCESSING}),
    "released": frozenset({PROCESSING}),
    "returned": frozenset({PROCESSING}),
    "cancelled": frozenset({PENDING, SCHEDULED}),
    "requeued": frozenset({FAILED, CANCELLED}),
    "changed": OPEN,
    "stopped": frozenset({PROCESSING}),
}

STARTED, RETRYING = "started", "retrying"  # of an attempt; it may be `succeeded`, `failed` too

HISTORY_NONE, HISTORY_FAILED, HISTORY_ALL = 0, 1, 2

# What a job's options name, and the columns that it fills.
OPTION_COLUMNS = {
    "idempotency_key": "idempotency_key",
    "unique_key": "unique_key",
    "group_key": "group_key",
    "tags": "tags",
    "waiting_on": "waiting_on",
    "more": "options",
    "keep": "keep",
}
NO_WORKER = -1


class TransitionError(RuntimeError):
    """An illegal move: says the job, the state it is in, and the move that was tried."""

    def __init__(self, job_id: bytes, status: str, move: str) -> None:
        super().__init__(f"job {job_id.hex()} is {status}: it cannot be {move}")


@dataclass(slots=True)
class Queue:
    id: bytes
    project_id: bytes
    name: str
    timeout_ms: int
    history: int
    soft_timeout_ms: int = 0

    def history_of(self, job: "Job") -> int:
        """What is kept of this job's attempts: of one whose row stays all, if any."""
        return HISTORY_ALL if self.history and job.told.get("keep") else self.history

    def keeps_attempts(self, job: "Job", status: str) -> bool:
        """Whether a job that ends so keeps its attempts."""
        history = self.history_of(job)
        return history == HISTORY_ALL or (history == HISTORY_FAILED and status != SUCCEEDED)

    def keeps_row(self, job: "Job") -> bool:
        """Whether a job that ended keeps its row."""
        return self.keeps_attempts(job, job.status) or bool(job.told.get("keep"))


@dataclass(slots=True)
class Attempt:
    """One attempt that is over, or, as `started`, one that was running when it was swept."""

    job_id: bytes
    worker_id: bytes | None
    number: int
    status: str
    output: bytes | None
    error: bytes | None
    started_us: int
    finished_us: int
    lsn: int  # of the event that made it so
    may_exist: bool  # a row of it may stand in the table

    @property
    def id(self) -> bytes:
        return ids.execution_id(self.job_id, self.number, self.started_us)

    def view(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "job_id": self.job_id,
            "worker_id": self.worker_id,
            "status": self.status,
            "output": self.output,
            "error": self.error,
            "attempt_number": self.number,
            "started_us": self.started_us,
            "finished_us": self.finished_us,
        }

    def row(self, shard: int) -> bytes:
        return _row(
            EXECUTION_COLUMNS,
            {
                "id": self.id,
                "job_id": self.job_id,
                "worker_id": self.worker_id,
                "status": self.status,
                "output": self.output,
                "attempt_number": self.number,
                "started_at": self.started_us,
                "finished_at": self.finished_us or None,
                "created_at": self.started_us,
                "error": self.error,
                "shard": shard,
                "lsn": self.lsn,
            },
            is_plain=self.output is None and self.error is None,
        )


@dataclass(slots=True)
class Job:
    """A slot. Indexes of queue and worker are the table's; absent times are 0."""

    id: bytes
    queue: int
    job_type: str
    priority: int
    payload: bytes
    options: bytes | None
    max_attempts: int
    timeout_ms: int
    created_us: int
    status: str = PENDING
    due_us: int = 0
    updated_us: int = 0
    started_us: int = 0
    finished_us: int = 0
    attempt: int = 0
    crashes: int = 0
    returns: int = 0
    lsn: int = 0  # of the newest event
    output: bytes | None = None  # the result of a succeeded job, otherwise the newest error
    reason: str | None = None
    # The lease; it says something only while processing, but that no later one may be named so too.
    worker: int = NO_WORKER
    lease_lsn: int = 0
    deadline_us: int = 0
    # What the tables know.
    row_lsn: int = 0  # lsn of the row that it was loaded from
    may_exist: bool = False  # a row of it may stand in `jobs`
    row_status: str = ""  # what that row said when it was last written or read
    attempt_may_exist: bool = False  # a row of the running attempt may stand in `job_executions`
    held: list[Attempt] = field(default_factory=list)  # attempts kept only if the job ends badly
    watched: bool = False

    @property
    def order(self) -> tuple[int, bytes]:
        """Greatest priority first, then submission order, which is that of the ids of a shard."""
        return (PRIORITY_MAX - self.priority, self.id)

    @property
    def token(self) -> bytes:
        return self.id + self.lease_lsn.to_bytes(8, "big")

    @property
    def told(self) -> dict[str, Any]:
        """What its options say; those that are none of ours say nothing."""
        try:
            told = msgpack.unpackb(self.options or b"\x80")
        except ValueError:
            return {}
        return told if isinstance(told, dict) else {}

    @property
    def content_bytes(self) -> int:
        return len(self.payload) + len(self.options or b"") + len(self.output or b"")

    def view(self, queue: Queue, worker_id: bytes | None) -> dict[str, Any]:
        running = self.status == PROCESSING
        return {
            "id": self.id,
            "queue_id": queue.id,
            "project_id": queue.project_id,
            "job_type": self.job_type,
            "payload": self.payload,
            "status": self.status,
            "priority": self.priority,
            "due_us": self.due_us,
            "created_us": self.created_us,
            "updated_us": self.updated_us,
            "started_us": self.started_us,
            "finished_us": self.finished_us,
            "attempt": self.attempt,
            "crashes": self.crashes,
            "returns": self.returns,
            "max_attempts": self.max_attempts,
            "timeout_ms": self.timeout_ms,
            "deadline_us": self.deadline_us if running else 0,
            "worker_id": worker_id if running else None,
            "lease_lsn": self.lease_lsn if running else 0,
            "lsn": self.lsn,
            "options": self.options,
            "output": self.output,
            "reason": self.reason,
        }

    def row(self, queue: Queue, worker_id: bytes | None, shard: int) -> bytes:
        running = self.status == PROCESSING
        succeeded = self.status == SUCCEEDED
        values = {
            "id": self.id,
            "queue_id": queue.id,
            "project_id": queue.project_id,
            "job_type": self.job_type,
            "payload": self.payload,
            "status": self.status,
            "priority": self.priority,
            "scheduled_for": self.due_us if 0 < self.due_us < NEVER_US else None,
            "created_at": self.created_us,
            "updated_at": self.updated_us,
            "started_at": self.started_us or None,
            "finished_at": self.finished_us or None,
            "shard": shard,
            "lsn": self.lsn,
            "lease_lsn": self.lease_lsn if running else None,
            "worker_id": worker_id if running else None,
            "attempts": self.attempt,
            "crashes": self.crashes,
            "returns": self.returns or None,
            "max_attempts": self.max_attempts,
            "timeout_s": self.timeout_ms / 1000 if self.timeout_ms else None,
            "deadline_at": self.deadline_us or None if running else None,
            "result": self.output if succeeded else None,
            "last_error": None if succeeded else self.output,
            "failed_reason": self.reason if self.status == FAILED else None,
            "cancel_reason": self.reason if self.status == CANCELLED else None,
        }
        return _row(JOB_COLUMNS, values | _options_out(self.told), self.is_plain)

    @property
    def is_plain(self) -> bool:
        """Whether its row does without the rare columns: it waits or succeeded, was told nothing,
        and the newest error of it is none."""
        if self.options or self.returns:
            return False
        waits = self.status in (PENDING, SCHEDULED)
        return self.status == SUCCEEDED or (waits and self.output is None)


def _row(columns: Columns, values: dict[str, Any], is_plain: bool) -> bytes:
    """A row without its rare columns, or of all; ValueError where a value would be lost."""
    told = {name: value for name, value in values.items() if value is not None}
    return encode_row(plain(columns) if is_plain else columns, told)


def read_job_rows(data: bytes) -> list[dict[str, Any]]:
    """The columns of each row, by name; ValueError unless all are rows of unfinished jobs."""
    rows = [decode_row(JOB_COLUMNS, data[start:end]) for start, end in split_rows(data)]
    for row in rows:
        if row["status"] not in OPEN:
            raise ValueError(f"job {ids.uuid_text(row['id'])} is {row['status']}, not unfinished")
    return rows


def page_row(row: dict[str, Any]) -> bytes:
    """The row of a pending job as a page has it."""
    values = {column.name: row[column.name] for column in PAGE_COLUMNS}
    values |= {name: row[name] or None for name in PAGE_ZEROS}
    if row["updated_at"] == row["created_at"]:
        values["updated_at"] = None
    return encode_row(PAGE_COLUMNS, values)


def read_page_rows(data: bytes) -> list[dict[str, Any]]:
    """The inverse of `page_row`, without what the lane says."""
    rows = [decode_row(PAGE_COLUMNS, data[start:end]) for start, end in split_rows(data)]
    for row in rows:
        row |= {name: row[name] or 0 for name in PAGE_ZEROS}
        row["updated_at"] = row["updated_at"] or row["created_at"]
        row |= {"status": PENDING, "lease_lsn": None, "deadline_at": None}
    return rows


def job_of_row(row: dict[str, Any], queue: int, worker: int) -> Job:
    """The inverse of `Job.row` for an unfinished job."""
    return Job(
        id=row["id"],
        queue=queue,
        job_type=row["job_type"],
        priority=row["priority"],
        payload=row["payload"],
        options=_options_in(row),
        max_attempts=row["max_attempts"],
        timeout_ms=round((row["timeout_s"] or 0) * 1000),
        created_us=row["created_at"],
        status=row["status"],
        due_us=row["scheduled_for"] or (NEVER_US if row["status"] == SCHEDULED else 0),
        updated_us=row["updated_at"],
        started_us=row["started_at"] or 0,
        attempt=row["attempts"],
        crashes=row["crashes"],
        returns=row["returns"] or 0,
        lsn=row["lsn"],
        output=row["last_error"],
        worker=worker,
        lease_lsn=row["lease_lsn"] or 0,
        deadline_us=row["deadline_at"] or 0,
        row_lsn=row["lsn"],
        row_status=row["status"],
        may_exist=True,
        attempt_may_exist=True,
    )


def _options_out(told: dict[str, Any]) -> dict[str, Any]:
    """The columns that the options map fills; an empty list of tags is NULL."""
    return {
        column: None if (value := told.get(name)) == [] else value
        for name, column in OPTION_COLUMNS.items()
    }


def _options_in(row: dict[str, Any]) -> bytes | None:
    """The options map of these columns, its keys in their order; None when all are NULL."""
    named = {
        name: row[column] for name, column in OPTION_COLUMNS.items() if row[column] is not None
    }
    packed: bytes | None = msgpack.packb(named) if named else None
    return packed
