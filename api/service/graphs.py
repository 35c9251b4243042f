"""Graphs of jobs: submit one whole, let a job wait for more, see what a job waits for.

Parents must be jobs of the same project; others do not exist. Before a child is told of them their
rows are made to stay, so that their ends can be found however long it waits.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from taskforge_server.api.service.jobs import JobService
from taskforge_server.api.service.ports import JobDict
from taskforge_server.api.service.submission import no_such_parent
from taskforge_server.engine import limits
from taskforge_server.engine.actors.graphs import Graph
from taskforge_server.engine.errors import Conflict, NotFound
from taskforge_server.engine.model.graph import Edge, OnFailure
from taskforge_server.engine.model.job import JobStatus
from taskforge_server.engine.shard.edges import EdgeRow
from taskforge_server.engine.shard.keys import KeyedRequest

_ID_BYTES = 16
FIRST_ID = bytes(_ID_BYTES)


class GraphEngine(Protocol):
    """The node, as it knows of edges."""

    async def hold(self, project_id: bytes, job_ids: Sequence[bytes]) -> dict[bytes, JobStatus]:
        """How these jobs of the project are; their rows stay from now on. Overloaded,
        Unavailable."""
        ...

    async def submit(self, graph: Graph, key: KeyedRequest | None) -> tuple[bytes, bool]:
        """All ids, once the jobs are durable, and whether the key came before; KeyConflict,
        Overloaded, Unavailable, OutcomeUnknown."""
        ...

    async def add_parents(self, project_id: bytes, job_id: bytes, edges: Sequence[Edge]) -> JobDict:
        """NotFound when the job is not in memory, Conflict, InvalidInput for a cycle."""
        ...

    async def here(self, project_id: bytes, job_ids: Sequence[bytes]) -> dict[bytes, JobDict]:
        """Those that memory has."""
        ...

    def unwritten(self, project_id: bytes, job_ids: Iterable[bytes]) -> Iterable[EdgeRow]:
        """Edges that the tables may not have yet."""
        ...

    def missing(self, job_id: bytes) -> dict[bytes, str]:
        """The parents that a job waits for, with the policies."""
        ...

    def runs(self, project_id: bytes, job_id: bytes, worker_id: bytes, lease: int) -> bool:
        """Whether this worker runs the job under this lease."""
        ...


class EdgeReader(Protocol):
    """`job_dependencies`."""

    async def around(
        self, project_id: bytes, job_ids: Sequence[bytes], rows_max: int
    ) -> list[tuple[bytes, bytes, str]]:
        """Parent, child and policy of edges that touch these jobs."""
        ...

    async def parents_after(
        self, project_id: bytes, child_job_id: bytes, after: bytes, rows_max: int
    ) -> list[tuple[bytes, str]]:
        """Parents of a job with the policies, by their ids, from behind one."""
        ...


class JobRows(Protocol):
    """Jobs in the tables."""

    async def some(self, project_id: bytes, job_ids: Sequence[bytes]) -> dict[bytes, JobDict]:
        """Those of these that the project has."""
        ...


@dataclass(frozen=True, slots=True)
class GraphPorts:
    """What graphs stand on."""

    engine: GraphEngine
    edges: EdgeReader
    jobs: JobRows


@dataclass(slots=True)
class Around:
    """A job with those that it is connected to."""

    jobs: dict[bytes, JobDict] = field(default_factory=dict)
    edges: dict[tuple[bytes, bytes], str] = field(default_factory=dict)
    """Parent and child -> policy; both are among the jobs."""
    cut: bool = False
    """There is more."""


class GraphService:
    """The use cases of graphs; each sees one project only."""

    def __init__(self, ports: GraphPorts, jobs: JobService) -> None:
        self._engine = ports.engine
        self._edges = ports.edges
        self._rows = ports.jobs
        self._jobs = jobs

    async def known(self, project_id: bytes, job_ids: Iterable[bytes]) -> Mapping[bytes, JobStatus]:
        """How these parents are; those that are missing here the project does not have."""
        return await self._engine.hold(project_id, list(job_ids))

    async def submit(self, graph: Graph, key: KeyedRequest | None) -> tuple[list[bytes], bool]:
        """The ids of its jobs, and whether it was a repetition that got those of the first time."""
        ids, repeated = await self._engine.submit(graph, key)
        if len(ids) != len(graph.jobs) * _ID_BYTES:
            raise Conflict(
                "the first request with this Idempotency-Key had another number of jobs",
                "Idempotency-Key",
            )
        return [ids[at : at + _ID_BYTES] for at in range(0, len(ids), _ID_BYTES)], repeated

    async def add_parents(
        self, project_id: bytes, job_id: bytes, wanted: Sequence[tuple[bytes, OnFailure]]
    ) -> tuple[JobDict, list[JobDict]]:
        """Let a job that waits wait for these too. NotFound with the place of the parent, Conflict,
        InvalidInput."""
        job, _ = await self._jobs.get(project_id, job_id)
        if job["status"] not in ("pending", "scheduled"):
            raise _not_waiting(job["status"])
        known = await self.known(project_id, [parent_id for parent_id, _ in wanted])
        edges = []
        for place, (parent_id, on_failure) in enumerate(wanted):
            if parent_id not in known:
                raise no_such_parent(place)
            edges.append(Edge.to(parent_id, on_failure, known[parent_id]))
        try:
            await self._engine.add_parents(project_id, job_id, edges)
        except NotFound:
            job, _ = await self._jobs.get(project_id, job_id)
            raise _not_waiting(job["status"]) from None
        return await self._jobs.get(project_id, job_id)

    async def parents(
        self, project_id: bytes, job_id: bytes, after: bytes, rows_max: int
    ) -> tuple[list[tuple[str, JobDict | None, bytes]], bool]:
        """Policy, job and id of the parents behind this id, by their ids, and whether there are
        more. None for the job: it is gone. NotFound."""
        await self._jobs.get(project_id, job_id)
        found = dict(await self._edges.parents_after(project_id, job_id, after, rows_max + 1))
        for row in self._engine.unwritten(project_id, (job_id,)):
            if row.child_id == job_id and row.parent_id > after:
                found.setdefault(row.parent_id, row.on_failure)
        ordered = sorted(found)
        page = ordered[:rows_max]
        jobs = await self._some(project_id, page)
        sealed = list(jobs.values())
        opened = await self._jobs.opener.jobs(project_id, sealed)
        jobs = {job["id"]: job for job in opened}
        listed: list[tuple[str, JobDict | None, bytes]] = []
        size = 0
        for parent_id in page:
            job = jobs.get(parent_id)
            size += len(job["output"] or b"") if job is not None else 0
            if listed and size > limits.PARENTS_REPLY_BYTES_MAX:
                return listed, True
            listed.append((found[parent_id], job, parent_id))
        return listed, len(ordered) > rows_max

    def check_lease(self, project_id: bytes, job_id: bytes, worker_id: bytes, lease: int) -> None:
        """NotFound unless this worker runs the job under this lease."""
        if not self._engine.runs(project_id, job_id, worker_id, lease):
            raise NotFound("this worker does not run this job", "job_id", code="job_not_found")

    def missing(self, job_id: bytes) -> dict[bytes, str]:
        """The parents that the job waits for, with what their failure means."""
        return self._engine.missing(job_id)

    async def around(self, project_id: bytes, job_id: bytes, jobs_max: int) -> Around:
        """The job and all that it is connected to, nearest first, up to a bound. NotFound."""
        first, _ = await self._jobs.get(project_id, job_id)
        found = Around({job_id: first})
        edges: dict[tuple[bytes, bytes], str] = {}
        order: dict[bytes, None] = {job_id: None}
        frontier = [job_id]
        for _ in range(limits.GRAPH_LEVELS_SHOWN_MAX):
            rows = await self._edges.around(project_id, frontier, jobs_max + 1)
            rows += [
                (row.parent_id, row.child_id, row.on_failure)
                for row in self._engine.unwritten(project_id, frontier)
            ]
            found.cut |= len(rows) > jobs_max
            following: dict[bytes, None] = {}
            for parent_id, child_id, on_failure in rows:
                edges[parent_id, child_id] = on_failure
                for each in (parent_id, child_id):
                    if each not in order:
                        following[each] = None
            room = jobs_max - len(order)
            found.cut |= len(following) > room
            frontier = list(following)[:room]
            order.update(dict.fromkeys(frontier))
            if not frontier:
                break
        else:
            found.cut = True
        found.jobs |= await self._some(project_id, [each for each in order if each != job_id])
        found.edges = {
            pair: policy for pair, policy in edges.items() if found.jobs.keys() >= set(pair)
        }
        return found

    async def _some(self, project_id: bytes, job_ids: Sequence[bytes]) -> dict[bytes, Any]:
        """These jobs: memory first, then the tables."""
        found = await self._engine.here(project_id, job_ids)
        if left := [job_id for job_id in job_ids if job_id not in found]:
            found = found | await self._rows.some(project_id, left)
        return found


def _not_waiting(status: str) -> Conflict:
    return Conflict(
        f"only a job that waits can be given parents: this one is {status}",
        code="job_not_waiting",
    )
