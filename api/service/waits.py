"""Waiting for the end of many jobs in one call.

    watch all that are open ──► look at all, once ──► their ends come ──► enough, or time is over

The tables are asked once, for jobs that memory has let go of; while the call waits, nothing is. An
end is taken when it comes: the job may be gone from memory by the time of the answer.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from taskforge_server.api.service.encryption import Opener
from taskforge_server.api.service.ports import Engine, JobDict, JobReader
from taskforge_server.engine import limits
from taskforge_server.engine.errors import NotFound, Unavailable
from taskforge_server.engine.model.job import FINAL

Mode = Literal["all", "any"]


@dataclass(frozen=True, slots=True)
class Waited:
    """One of the jobs, as it is when the call ends."""

    job: JobDict
    omitted: bool
    """Its result or error is too large for this answer."""


class WaitService:
    """Waits; each call sees one project only."""

    def __init__(self, engine: Engine, jobs: JobReader, opener: Opener) -> None:
        self._engine = engine
        self._jobs = jobs
        self._opener = opener

    async def wait(
        self, project_id: bytes, ids: Sequence[bytes], mode: Mode, timeout_s: float
    ) -> tuple[bool, list[Waited]]:
        """Whether all, or any, have ended; and the jobs in the order of `ids`. NotFound names the
        first that is no job of the project. Unavailable, Overloaded."""
        waiting = _Waiting(self._engine, project_id, ids)
        over_s = asyncio.get_running_loop().time() + timeout_s
        with self._engine.watch_ends(project_id, ids, waiting.ended, waiting.lost):
            await self._look(waiting)
            while not waiting.enough(mode):
                waiting.news.clear()
                try:
                    async with asyncio.timeout_at(over_s):
                        await waiting.news.wait()
                except TimeoutError:
                    break
        for job_id, job in list(waiting.jobs.items()):
            if job["status"] not in FINAL and (now := await self._engine.look(job_id)) is not None:
                waiting.take(now)
        jobs = await self._opener.jobs(project_id, list(waiting.jobs.values()))
        opened = {job["id"]: job for job in jobs}
        found = [Waited(opened[job_id], job_id in waiting.omitted) for job_id in waiting.ids]
        return waiting.enough(mode), found

    async def _look(self, waiting: "_Waiting") -> None:
        """See what each job is: memory first, then the tables for what it has let go of."""
        missing = []
        for job_id in waiting.ids:
            if job_id not in waiting.jobs:
                job = await self._engine.look(job_id)
                if job is None or job["project_id"] != waiting.project_id:
                    missing.append(job_id)
                elif job_id not in waiting.jobs:
                    waiting.take(job)
        missing = [job_id for job_id in missing if job_id not in waiting.jobs]
        if missing:
            for job in await self._jobs.ends(
                waiting.project_id, missing, limits.WAIT_RESULT_BYTES_MAX
            ):
                waiting.take(job)
        for place, job_id in enumerate(waiting.ids):
            job = waiting.jobs.get(job_id)
            if job is None:
                raise NotFound(
                    "this project has no such job", f"ids[{place}]", code="job_not_found"
                )
            if job["status"] not in FINAL and job_id in missing:
                # Its owner is starting, or elsewhere: nobody here would hear of its end.
                raise Unavailable(limits.UNAVAILABLE_RETRY_S, "a job's shard is not here yet")


class _Waiting:
    """One call: what is known of its jobs so far, within the bound of the answer."""

    def __init__(self, engine: Engine, project_id: bytes, ids: Sequence[bytes]) -> None:
        self.project_id = project_id
        self.ids = ids
        self.jobs: dict[bytes, JobDict] = {}
        self.omitted: set[bytes] = set()
        self.news = asyncio.Event()
        self._engine = engine
        self._failure: Exception | None = None
        self._bytes_left = limits.WAIT_RESULT_BYTES_MAX
        self._ends = 0

    def take(self, job: JobDict) -> None:
        """What the job is; its end is taken once. The payload is not wanted."""
        job_id = job["id"]
        known = self.jobs.get(job_id)
        if known is not None and known["status"] in FINAL:
            return
        output, omitted = None, bool(job.get("output_omitted"))
        if job["status"] in FINAL:
            self._ends += 1
            size = len(job["output"] or b"")
            omitted = omitted or size > self._bytes_left
            if not omitted:
                self._bytes_left -= size
                output = job["output"]
        self.jobs[job_id] = job | {"payload": None, "output": output}
        if omitted:
            self.omitted.add(job_id)

    def ended(self, job_id: bytes) -> None:
        """The job has ended, durably, and memory has it still."""
        job = self._engine.look_now(job_id)
        if job is not None and job["project_id"] == self.project_id:
            self.take(job)
        self.news.set()

    def lost(self, error: Exception) -> None:
        """The shard of a job is gone from here: its end will not be heard of."""
        self._failure = error
        self.news.set()

    def enough(self, mode: Mode) -> bool:
        """Raises what `lost` was told."""
        if mode == "any" and self._ends:
            return True
        if self._failure is not None and self._ends < len(self.ids):
            raise self._failure
        return self._ends == len(self.ids)
