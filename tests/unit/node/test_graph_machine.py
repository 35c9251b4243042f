"""Jobs that wait for jobs, held against plain words: who may start follows from the edges alone.

Graphs over two shards, children that get further parents, ends of every kind, and nodes that die
before an end is durable, or after it and before whoever waited was let go. After each step nobody
runs who should wait, nobody waits who may run, and all who wait do so for the right ones.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from taskforge_server.engine.actors.graphs import Graph, GraphJob
from taskforge_server.engine.journal.memory import MemoryShardLog
from taskforge_server.engine.model.graph import POLICIES, Edge, OnFailure
from taskforge_server.engine.model.job import FINAL
from taskforge_server.ext.ids import shard_of
from tests.support.engine_node import MemoryNode
from tests.support.engine_parts import PROJECT, done
from tests.support.machines import run_machine
from tests.support.table_model import Call, call, weighted
from tests.unit.node.test_graphs import ONE, TWO, doors

CREDIT = 10_000
TURNS_MAX = 500
FAILED = b'{"type":"ValueError","message":"no","retryable":false}'


@dataclass
class Job:
    """`edges` are those that are not satisfied; `told` all that it ever had."""

    status: str = "scheduled"
    edges: dict[bytes, OnFailure] = field(default_factory=dict)
    told: set[bytes] = field(default_factory=set)

    def wait(self, parent_id: bytes, policy: OnFailure) -> None:
        self.edges[parent_id] = policy
        self.told.add(parent_id)


class Family:
    """All jobs, the older ones first."""

    def __init__(self) -> None:
        self.jobs: dict[bytes, Job] = {}

    def settle(self) -> None:
        """Parents are older than their children: one round is enough."""
        for job in self.jobs.values():
            if job.status != "scheduled":
                continue
            for parent_id, policy in list(job.edges.items()):
                status = self.jobs[parent_id].status
                if status == "succeeded" or (status in FINAL and policy == "run_anyway"):
                    del job.edges[parent_id]
                elif status in FINAL and policy == "cancel":
                    job.status = "cancelled"
            if job.status == "scheduled" and not job.edges:
                job.status = "processing"

    def of(self, status: str) -> list[bytes]:
        return [job_id for job_id, job in self.jobs.items() if job.status == status]

    def may_run_again(self, job_id: bytes) -> bool:
        """Whoever waits goes on waiting for it, and nobody has already passed it."""
        return all(
            job_id in job.edges
            for job in self.jobs.values()
            if job.status == "scheduled" and job_id in job.told
        )


picks = st.integers(0, 1_000)
policies = st.sampled_from(POLICIES)
shapes = st.lists(
    st.tuples(st.booleans(), st.dictionaries(st.integers(1, 4), policies, max_size=3)),
    min_size=1,
    max_size=6,
)
ends = st.sampled_from([True, True, False])
calls: st.SearchStrategy[Call] = weighted(
    *call(3, "submit", shape=shapes),
    *call(8, "end", pick=picks, well=ends),
    *call(2, "add_parent", pick=picks, parent=picks, policy=policies),
    *call(1, "cancel", pick=picks),
    *call(2, "run_again", pick=picks),
    *call(1, "die"),
    *call(2, "die_before_the_end", pick=picks, well=ends),
    *call(3, "die_after_the_end", pick=picks, well=ends),
)


class GraphMachine(RuleBasedStateMachine):
    """One node after the other, a worker that takes all that may run."""

    seen: ClassVar[Counter[str]]
    """What came about, over all runs."""

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.log = MemoryShardLog()
        self.model = Family()
        self.tokens: dict[bytes, bytes] = {}
        self.nodes = self.seq = 0
        self.run(self.open())

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.runner.run(coroutine)

    @rule(call=calls)
    def do(self, call: Call) -> None:
        self.run(self._do(call))

    async def _do(self, call: Call) -> None:
        await getattr(self, call.name)(**call.args)
        self.model.settle()
        await until(lambda: all(map(self.is_as_modelled, self.model.jobs)))

    async def open(self) -> None:
        self.stack = AsyncExitStack()
        self.nodes += 1
        node = MemoryNode(self.log, (0, 1), (ONE, TWO), name=f"node-{self.nodes}")
        self.node = await self.stack.enter_async_context(node)
        self.doors = doors(self.node)
        self.node.core.dependencies.rows = NoRows()
        running = b"".join(self.tokens[job_id] for job_id in self.model.of("processing"))
        self.worker, self.outlet = await node.worker(ONE, TWO, credit=CREDIT, running=running)

    async def close(self) -> None:
        await self.stack.aclose()
        self.log.gate.set()
        self.log.waiting.clear()

    # what happens

    async def submit(self, shape: list[tuple[bool, dict[int, OnFailure]]]) -> None:
        """Each job names some of those before it, by how far before."""
        jobs, levels = [], []
        for place, (first, wanted) in enumerate(shape):
            parents = [(place - back, how) for back, how in wanted.items() if back <= place]
            queue = ONE if first else TWO
            jobs.append(GraphJob(queue, "send", b"{}", 0, 0, 0, 0, None, parents))
            levels.append(1 + max((levels[parent] for parent, _ in parents), default=-1))
        places = [[n for n, at in enumerate(levels) if at == level] for level in {*levels}]
        ids, _ = await self.doors.submit(Graph(jobs, places), None)
        each = [ids[at : at + 16] for at in range(0, len(ids), 16)]
        for job_id, job in zip(each, jobs, strict=True):
            made = self.model.jobs[job_id] = Job()
            for parent, how in job.parents:
                made.wait(each[parent], how)

    def pick(self, pick: int, status: str) -> bytes | None:
        among = self.model.of(status)
        return among[pick % len(among)] if among else None

    def completion(self, job_id: bytes, well: bool) -> bytes:
        self.seq += 1
        token = self.tokens[job_id]
        return done(self.seq, token) if well else done(self.seq, b"", (token, 1, FAILED))

    async def end(self, pick: int, well: bool) -> None:
        if (job_id := self.pick(pick, "processing")) is not None:
            await self.worker.receive([self.completion(job_id, well)])
            self.model.jobs[job_id].status = "succeeded" if well else "failed"

    async def add_parent(self, pick: int, parent: int, policy: OnFailure) -> None:
        """A job that waits shall wait for another older one besides, which has not ended."""
        child_id = self.pick(pick, "scheduled")
        if child_id is None:
            return
        older = [*self.model.jobs][: [*self.model.jobs].index(child_id)]
        parent_id = older[parent % len(older)]
        job = self.model.jobs[child_id]
        if self.model.jobs[parent_id].status in FINAL or parent_id in job.told:
            return
        await self.doors.hold(PROJECT, [parent_id])
        await self.doors.add_parents(PROJECT, child_id, [Edge(parent_id, policy)])
        job.wait(parent_id, policy)
        self.seen["one more parent"] += 1

    async def cancel(self, pick: int) -> None:
        if (job_id := self.pick(pick, "scheduled")) is not None:
            await self.node.doors.cancel(job_id, PROJECT)
            self.model.jobs[job_id].status = "cancelled"

    async def run_again(self, pick: int) -> None:
        job_id = self.pick(pick, "failed")
        if job_id is not None and self.model.may_run_again(job_id):
            await self.node.doors.requeue(self.found(job_id))
            self.model.jobs[job_id].status = "processing"
            self.seen["again"] += 1

    async def die(self) -> None:
        await self.close()
        await self.open()

    async def die_before_the_end(self, pick: int, well: bool) -> None:
        """What the worker said never was durable: it says so again, or not."""
        self.log.gate.clear()
        if (job_id := self.pick(pick, "processing")) is not None:
            await self.worker.receive([self.completion(job_id, well)])
            await self.log.waiting.wait()
        await self.die()

    async def die_after_the_end(self, pick: int, well: bool) -> None:
        """It is durable; that its children are let go is perhaps not."""
        job_id = self.pick(pick, "processing")
        if job_id is not None:
            acks = len(self.outlet.of(12))
            await self.worker.receive([self.completion(job_id, well)])
            await until(lambda: len(self.outlet.of(12)) > acks)
            self.model.jobs[job_id].status = "succeeded" if well else "failed"
            waited = any(job_id in job.edges for job in self.model.jobs.values())
            self.seen["died between"] += waited
        self.log.gate.clear()
        await self.die()

    # what holds

    def found(self, job_id: bytes) -> dict[str, Any]:
        job = self.node.core.shards[shard_of(job_id)].table.get(job_id)
        assert job is not None
        return job

    def is_as_modelled(self, job_id: bytes) -> bool:
        job, status = self.model.jobs[job_id], self.found(job_id)["status"]
        assert job.status != "scheduled" or status != "processing", "it runs and should wait"
        self.tokens |= {token[:16]: token for token in self.outlet.tokens()}
        waits = status == "scheduled" and self.doors.missing(job_id) == job.edges
        has_token = status != "processing" or job_id in self.tokens
        return status == job.status and has_token and (status != "scheduled" or waits)

    def teardown(self) -> None:
        if not hasattr(self, "node"):
            return
        self.run(self.close())
        self.runner.close()
        for job in self.model.jobs.values():
            parents = "a child" if job.told else "a root"
            self.seen[f"{parents} {job.status}"] += 1
            self.seen.update(
                f"{policy}: waits for one that {self.model.jobs[parent_id].status}"
                for parent_id, policy in job.edges.items()
                if job.status == "scheduled"
            )


class NoRows:
    """All jobs are in memory."""

    async def statuses(self, job_ids: object) -> dict[bytes, Any]:
        return {}


async def until(holds: Callable[[], bool]) -> None:
    """Let the loop turn until it holds."""
    for _ in range(TURNS_MAX):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


WANTED = {
    *(f"a child {status}" for status in ("scheduled", "processing", *FINAL)),
    *("one more parent", "again", "died between", "block: waits for one that failed"),
}


def run(examples: int, steps: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    run_machine(type("Machine", (GraphMachine,), {"seen": seen}), examples, steps)
    return seen


def what_is_rare(machine: GraphMachine) -> None:
    """Every policy over the end of its parent, well or not, with a death between."""
    machine.begin()
    root: tuple[bool, dict[int, OnFailure]] = (True, {})

    def do(name: str, **args: Any) -> None:
        machine.do(Call(name, args))

    for well in (True, False):
        for policy in POLICIES:
            do("submit", shape=[(False, {}), (True, {1: policy}), (False, {1: policy})])
            do("die_after_the_end", pick=-1, well=well)
    do("submit", shape=[root, root, (False, {1: "block"})])
    do("add_parent", pick=-1, parent=-2, policy="block")
    do("end", pick=-1, well=True)
    do("end", pick=-1, well=False)
    do("run_again", pick=-1)
    do("end", pick=-1, well=True)
    do("end", pick=-1, well=False)
    for well in (True, False):
        do("submit", shape=[root, (False, {1: "block"})])
        do("end", pick=-1, well=well)
        do("end", pick=-1, well=True)
    do("cancel", pick=-1)
    machine.teardown()


def test_children_start_when_their_edges_say() -> None:
    seen = run(examples=25, steps=30)
    what_is_rare(type("Machine", (GraphMachine,), {"seen": seen})())
    assert not {what for what in WANTED if not seen[what]}, seen


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_children_start_when_their_edges_say_at_length() -> None:
    run(examples=2_000, steps=50)
