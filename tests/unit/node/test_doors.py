"""The path of a job through a whole node, on a log in memory."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.errors import (
    Conflict,
    KeyConflict,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    PermissionDenied,
    ShareUsedUp,
    Unavailable,
)
from taskforge_server.engine.journal.memory import MemoryShardLog
from taskforge_server.engine.limits import SWEEP_S
from taskforge_server.engine.model.queue import QueueRef, QueueSettings
from taskforge_server.engine.runtime.clock import VirtualClock
from taskforge_server.engine.shard.keys import KeyedRequest
from tests.support.engine_node import MEMORY_BYTES_MAX, MemoryNode, jobs
from tests.support.engine_parts import PROJECT, TTL_S, KeptOutlet, done

MAIL = QueueRef(b"m" * 16, PROJECT, "mail", 0, QueueSettings(), 1)
SLOW = QueueRef(
    b"s" * 16, PROJECT, "slow", 0, msgspec.convert({"crashes_max": 1}, QueueSettings), 2
)


async def until(holds: Callable[[], object]) -> None:
    """Let the loop turn until it holds."""
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


async def test_a_job_from_submit_to_its_end() -> None:
    async with MemoryNode(MemoryShardLog()) as node:
        worker, outlet = await node.worker(MAIL)
        assert outlet.frames[0][0] == 10
        before = node.log.appends
        ids = await node.doors.submit(MAIL, jobs(2))
        await until(lambda: len(outlet.tokens()) == 2)
        assert node.log.appends == before + 1, "submitted and started share one commit"
        assert b"".join(token[:16] for token in outlet.tokens()) == ids
        waiting = asyncio.create_task(node.doors.wait_finished(ids[:16], 60.0))
        await worker.receive([done(1, b"".join(outlet.tokens()))])
        await waiting
        assert outlet.of(12) == [[12, 1, b""]]
        found = await node.doors.job(ids[:16])
        assert found is not None
        job, executions = found
        assert job["status"] == "succeeded"
        assert [execution["status"] for execution in executions] == ["succeeded"]
        await node.doors.wait_finished(ids[:16], 60.0)  # it has ended: returns at once
        await node.doors.wait_finished(b"x" * 16, 60.0)  # not here: the tables know


async def test_nothing_is_shown_or_answered_before_it_is_durable() -> None:
    log = MemoryShardLog()
    async with MemoryNode(log) as node:
        log.gate.clear()
        submit = asyncio.create_task(node.doors.submit(MAIL, jobs()))
        await log.waiting.wait()
        snapshot = node.core.shards[1].table.snapshot()
        read = asyncio.create_task(node.doors.job(snapshot[0]["id"]))
        _, outlet = await node.worker(MAIL)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not submit.done()
        assert not read.done()
        assert outlet.of(11) == []
        log.gate.set()
        assert await submit == snapshot[0]["id"]
        assert await read is not None
        await until(lambda: outlet.of(11))


async def test_while_the_log_is_away_commands_have_an_unknown_outcome_and_reads_none() -> None:
    log = MemoryShardLog()
    async with MemoryNode(log) as node:
        log.gate.clear()
        submit = asyncio.create_task(node.doors.submit(MAIL, jobs()))
        await log.waiting.wait()
        snapshot = node.core.shards[1].table.snapshot()
        read = asyncio.create_task(node.doors.job(snapshot[0]["id"]))
        await asyncio.sleep(0)
        node.core.refuse_replies()
        with pytest.raises(OutcomeUnknown):
            await submit
        with pytest.raises(Unavailable):
            await read
        log.gate.set()
        assert await node.doors.job(snapshot[0]["id"]) is not None, "it was done"


async def test_what_a_broken_shard_had_on_its_way_is_in_doubt() -> None:
    log = MemoryShardLog()
    async with MemoryNode(log, refs=(MAIL,)) as node:
        log.gate.clear()
        flying = asyncio.create_task(node.doors.submit(MAIL, jobs()))
        await log.waiting.wait()
        gathering = asyncio.create_task(node.doors.submit(MAIL, jobs()))
        await until(lambda: node.core.shards[1].table.gathered_events)
        node.core.shards[1].give_up()
        with pytest.raises(OutcomeUnknown):
            await flying
        with pytest.raises(Unavailable):
            await gathering
        log.gate.set()
        await until(lambda: 1 in node.core.shards)


async def test_a_wait_ends_with_its_time() -> None:
    async with MemoryNode(MemoryShardLog()) as node:
        ids = await node.doors.submit(MAIL, jobs())
        await node.doors.wait_finished(ids, 0.0)
        found = await node.doors.job(ids)
        assert found is not None
        assert found[0]["status"] == "pending"


async def test_cancel_and_requeue_see_one_project_only() -> None:
    async with MemoryNode(MemoryShardLog()) as node:
        ids = await node.doors.submit(MAIL, jobs())
        with pytest.raises(NotFound):
            await node.doors.cancel(ids, b"o" * 16)
        job = await node.doors.cancel(ids, PROJECT)
        assert job["status"] == "cancelled"
        assert await node.doors.cancel(ids, PROJECT) == job, "it is cancelled already"
        assert (await node.doors.requeue(job))["status"] == "pending"
        with pytest.raises(Conflict):
            await node.doors.requeue(job)
        assert node.doors.queue_counts(MAIL) == (1, 0, 0)


async def test_a_retry_with_a_key_is_done_once_whatever_became_of_the_job() -> None:
    log = MemoryShardLog()
    key = KeyedRequest("k", b"hash")
    async with MemoryNode(log, refs=(MAIL,)) as node:
        job_id = await node.doors.submit(MAIL, jobs())
        job = await node.doors.cancel(job_id, PROJECT)
        again, repeated = await node.doors.requeue_once(job, key)
        assert (again["status"], repeated) == ("pending", False)
        job = await node.doors.cancel(job_id, PROJECT)
        again, repeated = await node.doors.requeue_once(job, key)
        assert (again["status"], repeated) == ("cancelled", True)
        with pytest.raises(KeyConflict):
            await node.doors.requeue_once(job, KeyedRequest("k", b"other"))
    async with MemoryNode(log, refs=(MAIL,)) as node:
        again, repeated = await node.doors.requeue_once(job, key)
        assert (again["status"], repeated) == ("cancelled", True)
        again, repeated = await node.doors.requeue_once(job, KeyedRequest("l", b"hash"))
        assert (again["status"], repeated) == ("pending", False)


async def test_a_new_owner_knows_jobs_keys_and_leases() -> None:
    log = MemoryShardLog()
    key = KeyedRequest("k", b"hash")
    async with MemoryNode(log) as node:
        first, outlet = await node.worker(MAIL, credit=1)
        ids, repeated = await node.doors.submit_once(MAIL, jobs(3), key)
        assert not repeated
        await until(outlet.tokens)
    async with MemoryNode(log, refs=(MAIL,)) as node:
        assert await node.doors.submit_once(MAIL, jobs(3), key) == (ids, True)
        assert node.doors.queue_counts(MAIL) == (2, 0, 1)
        token = outlet.tokens()[0]
        worker, again = await node.worker(MAIL, credit=1, running=token + b"x" * 24)
        welcome = again.of(10)[0][1]
        # The stranger is of a shard that is not here: its owner will judge.
        assert welcome["kept"] == token + b"x" * 24
        assert worker.outstanding == 1
        await worker.receive([done(1, token)])
        await until(lambda: len(again.tokens()) == 1)
        assert again.of(12) == [[12, 1, b""]]
        assert first.ended is False  # of another process; nobody told it


async def test_a_worker_that_comes_back_keeps_what_it_names_and_no_more() -> None:
    async with MemoryNode(MemoryShardLog()) as node:
        first, outlet = await node.worker(MAIL, credit=3)
        await node.doors.submit(MAIL, jobs(3))
        await until(outlet.tokens)
        one, two, three = outlet.tokens()
        await first.receive([done(1, three)])
        await until(lambda: outlet.of(12))
        second, again = await node.worker(MAIL, credit=0, running=one + three)
        assert outlet.closed is not None
        assert outlet.closed[0] == 4001
        assert again.of(10)[0][1]["kept"] == one
        assert again.of(10)[0][1]["stale"] == three
        assert second.outstanding == 1
        # The one that got lost on the way goes to whoever asks.
        _, other = await node.worker(MAIL, worker_id=b"o" * 16)
        await until(other.tokens)
        assert other.tokens()[0][:16] == two[:16]
        first.detach()  # the old connection notices late: nothing changes
        assert node.core.leases.heartbeat(b"w" * 16, PROJECT)
        with pytest.raises(PermissionDenied):
            await node.doors.attach_worker(first.hello, b"z" * 16, [MAIL], KeptOutlet())


async def test_two_owners_the_loser_releases_nothing_and_drops_the_shard() -> None:
    log = MemoryShardLog()
    async with MemoryNode(log, name="loser") as loser:
        loser.others.alive.add("winner")
        worker, outlet = await loser.worker(MAIL)
        await loser.doors.submit(MAIL, jobs())
        await until(outlet.tokens)
        token = outlet.tokens()[0]
        async with MemoryNode(log, refs=(MAIL,), name="winner") as winner:
            submit = asyncio.create_task(loser.doors.submit(MAIL, jobs()))
            await worker.receive([done(1, token)])
            with pytest.raises(Unavailable):
                await submit
            assert loser.core.counters.shards_lost == 1
            assert len(outlet.tokens()) == 1
            assert outlet.of(12) == []
            assert outlet.closed is not None
            assert outlet.closed[0] == 4002
            for _ in range(100):
                await asyncio.sleep(0)
            with pytest.raises(Unavailable):
                await loser.doors.submit(MAIL, jobs())
            assert loser.ownership.missing == [1]
            assert await loser.doors.job(token[:16]) is None
            moved, again = await winner.worker(MAIL, running=token)
            assert again.of(10)[0][1]["kept"] == token
            await moved.receive([done(1, token)])
            await until(lambda: again.of(12) == [[12, 1, b""]])
            assert winner.doors.queue_counts(MAIL) == (0, 0, 0)
            assert winner.core.counters.shards_lost == 0


async def test_a_shard_whose_new_owner_died_is_taken_back_with_its_workers() -> None:
    log = MemoryShardLog()
    async with MemoryNode(log, (1, 2), (MAIL, SLOW)) as node:
        _, outlet = await node.worker(MAIL, SLOW)
        async with MemoryNode(log, (1,), (MAIL,), name="short-lived") as other:
            await other.doors.submit(MAIL, jobs())
        with pytest.raises(Unavailable):
            await node.doors.submit(MAIL, jobs())
        await until(lambda: 1 in node.core.shards)
        assert node.core.shards[1].epoch == 3
        await node.doors.submit(SLOW, jobs())
        await node.doors.submit(MAIL, jobs())
        await until(lambda: len(outlet.tokens()) == 3)


async def test_a_shard_with_broken_state_is_rebuilt_from_its_log() -> None:
    async with MemoryNode(MemoryShardLog(), refs=(MAIL,)) as node:
        ids = await node.doors.submit(MAIL, jobs())
        broken = node.core.shards[1]
        node.core.queue(MAIL).index = 99
        await node.worker(MAIL)
        await until(lambda: node.core.shards.get(1) not in (None, broken))
        await until(lambda: node.core.shards and not node.ownership.counting)
        await until(lambda: node.doors.queue_counts(MAIL) == (0, 0, 1))
        found = await node.doors.job(ids)
        assert found is not None
        assert node.failed == []


async def test_admission_closes_and_completions_still_come_in() -> None:
    log = MemoryShardLog()
    async with MemoryNode(log) as node:
        worker, outlet = await node.worker(MAIL)
        await node.doors.submit(MAIL, jobs())
        await until(outlet.tokens)
        node.admission.resident_bytes = MEMORY_BYTES_MAX + 1
        with pytest.raises(Overloaded):
            await node.doors.submit(MAIL, jobs())
        node.admission.measure(node.core.shards.values())
        assert node.admission.closed() == []
        log.refusals = 1
        submit = asyncio.create_task(node.doors.submit(MAIL, jobs()))
        await until(lambda: not node.journal.available)
        with pytest.raises(Unavailable):
            await node.doors.submit(MAIL, jobs())
        await worker.receive([done(1, outlet.tokens()[0])])
        await submit
        await until(lambda: outlet.of(12))
        assert node.core.counters.refused_submits == 2


async def test_a_delayed_job_starts_when_it_is_due() -> None:
    clock = VirtualClock()
    async with MemoryNode(MemoryShardLog(), clock=clock) as node:
        _, outlet = await node.worker(MAIL)
        await node.doors.submit(MAIL, jobs(due_us=clock.now_us() + 20_000))
        for _ in range(20):
            await asyncio.sleep(0)
        assert outlet.of(11) == []
        outlet.arrived.clear()
        clock.advance(0.02)
        await asyncio.wait_for(outlet.arrived.wait(), 10)
        await until(lambda: outlet.of(11))


async def test_a_silent_worker_loses_its_lease_and_quarantine_ends_the_job() -> None:
    clock = VirtualClock()
    async with MemoryNode(MemoryShardLog(), (1, 2), clock=clock) as node:
        worker, outlet = await node.worker(SLOW)
        ids = await node.doors.submit(SLOW, jobs())
        await until(outlet.tokens)
        waiting = asyncio.create_task(node.doors.wait_finished(ids, 60.0))
        worker.detach()
        for _ in range(round(TTL_S / SWEEP_S) + 1):
            clock.advance(SWEEP_S)
            node.core.sweep()
        await waiting
        found = await node.doors.job(ids)
        assert found is not None
        assert found[0]["reason"] == "quarantined"


async def test_a_draining_node_lets_workers_finish() -> None:
    async with MemoryNode(MemoryShardLog()) as node:
        worker, outlet = await node.worker(MAIL, credit=1)
        await node.doors.submit(MAIL, jobs(2))
        await until(outlet.tokens)
        node.admission.draining = True
        node.core.drain()
        assert outlet.of(15) == [[15]]
        with pytest.raises(Unavailable):
            await node.doors.submit(MAIL, jobs())
        with pytest.raises(Unavailable):
            await node.worker(MAIL, worker_id=b"o" * 16)
        idle = asyncio.create_task(node.core.idle())
        await worker.receive([done(1, outlet.tokens()[0])])
        await idle
        await until(lambda: outlet.of(12))
        assert len(outlet.tokens()) == 1


async def test_a_queue_that_changed_is_known_by_its_new_settings() -> None:
    async with MemoryNode(MemoryShardLog()) as node:
        await node.doors.submit(MAIL, jobs())
        changed = QueueRef(
            MAIL.id, PROJECT, "mail", 7, msgspec.convert({"timeout": 5.0}, QueueSettings), 1
        )
        node.doors.queue_changed(changed)
        _, outlet = await node.worker(changed)
        await until(lambda: outlet.of(11))
        assert outlet.of(11)[0][6][0]["timeout_ms"] == 5000


async def test_one_tenant_does_not_use_up_the_waits_of_a_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "WAITERS_MAX", 4)
    async with MemoryNode(MemoryShardLog()) as node:
        ids = await node.doors.submit(MAIL, jobs(2))
        first, second = ids[:16], ids[16:]

        def nothing(_: object) -> None: ...

        with node.doors.watch_ends(PROJECT, [first, second], nothing, nothing):
            with pytest.raises(ShareUsedUp, match="waits for the end of a job"):
                await node.doors.wait_finished(first, 60.0)
            with node.doors.watch_ends(b"o" * 16, [first], nothing, nothing):
                pass
        await node.doors.wait_finished(first, 0.0)
