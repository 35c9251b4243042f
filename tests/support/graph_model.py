"""Jobs that wait for jobs, in plain words: what becomes of each follows from its edges alone."""

from dataclasses import dataclass, field

from taskforge_server.engine.model.graph import OnFailure
from taskforge_server.engine.model.job import FINAL
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.ext.ids import shard_of

GONE = "gone"
"""It ended, and its row was deleted."""


@dataclass
class Job:
    """`edges` are those that are not satisfied; `told` all that it ever had."""

    queue: QueueRef
    due_us: int = 0
    """Its own time; 0: none."""
    status: str = "scheduled"
    edges: dict[bytes, OnFailure] = field(default_factory=dict)
    told: set[bytes] = field(default_factory=set)
    kept: bool = False
    """Its row stays: somebody was told to wait for it before it had ended."""
    starts: int = 0
    reasons: set[str] = field(default_factory=set)
    """Why it was cancelled: one of these."""

    def wait(self, parent_id: bytes, policy: OnFailure) -> None:
        """An edge that is there stays as it is."""
        self.edges.setdefault(parent_id, policy)
        self.told.add(parent_id)


class Family:
    """All jobs, the older ones first."""

    def __init__(self) -> None:
        self.jobs: dict[bytes, Job] = {}

    def settle(self, now_us: int, away: int | None = None) -> None:
        """Parents are older than their children: one round is enough. Nothing becomes of the jobs
        of a shard that is away."""
        for job_id, job in self.jobs.items():
            if job.status != "scheduled" or shard_of(job_id) == away:
                continue
            for parent_id, policy in list(job.edges.items()):
                status = self.jobs[parent_id].status
                if status == "succeeded" or (status in (*FINAL, GONE) and policy == "run_anyway"):
                    del job.edges[parent_id]
                elif status == GONE:
                    job.reasons.add("parent_gone")
                elif status in FINAL and policy == "cancel":
                    job.reasons.add("parent_failed")
            if job.reasons:
                job.status = "cancelled"
            elif not job.edges and job.due_us <= now_us:
                job.status = "processing"
                job.starts += 1

    def of(self, *statuses: str) -> list[bytes]:
        return [job_id for job_id, job in self.jobs.items() if job.status in statuses]

    def waits(self) -> dict[bytes, dict[bytes, OnFailure]]:
        """The open edges of all jobs that have some."""
        return {
            job_id: job.edges
            for job_id, job in self.jobs.items()
            if job.status == "scheduled" and job.edges
        }

    def run_again(self, job_id: bytes) -> None:
        """It waits for what was missing, and for no time of its own if that is nothing. Its row
        stays if somebody waits for it."""
        job = self.jobs[job_id]
        job.status = "scheduled"
        job.reasons.clear()
        job.kept |= any(job_id in edges for edges in self.waits().values())
        if not job.edges:
            job.due_us = 0

    def nobody_passed(self, job_id: bytes) -> bool:
        """Whoever waits or may wait again for it has not yet been told how it ended: it may run
        again, or go."""
        return all(
            job_id in job.edges
            for job in self.jobs.values()
            if job.status in ("scheduled", "cancelled") and job_id in job.told
        )
