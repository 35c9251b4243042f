"""Telling jobs that are there: end many by a filter, start at another time, go first.

A mass cancel walks over the open jobs of one queue in the owner's memory, which knows all of them,
page by page: each page looks at a bounded number and says where to go on. What was open when the
first page was asked for and is open still is found by some page.
"""

import base64
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from taskforge_server.api.service.jobs import JobService
from taskforge_server.api.service.ports import Engine, JobDict
from taskforge_server.engine import limits
from taskforge_server.engine.errors import Conflict, InvalidInput, NotFound
from taskforge_server.engine.model.audit import Actor
from taskforge_server.engine.model.job import JobStatus
from taskforge_server.engine.model.joboptions import read_told
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.ext.ids import uuid_text

_CURSOR = b"open:"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFilter:
    """Which open jobs of a queue; what is None does not matter."""

    statuses: frozenset[JobStatus] | None = None
    job_type: str | None = None
    tags: Sequence[str] = ()
    """All of them."""
    created_from_us: int | None = None
    created_before_us: int | None = None

    def matches(self, status: str, job_type: str, created_us: int, options: bytes | None) -> bool:
        """Whether it is one of these."""
        return (
            (self.statuses is None or status in self.statuses)
            and (self.job_type is None or job_type == self.job_type)
            and (self.created_from_us is None or created_us >= self.created_from_us)
            and (self.created_before_us is None or created_us < self.created_before_us)
            and (not self.tags or set(self.tags) <= {*read_told(options).named.get("tags", ())})
        )


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What became of one page."""

    matched: int
    cancelled: int
    asked: int
    """Running ones, that have their grace time now."""
    next_cursor: str | None


class ActTeller(Protocol):
    """The audit log, for acts that the shards' log makes durable."""

    async def tell(
        self, project_id: bytes, actor: Actor, action: str, target: str, about: dict[str, Any]
    ) -> None:
        """The act is about to be done."""
        ...


class ControlService:
    """The use cases of jobs that are open."""

    def __init__(self, engine: Engine, jobs: JobService, acts: ActTeller) -> None:
        self._engine = engine
        self._jobs = jobs
        self._acts = acts

    async def cancel_many(
        self,
        queue: QueueRef,
        wanted: OpenFilter,
        grace_s: float,
        cursor: str | None,
        actor: Actor,
        *,
        dry_run: bool,
    ) -> Cancelled:
        """Cancel the open jobs of a page that match, after the audit log was told; InvalidInput for
        a wrong cursor."""
        found, place = await self._engine.open_jobs(
            queue, _place(cursor), limits.CANCEL_PAGE_JOBS, limits.CANCEL_LOOKS_MAX
        )
        ids = [job[0] for job in found if wanted.matches(*job[1:])]
        cancelled = asked = 0
        if ids and not dry_run:
            about = _about(queue, wanted) | {"jobs": len(ids), "grace_s": grace_s}
            target = f"queue:{uuid_text(queue.id)}"
            await self._acts.tell(queue.project_id, actor, "jobs.cancel", target, about)
            cancelled, asked = await self._engine.cancel_many(queue, ids, grace_s)
        return Cancelled(len(ids), cancelled, asked, None if place < 0 else _cursor(place))

    async def change(
        self, project_id: bytes, job_id: bytes, due_us: int, priority: int
    ) -> tuple[JobDict, list[JobDict]]:
        """Another time or priority for a job that waits, -1: as it is. NotFound, Conflict."""
        try:
            await self._engine.change(job_id, project_id, due_us=due_us, priority=priority)
        except NotFound:
            job, _ = await self._jobs.get(project_id, job_id)
            raise Conflict(
                f"only a job that waits can be changed: this one is {job['status']}",
                code="job_not_changeable",
            ) from None
        return await self._jobs.get(project_id, job_id)

    async def run_now(self, project_id: bytes, job_id: bytes) -> tuple[JobDict, list[JobDict]]:
        """Let a job that is scheduled start at once. NotFound, Conflict."""
        return await self.change(project_id, job_id, self._engine.now_us(), -1)


def _about(queue: QueueRef, wanted: OpenFilter) -> dict[str, Any]:
    """What the audit log has of a mass cancel."""
    given = {name: value for name, value in asdict(wanted).items() if value not in (None, ())}
    if wanted.statuses is not None:
        given["statuses"] = sorted(wanted.statuses)
    return {"project": uuid_text(queue.project_id), "name": queue.name, "filter": given}


def _cursor(place: int) -> str:
    return base64.urlsafe_b64encode(_CURSOR + str(place).encode()).decode()


def _place(cursor: str | None) -> int:
    if cursor is None:
        return 0
    try:
        text = base64.b64decode(cursor.encode(), altchars=b"-_", validate=True)
        place = int(text.removeprefix(_CURSOR))
        if not text.startswith(_CURSOR) or not (
            0 <= place < 2**48 or 2**64 <= place < 2**64 + 2**128
        ):
            raise ValueError(cursor)
    except ValueError:
        raise InvalidInput("not a cursor of this list", "cursor") from None
    return place
