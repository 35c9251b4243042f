"""Jobs that wait for jobs, held against plain words: who may start follows from the edges alone.

Graphs over two shards, of which one queue keeps no rows, behind jobs that are there; children with
times of their own, and with further parents; ends of every kind, retries, rows that go. Nodes die
before an end is durable, or after it and before whoever waited was let go, with rows written in
between or not; shards are away. After each step nobody runs who should wait, nobody waits who may
run, each has run as often as he should, and all who wait do so for the right ones.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from taskforge_server.engine import limits
from taskforge_server.engine.actors.graphs import Graph, GraphJob
from taskforge_server.engine.journal.memory import MemoryShardLog
from taskforge_server.engine.journal.memory_tables import MemoryTables
from taskforge_server.engine.model.graph import POLICIES, Edge, OnFailure, levels, unpacked
from taskforge_server.engine.model.job import FINAL, JobStatus
from taskforge_server.engine.model.joboptions import read_told
from taskforge_server.engine.model.queue import QueueRef, QueueSettings
from taskforge_server.engine.node.graphdoors import GraphDoors
from taskforge_server.engine.runtime.clock import VirtualClock
from taskforge_server.ext.ids import shard_of
from taskforge_server.ext.table import NEVER_US
from tests.support.engine_node import MemoryNode
from tests.support.engine_parts import PROJECT, done
from tests.support.graph_model import GONE, Family, Job
from tests.support.graph_plays import HOWS, End, Shaped, rare
from tests.support.machines import LoopMachine, run_machine
from tests.support.table_model import Call, call, weighted

ONE = QueueRef(b"1" * 16, PROJECT, "one", 0, QueueSettings(), 0)
TWO = QueueRef(b"2" * 16, PROJECT, "two", 0, QueueSettings(history="none"), 1)
CREDIT = 10_000
TURNS_MAX = 500
LATER_US = 3_600_000_000
"""Longer than the first backoff."""
ERROR = b'{"type":"ValueError","message":"no","retryable":%s}'

picks = st.integers(0, 1_000)
policies = st.sampled_from(POLICIES)
jobs = st.tuples(
    st.booleans(),
    st.sampled_from([False, False, False, True]),
    st.dictionaries(st.integers(1, 4), policies, max_size=3),
)
shapes = st.lists(jobs, min_size=1, max_size=5)
behinds = st.dictionaries(picks, policies, max_size=2)
ends = st.sampled_from(["well", "well", "badly", "badly", "once more"])
calls: st.SearchStrategy[Call] = weighted(
    *call(4, "submit", shape=shapes, behind=behinds),
    *call(6, "end", pick=picks, how=ends),
    *call(2, "end_behind_a_newcomer", pick=picks, how=ends, policy=policies),
    *call(3, "add_parent", pick=picks, parent=picks, policy=policies),
    *call(1, "cancel", pick=picks),
    *call(4, "run_again", pick=picks),
    *call(1, "pass_time"),
    *call(1, "purge", pick=picks),
    *call(2, "look_over"),
    *call(2, "lose_a_shard", number=st.integers(0, 1), pick=picks, how=ends),
    *call(1, "die", written=st.booleans()),
    *call(2, "die_before_the_end", pick=picks, how=ends),
    *call(3, "die_after_the_end", pick=picks, how=ends, written=st.booleans()),
)


class Rows:
    """The statuses of the jobs that have rows."""

    def __init__(self, tables: MemoryTables) -> None:
        self.tables = tables

    async def statuses(
        self, job_ids: Sequence[bytes], project_id: bytes | None = None
    ) -> dict[bytes, JobStatus]:
        rows = self.tables.jobs
        return {job_id: rows[job_id]["status"] for job_id in job_ids if job_id in rows}


class Errors(logging.Handler):
    """What was logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(self.format(record))


class GraphMachine(LoopMachine):
    """One node after the other, a worker that takes all that may run."""

    @initialize()
    def begin(self) -> None:
        self.log, self.tables, self.clock = MemoryShardLog(), MemoryTables(), VirtualClock()
        self.model = Family()
        self.tokens: dict[bytes, bytes] = {}
        self.nodes = self.seq = 0
        self.errors = Errors()
        logging.getLogger("taskforge_server").addHandler(self.errors)
        self.run(self.open())
        self.begun = True

    @rule(call=calls)
    def do(self, call: Call) -> None:
        self.take(call)

    async def settle(self) -> None:
        await self.as_modelled()
        assert not self.errors.records

    async def as_modelled(self, away: int | None = None) -> None:
        """All come to be what they should be, but those of a shard that is away."""
        if any(
            self.model.jobs[parent_id].status == GONE
            for edges in self.model.waits().values()
            for parent_id in edges
        ):
            await self.believe()
        self.model.settle(self.clock.now_us(), away)
        here = [job_id for job_id in self.model.jobs if shard_of(job_id) != away]
        await until(lambda: all(map(self.is_as_modelled, here)))

    async def open(self) -> None:
        self.stack = AsyncExitStack()
        self.nodes += 1
        name, rows = f"node-{self.nodes}", Rows(self.tables)
        node = MemoryNode(self.log, (0, 1), (ONE, TWO), self.clock, name, self.tables)
        self.node, self.dependencies = node, node.core.dependencies
        self.doors = GraphDoors(node.core, node.doors, node.admission, rows, 2)
        self.dependencies.rows = rows
        await self.stack.enter_async_context(node)
        for job_id in self.model.of(GONE):  # the end of the log may know it still
            if (found := self.in_memory(job_id)) is not None:
                self.model.jobs[job_id].status = found["status"]
        await self.attach()

    async def attach(self) -> None:
        """The worker comes, with what it runs."""
        running = b"".join(self.tokens.get(each, b"") for each in self.model.of("processing"))
        self.worker, self.outlet = await self.node.worker(ONE, TWO, credit=CREDIT, running=running)

    async def close(self) -> None:
        await self.stack.aclose()
        self.log.gate.set()
        self.log.waiting.clear()

    # what happens

    async def submit(self, shape: list[Shaped], behind: dict[int, OnFailure]) -> None:
        """Each job names some of those before it, by how far before; the first one others besides
        that are there already."""
        known = [*self.model.jobs]
        others = await self.edges_to(
            {known[pick % len(known)]: how for pick, how in behind.items() if known}
        )
        await self.submit_graph(shape, others)

    async def edges_to(self, wanted: dict[bytes, OnFailure]) -> list[Edge]:
        """As whoever submits learns how the parents are."""
        held = await self.doors.hold(PROJECT, list(wanted))
        assert GONE not in {self.model.jobs[job_id].status for job_id in held}
        assert held.keys() >= {
            job_id
            for job_id in wanted
            if self.model.jobs[job_id].kept and self.model.jobs[job_id].status != GONE
        }
        for job_id in held:
            self.model.jobs[job_id].kept |= self.model.jobs[job_id].status not in FINAL
        return [
            Edge.to(job_id, how, held[job_id]) for job_id, how in wanted.items() if job_id in held
        ]

    async def submit_graph(self, shape: list[Shaped], others: list[Edge]) -> None:
        made: list[GraphJob] = []
        for place, (first, later, wanted) in enumerate(shape):
            parents = [(place - back, how) for back, how in wanted.items() if back <= place]
            due_us = self.clock.now_us() + LATER_US if later else 0
            queue = ONE if first else TWO
            made.append(GraphJob(queue, "send", b"{}", 0, due_us, 0, 0, None, parents))
        made[0].others = others
        places, _ = levels([[parent for parent, _ in job.parents] for job in made])
        ids, _ = await self.doors.submit(Graph(made, places), None)
        each = [ids[at : at + 16] for at in range(0, len(ids), 16)]
        for job_id, job in zip(each, made, strict=True):
            model = self.model.jobs[job_id] = Job(job.queue, job.due_us)
            for edge in job.others:
                model.wait(edge.parent_id, edge.on_failure)
            for parent, how in job.parents:
                model.wait(each[parent], how)
                self.model.jobs[each[parent]].kept = True

    def pick(self, pick: int, *statuses: str) -> bytes | None:
        among = self.model.of(*statuses)
        return among[pick % len(among)] if among else None

    async def tell(self, job_id: bytes, how: End) -> None:
        """The worker says so; the model still knows nothing of it."""
        self.seq += 1
        token = self.tokens[job_id]
        others = () if how == "well" else ((token, 1, ERROR % RETRYABLE[how]),)
        await self.worker.receive([done(self.seq, token if how == "well" else b"", *others)])

    async def heard(self, job_id: bytes, how: End) -> None:
        """The worker says so, and is told that it is durable."""
        acks = len(self.outlet.of(12))
        await self.tell(job_id, how)
        await until(lambda: len(self.outlet.of(12)) > acks)
        self.know(job_id, how)

    def know(self, job_id: bytes, how: End) -> None:
        job = self.model.jobs[job_id]
        job.status = {"well": "succeeded", "badly": "failed", "once more": "scheduled"}[how]
        job.due_us = self.clock.now_us() + LATER_US
        self.seen[how] += 1

    async def end(self, pick: int, how: End) -> None:
        if (job_id := self.pick(pick, "processing")) is not None:
            await self.tell(job_id, how)
            self.know(job_id, how)

    async def end_behind_a_newcomer(self, pick: int, how: End, policy: OnFailure) -> None:
        """A parent ends, and before that is durable a child comes that knew it running."""
        if (job_id := self.pick(pick, "processing")) is None:
            return
        others = await self.edges_to({job_id: policy})
        self.log.gate.clear()
        await self.tell(job_id, how)
        await self.log.waiting.wait()
        shape: list[Shaped] = [(pick % 2 == 0, False, {})]
        coming = asyncio.create_task(self.submit_graph(shape, others))
        waiting = self.dependencies.waiting
        known = len(waiting.parents.get(job_id, ()))
        await until(lambda: len(waiting.parents.get(job_id, ())) > known)
        await until(lambda: not self.dependencies.busy)
        assert len(waiting.parents[job_id]) == known + 1, "believed before it was durable"
        self.log.gate.set()
        await coming
        self.know(job_id, how)

    async def add_parent(self, pick: int, parent: int, policy: OnFailure) -> None:
        """A job that waits shall wait for another older one besides, however that one is; or for
        one that it waits for already."""
        if (child_id := self.pick(pick, "scheduled")) is None:
            return
        child = self.model.jobs[child_id]
        older = [*self.model.jobs][: [*self.model.jobs].index(child_id)]
        among = [each for each in older if each in child.edges or each not in child.told]
        edges = await self.edges_to({among[parent % len(among)]: policy} if among else {})
        if edges:
            await self.doors.add_parents(PROJECT, child_id, edges)
            child.wait(edges[0].parent_id, policy)
            status = self.model.jobs[edges[0].parent_id].status
            self.seen[f"one more parent: {status}"] += 1

    async def cancel(self, pick: int) -> None:
        if (job_id := self.pick(pick, "scheduled")) is not None:
            await self.node.doors.cancel(job_id, PROJECT)
            self.model.jobs[job_id].status = "cancelled"

    async def run_again(self, pick: int) -> None:
        job_id = self.pick(pick, "failed", "cancelled")
        found = None if job_id is None else self.in_memory(job_id)
        if job_id is not None and found is not None and self.model.nobody_passed(job_id):
            await self.node.doors.requeue(found)
            self.seen[f"{self.model.jobs[job_id].status} and again"] += 1
            self.model.run_again(job_id)

    async def pass_time(self) -> None:
        """Whatever was to start at a time of its own is due."""
        self.clock.advance(LATER_US / 1_000_000)
        for shard in self.node.core.shards.values():
            shard.table.due(self.clock.now_us(), limits.DUE_JOBS_MAX)
            self.node.core.touched(shard)

    async def write(self) -> None:
        """All that is durable goes to the tables; what has ended leaves memory."""
        writing = asyncio.create_task(self.node.projector.run())
        await self.node.projector.flush()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        for job_id, job in self.model.jobs.items():
            if job.status in FINAL and not job.kept and job_id not in self.tables.jobs:
                job.status = GONE if self.in_memory(job_id) is None else job.status

    async def purge(self, pick: int) -> None:
        """The row of a job that has ended goes."""
        job_id = self.pick(pick, *FINAL)
        if job_id is not None and self.model.nobody_passed(job_id):
            await self.write()
            if self.in_memory(job_id) is None:
                self.tables.jobs.pop(job_id, None)
                self.model.jobs[job_id].status = GONE
                self.seen["purged"] += any(job_id in job.edges for job in self.model.jobs.values())

    async def believe(self) -> None:
        """Who is nowhere to be found twice is gone."""
        for _ in range(2):
            self.dependencies.sweep()
            await until(lambda: not self.dependencies.busy)

    async def lose_a_shard(self, number: int, pick: int, how: End) -> None:
        """It is away for a while, and nobody believes that its jobs are gone; meanwhile a job of
        the other one ends."""
        core, ownership = self.node.core, self.node.ownership
        lost = core.shards[number]
        ownership.wanted = frozenset()
        lost.give_up()
        assert not [
            each for each in self.dependencies.waiting.children.values() if each.shard is lost
        ]
        running = [each for each in self.model.of("processing") if shard_of(each) != number]
        if running:
            await self.heard(running[pick % len(running)], how)
        await self.believe()
        await self.as_modelled(away=number)
        self.worker.detach()  # as one is told that the shard has moved
        await ownership.take_all((number,))
        await self.attach()

    async def die(self, written: bool) -> None:
        if written:
            await self.write()
        await self.close()
        await self.open()

    async def die_before_the_end(self, pick: int, how: End) -> None:
        """What the worker said never was durable: it says so again, or not."""
        self.log.gate.clear()
        if (job_id := self.pick(pick, "processing")) is not None:
            await self.tell(job_id, how)
            await self.log.waiting.wait()
        await self.close()
        await self.open()

    async def die_after_the_end(self, pick: int, how: End, written: bool) -> None:
        """It is durable, and perhaps in the tables; that its children are let go is perhaps not."""
        job_id = self.pick(pick, "processing")
        if job_id is not None:
            await self.heard(job_id, how)
            waited = any(job_id in job.edges for job in self.model.jobs.values())
            self.seen["died between"] += waited
        self.log.gate.clear()
        await self.die(written)

    # what holds

    def in_memory(self, job_id: bytes) -> dict[str, Any] | None:
        return self.node.core.shards[shard_of(job_id)].table.get(job_id)

    def is_as_modelled(self, job_id: bytes) -> bool:
        job, found = self.model.jobs[job_id], self.in_memory(job_id)
        self.tokens |= {token[:16]: token for token in self.outlet.tokens()}
        if found is None:
            row = self.tables.jobs.get(job_id)
            return job.status == (GONE if row is None else row["status"])
        status = found["status"]
        assert found["attempt"] <= job.starts, "it runs and should not"
        if status != job.status or found["attempt"] != job.starts:
            return False
        match status:
            case "scheduled":
                held = found["due_us"] == NEVER_US
                return self.doors.missing(job_id) == job.edges and held == bool(job.edges)
            case "processing":
                lease = int.from_bytes(self.tokens.get(job_id, b"")[16:])
                return bool(lease == found["lease_lsn"])
            case "cancelled":
                return not job.reasons or str(found["reason"]) in job.reasons
        return True

    async def look_over(self) -> None:
        """The books, the options of those that wait, and the rows of edges say the same."""
        self.model.settle(self.clock.now_us())
        self.dependencies.sweep()
        await until(lambda: not self.dependencies.busy)
        waiting, waits = self.dependencies.waiting, self.model.waits()
        assert {child.id: child.missing for child in waiting.children.values()} == waits
        assert waiting.edges.used == sum(map(len, waits.values()))
        assert waiting.parents.keys() == {
            parent_id for edges in waits.values() for parent_id in edges
        }
        assert self.dependencies._watched.keys() <= waiting.parents.keys()
        for job_id, edges in waits.items():
            found = self.in_memory(job_id)
            assert found is not None
            told = read_told(found["options"])
            assert told.named["waiting_on"] == len(edges)
            assert told.more.parents is not None
            named = unpacked(told.more.parents.edges)
            assert {edge.parent_id: edge.on_failure for edge in named if not edge.done} == edges
        unwritten = self.doors.unwritten(PROJECT, self.model.jobs)
        pairs = {(row.parent_id, row.child_id) for row in unwritten} | self.tables.edges.keys()
        assert pairs == {
            (parent_id, job_id) for job_id, job in self.model.jobs.items() for parent_id in job.told
        }

    def teardown(self) -> None:
        super().teardown()
        if self.begun:
            logging.getLogger("taskforge_server").removeHandler(self.errors)
        for job in self.model.jobs.values() if self.begun else ():
            parents = "a child" if job.told else "a root"
            self.seen[f"{parents} {job.status}"] += 1
            self.seen.update(
                f"{policy}: waits for one that {self.model.jobs[parent_id].status}"
                for parent_id, policy in job.edges.items()
                if job.status == "scheduled"
            )


RETRYABLE = {"badly": b"false", "once more": b"true"}


async def until(holds: Callable[[], bool]) -> None:
    """Let the loop turn until it holds."""
    for _ in range(TURNS_MAX):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


def run(examples: int, steps: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    run_machine(GraphMachine.counting(seen), examples, steps)
    return seen


def play(machine: GraphMachine, calls: list[Call]) -> None:
    machine.begin()
    for each in calls:
        machine.take(each)
    machine.teardown()


def what_is_rare(seen: Counter[str]) -> None:
    for calls in rare():
        play(GraphMachine.counting(seen)(), calls)


WANTED = {
    *(f"{kind} {status}" for kind in ("a root", "a child") for status in (*FINAL, GONE)),
    *("a child scheduled", "a child processing", "died between", "purged", *HOWS),
    *(f"one more parent: {status}" for status in ("processing", "succeeded", "failed")),
    *("failed and again", "cancelled and again", "block: waits for one that failed"),
} - {"a root cancelled"}


def test_children_start_when_their_edges_say() -> None:
    seen = run(examples=25, steps=30)
    what_is_rare(seen)
    assert not {what for what in WANTED if not seen[what]}, seen


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_children_start_when_their_edges_say_at_length() -> None:
    run(examples=2_000, steps=50)
