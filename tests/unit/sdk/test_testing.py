"""TaskForge in memory: what tests of user programs rest on."""

import runpy
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge import (
    Cancel,
    Client,
    Conflict,
    Context,
    Fail,
    JobCancelled,
    JobFailed,
    NotFound,
    QueueSettings,
    Retry,
    RetryPolicy,
    Snooze,
    task,
)
from taskforge.testing import MemoryTaskForge, forge, rules
from taskforge_server.engine.model import retry as server_policy
from taskforge_server.engine.shard import rules as server_rules
from tests.support.reference import ROOT

START = datetime(2026, 1, 1, tzinfo=UTC)
calls: list[Any] = []


@pytest.fixture(autouse=True)
def no_calls() -> None:
    calls.clear()


class Greeting(msgspec.Struct):
    text: str


@task
async def greet(name: str, ctx: Context) -> Greeting:
    ctx.log("info", "greeting", name=name)
    calls.append(name)
    return Greeting(f"Hello {name}")


@task(queue="slow")
def count_words(text: str) -> int:
    return len(text.split())


@task(max_attempts=3)
async def flaky(ctx: Context, times: int) -> int:
    if ctx.attempt <= times:
        raise ValueError("not yet")
    return ctx.attempt


def sign_up(client: Client, name: str) -> None:
    """A program that is tested."""
    client.submit(greet, name=name, delay_s=60)


def test_a_program_its_jobs_and_time() -> None:
    with MemoryTaskForge([greet], now=START) as memory:
        sign_up(memory.client, "Ada")
        job = memory.assert_submitted(greet, name="Ada")
        assert (job.status, job.scheduled_for) == ("scheduled", START + timedelta(seconds=60))
        assert memory.run() == 0
        memory.advance(60)
        assert memory.run() == 1
        job = memory.job(job.id)
        assert (job.status, job.result, job.attempts) == ("succeeded", {"text": "Hello Ada"}, 1)
        [line] = memory.logs(job.id)
        assert (line.message, line.metadata) == ("greeting", {"name": "Ada"})
        with pytest.raises(AssertionError, match=r"0 jobs of greet with \{'name': 'Eve'\}"):
            memory.assert_submitted(greet, name="Eve")


def test_handles_are_those_of_the_client() -> None:
    with MemoryTaskForge([greet, count_words]) as memory:
        assert memory.client.submit(greet, name="Ada").wait() == Greeting("Hello Ada")
        assert memory.client.submit(count_words, text="a b c").wait() == 3
        later = memory.client.submit(greet, name="Eve", delay_s=10)
        with pytest.raises(TimeoutError, match="advance"):
            later.wait(timeout_s=1)
        later.cancel()
        with pytest.raises(JobCancelled):
            later.wait()
        with pytest.raises(Conflict):
            memory.client.handle(memory.jobs[0].id).retry()
        with pytest.raises(NotFound):
            memory.client.get("0190a000-0000-7000-8000-000000000001")
        many = memory.client.submit_many([greet.job(name=name) for name in ("Bob", "Cy")])
        assert len(many) == 2
        assert [job.queue for job in memory.client.list(job_type="count_words")] == ["slow"]


async def test_in_an_event_loop() -> None:
    async with MemoryTaskForge([greet]) as memory:
        handle = await memory.async_client.submit(greet, name="Ada")
        assert await handle.wait() == Greeting("Hello Ada")
        with pytest.raises(RuntimeError, match="run_async"):
            memory.run()


def test_retries_follow_the_policy_and_its_waits() -> None:
    slow = QueueSettings(retry_policy=RetryPolicy(backoff="list", delays_s=[10, 600]))
    with MemoryTaskForge([flaky], queues={"default": slow}, now=START) as memory:
        handle = memory.client.submit(flaky, times=2)
        memory.run()
        waits = []
        while not (job := handle.get()).finished:
            assert job.scheduled_for is not None
            waits.append((job.scheduled_for - memory.now).total_seconds())
            memory.advance(waits[-1])
            memory.run()
        assert waits == [10, 600]
        assert (job.result, [run.status for run in job.executions]) == (
            3,
            ["retrying", "retrying", "succeeded"],
        )
        lost = memory.client.submit(flaky, times=9)
        memory.run_all()
        with pytest.raises(JobFailed, match="attempts_exhausted"):
            lost.wait()


@task
async def says(what: str, ctx: Context) -> int:
    if ctx.attempt == 1:
        match what:
            case "retry":
                raise Retry("busy", delay_s=5)
            case "fail":
                raise Fail("no such order")
            case "snooze":
                raise Snooze(delay_s=7)
            case "cancel":
                raise Cancel("not wanted")
    return ctx.attempt


@pytest.mark.parametrize(
    ("what", "status", "wait_s"),
    [("retry", "succeeded", 5), ("fail", "failed", 0), ("snooze", "succeeded", 7)],
)
def test_what_a_handler_says(what: str, status: str, wait_s: int) -> None:
    with MemoryTaskForge([says], now=START) as memory:
        handle = memory.client.submit(says, what=what)
        memory.run_all()
        assert handle.get().status == status
        assert memory.now == START + timedelta(seconds=wait_s)


def test_a_handler_cancels_its_job() -> None:
    with MemoryTaskForge([says]) as memory:
        handle = memory.client.submit(says, what="cancel")
        memory.run()
        job = handle.get()
        assert (job.status, job.cancel_reason) == ("cancelled", "not wanted")


def test_jobs_of_a_moment_run_by_priority_and_then_in_order() -> None:
    with MemoryTaskForge([greet]) as memory:
        for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 9)):
            memory.client.submit(greet, name=name, priority=priority)
        memory.run()
    assert calls == ["d", "b", "a", "c"]


def test_bad_arguments_fail_as_on_a_worker() -> None:
    with MemoryTaskForge([greet]) as memory:
        handle = memory.client.submit("greet", {"name": 7}, queue="default")
        memory.run()
        assert handle.get().failed_reason == "not_retryable"


def test_an_idempotency_key_makes_one_job() -> None:
    with MemoryTaskForge([greet]) as memory:
        first = memory.client.submit(greet, name="Ada", idempotency_key="k")
        assert memory.client.submit(greet, name="Ada", idempotency_key="k").id == first.id
        assert len(memory.jobs) == 1


def test_a_program_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forge, "RUN_JOBS_MAX", 20)
    memory = MemoryTaskForge()

    @task
    async def again() -> None:
        await memory.async_client.submit(again)

    memory.tasks["again"] = again
    memory.client.submit(again)
    with pytest.raises(RuntimeError, match="20 attempts and no end"):
        memory.run()
    memory.client.close()


def test_the_guide() -> None:
    example = ROOT / "docs" / "examples" / "testing.py"
    page = ROOT / "docs" / "guides" / "testing.md"
    assert example.read_text(encoding="utf-8") in page.read_text(encoding="utf-8")
    names = runpy.run_path(str(example))
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


# --- the server's rules -------------------------------------------------------------------------

policies = st.fixed_dictionaries(
    {
        "max_attempts": st.integers(1, 6),
        "base_delay": st.sampled_from([0.0, 0.5, 3.0]),
        "max_delay": st.sampled_from([3.0, 60.0]),
        "backoff_multiplier": st.sampled_from([1.0, 2.0, 3.5]),
        "jitter": st.just("none"),
        "non_retryable": st.sampled_from([[], ["ValueError"]]),
    }
).flatmap(
    lambda fields: st.sampled_from(
        [fields | {"backoff": kind} for kind in ("exponential", "linear", "fixed")]
        + [fields | {"backoff": "list", "delays": [4.0, 1.0]}]
    )
)


@given(policies, st.integers(1, 8), st.integers(0, 4), st.booleans())
def test_the_rules_are_those_of_the_server(
    fields: dict[str, Any], attempt: int, own_attempts: int, retryable: bool
) -> None:
    server = msgspec.convert(fields, server_policy.RetryPolicy)
    verdict = server_rules.after_failure(
        server,
        server_rules.Attempt(attempt, 0, 0, own_attempts),
        server_rules.Failure("ValueError", retryable=retryable),
        0,
        0.5,
    )
    here = rules.policy_over(msgspec.convert(fields, RetryPolicy))
    error = {"type": "ValueError", "retryable": retryable}
    reason = rules.failed_reason(here, error, attempt, own_attempts or None)
    if isinstance(verdict, server_rules.Fail):
        assert reason == verdict.reason
    else:
        assert reason is None
        assert rules.wait_s(here, attempt) * 1e6 == verdict.due_us


def test_the_defaults_are_those_of_the_server() -> None:
    server = server_policy.RetryPolicy()
    for field in msgspec.structs.fields(RetryPolicy):
        if field.name != "jitter":
            assert getattr(rules.DEFAULTS, field.name) == getattr(server, field.encode_name)
