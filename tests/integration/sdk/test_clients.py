"""Both clients against a stand-in of the API: the same cases, blocking and async."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from taskforge import (
    AsyncClient,
    Client,
    Conflict,
    ConnectionFailed,
    InvalidInput,
    JobCancelled,
    JobFailed,
    JobSpec,
    NotFound,
    Overloaded,
    QueueSettings,
    RetryPolicy,
    ServerError,
    SubmitError,
    Unauthenticated,
    limits,
    task,
)
from taskforge.client import calls
from tests.support.stub_api import StubApi


@task(queue="mail", priority=2)
async def send(to: str) -> dict[int, datetime]:
    return {}


class Blocking:
    """An async client seen through the blocking client's interface, so that one test tests both."""

    def __init__(self, url: str, key: str = "key", **options: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.client = AsyncClient(url, key, **options)

    def run(self, awaitable: Any) -> Any:
        return self.loop.run_until_complete(awaitable)

    def __getattr__(self, name: str) -> Any:
        return Wrapped(self, self.client).__getattr__(name)

    def close(self) -> None:
        self.run(self.client.close())
        self.loop.close()


class Wrapped:
    """An object whose coroutines are run and whose async iterators are lists."""

    def __init__(self, owner: Blocking, inner: Any) -> None:
        self._owner = owner
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value):
            return self._wrap(value)
        return lambda *args, **options: self._wrap(value(*args, **options))

    def _wrap(self, value: Any) -> Any:
        if asyncio.iscoroutine(value):
            value = self._owner.run(value)
        if hasattr(value, "__aiter__"):
            return iter(self._owner.run(_collect(value)))
        if isinstance(value, list):
            return [self._wrap(one) for one in value]
        if type(value).__name__ in ("AsyncJobHandle", "AsyncQueues"):
            return Wrapped(self._owner, value)
        return value


async def _collect(items: Any) -> list[Any]:
    return [one async for one in items]


Make = Callable[..., Any]


@pytest.fixture
def api() -> Iterator[StubApi]:
    with StubApi() as stub:
        yield stub


@pytest.fixture(params=[Client, Blocking], ids=["blocking", "async"])
def make(request: pytest.FixtureRequest, api: StubApi) -> Iterator[Make]:
    made: list[Any] = []

    def make_client(key: str = "key", **options: Any) -> Any:
        made.append(request.param(api.url, key, **options))
        return made[-1]

    yield make_client
    for client in made:
        client.close()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "RETRY_DELAY_MIN_S", 0.001)
    monkeypatch.setattr(calls, "RETRY_DELAY_MAX_S", 0.002)


def test_submit_and_wait_for_the_result(api: StubApi, make: Make) -> None:
    client = make()
    handle = client.submit(send, to="Ada")
    assert api.jobs[handle.id]["payload"] == {"to": "Ada"}
    assert api.jobs[handle.id]["queue"] == "mail"
    waiter = threading.Timer(
        0, api.finish, (handle.id, "succeeded"), {"result": {"1": "2026-01-01T00:00:00Z"}}
    )
    waiter.start()
    assert handle.wait(20) == {1: datetime(2026, 1, 1, tzinfo=UTC)}
    waiter.join()
    assert client.handle(handle.id, send).wait() == handle.wait()
    # Of a job type that is only a name, or not known, the result is what JSON gives.
    assert client.handle(handle.id, "send").wait() == client.handle(handle.id).wait()
    job = handle.get()
    assert (job.status, job.finished, job.executions[0].attempt) == ("succeeded", True, 1)


def test_jobs_that_end_without_a_result(api: StubApi, make: Make) -> None:
    client = make()
    failed, cancelled, open_ = (client.submit("any", queue="q") for _ in range(3))
    api.finish(failed.id, "failed", failed_reason="not_retryable", last_error={"type": "T"})
    with pytest.raises(JobFailed, match="not_retryable"):
        failed.wait(20)
    assert cancelled.cancel().status == "cancelled"
    with pytest.raises(JobCancelled):
        cancelled.wait(20)
    with pytest.raises(TimeoutError, match="is pending"):
        open_.wait(0)
    with pytest.raises(Conflict) as caught:
        failed.cancel()
    assert caught.value.code == "job_not_cancellable"
    assert failed.retry().status == "pending"


def test_lists_go_over_pages(api: StubApi, make: Make) -> None:
    client = make()
    ids = [client.submit("a" if number % 2 else "b", queue="q").id for number in range(8)]
    assert [job.id for job in client.list()] == ids[::-1]
    assert len(list(client.list(job_type="a", queue="q", status="pending"))) == 4
    assert list(client.list(status="failed")) == []


def test_queues(api: StubApi, make: Make) -> None:
    client = make()
    settings = QueueSettings(retry_policy=RetryPolicy(max_attempts=3), timeout_s=5.0)
    made = client.queues.create("mail", priority=4, settings=settings)
    assert (made.name, made.priority, made.settings) == ("mail", 4, settings)
    with pytest.raises(Conflict, match="queue_name_taken"):
        client.queues.create("mail")
    changed = client.queues.update("mail", priority=5, settings=QueueSettings(history="none"))
    assert (changed.priority, changed.settings.timeout_s, changed.settings.history) == (
        5,
        5.0,
        "none",
    )
    assert client.queues.get("mail").counts.scheduled == 2
    assert client.queues.put("mail").priority == 5
    assert client.queues.put("mail", priority=6).settings.history == "none"
    assert [queue.name for queue in client.queues.list()] == ["mail"]
    assert client.queues.put("post", priority=2).priority == 2
    with pytest.raises(NotFound):
        client.queues.get("none")


def test_refusals_are_typed(api: StubApi, make: Make) -> None:
    with pytest.raises(Unauthenticated):
        make("wrong").submit("a", queue="q")
    client = make()
    with pytest.raises(InvalidInput) as caught:
        client.submit("a", queue="q", priority=10)
    assert (caught.value.code, caught.value.field) == ("invalid_input", "priority")
    with pytest.raises(NotFound, match="queue_not_found"):
        client.submit("a", queue="missing")
    with pytest.raises(NotFound):
        client.get("0190a000-0000-7000-8000-000000000001")
    with pytest.raises(TypeError, match="either"):
        client.submit(send, {"to": "A"}, to="B")


def test_a_refusal_for_now_is_tried_again(api: StubApi, make: Make) -> None:
    client = make()
    api.faults = [429, 503, 502]
    client.submit(send, to="Ada")
    assert len(api.jobs) == 1
    assert len(api.requests) == 4
    assert len(set(api.keys)) == 1
    assert api.keys[0] is not None
    api.faults = [429] * 9
    with pytest.raises(Overloaded) as caught:
        client.submit(send, to="Ada")
    assert caught.value.retry_after_s == 0
    assert len(api.faults) == 9 - 1 - limits.RETRIES_DEFAULT


@pytest.mark.parametrize("fault", ["lose_request", "lose_reply"])
def test_a_lost_request_or_reply_never_doubles_a_job(api: StubApi, make: Make, fault: Any) -> None:
    client = make()
    for _ in range(3):
        api.faults = [fault, fault]
        handle = client.submit(send, to="Ada")
        assert handle.id in api.jobs
    assert len(api.jobs) == 3
    api.faults = [fault]
    assert len(client.submit_many([send.job(to="A"), send.job(to="B")])) == 2
    assert len(api.jobs) == 5


def test_what_cannot_be_repeated_is_not(api: StubApi, make: Make) -> None:
    client = make()
    handle = client.submit(send, to="Ada")
    api.finish(handle.id, "failed")
    api.faults = ["lose_reply"]
    assert handle.retry().status == "pending"
    assert api.keys[-1] is not None
    assert api.keys[-1] == api.keys[-2]
    api.faults = ["lose_reply"]
    assert client.queues.create("once").name == "once"
    api.finish(handle.id, "failed")
    api.faults = ["lose_reply"]
    with pytest.raises(ConnectionFailed):
        make(auto_key=False).handle(handle.id).retry()
    assert api.jobs[handle.id]["status"] == "pending"
    once = make(retries=0)
    api.faults = ["lose_reply", 503]
    with pytest.raises(ConnectionFailed):
        once.submit(send, to="Ada")
    with pytest.raises(Overloaded):
        once.submit(send, to="Ada")
    assert api.keys[-1] is None
    keyless = make(auto_key=False)
    api.faults = [503]
    assert keyless.submit(send, to="Ada", tags=["a"]).get().tags == ["a"]
    assert api.keys[-2] is None
    api.faults = ["lose_request"]
    with pytest.raises(ConnectionFailed):
        keyless.submit(send, to="Ada")
    for submit in (
        lambda: keyless.submit(send, to="Ada"),
        lambda: keyless.submit_many([send.job(to="Ada")]),
    ):
        api.faults = [504, 503]
        requests = len(api.requests)
        with pytest.raises(ServerError) as caught:
            submit()
        assert caught.value.status == 504
        assert len(api.requests) == requests + 1
    api.faults = [504]
    assert client.submit(send, to="Ada").id in api.jobs


def test_an_idempotency_key_of_the_caller(api: StubApi, make: Make) -> None:
    client = make()
    first = client.submit(send, to="Ada", idempotency_key="order-1")
    assert client.submit(send, to="Ada", idempotency_key="order-1").id == first.id
    with pytest.raises(Conflict) as caught:
        client.submit(send, to="Bob", idempotency_key="order-1")
    assert caught.value.code == "idempotency_key_reused"
    assert len(api.jobs) == 1


def test_submit_many_has_a_result_for_each(api: StubApi, make: Make) -> None:
    client = make()
    specs = [
        send.job(to="A"),
        JobSpec("x", queue="q", priority=10),
        JobSpec("y", b"[1]", queue="q"),
    ]
    first, bad, last = client.submit_many(specs)
    assert api.jobs[first.id]["payload"] == {"to": "A"}
    assert api.jobs[first.id]["priority"] == 2
    assert api.jobs[last.id]["payload"] == [1]
    assert isinstance(bad, SubmitError)
    assert (bad.index, bad.field, bad.code) == (1, "priority", "invalid_input")
    assert client.submit_many([]) == []


def test_submit_many_splits(api: StubApi, make: Make) -> None:
    specs = [JobSpec("x", b"1", queue="q")] * (limits.BATCH_JOBS_MAX + 5)
    found = make().submit_many(specs)
    assert [handle.id for handle in found] == list(api.jobs)
    assert len(api.requests) == 2


def test_connections_are_kept_and_replaced(api: StubApi, make: Make) -> None:
    client = make(retries=0)
    for _ in range(3):
        client.submit(send, to="Ada")
    api.close_after_reply = True
    for _ in range(3):
        client.submit(send, to="Ada")
    assert len(api.jobs) == 6


def test_nobody_there(make: Make) -> None:
    client = Client("http://127.0.0.1:1", "key", retries=2)
    with pytest.raises(ConnectionFailed):
        client.submit(send, to="Ada")


def test_a_server_that_is_silent() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ConnectionFailed):
            Client(url, "key", retries=0, timeout_s=0.05).submit(send, to="Ada")
        client = Blocking(url, retries=0, timeout_s=0.05)
        with pytest.raises(ConnectionFailed, match="in time"):
            client.submit(send, to="Ada")
        client.close()


def test_threads_share_a_blocking_client(api: StubApi) -> None:
    with Client(api.url, "key") as client:
        threads = [
            threading.Thread(target=lambda: [client.submit(send, to="A") for _ in range(20)])
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert len(api.jobs) == 160
    with pytest.raises(RuntimeError, match="closed"):
        client.submit(send, to="A")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_does_not_share_connections(api: StubApi) -> None:
    with Client(api.url, "key") as client:
        client.submit(send, to="parent")
        child = os.fork()
        if not child:
            try:
                client.submit(send, to="child")
            finally:
                os._exit(0)
        client.submit(send, to="parent")
        assert os.waitpid(child, 0)[1] == 0
        client.submit(send, to="parent")
    assert sorted(job["payload"]["to"] for job in api.jobs.values()) == ["child"] + ["parent"] * 3


async def test_a_cancelled_submit_leaves_no_answer_for_the_next(api: StubApi) -> None:
    async with AsyncClient(api.url, "key", connections_max=1) as client:
        waiting = await client.submit(send, to="Ada")
        for _ in range(3):
            blocked = asyncio.create_task(client.wait(waiting.id))
            before = len(api.requests)
            while len(api.requests) == before:  # noqa: ASYNC110 - the stub lives in a thread
                await asyncio.sleep(0)
            blocked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await blocked
            other = await client.submit(send, to="Bob")
            assert api.jobs[other.id]["payload"] == {"to": "Bob"}


async def test_concurrent_submits_share_few_connections(api: StubApi) -> None:
    async with AsyncClient(api.url, "key", connections_max=4) as client:
        handles = await asyncio.gather(*(client.submit(send, to=str(n)) for n in range(50)))
        assert [api.jobs[handle.id]["payload"]["to"] for handle in handles] == [
            str(number) for number in range(50)
        ]


def test_an_async_client_belongs_to_one_loop(api: StubApi) -> None:
    client = AsyncClient(api.url, "key")

    async def first() -> None:
        await client.submit(send, to="Ada")
        client._pool._idle.pop().close()

    asyncio.run(first())
    with pytest.raises(RuntimeError, match="event loop"):
        asyncio.run(client.submit(send, to="Ada"))


async def test_buffered_submits_become_batches(api: StubApi) -> None:
    async with AsyncClient(api.url, "key") as client, client.buffered(jobs_max=10) as buffer:
        futures = [await buffer.submit(send, to=str(number)) for number in range(25)]
        bad = await buffer.submit("x", queue="q", priority=10)
        handles = await asyncio.gather(*futures)
        assert [api.jobs[handle.id]["payload"]["to"] for handle in handles] == [
            str(number) for number in range(25)
        ]
        with pytest.raises(SubmitError, match="priority"):
            await bad
    assert len(api.requests) == 4
    with pytest.raises(RuntimeError, match="closed"):
        await buffer.submit(send, to="late")


async def test_leaving_a_buffer_sends_what_is_left(api: StubApi) -> None:
    async with AsyncClient(api.url, "key") as client:
        async with client.buffered(linger_ms=60_000) as buffer:
            future = await buffer.submit(send, to="Ada")
            assert not future.done()
        assert future.done()
        assert (await future).id in api.jobs


async def test_a_full_buffer_waits(api: StubApi) -> None:
    async with AsyncClient(api.url, "key") as client, client.buffered(jobs_max=1) as buffer:
        futures = [await buffer.submit(send, to=str(number)) for number in range(40)]
        room = limits.BUFFER_BATCHES_IN_FLIGHT + limits.BUFFER_WAITING_BATCHES_MAX
        assert len(buffer._sending) <= room
        assert sum(future.done() for future in futures) >= len(futures) - room - 1
        await asyncio.gather(*futures)
    assert len(api.jobs) == 40


async def test_a_batch_that_fails_as_a_whole_fails_each(api: StubApi) -> None:
    async with AsyncClient(api.url, "wrong") as client, client.buffered() as buffer:
        futures = [await buffer.submit(send, to="A") for _ in range(3)]
        found = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(one) for one in found] == [Unauthenticated] * 3
