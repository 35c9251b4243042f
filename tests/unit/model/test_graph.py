"""Edges as options carry them, what an end means, levels and cycles."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge_server.engine.model.graph import (
    POLICIES,
    Edge,
    Parents,
    levels,
    packed,
    path_up,
    unpacked,
    verdict,
)
from taskforge_server.engine.model.job import JOB_STATUSES, UNFINISHED
from taskforge_server.engine.model.joboptions import JobOptions, pack_told, read_told
from taskforge_server.engine.shard.family import kept, parents_of, with_parents, without_parents

EDGES = st.lists(
    st.builds(Edge, st.binary(min_size=16, max_size=16), st.sampled_from(POLICIES), st.booleans()),
    max_size=20,
)


@given(EDGES)
def test_edges_come_back_as_they_were(edges: list[Edge]) -> None:
    assert unpacked(packed(edges)) == edges


@given(EDGES, st.integers(0, 2**60))
def test_what_stands_beside_the_parents_stays(edges: list[Edge], not_before_us: int) -> None:
    before = pack_told({"tags": ["a"], "more": JobOptions(ref="r", expires_us=7)})
    told = with_parents(before, edges, not_before_us)
    assert parents_of(told) == Parents(packed(edges), not_before_us)
    named, more = read_told(told)
    assert (named["tags"], more.ref, more.expires_us) == (["a"], "r", 7)
    assert named.get("waiting_on") == (sum(not edge.done for edge in edges) or None)
    assert without_parents(told) == before
    assert without_parents(with_parents(None, edges, 0)) == b""


def test_a_row_that_stays_is_told_so_once() -> None:
    told = kept(pack_told({"tags": ["a"]}))
    assert told is not None
    assert read_told(told).named == {"tags": ["a"], "keep": True}
    assert kept(told) is None


def test_what_an_end_means() -> None:
    for policy in POLICIES:
        assert verdict(policy, "succeeded") == "satisfied"
        for status in UNFINISHED:
            assert verdict(policy, status) == "open"
    bad = {"block": "open", "cancel": "cancel", "run_anyway": "satisfied"}
    for status in JOB_STATUSES[-2:]:
        assert {policy: verdict(policy, status) for policy in POLICIES} == bad
    gone = {"block": "gone", "cancel": "gone", "run_anyway": "satisfied"}
    assert {policy: verdict(policy, None) for policy in POLICIES} == gone


DAGS = st.integers(1, 12).flatmap(
    lambda n: st.tuples(*[st.sets(st.integers(0, max(0, k - 1)), max_size=k) for k in range(n)])
)


@given(DAGS, st.randoms(use_true_random=False))
def test_parents_stand_in_lower_levels(dag: tuple[set[int], ...], random: object) -> None:
    found, cycle = levels(dag)
    assert cycle == []
    assert sorted(place for level in found for place in level) == list(range(len(dag)))
    depth = {place: number for number, level in enumerate(found) for place in level}
    for place, parents in enumerate(dag):
        assert depth[place] == max((depth[parent] + 1 for parent in parents), default=0)


@given(DAGS, st.data())
def test_a_cycle_is_named(dag: tuple[set[int], ...], data: st.DataObject) -> None:
    n = len(dag)
    way = data.draw(st.permutations(range(n)))[: data.draw(st.integers(1, n))]
    parents = [set(of_job) for of_job in dag]
    for child, parent in zip(way, [*way[1:], way[0]], strict=True):
        parents[child].add(parent)
    _, cycle = levels(parents)
    assert len(cycle) >= 2
    assert cycle[0] == cycle[-1]
    for parent, child in pairwise(cycle):
        assert parent in parents[child]


def test_the_way_up_is_bounded() -> None:
    names = {b"c": [b"b", b"x"], b"b": [b"a"]}
    assert path_up([b"c"], b"a", names, 10) == [b"c", b"b", b"a"]
    assert path_up([b"c"], b"c", names, 10) == [b"c"]
    assert path_up([b"x"], b"a", names, 10) == []
    assert path_up([b"x", b"b"], b"a", names, 10) == [b"b", b"a"]
    with pytest.raises(ValueError, match="too many"):
        path_up([b"c"], b"z", names, 2)


def test_the_ways_of_many_parents_are_one_walk() -> None:
    looks = []

    class Parents(dict[bytes, list[bytes]]):
        def get(self, job_id: bytes, *_: object) -> list[bytes]:  # type: ignore[override]
            looks.append(job_id)
            return self[job_id]

    roots = [b"root %d" % number for number in range(100)]
    starts = [b"start %d" % number for number in range(100)]
    parents = Parents({start: [b"hub"] for start in starts} | {b"hub": roots})
    parents.update({root: [] for root in roots})
    assert path_up(starts, b"z", parents, 200) == []
    assert len(looks) == 201
    with pytest.raises(ValueError, match="too many"):
        path_up(starts, b"z", parents, 199)
