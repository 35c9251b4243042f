"""What an open job can be told: held, changed, snoozed, stopped, marked, kept."""

from types import ModuleType

import msgpack
import pytest

from taskforge_server.ext.pure.tablelog import NEVER_US
from tests.support.table_bench import ERROR, NOW_US, Bench

LATE_US = NOW_US + 3_600_000_000
MORE = b'{"a":1}'


def told(**options: object) -> bytes:
    packed: bytes = msgpack.packb(options)
    return packed


def test_a_held_job_waits_until_it_is_changed(bench: Bench) -> None:
    (job_id,) = bench.submit({"due_us": NEVER_US, "options": told(waiting_on=2)})
    assert bench.table.next_due_us() == 0
    assert bench.table.due(NEVER_US - 1, 10) == (0, [])
    assert bench.start() == []
    assert bench.table.change(job_id, NOW_US, due_us=NOW_US, options=b"")
    assert bench.table.get(job_id)["options"] is None
    assert [token[:16] for token in bench.start()] == [job_id]


def test_what_waits_is_put_off_brought_on_and_put_forward(bench: Bench) -> None:
    first, second = bench.submit({}, {})
    assert bench.table.change(first, NOW_US, due_us=LATE_US, payload=b"[2]")
    assert (bench.table.counts(0), bench.table.next_due_us()) == ((1, 1, 0), LATE_US)
    assert bench.table.change(first, NOW_US, priority=9)
    assert bench.table.get(first)["status"] == "scheduled"
    assert bench.table.change(first, NOW_US, due_us=0)
    assert bench.table.get(first)["payload"] == b"[2]"
    assert [token[:16] for token in bench.start()] == [first, second]


def test_of_what_runs_only_deadline_and_options_change(bench: Bench) -> None:
    token = bench.running()
    job_id = token[:16]
    for wrong in ({"priority": 1}, {"due_us": NOW_US}, {"payload": b"1"}):
        with pytest.raises(bench.impl.TransitionError, match=r"is processing.*changed"):
            bench.table.change(job_id, NOW_US, **wrong)
    assert bench.table.change(job_id, NOW_US, deadline_us=NOW_US + 5, options=told(more=MORE))
    assert (bench.table.expired(NOW_US + 4), bench.table.expired(NOW_US + 5)) == ([], [token])
    assert bench.table.change(job_id, NOW_US, deadline_us=0)
    assert bench.table.expired(NEVER_US) == []


def test_what_is_not_there_or_over_does_not_change(bench: Bench) -> None:
    token = bench.running()
    assert not bench.table.change(bytes(16), NOW_US, priority=1)
    (waiting,) = bench.submit({})
    with pytest.raises(bench.impl.TransitionError, match=r"is pending.*changed"):
        bench.table.change(waiting, NOW_US, deadline_us=NOW_US)
    bench.table.succeed(token, NOW_US)
    with pytest.raises(bench.impl.TransitionError, match=r"is succeeded.*changed"):
        bench.table.change(token[:16], NOW_US, options=b"")
    for wrong in ({"due_us": NEVER_US + 1}, {"priority": 10}, {"payload": b""}):
        with pytest.raises(ValueError, match="not within"):
            bench.table.change(waiting, NOW_US, **wrong)


def test_a_snooze_is_a_return_with_a_time(bench: Bench) -> None:
    token = bench.running()
    assert bench.table.returned(token, ERROR, NOW_US, LATE_US)
    job = bench.job(token)
    assert (job["status"], job["due_us"], job["returns"], job["crashes"]) == (
        ("scheduled", LATE_US, 1, 0)
    )
    unpacker = msgpack.Unpacker()
    unpacker.feed(bench.commit()[5:])
    assert [*unpacker][-1][0:1] == [11]


def test_a_running_job_is_stopped(bench: Bench) -> None:
    token = bench.running()
    assert bench.table.stopped(token, "cancelled", ERROR, NOW_US + 5)
    job = bench.job(token)
    assert (job["status"], job["reason"], job["output"]) == ("cancelled", "cancelled", ERROR)
    assert (job["finished_us"], bench.table.counts(0)) == (NOW_US + 5, (0, 0, 0))
    (execution,) = bench.table.executions(token[:16])
    assert (execution["status"], execution["error"]) == ("failed", ERROR)
    assert not bench.table.stopped(token, "cancelled", ERROR, NOW_US + 6)


def test_the_log_tells_all_of_it_again(bench: Bench) -> None:
    held, plain = bench.submit({"due_us": NEVER_US}, {"options": told(tags=["t"])})
    bench.start(most=1)
    bodies = [bench.commit()]
    bench.table.change(held, NOW_US, due_us=LATE_US, priority=3, options=told(more=MORE))
    bench.table.returned(bench.table.running(0)[0], ERROR, NOW_US, LATE_US)
    bench.table.change(plain, NOW_US + 1, due_us=NOW_US, payload=b"3", options=b"")
    bodies.append(bench.commit())
    bench.start(most=1)
    bench.table.stopped(bench.table.running(0)[0], "why", ERROR, NOW_US)
    bodies.append(bench.commit())
    twin = Bench(bench.impl)
    assert [twin.table.replay(lsn, body) for lsn, body in enumerate(bodies, 1)] == [3, 3, 2]
    assert twin.table.snapshot() == bench.table.snapshot()
    assert twin.table.take_marked() == [(held, told(more=MORE))]


def test_the_frame_of_a_job_holds_what_it_is_told(impl: ModuleType) -> None:
    bench = Bench(impl)
    bench.submit({"options": told(tags=["a"])}, {"options": told(tags=["b"], more=MORE)})
    frame, _ = bench.table.start(0, None, bench.table.worker(b"w" * 16), 10, NOW_US)
    extras = msgpack.unpackb(frame, strict_map_key=False)[6]
    assert [*extras] == [1], "one that is told nothing has none"
    assert extras[1]["more"] == MORE


def test_a_queue_has_a_soft_timeout(bench: Bench) -> None:
    index = bench.table.queue(b"z" * 16, b"p" * 16, "soft", 0, 2, 1500)
    bench.submit({}, queue=index)
    frame, _ = bench.table.start(index, None, bench.table.worker(b"w" * 16), 10, NOW_US)
    assert msgpack.unpackb(frame, strict_map_key=False)[6][0]["soft_timeout_ms"] == 1500


def test_the_row_of_a_kept_job_stays(impl: ModuleType) -> None:
    bench = Bench(impl)
    index = bench.table.queue(b"z" * 16, b"p" * 16, "none", 0, 0)
    bench.submit({"options": told(keep=True)}, {}, queue=index)
    frame, _ = bench.table.start(index, None, bench.table.worker(b"w" * 16), 10, NOW_US)
    bench.table.succeed(msgpack.unpackb(frame, strict_map_key=False)[4], NOW_US)
    assert bench.project().jobs_copy_rows == 1
