"""New jobs on their way in: what a caller gives, checked, as the engine takes it.

    body ──decode──► NewJob ──Checker──► SubmitBatch ──► engine

The payload passes through as bytes: JSON that was checked, never decoded. What the types of
`NewJob` cannot say is checked by `Checker`: sizes in bytes, times against the clock, fields that
exclude each other. An item that breaks a rule is refused alone.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from msgspec import UNSET

from taskforge_server.engine import limits
from taskforge_server.engine.errors import CallerError, InvalidInput, NotFound, TooLarge
from taskforge_server.engine.model.base import Priority, Time
from taskforge_server.engine.model.graph import Edge, OnFailure
from taskforge_server.engine.model.job import JobStatus
from taskforge_server.engine.model.joboptions import JobOptions, pack_told
from taskforge_server.engine.model.retry import RetryPolicyUpdate
from taskforge_server.engine.shard.family import with_parents
from taskforge_server.engine.shard.unique import Ask, OnConflict, Part, Scope
from taskforge_server.ext.ids import uuid_bytes
from taskforge_server.ext.plainbatch import plain_batch
from taskforge_server.ext.table import NEVER_US, SubmitBatch

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
GroupKey = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=limits.KEY_BYTES_MAX,
        description="jobs of one key share the limits that the queue sets for each key",
        examples=["customer-7"],
    ),
]
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


Ref = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=limits.REF_CHARS_MAX,
        pattern=r"^[^\x00-\x1f\x7f]*\Z",
        description="a name within the request",
        examples=["resize-1"],
    ),
]


class ParentRef(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A job to wait for: an existing one, or, in a graph, another one of the request."""

    job_id: Annotated[str, msgspec.Meta(extra_json_schema={"format": "uuid"})] | None = None
    ref: Ref | None = None
    on_failure: Annotated[
        OnFailure, msgspec.Meta(description="what the child does if the parent fails for good")
    ] = "block"


class UniqueRule(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """For how long a job holds its unique key, and what becomes of another one that comes."""

    scope: Annotated[
        Scope | None,
        msgspec.Meta(
            description="while it waits, while it is unfinished, or for a period from its submit "
            "on; by default unfinished, but waiting to replace and to debounce"
        ),
    ] = None
    period_s: Annotated[float, msgspec.Meta(gt=0, le=limits.UNIQUE_PERIOD_S_MAX)] | None = None
    on_conflict: Annotated[
        OnConflict,
        msgspec.Meta(
            description="409; give the job that is there; replace its payload, priority and "
            "options if it waits; or replace its payload and put it off"
        ),
    ] = "existing"
    debounce_s: (
        Annotated[
            float,
            msgspec.Meta(gt=0, le=limits.SCHEDULE_AHEAD_S_MAX, description="seconds of silence"),
        ]
        | None
    ) = None


UniqueKey = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=limits.UNIQUE_KEY_BYTES_MAX,
        description="at most one job of the queue holds it at a time",
        examples=["invoice-2026-11"],
    ),
]


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
    group_key: GroupKey | None = None
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
    parents: (
        Annotated[
            list[ParentRef],
            msgspec.Meta(max_length=limits.PARENTS_MAX, description="it starts after these"),
        ]
        | None
    ) = None
    unique_key: UniqueKey | None = None
    unique: UniqueRule | None = None


def plain_submit(
    job_type: str,
    payload: bytes | memoryview,
    priority: int,
    payload_bytes_max: int,
    idempotency_key: str | None,
) -> SubmitBatch | None:
    """A job that is told nothing else; None: the `Checker` has to look at it."""
    if job_type not in _KNOWN_TYPES or len(payload) > payload_bytes_max:
        return None
    batch = SubmitBatch()
    if idempotency_key is None:
        batch.add(job_type, payload, priority)
    else:
        options = pack_told({"idempotency_key": idempotency_key})
        batch.add(job_type, payload, priority, options=options)
    return batch


class Checker:
    """Applies the rules of one request, and gathers what passes them.

    `refused` holds the errors by the place of the item; the others are in `batch`, in order, and
    `scheduled` says which of them (counted among those that passed) wait for a time or for parents.

    Parents are looked up by whoever can wait: where `parents` names some, the items are to be taken
    again by a checker that knows what they are (`known_parents`).

    Where `unique` is set, some ask for unique keys, and `parts` has them all, each of these apart.
    """

    __slots__ = (
        "_before",
        "_known_parents",
        "_now_us",
        "_options",
        "_parts",
        "_payload_bytes_max",
        "_unique_allowed",
        "batch",
        "parents",
        "refused",
        "scheduled",
        "unique",
    )

    def __init__(
        self,
        now_us: int,
        payload_bytes_max: int,
        idempotency_key: str | None,
        known_parents: Mapping[bytes, JobStatus] | None = None,
        *,
        unique: bool = False,
    ) -> None:
        """`unique`: whoever submits what passes knows of `parts`."""
        self.batch = SubmitBatch()
        self.refused: dict[int, CallerError] = {}
        self.scheduled: set[int] = set()
        self.parents: dict[bytes, None] = {}
        self.unique = 0
        """How many of the items ask for unique keys."""
        self._unique_allowed = unique
        self._parts: list[Part] = []
        self._before = 0
        self._known_parents = known_parents
        self._now_us = now_us
        self._payload_bytes_max = payload_bytes_max
        self._options = {} if idempotency_key is None else {"idempotency_key": idempotency_key}

    def under_key(self, idempotency_key: str) -> None:
        """What is added from here on came with this key."""
        self._options = {"idempotency_key": idempotency_key}

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
            and job.group_key is None
            and job.expires_at is None
            and job.ttl_s is None
            and job.soft_timeout_s is None
            and job.retry_policy is None
            and job.parents is None
            and job.unique_key is None
            and job.unique is None
            and not self._options
        ):
            self.batch.add(job.job_type, payload, job.priority)
            return
        due_us = self._due_us(job)
        if job.unique_key is not None or job.unique is not None:
            self._check_unique(job)
            if job.unique is not None and job.unique.debounce_s is not None:
                due_us = self._now_us + max(1, round(job.unique.debounce_s * 1e6))
        options = self._packed_options(job, due_us)
        if job.parents:
            options, due_us = self._held(job.parents, options, due_us)
        timeout_ms = 0 if job.timeout_s is None else round(job.timeout_s * 1000)
        attempts_max = _max_attempts(job)
        if job.unique_key is not None:
            self._close_part(None)
        self.batch.add(
            job.job_type, payload, job.priority, due_us, timeout_ms, attempts_max, options
        )
        if due_us:
            self.scheduled.add(self._before + self.batch.count - 1)
        if job.unique_key is not None:
            self._close_part(_ask(job, bytes(payload), options, due_us))

    def parts(self) -> list[Part]:
        """All that passed, in order."""
        self._close_part(None)
        return self._parts

    @property
    def count(self) -> int:
        """How many items passed."""
        return self._before + self.batch.count

    def _close_part(self, ask: Ask | None) -> None:
        if self.batch.count:
            self._parts.append(Part(self.batch, ask))
            self._before += self.batch.count
            self.batch = SubmitBatch()

    def _check_unique(self, job: NewJob) -> None:
        """What the types cannot say of a unique key."""
        if not self._unique_allowed:
            raise InvalidInput("here jobs have no unique keys", "unique_key")
        if job.unique_key is None:
            raise InvalidInput("says nothing without unique_key", "unique")
        if len(job.unique_key.encode()) > limits.UNIQUE_KEY_BYTES_MAX or "\0" in job.unique_key:
            message = f"at most {limits.UNIQUE_KEY_BYTES_MAX} bytes, without U+0000"
            raise InvalidInput(message, "unique_key")
        self.unique += 1
        if self.unique > limits.UNIQUE_JOBS_MAX:
            message = f"at most {limits.UNIQUE_JOBS_MAX} jobs of a request have one"
            raise TooLarge(message, "unique_key")
        rule = job.unique or UniqueRule()
        if (rule.period_s is not None) != (rule.scope == "period"):
            raise InvalidInput("goes with scope = period, and is needed there", "unique.period_s")
        if (rule.debounce_s is not None) != (rule.on_conflict == "debounce"):
            message = "goes with on_conflict = debounce, and is needed there"
            raise InvalidInput(message, "unique.debounce_s")
        if rule.debounce_s is not None and (job.scheduled_for or job.delay_s):
            raise InvalidInput("the debounce says when the job is due", "unique.debounce_s")
        if rule.on_conflict in ("replace", "debounce") and job.parents:
            raise InvalidInput("a job with parents is not replaced", "unique.on_conflict")

    def _held(
        self, parents: Sequence[ParentRef], options: bytes | None, due_us: int
    ) -> tuple[bytes | None, int]:
        """The options of a job that waits for these, and when it is due: never by itself."""
        parent_ids = [_parent_id(parent, place) for place, parent in enumerate(parents)]
        if len(set(parent_ids)) != len(parent_ids):
            raise InvalidInput("a parent stands there twice", "parents")
        self.parents.update(dict.fromkeys(parent_ids))
        known = self._known_parents
        if known is None:
            return options, due_us
        edges = []
        for place, (parent, parent_id) in enumerate(zip(parents, parent_ids, strict=True)):
            if parent_id not in known:
                raise no_such_parent(place)
            edges.append(Edge.to(parent_id, parent.on_failure, known[parent_id]))
        held = not all(edge.done for edge in edges)
        return with_parents(options, edges, due_us), NEVER_US if held else due_us

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
        if job.unique_key is not None:
            options["unique_key"] = job.unique_key
        if job.group_key is not None:
            self._check_group_key(job.group_key)
            options["group_key"] = job.group_key
        options["more"] = JobOptions(
            unique=None if job.unique_key is None else _scope(job),
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
    def _check_group_key(key: str) -> None:
        if len(key.encode()) > limits.KEY_BYTES_MAX:
            raise InvalidInput(f"at most {limits.KEY_BYTES_MAX} bytes of UTF-8", "group_key")
        if "\0" in key:
            raise InvalidInput("U+0000 cannot be stored", "group_key")

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


def _scope(job: NewJob) -> Scope:
    """For how long the job holds its key."""
    rule = job.unique or UniqueRule()
    if rule.scope is not None:
        return rule.scope
    return "waiting" if rule.on_conflict in ("replace", "debounce") else "unfinished"


def _ask(job: NewJob, payload: bytes, options: bytes | None, due_us: int) -> Ask:
    assert job.unique_key is not None
    rule = job.unique or UniqueRule()
    period_us = round((rule.period_s or 0) * 1e6)
    return Ask(
        job.unique_key,
        _scope(job),
        period_us,
        rule.on_conflict,
        payload,
        job.priority,
        options,
        due_us,
    )


def _own_policy(job: NewJob) -> RetryPolicyUpdate | None:
    if job.retry_policy is not None:
        job.retry_policy.check_own("retry_policy.")
    return job.retry_policy


def _parent_id(parent: ParentRef, place: int) -> bytes:
    if parent.ref is not None:
        raise InvalidInput("names within a request are for graphs", f"parents[{place}].ref")
    if parent.job_id is None:
        raise InvalidInput("say which job", f"parents[{place}].job_id")
    return parent_id_of(parent.job_id, place)


def parent_id_of(job_id: str, place: int) -> bytes:
    """The id of a parent; NotFound for what is none."""
    try:
        return uuid_bytes(job_id)
    except ValueError:
        raise no_such_parent(place) from None


def no_such_parent(place: int) -> NotFound:
    """A parent that the project does not have."""
    return NotFound(
        "this project has no such job", f"parents[{place}].job_id", code="job_not_found"
    )
