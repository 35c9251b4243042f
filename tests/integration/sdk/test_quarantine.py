"""A job that takes its worker's process down is set aside with that reason, and stays visible."""

import asyncio
import os
import sys

from taskforge import AsyncClient, QueueSettings
from taskforge_server.api.cli.serving import api_of
from taskforge_server.engine.model.tenant import api_key_text
from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.pool import connect
from tests.support.real_node import SHARDS, running_node

KEY = api_key_text(bytes(32))
WORKER = """
import os, signal
from taskforge import task
from taskforge.worker import Worker

@task
def deadly():
    os.kill(os.getpid(), signal.SIGKILL)

Worker(tasks=[deadly]).run()
"""


async def test_a_job_that_kills_its_workers_is_quarantined(postgres_url: str) -> None:
    connection = await connect(postgres_url, application_name="test")
    await bootstrap(connection, SHARDS, KEY)
    await connection.close()
    async with running_node(postgres_url, lease_ttl_s=1.0) as node:
        server = api_of(node)
        url = f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}"
        async with AsyncClient(url, KEY) as client:
            await client.queues.create("default", settings=QueueSettings(crashes_max=2))
            handle = await client.submit("deadly", queue="default")
            assert [await die(url) for _ in range(2)] == [-9, -9]
            job = await client.wait(handle.id, 20)
            assert (job.status, job.failed_reason) == ("failed", "quarantined")
            assert job.attempts == 2
            await node.projector.flush()
            letters = [
                job async for job in client.dead_letters.list("default", reasons=["quarantined"])
            ]
            assert [letter.id for letter in letters] == [handle.id]
            lost = [entry.error["type"] for entry in letters[0].executions]
            assert lost == ["worker_lost", "worker_lost"]
        await server.stop(1.0)


async def die(url: str) -> int:
    """A worker that lives until the job kills it; its exit status."""
    kept = {name: value for name, value in os.environ.items() if "TASKFORGE" not in name}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, env=kept | {"TASKFORGE_URL": url, "TASKFORGE_API_KEY": KEY}
    )
    async with asyncio.timeout(30):
        return await process.wait()
