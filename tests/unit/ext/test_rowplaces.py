"""Places of rows: the compiled reader against its plain twin."""

from struct import pack
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge_server.ext import rowplaces
from taskforge_server.ext.pure import rowplaces as pure

LSN_COLUMN = 2
ids = st.binary(min_size=16, max_size=16)
texts = st.none() | st.binary(max_size=5)


def row(job_id: bytes, text: bytes | None, lsn: int, last: bytes | None) -> bytes:
    return pack(">h", 4) + cell(job_id) + cell(text) + cell(pack(">q", lsn)) + cell(last)


def cell(value: bytes | None) -> bytes:
    return pack(">i", -1) if value is None else pack(">i", len(value)) + value


rows = st.builds(row, ids, texts, st.integers(0, 2**63 - 1), texts)


@given(st.lists(st.lists(rows, max_size=4).map(b"".join), max_size=4))
def test_both_find_the_same_places(parts: list[bytes]) -> None:
    assert rowplaces.row_places(parts, LSN_COLUMN) == pure.row_places(parts, LSN_COLUMN)


@pytest.mark.parametrize("impl", [pure, rowplaces], ids=["pure", "compiled"])
class TestPlaces:
    def test_are_ids_in_their_order_and_the_greatest_lsn_of_each_shard(
        self, impl: ModuleType
    ) -> None:
        ids = [bytes([number * 17 % 40]) * 6 + b"\x70\2" * 5 for number in range(40)]
        others = [b"\1" * 6 + b"\x7f\xff" + bytes([number]) * 8 for number in range(4)]
        parts = [row(job_id, b"x", number, None) for number, job_id in enumerate(ids)]
        parts += [row(job_id, b"x", 9 - number, None) for number, job_id in enumerate(others)]
        found = impl.row_places(parts, LSN_COLUMN)
        assert found is not None
        joined, lsns, *bounds = found
        assert joined == b"".join(ids + others)
        assert {shard: lsn for shard, lsn in enumerate(lsns) if lsn} == {2: 39, 4095: 9}
        assert bounds == [min(ids), max(ids)]

    def test_of_no_row(self, impl: ModuleType) -> None:
        assert impl.row_places([], LSN_COLUMN) is None

    def test_an_id_that_comes_twice(self, impl: ModuleType) -> None:
        one, other = row(b"a" * 16, None, 1, b"x"), row(b"b" * 16, None, 1, b"x")
        assert impl.row_places([one + other, row(b"a" * 16, None, 2, None)], LSN_COLUMN) is None

    @pytest.mark.parametrize("cut", [1, 5, 30, 43])
    def test_rows_that_are_cut_are_refused(self, impl: ModuleType, cut: int) -> None:
        with pytest.raises(ValueError, match=r"row|columns|data"):
            impl.row_places([row(b"a" * 16, b"x", 1, b"y")[:cut]], LSN_COLUMN)
