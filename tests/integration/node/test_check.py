"""`taskforge check` over a real node's database: what was raised and deleted is no difference,
and a fault is one."""

import msgspec

from taskforge_server.engine.model.audit import OPERATOR
from taskforge_server.engine.model.queue import QueueRef, QueueSettings
from taskforge_server.engine.node.checking import check_database
from taskforge_server.engine.node.node import Node
from taskforge_server.engine.store.dead_letters import FIRST, DeadLetterFilter
from taskforge_server.engine.store.pool import connect
from tests.support.engine_parts import done
from tests.support.real_node import Hand, arrives, config_for, prepared, running_node

FINAL_ERROR = b'{"type":"E","message":"m","retryable":false}'


async def kinds(url: str) -> list[str]:
    found = await check_database(config_for(url, log_retention_all=True))
    return [difference.kind for difference in found]


async def run(hand: Hand, queue: QueueRef, count: int, error: bytes | None = None) -> None:
    """Let so many jobs of the queue end: well, or for good with this error."""
    worker, outlet = await hand.worker(queue)
    ids = await hand.submit(queue, count)
    await arrives(outlet, lambda: len(outlet.tokens()) == count)
    if error is None:
        await worker.receive([done(1, b"".join(outlet.tokens()))])
    else:
        await worker.receive([done(1, b"", *((token, 1, error) for token in outlet.tokens()))])
    for job_id in ids:
        await hand.node.doors.wait_finished(job_id, 10.0)
    worker.detach()


async def tell(node: Node, queue: QueueRef, **settings: object) -> QueueRef:
    """Have the queue work like this from now on."""
    wanted = msgspec.convert(settings, QueueSettings)
    told = (await node.queues.update(queue.project_id, queue.id, settings=wanted)).ref()
    node.doors.queue_changed(told)
    return told


async def purge(node: Node, queue: QueueRef) -> int:
    wanted = DeadLetterFilter()
    jobs, _ = await node.dead_letters.page(queue.project_id, queue.id, wanted, FIRST, 10)
    ids = [job["id"] for job in jobs]
    return len(await node.dead_letters.purge(queue.id, ids, queue.project_id, OPERATOR, {}))


async def test_a_history_that_was_raised_and_a_purge_are_no_faults(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url, log_retention_all=True) as node:
        hand = Hand(node, project_id)
        queue = await hand.queue(history="none")
        await run(hand, queue, 3)
        assert await hand.rows("jobs") == []
        queue = await tell(node, queue, history="all")
        await run(hand, queue, 2)
        assert len(await hand.rows("jobs")) == 2
        kept = await hand.queue("kept")
        await run(hand, kept, 2, FINAL_ERROR)
        await node.projector.flush()
        assert await purge(node, kept) == 2
        await run(hand, kept, 1)
    assert await kinds(postgres_url) == []
    connection = await connect(postgres_url, application_name="test")
    await connection.execute("DELETE FROM jobs WHERE queue_id = $1", kept.id)
    await connection.execute(
        "UPDATE monthly_usage SET jobs = jobs + 1 WHERE shard = $1", queue.shard
    )
    await connection.close()
    found = ["execution without job", "job missing", "usage jobs"]
    assert sorted(await kinds(postgres_url)) == found


async def test_a_job_that_is_open_and_ended_is_found(postgres_url: str) -> None:
    """No key of the tables keeps that from being."""
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url) as node:
        hand = Hand(node, project_id)
        await run(hand, await hand.queue(), 2)
        await node.projector.flush()
    connection = await connect(postgres_url, application_name="test")
    await connection.execute("CREATE TEMPORARY TABLE again AS SELECT * FROM jobs LIMIT 1")
    await connection.execute("UPDATE again SET status = 'pending', finished_at = NULL")
    await connection.execute("INSERT INTO jobs TABLE again")
    await connection.close()
    assert "job twice" in await kinds(postgres_url)
