"""Dead letters: jobs that have failed for good, and what a queue does about them."""

from typing import Annotated

import msgspec

from taskforge_server.engine import limits
from taskforge_server.engine.model.base import Model, Name
from taskforge_server.engine.model.job import JobType

KeepS = Annotated[
    float,
    msgspec.Meta(
        ge=limits.DEAD_LETTER_KEEP_S_MIN,
        le=limits.DEAD_LETTER_KEEP_S_MAX,
        description="seconds after which a failed job is deleted; null: with the history",
    ),
]


class DeadLetterHook(Model, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The job that is submitted for each dead letter, once."""

    queue: Name
    job_type: JobType


class DeadLetterSettings(Model, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What becomes of the failed jobs of a queue."""

    keep_s: KeepS | None = None
    hook: DeadLetterHook | None = None
