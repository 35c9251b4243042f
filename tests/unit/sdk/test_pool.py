"""The pool: every job it is fed ends exactly once, and handlers see the asyncio they expect."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from time import monotonic
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskforge import Context, FatalError, Task, task
from taskforge.limits import SLICE_JOBS_MAX
from taskforge.worker import frames
from taskforge.worker.completions import Completions
from taskforge.worker.pool import Pool
from tests.support.stub_stream import jobs_frame, split, token

VALUE: ContextVar[str] = ContextVar("VALUE", default="clean")


class Bench:
    """A pool and what came out of it."""

    def __init__(
        self, tasks: list[Task[..., Any]], concurrency: int = 10, threads: int = 4
    ) -> None:
        self.completions = Completions()
        self.frames: list[list[Any]] = []
        self.ok: list[bytes] = []
        self.ended: dict[bytes, tuple[int, Any]] = {}
        self.pool = Pool(
            {item.name: item for item in tasks},
            concurrency=concurrency,
            threads=threads,
            completions=self.completions,
            on_flush=self.flush,
        )

    def flush(self) -> None:
        for sealed in self.completions.seal():
            frame = msgspec.msgpack.decode(sealed.encode())
            self.frames.append(frame)
            self.ok.extend(split(frame[2]))
            for one, outcome, data in frame[3]:
                assert one not in self.ended
                self.ended[one] = (outcome, None if data is None else msgspec.json.decode(data))
            self.completions.acknowledged(sealed.seq)

    def feed(
        self,
        jobs: list[tuple[bytes, str, bytes]],
        extras: dict[int, dict[str, int]] | None = None,
    ) -> None:
        frame = frames.decode(jobs_frame("default", jobs, extras))
        assert isinstance(frame, frames.Jobs)
        self.pool.feed(frame)

    async def finish(self) -> None:
        async with asyncio.timeout(20):
            await self.pool.wait_idle()
        self.pool.flush()
        assert self.pool.held() == b""
        assert len(set(self.ok)) == len(self.ok)
        assert not set(self.ok) & self.ended.keys()


async def until(condition: Callable[[], bool]) -> None:
    """Turn the loop until the condition holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the states of the pool have no events
            await asyncio.sleep(0)


@asynccontextmanager
async def bench(*tasks: Task[..., Any], concurrency: int = 10) -> AsyncIterator[Bench]:
    made = Bench(list(tasks), concurrency)
    try:
        yield made
    finally:
        made.pool.close()


@task
async def quick(number: int = 0) -> None: ...


@task
async def double(number: int) -> int:
    return number * 2


@task
async def turns(number: int = 0) -> None:
    for _ in range(number % 4):
        await asyncio.sleep(0)


@task
async def fails(number: int = 0) -> None:
    raise (FatalError if number % 2 else ValueError)(f"number {number}")


@task
def sync(number: int = 0) -> int:
    return number + 1


@task
async def contextual(ctx: Context, number: int = 0) -> list[Any]:
    await asyncio.sleep(0)
    return [ctx.attempt, ctx.queue, ctx.lease, number]


ALL = [quick, double, turns, fails, sync, contextual]


def payload(number: int) -> bytes:
    return msgspec.json.encode({"number": number})


async def test_a_long_run_without_results_is_a_few_slices() -> None:
    async with bench(quick) as made:
        tokens = [token(number) for number in range(1_000)]
        made.feed([(one, "quick", b"{}") for one in tokens])
        await made.finish()
        assert made.ok == tokens
        assert len(made.frames) <= 6


async def test_the_loop_breathes_during_a_run() -> None:
    turns_seen = 0
    async with bench(quick) as made:

        def count() -> None:
            nonlocal turns_seen
            turns_seen += 1
            if not made.pool.is_idle:
                made.pool.loop.call_soon(count)

        made.feed([(token(number), "quick", b"{}") for number in range(1_000)])
        made.pool.loop.call_soon(count)
        await made.finish()
    assert turns_seen >= 1_000 // SLICE_JOBS_MAX


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(
        st.lists(
            st.tuples(st.sampled_from([item.name for item in ALL]), st.integers(0, 9)),
            min_size=1,
            max_size=40,
        ),
        min_size=1,
        max_size=6,
    ),
    concurrency=st.integers(1, 6),
    pauses=st.lists(st.integers(0, 3), min_size=6, max_size=6),
)
def test_every_job_ends_once_as_its_handler_says(
    batches: list[list[tuple[str, int]]], concurrency: int, pauses: list[int]
) -> None:
    async def run() -> None:
        async with bench(*ALL, concurrency=concurrency) as made:
            jobs: dict[bytes, tuple[str, int]] = {}
            for batch, pause in zip(batches, pauses, strict=False):
                named = [(token(len(jobs) + at), *job) for at, job in enumerate(batch)]
                jobs.update({one: (name, number) for one, name, number in named})
                made.feed([(one, name, payload(number)) for one, name, number in named])
                for _ in range(pause):
                    await asyncio.sleep(0)
                ended = set(made.ok) | made.ended.keys()
                assert set(split(made.pool.held())) == jobs.keys() - ended
            await made.finish()
            assert set(made.ok) == {
                one for one, (name, _) in jobs.items() if name in ("quick", "turns")
            }
            assert made.ended.keys() == jobs.keys() - set(made.ok)
            for one, (outcome, data) in made.ended.items():
                check(*jobs[one], outcome, data)

    asyncio.run(run())


def check(name: str, number: int, outcome: int, data: Any) -> None:
    if name == "fails":
        assert outcome == frames.FAILED
        assert data["message"] == f"number {number}"
        assert data["retryable"] is (number % 2 == 0)
    else:
        expected = {"double": number * 2, "sync": number + 1}.get(name, [1, "default", 1, number])
        assert (outcome, data) == (frames.SUCCEEDED, expected)


async def test_concurrency_is_bounded_and_used() -> None:
    running = most = 0
    gate = asyncio.Event()

    @task
    async def waits() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1

    async with bench(waits, concurrency=7) as made:
        made.feed([(token(number), "waits", b"{}") for number in range(50)])
        for _ in range(100):
            await asyncio.sleep(0)
        assert running == 7
        gate.set()
        await made.finish()
        assert most == 7
        assert len(made.ok) == 50


async def test_a_finished_job_does_not_wait_for_a_suspended_one() -> None:
    gate = asyncio.Event()

    @task
    async def waits() -> None:
        await gate.wait()

    async with bench(quick, waits) as made:
        made.feed(
            [(token(1), "quick", b"{}"), (token(2), "waits", b"{}"), (token(3), "quick", b"")]
        )
        await until(lambda: len(made.ok) >= 2)
        assert made.ok == [token(1), token(3)]
        gate.set()
        await made.finish()


async def test_handlers_have_a_task_timeouts_and_groups() -> None:
    @task
    async def modern() -> list[bool]:
        before = asyncio.current_task()
        results = []
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            results.append(True)
        async with asyncio.TaskGroup() as group:
            child = group.create_task(asyncio.sleep(0, True))
        results.append(child.result())
        results.append(asyncio.current_task() is before is not None)
        return results

    async with bench(modern) as made:
        made.feed([(token(number), "modern", b"{}") for number in range(30)])
        await made.finish()
        assert [data for _, data in made.ended.values()] == [[True, True, True]] * 30


@pytest.mark.parametrize("suspend", [False, True])
async def test_context_variables_do_not_leak_into_the_next_job(suspend: bool) -> None:
    @task
    async def leaky() -> str:
        before = VALUE.get()
        VALUE.set("dirty")
        if suspend:
            await asyncio.sleep(0)
        return before

    async with bench(leaky, concurrency=1) as made:
        made.feed([(token(number), "leaky", b"{}") for number in range(5)])
        await made.finish()
        assert [data for _, data in made.ended.values()] == ["clean"] * 5


async def test_a_cancellation_left_behind_does_not_hit_the_next_job() -> None:
    @task
    async def selfish() -> str:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        return "done"

    async with bench(selfish, turns, concurrency=1) as made:
        made.feed([(token(1), "selfish", b"{}"), (token(2), "turns", b'{"number": 1}')])
        await made.finish()
        assert made.ended[token(1)] == (frames.SUCCEEDED, "done")
        assert made.ok == [token(2)]


async def test_odd_exceptions_are_failures() -> None:
    @task
    async def odd(number: int) -> None:
        raise [asyncio.CancelledError(), SystemExit(1), StopAsyncIteration(), BaseException("b")][
            number
        ]

    async with bench(odd, quick) as made:
        made.feed([(token(number), "odd", payload(number)) for number in range(4)])
        made.feed([(token(9), "quick", b"{}")])
        await made.finish()
        assert all(outcome == frames.FAILED for outcome, _ in made.ended.values())
        assert all(data["retryable"] for _, data in made.ended.values())
        assert len(made.ended) == 4
        assert made.ok == [token(9)]


async def test_bad_arguments_and_unstorable_results_are_final() -> None:
    @task
    async def strange() -> object:
        return object()

    async with bench(double, strange, sync) as made:
        made.feed([(token(1), "double", b'{"number": "x"}'), (token(2), "double", payload(2))])
        made.feed([(token(3), "strange", b"{}"), (token(4), "sync", b"[]")])
        made.feed([(token(5), "unheard_of", b"{}")])
        await made.finish()
        kinds = {
            one: (data["type"], data["retryable"])
            for one, (code, data) in made.ended.items()
            if code
        }
        assert kinds == {
            token(1): ("bad_arguments", False),
            token(3): ("FatalError", False),
            token(4): ("bad_arguments", False),
            token(5): ("bad_arguments", False),
        }
        assert made.ended[token(2)] == (frames.SUCCEEDED, 4)


async def test_results_above_the_bound_are_final_failures() -> None:
    @task
    async def large() -> str:
        return "x" * 100

    @task
    def large_sync() -> str:
        return "x" * 100

    async with bench(large, large_sync) as made:
        made.pool.result_bytes_max = 50
        made.feed([(token(1), "large", b"{}"), (token(2), "large_sync", b"{}")])
        await made.finish()
        assert {data["type"] for _, data in made.ended.values()} == {"FatalError"}


async def test_deadlines_cancel_async_handlers_and_flag_sync_ones() -> None:
    started, release = threading.Event(), threading.Event()
    seen: list[Context] = []

    @task
    async def slow(ctx: Context) -> None:
        seen.append(ctx)
        await asyncio.Event().wait()

    @task
    def blocked(ctx: Context) -> None:
        seen.append(ctx)
        started.set()
        release.wait(20)

    async with bench(slow, blocked) as made:
        extras = {index: {"attempt": 2, "timeout_ms": 50_000} for index in range(2)}
        made.feed([(token(1), "slow", b"{}"), (token(2), "blocked", b"{}")], extras)
        await asyncio.to_thread(started.wait, 20)
        made.pool.sweep(monotonic() + 40)
        assert not made.ended
        made.pool.sweep(monotonic() + 51)
        await made.finish()
        assert {data["type"] for _, data in made.ended.values()} == {"timeout"}
        assert all(data["retryable"] for _, data in made.ended.values())
        assert [ctx.stop_reason for ctx in seen] == ["timeout", "timeout"]
        assert {ctx.attempt for ctx in seen} == {2}
        release.set()


async def test_a_limit_that_is_over_before_the_job_begins() -> None:
    gate = asyncio.Event()

    @task
    async def first() -> None:
        await gate.wait()

    async with bench(first, quick, concurrency=1) as made:
        made.feed([(token(1), "first", b"{}")])
        made.feed([(token(2), "quick", b"{}")], {0: {"timeout_ms": 1}})
        made.pool.batches[-1].received_monotonic -= 1
        gate.set()
        await made.finish()
        assert made.ok == [token(1)]
        assert made.ended[token(2)][1]["type"] == "timeout"


async def test_lost_leases_stop_what_runs_and_drop_what_waits() -> None:
    begun: list[Context] = []
    in_thread, release = threading.Event(), threading.Event()

    @task
    async def waits(ctx: Context) -> None:
        begun.append(ctx)
        await asyncio.Event().wait()

    @task
    def blocked(ctx: Context) -> None:
        begun.append(ctx)
        in_thread.set()
        release.wait(20)

    async with bench(waits, blocked, concurrency=1) as made:
        made.feed([(token(0), "blocked", b"{}")])
        made.feed([(token(number), "waits", b"{}") for number in range(1, 4)])
        await asyncio.to_thread(in_thread.wait, 20)
        await until(lambda: len(begun) >= 2)
        made.pool.lost({token(0), token(1), token(2)})
        await until(lambda: len(begun) >= 3)
        assert split(made.pool.held()) == [token(3)]
        assert [ctx.lost for ctx in begun] == [True, True, False]
        made.pool.lost({token(3)})
        await made.finish()
        assert made.ended == {}
        assert made.ok == []
        release.set()


async def test_giving_back() -> None:
    in_thread, release = threading.Event(), threading.Event()

    @task
    async def waits() -> None:
        await asyncio.Event().wait()

    @task
    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "finished"

    @task
    def blocked() -> None:
        in_thread.set()
        release.wait(20)

    async with bench(waits, stubborn, blocked, concurrency=2) as made:
        made.feed([(token(0), "blocked", b"{}"), (token(1), "waits", b"{}")])
        made.feed([(token(2), "stubborn", b"{}"), (token(3), "waits", b"{}")])
        await asyncio.to_thread(in_thread.wait, 20)
        await until(lambda: len(made.pool.suspended) >= 2)
        made.pool.give_back_waiting()
        made.pool.stop_running("shutdown")
        made.pool.abandon_threads()
        await made.finish()
        back = (frames.GIVEN_BACK, None)
        assert made.ended.pop(token(2)) == (frames.SUCCEEDED, "finished")
        assert made.ended == {token(0): back, token(1): back, token(3): back}
        release.set()
