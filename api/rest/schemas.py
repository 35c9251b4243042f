"""What crosses the REST interface: the structs that validate requests, make answers, and are the
schemas of the OpenAPI document.

In JSON ids are text, times are RFC 3339, a payload stands as it is. MessagePack answers have the
same fields; a payload, result or error is `bin` there and holds JSON text.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from taskforge_server.api.rest.problems import ItemProblem
from taskforge_server.api.service.submission import JobType, NewJob
from taskforge_server.engine import limits
from taskforge_server.engine.model.base import Name, Priority, Time
from taskforge_server.engine.model.deadletter import DeadLetterHook, KeepS
from taskforge_server.engine.model.execution import ExecutionStatus
from taskforge_server.engine.model.job import FailedReason, JobStatus
from taskforge_server.engine.model.queue import History, QueueSettings, WorkerTypes
from taskforge_server.engine.model.queuelimits import Concurrency, Rate
from taskforge_server.engine.model.retry import RetryBudget, RetryPolicyChange, RetryPolicyUpdate

UuidText = Annotated[
    str,
    Meta(
        min_length=36,
        max_length=36,
        extra_json_schema={"format": "uuid"},
        examples=["01997b5c-6c00-7001-8000-5f3a9c2d4e6f"],
    ),
]
AnyJson = Annotated[Raw, Meta(description="any JSON value")]
Cursor = Annotated[
    str,
    Meta(max_length=limits.CURSOR_CHARS_MAX, description="as the page before gave it"),
]
QueueText = Annotated[
    str, Meta(max_length=limits.NAME_CHARS_MAX, description="name or id of a queue")
]
Wait = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,6}(\.[0-9]{1,6})?(ms|s)?\Z",
        description=f"how long to wait for the job's end, at most {limits.WAIT_S_MAX:g}s",
        examples=["10s", "500ms"],
    ),
]

NULL = Raw(b"null")


class Request(Struct, forbid_unknown_fields=True, kw_only=True):
    """What a caller gives."""


class Answer(Struct, kw_only=True):
    """What a caller gets."""


# Queues


class QueueCreate(Request):
    """A new queue."""

    name: Annotated[Name, Meta(examples=["emails"])]
    priority: Priority = 0
    settings: QueueSettings = QueueSettings()


class DeadLetterSettingsUpdate(Request):
    """What of a queue's dealings with dead letters is to change."""

    keep_s: KeepS | UnsetType | None = UNSET
    hook: DeadLetterHook | UnsetType | None = UNSET


class QueueSettingsUpdate(Request):
    """What of a queue's settings is to change."""

    retry_policy: RetryPolicyUpdate | UnsetType = UNSET
    timeout: Annotated[float, Meta(gt=0, le=limits.TIMEOUT_S_MAX)] | UnsetType | None = UNSET
    soft_timeout: Annotated[float, Meta(gt=0, le=limits.TIMEOUT_S_MAX)] | UnsetType | None = UNSET
    history: History | UnsetType = UNSET
    crashes_max: Annotated[int, Meta(ge=1, le=limits.CRASHES_MAX)] | UnsetType = UNSET
    worker_types: WorkerTypes | UnsetType = UNSET
    retry_budget: RetryBudget | UnsetType | None = UNSET
    max_concurrency: Concurrency | UnsetType | None = UNSET
    max_concurrency_per_key: Concurrency | UnsetType | None = UNSET
    rate: Rate | UnsetType | None = UNSET
    rate_per_key: Rate | UnsetType | None = UNSET
    fair_keys: bool | UnsetType = UNSET
    dead_letters: DeadLetterSettingsUpdate | UnsetType = UNSET


class QueueUpdate(Request):
    """What of a queue is to change; the rest stays."""

    priority: Priority | UnsetType = UNSET
    settings: QueueSettingsUpdate | UnsetType = UNSET


class QueueCounts(Answer):
    """Jobs that are not over."""

    pending: int
    scheduled: int
    processing: int


class QueueView(Answer):
    """A queue."""

    id: UuidText
    name: str
    priority: int
    settings: QueueSettings
    created_at: Time
    counts: QueueCounts
    paused_at: Annotated[Time | None, Meta(description="since when nothing of it starts")]


class QueuePage(Answer):
    """Queues in the order of their names."""

    items: list[QueueView]
    next_cursor: str | None


# Jobs


class JobSubmit(NewJob, kw_only=True):
    """A new job."""

    # A factory, since the schema of a default would want to decode it.
    payload: AnyJson = msgspec.field(default_factory=lambda: NULL)


class PlainJob(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A new job of which nothing is said but this, as most are: it is decoded in less time."""

    job_type: JobType
    priority: Priority = 0
    payload: AnyJson = msgspec.field(default_factory=lambda: NULL)


class JobSubmitPacked(NewJob, kw_only=True):
    """A new job in MessagePack whose payload is JSON text already, as `bin`."""

    payload: bytes = b"null"


class JobBatch(Request):
    """New jobs, each taken or refused by itself."""

    jobs: Annotated[list[JobSubmit], Meta(min_length=1, max_length=limits.BATCH_JOBS_MSGPACK_MAX)]


class JobBatchPacked(Request):
    """The same in MessagePack, payloads as `bin`."""

    jobs: list[JobSubmitPacked]


class JobBatchRaw(Request):
    """The items of a batch one by one."""

    jobs: list[Raw]


MetHow = Annotated[
    Literal["existing", "replaced", "debounced"],
    Meta(description="the unique key was held, by this job: what became of it"),
]


class JobSubmitted(Answer):
    """A job that is durable."""

    id: UuidText
    status: JobStatus
    unique: MetHow | UnsetType = UNSET


class ItemResult(Answer):
    """What became of one item of a batch: `id` and `status`, or `error`."""

    id: UuidText | UnsetType = UNSET
    status: JobStatus | UnsetType = UNSET
    unique: MetHow | UnsetType = UNSET
    error: ItemProblem | UnsetType = UNSET


class JobBatchReply(Answer):
    """What became of each item, in the order of the request."""

    results: list[ItemResult]


class JobBatchReplyPacked(Answer):
    """The same in MessagePack: 16 bytes an item in `ids`, zeros for the refused ones, whose
    problems stand in `errors` by their place."""

    ids: bytes
    errors: dict[int, ItemProblem]
    unique: dict[int, MetHow] | UnsetType = UNSET
    """Of those that met another job, whose id stands in `ids`."""


class ExecutionView(Answer):
    """One attempt of a job."""

    id: UuidText
    attempt: int
    status: ExecutionStatus
    worker_id: UuidText | None
    started_at: Time | None
    finished_at: Time | None
    output: AnyJson
    error: AnyJson


class JobView(Answer):
    """A job."""

    id: UuidText
    queue: str
    queue_id: UuidText
    job_type: str
    payload: AnyJson
    status: JobStatus
    priority: int
    tags: list[str]
    scheduled_for: Time | None
    created_at: Time
    updated_at: Time
    started_at: Time | None
    finished_at: Time | None
    deadline_at: Time | None
    attempts: int
    crashes: int
    max_attempts: Annotated[int | None, Meta(description="null: the queue's")]
    timeout_s: Annotated[float | None, Meta(description="null: the queue's")]
    worker_id: UuidText | None
    result: AnyJson
    last_error: AnyJson
    failed_reason: FailedReason | None
    cancel_reason: str | None
    idempotency_key: str | None
    unique_key: str | None
    waiting_on: Annotated[int | None, Meta(description="parents that are missing")]
    ref: Annotated[str | None, Meta(description="its name in the request that made its graph")]
    group_key: str | None
    expires_at: Annotated[Time | None, Meta(description="cancelled if not started by then")]
    soft_timeout_s: Annotated[float | None, Meta(description="null: the queue's")]
    cancel_requested_at: Annotated[
        Time | None, Meta(description="since when its handler is asked to end")
    ]
    retry_policy: Annotated[
        RetryPolicyChange | None, Meta(description="what goes before the queue's; null: nothing")
    ]


class ProgressView(Answer):
    """How far the handler of a running job says that it is."""

    percent: float | None
    message: str | None
    at: Time | None


class JobDetails(JobView, kw_only=True):
    """A job with its executions, the oldest first."""

    progress: Annotated[ProgressView | None, Meta(description="of a running job")] = None
    executions: list[ExecutionView]


class JobPage(Answer):
    """Jobs, the newest first."""

    items: list[JobView]
    next_cursor: str | None


# Everything else


class HeartbeatReply(Answer):
    """The worker's leases are extended."""

    status: Literal["ok"] = "ok"


class Health(Answer):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(Answer):
    """Whether the node takes requests, and what keeps it from that."""

    ready: bool
    reasons: list[str]


# Queries


class NoQuery(Request):
    """No parameters."""


class PageQuery(Request):
    """Which part of a list."""

    limit: Annotated[int, Meta(ge=1, le=limits.PAGE_ROWS_MAX)] = limits.PAGE_ROWS_DEFAULT
    cursor: Cursor | None = None


class JobsQuery(PageQuery, kw_only=True):
    """Which jobs."""

    queue: QueueText | None = None
    status: JobStatus | None = None
    job_type: Annotated[str, Meta(max_length=limits.JOB_TYPE_BYTES_MAX)] | None = None
    created_after: Annotated[Time, Meta(description="at this time or later")] | None = None
    created_before: Annotated[Time, Meta(description="before this time")] | None = None


class WaitQuery(Request):
    """Whether to wait."""

    wait: Wait | None = None


def wait_s(text: str | None) -> float:
    """Seconds of a `wait` parameter, bounded."""
    if text is None:
        return 0.0
    unit_s = 0.001 if text.endswith("ms") else 1.0
    return min(float(text.rstrip("ms")) * unit_s, limits.WAIT_S_MAX)


encode_json = msgspec.json.Encoder().encode
encode_msgpack = msgspec.msgpack.Encoder().encode
