"""A graph of new jobs on its way in: decided in one turn, for all queues and shards it touches.

    levels: parents first ──submit, queue by queue──► ids ──► options of the next level name them

Nothing waits between the first and the last submit, so nobody sees half of it, and the journal is
told to write what the shards gathered in one append. The ids of parents are made by the submits
before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from taskforge_server.engine.model.graph import Edge, OnFailure
from taskforge_server.engine.model.joboptions import told_anew
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.engine.runtime import safeguards
from taskforge_server.engine.shard.family import with_parents
from taskforge_server.ext.table import NEVER_US, SubmitBatch

ID_BYTES = 16


@dataclass(slots=True)
class GraphJob:
    """A job of the graph; parents within it by their places."""

    queue: QueueRef
    job_type: str
    payload: bytes
    priority: int
    due_us: int
    timeout_ms: int
    max_attempts: int
    options: bytes | None
    parents: list[tuple[int, OnFailure]]
    others: list[Edge] = field(default_factory=list)
    """Parents that are there already."""


@dataclass(frozen=True, slots=True)
class Graph:
    """Jobs, and their places by level: parents in lower ones than their children."""

    jobs: Sequence[GraphJob]
    levels: Sequence[Sequence[int]]

    @property
    def count(self) -> int:
        return len(self.jobs)

    @property
    def edges(self) -> int:
        return sum(len(job.parents) + len(job.others) for job in self.jobs)

    @property
    def bytes_total(self) -> int:
        return sum(len(job.payload) + len(job.options or b"") for job in self.jobs)


class Part(Protocol):
    """The actor of a queue, as the graph needs it."""

    def submit_now(self, batch: SubmitBatch, now_us: int) -> bytes:
        """New jobs at once; the ids, 16 bytes each."""
        ...


def submit(graph: Graph, actors: Mapping[bytes, Part], now_us: int) -> list[bytes]:
    """Submit all jobs; their ids by place. `actors` are those of the queues, by queue id."""
    jobs, ids = graph.jobs, [b""] * len(graph.jobs)
    is_parent = {place for job in jobs for place, _ in job.parents}
    for level in graph.levels:
        by_queue: dict[bytes, list[int]] = {}
        for place in level:
            by_queue.setdefault(jobs[place].queue.id, []).append(place)
        for queue_id, places in by_queue.items():
            batch = SubmitBatch()
            for place in places:
                _add(batch, jobs[place], ids, keep=place in is_parent)
            made = actors[queue_id].submit_now(batch, now_us)
            for index, place in enumerate(places):
                ids[place] = made[index * ID_BYTES : (index + 1) * ID_BYTES]
    return ids


def _add(batch: SubmitBatch, job: GraphJob, ids: Sequence[bytes], *, keep: bool) -> None:
    options, due_us = job.options, job.due_us
    if (job.parents or job.others) and safeguards.ACTIVE.parents:
        edges = [Edge(ids[place], on_failure) for place, on_failure in job.parents]
        edges += job.others
        options = with_parents(options, edges, due_us, keep=keep)
        if not all(edge.done for edge in edges):
            due_us = NEVER_US
    elif keep:
        options = told_anew(options, keep=True)
    batch.add(
        job.job_type,
        job.payload,
        job.priority,
        due_us,
        job.timeout_ms,
        job.max_attempts,
        options or None,
    )
