"""Jobs that wait in the tables alone: a node with room for a few, and a real database."""

import asyncio
from collections.abc import Callable

import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.actors.commands import Command
from taskforge_server.engine.actors.queue import QueueActor
from taskforge_server.engine.cluster.memory import Exchange, MemoryCluster
from taskforge_server.engine.errors import Conflict, Unavailable
from taskforge_server.engine.model.graph import Edge
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.engine.node.doors import AWAY_PLACE
from taskforge_server.engine.node.node import Node
from taskforge_server.engine.store.pool import connect
from taskforge_server.ext.table import NEVER_US, ShardTable, SubmitBatch
from tests.support.engine_parts import KeptOutlet, done
from tests.support.real_node import Hand, arrives, config_for, kill, prepared, running_node

ROOM = 8
PRIORITIES = (0, 5, 9)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LET_GO_S", 0.0)


async def submit(hand: Hand, queue: QueueRef, count: int) -> list[bytes]:
    """Of all priorities; the ids in the order in which they must start."""
    batch = SubmitBatch()
    for number in range(count):
        batch.add("send", b'{"to": 1}', PRIORITIES[number % len(PRIORITIES)])
    ids = await hand.node.doors.submit(queue, batch)
    each = [ids[at : at + 16] for at in range(0, len(ids), 16)]
    return [
        job_id
        for priority in reversed(PRIORITIES)
        for number, job_id in enumerate(each)
        if PRIORITIES[number % len(PRIORITIES)] == priority
    ]


def table_of(node: Node, queue: QueueRef) -> ShardTable:
    return node.core.shards[queue.shard].table


async def few_are_here(node: Node, queue: QueueRef) -> None:
    """Until what need not be in memory has left it."""
    await node.projector.flush()
    await until(node, lambda: table_of(node, queue).jobs_resident <= ROOM)


async def until(node: Node, holds: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await node.pager.turn()
            await asyncio.sleep(0)


async def run_all(hand: Hand, queue: QueueRef, count: int, credit: int = 3) -> list[bytes]:
    """Let a worker run so many jobs; their ids in the order in which they were given to it."""
    worker, outlet = await hand.worker(queue, credit=credit)
    answered = 0
    while answered < count:
        await arrives(outlet, lambda seen=answered: len(outlet.tokens()) > seen)
        tokens = outlet.tokens()[answered:count]
        answered += len(tokens)
        await worker.receive([done(answered, b"".join(tokens))])
        await arrives(outlet, lambda seen=answered: acked(outlet) >= seen)
    return [token[:16] for token in outlet.tokens()]


def acked(outlet: KeptOutlet) -> int:
    return max((frame[1] for frame in outlet.of(12)), default=0)


async def test_order_holds_and_each_runs_once(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url, resident_jobs_max=ROOM) as node:
        hand = Hand(node, project_id)
        queue = await hand.queue()
        ids = await submit(hand, queue, 90)
        await few_are_here(node, queue)
        assert node.doors.queue_counts(queue) == (90, 0, 0)
        late = await submit(hand, queue, 3)
        # The late one of the greatest priority comes before all others but those of its own.
        wanted = [*ids[:30], late[0], *ids[30:60], late[1], *ids[60:], late[2]]
        assert await run_all(hand, queue, 93) == wanted
        assert node.doors.queue_counts(queue) == (0, 0, 0)
        rows = await hand.rows("jobs")
        assert {row["status"] for row in rows} == {"succeeded"}
        assert {row["attempts"] for row in rows} == {1}
        assert node.pager.pages > 3


async def test_no_more_are_brought_while_the_tables_lack_too_many(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PAGING_ENDED_MAX", 4)
    monkeypatch.setattr(limits, "PAGE_JOBS_MAX", 2)
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url, resident_jobs_max=ROOM) as node:
        hand = Hand(node, project_id)
        queue, table = await hand.queue(), lambda: table_of(node, queue)
        ids = await hand.submit(queue, 40)
        await few_are_here(node, queue)
        worker, outlet = await hand.worker(queue, credit=40)
        connection = await connect(postgres_url, application_name="test")
        ended = 0
        try:
            async with connection.transaction():
                await connection.execute("LOCK TABLE jobs IN EXCLUSIVE MODE")
                while table().ended <= limits.PAGING_ENDED_MAX:
                    await arrives(outlet, lambda seen=ended: len(outlet.tokens()) > seen)
                    tokens = outlet.tokens()[ended:]
                    ended += len(tokens)
                    await worker.receive([done(ended, b"".join(tokens))])
                    await arrives(outlet, lambda seen=ended: acked(outlet) >= seen)
                    await node.pager.turn()
                await until(
                    node,
                    lambda: not node.pager.reading and table().short(node.pager.ahead_jobs),
                )
                pages = node.pager.pages
                for _ in range(20):
                    await node.pager.turn()
                assert table().short(node.pager.ahead_jobs)
                assert not node.pager.reading
                assert node.pager.pages == pages
                assert len(outlet.tokens()) < len(ids)
        finally:
            await connection.close()
        await arrives(outlet, lambda: len(outlet.tokens()) == len(ids))
        assert [token[:16] for token in outlet.tokens()] == ids


async def test_commands_find_jobs_that_are_away(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url, resident_jobs_max=ROOM) as node:
        hand = Hand(node, project_id)
        queue = await hand.queue()
        ids = await submit(hand, queue, 40)
        await few_are_here(node, queue)
        gone = ids[-10:]
        assert not any(table_of(node, queue).get(job_id) for job_id in gone)
        await asyncio.gather(*(node.doors.cancel(job_id, project_id) for job_id in gone))
        waiting = asyncio.create_task(node.doors.wait_finished(ids[-11], 20.0))
        assert node.doors.queue_counts(queue) == (30, 0, 0)
        rows = {row["id"]: dict(row) for row in await hand.rows("jobs")}
        assert {rows[job_id]["status"] for job_id in gone} == {"cancelled"}
        assert await run_all(hand, queue, 30) == ids[:-10]
        await waiting


async def test_a_job_that_waits_again_does_not_begin_twice(postgres_url: str) -> None:
    """Whoever saw it failed, before it was retried and let go, is told that it waits."""
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url, resident_jobs_max=ROOM) as node:
        hand = Hand(node, project_id)
        queue = await hand.queue()
        ids = await submit(hand, queue, 40)
        await few_are_here(node, queue)
        cancelled = await node.doors.cancel(ids[-1], project_id)
        await node.projector.flush()
        await node.doors.requeue(cancelled)
        await node.projector.flush()
        assert table_of(node, queue).release(node.core.queue(queue).index, "send", 2, 99)
        assert table_of(node, queue).get(ids[-1]) is None
        with pytest.raises(Conflict):
            await node.doors.requeue(cancelled)
        assert await run_all(hand, queue, 40) == ids


@pytest.mark.parametrize("peace", [True, False])
async def test_another_node_goes_on_where_the_first_one_stopped(
    postgres_url: str, peace: bool
) -> None:
    project_id = await prepared(postgres_url)
    node = Node(
        config_for(postgres_url, resident_jobs_max=ROOM),
        lambda node_id: MemoryCluster(Exchange(), node_id),
    )
    await node.start()
    hand = Hand(node, project_id)
    queue = await hand.queue()
    ids = await submit(hand, queue, 60)
    await few_are_here(node, queue)
    begun = await run_all(hand, queue, 15)
    assert begun == ids[: len(begun)]
    # Some of what the log says last is of jobs that are away for the next owner.
    await node.doors.cancel(ids[40], project_id)
    if peace:
        await node.stop()
    else:
        await kill(node)
    async with running_node(postgres_url, resident_jobs_max=ROOM) as node:
        hand = Hand(node, project_id)
        assert table_of(node, queue).jobs_resident < 30
        await until(node, lambda: not node.ownership.counting)
        pending, _, processing = node.doors.queue_counts(queue)
        assert pending + processing == 44
        for worker_id, _, _ in node.core.leases.heard():
            node.core.leases.drop(worker_id)  # gone with the first node
        assert node.doors.queue_counts(queue)[2] == 0
        left = [job_id for job_id in ids[15:] if job_id != ids[40]]
        again = await run_all(hand, queue, 44)
        assert [job_id for job_id in again if job_id not in begun] == left[len(begun) - 15 :]
        rows = {row["id"]: row["status"] for row in await hand.rows("jobs")}
        assert rows == dict.fromkeys(ids, "succeeded") | {ids[40]: "cancelled"}


async def test_jobs_beyond_the_horizon_come_in_time(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HORIZON_S", 0.4)
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url, resident_jobs_max=ROOM) as node:
        hand = Hand(node, project_id)
        queue = await hand.queue()
        due_us = node.clock.now_us() + 1_000_000
        soon = await hand.submit(queue, 20, due_us)
        far = await hand.submit(queue, 20, due_us + 3_600_000_000)
        await node.projector.flush()
        await until(node, lambda: table_of(node, queue).jobs_resident == 0)
        assert node.doors.queue_counts(queue) == (0, 40, 0)
        assert set(await run_all(hand, queue, 20)) == set(soon)
        started = {row["started_at"] for row in await hand.rows("jobs") if row["id"] in soon}
        assert min(started).timestamp() * 1e6 >= due_us
        assert node.doors.queue_counts(queue) == (0, 20, 0)
        await node.doors.cancel(far[0], project_id)
        assert node.doors.queue_counts(queue) == (0, 19, 0)


async def test_many_jobs_that_are_due_at_once_do_not_fill_memory(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url, resident_jobs_max=ROOM) as node:
        hand = Hand(node, project_id)
        queue = await hand.queue()
        ids = await hand.submit(queue, 60, node.clock.now_us() + 800_000)
        await node.projector.flush()
        await until(node, lambda: table_of(node, queue).jobs_resident <= ROOM)
        assert await run_all(hand, queue, 60) == ids


async def test_jobs_come_in_time_though_many_must_stay_in_memory(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held jobs never leave; they are no reason to bring nothing else."""
    monkeypatch.setattr(limits, "HORIZON_S", 0.4)
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url, resident_jobs_max=ROOM) as node:
        hand = Hand(node, project_id)
        queue = await hand.queue()
        await hand.submit(queue, 2 * ROOM, NEVER_US)
        soon = await hand.submit(queue, 20, node.clock.now_us() + 1_000_000)
        await node.projector.flush()
        await until(node, lambda: table_of(node, queue).jobs_resident == 2 * ROOM)
        table, index = table_of(node, queue), node.core.queue(queue).index
        await until(node, lambda: table.ready(index, None))
        assert set(await run_all(hand, queue, 20)) == set(soon)


async def test_due_jobs_that_nobody_takes_hold_up_no_others(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HORIZON_S", 0.4)
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url, resident_jobs_max=ROOM) as node:
        hand = Hand(node, project_id)
        queue = await hand.queue()
        due_us = node.clock.now_us() + 600_000
        batch = SubmitBatch()
        for _ in range(5 * ROOM):
            batch.add("nobody", b"1", 0, due_us)
        await node.doors.submit(queue, batch)
        later = await hand.submit(queue, 20, due_us + 600_000)
        await node.projector.flush()
        await until(node, lambda: table_of(node, queue).jobs_resident <= ROOM)
        table, index = table_of(node, queue), node.core.queue(queue).index
        await until(node, lambda: table.ready(index, frozenset({"send"})) == 20)
        assert set(await run_all(hand, queue, 20)) == set(later)


class Leaving:
    """Jobs that are not the first of the queue leave memory before the next so many commands."""

    def __init__(self, node: Node, queue: QueueRef, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        send, index = node.doors.send, node.core.queue(queue).index

        def late(actor: QueueActor, command: Command) -> None:
            send(actor, command)
            table = table_of(node, queue)
            if self.times and not table.reading and table.release(index, "send", 4, 99):
                self.times -= 1

        monkeypatch.setattr(node.doors, "send", late)


async def test_a_mass_cancel_passes_over_none_that_left_meanwhile(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url, resident_jobs_max=ROOM) as node:
        hand = Hand(node, project_id)
        queue = await hand.queue()
        await submit(hand, queue, 40)
        await few_are_here(node, queue)
        found, _ = await node.doors.open_jobs(queue, AWAY_PLACE, 100, 100)
        ids = [job[0] for job in found]
        assert len(ids) == 40
        leaving = Leaving(node, queue, monkeypatch)
        leaving.times = 2
        assert await node.doors.cancel_many(queue, ids, 1.0) == (40, 0)
        assert leaving.times == 0
        assert node.doors.queue_counts(queue) == (0, 0, 0)


async def test_commands_find_jobs_again_that_left_before_their_turn(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url, resident_jobs_max=ROOM) as node:
        hand = Hand(node, project_id)
        queue = await hand.queue()
        ids = await submit(hand, queue, 40)
        await few_are_here(node, queue)
        leaving = Leaving(node, queue, monkeypatch)
        for command in (
            lambda: node.doors.change(ids[-1], project_id, priority=1),
            lambda: node.graphs.add_parents(
                project_id, ids[-2], [Edge(ids[0], "cancel", done=False)]
            ),
            lambda: node.doors.cancel(ids[-3], project_id),
        ):
            leaving.times = 2
            done = await command()
            assert leaving.times == 0
        assert done["status"] == "cancelled"
        await node.projector.flush()
        await node.doors.bring(node.core.shards[queue.shard], ids[-4])  # this one leaves
        leaving.times = 1
        assert (await node.doors.requeue(done))["status"] == "pending"
        assert leaving.times == 0


async def test_a_job_that_leaves_again_and_again_is_refused_at_last(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url, resident_jobs_max=ROOM) as node:
        hand = Hand(node, project_id)
        queue = await hand.queue()
        ids = await submit(hand, queue, 40)
        await few_are_here(node, queue)
        leaving = Leaving(node, queue, monkeypatch)
        leaving.times = 1_000
        with pytest.raises(Unavailable):
            await node.doors.cancel(ids[-1], project_id)
        assert leaving.times == 1_000 - limits.AWAY_TRIES_MAX
        assert node.doors.queue_counts(queue) == (40, 0, 0)
