"""Lines of handlers and the node: what the projector takes away, what a restart leaves."""

from typing import Any

import msgpack

from taskforge_server.engine.cluster.memory import Exchange, MemoryCluster
from taskforge_server.engine.model.execution import log_number
from taskforge_server.engine.node.node import Node
from tests.support.engine_parts import KeptOutlet, done
from tests.support.real_node import Hand, arrives, config_for, kill, prepared, running_node


def logs(seq: int, token: bytes, number: int, *messages: str) -> bytes:
    lines = [[0, 0, message, None] for message in messages]
    frame: bytes = msgpack.packb([6, seq, [[token, number, lines]]])
    return frame


async def numbers(hand: Hand) -> list[int]:
    """Of the lines in the table."""
    rows = await hand.node.pool.fetch("SELECT id FROM execution_logs ORDER BY id")
    return [log_number(row["id"]) for row in rows]


async def started(hand: Hand, **settings: Any) -> tuple[bytes, Any, KeptOutlet]:
    """Token, session and connection of a job that runs."""
    queue = await hand.queue(**settings)
    worker, outlet = await hand.worker(queue)
    await hand.submit(queue)
    await arrives(outlet, outlet.tokens)
    return outlet.tokens()[0], worker, outlet


async def test_lines_of_an_execution_go_with_its_row(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url) as node:
        hand = Hand(node, project_id)
        token, worker, outlet = await started(hand, history="failed")
        await worker.receive([logs(1, token, 1, "a", "b")])
        await arrives(outlet, lambda: outlet.of(16) == [[16, 1]])
        assert len(await hand.rows("job_executions")) == 1
        assert await numbers(hand) == [1, 2]
        node.core.logs._doubtful.clear()  # the projector alone sees to it
        await worker.receive([done(1, token)])
        await arrives(outlet, lambda: outlet.of(12))
        assert await hand.rows("job_executions") == []
        assert await numbers(hand) == []


async def test_after_a_crash_lines_go_on_and_none_stands_twice(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    node = Node(
        config_for(postgres_url, lease_ttl_s=30.0),
        lambda node_id: MemoryCluster(Exchange(), node_id),
    )
    await node.start()
    token, worker, outlet = await started(Hand(node, project_id))
    await worker.receive([logs(1, token, 1, "a", "b")])
    await arrives(outlet, lambda: outlet.of(16) == [[16, 1]])
    await kill(node)
    async with running_node(postgres_url, lease_ttl_s=30.0) as node:
        hand = Hand(node, project_id)
        queue = await node.queues.get(project_id, "mail")
        worker, outlet = await hand.worker(
            queue.ref(), worker_id=worker.hello.worker_id, running=token
        )
        assert outlet.of(10)[0][1]["kept"] == token
        # The ack was lost with the node: the worker sends the frame again, and goes on.
        await worker.receive([logs(1, token, 1, "a", "b"), logs(2, token, 3, "c"), done(1, token)])
        await arrives(outlet, lambda: [frame[1] for frame in outlet.of(16)] == [1, 2])
        assert await numbers(hand) == [1, 2, 3]


async def test_a_stopping_node_writes_what_it_has(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url) as node:
        hand = Hand(node, project_id)
        token, worker, _ = await started(hand)
        await worker.receive([logs(1, token, 1, "last words"), done(1, token)])
        await arrives(worker.outlet, lambda: worker.outlet.of(12))
    async with running_node(postgres_url) as node:
        assert await numbers(Hand(node, project_id)) == [1]
