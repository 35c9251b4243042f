"""Events of jobs: following one job to its end, or a queue or project for as long as one likes.

    job:  state as it is ──► events ──► the final one, the end
              ▲                 └── some were missed: look again

What a job is now and what happens to it overlap: events up to the state that was shown are left
out by their place in the log.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from taskforge_server.api.service.jobs import JobService
from taskforge_server.api.service.ports import Engine, EventFollower, JobDict
from taskforge_server.engine import limits
from taskforge_server.engine.errors import EnvironmentalError, NotFound
from taskforge_server.engine.model.events import JobEvent, Missed, Told
from taskforge_server.engine.model.job import FINAL
from taskforge_server.engine.model.queue import QueueRef

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class State:
    """A job as it is; None: it has ended, and its queue keeps no such jobs."""

    job: JobDict | None

    @property
    def final(self) -> bool:
        return self.job is None or self.job["status"] in FINAL


class EventService:
    """The use cases of events; each sees one project only."""

    def __init__(self, engine: Engine, jobs: JobService) -> None:
        self._engine = engine
        self._jobs = jobs

    async def of_job(
        self, project_id: bytes, job_id: bytes, after: str | None
    ) -> AsyncGenerator[Told | State, None]:
        """What the job is, unless it goes on behind `after`, and what happens to it until its end.
        NotFound, Unavailable, Overloaded."""
        await self._jobs.get(project_id, job_id)
        follower = self._engine.follow_job(job_id, project_id, after)
        return self._of_job(project_id, job_id, follower)

    async def _of_job(
        self, project_id: bytes, job_id: bytes, follower: EventFollower
    ) -> AsyncGenerator[Told | State, None]:
        seen_lsn = 0
        look = not follower.resumed
        try:
            while True:
                if look:
                    state = await self._state(project_id, job_id)
                    yield state
                    if state.job is None or state.final:
                        return
                    seen_lsn, look = state.job["lsn"], False
                for id, event in await follower.take():
                    if isinstance(event, Missed):
                        look = True
                    elif event.lsn and event.lsn <= seen_lsn:
                        continue
                    yield id, event
                    if isinstance(event, JobEvent) and event.final:
                        return
        finally:
            follower.close()

    async def _state(self, project_id: bytes, job_id: bytes) -> State:
        while True:
            try:
                job, _ = await self._jobs.get(project_id, job_id)
                return State(job)
            except NotFound:
                return State(None)
            except EnvironmentalError as error:
                log.info("a follower waits: %s", error)
                await asyncio.sleep(limits.LOG_RETRY_S)

    def of_queue(self, queue: QueueRef, after: str | None) -> AsyncGenerator[Told, None]:
        """What happens to the jobs of a queue. Unavailable, Overloaded."""
        return _all_of(self._engine.follow_queue(queue, after))

    def of_project(self, project_id: bytes, after: str | None) -> AsyncGenerator[Told, None]:
        """What happens to the jobs of a project. Overloaded."""
        return _all_of(self._engine.follow_project(project_id, after))


async def _all_of(follower: EventFollower) -> AsyncGenerator[Told, None]:
    try:
        while True:
            for told in await follower.take():
                yield told
    finally:
        follower.close()
