"""What a job may be told beyond the common fields, with the names of the HTTP API.

    @task(group_key="ada")                              for all jobs of a task
    client.submit(greet.configure(group_key="ada"))     for one
    JobSpec("greet", queue="mail", options={…})         for a job type that is only a name

Each of these goes before the one above it. Options stand apart from the arguments of `submit`, so
that they never clash with those of the task.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict

if TYPE_CHECKING:
    from taskforge.client.models import RetryPolicy


class Unique(TypedDict, total=False):
    """For how long a job holds its unique key, and what becomes of another one that comes."""

    scope: Literal["waiting", "unfinished", "period"]
    """Default: unfinished; waiting to replace and to debounce."""
    period_s: float
    on_conflict: Literal["reject", "existing", "replace", "debounce"]
    """Default: existing."""
    debounce_s: float


class JobOptions(TypedDict, total=False):
    """Options of a job; what is not given is as the queue has it."""

    group_key: str
    """Jobs of one key share the limits that the queue sets for each key."""

    expires_at: datetime
    """A job that was not started by then is cancelled."""

    ttl_s: float
    """The same, in seconds from the submit."""

    soft_timeout_s: float
    """After so long an attempt's handler is told: SoftTimeout, or `Context.soft_timed_out`."""

    parents: "Sequence[Parent]"
    """The job starts after these: ids or handles, or pairs of one and `block`, `cancel` or
    `run_anyway`, which say what it does if that one fails for good."""

    unique_key: str
    """At most one job of the queue holds it at a time; the handle is that job's."""

    unique: Unique
    """For how long, and what becomes of another job with the key."""

    retry_policy: "RetryPolicy"
    """Goes before the queue's, field by field."""


CatchUp = Literal["skip", "latest", "all"]
Overlap = Literal["allow", "skip", "cancel_previous"]


class ScheduleOptions(TypedDict, total=False):
    """When a task has jobs by itself, without arguments."""

    cron: str
    """At its ticks: the schedule has the task's name, and is made when a worker of the task starts,
    or by `client.schedules.declare`."""

    timezone: str
    """Of the IANA database; default: UTC."""

    catch_up: CatchUp
    """What becomes of ticks that were missed; default: the latest has its job."""

    window_s: int
    overlap: Overlap
    """What becomes of a tick when the job before has not ended; default: allow."""

    jitter_s: int


class TaskOptions(JobOptions, ScheduleOptions, total=False):
    """What `@task` takes."""


class Job(Protocol):
    """A job that is there: a handle."""

    @property
    def id(self) -> str: ...


Parent = str | Job | tuple[Any, str]
"""A job to wait for: its id, its handle, or one of these with what the child does if it fails."""


def parent_ref(parent: Parent) -> dict[str, str]:
    """How a request names it."""
    if isinstance(parent, tuple):
        job, on_failure = parent
        return parent_ref(job) | {"on_failure": on_failure}
    return {"job_id": parent if isinstance(parent, str) else parent.id}


def known_options(options: JobOptions) -> JobOptions:
    """The same; TypeError for names that are no options."""
    if unknown := options.keys() - JobOptions.__annotations__.keys():
        raise TypeError(f"a job has no option {', '.join(sorted(unknown))}")
    return options
