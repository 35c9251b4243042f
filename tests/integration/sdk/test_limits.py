"""Limits over HTTP and the SDK, on a real node: the guide's program, settings that change."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator

import pytest

from taskforge import AsyncClient, InvalidInput, QueueSettings, Rate, task
from taskforge.worker import Worker
from taskforge_server.api.cli.serving import api_of
from taskforge_server.engine.model.tenant import api_key_text
from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.pool import connect
from tests.support.real_node import SHARDS, running_node
from tests.support.reference import ROOT

KEY = api_key_text(bytes(32))
PAGE = ROOT / "docs" / "guides" / "limits.md"
PROGRAM = ROOT / "docs" / "examples" / "limits.py"


@pytest.fixture
async def url(postgres_url: str) -> AsyncIterator[str]:
    connection = await connect(postgres_url, application_name="test")
    await bootstrap(connection, SHARDS, KEY)
    await connection.close()
    async with running_node(postgres_url) as node:
        server = api_of(node)
        port = await server.start("127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            await server.stop()


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


async def test_the_program_of_the_guide_runs(url: str) -> None:
    assert block("python") == PROGRAM.read_text(encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if "TASKFORGE" not in name}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROGRAM),
        env=kept | {"TASKFORGE_URL": url, "TASKFORGE_API_KEY": KEY},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    told, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert told.decode() == block("text")


gate = asyncio.Event()
begun: list[int] = []
news = asyncio.Event()


@task(queue="doors")
async def behind_the_gate(number: int) -> None:
    begun.append(number)
    news.set()
    await gate.wait()


async def until_begun(count: int) -> None:
    async with asyncio.timeout(20):
        while len(begun) < count:
            news.clear()
            await news.wait()


async def test_limits_are_settings_that_hold_at_once(url: str) -> None:
    gate.clear()
    begun.clear()
    async with AsyncClient(url, KEY) as client:
        settings = QueueSettings(max_concurrency=1, rate=Rate(per_s=1000.0, burst=3))
        made = await client.queues.create("doors", settings=settings)
        assert (made.settings.max_concurrency, made.settings.rate) == (1, settings.rate)
        jobs = [
            await client.submit(behind_the_gate.configure(group_key="ada"), number=number)
            for number in range(4)
        ]
        worker = Worker(url, KEY, [behind_the_gate])
        working = asyncio.create_task(worker.serve())
        await until_begun(1)
        counts = (await client.queues.get("doors")).counts
        assert (counts.pending, counts.processing) == (3, 1)
        await client.queues.update("doors", settings=QueueSettings(max_concurrency=3))
        await until_begun(3)
        counts = (await client.queues.get("doors")).counts
        assert (counts.pending, counts.processing) == (1, 3)
        gate.set()
        for job in jobs:
            await job.wait(timeout_s=20)
        assert begun == [0, 1, 2, 3]
        assert (await client.get(jobs[0].id)).group_key == "ada"
        worker.stop()
        await working


async def test_what_cannot_be_is_refused_by_its_field(url: str) -> None:
    async with AsyncClient(url, KEY) as client:
        with pytest.raises(InvalidInput) as refused:
            await client.queues.create("x", settings=QueueSettings(max_concurrency=0))
        assert refused.value.field == "settings.max_concurrency"
        slow = QueueSettings(rate=Rate(per_s=0.001, burst=1_000_000))
        with pytest.raises(InvalidInput) as refused:
            await client.queues.create("x", settings=slow)
        assert refused.value.field == "settings.rate.burst"
        await client.queues.create("doors")
        for key in ("", "x" * 256, "ü" * 200):
            with pytest.raises(InvalidInput) as refused:
                await client.submit(behind_the_gate.configure(group_key=key), number=1)
            assert refused.value.field == "group_key"
