"""More parents for a job that waits already: decided by the actor of its queue.

    pending, scheduled ──► held, with the time of its own ──the last edge──► due then, or now

The edges come checked: the parents are there, their rows stay, and it is known which of them are
satisfied. What is left to see is that nobody would wait for himself: the way up from each new
parent goes over open edges alone, for a job that has ended waits for nobody.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from taskforge_server.engine import limits
from taskforge_server.engine.actors.dependencies import Dependencies
from taskforge_server.engine.errors import Conflict, InvalidInput, NotFound, TooLarge
from taskforge_server.engine.model.graph import Edge, path_up, unpacked
from taskforge_server.engine.shard.effects import Promise, Reply
from taskforge_server.engine.shard.family import parents_of, with_parents
from taskforge_server.engine.shard.shard import Shard
from taskforge_server.engine.shard.waiting import Child
from taskforge_server.ext.ids import uuid_text
from taskforge_server.ext.table import NEVER_US


class Told(Protocol):
    """Which job, for whom it shall wait, and who is answered with the job."""

    @property
    def job_id(self) -> bytes: ...
    @property
    def edges(self) -> Sequence[Edge]: ...
    @property
    def reply(self) -> Promise[dict[str, Any]]: ...


def waits(options: bytes | None) -> bool:
    """Whether the options of a job name open edges."""
    told = parents_of(options)
    return told is not None and not all(edge.done for edge in unpacked(told.edges))


def add_parents(shard: Shard, dependencies: Dependencies, told: Told, now_us: int) -> None:
    """Let the job wait for these too; an edge that is there stays as it is. NotFound, Conflict,
    InvalidInput."""
    table, job_id = shard.table, told.job_id
    job = table.get(job_id)
    if job is None:
        raise NotFound("no such job is waiting", "job_id", code="job_not_found")
    if job["status"] not in ("pending", "scheduled"):
        raise Conflict(
            f"only a job that waits can be given parents: this one is {job['status']}",
            code="job_not_waiting",
        )
    children = dependencies.waiting.children
    child = children.get(job_id)
    edges = _merged(job["options"], child, told.edges)
    if len(edges) > limits.PARENTS_MAX:
        raise TooLarge(f"{len(edges)} parents: at most {limits.PARENTS_MAX}", "parents")
    _refuse_cycles(job_id, told.edges, _Missing(children))
    # Of a job that is held already its own time stands in the options.
    before = parents_of(job["options"])
    was_held = job["due_us"] == NEVER_US and before is not None
    not_before_us = before.not_before_us if was_held and before else job["due_us"]
    if not all(edge.done for edge in edges):
        due_us = NEVER_US
    else:  # the last open edge was satisfied just now: what was to free the job finds it free
        due_us = max(now_us, not_before_us) if was_held else -1
    table.change(
        job_id,
        now_us,
        due_us=due_us,
        options=with_parents(job["options"], edges, not_before_us),
    )
    job = table.get(job_id)
    assert job is not None
    shard.effect(Reply(told.reply, job))


def _merged(options: bytes | None, child: Child | None, new: Sequence[Edge]) -> list[Edge]:
    if child is not None:
        known = {parent_id: Edge(parent_id, policy) for parent_id, policy in child.missing.items()}
    else:
        told = parents_of(options)
        known = {edge.parent_id: edge for edge in unpacked(told.edges)} if told else {}
    for edge in new:
        known.setdefault(edge.parent_id, edge)
    return list(known.values())


def _refuse_cycles(
    job_id: bytes, edges: Sequence[Edge], parents: Mapping[bytes, Sequence[bytes]]
) -> None:
    fresh = [edge.parent_id for edge in edges if not edge.done]
    try:
        way = path_up(fresh, job_id, parents, limits.CYCLE_STEPS_MAX)
    except ValueError:
        raise TooLarge("the parents wait for too many others", "parents") from None
    if way:
        names = " -> ".join(uuid_text(each) for each in (job_id, *way))
        raise InvalidInput(f"a cycle: {names}", "parents", code="dependency_cycle")


class _Missing(Mapping[bytes, Sequence[bytes]]):
    """The open edges of each job that waits."""

    def __init__(self, children: Mapping[bytes, Child]) -> None:
        self._children = children

    def __getitem__(self, job_id: bytes) -> Sequence[bytes]:
        return list(self._children[job_id].missing)

    def __iter__(self) -> Any:
        return iter(self._children)

    def __len__(self) -> int:
        return len(self._children)
