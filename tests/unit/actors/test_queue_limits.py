"""Limits of queues between actors: who is served, who sleeps, and what wakes him."""

import asyncio

import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.actors.queue import QueueActor
from taskforge_server.engine.node.timer import QueueTimer
from tests.support.engine_parts import EngineParts, done

SECOND_US = 1_000_000


def changed(parts: EngineParts, queue: QueueActor, **settings: object) -> None:
    """The queue's row says something else, and its actor hears of it."""
    name = queue.ref.name
    other = EngineParts((2,)).queue(name, shard=2, **settings)
    ref = queue.ref
    queue.update(
        type(ref)(ref.id, ref.project_id, name, ref.priority, other.ref.settings, ref.shard)
    )
    parts.dispatcher.ready(queue)


async def test_a_completion_lets_the_next_one_start_in_the_same_commit() -> None:
    parts = EngineParts()
    queue = parts.queue("mail", max_concurrency=2)
    parts.submit(queue, 5)
    worker, outlet = parts.worker(["mail"])
    parts.settle()
    for ended in range(1, 4):
        tokens = outlet.tokens()
        assert len(tokens) == 1 + ended
        worker.handle([done(ended, tokens[ended - 1])])
        rows = len(parts.journal.bodies)
        parts.settle()
        assert len(parts.journal.bodies) == rows + 1, "a commit more than needed"
    assert len(outlet.tokens()) == 5


async def test_keys_begin_and_cease_to_matter_for_some_jobs_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who waits changes lanes in portions, others have their turn in between, and nobody of the
    queue starts before all are where the limits count them."""
    monkeypatch.setattr(limits, "REGROUP_LOOKS", 1_024)
    parts = EngineParts()
    queue = parts.queue("mail")
    for key in ("ada", "bob"):
        parts.submit(queue, 1_500, group_key=key)
    _, outlet = parts.worker(["mail"], credit=10)
    changed(parts, queue, max_concurrency_per_key=1)
    parts.submit(queue, group_key="cid")
    for _ in range(2):  # of three portions the change itself made the first
        parts.settle()
        assert queue.ready_jobs() == 0
        await asyncio.sleep(0)
    parts.settle()
    assert len(outlet.tokens()) == 3, "one of each key"
    changed(parts, queue)
    for _ in range(2):
        parts.settle()
        assert len(outlet.tokens()) == 3
        await asyncio.sleep(0)
    parts.settle()
    assert len(outlet.tokens()) == 10


async def test_a_queue_at_its_limit_is_asked_by_nobody() -> None:
    """Credit that comes free again is not offered to queues that could not use it."""
    parts = EngineParts((1, 2))
    held = parts.queue("held", max_concurrency=1)
    other = parts.queue("other", shard=2)
    parts.submit(held, 10)
    worker, outlet = parts.worker(["held", "other"], credit=3)
    parts.settle()
    assert held.ready_jobs() == 0
    asked = []
    held.assign = lambda worker, most: asked.append(most) or 0  # type: ignore[method-assign]
    for seq in range(1, 4):
        parts.submit(other)
        parts.settle()
        worker.handle([done(seq, outlet.tokens()[-1])])
        parts.settle()
    assert asked == []


async def test_every_way_in_which_a_job_ends_frees_its_slot() -> None:
    parts = EngineParts()
    queue = parts.queue("mail", max_concurrency=1, retry_policy={"base_delay": 60.0})
    parts.submit(queue, 6)
    worker, outlet = parts.worker(["mail"])
    parts.settle()
    error = b'{"type":"ValueError","message":"no"}'
    outcomes = [(0, b'"fine"'), (1, error), (1, b'{"retryable":false}')]
    for seq, (kind, data) in enumerate(outcomes, 1):
        worker.handle([done(seq, b"", (outlet.tokens()[-1], kind, data))])
        parts.settle()
        assert len(outlet.tokens()) == seq + 1
    parts.wait(60.0)  # the worker is lost with the fourth
    _, second = parts.worker(["mail"], worker_id=b"2" * 16)
    parts.settle()
    assert second.tokens()[-1][:16] == outlet.tokens()[-1][:16]
    assert parts.shards[1].table.counts(queue.index)[2] == 1


async def test_limits_of_keys_hold_and_nobody_waits_for_a_key_that_may_not() -> None:
    parts = EngineParts()
    queue = parts.queue("mail", max_concurrency_per_key=1)
    parts.submit(queue, 3, group_key="ada", payload=b'"ada"')
    parts.submit(queue, 2, group_key="bob", payload=b'"bob"')
    parts.submit(queue, 2, payload=b'"none"')
    worker, outlet = parts.worker(["mail"])
    parts.settle()
    assert sorted(outlet.payloads()) == [b'"ada"', b'"bob"', b'"none"', b'"none"']
    ada = outlet.tokens()[outlet.payloads().index(b'"ada"')]
    worker.handle([done(1, ada)])
    parts.settle()
    assert outlet.payloads()[4:] == [b'"ada"']


async def test_a_queue_without_tokens_is_woken_when_there_is_one() -> None:
    parts = EngineParts()
    queue = parts.queue("mail", rate={"per_s": 10, "burst": 2})
    parts.submit(queue, 5)
    _, outlet = parts.worker(["mail"])
    parts.settle()
    assert len(outlet.tokens()) == 2
    now_us = parts.clock.now_us()
    assert parts.wakes_us[-1] == now_us + SECOND_US // 10
    parts.clock.advance(0.1)
    parts.dispatcher.ready(queue)
    parts.settle()
    assert len(outlet.tokens()) == 3


async def test_settings_hold_at_once() -> None:
    parts = EngineParts()
    queue = parts.queue("mail", max_concurrency=1)
    parts.submit(queue, 9)
    worker, outlet = parts.worker(["mail"])
    parts.settle()
    changed(parts, queue, max_concurrency=3)
    parts.settle()
    assert len(outlet.tokens()) == 3
    changed(parts, queue, max_concurrency=2)
    worker.handle([done(1, outlet.tokens()[0])])
    parts.settle()
    assert len(outlet.tokens()) == 3, "two are running, and two may"
    changed(parts, queue)
    parts.settle()
    assert len(outlet.tokens()) == 9


async def test_completions_of_queues_without_limits_rouse_nobody() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    parts.submit(queue, 5)
    worker, outlet = parts.worker(["mail"], credit=2)
    parts.settle()
    worker.handle([done(1, outlet.tokens()[0])])
    assert not parts.shards[1].table.rousing


async def test_the_timer_marks_each_queue_once_at_its_earliest_time() -> None:
    parts = EngineParts()
    woken: list[str] = []
    told = asyncio.Event()

    def ready(queue: str) -> None:
        woken.append(queue)
        told.set()

    timer: QueueTimer[str] = QueueTimer(parts.clock, ready)
    now_us = parts.clock.now_us()
    timer.note("late", now_us + 3600 * SECOND_US)
    timer.note("one", now_us + 50 * SECOND_US)
    timer.note("one", now_us)
    timer.note("one", now_us + 10 * SECOND_US)
    await told.wait()
    assert woken == ["one"]
    assert len(timer) == 1
    timer.stop()
    assert limits.DUE_TIMER_S_MAX < 3600
