"""What people want of workers, over HTTP: at once on this node, soon on others, after a restart."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from taskforge_server.api.cli.serving import api_of
from taskforge_server.engine.cluster.memory import Exchange, MemoryCluster
from taskforge_server.engine.model.tenant import api_key_text
from taskforge_server.engine.node.node import Node
from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.pool import connect
from tests.support.engine_parts import done
from tests.support.real_node import SHARDS, Hand, arrives, config_for, kill, running_node
from tests.support.tenancy import stranger

KEY = api_key_text(bytes(range(32)))
A, B = b"a" * 16, b"b" * 16


class Api:
    """A node's routes, called with the project's key."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        async with self._session.request(
            method,
            self._url + path,
            headers=headers,
            data=None if body is None else json.dumps(body),
        ) as response:
            text = await response.read()
            return response.status, json.loads(text) if text else None

    async def ok(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = await self(method, path, body)
        assert status in (200, 201, 204), answer
        return answer


@asynccontextmanager
async def serving(node: Node) -> AsyncIterator[Api]:
    server = api_of(node)
    port = await server.start("127.0.0.1", 0)
    async with aiohttp.ClientSession() as session:
        try:
            yield Api(session, f"http://127.0.0.1:{port}")
        finally:
            await server.stop(1.0)


async def prepared(url: str) -> bytes:
    connection = await connect(url, application_name="test")
    try:
        return (await bootstrap(connection, SHARDS, KEY)).project_id
    finally:
        await connection.close()


def text(worker_id: bytes) -> str:
    return str(uuid.UUID(bytes=worker_id))


async def test_a_worker_is_drained_and_resumed(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url, lease_ttl_s=30.0) as node, serving(node) as api:
        hand = Hand(node, project_id)
        queue = await hand.queue()
        worker, outlet = await hand.worker(queue, worker_id=A)
        await hand.submit(queue, 2)
        await arrives(outlet, lambda: len(outlet.tokens()) == 2)
        await node.worker_rows.write()
        path = f"/v1/workers/{text(A)}"
        seen = await api.ok("GET", path)
        assert (seen["status"], seen["running_jobs"], seen["healthy"]) == ("online", 2, True)
        drained = await api.ok("POST", f"{path}/drain")
        assert (drained["status"], drained["drained"]) == ("draining", True)
        await hand.submit(queue, 3)
        await worker.receive([done(1, b"".join(outlet.tokens()))])
        await arrives(outlet, lambda: outlet.of(12) == [[12, 1, b""]])
        assert len(outlet.tokens()) == 2
        assert (await api.ok("GET", path))["running_jobs"] == 0
        listed = await api.ok("GET", "/v1/workers?status=draining")
        assert [item["id"] for item in listed["items"]] == [text(A)]
        assert (await api("DELETE", path))[1]["code"] == "worker_connected"
        await node.worker_rows.write()
        assert (await api.ok("GET", path))["status"] == "draining"
        resumed = await api.ok("POST", f"{path}/resume")
        assert (resumed["status"], resumed["drained"]) == ("online", False)
        await arrives(outlet, lambda: len(outlet.tokens()) == 5)


async def test_a_drained_worker_stays_drained_over_reconnect_and_restart(
    postgres_url: str,
) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url) as node, serving(node) as api:
        hand = Hand(node, project_id)
        queue = await hand.queue()
        first, _ = await hand.worker(queue, worker_id=A)
        await node.worker_rows.write()
        await api.ok("POST", f"/v1/workers/{text(A)}/drain")
        first.detach()
        _, again = await hand.worker(queue, worker_id=A)
        _, other = await hand.worker(queue, worker_id=B)
        await hand.submit(queue, 3)
        await arrives(other, lambda: len(other.tokens()) == 3)
        assert again.tokens() == []
    async with running_node(postgres_url) as node, serving(node) as api:
        hand = Hand(node, project_id)
        _, drained = await hand.worker(queue, worker_id=A)
        _, other = await hand.worker(queue, worker_id=B, credit=4)
        await hand.submit(queue, 5)
        await arrives(other, lambda: len(other.tokens()) == 4)
        assert drained.tokens() == []
        await api.ok("POST", f"/v1/workers/{text(A)}/resume")
        await arrives(drained, drained.tokens)


async def test_assigned_workers_serve_a_queue_by_weight(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url) as node, serving(node) as api:
        hand = Hand(node, project_id)
        queue = await hand.queue()
        outlets = {}
        for worker_id in (A, B, b"c" * 16):
            _, outlets[worker_id] = await hand.worker(queue, worker_id=worker_id, credit=10_000)
        await node.worker_rows.write()
        path = "/v1/queues/mail/assignments"
        made = await api.ok("PUT", f"{path}/{text(A)}", {"weight": 3})
        assert (made["weight"], made["is_active"]) == (3, True)
        await api.ok("PUT", f"{path}/{text(B)}", {})
        await hand.submit(queue, 400)
        await arrives(outlets[B], lambda: len(outlets[B].tokens()) == 100)
        await arrives(outlets[A], lambda: len(outlets[A].tokens()) == 300)
        listed = await api.ok("GET", path)
        assert [(item["worker_id"], item["weight"]) for item in listed["items"]] == [
            (text(A), 3),
            (text(B), 1),
        ]
        await api.ok("PUT", f"{path}/{text(A)}", {"weight": 3, "is_active": False})
        await hand.submit(queue, 10)
        await arrives(outlets[B], lambda: len(outlets[B].tokens()) == 110)
        await api.ok("DELETE", f"{path}/{text(B)}")
        assert (await api("GET", f"{path}/{text(B)}"))[1]["code"] == "assignment_not_found"
        assert outlets[b"c" * 16].tokens() == []
        await hand.submit(queue, 3)
        await arrives(outlets[b"c" * 16], lambda: len(outlets[b"c" * 16].tokens()) == 1)


async def test_jobs_go_to_workers_of_the_types_that_the_queue_names(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url) as node, serving(node) as api:
        hand = Hand(node, project_id)
        queue = await hand.queue("video", worker_types=["specialized_cpu"])
        _, general = await hand.worker(queue)
        await hand.submit(queue)
        assert general.tokens() == []
        changed = await api.ok(
            "PATCH", "/v1/queues/video", {"settings": {"worker_types": ["general"]}}
        )
        assert changed["settings"]["worker_types"] == ["general"]
        await arrives(general, general.tokens)
        bad = {"settings": {"worker_types": ["huge"]}}
        assert (await api("PATCH", "/v1/queues/video", bad))[0] == 422


async def test_what_another_node_changed_is_heard_of(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    exchange = Exchange()
    async with running_node(postgres_url, exchange) as first, serving(first) as api:
        hand = Hand(first, project_id)
        mail, slow = await hand.queue("mail"), await hand.queue("slow")
        for worker_id in (A, B):
            await hand.worker(mail, worker_id=worker_id)
        await first.worker_rows.write()
        await api.ok("POST", f"/v1/workers/{text(A)}/drain")
        await api.ok("PUT", f"/v1/queues/slow/assignments/{text(A)}", {})
        async with running_node(postgres_url, exchange) as second:
            there = Hand(second, project_id)
            _, a = await there.worker(mail, worker_id=A)
            _, b = await there.worker(slow, worker_id=B)
            await there.submit(mail)
            await there.submit(slow)
            assert (a.tokens(), b.tokens()) == ([], [])
            async with asyncio.timeout(20):
                await api.ok("POST", f"/v1/workers/{text(A)}/resume")
                await arrives(a, a.tokens)
                await api.ok("DELETE", f"/v1/queues/slow/assignments/{text(A)}")
                await arrives(b, b.tokens)


async def test_bad_ids_are_not_found(postgres_url: str) -> None:
    await prepared(postgres_url)
    async with running_node(postgres_url) as node, serving(node) as api:
        for path in ("/v1/workers/x", f"/v1/workers/{text(A)}"):
            assert (await api("GET", path))[1]["code"] == "worker_not_found"
        assert (await api("GET", "/v1/queues/no/assignments"))[1]["code"] == "queue_not_found"
        assert (await api("GET", "/v1/workers?cursor=x"))[0] == 422


async def test_a_worker_that_nobody_heard_of_is_offline(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    config = config_for(postgres_url, lease_ttl_s=1.0)
    killed = Node(config, lambda node_id: MemoryCluster(Exchange(), node_id))
    await killed.start()
    hand = Hand(killed, project_id)
    await hand.worker(await hand.queue(), worker_id=A)
    await killed.worker_rows.write()
    await kill(killed)
    async with running_node(postgres_url, lease_ttl_s=1.0) as node, serving(node) as api:
        path = f"/v1/workers/{text(A)}"
        async with asyncio.timeout(20):
            while (await api.ok("GET", path))["status"] != "offline":  # noqa: ASYNC110 - told by none
                await asyncio.sleep(0.1)
        gone = await api.ok("GET", path)
        assert (gone["healthy"], gone["running_jobs"]) == (False, None)
        await api.ok("DELETE", path)


async def test_the_id_of_another_projects_worker_is_not_to_be_had(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    connection = await connect(postgres_url, application_name="test")
    _, foreign_id = await stranger(connection)
    await connection.close()
    async with running_node(postgres_url, lease_ttl_s=30.0) as node, serving(node) as api:
        hand, thief = Hand(node, project_id), Hand(node, foreign_id)
        own, _ = await hand.worker(await hand.queue(), worker_id=A)
        await node.worker_rows.write()
        node.core.leases.drop(own.id)
        own.detach()
        await node.worker_rows.write()
        queue = await thief.queue()
        stealing, outlet = await thief.worker(queue, worker_id=A)
        await thief.submit(queue)
        await node.worker_rows.write()
        assert stealing.ended
        assert outlet.closed is not None
        assert outlet.closed[0] == 1008
        seen = await api.ok("GET", f"/v1/workers/{text(A)}")
        assert (seen["status"], seen["running_jobs"]) == ("offline", None)
        assert node.doors.queue_counts(queue) == (1, 0, 0)
