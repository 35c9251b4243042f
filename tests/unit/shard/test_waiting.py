"""Who waits for whom: a child is free when, and only when, each of its edges is satisfied."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from taskforge_server.engine.model.graph import POLICIES, Edge, OnFailure, Verdict
from taskforge_server.engine.model.job import JobStatus
from taskforge_server.engine.shard.edges import EdgeRow, ShardEdges
from taskforge_server.engine.shard.waiting import Waiting

PARENTS = [bytes([n]) * 16 for n in range(6)]
CHILDREN = [bytes([n]) * 16 for n in range(100, 105)]
ENDS: list[JobStatus | None] = ["succeeded", "failed", "cancelled", None]


class Model(RuleBasedStateMachine):
    """Beside it the plainest thing: all edges of each child, and every end that was told."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = Waiting()
        self.open: dict[bytes, dict[bytes, OnFailure]] = {}
        self.shards = [object(), object()]

    @rule(
        child=st.sampled_from(CHILDREN),
        edges=st.dictionaries(
            st.sampled_from(PARENTS), st.tuples(st.sampled_from(POLICIES), st.booleans())
        ),
        shard=st.sampled_from([0, 1]),
    )
    def wait(self, child: bytes, edges: dict[bytes, tuple[OnFailure, bool]], shard: int) -> None:
        told = [Edge(parent, policy, done) for parent, (policy, done) in edges.items()]
        new = self.waiting.wait(child, self.shards[shard], child[-1:], told)
        wanted = {edge.parent_id: edge.on_failure for edge in told if not edge.done}
        assert set(new) <= wanted.keys()
        self.open.pop(child, None)
        if wanted:
            self.open[child] = wanted

    @rule(parent=st.sampled_from(PARENTS), status=st.sampled_from([*ENDS, "processing"]))
    def ended(self, parent: bytes, status: JobStatus | None) -> None:
        expected: dict[bytes, Verdict] = {}
        for child, edges in self.open.items():
            policy = edges.get(parent)
            if policy is None or status == "processing":
                continue
            if status == "succeeded" or policy == "run_anyway":
                del edges[parent]
                if not edges:
                    expected[child] = "satisfied"
            elif status is None:
                expected[child] = "gone"
            elif policy == "cancel":
                expected[child] = "cancel"
        assert dict(self.waiting.ended(parent, status)) == expected
        for child in expected:
            self.waiting.forget(child)
            del self.open[child]

    @rule(child=st.sampled_from(CHILDREN))
    def forget(self, child: bytes) -> None:
        self.waiting.forget(child)
        self.open.pop(child, None)

    @rule(shard=st.sampled_from([0, 1]))
    def forget_shard(self, shard: int) -> None:
        gone = [c.id for c in self.waiting.children.values() if c.shard is self.shards[shard]]
        self.waiting.forget_shard(self.shards[shard])
        for child in gone:
            del self.open[child]

    @invariant()
    def both_sides_agree(self) -> None:
        children = {child.id: child.missing for child in self.waiting.children.values()}
        assert children == self.open
        by_parent: dict[bytes, set[bytes]] = {}
        for child, edges in self.open.items():
            for parent in edges:
                by_parent.setdefault(parent, set()).add(child)
        assert self.waiting.parents == by_parent
        assert self.waiting.edges.used == sum(map(len, self.open.values()))
        assert self.waiting.changed.keys() <= self.open.keys()


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_child_of_many_is_to_be_written_when_half_of_them_are_there() -> None:
    waiting = Waiting()
    parents = [n.to_bytes(16) for n in range(10_000)]
    waiting.wait(b"c" * 16, None, b"t", [Edge(parent, "block") for parent in parents])
    written = 0
    for parent in parents:
        free = waiting.ended(parent, "succeeded")
        if waiting.halved:
            child = waiting.children[b"c" * 16]
            written += len(child.missing)
            child.written = len(child.missing)
            waiting.halved.clear()
    assert free == [(b"c" * 16, "satisfied")]
    assert 5_000 < written < 10_000


@given(st.lists(st.tuples(st.integers(1, 3), st.booleans()), max_size=30))
def test_edges_go_with_the_watermark(steps: list[tuple[int, bool]]) -> None:
    edges = ShardEdges()
    told: list[EdgeRow] = []
    written: list[EdgeRow] = []
    flying: list[list[EdgeRow]] = []
    for lsn, (step, collect) in enumerate(steps, 1):
        rows = [EdgeRow(bytes(16), lsn.to_bytes(16), None, "block") for _ in range(step)]
        edges.note(lsn, rows)
        told += rows
        left = [row for row in told if row not in written]
        assert list(edges.of(bytes(16))) == left
        assert [edge for row in left for edge in edges.of(row.child_id)] == [
            other for row in left for other in left if other.child_id == row.child_id
        ]
        assert bool(edges) == bool(left)
        if collect:
            flying.append(edges.collect(lsn - 1))
            assert all(int.from_bytes(row.child_id) < lsn for row in flying[-1])
            if len(flying) > 1:
                written += flying.pop(0)
                edges.written()
