"""Why a job is not running: what is found, as codes that stay and words that people read.

Explanation   running or not, the reasons, and when it will probably start
Reason        one of CODES, a sentence, and what the sentence speaks of
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from taskforge_server.engine.model.job import JobStatus

CODES: Final = {
    "running": "it runs",
    "cancel_asked": "it runs, and its handler was asked to end",
    "worker_away": "it runs on a worker that is not connected; its lease lasts a while",
    "succeeded": "it has ended well",
    "failed": "it has failed for good",
    "cancelled": "it was cancelled",
    "waiting_for_parents": "other jobs must end first",
    "parents_failed": "jobs that it waits for have failed or were cancelled, and may be retried",
    "held": "it has no time to start at",
    "scheduled": "it is to start later",
    "backoff": "its last attempt failed, and the pause before the next one lasts",
    "put_off": "its handler or a worker gave it back for a time",
    "queue_paused": "somebody paused the queue",
    "limit": "a limit of the queue is used up",
    "no_worker": "no worker that is connected asks for the queue",
    "no_worker_for_type": "no worker of the queue runs jobs of its type",
    "workers_drained": "workers ask for the queue, and were drained",
    "workers_not_assigned": "workers ask for the queue, and others are assigned to it",
    "worker_type_refused": "workers ask for the queue, of types that it does not take",
    "worker_limit": "the organisation's plan allows no more workers",
    "no_credit": "all workers of its type have as many jobs as they asked for",
    "jobs_ahead": "other jobs of its queue and type start first",
    "loading": "the jobs of its shard are still being counted",
    "elsewhere": "the shard of its queue is not on this node",
    "node_draining": "this node stops",
    "keys_missing": "the project's keys have not been read yet",
    "starting": "nothing stands in its way",
}
"""All codes with what they mean; none is ever taken away."""

BLOCKERS: Final = frozenset(CODES) - {
    "running",
    "scheduled",
    "backoff",
    "put_off",
    "limit",
    "no_credit",
    "jobs_ahead",
    "loading",
    "starting",
}
"""What does not end by itself: no start can be foretold."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that keeps the job from running."""

    code: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Explanation:
    """All that is known."""

    status: JobStatus
    running: bool = False
    reasons: list[Reason] = field(default_factory=list)
    estimated_start_at: datetime | None = None
    parents: Sequence[bytes] = ()
    """Open edges: whoever knows how the parents are says which of them keep it from running."""
    counts_rows: bool = False
    """More jobs may be ahead than memory could be asked for: the tables know better."""

    def add(self, code: str, message: str, **details: Any) -> None:
        assert code in CODES, code
        self.reasons.append(Reason(code, message, details))

    def without_workers(self) -> None:
        """Name no other workers: how many they are may be known."""
        for reason in self.reasons:
            if isinstance(named := reason.details.get("workers"), list):
                reason.details["workers"] = len(named)

    @property
    def codes(self) -> set[str]:
        return {reason.code for reason in self.reasons}
