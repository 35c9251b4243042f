"""What crosses the interface about graphs of jobs."""

from typing import Annotated

import msgspec
from msgspec import Meta

from taskforge_server.api.rest.schemas import (
    NULL,
    Answer,
    AnyJson,
    JobSubmit,
    QueueText,
    Request,
    UuidText,
)
from taskforge_server.api.service.submission import NewJob, ParentRef, Ref
from taskforge_server.engine import limits
from taskforge_server.engine.model.graph import OnFailure
from taskforge_server.engine.model.job import JobStatus


class GraphJob(JobSubmit, kw_only=True):
    """A job of a graph; `parents` may name others of the request by their `ref`."""

    ref: Ref
    queue: QueueText


class Callback(NewJob, kw_only=True):
    """A job that runs when all jobs of the graph have ended, however they did."""

    queue: QueueText
    payload: AnyJson = msgspec.field(default_factory=lambda: NULL)


class SuccessCallback(Callback, kw_only=True):
    """A job that runs when all jobs of the graph have succeeded."""

    on_failure: Annotated[
        OnFailure, Meta(description="what becomes of it when one of them fails for good")
    ] = "block"


class GraphSubmit(Request):
    """Jobs that wait for each other: all are taken, or none."""

    jobs: Annotated[list[GraphJob], Meta(min_length=1, max_length=limits.GRAPH_JOBS_MAX)]
    on_success: SuccessCallback | None = None
    on_complete: Callback | None = None


class GraphJobView(Answer):
    """A job of a graph that is durable."""

    ref: str
    id: UuidText
    status: JobStatus


class GraphReply(Answer):
    """The jobs, in the order of the request."""

    jobs: list[GraphJobView]
    on_success: UuidText | None
    on_complete: UuidText | None


class ParentsAdd(Request):
    """More jobs to wait for."""

    parents: Annotated[list[ParentRef], Meta(min_length=1, max_length=limits.PARENTS_MAX)]


class ParentView(Answer):
    """A job that another one waits for, or waited for; without a status it is gone."""

    id: UuidText
    on_failure: OnFailure
    satisfied: Annotated[bool, Meta(description="the child waits for it no more")]
    status: JobStatus | None
    ref: str | None
    job_type: str | None
    result: AnyJson
    error: AnyJson


class ParentPage(Answer):
    """Parents, by their ids."""

    items: list[ParentView]
    next_cursor: str | None


class NodeView(Answer):
    """A job in a graph."""

    id: UuidText
    ref: str | None
    queue: str
    job_type: str
    status: JobStatus
    waiting_on: int | None


class EdgeView(Answer):
    """The child waits for the parent."""

    parent: UuidText
    child: UuidText
    on_failure: OnFailure
    satisfied: bool


class GraphView(Answer):
    """A job and those that it is connected to, the nearest first."""

    nodes: list[NodeView]
    edges: list[EdgeView]
    cut: Annotated[bool, Meta(description="there is more than what is shown")]


class GraphQuery(Request):
    """How much of the graph."""

    limit: Annotated[int, Meta(ge=1, le=limits.GRAPH_NODES_SHOWN_MAX)] = limits.GRAPH_NODES_SHOWN


class LeaseQuery(Request):
    """Which page, for whoever runs the job."""

    lease: Annotated[int, Meta(ge=0, description="the lease under which it runs")] = 0
    cursor: Annotated[str, Meta(max_length=limits.CURSOR_CHARS_MAX)] | None = None
    limit: Annotated[int, Meta(ge=1, le=limits.PAGE_ROWS_MAX)] = limits.PAGE_ROWS_DEFAULT
