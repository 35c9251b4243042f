"""Jobs are divided by weight: exactly over time, whoever cannot take something for a while."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from taskforge_server.engine import limits
from taskforge_server.engine.actors.shares import Shares


def test_single_jobs_go_round_in_proportion() -> None:
    shares: Shares[str] = Shares()
    shares.put("a", 3)
    shares.put("b", 1)
    seen = []
    for _ in range(8):
        share = shares.in_turn()[0]
        shares.given(share, 1)
        seen.append(share.worker)
    assert Counter(seen) == {"a": 6, "b": 2}
    assert Counter(seen[:4]) == {"a": 3, "b": 1}


def test_a_chunk_is_the_workers_part_of_what_is_there() -> None:
    shares: Shares[str] = Shares()
    shares.put("a", 3)
    shares.put("b", 1)
    parts = {share.worker: shares.portion(share, 100) for share in shares.in_turn()}
    assert parts == {"a": 75, "b": 25}
    assert {shares.portion(share, 1) for share in shares.in_turn()} == {1}
    assert {shares.portion(share, 10**9) for share in shares.in_turn()} == {limits.ASSIGN_JOBS_MAX}
    shares.put("a", 1)
    assert {shares.portion(share, 100) for share in shares.in_turn()} == {50}
    shares.remove("b")
    assert [shares.portion(share, 100) for share in shares.in_turn()] == [100]


def test_who_was_away_catches_up_by_a_chunk_and_who_is_new_begins_with_the_others() -> None:
    shares: Shares[str] = Shares()
    shares.put("here", 1)
    shares.put("away", 1)
    for _ in range(100):
        here = next(share for share in shares.in_turn() if share.worker == "here")
        shares.given(here, 100)
    caught_up = 0
    while (share := shares.in_turn()[0]).worker == "away":
        shares.given(share, 1)
        caught_up += 1
    assert caught_up <= limits.CATCH_UP_JOBS
    shares.put("new", 1)
    seen: Counter[str] = Counter()
    for _ in range(300):
        share = shares.in_turn()[0]
        shares.given(share, 1)
        seen[share.worker] += 1
    assert max(seen.values()) - min(seen.values()) <= 200


@given(
    st.lists(st.integers(1, limits.ASSIGNMENT_WEIGHT_MAX), min_size=1, max_size=8),
    st.lists(st.integers(1, 5_000), min_size=1, max_size=60),
)
def test_parts_are_never_further_off_than_one_chunk(weights: list[int], loads: list[int]) -> None:
    shares: Shares[int] = Shares()
    for worker, weight in enumerate(weights):
        shares.put(worker, weight)
    got = [0] * len(weights)
    for load in loads:
        left = load
        while left:
            share = shares.in_turn()[0]
            jobs = min(left, shares.portion(share, load))
            shares.given(share, jobs)
            got[share.worker] += jobs
            left -= jobs
    for worker, weight in enumerate(weights):
        due = sum(loads) * weight / sum(weights)
        assert abs(got[worker] - due) <= limits.ASSIGN_JOBS_MAX * len(weights)
