"""The routes of graphs: jobs that wait for other jobs.

A graph is taken whole or refused whole: every job is checked as in a submit of its own, and what is
wrong is named by its place.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from typing_extensions import Buffer

from taskforge_server.api.rest.bodies import decode, payload_text
from taskforge_server.api.rest.graphs_schemas import (
    Callback,
    EdgeView,
    GraphJobView,
    GraphQuery,
    GraphReply,
    GraphSubmit,
    GraphView,
    LeaseQuery,
    NodeView,
    ParentPage,
    ParentsAdd,
    ParentView,
    SuccessCallback,
)
from taskforge_server.api.rest.handlers import (
    REPLAY_HEADERS,
    Services,
    checker_of,
    job_answer,
    job_id_of,
    keyed,
)
from taskforge_server.api.rest.media import Coding
from taskforge_server.api.rest.routes import Call, Reply, Route, answer
from taskforge_server.api.rest.schemas import JobDetails, PageQuery
from taskforge_server.api.rest.views import EMBED
from taskforge_server.api.service.catalog import queue_key
from taskforge_server.api.service.graphs import FIRST_ID, GraphService
from taskforge_server.api.service.submission import (
    Checker,
    NewJob,
    ParentRef,
    no_such_parent,
    parent_id_of,
)
from taskforge_server.engine import limits
from taskforge_server.engine.actors.graphs import Graph, GraphJob
from taskforge_server.engine.errors import CallerError, InvalidInput, NotFound, TooLarge
from taskforge_server.engine.model import permissions
from taskforge_server.engine.model.graph import Edge, OnFailure, levels
from taskforge_server.engine.model.job import JobStatus
from taskforge_server.engine.model.joboptions import read_told, told_anew
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.engine.store.cursors import DEPENDENCIES, after_id, id_cursor
from taskforge_server.ext.ids import uuid_bytes, uuid_text
from taskforge_server.ext.table import NEVER_US, SubmitBatch

Known = Mapping[bytes, JobStatus]


def _graphs(services: Services) -> GraphService:
    if services.graphs is None:
        raise NotFound("here no job waits for another")
    return services.graphs


# Submit


class Taken(SubmitBatch):
    """Takes what a checker gives of one job: the arguments of `SubmitBatch.add`."""

    made: GraphJob
    queue: QueueRef

    def add(
        self,
        job_type: str,
        payload: Buffer,
        priority: int = 0,
        due_us: int = 0,
        timeout_ms: int = 0,
        max_attempts: int = 0,
        options: bytes | None = None,
    ) -> None:
        self.made = GraphJob(
            self.queue,
            job_type,
            bytes(payload),
            priority,
            due_us,
            timeout_ms,
            max_attempts,
            options,
            parents=[],
        )


async def submit_graph(services: Services, call: Call) -> Reply:
    project_id = call.principal.project_id
    graphs = _graphs(services)
    given = decode(call.body, call.body_coding, GraphSubmit)
    plan = await services.allowances.submitter(call.principal)
    queues = await _queues(services, project_id, given)
    places = _places(given)
    wanted = [job.parents or [] for job in given.jobs]
    _check_edges(given, sum(map(len, wanted)))
    within = [_within(parents, places, place) for place, parents in enumerate(wanted)]
    ordered, cycle = levels([[parent for parent, _ in parents] for parents in within])
    if cycle:
        names = " -> ".join(given.jobs[place].ref for place in cycle)
        raise InvalidInput(f"a cycle: {names}", "jobs", code="dependency_cycle")
    outside = _outside(wanted)
    known = await graphs.known(project_id, outside) if outside else {}
    checker = checker_of(services, plan, call.idempotency_key)
    jobs: list[GraphJob] = []
    for place, job in enumerate(given.jobs):
        with _At(f"jobs[{place}]"):
            made = _checked(checker, job, job.payload, queues[job.queue], call.body_coding)
            made.options = _with_ref(made.options, job.ref)
            made.parents = within[place]
            made.others = _others(wanted[place], known)
        jobs.append(made)
    ordered = [*ordered, _callbacks(given, jobs, checker, queues, call.body_coding)]
    ids, repeated = await graphs.submit(Graph(jobs, ordered), keyed(call))
    reply = answer(call, _graph_reply(given, jobs, ids))
    if repeated:
        reply.headers |= REPLAY_HEADERS
    return reply


def _check_edges(given: GraphSubmit, edges: int) -> None:
    """Before any of the parents is looked up."""
    edges += len(given.jobs) * ((given.on_success is not None) + (given.on_complete is not None))
    if edges > limits.GRAPH_EDGES_MAX:
        raise TooLarge(f"{edges} edges: at most {limits.GRAPH_EDGES_MAX}", "jobs")


class _At:
    """Says of an error of one job where the job stands."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, CallerError):
            error.field = f"{self._path}.{error.field}" if error.field else self._path


async def _queues(services: Services, project_id: bytes, given: GraphSubmit) -> dict[str, QueueRef]:
    """The queues that the jobs name; NotFound."""
    named = {job.queue: f"jobs[{place}].queue" for place, job in enumerate(given.jobs)}
    for field, callback in (("on_success", given.on_success), ("on_complete", given.on_complete)):
        if callback is not None:
            named.setdefault(callback.queue, f"{field}.queue")
    found = {}
    for name, field in named.items():
        try:
            found[name] = await services.catalog.find(project_id, queue_key(name))
        except NotFound as error:
            error.field = field
            raise
    return found


def _places(given: GraphSubmit) -> dict[str, int]:
    places: dict[str, int] = {}
    for place, job in enumerate(given.jobs):
        if job.ref in places:
            raise InvalidInput("two jobs have this name", f"jobs[{place}].ref")
        places[job.ref] = place
    return places


def _within(
    parents: Sequence[ParentRef], places: Mapping[str, int], child: int
) -> list[tuple[int, OnFailure]]:
    """The parents of a job that are of the same request."""
    found: dict[int, OnFailure] = {}
    for number, parent in enumerate(parents):
        field = f"jobs[{child}].parents[{number}]"
        if (parent.ref is None) == (parent.job_id is None):
            raise InvalidInput("give either ref or job_id", field)
        if parent.ref is None:
            continue
        place = places.get(parent.ref)
        if place is None:
            raise InvalidInput("no job of the request has this name", f"{field}.ref")
        if place in found:
            raise InvalidInput("a parent stands there twice", field)
        found[place] = parent.on_failure
    return list(found.items())


def _outside(wanted: Sequence[Sequence[ParentRef]]) -> list[bytes]:
    """The parents that are there already, each once."""
    found: dict[bytes, None] = {}
    for place, parents in enumerate(wanted):
        with _At(f"jobs[{place}]"):
            for number, parent in enumerate(parents):
                if parent.job_id is not None:
                    found[parent_id_of(parent.job_id, number)] = None
    return list(found)


def _others(parents: Sequence[ParentRef], known: Known) -> list[Edge]:
    edges: dict[bytes, Edge] = {}
    for number, parent in enumerate(parents):
        if parent.job_id is None:
            continue
        parent_id = uuid_bytes(parent.job_id)
        if parent_id not in known:
            raise no_such_parent(number)
        if parent_id in edges:
            raise InvalidInput("a parent stands there twice", f"parents[{number}]")
        edges[parent_id] = Edge.to(parent_id, parent.on_failure, known[parent_id])
    return list(edges.values())


def _checked(
    checker: Checker, job: NewJob, payload: msgspec.Raw, queue: QueueRef, coding: Coding
) -> GraphJob:
    """The job as a submit of its own would be checked, without its parents."""
    taken = checker.batch = Taken()
    taken.queue = queue
    text = payload_text(payload, coding)
    checker.add(msgspec.structs.replace(job, parents=None), text)
    return taken.made


def _with_ref(options: bytes | None, ref: str) -> bytes:
    more = msgspec.structs.replace(read_told(options).more, ref=ref)
    return told_anew(options, more=more)


def _callbacks(
    given: GraphSubmit,
    jobs: list[GraphJob],
    checker: Checker,
    queues: Mapping[str, QueueRef],
    coding: Coding,
) -> list[int]:
    """Add the jobs that wait for all the others; their places."""
    count = len(jobs)
    wanted: list[tuple[str, Callback | None, OnFailure]] = [
        ("on_success", given.on_success, "block"),
        ("on_complete", given.on_complete, "run_anyway"),
    ]
    for field, callback, on_failure in wanted:
        if callback is None:
            continue
        if isinstance(callback, SuccessCallback):
            on_failure = callback.on_failure
        with _At(field):
            if callback.parents:
                raise InvalidInput("it waits for all jobs of the graph", "parents")
            queue = queues[callback.queue]
            made = _checked(checker, callback, callback.payload, queue, coding)
        made.parents = [(place, on_failure) for place in range(count)]
        jobs.append(made)
    return list(range(count, len(jobs)))


def _graph_reply(given: GraphSubmit, jobs: Sequence[GraphJob], ids: Sequence[bytes]) -> GraphReply:
    views = [
        GraphJobView(ref=job.ref, id=uuid_text(ids[place]), status=_status(jobs[place]))
        for place, job in enumerate(given.jobs)
    ]
    rest = iter(ids[len(given.jobs) :])
    return GraphReply(
        jobs=views,
        on_success=uuid_text(next(rest)) if given.on_success is not None else None,
        on_complete=uuid_text(next(rest)) if given.on_complete is not None else None,
    )


def _status(job: GraphJob) -> JobStatus:
    held = job.parents or not all(edge.done for edge in job.others)
    return "scheduled" if held or job.due_us else "pending"


# Jobs that are there


async def add_parents(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, ParentsAdd)
    wanted: dict[bytes, OnFailure] = {}
    for place, parent in enumerate(given.parents):
        if parent.job_id is None or parent.ref is not None:
            raise InvalidInput("say which job", f"parents[{place}].job_id")
        wanted[parent_id_of(parent.job_id, place)] = parent.on_failure
    job_id = job_id_of(call)
    if job_id in wanted:
        raise InvalidInput("a job cannot wait for itself", "parents", code="dependency_cycle")
    found = await _graphs(services).add_parents(
        call.principal.project_id, job_id, list(wanted.items())
    )
    return await job_answer(services, call, found)


async def list_parents(services: Services, call: Call) -> Reply:
    query: PageQuery = call.query
    return await _parents(services, call, job_id_of(call), query.cursor, query.limit)


async def list_parents_of_lease(services: Services, call: Call) -> Reply:
    query: LeaseQuery = call.query
    job_id = job_id_of(call)
    try:
        worker_id = uuid_bytes(call.params["worker_id"])
    except ValueError:
        raise NotFound("this is no worker id", "worker_id", code="worker_not_found") from None
    _graphs(services).check_lease(call.principal.project_id, job_id, worker_id, query.lease)
    return await _parents(services, call, job_id, query.cursor, query.limit)


async def _parents(
    services: Services, call: Call, job_id: bytes, cursor: str | None, rows_max: int
) -> Reply:
    graphs = _graphs(services)
    after = FIRST_ID if cursor is None else after_id(DEPENDENCIES, cursor)
    found, more = await graphs.parents(call.principal.project_id, job_id, after, rows_max)
    missing = graphs.missing(job_id)
    items = [
        _parent_view(policy, job, parent_id, parent_id not in missing, call.coding)
        for policy, job, parent_id in found
    ]
    following = id_cursor(DEPENDENCIES, found[-1][2]) if more else None
    return answer(call, ParentPage(items=items, next_cursor=following))


def _parent_view(
    policy: str, job: dict[str, Any] | None, parent_id: bytes, satisfied: bool, coding: Coding
) -> ParentView:
    embed = EMBED[coding]
    output = None if job is None else job["output"]
    succeeded = job is not None and job["status"] == "succeeded"
    return ParentView(
        id=uuid_text(parent_id),
        on_failure=msgspec.convert(policy, OnFailure),
        satisfied=satisfied,
        status=None if job is None else job["status"],
        ref=None if job is None else read_told(job["options"]).more.ref,
        job_type=None if job is None else job["job_type"],
        result=embed(output if succeeded else None),
        error=embed(None if succeeded else output),
    )


async def get_graph(services: Services, call: Call) -> Reply:
    query: GraphQuery = call.query
    project_id = call.principal.project_id
    graphs = _graphs(services)
    found = await graphs.around(project_id, job_id_of(call), query.limit)
    names = {
        queue_id: await services.jobs.queue_name(project_id, queue_id)
        for queue_id in {job["queue_id"] for job in found.jobs.values()}
    }
    missing = {job_id: graphs.missing(job_id) for job_id in found.jobs}
    nodes = [
        NodeView(
            id=uuid_text(job_id),
            ref=read_told(job["options"]).more.ref,
            queue=names[job["queue_id"]],
            job_type=job["job_type"],
            status=job["status"],
            waiting_on=len(missing[job_id]) or None,
        )
        for job_id, job in found.jobs.items()
    ]
    edges = [
        EdgeView(
            parent=uuid_text(parent_id),
            child=uuid_text(child_id),
            on_failure=msgspec.convert(policy, OnFailure),
            satisfied=_satisfied(found.jobs[child_id], missing[child_id], parent_id),
        )
        for (parent_id, child_id), policy in found.edges.items()
    ]
    return answer(call, GraphView(nodes=nodes, edges=edges, cut=found.cut))


def _satisfied(child: Mapping[str, Any], missing: Mapping[bytes, str], parent_id: bytes) -> bool:
    held = child["status"] == "scheduled" and child["due_us"] == NEVER_US
    return parent_id not in missing and (held or child["status"] != "cancelled")


GRAPH_PROBLEMS = (
    "queue_not_found",
    "job_not_found",
    "dependency_cycle",
    "idempotency_key_reused",
    "quota_exceeded",
    "subscription_expired",
    "overloaded",
    "outcome_unknown",
)

ROUTES = (
    Route(
        method="POST",
        path="/v1/graphs",
        operation_id="submitGraph",
        summary="Submit jobs that wait for each other, all or none",
        tag="graphs",
        permission=permissions.JOBS_WRITE,
        handler=submit_graph,
        status=201,
        body=GraphSubmit,
        reply=GraphReply,
        body_bytes_max=limits.REQUEST_BYTES_MAX,
        idempotent=True,
        problems=GRAPH_PROBLEMS,
        example={
            "jobs": [
                {"ref": "fetch", "queue": "emails", "job_type": "fetch"},
                {
                    "ref": "send",
                    "queue": "emails",
                    "job_type": "send",
                    "parents": [{"ref": "fetch", "on_failure": "cancel"}],
                },
            ],
            "on_complete": {"queue": "emails", "job_type": "report"},
        },
    ),
    Route(
        method="POST",
        path="/v1/jobs/{job_id}/parents",
        operation_id="addParents",
        summary="Let a job that waits wait for others too; one that it waits for already stays",
        tag="graphs",
        permission=permissions.JOBS_WRITE,
        handler=add_parents,
        body=ParentsAdd,
        reply=JobDetails,
        body_bytes_max=limits.REQUEST_BYTES_MAX,
        problems=("job_not_found", "job_not_waiting", "dependency_cycle", "outcome_unknown"),
        example={"parents": [{"job_id": "01997b5c-6c00-7001-8000-5f3a9c2d4e6f"}]},
    ),
    Route(
        method="GET",
        path="/v1/jobs/{job_id}/parents",
        operation_id="listParents",
        summary="List what a job waits for, or waited for, with the results",
        tag="graphs",
        permission=permissions.JOBS_READ,
        handler=list_parents,
        query=PageQuery,
        reply=ParentPage,
        problems=("job_not_found",),
    ),
    Route(
        method="GET",
        path="/v1/workers/{worker_id}/jobs/{job_id}/parents",
        operation_id="listParentsOfLease",
        summary="The same for the worker that runs the job",
        tag="graphs",
        permission=permissions.WORKERS_CONNECT,
        handler=list_parents_of_lease,
        query=LeaseQuery,
        reply=ParentPage,
        problems=("job_not_found", "worker_not_found"),
    ),
    Route(
        method="GET",
        path="/v1/jobs/{job_id}/graph",
        operation_id="getGraph",
        summary="Look at a job with all that it is connected to",
        tag="graphs",
        permission=permissions.JOBS_READ,
        handler=get_graph,
        query=GraphQuery,
        reply=GraphView,
        problems=("job_not_found",),
    ),
)
