"""A shared bound: whoever comes finds room, and nobody uses it up for all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge_server.engine.errors import ShareUsedUp
from taskforge_server.engine.shard.shared import SharedBound

ONE, TWO, THREE = b"1", b"2", b"3"


def test_a_tenant_alone_has_half_and_the_next_one_half_of_the_rest() -> None:
    bound = SharedBound("chairs", 100)
    bound.require(ONE, 50)
    bound.add(ONE, 50)
    with pytest.raises(ShareUsedUp, match=r"1 more chairs.* has 50, .* 50 of 100") as refused:
        bound.require(ONE)
    assert refused.value.code == "share_used_up"
    bound.add(TWO, 25)
    assert [bound.room(each) for each in (ONE, TWO, THREE)] == [-13, 0, 12]


def test_what_is_given_back_is_there_for_all() -> None:
    bound = SharedBound("chairs", 10)
    bound.add(ONE, 5)
    bound.remove(ONE, 4)
    assert (bound.used, bound.room(ONE), bound.room(TWO)) == (1, 4, 4)


@given(st.lists(st.tuples(st.sampled_from([ONE, TWO, THREE]), st.integers(1, 40))))
def test_the_bound_holds_and_some_of_it_is_always_left(asks: list[tuple[bytes, int]]) -> None:
    bound = SharedBound("chairs", 1_000)
    for tenant, count in asks:
        if count <= bound.room(tenant):
            bound.add(tenant, count)
    assert bound.used <= 875, "of 1,000 three may have 500, 250 and 125"
    assert bound.room(b"new") >= 62
