"""A job's way through a node on a real database, and through the deaths of nodes and workers."""

import asyncio
import json

import pytest

from taskforge_server.engine.cluster.memory import Exchange, MemoryCluster
from taskforge_server.engine.errors import ConfigError, Unavailable
from taskforge_server.engine.node.node import Node
from tests.support.engine_parts import done
from tests.support.real_node import Hand, arrives, config_for, kill, prepared, running_node

FAILURE = json.dumps({"type": "E", "message": "m", "retryable": True}).encode()


async def test_a_job_runs_and_stands_in_the_tables(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url) as node:
        assert node.ready() == []
        hand = Hand(node, project_id)
        queue = await hand.queue()
        worker, outlet = await hand.worker(queue)
        ids = await hand.submit(queue, 50)
        await arrives(outlet, lambda: len(outlet.tokens()) == 50)
        tokens = outlet.tokens()
        await worker.receive([done(1, b"".join(tokens[1:]), (tokens[0], 0, b'{"n": 1}'))])
        await node.doors.wait_finished(ids[0], 10.0)
        await arrives(outlet, lambda: outlet.of(12) == [[12, 1, b""]])
        jobs = await hand.rows("jobs")
        assert [row["id"] for row in jobs] == sorted(ids)
        assert {row["status"] for row in jobs} == {"succeeded"}
        assert json.loads(jobs[0]["result"]) == {"n": 1}
        executions = await hand.rows("job_executions")
        assert {row["worker_id"] for row in executions} == {worker.hello.worker_id}
        assert len(executions) == 50
        assert node.core.shards[queue.shard].table.jobs_resident == 0
        assert await node.doors.job(ids[0]) is None
        await node.worker_rows.write()
        assert [row["status"] for row in await hand.rows("workers")] == ["online"]
    assert node.clock.now_us() > 0


async def test_a_node_that_is_killed_forgets_nothing_and_runs_nothing_twice(
    postgres_url: str,
) -> None:
    project_id = await prepared(postgres_url)
    node = Node(
        config_for(postgres_url, lease_ttl_s=30.0),
        lambda node_id: MemoryCluster(Exchange(), node_id),
    )
    await node.start()
    hand = Hand(node, project_id)
    queue = await hand.queue()
    worker, outlet = await hand.worker(queue, credit=5)
    ids = await hand.submit(queue, 20)
    late = await hand.submit(queue, 3, node.clock.now_us() + 3_600_000_000)
    await arrives(outlet, lambda: len(outlet.tokens()) == 5)
    held = outlet.tokens()
    await kill(node)
    async with running_node(postgres_url, lease_ttl_s=30.0) as node:
        hand = Hand(node, project_id)
        assert node.doors.queue_counts(queue) == (15, 3, 5)
        again, second = await hand.worker(
            queue, worker_id=worker.hello.worker_id, running=b"".join(held)
        )
        assert second.of(10)[0][1]["kept"] == b"".join(held)
        await arrives(second, lambda: len(second.tokens()) == 15)
        assert not {token[:16] for token in second.tokens()} & {token[:16] for token in held}
        await again.receive([done(1, b"".join(held + second.tokens()))])
        await arrives(second, lambda: second.of(12) == [[12, 1, b""]])
        jobs = {row["id"]: row for row in await hand.rows("jobs")}
        assert {jobs[job_id]["status"] for job_id in ids} == {"succeeded"}
        assert {jobs[job_id]["attempts"] for job_id in ids} == {1}
        assert {jobs[job_id]["status"] for job_id in late} == {"scheduled"}
        # A second run of the same database comes from the tables alone.
    async with running_node(postgres_url) as node:
        assert node.doors.queue_counts(queue) == (0, 3, 0)


async def test_a_node_that_lost_its_shards_to_another_releases_nothing(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    exchange = Exchange()
    async with running_node(postgres_url, exchange) as loser:
        hand = Hand(loser, project_id)
        queue = await hand.queue()
        worker, outlet = await hand.worker(queue)
        await hand.submit(queue)
        await arrives(outlet, outlet.tokens)
        async with running_node(postgres_url, exchange) as winner:
            with pytest.raises(Unavailable):
                await hand.submit(queue)
            assert outlet.closed is None
            assert len(outlet.tokens()) == 1
            assert loser.ready() == ["1 shards are not here"]
            assert winner.doors.queue_counts(queue) == (0, 0, 1)
            other = Hand(winner, project_id)
            moved, again = await other.worker(
                queue, worker_id=worker.hello.worker_id, running=outlet.tokens()[0]
            )
            await moved.receive([done(1, outlet.tokens()[0])])
            await arrives(again, lambda: again.of(12) == [[12, 1, b""]])


async def test_a_silent_workers_jobs_go_to_another_and_its_own_word_is_stale(
    postgres_url: str,
) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url, lease_ttl_s=1.0) as node:
        hand = Hand(node, project_id)
        queue = await hand.queue()
        silent, first = await hand.worker(queue)
        (job_id,) = await hand.submit(queue)
        await arrives(first, first.tokens)
        silent.detach()
        worker, second = await hand.worker(queue)
        async with asyncio.timeout(10):
            while not second.tokens():
                node.doors.heartbeat(worker.hello.worker_id, project_id)
                await asyncio.sleep(0.05)
        back, third = await hand.worker(
            queue, worker_id=silent.hello.worker_id, running=first.tokens()[0], credit=0
        )
        assert third.of(10)[0][1]["stale"] == first.tokens()[0]
        await back.receive([done(1, first.tokens()[0])])
        await arrives(third, lambda: third.of(12) == [[12, 1, first.tokens()[0]]])
        await worker.receive([done(1, second.tokens()[0])])
        await node.doors.wait_finished(job_id, 10.0)
        executions = await hand.rows("job_executions")
        assert [row["status"] for row in executions] == ["retrying", "succeeded"]
        assert json.loads(executions[0]["error"])["type"] == "worker_lost"


async def test_retries_end_in_success_or_in_the_dead_letter_queue(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url) as node:
        hand = Hand(node, project_id)
        policy = {"max_attempts": 2, "base_delay": 0.02, "max_delay": 0.02}
        queue = await hand.queue(retry_policy=policy)
        worker, outlet = await hand.worker(queue)
        good, bad = await hand.submit(queue, 2)
        await arrives(outlet, lambda: len(outlet.tokens()) == 2)
        await worker.receive([done(1, b"", *((token, 1, FAILURE) for token in outlet.tokens()))])
        await arrives(outlet, lambda: len(outlet.tokens()) == 4)
        by_job = {token[:16]: token for token in outlet.tokens()[2:]}
        await worker.receive([done(2, by_job[good], (by_job[bad], 1, FAILURE))])
        await node.doors.wait_finished(bad, 10.0)
        jobs = {row["id"]: row for row in await hand.rows("jobs")}
        assert jobs[good]["status"] == "succeeded"
        assert (jobs[bad]["status"], jobs[bad]["failed_reason"]) == ("failed", "attempts_exhausted")
        assert len(await hand.rows("job_executions")) == 4


async def test_waiting_jobs_are_cancelled_and_run_again_when_asked(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url) as node:
        hand = Hand(node, project_id)
        queue = await hand.queue()
        (job_id,) = await hand.submit(queue)
        job = await node.doors.cancel(job_id, project_id)
        assert [row["status"] for row in await hand.rows("jobs")] == ["cancelled"]
        assert await node.doors.job(job_id) is None
        await node.doors.requeue(job)
        assert await hand.status(job_id) == "pending"
        worker, outlet = await hand.worker(queue)
        await arrives(outlet, outlet.tokens)
        await worker.receive([done(1, outlet.tokens()[0])])
        await node.doors.wait_finished(job_id, 10.0)
        assert [row["status"] for row in await hand.rows("jobs")] == ["succeeded"]


async def test_a_draining_node_waits_for_workers_and_writes_everything_out(
    postgres_url: str,
) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url) as node:
        hand = Hand(node, project_id)
        queue = await hand.queue()
        worker, outlet = await hand.worker(queue, credit=2)
        await hand.submit(queue, 3)
        await arrives(outlet, lambda: len(outlet.tokens()) == 2)
        drain = asyncio.create_task(node.drain())
        await arrives(outlet, lambda: outlet.of(15))
        assert node.ready() == ["this node is stopping"]
        with pytest.raises(Unavailable):
            await hand.submit(queue)
        assert not drain.done()
        await worker.receive([done(1, b"".join(outlet.tokens()))])
        await drain
        await arrives(outlet, lambda: outlet.of(12))
    async with running_node(postgres_url) as node:
        hand = Hand(node, project_id)
        assert node.doors.queue_counts(queue) == (1, 0, 0)
        assert [row["status"] for row in await hand.rows("jobs")].count("succeeded") == 2


async def test_a_database_that_is_not_prepared_stops_the_start(
    empty_postgres_url: str, postgres_url: str
) -> None:
    with pytest.raises(ConfigError, match="taskforge migrate"):
        async with running_node(empty_postgres_url):
            pass
    await prepared(postgres_url)
    wrong = config_for(postgres_url)
    assert wrong.shards == 4
    with pytest.raises(ConfigError, match="8 is not 4"):
        async with running_node(postgres_url, shards=8):
            pass


async def test_metrics_are_read_from_a_running_node(postgres_url: str) -> None:
    from prometheus_client import generate_latest

    project_id = await prepared(postgres_url)
    async with running_node(postgres_url) as node:
        hand = Hand(node, project_id)
        queue = await hand.queue()
        await hand.submit(queue, 3)
        text = generate_latest(node.registry).decode()
        assert "taskforge_jobs_submitted_total 3.0" in text
        assert 'taskforge_jobs_open{state="pending"} 3.0' in text
        assert "taskforge_start_latency_seconds_bucket" in text
        assert "taskforge_shards_owned 4.0" in text


async def test_a_queue_that_another_node_changed_is_heard_of(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    exchange = Exchange()
    async with (
        running_node(postgres_url, exchange) as first,
        running_node(postgres_url, exchange) as second,
    ):
        queue = await Hand(first, project_id).queue()
        heard = asyncio.Event()
        second.queue_news.listeners.append(lambda ref: heard.set())
        first.doors.queue_changed(queue)
        await asyncio.wait_for(heard.wait(), 20)
        assert second.core.find(queue.id) == queue


async def test_presence_is_told_over_the_real_server(postgres_url: str, redis_url: str) -> None:
    await prepared(postgres_url)
    node = Node(config_for(postgres_url, redis_url=redis_url))
    await node.start()
    try:
        async with asyncio.timeout(10):
            while not await node.cluster.is_alive(node.node_id):  # noqa: ASYNC110 - told by none
                await asyncio.sleep(0.01)
    finally:
        await node.stop()
