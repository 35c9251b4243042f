"""A queue: where jobs wait, with the rules that hold for all of its jobs.

A queue belongs to a shard for good:  shard = sha256(queue id)[:8] mod shards,  computed once when
the queue is made and stored with it. So a queue does not move when the number of shards changes,
and its jobs, which carry the shard in their ids, stay findable.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from taskforge_server.engine import limits
from taskforge_server.engine.errors import InvalidInput
from taskforge_server.engine.model.base import Id, Model, Name, Priority, Time, checked
from taskforge_server.engine.model.deadletter import DeadLetterSettings
from taskforge_server.engine.model.queuelimits import (
    Concurrency,
    Rate,
    TableLimits,
    table_limits,
)
from taskforge_server.engine.model.retry import RetryBudget, RetryPolicy
from taskforge_server.engine.model.worker import WorkerType

__all__ = [
    "History",
    "JobQueue",
    "QueueRef",
    "QueueSettings",
    "RetryPolicy",
    "WorkerTypes",
    "shard_of_queue",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

History = Literal["all", "failed", "none"]
"""Which finished jobs stay in the tables."""


Timeout = Annotated[
    float,
    msgspec.Meta(
        gt=0, le=limits.TIMEOUT_S_MAX, description="seconds an attempt may run; null: no limit"
    ),
]


SoftTimeout = Annotated[
    float,
    msgspec.Meta(
        gt=0,
        le=limits.TIMEOUT_S_MAX,
        description="seconds after which the handler of an attempt is told; null: it is not",
    ),
]


WorkerTypes = Annotated[
    tuple[WorkerType, ...],
    msgspec.Meta(
        max_length=len(get_args(WorkerType)),
        description="only workers of these types get jobs; none named: workers of every type",
    ),
]


class QueueSettings(Model, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `settings` of a queue; what is not given has these defaults."""

    retry_policy: RetryPolicy = RetryPolicy()
    timeout: Timeout | None = None
    soft_timeout: SoftTimeout | None = None
    history: History = "all"
    crashes_max: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=limits.CRASHES_MAX,
            description="a job that so often took its worker down with it fails as quarantined",
        ),
    ] = 3
    worker_types: WorkerTypes = ()
    retry_budget: RetryBudget | None = None
    max_concurrency: Concurrency | None = None
    max_concurrency_per_key: Concurrency | None = None
    rate: Rate | None = None
    rate_per_key: Rate | None = None
    fair_keys: Annotated[
        bool, msgspec.Meta(description="keys take turns; jobs without a key are one of them")
    ] = False
    dead_letters: DeadLetterSettings = DeadLetterSettings()

    def validate(self) -> None:
        super().validate()
        self.check_relations()

    def check_relations(self, path: str = "") -> None:
        """Rules of two fields; `path` leads the name of the field in the error."""
        self.retry_policy.check_relations(f"{path}retry_policy.")
        for name, rate in (("rate", self.rate), ("rate_per_key", self.rate_per_key)):
            if rate is not None:
                rate.check_relations(f"{path}{name}.")
        if self.history == "none" and self.dead_letters != DeadLetterSettings():
            raise InvalidInput("no failed job is kept with history `none`", f"{path}dead_letters")
        soft, hard = self.soft_timeout, self.timeout
        if soft is not None and hard is not None and soft >= hard:
            raise InvalidInput("must be less than timeout", f"{path}soft_timeout")

    @property
    def timeout_ms(self) -> int:
        """The timeout as the shard table takes it; 0: no limit."""
        return 0 if self.timeout is None else max(1, round(self.timeout * 1000))

    @property
    def soft_timeout_ms(self) -> int:
        """The same of the soft timeout."""
        return 0 if self.soft_timeout is None else max(1, round(self.soft_timeout * 1000))

    @property
    def limits(self) -> TableLimits | None:
        """The limits as the shard table takes them."""
        return table_limits(
            self.max_concurrency,
            self.max_concurrency_per_key,
            self.rate,
            self.rate_per_key,
            self.fair_keys,
        )

    @property
    def history_code(self) -> int:
        """The history as the shard table takes it: 0 none, 1 failed, 2 all."""
        return ("none", "failed", "all").index(self.history)

    @classmethod
    def stored(cls, text: str | bytes) -> "QueueSettings":
        """Read a stored row. Fields of a newer version are passed over: nodes of two versions run
        side by side during an upgrade."""
        raw = _known(msgspec.json.decode(text), cls)
        return checked(raw, cls)


class JobQueue(Model, frozen=True, kw_only=True):
    """A row of `job_queues`."""

    id: Id
    project_id: Id
    name: Name
    priority: Priority = 0
    settings: QueueSettings = QueueSettings()
    created_at: Time
    shard: Annotated[int, msgspec.Meta(ge=0, lt=limits.SHARDS_MAX)]
    archived_at: Time | None = None
    """Since when it is deleted: its jobs can be looked at, nothing else."""
    paused_at: Time | None = None
    """Since when nothing of it starts; what runs goes on."""

    def validate(self) -> None:
        super().validate()
        self.settings.check_relations("settings.")

    def get_retry_policy(self) -> RetryPolicy:
        return self.settings.retry_policy

    def get_timeout(self) -> float | None:
        """Seconds; None: no limit."""
        return self.settings.timeout

    def ref(self) -> "QueueRef":
        """What the engine needs of the queue."""
        return QueueRef(
            self.id,
            self.project_id,
            self.name,
            self.priority,
            self.settings,
            self.shard,
            self.archived_at is not None,
            self.paused_at is not None,
            self.created_at,
        )


@dataclass(frozen=True, slots=True)
class QueueRef:
    """A queue as the engine knows it: a frozen copy of its row, replaced when the row changes."""

    id: bytes
    project_id: bytes
    name: str
    priority: int
    settings: QueueSettings
    shard: int
    archived: bool = False
    paused: bool = False
    created_at: datetime | None = None
    """By the database's clock; None: nobody knows."""

    @property
    def born_us(self) -> int:
        """No job of it was started before this time of any node's clock; 0: nobody knows."""
        if self.created_at is None:
            return 0
        return (self.created_at - _EPOCH) // _MICROSECOND - round(limits.QUEUE_AGE_DOUBT_S * 1e6)


def shard_of_queue(queue_id: bytes, shards: int) -> int:
    """The shard of a new queue."""
    if not 0 < shards <= limits.SHARDS_MAX:
        raise ValueError(f"shards is {shards}: 1 to {limits.SHARDS_MAX}")
    return int.from_bytes(hashlib.sha256(queue_id).digest()[:8]) % shards


def _known(raw: Any, kind: Any) -> Any:
    """A stored value with the fields that this version knows, in structs within structs too."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(raw, dict):
        fields = msgspec.structs.fields(kind)
        return {
            field.name: _known(raw[field.name], field.type) for field in fields if field.name in raw
        }
    if get_origin(kind) in (Union, UnionType) and raw is not None:
        (kind, *_) = [part for part in get_args(kind) if part is not type(None)]
        return _known(raw, kind)
    return raw
