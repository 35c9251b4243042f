"""Cancel, change, pause, expire and time limits through HTTP and the stream, as users meet them."""

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator
from typing import ClassVar

import pytest

from taskforge import (
    AsyncClient,
    Client,
    Conflict,
    Context,
    InvalidInput,
    JobCancelled,
    QueueSettings,
    RetryPolicy,
    SoftTimeout,
    task,
)
from taskforge.worker import Worker
from taskforge_server.api.cli.serving import api_of
from taskforge_server.engine.model.tenant import api_key_text
from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.pool import connect
from tests.support.real_node import SHARDS, running_node
from tests.support.reference import ROOT

KEY = api_key_text(bytes(32))
PROGRAM = ROOT / "docs" / "examples" / "control.py"
SAID = """\
told to stop: cancelled
cancelled cancelled
True: the first pages of 1000000
expired
pending 9
3
3
{'cancelled'}
all 2 pages
"""


class Seen:
    """What handlers tell the test."""

    begun = asyncio.Event()
    let_go = asyncio.Event()
    told: ClassVar[list[object]] = []
    thread_begun = threading.Event()
    tick = threading.Event()


@task
async def obedient(ctx: Context) -> None:
    Seen.begun.set()
    try:
        await asyncio.Event().wait()
    finally:
        Seen.told.append(ctx.stop_reason)


@task
async def finishing() -> str:
    Seen.begun.set()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return "saved"
    return "never"


@task
def in_thread(ctx: Context) -> None:
    Seen.thread_begun.set()
    while not ctx.cancelled:
        Seen.tick.wait(0.005)
    Seen.told.append(ctx.stop_reason)
    raise ValueError("stopped half-way")


@task
async def stubborn() -> None:
    Seen.begun.set()
    while not Seen.let_go.is_set():
        try:
            await Seen.let_go.wait()
        except asyncio.CancelledError:
            Seen.told.append("ignored")


@task(timeout_s=30, soft_timeout_s=0.05)
async def softly() -> str:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.Event().wait())
    except SoftTimeout:
        return "in time"
    return "never"


@task(soft_timeout_s=0.05)
def softly_in_thread(ctx: Context) -> bool:
    while not ctx.soft_timed_out:
        Seen.tick.wait(0.005)
    return ctx.cancelled


@task(timeout_s=0.5, max_attempts=1)
async def longer(ctx: Context) -> float | None:
    ctx.extend(30)
    await asyncio.sleep(0.8)
    return ctx.remaining_s


@task
async def plain(n: int = 0) -> int:
    return n


TASKS = [obedient, finishing, in_thread, stubborn, softly, softly_in_thread, longer, plain]


@pytest.fixture
async def client(postgres_url: str) -> AsyncIterator[AsyncClient]:
    Seen.begun, Seen.let_go = asyncio.Event(), asyncio.Event()
    Seen.thread_begun = threading.Event()
    Seen.told.clear()
    connection = await connect(postgres_url, application_name="test")
    await bootstrap(connection, SHARDS, KEY)
    await connection.close()
    async with running_node(postgres_url) as node:
        server = api_of(node)
        port = await server.start("127.0.0.1", 0)
        async with AsyncClient(f"http://127.0.0.1:{port}", KEY) as client:
            policy = RetryPolicy(max_attempts=3, base_delay_s=0.0, max_delay_s=0.0)
            await client.queues.create("default", settings=QueueSettings(retry_policy=policy))
            worker = Worker(f"http://127.0.0.1:{port}", KEY, TASKS, grace_s=0.1)
            serving = asyncio.create_task(worker.serve())
            yield client
            worker.stop()
            async with asyncio.timeout(20):
                await serving
        await server.stop(1.0)


async def test_running_jobs_end_in_their_grace_time(client: AsyncClient) -> None:
    async with asyncio.timeout(20):
        for wanted in (obedient, in_thread):
            job = await client.submit(wanted)
            await (
                Seen.begun.wait()
                if wanted is obedient
                else asyncio.to_thread(Seen.thread_begun.wait)
            )
            asked = await job.cancel(grace_s=60)
            assert asked.cancel_requested_at is not None
            with pytest.raises(JobCancelled):
                await job.wait(timeout_s=30)
            found = await job.get()
            assert (found.cancel_reason, found.attempts) == ("cancelled", 1)
            assert found.last_error["type"] in ("cancelled", "ValueError")
        assert Seen.told == ["cancelled", "cancelled"]
        job_that_ended = await client.submit(plain)
        assert await job_that_ended.wait(timeout_s=30) == 0
        with pytest.raises(Conflict):
            await job_that_ended.cancel()


async def test_work_that_is_done_in_the_grace_time_counts(client: AsyncClient) -> None:
    async with asyncio.timeout(20):
        job = await client.submit(finishing)
        await Seen.begun.wait()
        await job.cancel()
        assert await job.wait(timeout_s=30) == "saved"


async def test_who_does_not_end_loses_the_job(client: AsyncClient) -> None:
    async with asyncio.timeout(20):
        job = await client.submit(stubborn)
        await Seen.begun.wait()
        await job.cancel(grace_s=0.1)
        found = await client.wait(job.id, timeout_s=30)
        assert (found.status, found.last_error["type"]) == ("cancelled", "cancelled")
        assert Seen.told[0] == "ignored"
        Seen.let_go.set()


async def test_soft_limits_are_told_and_hard_ones_put_off(client: AsyncClient) -> None:
    async with asyncio.timeout(20):
        jobs = [await client.submit(wanted) for wanted in (softly, softly_in_thread, longer)]
        told = [await job.wait(timeout_s=30) for job in jobs]
        assert told[:2] == ["in time", False]
        assert 20 < told[2] < 30
        with pytest.raises(InvalidInput) as wrong:
            await client.submit(plain.configure(soft_timeout_s=2), timeout_s=1)
        assert wrong.value.field == "soft_timeout_s"


async def test_waiting_jobs_are_changed_paused_and_end_together(client: AsyncClient) -> None:
    async with asyncio.timeout(20):
        paused = await client.queues.pause("default")
        assert paused.paused_at == (await client.queues.pause("default")).paused_at is not None
        jobs = [await client.submit(plain, n=n, tags=["t", str(n % 2)]) for n in range(4)]
        later = await client.submit(plain, n=9, delay_s=3600)
        running = await later.change(priority=3, delay_s=1800)
        assert (running.priority, running.status) == (3, "scheduled")
        assert (await later.run_now()).status == "pending"
        counted = await client.queues.cancel_jobs("default", tags=["t", "1"], dry_run=True)
        assert (counted.matched, counted.cancelled) == (2, 0)
        ended = await client.queues.cancel_jobs("default", tags=["t", "1"], statuses=["pending"])
        assert (ended.matched, ended.cancelled, ended.asked) == (2, 2, 0)
        assert (await client.queues.get("default")).counts.pending == 3
        assert (await client.queues.resume("default")).paused_at is None
        assert [await job.wait(30) for job in (jobs[0], jobs[2], later)] == [0, 2, 9]
        with pytest.raises(Conflict) as refused:
            await later.change(priority=1)
        assert refused.value.code == "job_not_changeable"
        with pytest.raises(InvalidInput):
            await later.change()


async def test_what_expires_is_cancelled(client: AsyncClient) -> None:
    async with asyncio.timeout(20):
        await client.queues.pause("default")
        late = await client.submit(plain.configure(ttl_s=0.05))
        found = await client.wait(late.id, timeout_s=30)
        assert (found.status, found.cancel_reason) == ("cancelled", "expired")
        assert found.expires_at is not None
        with pytest.raises(InvalidInput):
            await client.submit(plain.configure(ttl_s=1), delay_s=2)
        again = await late.retry()
        assert (again.status, again.expires_at) == ("pending", None)
        await client.queues.resume("default")
        assert await late.wait(timeout_s=30) == 0


async def test_the_blocking_client_has_the_same(client: AsyncClient) -> None:
    def calls() -> list[object]:
        with Client(client._server.origin, KEY) as blocking:
            blocking.queues.pause("default")
            job = blocking.submit(plain, delay_s=60)
            seen: list[object] = [job.change(priority=2).priority, job.run_now().status]
            seen.append(blocking.queues.cancel_jobs("default", job_type="plain").cancelled)
            seen.append(job.cancel().status)
            blocking.queues.resume("default")
            return seen

    assert await asyncio.to_thread(calls) == [2, "pending", 1, "cancelled"]


async def test_the_program_of_the_guide_runs(postgres_url: str) -> None:
    connection = await connect(postgres_url, application_name="test")
    await bootstrap(connection, SHARDS, KEY)
    await connection.close()
    async with running_node(postgres_url) as node:
        server = api_of(node)
        port = await server.start("127.0.0.1", 0)
        kept = {name: value for name, value in os.environ.items() if "TASKFORGE" not in name}
        where = {"TASKFORGE_URL": f"http://127.0.0.1:{port}", "TASKFORGE_API_KEY": KEY}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(PROGRAM),
            env=kept | where,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        told, errors = await process.communicate()
        await server.stop(1.0)
    assert process.returncode == 0, errors.decode()
    assert told.decode() == SAID
