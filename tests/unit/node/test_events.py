"""The event hub: who is told what, after its cause is durable, at his own pace."""

import asyncio

import msgpack
import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.errors import ShareUsedUp
from taskforge_server.engine.journal.memory import MemoryShardLog
from taskforge_server.engine.model.events import JobEvent, Missed, Told
from taskforge_server.engine.model.queue import QueueRef, QueueSettings
from taskforge_server.engine.node.events import Follower
from tests.support.engine_node import MemoryNode, jobs
from tests.support.engine_parts import PROJECT, EngineParts, done
from tests.support.real_node import arrives

REF = QueueRef(b"q" * 16, PROJECT, "mail", 0, QueueSettings(), 1)
OTHER = QueueRef(b"o" * 16, b"z" * 16, "theirs", 0, QueueSettings(), 1)


def kinds(told: list[Told]) -> list[str]:
    return [event.kind if isinstance(event, JobEvent) else "missed" for _, event in told]


async def take(follower: Follower, count: int) -> list[Told]:
    found: list[Told] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            found += await follower.take()
    return found


async def test_a_life_is_told_in_its_order_once_it_is_durable() -> None:
    log = MemoryShardLog()
    async with MemoryNode(log, refs=(REF,)) as node:
        queue = node.doors.follow_queue(REF, None)
        project = node.doors.follow_project(PROJECT, None)
        ids = await node.doors.submit(REF, jobs())
        job = node.doors.follow_job(ids, PROJECT, None)
        worker, outlet = await node.worker(REF)
        await arrives(outlet, outlet.tokens)
        await worker.receive([done(1, b"".join(outlet.tokens()))])
        assert kinds(await take(job, 2)) == ["started", "succeeded"]
        told = await take(queue, 3)
        assert kinds(told) == ["submitted", "started", "succeeded"]
        assert await take(project, 3) == [
            (f"{project.topic.tag}-{n}", event) for n, (_, event) in enumerate(told)
        ]
        events = [event for _, event in told if isinstance(event, JobEvent)]
        assert [event.status for event in events] == ["pending", "processing", "succeeded"]
        assert [event.final for event in events] == [False, False, True]
        assert events[1].attempt == 1
        assert {(event.job_id, event.queue_id, event.job_type) for event in events} == {
            (ids, REF.id, "send")
        }


async def test_nothing_is_told_before_its_commit() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    heard: list[int] = []
    parts.shards[1].listener = lambda shard, lsn, body: heard.append(lsn)
    parts.submit(queue, 1)
    parts.journal.take()
    assert heard == []
    parts.journal.commit()
    assert heard == [1]
    parts.submit(queue, 1)
    parts.journal.take()
    parts.shards[1].on_fenced()
    assert heard == [1]


async def test_while_nobody_follows_nobody_listens() -> None:
    async with MemoryNode(MemoryShardLog(), shards=(1, 2), refs=(REF,)) as node:
        shards = node.core.shards
        assert [shards[n].listener for n in (1, 2)] == [None, None]
        ids = await node.doors.submit(REF, jobs())
        follower = node.doors.follow_job(ids, PROJECT, None)
        assert shards[1].listener is not None
        assert shards[2].listener is None
        follower.close()
        node.core.events._forget(follower.topic)
        assert shards[1].listener is None


async def test_one_project_hears_nothing_of_another() -> None:
    async with MemoryNode(MemoryShardLog(), refs=(REF, OTHER)) as node:
        mine = node.doors.follow_project(PROJECT, None)
        theirs = node.doors.follow_project(OTHER.project_id, None)
        await node.doors.submit(OTHER, jobs(2))
        await node.doors.submit(REF, jobs())
        (told,) = await take(mine, 1)
        assert isinstance(told[1], JobEvent)
        assert told[1].queue_id == REF.id
        assert len(await take(theirs, 2)) == 2
        assert mine.take_nowait() == theirs.take_nowait() == []


async def test_a_slow_follower_is_told_how_many_it_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "EVENTS_KEPT_EACH_MAX", 3)
    async with MemoryNode(MemoryShardLog(), refs=(REF,)) as node:
        follower = node.doors.follow_queue(REF, None)
        await node.doors.submit(REF, jobs(2))
        assert kinds(await take(follower, 2)) == ["submitted"] * 2
        await node.doors.submit(REF, jobs(8))
        told = await take(follower, 4)
        assert told[0][1] == Missed(5)
        assert kinds(told) == ["missed", "submitted", "submitted", "submitted"]


async def test_beyond_the_budget_events_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "EVENTS_BURST_MAX", 4)
    async with MemoryNode(MemoryShardLog(), refs=(REF,)) as node:
        follower = node.doors.follow_queue(REF, None)
        ids = await node.doors.submit(REF, jobs(10))
        assert kinds(told := await take(follower, 5)) == ["submitted"] * 4 + ["missed"]
        assert told[-1][1] == Missed(6)
        alone = node.doors.follow_job(ids[:16], PROJECT, None)
        await node.doors.cancel(ids[:16], PROJECT)
        assert kinds(await take(alone, 1)) == ["cancelled"]


async def test_who_was_cut_off_goes_on_behind_what_he_saw() -> None:
    async with MemoryNode(MemoryShardLog(), refs=(REF,)) as node:
        follower = node.doors.follow_queue(REF, None)
        await node.doors.submit(REF, jobs(3))
        told = await take(follower, 3)
        follower.close()
        await node.doors.submit(REF, jobs())
        again = node.doors.follow_queue(REF, told[1][0])
        assert again.resumed
        following = await take(again, 2)
        assert following[0] == told[2]
        assert kinds(following) == ["submitted"] * 2
        stranger = node.doors.follow_queue(REF, "ffffffff-1")
        assert not stranger.resumed
        assert stranger.take_nowait() == [("", Missed(None))]
        assert stranger.take_nowait() == []


async def test_events_are_counted_over_a_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "EVENTS_KEPT_EACH_MAX", 2)
    async with MemoryNode(MemoryShardLog(), refs=(REF,)) as node:
        follower = node.doors.follow_queue(REF, None)
        await node.doors.submit(REF, jobs())
        (first,) = await take(follower, 1)
        follower.close()
        await node.doors.submit(REF, jobs(5))
        again = node.doors.follow_queue(REF, first[0])
        assert again.resumed
        told = again.take_nowait()
        assert told[0][1] == Missed(3)
        assert kinds(told) == ["missed", "submitted", "submitted"]


async def test_followers_of_a_lost_shard_hear_that_they_miss_something() -> None:
    async with MemoryNode(MemoryShardLog(), refs=(REF,)) as node:
        follower = node.doors.follow_queue(REF, None)
        await node.doors.submit(REF, jobs())
        assert kinds(await take(follower, 1)) == ["submitted"]
        node.core.shards[1].give_up()
        assert (await take(follower, 1))[0][1] == Missed(None)
        async with asyncio.timeout(10):
            await node.core.arrival(1)
        await node.doors.submit(REF, jobs())
        assert kinds(await take(follower, 1)) == ["submitted"]


async def test_topics_are_bounded_and_idle_ones_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "EVENT_TOPICS_MAX", 5)
    async with MemoryNode(MemoryShardLog(), refs=(REF,)) as node:
        first = node.doors.follow_queue(REF, None)
        node.doors.follow_project(PROJECT, None)
        with pytest.raises(ShareUsedUp, match="followed"):
            node.core.events.follow_job(bytes(16), PROJECT)
        node.doors.follow_project(b"y" * 16, None)  # another tenant
        first.close()
        node.core.events.follow_job(bytes(16), PROJECT)
        assert len(node.core.events) == 3


async def test_progress_is_told_under_the_lease_and_shown() -> None:
    async with MemoryNode(MemoryShardLog(), refs=(REF,)) as node:
        follower = node.doors.follow_queue(REF, None)
        ids = await node.doors.submit(REF, jobs())
        worker, outlet = await node.worker(REF)
        await arrives(outlet, outlet.tokens)
        (token,) = outlet.tokens()
        await worker.receive([words(token, 40, "half")])
        told = await take(follower, 3)
        assert kinds(told) == ["submitted", "started", "progress"]
        event = told[2][1]
        assert isinstance(event, JobEvent)
        assert event.progress is not None
        assert event.progress[:2] == (40, "half")
        job = await node.doors.job(ids)
        assert job is not None
        assert job[0]["progress"] == event.progress
        await worker.receive([done(1, token)])
        assert kinds(await take(follower, 1)) == ["succeeded"]
        await worker.receive([words(token, 99, "too late")])
        await arrives(outlet, lambda: outlet.of(14))
        assert outlet.of(14) == [[14, token]]
        assert follower.take_nowait() == []


def words(*entry: object) -> bytes:
    frame: bytes = msgpack.packb([7, [list(entry)]])
    return frame
