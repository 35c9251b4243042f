"""Schedules through the SDK, and the program of the guide."""

import asyncio
import os
import sys
import time
from datetime import UTC, datetime

import pytest

from taskforge import Client, Conflict, Context, InvalidInput, JobSpec, NotFound, settings, task
from taskforge.client.schedules import declared
from taskforge.worker import Worker
from taskforge.worker.declaring import declare
from taskforge_server.api.cli.serving import api_of
from taskforge_server.engine.model.tenant import api_key_text
from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.pool import connect
from tests.support.real_node import SHARDS, running_node
from tests.support.reference import ROOT

KEY = api_key_text(bytes(32))
PROGRAM = ROOT / "docs" / "examples" / "schedules.py"
SAID = """\
digests 30 2 * * * skip latest
2026-03-28T01:30:00+00:00
2026-03-29T01:00:00+00:00
2026-03-30T00:30:00+00:00
daily report
True None
tidy_up 0 3 * * * Europe/Berlin
['nightly', 'often', 'tidy_up']
"""


@task(queue="mail", priority=3, max_attempts=2)
async def remind(name: str) -> None:
    """Never run here."""


@task(queue="mail", cron="30 2 * * *", timezone="Europe/Berlin", overlap="skip")
async def tidy_up(ctx: Context, depth: int = 1) -> None:
    """Never run here."""


async def test_the_program_of_the_guide_and_the_blocking_client(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    connection = await connect(postgres_url, application_name="test")
    await bootstrap(connection, SHARDS, KEY)
    await connection.close()
    async with running_node(postgres_url) as node:
        server = api_of(node)
        port = await server.start("127.0.0.1", 0)
        url = f"http://127.0.0.1:{port}"
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
        assert told.decode() == SAID
        await declare(settings.server(url, KEY), declared([tidy_up]))
        assert "queue_not_found" in caplog.text, "it was said, and a worker works on"
        await asyncio.to_thread(blocking, url)
        worker = Worker(url, KEY, [tidy_up])
        serving = asyncio.create_task(worker.serve())
        await asyncio.to_thread(declared_by_a_worker, url)
        worker.stop()
        await serving
        await server.stop(1.0)


def declared_by_a_worker(url: str) -> None:
    with Client(url, KEY) as client:
        deadline = time.monotonic() + 20
        while not (found := list(client.schedules.list())):
            assert time.monotonic() < deadline
        (made,) = found
        assert (made.name, made.cron, made.timezone, made.overlap, made.queue) == (
            "tidy_up",
            "30 2 * * *",
            "Europe/Berlin",
            "skip",
            "mail",
        )
        assert made.job == {"job_type": "tidy_up", "payload": {}, "priority": 0}
        assert list(client.schedules.declare(tidy_up, remind)) == [made]


def blocking(url: str) -> None:
    with Client(url, KEY) as client:
        client.queues.create("mail")
        made = client.schedules.create(
            "yearly", "@yearly", remind.job(name="Ada"), jitter_s=5, catch_up="all", window_s=60
        )
        assert made.job["payload"] == {"name": "Ada"}
        assert (made.job["priority"], made.job["max_attempts"]) == (3, 2)
        assert (made.jitter_s, made.catch_up, made.window_s) == (5, "all", 60)
        assert made.next_at is not None
        assert made.next_at == client.schedules.preview("yearly", 1)[0]
        changed = client.schedules.update(
            made.id, job=JobSpec("remind", {"name": "Bob"}, queue="mail", tags=["x"])
        )
        assert changed.job == {
            "job_type": "remind",
            "payload": {"name": "Bob"},
            "priority": 0,
            "tags": ["x"],
        }
        assert client.schedules.pause("yearly").paused
        assert not client.schedules.resume("yearly").paused
        job = client.get(client.schedules.run_now("yearly").id)
        assert (job.job_type, job.payload, job.queue) == ("remind", {"name": "Bob"}, "mail")
        assert [one.name for one in client.schedules.list()] == ["yearly"]
        leap = datetime(2026, 1, 1, tzinfo=UTC)
        assert client.schedules.preview_cron("0 0 29 2 *", count=1, after=leap) == [
            datetime(2028, 2, 29, tzinfo=UTC)
        ]
        with pytest.raises(Conflict):
            client.queues.delete("mail")
        with pytest.raises(InvalidInput):
            client.schedules.preview_cron("often")
        client.schedules.delete("yearly")
        with pytest.raises(NotFound):
            client.schedules.get("yearly")
        with pytest.raises(TypeError):
            client.schedules.create("wrong", "@daily", remind.job(nobody="Ada"))
