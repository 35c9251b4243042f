"""The rate of a project over real time: several clients at several nodes, over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest

from taskforge_server.api.cli.serving import api_of
from taskforge_server.engine import limits
from taskforge_server.engine.model.audit import OPERATOR
from taskforge_server.engine.model.tenant import api_key_text
from taskforge_server.engine.node.node import Node
from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.pool import connect
from tests.support.real_node import SHARDS, config_for

KEY = api_key_text(b"k" * 32)
RATE_PER_S = 50
SECONDS = 30
PRESSING_S = 0.004
"""Each client alone would have more than the rate."""


@asynccontextmanager
async def serving(postgres_url: str, redis_url: str) -> AsyncIterator[tuple[Node, str]]:
    """A node that talks to others over Redis, and its address."""
    node = Node(config_for(postgres_url, redis_url=redis_url, lease_ttl_s=30.0))
    await node.start()
    try:
        api = api_of(node)
        port = await api.start("127.0.0.1", 0)
        try:
            yield node, f"http://127.0.0.1:{port}/v1/queues"
        finally:
            await api.stop(1.0)
    finally:
        await node.stop()


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_four_clients_at_two_nodes_get_their_rate_to_one_percent(
    postgres_url: str, redis_url: str
) -> None:
    connection = await connect(postgres_url, application_name="test")
    organization_id = (await bootstrap(connection, SHARDS, KEY)).organization_id
    await connection.close()
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(serving(postgres_url, redis_url)) for _ in range(2)
        ]
        changes = {"max_requests_per_second": RATE_PER_S}
        await nodes[0][0].subscriptions.agree(organization_id, OPERATOR, changes=changes)
        client = await stack.enter_async_context(
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"})
        )
        until_s = loop.time() + SECONDS
        seen_s, missed_s = loop.time(), 0.0

        async def press(url: str) -> tuple[int, int]:
            """How many requests got in, and how many did not."""
            nonlocal seen_s, missed_s
            counts = {200: 0, 429: 0}
            while loop.time() < until_s:
                # What nobody asked for in time, for the machine was busy, nobody can be given.
                missed_s += max(0.0, loop.time() - seen_s - limits.RATE_BURST_S)
                seen_s = loop.time()
                async with client.get(url) as answer:
                    counts[answer.status] += 1
                await asyncio.sleep(PRESSING_S)
            return counts[200], counts[429]

        found = await asyncio.gather(*(press(url) for _, url in nodes for _ in range(2)))
    let_in = sum(count for count, _ in found)
    refused = sum(count for _, count in found)
    assert refused > let_in / 10, "they did not press enough to say anything"
    wanted = RATE_PER_S * SECONDS
    assert 0.99 * (wanted - RATE_PER_S * missed_s) <= let_in <= 1.01 * wanted, (let_in, missed_s)
