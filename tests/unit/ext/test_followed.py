"""What a log row says to followers: the compiled walk against its plain twin, and what it tells."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge_server.ext import followed as compiled_followed
from taskforge_server.ext import table as compiled
from taskforge_server.ext.pure import followed as pure_followed
from taskforge_server.ext.pure import table as pure
from tests.support.table_bench import ERROR, NOW_US, PROJECT, QUEUE, Bench

OTHER = b"o" * 16
NONE = b""


@pytest.fixture(params=[(pure, pure_followed), (compiled, compiled_followed)], ids=["pure", "c"])
def both(request: pytest.FixtureRequest) -> tuple[Bench, Any]:
    table, module = request.param
    return Bench(table), module.followed


def body_of(bench: Bench) -> bytes:
    lsn, _, body = bench.table.take_batch()
    bench.table.committed(lsn)
    return bytes(body)


def test_a_life_is_told_in_order_without_what_users_wrote(both: tuple[Bench, Any]) -> None:
    bench, followed = both
    (job,) = bench.submit({"payload": b'{"secret":1}', "options": b"\x80"})
    (token,) = bench.start()
    assert bench.table.retried(token, NOW_US + 5, ERROR, NOW_US + 2)
    base_us, told, over = followed(bench.table, body_of(bench), {QUEUE: 10}, NONE)
    assert over == {}
    assert [(queue, kind) for queue, kind, _ in told] == [(QUEUE, "mail")] * 3
    assert [fields[0] for _, _, fields in told] == [1, 2, 4]
    assert {fields[1] for _, _, fields in told} == {job}
    assert base_us + told[2][2][2] == NOW_US + 2
    assert told[2][2][3:] == [NOW_US + 5, None]
    assert b"secret" not in repr(told).encode()


def test_nobody_is_told_of_what_nobody_follows(both: tuple[Bench, Any]) -> None:
    bench, followed = both
    bench.submit({}, {})
    assert followed(bench.table, body_of(bench), {OTHER: 10}, OTHER)[1:] == ([], {})


def test_a_project_is_followed_by_its_id(both: tuple[Bench, Any]) -> None:
    bench, followed = both
    bench.submit({}, {})
    assert len(followed(bench.table, body_of(bench), {PROJECT: 10}, NONE)[1]) == 2


def test_beyond_its_room_a_queue_is_counted_but_a_followed_job_is_told(
    both: tuple[Bench, Any],
) -> None:
    bench, followed = both
    jobs = bench.submit({}, {}, {}, {})
    _, told, over = followed(bench.table, body_of(bench), {QUEUE: 1}, jobs[3])
    assert [fields[1] for _, _, fields in told] == [jobs[0], jobs[3]]
    assert over == {QUEUE: 2}
    bench.submit({})
    assert followed(bench.table, body_of(bench), {QUEUE: -5}, NONE)[2] == {QUEUE: 1}


def test_long_texts_were_written_by_users(both: tuple[Bench, Any]) -> None:
    bench, followed = both
    (job, other) = bench.submit({}, {})
    bench.table.cancelled(job, "x" * 300, NOW_US)
    bench.table.cancelled(other, "expired", NOW_US)
    _, told, _ = followed(bench.table, body_of(bench), {QUEUE: 10}, NONE)
    assert [fields[3] for _, _, fields in told[2:]] == [None, "expired"]


@given(
    moves=st.lists(st.integers(0, 4), max_size=12),
    room=st.integers(-1, 8),
    named=st.sets(st.integers(0, 5)),
)
def test_both_twins_tell_the_same(moves: list[int], room: int, named: set[int]) -> None:
    said = []
    for impl, module in ((compiled, compiled_followed), (pure, pure_followed)):
        bench = Bench(impl)
        jobs = bench.submit({}, {}, {})
        tokens: list[bytes] = []
        bench.table.keyed(PROJECT, "key", b"hash", jobs[0], NOW_US)
        for move in moves:
            if move == 0:
                jobs += bench.submit({"payload": b"[1,2,3]"})
            elif move == 1:
                tokens += bench.start(1)
            elif tokens:
                token = tokens.pop()
                if move == 2:
                    bench.table.succeed(token, NOW_US)
                elif move == 3:
                    bench.table.failed(token, "error", ERROR, NOW_US)
                else:
                    bench.table.released(token, ERROR, NOW_US)
        row = b"".join(sorted(jobs[n] for n in named if n < len(jobs)))
        said.append(module.followed(bench.table, body_of(bench), {QUEUE: room}, row))
    assert said[0] == said[1]
