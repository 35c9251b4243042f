"""Ids, compiled and plain: their layout, their order, and that both give the same ones."""

import uuid
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge_server.ext import ids as compiled
from taskforge_server.ext.pure import ids as plain

NOW_US = 1_700_000_000_123_456
COUNTER_MAX = 2**20 - 1
TIME_US_MAX = (2**48 - 1) * 1000 + 999

shards = st.integers(0, 4095)
seeds = st.integers(-(2**70), 2**70)
times_us = st.one_of(
    st.integers(NOW_US, NOW_US + 3_000), st.integers(0, TIME_US_MAX), st.integers(-(2**63), -1)
)
raw_ids = st.binary(min_size=16, max_size=16)


@pytest.fixture(scope="module", params=[compiled, plain], ids=["compiled", "plain"])
def ids(request: pytest.FixtureRequest) -> Any:
    return request.param


def parts(id: bytes) -> tuple[int, int, int, int]:
    """Milliseconds, shard, counter and random bits of an id; its fixed bits are checked."""
    number = uuid.UUID(bytes=id)
    assert number.version == 7
    assert number.variant == uuid.RFC_4122
    value = number.int
    return value >> 80, value >> 64 & 0xFFF, value >> 42 & COUNTER_MAX, value & (2**42 - 1)


class TestIdSource:
    @given(shards, seeds, st.lists(times_us, min_size=1, max_size=50))
    def test_grows_whatever_the_clock_does(
        self, ids: ModuleType, shard: int, seed: int, clock: list[int]
    ) -> None:
        source = ids.IdSource(shard, seed)
        given_ids = [source.next(now_us) for now_us in clock]
        assert given_ids == sorted(set(given_ids))
        latest_us = 0
        for id, now_us in zip(given_ids, clock, strict=True):
            latest_us = max(latest_us, now_us)
            assert parts(id)[:2] == (latest_us // 1000, shard)

    def test_the_counter_starts_anew_in_each_millisecond(self, ids: ModuleType) -> None:
        source = ids.IdSource(7, 1)
        counters = [parts(source.next(NOW_US + step))[2] for step in (0, 1, 2, 1_000, 1_001)]
        assert counters == [0, 1, 2, 0, 1]

    def test_a_full_counter_carries_into_the_milliseconds(self, ids: ModuleType) -> None:
        source = ids.IdSource(4095, 1)
        time_ms = NOW_US // 1000
        source.see(
            (time_ms << 80 | 7 << 76 | 4095 << 64 | 2 << 62 | COUNTER_MAX << 42).to_bytes(16)
        )
        assert [parts(source.next(NOW_US))[:3] for _ in range(2)] == [
            (time_ms + 1, 4095, 0),
            (time_ms + 1, 4095, 1),
        ]
        assert parts(source.next(NOW_US + 2_000))[:3] == (time_ms + 2, 4095, 0)

    @given(shards, st.lists(st.tuples(times_us, st.integers(1, 4)), max_size=6), times_us)
    def test_stays_above_what_it_saw(
        self, ids: ModuleType, shard: int, runs: list[tuple[int, int]], now_us: int
    ) -> None:
        source, seen = ids.IdSource(shard, 1), []
        for seed, (time_us, count) in enumerate(runs):
            other = ids.IdSource(shard, seed)
            seen += [other.next(time_us) for _ in range(count)]
        for id in seen:
            source.see(id)
        assert source.next(now_us) > max(seen, default=b"")

    def test_refuses_ids_of_other_shards(self, ids: ModuleType) -> None:
        with pytest.raises(ValueError, match="of shard 2, not of 1"):
            ids.IdSource(1, 0).see(ids.IdSource(2, 0).next(NOW_US))
        with pytest.raises(ValueError, match="16 bytes, not 3"):
            ids.IdSource(1, 0).see(b"abc")

    @pytest.mark.parametrize("shard", [-1, 4096])
    def test_refuses_shards_beyond_the_greatest(self, ids: ModuleType, shard: int) -> None:
        with pytest.raises(ValueError, match="is not in 0 … 4095"):
            ids.IdSource(shard, 0)

    def test_the_random_bits_come_from_the_seed(self, ids: ModuleType) -> None:
        def run(seed: int) -> list[bytes]:
            source = ids.IdSource(1, seed)
            return [source.next(NOW_US) for _ in range(100)]

        assert run(5) == run(5)
        assert len({parts(id)[3] for id in run(5) + run(6)}) == 200


class TestExecutionId:
    @given(raw_ids, st.integers(1, 2**31 - 1), st.integers(0, TIME_US_MAX))
    def test_is_a_function_of_job_and_attempt(
        self, ids: ModuleType, job_id: bytes, attempt: int, started_us: int
    ) -> None:
        id = ids.execution_id(job_id, attempt, started_us)
        assert id == ids.execution_id(job_id, attempt, started_us)
        assert parts(id)[:2] == (started_us // 1000, ids.shard_of(job_id))
        assert id[8:] != ids.execution_id(job_id, attempt + 1, started_us)[8:]

    def test_differs_between_jobs_and_attempts(self, ids: ModuleType) -> None:
        source = ids.IdSource(1, 1)
        jobs = [source.next(NOW_US) for _ in range(300)]
        made = {ids.execution_id(job, attempt, NOW_US) for job in jobs for attempt in range(1, 31)}
        assert len(made) == 300 * 30


class TestText:
    @given(raw_ids)
    def test_there_and_back(self, ids: ModuleType, id: bytes) -> None:
        text = ids.uuid_text(id)
        assert text == str(uuid.UUID(bytes=id))
        for form in (text, text.upper(), text.replace("-", "")):
            assert ids.uuid_bytes(form) == id

    @given(raw_ids)
    def test_reads_the_shard(self, ids: ModuleType, id: bytes) -> None:
        number = int.from_bytes(id)
        assert ids.shard_of(id) == number >> 64 & 0xFFF

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "0" * 31,
            "0" * 33,
            "0" * 36,
            "g" * 32,
            "{" + "0" * 30 + "}",
            "00000000-0000-0000-0000-00000000000",
            "00000000-0000-0000-0000-00000000000\n",
            "00000000-0000-0000-0000-0000000000000",
            "00000000-0000-0000-00000-00000000000",
            "0000000-00000-0000-0000-000000000000",
            "00000000 0000 0000 0000 000000000000",
            "00000000-0000-0000-0000-00000000000é",
            "00000000-0000-0000-0000-0000000000é",
            "\u0660" * 32,
            "\ud800" * 32,
            "0" * 31 + "\0",
        ],
    )
    def test_refuses_other_text(self, ids: ModuleType, text: str) -> None:
        with pytest.raises(ValueError, match=r"UUID|surrogate"):
            ids.uuid_bytes(text)

    @given(st.text(alphabet="0aF-g", min_size=30, max_size=38))
    def test_accepts_nothing_that_is_not_a_uuid(self, ids: ModuleType, text: str) -> None:
        try:
            id = ids.uuid_bytes(text)
        except ValueError:
            return
        assert text.lower() in (id.hex(), str(uuid.UUID(bytes=id)))

    @pytest.mark.parametrize("id", [b"", b"x" * 15, b"x" * 17])
    def test_refuses_other_sizes(self, ids: ModuleType, id: bytes) -> None:
        for function in (ids.uuid_text, ids.shard_of):
            with pytest.raises(ValueError, match="an id has 16 bytes"):
                function(id)
        with pytest.raises(ValueError, match="an id has 16 bytes"):
            ids.execution_id(id, 1, NOW_US)


@given(shards, seeds, st.lists(times_us, max_size=50), st.integers(0, 2**64 - 1))
def test_both_give_the_same_ids(shard: int, seed: int, clock: list[int], attempt: int) -> None:
    one, other = compiled.IdSource(shard, seed), plain.IdSource(shard, seed)
    for now_us in clock:
        id = one.next(now_us)
        assert id == other.next(now_us)
        assert compiled.execution_id(id, attempt, now_us) == plain.execution_id(id, attempt, now_us)
