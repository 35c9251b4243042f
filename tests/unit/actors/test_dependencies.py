"""Children that wait, whatever else happens meanwhile."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.actors.commands import AddParents
from taskforge_server.engine.actors.control import Cancel
from taskforge_server.engine.actors.queue import QueueActor
from taskforge_server.engine.model.graph import Edge, OnFailure, Parents, packed
from taskforge_server.engine.model.job import JobStatus
from taskforge_server.engine.model.joboptions import JobOptions
from taskforge_server.ext.ids import IdSource
from taskforge_server.ext.table import NEVER_US
from tests.support.engine_parts import EngineParts, done

ELSEWHERE = 7
"""A shard of another node."""


class Rows:
    """The tables."""

    def __init__(self) -> None:
        self.known: dict[bytes, JobStatus] = {}

    async def statuses(self, job_ids: Sequence[bytes]) -> dict[bytes, JobStatus]:
        return {job_id: self.known[job_id] for job_id in job_ids if job_id in self.known}


def child_of(parts: EngineParts, queue: QueueActor, *edges: Edge) -> bytes:
    more = JobOptions(parents=Parents(packed(edges)))
    reply = parts.submit(queue, due_us=NEVER_US, more=more)
    parts.settle()
    return reply.result()


def status(parts: EngineParts, job_id: bytes) -> str:
    job = parts.shards[1].table.get(job_id)
    assert job is not None
    return str(job["status"])


async def test_a_parent_elsewhere_is_looked_at_however_busy_the_node_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "PARENTS_SWEEP_S", 0.01)
    parts, rows = EngineParts(), Rows()
    parts.dependencies.rows = rows
    queue = parts.queue("mail")
    parent = IdSource(ELSEWHERE, 1).next(1_700_000_000_000_000)
    child = child_of(parts, queue, Edge(parent, "block"))
    other = IdSource(1, 1).next(1_700_000_000_000_000)
    await parts.dependencies.work()
    rows.known[parent] = "succeeded"
    running = asyncio.create_task(parts.dependencies.run())
    try:
        async with asyncio.timeout(10):
            while status(parts, child) != "pending":
                parts.dependencies.look((other,))  # something is always heard
                await asyncio.sleep(0)
    finally:
        running.cancel()


@pytest.mark.parametrize(
    ("on_failure", "end"),
    [("block", "cancelled"), ("cancel", "cancelled"), ("run_anyway", "pending")],
)
async def test_nobody_waits_for_ever_for_a_parent_that_is_gone(
    on_failure: OnFailure, end: str
) -> None:
    parts, rows = EngineParts(), Rows()
    parts.dependencies.rows = rows
    queue = parts.queue("mail")
    parent = IdSource(1, 77).next(1_700_000_000_000_000)
    rows.known[parent] = "failed"
    child = child_of(parts, queue, Edge(parent, on_failure))
    if on_failure == "block":
        await parts.dependencies.work()
        assert status(parts, child) == "scheduled", "the parent may be retried"
    del rows.known[parent]  # purged
    for _ in range(2):  # once may be the moment before its row is there
        parts.dependencies.sweep()
        await parts.dependencies.work()
    assert status(parts, child) == end
    job = parts.shards[1].table.get(child)
    assert job is not None
    assert job["reason"] == ("parent_gone" if end == "cancelled" else None)


async def test_a_parent_whose_row_is_not_there_yet_is_not_gone() -> None:
    parts, rows = EngineParts(), Rows()
    parts.dependencies.rows = rows
    parent = IdSource(1, 77).next(1_700_000_000_000_000)
    child = child_of(parts, parts.queue("mail"), Edge(parent, "block"))
    await parts.dependencies.work()
    assert status(parts, child) == "scheduled"
    rows.known[parent] = "succeeded"
    parts.dependencies.sweep()
    await parts.dependencies.work()
    assert status(parts, child) == "pending"


@pytest.mark.parametrize("ended", [True, False])
async def test_a_parent_that_comes_when_the_last_one_has_just_ended(ended: bool) -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    worker, outlet = parts.worker(["mail"])
    first = parts.submit(queue, 2)
    parts.settle()
    one, two = outlet.tokens()
    child = child_of(parts, queue, Edge(first.result()[:16], "block"))
    worker.handle([done(1, one + two if ended else one)])
    parts.settle()
    # The end is known, and what follows from it is not decided.
    parts.dependencies._verdicts.extend(
        parts.dependencies.waiting.ended(first.result()[:16], "succeeded")
    )
    reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    queue.handle([AddParents(child, [Edge(first.result()[16:], "block", ended)], reply)])
    await parts.dependencies.work()
    parts.settle()
    assert (await reply)["id"] == child
    assert (outlet.tokens()[-1][:16] == child) is ended


async def test_children_that_ended_by_themselves_are_waited_for_no_more() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    reply = parts.submit(queue, due_us=NEVER_US - 1)
    parts.settle()
    parent = reply.result()
    child = child_of(parts, queue, Edge(parent, "block"))
    await parts.dependencies.work()
    assert parts.dependencies.waiting.edges.used == 1
    cancelled: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    queue.handle([Cancel(child, cancelled)])
    parts.settle()
    parts.dependencies.sweep()
    assert parts.dependencies.waiting.edges.used == 0
    assert not parts.dependencies.waiting.parents
