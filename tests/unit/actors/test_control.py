"""What people tell jobs that are there: running ones end in time or lose their lease, waiting ones
change, those that are too late never start."""

import asyncio
import dataclasses
import json
from typing import Any

import msgpack
import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.actors.commands import Requeue
from taskforge_server.engine.actors.control import (
    Cancel,
    CancelMany,
    Change,
    begun_anew,
    expire,
    tell_again,
)
from taskforge_server.engine.actors.queue import QueueActor
from taskforge_server.engine.actors.worker import WorkerActor
from taskforge_server.engine.errors import Conflict
from taskforge_server.engine.model.joboptions import JobOptions, pack_told, read_told
from taskforge_server.engine.shard.shard import Shard
from taskforge_server.ext.table import NEVER_US, ShardTable
from tests.support.engine_parts import EngineParts, KeptOutlet, done

FAILURE = json.dumps({"type": "E", "message": "m", "retryable": True}).encode()
GRACE_US = 2_000_000


def future() -> "asyncio.Future[Any]":
    return asyncio.get_running_loop().create_future()


def running(
    *features: str, **settings: Any
) -> tuple[EngineParts, QueueActor, WorkerActor, KeptOutlet]:
    parts = EngineParts()
    queue = parts.queue("mail", **settings)
    worker, outlet = parts.worker(["mail"], features=features)
    parts.submit(queue)
    parts.settle()
    return parts, queue, worker, outlet


async def cancel(
    parts: EngineParts, queue: QueueActor, token: bytes, grace_us: int = GRACE_US
) -> dict[str, Any]:
    reply = future()
    queue.handle([Cancel(token[:16], reply, grace_us)])
    parts.settle()
    job: dict[str, Any] = await reply
    return job


def status(parts: EngineParts, token: bytes) -> tuple[str, str | None]:
    job = parts.shards[1].table.get(token[:16])
    assert job is not None
    return job["status"], job["reason"]


# Running jobs


async def test_the_handler_is_told_when_the_wish_is_durable() -> None:
    parts, queue, _, outlet = running("cancel")
    (token,) = outlet.tokens()
    reply = future()
    queue.handle([Cancel(token[:16], reply, GRACE_US)])
    parts.journal.take()
    assert outlet.of(17) == []
    assert not reply.done()
    parts.settle()
    assert outlet.of(17) == [[17, token, 2_000]]
    job = await reply
    assert job["status"] == "processing"
    assert job["deadline_us"] == parts.clock.now_us() + GRACE_US
    assert read_told(job["options"]).more.cancel_us == parts.clock.now_us()


async def test_a_handler_that_ends_in_time_ends_the_job() -> None:
    for outcome in ((1, FAILURE), (2, None)):
        parts, queue, worker, outlet = running("cancel")
        (token,) = outlet.tokens()
        await cancel(parts, queue, token)
        worker.handle([done(1, b"", (token, *outcome))])
        parts.settle()
        assert status(parts, token) == ("cancelled", "cancelled")
        assert outlet.of(12) == [[12, 1, b""]]
        assert outlet.tokens() == [token], "it does not run again"


async def test_work_that_is_done_is_done() -> None:
    parts, queue, worker, outlet = running("cancel")
    (token,) = outlet.tokens()
    await cancel(parts, queue, token)
    worker.handle([done(1, token)])
    assert status(parts, token) == ("succeeded", None)


async def test_after_the_grace_the_lease_is_taken_away() -> None:
    parts, queue, worker, outlet = running()
    (token,) = outlet.tokens()
    await cancel(parts, queue, token)
    assert outlet.of(17) == [], "a worker that does not know the frame is not sent it"
    parts.wait(1.9)
    assert status(parts, token)[0] == "processing"
    parts.wait(0.2)
    parts.settle()
    assert status(parts, token) == ("cancelled", "cancelled")
    assert outlet.of(14) == [[14, token]]
    worker.handle([done(1, token)])
    parts.settle()
    assert outlet.of(12) == [[12, 1, token]], "too late"


async def test_the_shorter_of_two_times_counts() -> None:
    parts, queue, _, outlet = running("cancel", timeout=1.0)
    (token,) = outlet.tokens()
    first = await cancel(parts, queue, token)
    assert first["deadline_us"] == parts.clock.now_us() + 1_000_000, "that of the attempt"
    again = await cancel(parts, queue, token)
    assert (again["lsn"], len(outlet.of(17))) == (first["lsn"], 1), "nothing new was said"
    await cancel(parts, queue, token, 0)
    assert outlet.of(17)[-1] == [17, token, 0]
    parts.wait(limits.SWEEP_S)
    assert status(parts, token) == ("cancelled", "cancelled")


async def test_a_lost_worker_ends_a_cancelled_job() -> None:
    parts, queue, worker, outlet = running("cancel")
    (token,) = outlet.tokens()
    await cancel(parts, queue, token, 60_000_000)
    worker.detach()
    parts.wait(11.0)
    assert status(parts, token) == ("cancelled", "cancelled")


async def test_the_wish_outlives_the_node_and_the_connection() -> None:
    """From the log and from the rows alike: the deadline holds, and the worker is told again."""
    parts, queue, worker, outlet = running("cancel")
    (token,) = outlet.tokens()
    await cancel(parts, queue, token)
    parts.clock.advance(0.5)

    def told(shard: Shard) -> list[Any]:
        shard.marks.drain(shard.table)
        outlet.frames.clear()
        tell_again(shard, worker, parts.clock.now_us())
        assert shard.table.expired(parts.clock.now_us() + 1_500_000) == [token]
        return outlet.frames

    assert told(parts.shards[1]) == [[17, token, 1_500]]
    replayed, loaded = ShardTable(1, 7), ShardTable(1, 8)
    for _, lsn, body in parts.journal.bodies:
        replayed.replay(lsn, body)
    assert told(Shard(1, replayed, 2)) == [[17, token, 1_500]]
    projection = parts.shards[1].table.collect(10, NEVER_US)
    assert projection is not None
    loaded.load(b"".join(projection.jobs_copy))
    assert told(Shard(1, loaded, 2)) == [[17, token, 1_500]]
    worker.handle([done(1, token)])
    assert told_nothing(parts, worker, outlet)


def told_nothing(parts: EngineParts, worker: WorkerActor, outlet: KeptOutlet) -> bool:
    outlet.frames.clear()
    tell_again(parts.shards[1], worker, parts.clock.now_us())
    return outlet.frames == [] and parts.shards[1].cancels.jobs() == []


async def test_a_cancelled_job_that_runs_again_runs_in_peace() -> None:
    parts, queue, worker, outlet = running("cancel")
    (token,) = outlet.tokens()
    job = await cancel(parts, queue, token)
    worker.handle([done(1, b"", (token, 1, FAILURE))])
    parts.settle()
    again = future()
    queue.handle([Requeue(job, again)])
    parts.settle()
    second = outlet.tokens()[1]
    worker.handle([done(2, b"", (second, 1, FAILURE))])
    assert status(parts, second) == ("scheduled", None), "retried as its policy says"
    assert begun_anew(
        pack_told({"more": JobOptions(cancel_us=1, soft_timeout_s=2.0)})
    ) == pack_told({"more": JobOptions(soft_timeout_s=2.0)})


async def test_many_end_at_once() -> None:
    parts, queue, _, outlet = running("cancel")
    (token,) = outlet.tokens()
    parts.worker(["mail"], credit=0)
    waiting = parts.submit(queue, 3, job_type="other")
    parts.settle()
    ids = [waiting.result()[at : at + 16] for at in range(0, 48, 16)]
    reply = future()
    queue.handle([CancelMany([*ids, token[:16], b"x" * 16], GRACE_US, reply)])
    assert not reply.done()
    parts.settle()
    assert await reply == (3, 1)
    assert parts.counters.cancelled_jobs == 3


# A handler that needs longer


async def test_a_handler_puts_its_deadline_off() -> None:
    parts, _, worker, outlet = running(timeout=1.0)
    (token,) = outlet.tokens()
    parts.wait(0.8)
    worker.handle([msgpack.packb([8, token, 5_000])])
    assert outlet.of(18) == [], "not before it is durable"
    parts.settle()
    assert outlet.of(18) == [[18, token]]
    worker.handle([msgpack.packb([8, token, 100])])
    parts.wait(4.9)
    assert status(parts, token)[0] == "processing", "it is never brought forward"
    parts.wait(0.2)
    assert status(parts, token)[0] == "scheduled"
    worker.handle([msgpack.packb([8, token, 100])])
    assert outlet.of(14)[-1] == [14, token], "the lease is gone"


async def test_who_shall_end_gets_no_more_time_and_who_has_no_deadline_needs_none() -> None:
    parts, queue, worker, outlet = running("cancel")
    (token,) = outlet.tokens()
    worker.handle([msgpack.packb([8, token, 5_000])])
    assert parts.shards[1].table.expired(NEVER_US) == []
    await cancel(parts, queue, token)
    worker.handle([msgpack.packb([8, token, 60_000])])
    parts.wait(2.1)
    assert status(parts, token) == ("cancelled", "cancelled")


# Waiting jobs


async def test_a_waiting_job_gets_another_time_and_priority() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    reply = parts.submit(queue, 2)
    parts.settle()
    first, second = reply.result()[:16], reply.result()[16:]
    later = parts.clock.now_us() + 60_000_000
    changed, moved = future(), future()
    queue.handle([Change(second, changed, priority=9), Change(first, moved, due_us=later)])
    parts.settle()
    assert (await moved)["status"] == "scheduled"
    assert parts.due_us[-1] == later, "the timer knows"
    assert (await changed)["priority"] == 9
    again = future()
    queue.handle([Change(first, again, due_us=parts.clock.now_us())])
    _, outlet = parts.worker(["mail"])
    parts.settle()
    assert [token[:16] for token in outlet.tokens()] == [second, first]


async def test_what_does_not_wait_for_a_time_does_not_change() -> None:
    parts, queue, _, outlet = running()
    (token,) = outlet.tokens()
    held = parts.submit(queue, due_us=NEVER_US)
    dying = parts.submit(queue, due_us=1, more=JobOptions(expires_us=NEVER_US - 1))
    parts.settle()
    for change in (
        Change(token[:16], future(), priority=1),
        Change(held.result(), future(), due_us=1),
        Change(dying.result(), future(), due_us=NEVER_US - 1),
    ):
        queue.handle([change])
        with pytest.raises(Conflict) as refused:
            await change.reply  # type: ignore[misc]
        assert refused.value.code == "job_not_changeable"


async def test_nothing_of_a_paused_queue_starts() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    _, outlet = parts.worker(["mail"])
    ref = queue.ref
    queue.update(dataclasses.replace(ref, paused=True))
    parts.submit(queue)
    parts.settle()
    assert outlet.tokens() == []
    queue.update(ref)
    parts.dispatcher.ready(queue)
    parts.settle()
    assert len(outlet.tokens()) == 1


# Jobs that are too late


async def test_what_was_not_started_in_time_never_starts() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    expires_us = parts.clock.now_us() + 1_000_000
    late = parts.submit(queue, 2, more=JobOptions(expires_us=expires_us))
    plain = parts.submit(queue)
    assert parts.due_us[-1] == expires_us, "the timer knows"
    parts.settle()
    parts.clock.advance(1.0)
    _, outlet = parts.worker(["mail"])
    parts.settle()
    assert [token[:16] for token in outlet.tokens()] == [plain.result()]
    for job_id in (late.result()[:16], late.result()[16:]):
        assert status(parts, job_id) == ("cancelled", "expired")
    assert parts.counters.cancelled_jobs == 2


async def test_what_was_started_in_time_goes_on_and_is_retried() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    worker, outlet = parts.worker(["mail"])
    parts.submit(queue, more=JobOptions(expires_us=parts.clock.now_us() + 1))
    parts.settle()
    (token,) = outlet.tokens()
    worker.handle([done(1, b"", (token, 1, FAILURE))])
    parts.clock.advance(1.0)
    assert expire(parts.shards[1], parts.clock.now_us(), parts.counters) == 0
    assert status(parts, token) == ("scheduled", None)


async def test_a_job_that_runs_again_does_not_expire_as_it_once_would_have() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    expires_us = parts.clock.now_us() + 1_000_000
    reply = parts.submit(queue, more=JobOptions(expires_us=expires_us))
    parts.settle()
    job = await cancel(parts, queue, reply.result())
    queue.handle([Requeue(job, future())])
    parts.settle()
    parts.clock.advance(2.0)
    assert expire(parts.shards[1], parts.clock.now_us(), parts.counters) == 0
    assert status(parts, reply.result()) == ("pending", None)


async def test_a_retry_is_put_off_whenever_the_job_would_have_expired() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    worker, outlet = parts.worker(["mail"])
    parts.submit(queue, more=JobOptions(expires_us=parts.clock.now_us() + 1))
    parts.settle()
    (token,) = outlet.tokens()
    worker.handle([done(1, b"", (token, 1, FAILURE))])
    parts.clock.advance(1.0)
    moved = future()
    queue.handle([Change(token[:16], moved, due_us=parts.clock.now_us())])
    parts.settle()
    assert (await moved)["status"] == "pending", "it was started in time, and runs again at once"


async def test_a_herd_expires_in_bounded_sweeps_and_none_of_it_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "EXPIRE_JOBS_MAX", 2)
    parts = EngineParts()
    queue = parts.queue("mail")
    parts.submit(queue, 5, more=JobOptions(expires_us=parts.clock.now_us() + 1))
    parts.settle()
    parts.clock.advance(1.0)
    _, outlet = parts.worker(["mail"])
    parts.settle()
    assert parts.counters.cancelled_jobs == 2
    while parts.shards[1].expiries.next_us:
        assert expire(parts.shards[1], parts.clock.now_us(), parts.counters) <= 2
    parts.settle()
    assert parts.counters.cancelled_jobs == 5
    assert outlet.tokens() == []
