"""Workers through the SDK: found by their own id, drained, assigned, chosen by type."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from typer.testing import CliRunner

from taskforge import AsyncClient, Client, Conflict, NotFound, QueueSettings, task
from taskforge.worker import Worker
from taskforge.worker.cli import parser
from taskforge_server.api.cli import workers
from taskforge_server.api.cli.serving import api_of
from taskforge_server.engine.model.tenant import api_key_text
from taskforge_server.engine.node.node import Node
from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.pool import connect
from tests.support.real_node import SHARDS, running_node

KEY = api_key_text(bytes(range(1, 33)))


@task
async def here() -> str:
    return "here"


@asynccontextmanager
async def working(url: str, **options: object) -> AsyncIterator[Worker]:
    worker = Worker(url, KEY, [here], **options)  # type: ignore[arg-type]
    serving = asyncio.create_task(worker.serve())
    try:
        yield worker
    finally:
        worker.stop()
        with contextlib.suppress(asyncio.CancelledError):
            await serving


@pytest.fixture
async def served(postgres_url: str) -> AsyncIterator[tuple[Node, str]]:
    connection = await connect(postgres_url, application_name="test")
    await bootstrap(connection, SHARDS, KEY)
    await connection.close()
    async with running_node(postgres_url, lease_ttl_s=20.0) as node:
        server = api_of(node)
        port = await server.start("127.0.0.1", 0)
        yield node, f"http://127.0.0.1:{port}"
        await server.stop(1.0)


async def test_operators_manage_workers(served: tuple[Node, str]) -> None:
    node, url = served
    worker_id = str(uuid.uuid4())
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(AsyncClient(url, KEY))
        await client.queues.create("mail")
        await stack.enter_async_context(working(url, worker_id=worker_id, queues=["mail"]))
        handle = await client.submit(here, queue="mail")
        assert await handle.wait(20) == "here"
        assert (await handle.get()).executions[0].worker_id == worker_id
        await node.worker_rows.write()
        drained = await client.workers.drain(worker_id)
        assert (drained.status, drained.drained, drained.running_jobs) == ("draining", True, 0)
        waiting = await client.submit(here, queue="mail")
        listed = [worker.id async for worker in client.workers.list(status="draining")]
        assert listed == [worker_id]
        await client.workers.resume(worker_id)
        assert await waiting.wait(20) == "here"
        made = await client.workers.assign("mail", worker_id, weight=5)
        assert made.weight == 5
        assert [entry async for entry in client.workers.assignments("mail")] == [made]
        assert await (await client.submit(here, queue="mail")).wait(20) == "here"
        with pytest.raises(Conflict):
            await client.workers.delete(worker_id)
        await client.workers.unassign("mail", worker_id)
        with pytest.raises(NotFound):
            await client.workers.unassign("mail", worker_id)
        await asyncio.to_thread(the_same_without_a_loop, url, worker_id)


def the_same_without_a_loop(url: str, worker_id: str) -> None:
    with Client(url, KEY) as client:
        assert client.workers.drain(worker_id).drained
        assert [worker.id for worker in client.workers.list()] == [worker_id]
        assert not client.workers.resume(worker_id).drained
        made = client.workers.assign("mail", worker_id, is_active=False)
        assert list(client.workers.assignments("mail")) == [made]
        client.workers.unassign("mail", worker_id)
        with pytest.raises(Conflict):
            client.workers.delete(worker_id)
        with pytest.raises(NotFound):
            client.workers.get(str(uuid.uuid4()))


async def test_a_queue_asks_for_a_type_of_worker(served: tuple[Node, str]) -> None:
    _, url = served
    async with AsyncClient(url, KEY) as client:
        settings = QueueSettings(worker_types=["specialized_io"])
        queue = await client.queues.create("files", settings=settings)
        assert queue.settings.worker_types == ["specialized_io"]
        async with working(url, queues=["files"]):
            waiting = await client.submit(here, queue="files")
            async with working(url, queues=["files"], worker_type="specialized_io") as special:
                assert await waiting.wait(20) == "here"
                ran = (await waiting.get()).executions
                assert [run.worker_id for run in ran] == [str(special.worker_id)]


def test_options_of_a_worker() -> None:
    given = parser().parse_args(["app", "--type", "specialized_cpu", "--worker-id", "x"])
    assert (given.worker_type, given.worker_id) == ("specialized_cpu", "x")
    with pytest.raises(ValueError, match="worker_type"):
        Worker("http://localhost", "k", [here], worker_type="huge")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="UUID"):
        Worker("http://localhost", "k", [here], worker_id="x")


async def test_the_command_manages_workers(
    served: tuple[Node, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, url = served
    monkeypatch.setenv("TASKFORGE_URL", url)
    monkeypatch.setenv("TASKFORGE_API_KEY", KEY)
    async with AsyncClient(url, KEY) as client:
        await client.queues.create("mail")
        async with working(url, queues=["mail"], name="box") as worker:
            await (await client.submit(here, queue="mail")).wait(20)
            await node.worker_rows.write()
            worker_id = str(worker.worker_id)

            async def run(*words: str) -> tuple[int, str]:
                done = await asyncio.to_thread(CliRunner().invoke, workers.app, list(words))
                return done.exit_code, done.output.strip()

            assert await run("list") == (0, f"{worker_id} online general 0 box")
            assert await run("drain", worker_id) == (0, "draining, 0 jobs left")
            assert await run("list", "--status", "online") == (0, "")
            assert await run("resume", worker_id) == (0, "online")
            assert await run("assign", "mail", worker_id, "--weight", "7") == (0, "")
            assert await run("assignments", "mail") == (0, f"{worker_id} 7 active")
            assert await run("unassign", "mail", worker_id) == (0, "")
            code, said = await run("drain", str(uuid.uuid4()))
            assert (code, said.startswith("taskforge: ")) == (1, True)
