"""What followers of a job, a queue or a project are told."""

from typing import Final, NamedTuple

FINAL_KINDS: Final = frozenset({"succeeded", "failed", "cancelled"})


class Progress(NamedTuple):
    """What the handler of a running job said last."""

    percent: float | None
    message: str | None
    at_us: int


class JobEvent(NamedTuple):
    """Something that happened to a job. `status` is that after it, empty where it is as it was;
    `lsn` is 0 for progress."""

    kind: str
    job_id: bytes
    queue_id: bytes
    job_type: str
    status: str
    at_us: int
    lsn: int = 0
    attempt: int = 0
    due_us: int = 0
    reason: str | None = None
    progress: Progress | None = None

    @property
    def final(self) -> bool:
        """The job has ended with it."""
        return self.kind in FINAL_KINDS


class Missed(NamedTuple):
    """So many events were not told; None: nobody knows how many."""

    events: int | None


Told = tuple[str, JobEvent | Missed]
"""With the id behind which a follower may take up again; empty: there is none."""
