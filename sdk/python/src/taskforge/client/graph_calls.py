"""The calls about graphs of jobs."""

from collections.abc import Iterable
from uuid import UUID

import msgspec

from taskforge.client import models
from taskforge.client.calls import Call, checked, job_path, query_text, reader
from taskforge.client.http1 import MSGPACK, Response
from taskforge.graph import Graph
from taskforge.limits import PAGE_PARENTS
from taskforge.options import Parent, parent_ref

_to_json = msgspec.json.Encoder().encode
_to_msgpack = msgspec.msgpack.Encoder().encode
_read_graph = msgspec.msgpack.Decoder(models.GraphReply).decode


def submit_graph(graph: Graph, key: str | None) -> Call[models.GraphReply]:
    """Submit all its jobs, or none."""
    body = _to_msgpack(graph.body())
    return Call("POST", "/v1/graphs", _submitted, body, MSGPACK, key, repeatable=key is not None)


def _submitted(response: Response) -> models.GraphReply:
    return _read_graph(checked(response).body)


def add_parents(job_id: str, parents: Iterable[Parent]) -> Call[models.Job]:
    """Let a job that waits wait for these too; Conflict when it runs or has ended."""
    body = _to_json({"parents": [parent_ref(parent) for parent in parents]})
    return Call("POST", f"{job_path(job_id)}/parents", reader(models.Job), body)


def list_parents(cursor: str | None, job_id: str) -> Call[models.Page[models.Parent]]:
    """What a job waits for, or waited for, with the results."""
    path = f"{job_path(job_id)}/parents?{query_text({'cursor': cursor, 'limit': PAGE_PARENTS})}"
    return Call("GET", path, reader(models.Page[models.Parent]))


def list_parents_of_lease(
    cursor: str | None, worker_id: str, job_id: str, lease: int
) -> Call[models.Page[models.Parent]]:
    """The same for the worker that runs the job."""
    wanted = {"lease": lease, "cursor": cursor, "limit": PAGE_PARENTS}
    path = f"/v1/workers/{UUID(worker_id)}/jobs/{UUID(job_id)}/parents?{query_text(wanted)}"
    return Call("GET", path, reader(models.Page[models.Parent]))


def get_graph(job_id: str, limit: int | None = None) -> Call[models.JobGraph]:
    """A job with all that it is connected to, the nearest first."""
    wanted = query_text({"limit": limit})
    path = f"{job_path(job_id)}/graph"
    return Call("GET", f"{path}?{wanted}" if wanted else path, reader(models.JobGraph))
