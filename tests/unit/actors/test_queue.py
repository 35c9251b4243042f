"""A queue answers after the commit, each command for itself."""

import asyncio
from typing import Any

import msgpack
import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.actors.commands import Requeue, Submit
from taskforge_server.engine.actors.control import Cancel
from taskforge_server.engine.errors import (
    Conflict,
    InternalError,
    KeyConflict,
    NotFound,
    Unavailable,
)
from taskforge_server.engine.shard.keys import KeyedRequest
from taskforge_server.ext.table import SubmitBatch
from tests.support.engine_parts import EngineParts, done


def future() -> "asyncio.Future[Any]":
    return asyncio.get_running_loop().create_future()


async def test_a_submit_is_answered_when_it_is_durable() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    reply = parts.submit(queue, 3)
    parts.journal.take()
    assert not reply.done()
    parts.journal.commit()
    assert len(await reply) == 48
    assert parts.counters.submitted_jobs == 3


async def test_the_submit_of_a_caller_that_is_gone_is_not_made() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    gone = future()
    gone.cancel()
    batch = SubmitBatch()
    batch.add("send", b"{}")
    queue.handle([Submit(batch, None, gone)])
    assert queue.ready_jobs() == 0


async def test_submitted_and_started_share_a_commit_when_a_worker_waits() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    _, outlet = parts.worker(["mail"])
    tasks = [asyncio.create_task(parts.dispatcher.run()), asyncio.create_task(queue.run())]
    reply = future()
    batch = SubmitBatch()
    batch.add("send", b'{"to":1}')
    await asyncio.sleep(0)
    assert queue.mailbox.try_send(Submit(batch, None, reply))
    await asyncio.sleep(0)  # the queue's turn: it wakes the dispatcher first, then the journal
    assert parts.journal.waiting
    await asyncio.sleep(0)  # the dispatcher's turn, and after it would come the journal's
    assert parts.journal.commit() == 1
    assert reply.done()
    assert outlet.payloads() == [b'{"to":1}']
    for task in tasks:
        task.cancel()


async def test_a_repeated_key_gives_the_first_answer_once_that_is_durable() -> None:
    parts = EngineParts((1, 2))
    queue, other = parts.queue("mail"), parts.queue("other", shard=2)
    request = KeyedRequest("k", b"hash")
    first = parts.submit(queue, 2, key=request)
    again = parts.submit(other, 2, key=request)  # the key counts for the whole project
    assert not again.done()
    wrong = parts.submit(queue, 2, key=KeyedRequest("k", b"else"))
    with pytest.raises(KeyConflict):
        await wrong
    parts.settle()
    assert await first == await again
    assert parts.counters.submitted_jobs == 2


async def test_a_waiting_job_is_cancelled_and_one_that_ended_is_not() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    reply = parts.submit(queue, 2)
    parts.settle()
    running, waiting = reply.result()[:16], reply.result()[16:]
    worker, outlet = parts.worker(["mail"], credit=1)
    parts.settle()
    worker.handle([msgpack.packb([2, 0]), done(1, outlet.tokens()[0])])
    first, second, unknown = future(), future(), future()
    queue.handle([Cancel(waiting, first), Cancel(running, second), Cancel(b"x" * 16, unknown)])
    assert not first.done()
    with pytest.raises(Conflict):
        await second
    with pytest.raises(NotFound):
        await unknown
    parts.settle()
    assert (await first)["status"] == "cancelled"
    assert parts.counters.cancelled_jobs == 1


async def test_a_cancelled_job_is_requeued_but_not_twice() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    reply = parts.submit(queue)
    parts.settle()
    job_id = reply.result()
    cancelled = future()
    queue.handle([Cancel(job_id, cancelled)])
    parts.settle()
    job = await cancelled
    once, twice = future(), future()
    queue.handle([Requeue(job, once), Requeue(job, twice)])
    with pytest.raises(Conflict):
        await twice
    parts.settle()
    assert (await once)["status"] == "pending"
    assert queue.ready_jobs() == 1


async def test_a_lost_shard_refuses_and_closing_refuses_what_waits() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    parts.shards[1].on_fenced()
    with pytest.raises(Unavailable):
        await parts.submit(queue)
    batch = SubmitBatch()
    batch.add("send", b"{}")
    reply = future()
    queue.mailbox.try_send(Submit(batch, None, reply))
    queue.close()
    with pytest.raises(Unavailable):
        await reply


async def test_an_unexpected_error_is_answered_and_goes_on_to_the_supervisor() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    batch = SubmitBatch()
    batch.add("send", b"{}")
    good, bad = future(), future()
    with pytest.raises(AttributeError):
        queue.handle([Submit(None, None, bad), Submit(batch, None, good)])  # type: ignore[arg-type]
    with pytest.raises(InternalError):
        await bad
    parts.settle()
    assert good.done()


async def test_a_delayed_job_sets_the_timer() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    due_us = parts.clock.now_us() + 5_000_000
    parts.submit(queue, due_us=due_us)
    assert parts.due_us == [due_us]
    assert queue.ready_jobs() == 0
    parts.clock.advance(5)
    parts.due()
    assert queue.ready_jobs() == 1


async def test_the_wait_for_the_start_is_measured() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    parts.submit(queue)
    parts.clock.advance(0.004)
    parts.worker(["mail"])
    parts.settle()
    assert dict(parts.counters.start_latency_s.cumulative())["0.005"] == 1
    assert dict(parts.counters.start_latency_s.cumulative())["0.002"] == 0


async def test_while_tenants_share_the_log_submits_come_in_portions() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    parts.journal.crowded = True
    task = asyncio.create_task(queue.run())
    replies = []
    for _ in range(6):
        batch = SubmitBatch()
        for _ in range(limits.GATHER_EVENTS_MAX // 2):
            batch.add("send", b"{}")
        replies.append(future())
        await queue.mailbox.send(Submit(batch, None, replies[-1]))
    sizes = []
    for _ in range(3):
        for _ in range(5):
            await asyncio.sleep(0)
        sizes.append(queue.shard.gathered_events)
        parts.journal.commit()
    assert sizes == [limits.GATHER_EVENTS_MAX] * 3
    assert all(reply.done() for reply in replies)
    task.cancel()


async def test_what_is_held_back_is_refused_when_the_shard_is_given_up() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    parts.submit(queue, limits.GATHER_EVENTS_MAX)
    parts.journal.crowded = True
    task = asyncio.create_task(queue.run())
    batch = SubmitBatch()
    batch.add("send", b"{}")
    reply = future()
    await queue.mailbox.send(Submit(batch, None, reply))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not len(queue.mailbox)
    assert not reply.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    queue.close()
    assert isinstance(reply.exception(), Unavailable)
