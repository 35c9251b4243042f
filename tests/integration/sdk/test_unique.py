"""Unique keys over HTTP and the SDK, and that a crash lets no second job in."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from taskforge import AsyncClient, Conflict, JobSpec, SubmitError, task
from taskforge_server.api.cli.serving import api_of
from taskforge_server.engine.cluster.memory import Exchange, MemoryCluster
from taskforge_server.engine.model.tenant import api_key_text
from taskforge_server.engine.node.node import Node
from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.pool import connect
from tests.support.real_node import SHARDS, config_for, kill

KEY = api_key_text(bytes(32))


@task
async def sync(n: int) -> int:
    return n


@dataclass
class Stack:
    """A server that can be killed and started again."""

    postgres_url: str
    node: Node | None = None
    server: Any = None
    client: Any = None
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        exchange = Exchange()
        config = config_for(self.postgres_url)
        self.node = Node(config, lambda node_id: MemoryCluster(exchange, node_id))
        await self.node.start()
        self.server = api_of(self.node)
        self.port = await self.server.start("127.0.0.1", 0)
        self.client = AsyncClient(self.url, KEY)

    async def stop(self) -> None:
        assert self.node is not None
        await self.client.close()
        await self.server.stop(1.0)
        await self.node.stop()

    async def crash(self) -> None:
        """Killed, and started again."""
        assert self.node is not None
        await self.client.close()
        await self.server.stop(0.1)
        await kill(self.node)
        await self.start()


@pytest.fixture
async def stack(postgres_url: str) -> AsyncIterator[Stack]:
    connection = await connect(postgres_url, application_name="test")
    await bootstrap(connection, SHARDS, KEY)
    await connection.close()
    made = Stack(postgres_url)
    await made.start()
    await made.client.queues.create("default")
    yield made
    await made.stop()


def keyed(key: str, **unique: Any) -> Any:
    return sync.configure(unique_key=key, unique=unique)


async def test_the_job_that_is_there_is_given(stack: Stack) -> None:
    client = stack.client
    first = await client.submit(keyed("k"), n=1)
    assert first.unique is None
    again = await client.submit(keyed("k"), n=2)
    assert (again.id, again.unique) == (first.id, "existing")
    job = await again.get()
    assert (job.payload, job.unique_key) == ({"n": 1}, "k")
    with pytest.raises(Conflict, match="holds this key") as caught:
        await client.submit(keyed("k", on_conflict="reject"), n=3)
    assert (caught.value.code, caught.value.job_id) == ("unique_conflict", first.id)
    await first.cancel()
    third = await client.submit(keyed("k"), n=4)
    assert third.id != first.id
    with pytest.raises(Conflict) as caught:
        await first.retry()
    assert caught.value.job_id == third.id


async def test_the_last_payload_counts_where_that_is_asked(stack: Stack) -> None:
    client = stack.client
    first = await client.submit(keyed("k", on_conflict="replace"), n=1, delay_s=3_600)
    again = await client.submit(keyed("k", on_conflict="replace"), n=2)
    assert (again.id, again.unique) == (first.id, "replaced")
    assert (await first.get()).payload == {"n": 2}
    one = await client.submit(keyed("d", on_conflict="debounce", debounce_s=600), n=1)
    before = (await one.get()).scheduled_for
    two = await client.submit(keyed("d", on_conflict="debounce", debounce_s=900), n=2)
    job = await two.get()
    assert (two.id, two.unique, job.payload) == (one.id, "debounced", {"n": 2})
    assert job.scheduled_for > before


async def test_items_of_a_batch_are_decided_in_their_order(stack: Stack) -> None:
    specs = [
        sync.job(n=0),
        JobSpec(keyed("a"), {"n": 1}),
        JobSpec(keyed("a"), {"n": 2}),
        JobSpec(keyed("a", on_conflict="reject"), {"n": 3}),
        sync.job(n=4),
        JobSpec(sync, {"n": 5}, priority=99),
        JobSpec(keyed("b"), {"n": 6}),
    ]
    found = await stack.client.submit_many(specs)
    rejected, invalid = found[3], found[5]
    assert isinstance(rejected, SubmitError)
    assert isinstance(invalid, SubmitError)
    assert (rejected.code, rejected.index, invalid.field) == ("unique_conflict", 3, "priority")
    ids = [job.id for job in found if not isinstance(job, SubmitError)]
    assert ids[1] == ids[2] == rejected.job_id
    assert len(set(ids)) == 4
    assert [(await stack.client.get(id)).payload["n"] for id in ids] == [0, 1, 1, 4, 6]


async def raw(stack: Stack, body: Any, path: str = "jobs", **headers: str) -> tuple[int, Any, Any]:
    sent = {"Authorization": f"Bearer {KEY}", **headers}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{stack.url}/v1/queues/default/{path}", json=body, headers=sent) as answer,
    ):
        return answer.status, await answer.json(), answer.headers


async def test_over_http_with_and_without_an_idempotency_key(stack: Stack) -> None:
    body = {"job_type": "sync", "payload": {"n": 1}, "unique_key": "k"}
    status, first, _ = await raw(stack, body, **{"Idempotency-Key": "one"})
    assert (status, first["status"]) == (201, "pending")
    status, again, headers = await raw(stack, body, **{"Idempotency-Key": "one"})
    assert (again["id"], headers["Idempotent-Replay"]) == (first["id"], "true")
    for _ in range(2):  # the second one goes the short way
        status, met, _ = await raw(stack, body)
        assert (status, met["id"], met["unique"]) == (200, first["id"], "existing")
        rejecting = body | {"unique": {"on_conflict": "reject"}}
        status, problem, _ = await raw(stack, rejecting)
        assert (status, problem["code"], problem["job_id"]) == (
            409,
            "unique_conflict",
            first["id"],
        )
    jobs = [rejecting, {"job_type": "sync"}]
    for replayed in (None, "true"):
        status, answer, headers = await raw(
            stack, {"jobs": jobs}, "jobs/batch", **{"Idempotency-Key": "many"}
        )
        assert headers.get("Idempotent-Replay") == replayed
        assert answer["results"][0]["error"]["code"] == "unique_conflict"
        assert "id" in answer["results"][1]


async def test_rules_that_make_no_sense(stack: Stack) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"unique": {}}, "unique"),
        ({"unique_key": "k", "unique": {"scope": "period"}}, "unique.period_s"),
        ({"unique_key": "k", "unique": {"period_s": 5}}, "unique.period_s"),
        ({"unique_key": "k", "unique": {"on_conflict": "debounce"}}, "unique.debounce_s"),
        ({"unique_key": "k" * 200 + "ö" * 50}, "unique_key"),
    ]
    for fields, field in wrong:
        status, problem, _ = await raw(stack, {"job_type": "sync", **fields})
        assert (status, problem["field"]) == (422, field), problem


async def test_after_a_crash_every_key_is_still_held(stack: Stack) -> None:
    client = stack.client
    waiting = await client.submit(keyed("w", scope="waiting"), n=1)
    unfinished = await client.submit(keyed("u", scope="unfinished"), n=2)
    period = await client.submit(keyed("p", scope="period", period_s=600), n=3)
    early = await client.submit(keyed("e", scope="period", period_s=600), n=4)
    await early.cancel()
    assert stack.node is not None
    await (
        stack.node.projector.flush()
    )  # the one is in the tables, the others may be in the log alone
    await period.cancel()
    for _ in range(2):
        await stack.crash()
        client = stack.client
        for job, key in ((waiting, "w"), (unfinished, "u"), (period, "p"), (early, "e")):
            again = await client.submit(keyed(key), n=9)
            assert (again.id, again.unique) == (job.id, "existing"), key
