"""Jobs: submit, look at, wait for, cancel, retry.

A client reads its own writes: the owner's memory is asked first, the tables, which follow a moment
later, for what memory has let go of. Lists read the tables alone.
"""

from taskforge_server.api.service.catalog import QueueCatalog, queue_key
from taskforge_server.api.service.encryption import Opener
from taskforge_server.api.service.ports import Engine, JobDict, JobReader
from taskforge_server.api.service.submission import Checker
from taskforge_server.engine import limits
from taskforge_server.engine.errors import Conflict, NotFound
from taskforge_server.engine.model.job import FINAL, JobStatus
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.engine.model.why import Explanation
from taskforge_server.engine.shard.keys import KeyedRequest
from taskforge_server.engine.shard.unique import Outcome
from taskforge_server.engine.store.job_queries import JobFilter
from taskforge_server.engine.vault.vault import Vault
from taskforge_server.ext.ids import uuid_text
from taskforge_server.ext.table import SubmitBatch

ID_BYTES = 16
_NO_ID = bytes(ID_BYTES)


class JobService:
    """The use cases of jobs; each sees one project only."""

    def __init__(
        self,
        engine: Engine,
        jobs: JobReader,
        catalog: QueueCatalog,
        opener: Opener | None = None,
    ) -> None:
        self.engine = engine
        self._jobs = jobs
        self._catalog = catalog
        self.opener = opener or Opener(Vault())

    async def submit(
        self, queue: QueueRef, batch: SubmitBatch, key: KeyedRequest | None
    ) -> tuple[bytes, bool]:
        """The ids, once the jobs are durable; and whether it was a repetition that got the ids of
        the first time. Conflict when the first time other items of the batch were refused."""
        if not batch.count:
            return b"", False
        ids, repeated = await self.engine.submit_once(queue, batch, key)
        if len(ids) != batch.count * ID_BYTES:
            raise other_count()
        return ids, repeated

    async def submit_unique(
        self, queue: QueueRef, checker: Checker, key: KeyedRequest | None
    ) -> tuple[bytes, bool, dict[int, Outcome]]:
        """The same for jobs of which some ask for unique keys: the ids of those that stand for
        them, zeros where one was rejected, and what became of those that met another job."""
        ids, repeated, outcomes = await self.engine.submit_unique(queue, checker.parts(), key)
        if len(ids) != checker.count * ID_BYTES:
            raise other_count()
        if repeated:
            outcomes = {
                place: Outcome("rejected", _NO_ID, None)
                for place in range(checker.count)
                if ids[place * ID_BYTES : (place + 1) * ID_BYTES] == _NO_ID
            }
        known = {
            place: outcome._replace(status=await self._status(queue.project_id, outcome))
            for place, outcome in outcomes.items()
        }
        return ids, repeated, known

    async def _status(self, project_id: bytes, outcome: Outcome) -> JobStatus | None:
        """How the job is that holds a key."""
        if outcome.status is not None or outcome.became == "rejected":
            return outcome.status
        try:
            job, _ = await self._find(project_id, outcome.job_id)
        except NotFound:
            return "succeeded"  # ended, and its queue keeps no such jobs
        status: JobStatus = job["status"]
        return status

    async def get(self, project_id: bytes, job_id: bytes) -> tuple[JobDict, list[JobDict]]:
        """The job and its executions, the oldest first; NotFound."""
        return await self.opener.found(*await self._find(project_id, job_id))

    async def _find(self, project_id: bytes, job_id: bytes) -> tuple[JobDict, list[JobDict]]:
        """The same as it is stored."""
        live = await self.engine.job(job_id)
        if live is not None:
            job, executions = live
            if job["project_id"] != project_id:
                raise _not_found()
            if len(executions) >= job["attempt"]:
                return live
            # Attempts may be in the tables before the job itself is.
            return job, merged(await self._jobs.executions(job), executions)
        stored = await self._jobs.get(project_id, job_id)
        if stored is None:
            raise _not_found()
        return stored

    async def why(self, project_id: bytes, job_id: bytes) -> Explanation:
        """Why the job is not running; NotFound."""
        job, executions = await self.get(project_id, job_id)
        queue = await self._catalog.any(project_id, job["queue_id"])
        found = await self.engine.why(queue, job, executions)
        if found.counts_rows:
            ahead = await self._jobs.ahead(project_id, job)
            found = await self.engine.why(queue, job, executions, ahead)
        if found.parents:
            await self._tell_of_parents(project_id, found)
        return found

    async def _tell_of_parents(self, project_id: bytes, found: Explanation) -> None:
        """Which parents of the first have ended badly: it waits for somebody to retry them."""
        ids = found.parents[: limits.PARENTS_LOOK_MAX]
        # In this order: who has left memory meanwhile is in the tables.
        here = {job_id: await self.engine.look(job_id) for job_id in ids}
        states = {job_id: job["status"] for job_id, job in here.items() if job is not None}
        away = [job_id for job_id in ids if job_id not in states]
        states |= {row["id"]: row["status"] for row in await self._jobs.ends(project_id, away, 0)}
        bad = [job_id for job_id in ids if states.get(job_id) in ("failed", "cancelled")]
        if bad:
            found.add(
                "parents_failed",
                f"{len(bad)} of the jobs that it waits for have failed or were cancelled: "
                "retry them, or cancel this one",
                parents=[uuid_text(job_id) for job_id in bad[: limits.WHY_NAMES_MAX]],
                count=len(bad),
            )

    async def wait(
        self, project_id: bytes, job_id: bytes, timeout_s: float
    ) -> tuple[JobDict, list[JobDict]]:
        """The job when it has ended, or as it is when the time is over; NotFound."""
        found = await self.get(project_id, job_id)
        if timeout_s > 0 and found[0]["status"] not in FINAL:
            await self.engine.wait_finished(job_id, timeout_s)
            found = await self.get(project_id, job_id)
        return found

    async def page(
        self,
        project_id: bytes,
        queue: str | None,
        wanted: JobFilter,
        cursor: str | None,
        rows_max: int,
    ) -> tuple[list[JobDict], str | None]:
        """A page of the tables, the newest job first, and the cursor of the next one."""
        if queue is not None:
            queue_ids = [(await self._catalog.any(project_id, queue_key(queue))).id]
        else:
            queue_ids = await self._catalog.ids(project_id)
        jobs, following = await self._jobs.page(project_id, queue_ids, wanted, cursor, rows_max)
        return await self.opener.jobs(project_id, jobs), following

    async def cancel(
        self, project_id: bytes, job_id: bytes, grace_s: float
    ) -> tuple[JobDict, list[JobDict]]:
        """End a job that waits, ask one that runs to end within the grace time; one that is
        cancelled stays so. NotFound, Conflict."""
        try:
            await self.engine.cancel(job_id, project_id, grace_s)
        except NotFound:
            # It may have ended long ago: that is a conflict, not an unknown job.
            found = await self.get(project_id, job_id)
            status = found[0]["status"]
            if status == "cancelled":
                return found
            raise Conflict(
                f"only a job that waits or runs can be cancelled: this one is {status}",
                code="job_not_cancellable",
            ) from None
        return await self.get(project_id, job_id)

    async def retry(
        self, project_id: bytes, job_id: bytes, key: KeyedRequest | None
    ) -> tuple[tuple[JobDict, list[JobDict]], bool]:
        """Let a job that failed or was cancelled run again; and whether this was a repetition that
        did nothing. NotFound, Conflict."""
        job, executions = await self._find(project_id, job_id)
        try:
            await self._catalog.find(project_id, job["queue_id"])
        except NotFound:
            raise Conflict("its queue is deleted", code="queue_deleted") from None
        again, repeated = await self.engine.requeue_once(job, key)
        return await self.opener.found(again, executions), repeated

    async def queue_name(self, project_id: bytes, queue_id: bytes) -> str:
        """The name of the queue that a job is in."""
        return (await self._catalog.any(project_id, queue_id)).name


def other_count() -> Conflict:
    """Of a repetition, of which not as many items are taken as the first time."""
    return Conflict(
        "the first request with this Idempotency-Key had another number of valid jobs",
        "Idempotency-Key",
    )


def merged(stored: list[JobDict], live: list[JobDict]) -> list[JobDict]:
    """Executions of both, by attempt; memory knows better."""
    by_attempt = {entry["attempt_number"]: entry for entry in stored}
    by_attempt |= {entry["attempt_number"]: entry for entry in live}
    return [by_attempt[number] for number in sorted(by_attempt)]


def _not_found() -> NotFound:
    return NotFound("this project has no such job", "job_id", code="job_not_found")
