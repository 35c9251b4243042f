"""The commands that look after a project, as an operator types them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from typer.testing import CliRunner

from taskforge import AsyncClient, Fail, task
from taskforge.client.blocking_http import BlockingPool
from taskforge.client.http1 import Response
from taskforge.worker import Worker
from taskforge_server.api.cli.main import app
from taskforge_server.api.cli.serving import api_of
from taskforge_server.engine.model.tenant import api_key_text
from taskforge_server.engine.node.node import Node
from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.pool import connect
from tests.support.real_node import SHARDS, running_node

KEY = api_key_text(bytes(range(2, 34)))


@task(queue="mail")
async def broken(number: int) -> None:
    raise Fail(f"number {number}")


@pytest.fixture
async def node(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    connection = await connect(postgres_url, application_name="test")
    await bootstrap(connection, SHARDS, KEY)
    await connection.close()
    async with running_node(postgres_url, lease_ttl_s=20.0) as node:
        server = api_of(node)
        port = await server.start("127.0.0.1", 0)
        monkeypatch.setenv("TASKFORGE_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("TASKFORGE_API_KEY", KEY)
        yield node
        await server.stop(1.0)


async def run(*words: str, status: int = 0, typed: str | None = None) -> str:
    """What the command says."""

    def invoke() -> str:
        done = CliRunner().invoke(app, list(words), input=typed)
        assert done.exit_code == status, done.output
        return done.output.strip()

    return await asyncio.to_thread(invoke)


async def test_a_list_of_queues_is_one_request(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async with AsyncClient() as client:
        for name in ("a", "b", "c"):
            await client.queues.create(name)
    asked: list[bytes] = []
    exchange = BlockingPool.exchange

    def noted(self: BlockingPool, request: bytes, timeout_s: float) -> Response:
        asked.append(request.partition(b" HTTP/")[0])
        return exchange(self, request, timeout_s)

    monkeypatch.setattr(BlockingPool, "exchange", noted)
    assert len((await run("queues", "list")).splitlines()) == 3
    assert [line.partition(b"?")[0] for line in asked] == [b"GET /v1/queues"]


async def test_jobs_and_queues(node: Node) -> None:
    async with AsyncClient() as client:
        await client.queues.create("mail", priority=3)
        await run("queues", "pause", "mail")
        one = await client.submit(broken, number=1, tags=["trial"])
        two = await client.submit(broken, number=2, delay_s=3600)
        assert await run("queues", "list") == (
            "mail priority 3: 1 pending, 1 scheduled, 0 processing paused"
        )
        assert "queue_paused: " in await run("jobs", "why", one.id)
        assert '"number": 1' in await run("jobs", "get", one.id)
        assert await run("jobs", "run-now", two.id) == f"{two.id} pending"
        assert "priority 9" in await run("jobs", "change", two.id, "--priority", "9")
        assert await run("queues", "cancel", "mail", "--dry-run") == "2 jobs would be ended."
        assert await run("queues", "cancel", "mail", "--tag", "trial") == (
            "1 cancelled, 0 asked to end."
        )
        assert await run("jobs", "cancel", two.id) == f"{two.id} cancelled"
        assert await run("jobs", "retry", one.id) == f"{one.id} pending"
        await run("queues", "resume", "mail")
        assert (await client.queues.get("mail")).paused_at is None
        assert "queue_not_found" in await run("queues", "pause", "nowhere", status=1)
        assert "not the id of a job" in await run("jobs", "get", "x", status=2)
        assert "such as 2027-01-31" in await run(
            "jobs", "list", "--created-after", "soon", status=2
        )


async def test_dead_letters(node: Node) -> None:
    async with AsyncClient() as client:
        await client.queues.create("mail")
        worker = Worker(tasks=[broken])
        serving = asyncio.create_task(worker.serve())
        handles = [await client.submit(broken, number=number) for number in range(3)]
        await client.wait_all(handles, 20)
        worker.stop()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        await node.projector.flush()
        listed = await run("dead-letters", "list", "mail", "--reason", "not_retryable")
        assert {line.split()[0] for line in listed.splitlines()} == {job.id for job in handles}
        assert "There are more" in await run("jobs", "list", "--status", "failed", "--most", "2")
        one = ("--most", "1")
        assert await run("dead-letters", "requeue", "mail", "--dry-run") == "3 would be put back."
        assert await run("dead-letters", "requeue", "mail", *one) == "1 put back."
        await node.projector.flush()
        refused = await run("dead-letters", "purge", "mail", *one, typed="n\n", status=1)
        assert refused.startswith("1 would be deleted.")
        assert await run("dead-letters", "purge", "mail", "--yes") == "2 deleted."


async def test_schedules(node: Node) -> None:
    async with AsyncClient() as client:
        await client.queues.create("mail")
        daily = broken.job(number=1)
        await client.schedules.create("nightly", "30 2 * * *", daily, timezone="Europe/Berlin")
        assert (await run("schedules", "list")).startswith(
            "nightly (30 2 * * *) Europe/Berlin mail: next 2"
        )
        await run("schedules", "pause", "nightly")
        assert (await run("schedules", "list", "--queue", "mail")).endswith("mail: paused")
        assert (await run("schedules", "resume", "nightly")).startswith("next ")
        assert '"jitter_s": 0' in await run("schedules", "get", "nightly")
        assert len((await run("schedules", "preview", "nightly", "--count", "2")).split()) == 2
        job_id = await run("schedules", "run-now", "nightly")
        assert (await client.get(job_id)).payload == {"number": 1}
        await run("schedules", "delete", "nightly")
        assert await run("schedules", "list") == ""
