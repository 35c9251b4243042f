"""Silence ends leases, deadlines end attempts, crashes end in quarantine."""

import json
import secrets

import msgpack
import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.errors import PermissionDenied
from tests.support.engine_parts import PROJECT, TTL_S, EngineParts, done


async def test_a_silent_worker_loses_its_jobs_to_others() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    worker, outlet = parts.worker(["mail"], worker_id=b"a" * 16)
    parts.submit(queue, 3)
    parts.settle()
    parts.wait(TTL_S - 0.1)
    assert outlet.closed is None
    parts.clock.advance(0.1)
    _, other = parts.worker(["mail"], worker_id=b"b" * 16)
    parts.leases.sweep(parts.shards.values())
    parts.settle()
    assert outlet.closed is not None
    assert outlet.closed[0] == 1013
    assert [token[:16] for token in other.tokens()] == [token[:16] for token in outlet.tokens()]
    worker.handle([done(1, outlet.tokens()[0])])  # the session is over: nobody listens
    assert parts.counters.succeeded_jobs == 0
    assert parts.counters.crashed_attempts == 3


async def test_any_frame_and_any_heartbeat_extends_the_lease() -> None:
    parts = EngineParts()
    parts.queue("mail")
    worker, outlet = parts.worker(["mail"])
    for extend in (
        lambda: worker.handle([msgpack.packb([2, 5])]),
        lambda: parts.leases.heartbeat(b"w" * 16, PROJECT),
    ):
        parts.wait(TTL_S * 0.9)
        extend()
    parts.wait(TTL_S * 0.9)
    assert outlet.closed is None
    assert not parts.leases.heartbeat(b"w" * 16, b"o" * 16)
    assert not parts.leases.heartbeat(b"x" * 16, PROJECT)
    with pytest.raises(PermissionDenied):
        parts.leases.take(b"w" * 16, b"o" * 16)


async def test_a_job_that_takes_workers_down_is_quarantined() -> None:
    parts = EngineParts()
    queue = parts.queue("mail", crashes_max=3)
    parts.submit(queue)
    for _ in range(3):
        worker, outlet = parts.worker(["mail"], worker_id=secrets.token_bytes(16))
        parts.settle()
        worker.detach()
        parts.wait(TTL_S)
        parts.settle()
    job = parts.shards[1].table.get(outlet.tokens()[0][:16])
    assert job is not None
    assert (job["status"], job["reason"], job["attempt"]) == ("failed", "quarantined", 3)
    assert json.loads(job["output"])["type"] == "worker_lost"
    assert parts.counters.quarantined_jobs == 1


async def test_what_draining_workers_give_back_is_neither_a_crash_nor_a_failure() -> None:
    parts = EngineParts()
    queue = parts.queue("mail", crashes_max=3, retry_policy={"max_attempts": 2})
    parts.submit(queue)
    for seq in range(4):
        worker, outlet = parts.worker(["mail"], worker_id=secrets.token_bytes(16))
        parts.settle()
        (token,) = outlet.tokens()
        worker.handle([msgpack.packb([2, 0]), done(seq, b"", (token, 2, None))])
        parts.settle()
        worker.handle([msgpack.packb([5])])
    table = parts.shards[1].table
    job = table.get(token[:16])
    assert job is not None
    assert (job["status"], job["attempt"], job["crashes"]) == ("pending", 4, 0)
    assert json.loads(table.executions(token[:16])[0]["error"])["type"] == "given_back"
    worker, outlet = parts.worker(["mail"])
    parts.settle()
    (token,) = outlet.tokens()
    worker.handle([done(1, b"", (token, 1, b'{"type":"E","message":""}'))])
    job = table.get(token[:16])
    assert job is not None
    assert job["status"] == "scheduled"  # the first failure of two


async def test_an_attempt_past_its_deadline_counts_as_failed_and_its_handler_is_stopped() -> None:
    parts = EngineParts()
    queue = parts.queue("mail", timeout=2.0, retry_policy={"max_attempts": 2})
    worker, outlet = parts.worker(["mail"])
    parts.submit(queue)
    parts.settle()
    token = outlet.tokens()[0]
    parts.clock.advance(1.9)
    worker.handle([msgpack.packb([4])])
    parts.leases.sweep(parts.shards.values())
    assert worker.outstanding == 1
    parts.clock.advance(0.1)
    parts.leases.sweep(parts.shards.values())
    assert outlet.of(14) == []
    parts.journal.commit()
    assert outlet.of(14) == [[14, token]]
    assert worker.outstanding == 0
    job = parts.shards[1].table.get(token[:16])
    assert job is not None
    assert job["status"] == "scheduled"
    assert json.loads(job["output"])["type"] == "timeout"
    worker.handle([done(1, token)])
    parts.settle()
    assert outlet.of(12) == [[12, 1, token]]
    assert worker.outstanding == 0


async def test_a_herd_past_its_deadline_ends_in_bounded_sweeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "EXPIRE_JOBS_MAX", 2)
    parts = EngineParts(shards=(1, 2))
    for number in (1, 2):
        queue = parts.queue(f"mail{number}", shard=number, timeout=1.0)
        parts.worker([f"mail{number}"], worker_id=bytes([number]) * 16)
        parts.submit(queue, 3)
    parts.settle()
    parts.clock.advance(1.5)
    running = []
    for _ in range(3):
        parts.leases.sweep(parts.shards.values())
        running.append([shard.table.counts(0)[2] for shard in parts.shards.values()])
    assert running == [[3, 1], [1, 1], [0, 0]], "the shards take turns"


async def test_after_a_takeover_running_jobs_have_their_time_again() -> None:
    before = EngineParts()
    queue = before.queue("mail")
    before.worker(["mail"], worker_id=b"a" * 16, credit=1)
    before.worker(["mail"], worker_id=b"b" * 16, credit=1)
    before.submit(queue, 3)
    before.settle()
    after = EngineParts()
    for _, lsn, body in before.journal.bodies:
        after.shards[1].table.replay(lsn, body)
    again = after.queue("mail")
    assert after.leases.recover(after.shards[1]) == 2
    assert after.leases.heartbeat(b"a" * 16, PROJECT)
    after.wait(TTL_S - 0.1)
    after.leases.heartbeat(b"b" * 16, PROJECT)
    after.wait(0.2)
    assert again.ready_jobs() == 2  # the third, and that of the worker that did not come back


async def test_a_worker_that_is_there_before_its_shard_has_to_say_anew_what_it_runs() -> None:
    """A job that was sent to it and lost on the way would else be its own for ever."""
    before = EngineParts()
    queue = before.queue("mail")
    before.worker(["mail"], worker_id=b"a" * 16, credit=1)
    before.submit(queue, 1)
    before.settle()
    after = EngineParts()
    after.queue("mail")
    _, early = after.worker(["mail"], worker_id=b"a" * 16, credit=0)
    _, other = after.worker(["mail"], worker_id=b"b" * 16, credit=0)
    for _, lsn, body in before.journal.bodies:
        after.shards[1].table.replay(lsn, body)
    assert after.leases.recover(after.shards[1]) == 1
    assert early.closed is not None
    assert early.closed[0] == 4002
    assert other.closed is None


async def test_who_took_the_id_of_another_project_before_its_shard_came_has_to_go() -> None:
    """What the log says of a worker never keeps a shard from being taken."""
    before = EngineParts()
    queue = before.queue("mail")
    before.worker(["mail"], worker_id=b"a" * 16)
    before.submit(queue, 1)
    before.settle()
    after = EngineParts()
    after.queue("mail")
    _, early = after.worker(["mail"], worker_id=b"a" * 16, credit=0)
    after.leases.take(b"a" * 16, PROJECT).project_id = b"o" * 16
    for _, lsn, body in before.journal.bodies:
        after.shards[1].table.replay(lsn, body)
    assert after.leases.recover(after.shards[1]) == 1
    assert early.closed is not None
    assert after.leases.heartbeat(b"a" * 16, PROJECT)
    assert not after.leases.heartbeat(b"a" * 16, b"o" * 16)


async def test_a_node_that_was_held_up_does_not_blame_its_workers() -> None:
    parts = EngineParts()
    parts.queue("mail")
    _, outlet = parts.worker(["mail"])
    parts.wait(0.5)
    parts.clock.advance(5 * TTL_S)  # as by SIGSTOP: nobody was heard meanwhile
    parts.leases.sweep(parts.shards.values())
    assert outlet.closed is None
    parts.wait(TTL_S)
    assert outlet.closed is not None
