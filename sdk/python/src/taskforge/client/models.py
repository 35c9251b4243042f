"""What the server says about jobs and queues. Fields that a newer server adds are passed over."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec

from taskforge.errors import JobCancelled, JobFailed

T = TypeVar("T")

JobStatus = Literal["pending", "scheduled", "processing", "succeeded", "failed", "cancelled"]
LogLevel = Literal["info", "warn", "error"]
History = Literal["all", "failed", "none"]
Backoff = Literal["exponential", "linear", "fixed", "list"]
Jitter = Literal["full", "none"]
WorkerType = Literal["general", "specialized_cpu", "specialized_io"]
FINAL: Final = frozenset({"succeeded", "failed", "cancelled"})


class Parent(msgspec.Struct, frozen=True, kw_only=True):
    """A job that another one waits for, or waited for. Without a status it is gone."""

    id: str
    on_failure: Literal["block", "cancel", "run_anyway"] = "block"
    satisfied: bool = False
    status: JobStatus | None = None
    ref: str | None = None
    job_type: str | None = None
    result: Any = None
    error: Any = None


class GraphJob(msgspec.Struct, frozen=True):
    """A job of a graph that was submitted."""

    ref: str
    id: str
    status: JobStatus = "pending"


class GraphReply(msgspec.Struct, frozen=True):
    """The answer to a graph."""

    jobs: list[GraphJob]
    on_success: str | None = None
    on_complete: str | None = None


class GraphNode(msgspec.Struct, frozen=True, kw_only=True):
    """A job in a graph."""

    id: str
    queue: str
    job_type: str
    status: JobStatus
    ref: str | None = None
    waiting_on: int | None = None


class GraphEdge(msgspec.Struct, frozen=True, kw_only=True):
    """The child waits for the parent."""

    parent: str
    child: str
    on_failure: Literal["block", "cancel", "run_anyway"] = "block"
    satisfied: bool = False


class JobGraph(msgspec.Struct, frozen=True, kw_only=True):
    """A job and those that it is connected to, the nearest first; `cut`: there is more."""

    nodes: list[GraphNode]
    edges: list[GraphEdge]
    cut: bool = False


_WIRE_NAMES: Final = {
    f"{name}_s": name for name in ("base_delay", "max_delay", "delays", "timeout", "soft_timeout")
}
"""The fields of settings and policies that the HTTP API names without their unit."""


class RetryPolicy(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename=_WIRE_NAMES
):
    """How often a job is tried, and how long it waits in between. None: the server's."""

    max_attempts: int | None = None
    base_delay_s: float | None = None
    max_delay_s: float | None = None
    backoff_multiplier: float | None = None
    backoff: Backoff | None = None
    delays_s: Sequence[float] | None = None
    """With backoff `list`: one for each retry, the last for all that follow."""
    jitter: Jitter | None = None
    non_retryable: Sequence[str] | None = None
    """Names of exceptions that fail a job for good."""


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of a job."""

    id: str
    attempt: int
    status: str
    worker_id: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    output: Any = None
    error: Any = None


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the handler of a running job says that it is."""

    percent: float | None = None
    message: str | None = None
    at: datetime | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it was when the server answered. Lists leave `executions` out."""

    id: str
    queue: str
    job_type: str
    status: JobStatus
    payload: Any = None
    priority: int = 0
    scheduled_for: datetime | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempts: int = 0
    crashes: int = 0
    max_attempts: int | None = None
    timeout_s: float | None = None
    deadline_at: datetime | None = None
    worker_id: str | None = None
    result: Any = None
    last_error: Any = None
    failed_reason: str | None = None
    cancel_reason: str | None = None
    tags: list[str] | None = None
    idempotency_key: str | None = None
    waiting_on: int | None = None
    """How many parents are missing."""
    ref: str | None = None
    """Its name in the graph that it was submitted with."""
    unique_key: str | None = None
    group_key: str | None = None
    retry_policy: RetryPolicy | None = None
    expires_at: datetime | None = None
    soft_timeout_s: float | None = None
    cancel_requested_at: datetime | None = None
    """Since when its handler is asked to end."""
    executions: list[Execution] = []
    progress: Progress | None = None

    @property
    def finished(self) -> bool:
        """Whether the job has ended for good."""
        return self.status in FINAL


class JobEnd(msgspec.Struct, frozen=True, kw_only=True):
    """A job as a wait for many found it. `result_omitted`: it was too large for that answer."""

    id: str
    status: JobStatus
    finished_at: datetime | None = None
    result: Any = None
    last_error: Any = None
    failed_reason: str | None = None
    cancel_reason: str | None = None
    result_omitted: bool = False

    @property
    def finished(self) -> bool:
        """Whether the job has ended for good."""
        return self.status in FINAL

    def value(self) -> Any:
        """Its result; JobFailed or JobCancelled, if it has none."""
        if self.status == "cancelled":
            raise JobCancelled(self.id)
        if self.status != "succeeded":
            raise JobFailed(self.id, self.failed_reason, self.last_error)
        return self.result


class JobEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a job: submitted, started, progress, retried, released, returned,
    succeeded, failed, cancelled, requeued, … The first of one job's is `state`, what it is.

    `missed`: some events were not told, and `missed` says how many, if that is known.
    """

    event: str
    job_id: str = ""
    queue: str = ""
    job_type: str = ""
    status: str = ""
    """After it, if it is another one; `gone`: ended, and its queue keeps no such jobs."""
    at: datetime | None = None
    final: bool = False
    """The job has ended with it."""
    attempt: int | None = None
    scheduled_for: datetime | None = None
    reason: str | None = None
    progress: Progress | None = None
    missed: int | None = None


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that keeps a job from running: a code for programs, a sentence for people."""

    code: str
    message: str
    details: dict[str, Any] = {}


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job is not running; what weighs most is the first reason."""

    job_id: str
    status: JobStatus
    running: bool
    reasons: list[Reason] = []
    estimated_start_at: datetime | None = None
    """By how fast jobs of the queue started lately; None: nobody can say."""

    @property
    def codes(self) -> list[str]:
        return [reason.code for reason in self.reasons]


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line that a handler logged. `number` counts from 1 in each attempt; one that is missing was
    dropped."""

    id: str
    attempt: int
    number: int
    level: LogLevel
    message: str
    metadata: dict[str, Any] = {}
    logged_at: datetime | None = None
    execution_id: str = ""


class RetryBudget(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How many of a queue's attempts may be retries; what is beyond waits for longer."""

    ratio: float | None = None
    per_s: float | None = None


class DeadLetterHook(msgspec.Struct, frozen=True, kw_only=True):
    """The job that is submitted for each dead letter, once."""

    queue: str
    job_type: str


class DeadLetterSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What becomes of a queue's failed jobs: deleted after `keep_s`, told of by a job."""

    keep_s: float | None = None
    hook: DeadLetterHook | None = None


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs that start a second in the long run, and at once after a pause."""

    per_s: float
    burst: int = 1


class QueueSettings(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename=_WIRE_NAMES
):
    """The settings of a queue. None: the server's default."""

    retry_policy: RetryPolicy | None = None
    timeout_s: float | None = None
    soft_timeout_s: float | None = None
    """After so long the handler of an attempt is told."""
    history: History | None = None
    crashes_max: int | None = None
    worker_types: Sequence[WorkerType] | None = None
    """Only workers of these types get jobs; empty: of any."""
    retry_budget: RetryBudget | None = None
    dead_letters: DeadLetterSettings | None = None
    max_concurrency: int | None = None
    """Jobs that run at one time."""
    max_concurrency_per_key: int | None = None
    """The same of each group key."""
    rate: Rate | None = None
    rate_per_key: Rate | None = None
    fair_keys: bool | None = None
    """Group keys take turns."""


class QueueCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs of a queue that have not ended."""

    pending: int = 0
    scheduled: int = 0
    processing: int = 0


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """A queue as it was when the server answered."""

    name: str
    id: str = ""
    priority: int = 0
    settings: QueueSettings = QueueSettings()
    created_at: datetime | None = None
    counts: QueueCounts = QueueCounts()
    paused_at: datetime | None = None
    """Since when nothing of it starts."""


class CancelledJobs(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the jobs that a mass cancel found."""

    matched: int = 0
    cancelled: int = 0
    asked: int = 0
    """Those that run, and have their grace time now."""
    next_cursor: str | None = None

    def __add__(self, other: "CancelledJobs") -> "CancelledJobs":
        return CancelledJobs(
            matched=self.matched + other.matched,
            cancelled=self.cancelled + other.cancelled,
            asked=self.asked + other.asked,
            next_cursor=other.next_cursor,
        )


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some things of a list and where it goes on."""

    items: list[T]
    next_cursor: str | None = None


class Submitted(msgspec.Struct, frozen=True):
    """The answer to a submit."""

    id: str
    status: JobStatus = "pending"
    unique: str | None = None


class Problem(msgspec.Struct, frozen=True):
    """The server's refusal (RFC 9457), or that of one item."""

    code: str = "unknown"
    status: int = 0
    title: str = ""
    detail: str = ""
    field: str | None = None
    job_id: str | None = None


class BatchReply(msgspec.Struct, frozen=True):
    """The answer to a batch: 16 bytes an id (zero: refused), and what was wrong by index."""

    ids: bytes
    errors: dict[int, Problem] = {}
