"""New jobs on their way in: what a caller gives, checked, as the engine takes it.

    body ──decode──► NewJob ──Checker──► SubmitBatch ──► engine

The payload passes through as bytes: JSON that was checked, never decoded. What the types of
`NewJob` cannot say is checked by `Checker`: sizes in bytes, times against the clock, fields that
exclude each other. An item that breaks a rule is refused alone.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from msgspec import UNSET

from taskforge_server.engine import limits
from taskforge_server.engine.errors import CallerError, InvalidInput, TooLarge
from taskforge_server.engine.model.base import Priority, Time
from taskforge_server.engine.model.joboptions import JobOptions, pack_told
from taskforge_server.engine.model.retry import RetryPolicyUpdate
from taskforge_server.ext.plainbatch import plain_batch
from taskforge_server.ext.table import SubmitBatch

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_KNOWN_TYPES_MAX = 10_000
_KNOWN_TYPES: set[str] = set()
"""Names of job types that have passed their check; a program has few of them."""

JobType = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=limits.JOB_TYPE_BYTES_MAX,
        description="what kind of work it is; workers declare the types that they take",
        examples=["send_email"],
    ),
]
Tag = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.TAG_BYTES_MAX)]
Tags = Annotated[list[Tag], msgspec.Meta(max_length=limits.TAGS_MAX, description="labels")]
DelayS = Annotated[
    float, msgspec.Meta(ge=0, le=limits.SCHEDULE_AHEAD_S_MAX, description="seconds from now")
]
TimeoutS = Annotated[
    float,
    msgspec.Meta(
        ge=0.001,
        le=limits.TIMEOUT_S_MAX,
        description="seconds an attempt may run; the queue's if not given",
    ),
]
SoftTimeoutS = Annotated[
    float,
    msgspec.Meta(
        ge=0.001,
        le=limits.TIMEOUT_S_MAX,
        description="seconds until the handler of an attempt is told; the queue's if not given",
    ),
]
TtlS = Annotated[
    float,
    msgspec.Meta(
        gt=0,
        le=limits.SCHEDULE_AHEAD_S_MAX,
        description="seconds from now; a job that was not started by then is cancelled",
    ),
]
Attempts = Annotated[
    int,
    msgspec.Meta(
        ge=1, le=limits.ATTEMPTS_MAX, description="how often it is tried; the queue's if not given"
    ),
]


def due_us_of(scheduled_for: datetime | None, delay_s: float | None, now_us: int) -> int:
    """When a job may start; 0: at once, also when its time is over."""
    if scheduled_for is not None:
        if delay_s is not None:
            raise InvalidInput("give scheduled_for or delay_s, not both", "delay_s")
        due_us = (scheduled_for - _EPOCH) // _MICROSECOND
        if due_us > now_us + limits.SCHEDULE_AHEAD_S_MAX * 1_000_000:
            days = limits.SCHEDULE_AHEAD_S_MAX // 86_400
            raise InvalidInput(f"at most {days} days ahead", "scheduled_for")
        return due_us if due_us > now_us else 0
    return now_us + max(1, round(delay_s * 1e6)) if delay_s else 0


class NewJob(msgspec.Struct, forbid_unknown_fields=True, gc=False, kw_only=True):
    """A job as a caller gives it, but for its payload, whose form depends on the coding."""

    job_type: JobType
    priority: Priority = 0
    scheduled_for: (
        Annotated[Time, msgspec.Meta(description="not before this time; with its offset")] | None
    ) = None
    delay_s: DelayS | None = None
    timeout_s: TimeoutS | None = None
    max_attempts: Attempts | None = None
    tags: Tags | None = None
    expires_at: (
        Annotated[
            Time, msgspec.Meta(description="cancelled if not started by then; with its offset")
        ]
        | None
    ) = None
    ttl_s: TtlS | None = None
    soft_timeout_s: SoftTimeoutS | None = None
    retry_policy: (
        Annotated[
            RetryPolicyUpdate,
            msgspec.Meta(description="goes before the queue's, field by field"),
        ]
        | None
    ) = None


class Checker:
    """Applies the rules of one request, and gathers what passes them.

    `refused` holds the errors by the place of the item; the others are in `batch`, in order, and
    `scheduled` says which of them (counted among those that passed) wait for a time.
    """

    __slots__ = ("_now_us", "_options", "_payload_bytes_max", "batch", "refused", "scheduled")

    def __init__(self, now_us: int, payload_bytes_max: int, idempotency_key: str | None) -> None:
        self.batch = SubmitBatch()
        self.refused: dict[int, CallerError] = {}
        self.scheduled: set[int] = set()
        self._now_us = now_us
        self._payload_bytes_max = payload_bytes_max
        self._options = {} if idempotency_key is None else {"idempotency_key": idempotency_key}

    def take_plain(self, body: bytes, depth_max: int) -> bool:
        """Take a whole MessagePack batch of plain jobs at once; False where it is not plain."""
        if self._options:
            return False
        batch = plain_batch(body, limits.BATCH_JOBS_MSGPACK_MAX, self._payload_bytes_max, depth_max)
        if batch is not None:
            self.batch = batch
        return batch is not None

    def add(self, job: NewJob, payload: bytes | memoryview) -> None:
        """Check one job and take it; CallerError names its field."""
        if job.job_type not in _KNOWN_TYPES:
            self._check_type(job.job_type)
        if len(payload) > self._payload_bytes_max:
            raise TooLarge(
                f"{len(payload)} bytes: at most {self._payload_bytes_max}; keep large data "
                "elsewhere and submit where it is",
                "payload",
            )
        if (
            job.scheduled_for is None
            and job.delay_s is None
            and job.timeout_s is None
            and job.max_attempts is None
            and job.tags is None
            and job.expires_at is None
            and job.ttl_s is None
            and job.soft_timeout_s is None
            and job.retry_policy is None
            and not self._options
        ):
            self.batch.add(job.job_type, payload, job.priority)
            return
        due_us = self._due_us(job)
        timeout_ms = 0 if job.timeout_s is None else round(job.timeout_s * 1000)
        self.batch.add(
            job.job_type,
            payload,
            job.priority,
            due_us,
            timeout_ms,
            _max_attempts(job),
            self._packed_options(job, due_us),
        )
        if due_us:
            self.scheduled.add(self.batch.count - 1)

    def _check_type(self, job_type: str) -> None:
        if len(job_type.encode()) > limits.JOB_TYPE_BYTES_MAX:
            raise InvalidInput(f"at most {limits.JOB_TYPE_BYTES_MAX} bytes of UTF-8", "job_type")
        if "\0" in job_type:
            raise InvalidInput("U+0000 cannot be stored", "job_type")
        if len(_KNOWN_TYPES) >= _KNOWN_TYPES_MAX:
            _KNOWN_TYPES.clear()
        _KNOWN_TYPES.add(job_type)

    def _due_us(self, job: NewJob) -> int:
        return due_us_of(job.scheduled_for, job.delay_s, self._now_us)

    def _packed_options(self, job: NewJob, due_us: int) -> bytes | None:
        """What it is told, by columns; the fields of single features go to `more`."""
        options: dict[str, Any] = {**self._options}
        if job.tags:
            self._check_tags(job.tags)
            options["tags"] = job.tags
        options["more"] = JobOptions(
            expires_us=self._expires_us(job, due_us),
            soft_timeout_s=self._soft_timeout_s(job),
            retry_policy=_own_policy(job),
        )
        return pack_told(options)

    def _expires_us(self, job: NewJob, due_us: int) -> int:
        """When it is too late to start; 0: never."""
        if job.expires_at is not None:
            if job.ttl_s is not None:
                raise InvalidInput("give expires_at or ttl_s, not both", "ttl_s")
            field, expires_us = "expires_at", (job.expires_at - _EPOCH) // _MICROSECOND
        elif job.ttl_s is not None:
            field, expires_us = "ttl_s", self._now_us + max(1, round(job.ttl_s * 1e6))
        else:
            return 0
        if expires_us <= max(self._now_us, due_us):
            raise InvalidInput("the job could never start: it expires before it is due", field)
        return expires_us

    @staticmethod
    def _soft_timeout_s(job: NewJob) -> float:
        soft = job.soft_timeout_s or 0.0
        if job.timeout_s is not None and soft >= job.timeout_s:
            raise InvalidInput("must be less than timeout_s", "soft_timeout_s")
        return soft

    @staticmethod
    def _check_tags(tags: Sequence[str]) -> None:
        for place, tag in enumerate(tags):
            if len(tag.encode()) > limits.TAG_BYTES_MAX:
                raise InvalidInput(f"at most {limits.TAG_BYTES_MAX} bytes", f"tags[{place}]")
            if "\0" in tag:
                raise InvalidInput("U+0000 cannot be stored", f"tags[{place}]")


def _max_attempts(job: NewJob) -> int:
    """How often it is tried, wherever the caller says it; 0: as the queue says."""
    policy = job.retry_policy
    if policy is None or policy.max_attempts is UNSET:
        return job.max_attempts or 0
    if job.max_attempts is not None:
        raise InvalidInput("stands in retry_policy too: give one of them", "max_attempts")
    return policy.max_attempts


def _own_policy(job: NewJob) -> RetryPolicyUpdate | None:
    if job.retry_policy is not None:
        job.retry_policy.check_own("retry_policy.")
    return job.retry_policy
