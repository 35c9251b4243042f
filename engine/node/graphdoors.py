"""What the API may ask of a node about graphs of jobs: submit one, add to one, look at one.

As at the other doors, an answer that tells of a decision waits until the decision is durable, and a
caller whose shard is lost meanwhile is told Unavailable.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from taskforge_server.engine import limits
from taskforge_server.engine.actors.commands import AddParents, SubmitGraph
from taskforge_server.engine.actors.graphs import Graph
from taskforge_server.engine.errors import NotFound, ShardLost, Unavailable
from taskforge_server.engine.model.graph import Edge
from taskforge_server.engine.model.job import FINAL, JobStatus
from taskforge_server.engine.node.admission import Admission
from taskforge_server.engine.node.core import Core
from taskforge_server.engine.node.doors import Doors, all_durable, lost, moved
from taskforge_server.engine.shard.edges import EdgeRow
from taskforge_server.engine.shard.family import kept
from taskforge_server.engine.shard.keys import KeyedRequest
from taskforge_server.engine.shard.shard import Shard
from taskforge_server.ext.ids import shard_of

Job = dict[str, Any]

HELD_AT_ONCE = 1_000


class StatusRows(Protocol):
    """Jobs as the tables have them."""

    async def statuses(
        self, job_ids: Sequence[bytes], project_id: bytes | None = None
    ) -> dict[bytes, JobStatus]: ...


class GraphDoors:
    """The part of the engine port that knows of edges between jobs."""

    def __init__(
        self, core: Core, doors: Doors, admission: Admission, rows: StatusRows, shards: int
    ) -> None:
        self._core = core
        self._doors = doors
        self._admission = admission
        self._rows = rows
        self._shards = shards

    async def hold(self, project_id: bytes, job_ids: Sequence[bytes]) -> dict[bytes, JobStatus]:
        """How these jobs of the project are, durably; from now on their rows stay, so that jobs
        which wait for them find how they ended. Unavailable while one of them is on its way."""
        self._require_room(project_id, len(job_ids))
        found: dict[bytes, JobStatus] = {}
        asked: list[bytes] = []
        touched: dict[Shard, None] = {}
        for start in range(0, len(job_ids), HELD_AT_ONCE):
            part = job_ids[start : start + HELD_AT_ONCE]
            await self._bring(part)
            for job_id in part:
                shard = self._core.shards.get(shard_of(job_id))
                job = None if shard is None else shard.table.get(job_id)
                if shard is None or job is None:
                    asked.append(job_id)
                elif job["project_id"] == project_id:
                    self._keep(shard, job)
                    touched[shard] = None
                    found[job_id] = job["status"]
            await asyncio.sleep(0)
        if asked:
            found |= await self._stored(project_id, asked)
        try:
            await all_durable(list(touched))
        except ShardLost as error:
            raise moved() from error
        return found

    async def _bring(self, job_ids: Sequence[bytes]) -> None:
        """Those of these jobs that wait are in memory, unless they leave again and again."""
        shards = self._core.shards
        for _ in range(limits.AWAY_TRIES_MAX):
            brought = await asyncio.gather(
                *(
                    self._doors.bring(shard, job_id)
                    for job_id in job_ids
                    if (shard := shards.get(shard_of(job_id))) is not None
                )
            )
            # The first may have left before the last came.
            came = [job["id"] for job in brought if job is not None]
            if all(
                (shard := shards.get(shard_of(job_id))) is not None
                and shard.table.peek(job_id) is not None
                for job_id in came
            ):
                return

    def _require_room(self, project_id: bytes, edges: int) -> None:
        """ShareUsedUp: the project's jobs may not wait for so many more."""
        tenant = self._core.usage.tenant(project_id)
        self._core.dependencies.waiting.edges.require(tenant, edges)

    def _keep(self, shard: Shard, job: Job) -> None:
        options = None if job["status"] in FINAL else kept(job["options"])
        if options is not None:
            shard.table.change(job["id"], self._core.clock.now_us(), options=options)
            shard.marks.drain(shard.table)
            self._core.journal.dirty(shard)

    async def _stored(self, project_id: bytes, job_ids: Sequence[bytes]) -> dict[bytes, JobStatus]:
        rows = await self._rows.statuses(job_ids, project_id)
        for job_id in job_ids:
            shard = self._core.shards.get(shard_of(job_id))
            here = shard is not None
            # An open row without a job in memory: it is loaded, or has just come.
            open_row = job_id in rows and rows[job_id] not in FINAL
            foreign = shard_of(job_id) >= self._shards
            if open_row or (job_id not in rows and not here and not foreign):
                raise moved()
        return rows

    async def submit(self, graph: Graph, key: KeyedRequest | None) -> tuple[bytes, bool]:
        """The ids of all its jobs, in their order, when they are durable; and whether the key came
        before: then nothing was submitted now."""
        self._require_room(graph.jobs[0].queue.project_id, graph.edges)
        parts = {job.queue.id: self._core.queue(job.queue) for job in graph.jobs}
        self._admission.admit(graph, graph.jobs[0].queue.project_id)
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        command = SubmitGraph(graph, parts, key, reply)
        self._doors.send(parts[graph.jobs[0].queue.id], command)
        try:
            return await reply, command.repeated
        except ShardLost as error:
            raise lost(error) from error

    async def add_parents(self, project_id: bytes, job_id: bytes, edges: Sequence[Edge]) -> Job:
        """The job waits for these too; NotFound when it is not in memory, Conflict when it runs or
        has ended."""

        async def act() -> Job:
            shard = self._core.shards.get(shard_of(job_id))
            if shard is None:
                raise moved()
            job = await self._doors.bring(shard, job_id)
            if job is None or job["project_id"] != project_id:
                raise NotFound("no such job is waiting", "job_id", code="job_not_found")
            if len(self._core.shards) < self._shards:
                # A cycle could go through jobs that are not here.
                raise Unavailable(limits.UNAVAILABLE_RETRY_S, "not all shards are here")
            reply: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
            command = AddParents(job_id, edges, reply, shard.table.departures)
            return await self._doors.command(job, command, reply)

        return await self._doors.until_here(act)

    async def here(self, project_id: bytes, job_ids: Sequence[bytes]) -> dict[bytes, Job]:
        """Those of these jobs that memory has, once what is shown of them is durable."""
        found: dict[bytes, Job] = {}
        shards: dict[Shard, None] = {}
        for job_id in job_ids:
            shard = self._core.shards.get(shard_of(job_id))
            job = None if shard is None else shard.table.get(job_id)
            if shard is not None and job is not None and job["project_id"] == project_id:
                found[job_id] = job
                if job["lsn"] > shard.table.committed_lsn:
                    shards[shard] = None
        try:
            await all_durable(list(shards))
        except ShardLost as error:
            raise moved() from error
        return found

    def unwritten(self, project_id: bytes, job_ids: Iterable[bytes]) -> Iterable[EdgeRow]:
        """Edges of these parents and children, of the project, that the tables may not have yet."""
        told = [shard.edges for shard in self._core.shards.values() if shard.edges]
        for job_id in job_ids if told else ():
            for edges in told:
                for row in edges.of(job_id):
                    if row.project_id in (project_id, None):
                        yield row

    def missing(self, job_id: bytes) -> dict[bytes, str]:
        """The parents that the job waits for, with what their failure means."""
        child = self._core.dependencies.waiting.children.get(job_id)
        return {} if child is None else dict(child.missing)

    def runs(self, project_id: bytes, job_id: bytes, worker_id: bytes, lease: int) -> bool:
        """Whether this worker runs the job under this lease."""
        shard = self._core.shards.get(shard_of(job_id))
        job = None if shard is None else shard.table.get(job_id)
        return (
            job is not None
            and job["project_id"] == project_id
            and job["worker_id"] == worker_id
            and job["lease_lsn"] == lease
        )
