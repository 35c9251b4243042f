"""What a job may be told beyond the common fields, with the names of the HTTP API.

    @task(group_key="ada")                              for all jobs of a task
    client.submit(greet.configure(group_key="ada"))     for one
    JobSpec("greet", queue="mail", options={…})         for a job type that is only a name

Each of these goes before the one above it. Options stand apart from the arguments of `submit`, so
that they never clash with those of the task.
"""

from datetime import datetime
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from taskforge.client.models import RetryPolicy


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

    retry_policy: "RetryPolicy"
    """Goes before the queue's, field by field."""


def known_options(options: JobOptions) -> JobOptions:
    """The same; TypeError for names that are no options."""
    if unknown := options.keys() - JobOptions.__annotations__.keys():
        raise TypeError(f"a job has no option {', '.join(sorted(unknown))}")
    return options
