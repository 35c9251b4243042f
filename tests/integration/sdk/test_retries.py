"""Retries as users meet them: policies of queues and jobs, and what handlers say by exceptions."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskforge import (
    AsyncClient,
    Cancel,
    Context,
    Fail,
    InvalidInput,
    Job,
    JobCancelled,
    QueueSettings,
    Retry,
    RetryBudget,
    RetryPolicy,
    Snooze,
    task,
)
from taskforge.worker import Worker
from taskforge_server.api.cli.serving import api_of
from taskforge_server.engine.model.tenant import api_key_text
from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.pool import connect
from tests.support.real_node import SHARDS, running_node

KEY = api_key_text(bytes(32))


@task
async def says(ctx: Context, what: str) -> int:
    if ctx.attempt > 1 and what != "retry_always":
        return ctx.attempt
    raise {
        "retry": Retry("not yet", delay_s=0.01),
        "retry_always": Retry("never", delay_s=0.0),
        "retry_at": Retry("not yet", at=datetime.now(UTC) - timedelta(hours=1)),
        "snooze": Snooze(0.01),
        "snooze_at": Snooze(at=datetime.now(UTC) + timedelta(milliseconds=20)),
        "fail": Fail("no use"),
        "cancel": Cancel("nothing to do"),
        "error": ValueError("x"),
    }[what]


@task
def says_in_a_thread(ctx: Context, what: str) -> int:
    if ctx.attempt > 1:
        return ctx.attempt
    raise Snooze(0.0) if what == "snooze" else Cancel("no")


@dataclass
class Stack:
    """A server and a client, with a worker that runs."""

    client: AsyncClient
    worker: Worker

    async def ended(self, what: str, **options: Any) -> Job:
        handle = await self.client.submit(says.configure(**options), what=what)
        return await self.client.wait(handle.id, 20)


@pytest.fixture
async def stack(postgres_url: str) -> AsyncIterator[Stack]:
    connection = await connect(postgres_url, application_name="test")
    await bootstrap(connection, SHARDS, KEY)
    await connection.close()
    async with running_node(postgres_url) as node:
        server = api_of(node)
        url = f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}"
        async with AsyncClient(url, KEY) as client:
            # Whoever waits for this policy waits for an hour.
            slow = RetryPolicy(max_attempts=3, backoff="fixed", base_delay_s=3600.0, jitter="none")
            await client.queues.create("default", settings=QueueSettings(retry_policy=slow))
            worker = Worker(url, KEY, [says, says_in_a_thread])
            serving = asyncio.create_task(worker.serve())
            yield Stack(client, worker)
            worker.stop()
            async with asyncio.timeout(20):
                await serving
        await server.stop(1.0)


async def test_what_a_handler_says_of_its_job(stack: Stack) -> None:
    await tried_again_when_it_says(stack)
    await put_off(stack)
    await ended_for_good(stack)


async def tried_again_when_it_says(stack: Stack) -> None:
    for what in ("retry", "retry_at"):
        job = await stack.ended(what)
        assert (job.status, job.result) == ("succeeded", 2)
        assert [entry.status for entry in job.executions] == ["retrying", "succeeded"]
        assert job.executions[0].error["type"] == "Retry"
        assert "Retry: not yet" in job.executions[0].error["traceback"]
    job = await stack.ended("retry_always")
    assert (job.status, job.failed_reason, job.attempts) == ("failed", "attempts_exhausted", 3)


async def put_off(stack: Stack) -> None:
    """It counts neither way: with one attempt allowed, each failure would be the end."""
    only_once: Any = {"retry_policy": RetryPolicy(max_attempts=1)}
    for what in ("snooze", "snooze_at"):
        job = await stack.ended(what, **only_once)
        assert (job.status, job.result, job.crashes, job.max_attempts) == ("succeeded", 2, 0, 1)
        assert job.executions[0].error["type"] == "snoozed"
    job = await stack.ended("error", **only_once)
    assert (job.status, job.failed_reason) == ("failed", "error")
    handle = await stack.client.submit(says_in_a_thread, what="snooze")
    assert await handle.wait(20) == 2


async def ended_for_good(stack: Stack) -> None:
    job = await stack.ended("fail")
    assert (job.status, job.failed_reason) == ("failed", "not_retryable")
    assert job.last_error["message"] == "no use"
    job = await stack.ended("cancel")
    assert (job.status, job.cancel_reason, job.attempts) == ("cancelled", "handler", 1)
    assert job.last_error["message"] == "nothing to do"
    handle = await stack.client.submit(says_in_a_thread, what="cancel")
    with pytest.raises(JobCancelled):
        await handle.wait(20)


async def test_a_job_brings_a_policy_of_its_own(stack: Stack) -> None:
    await senseless_ones_are_refused(stack)
    await it_goes_before_the_queues(stack)
    await what_is_not_said_is_as_the_queue_has_it_at_that_time(stack)


async def it_goes_before_the_queues(stack: Stack) -> None:
    now = RetryPolicy(backoff="list", delays_s=[0.0], non_retryable=["KeyError"])
    job = await stack.ended("error", retry_policy=now)
    assert (job.status, job.attempts) == ("succeeded", 2)
    assert job.retry_policy == RetryPolicy(
        backoff="list", delays_s=[0.0], non_retryable=["KeyError"]
    )
    job = await stack.ended("error", retry_policy=RetryPolicy(non_retryable=["ValueError"]))
    assert (job.status, job.failed_reason) == ("failed", "not_retryable")


async def what_is_not_said_is_as_the_queue_has_it_at_that_time(stack: Stack) -> None:
    """The job says how long to wait, the queue whether it is worth it."""
    final = QueueSettings(retry_policy=RetryPolicy(non_retryable=["ValueError"]))
    await stack.client.queues.update("default", settings=final)
    job = await stack.ended("error", retry_policy=RetryPolicy(base_delay_s=0.0))
    assert job.failed_reason == "not_retryable"


async def senseless_ones_are_refused(stack: Stack) -> None:
    for policy, field in (
        (RetryPolicy(backoff="list"), "retry_policy.delays"),
        (RetryPolicy(base_delay_s=5.0, max_delay_s=1.0), "retry_policy.max_delay"),
        (RetryPolicy(max_attempts=0), "retry_policy.max_attempts"),
    ):
        with pytest.raises(InvalidInput) as refused:
            await stack.client.submit(says.configure(retry_policy=policy), what="fail")
        assert refused.value.field == field
    own = says.configure(retry_policy=RetryPolicy(max_attempts=2))
    with pytest.raises(InvalidInput) as refused:
        await stack.client.submit(own, max_attempts=3, what="fail")
    assert refused.value.field == "max_attempts"


async def test_a_storm_of_failures_is_stretched_by_the_budget(stack: Stack) -> None:
    """Four jobs fail at once, and would be tried again at once. The budget has one in 100 s."""
    client = stack.client
    budget = RetryBudget(ratio=0.0, per_s=0.01)
    at_once = RetryPolicy(backoff="fixed", base_delay_s=0.0)
    await client.queues.update(
        "default", settings=QueueSettings(retry_policy=at_once, retry_budget=budget)
    )
    handles = [await client.submit(says, what="error") for _ in range(4)]
    async with asyncio.timeout(20):
        while (await client.queues.get("default")).counts.scheduled < 4:  # noqa: ASYNC110 - no call waits for it
            await asyncio.sleep(0.02)
    jobs = [await handle.get() for handle in handles]
    assert {job.status for job in jobs} == {"scheduled"}
    waits = sorted(
        (job.scheduled_for - job.updated_at).total_seconds()
        for job in jobs
        if job.scheduled_for and job.updated_at
    )
    for wait, expected in zip(waits, (100, 200, 300, 400), strict=True):
        assert expected - 20 <= wait <= expected
