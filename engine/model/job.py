"""A job, its states, and the moves between them.

                 ┌────────────── released (the worker was lost) ───────────────┐
                 ▼                                                             │
    submit ──► pending ──── started ───────────────────────────────────► processing ──► succeeded
                 ▲  │                                                      │   │
                due └─── cancelled ──► cancelled ◄─── cancelled ──┐        │   └──────► failed
                 │                                                │        │
    submit ──► scheduled ◄────────────────── retried ─────────────┼────────┘
                 └────────────────────────────────────────────────┘

`succeeded`, `failed` and `cancelled` are final; `failed` is the dead letter queue. A person may put
a failed or cancelled job back (`requeued`). A job between two attempts is scheduled, not failed.

`MOVES` is that picture as data, for documents and tests; `ext.table` is what enforces it.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, get_args

import msgspec

from taskforge_server.engine import limits
from taskforge_server.engine.model.base import Id, Model, Priority, Time

JobStatus = Literal["pending", "scheduled", "processing", "succeeded", "failed", "cancelled"]

JOB_STATUSES: tuple[JobStatus, ...] = get_args(JobStatus)
UNFINISHED: frozenset[JobStatus] = frozenset({"pending", "scheduled", "processing"})
FINAL: frozenset[JobStatus] = frozenset(JOB_STATUSES) - UNFINISHED

FailedReason = Literal[
    "error",
    "attempts_exhausted",
    "not_retryable",
    "snoozes_exhausted",
    "timeout",
    "quarantined",
    "cancelled",
]

MOVES: dict[str, tuple[frozenset[JobStatus], frozenset[JobStatus]]] = {
    "submitted": (frozenset(), frozenset({"pending", "scheduled"})),
    "due": (frozenset({"scheduled"}), frozenset({"pending"})),
    "started": (frozenset({"pending"}), frozenset({"processing"})),
    "succeeded": (frozenset({"processing"}), frozenset({"succeeded"})),
    "retried": (frozenset({"processing"}), frozenset({"scheduled"})),
    "failed": (frozenset({"processing"}), frozenset({"failed"})),
    "released": (frozenset({"processing"}), frozenset({"pending"})),
    "cancelled": (frozenset({"pending", "scheduled"}), frozenset({"cancelled"})),
    "requeued": (frozenset({"failed", "cancelled"}), frozenset({"pending"})),
}
"""Move -> (the states it may be made from, the states it leads to)."""

JobType = Annotated[
    str, msgspec.Meta(min_length=1, max_length=limits.JOB_TYPE_BYTES_MAX, pattern=r"^[^\x00]*\Z")
]
Key = Annotated[
    str, msgspec.Meta(min_length=1, max_length=limits.KEY_BYTES_MAX, pattern=r"^[^\x00]*\Z")
]
Tag = Annotated[
    str, msgspec.Meta(min_length=1, max_length=limits.TAG_BYTES_MAX, pattern=r"^[^\x00]*\Z")
]


class Job(Model, frozen=True, kw_only=True):
    """A row of `jobs`. The engine itself keeps jobs in the shard table, not in these."""

    id: Id
    queue_id: Id
    project_id: Id
    job_type: JobType
    payload: Any
    status: JobStatus = "pending"
    priority: Priority = 0
    scheduled_for: Time | None = None
    created_at: Time
    updated_at: Time
    started_at: Time | None = None
    finished_at: Time | None = None
    attempts: int = 0
    crashes: int = 0
    max_attempts: Annotated[int, msgspec.Meta(ge=0, le=limits.ATTEMPTS_MAX)] = 0
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=limits.TIMEOUT_S_MAX)] | None = None
    failed_reason: FailedReason | None = None

    def is_ready_for_execution(self, now: datetime) -> bool:
        """Whether it may be started at `now`."""
        if self.status == "scheduled":
            return self.scheduled_for is not None and now >= self.scheduled_for
        return self.status == "pending"

    def is_finished(self) -> bool:
        return self.status in FINAL

    def can_be_retried(self, max_attempts: int) -> bool:
        """Whether a failed job has attempts left; the job's own bound goes before the queue's."""
        return self.status == "failed" and self.attempts < (self.max_attempts or max_attempts)
