"""Runs async handlers: persistent runner tasks, one of which pulls jobs.

                    ┌────────── no jobs left ──────────┐
                    ▼                                  │
    (created) ──► idle ──chosen──► puller ──runs jobs──┘
                    ▲                 │ its handler suspends
                    └──handler ends── suspended      (the pool chooses the next puller)

A task per job would cost more than the job. So a runner awaits handler after handler directly: a
handler that ends without suspending costs one call, and one that suspends keeps its runner, as its
own task: `asyncio.current_task()`, timeouts, task groups and cancellation work as in any task. A
task may thus see several handlers one after another. What one could leave behind ends the runner
instead: changed context variables, or a cancellation that was asked for but never delivered.

At most one runner pulls at a time. A puller that is at work while other code runs is suspended
inside its handler: `Pool.settle`, scheduled behind every slice, sees that, moves it aside and
chooses another. It always runs before the handler can resume, because it was scheduled first. So a
handler that suspended finds, on its return, that its runner no longer is the puller.

A puller lets the loop breathe after SLICE_JOBS_MAX jobs or SLICE_S.
"""

import asyncio
from contextvars import copy_context
from time import monotonic
from typing import TYPE_CHECKING, Any

from taskforge.context import Context, StopReason
from taskforge.limits import SLICE_JOBS_MAX, SLICE_S, TOKEN_BYTES
from taskforge.worker.batch import Batch
from taskforge.worker.outcome import CANCELLED, failure_json
from taskforge.worker.soft import Softly

if TYPE_CHECKING:
    from taskforge.worker.pool import Pool


class Raised:
    """What a handler raised, in the place of its result."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Runner:
    """One asyncio task that runs handlers one after another.

    `batch` and `index` name the job that it runs while it is suspended; `deadline` is on the
    monotonic clock, 0 without a limit.
    """

    def __init__(self, pool: "Pool") -> None:
        self.pool = pool
        self.batch: Batch | None = None
        self.index = 0
        self.deadline = 0.0
        self.soft_deadline = 0.0
        self.softly: Softly | None = None
        self.context: Context | None = None
        self.stop_reason: StopReason | None = None
        self._wake: asyncio.Future[None] | None = None
        self.worn = False  # a job left something behind: run no other
        self._slice_jobs = 0
        self._slice_until = 0.0
        self.task = pool.loop.create_task(self._run(), context=pool.context.copy())
        self.task.add_done_callback(pool.check_end)

    @property
    def token(self) -> bytes:
        """The token of the job in which this runner is suspended."""
        assert self.batch is not None
        return self.batch.token(self.index)

    def wake(self) -> None:
        """Start pulling; the pool has chosen this runner. One that was just made starts anyway."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def extended(self, token: bytes, deadline: float) -> None:
        """The handler has put its deadline off."""
        self.pool.extended(token, deadline)

    def soft_stop(self) -> None:
        """Tell the handler in which this runner is suspended that its soft limit is over."""
        self.soft_deadline = 0.0
        if self.context is not None:
            self.context._soft_timed_out = True
        if self.softly is not None and self.stop_reason is None:
            self.softly.fire(self.task)

    def stop(self, reason: StopReason) -> None:
        """Cancel the handler in which this runner is suspended. The first reason stays."""
        if self.stop_reason is None:
            self.stop_reason = reason
            if self.context is not None:
                self.context._stop(reason)
            self.task.cancel()

    async def _run(self) -> None:
        pool = self.pool
        try:
            while not self.worn:
                if pool.claim(self):
                    await self._pull()
                    continue
                self._wake = pool.loop.create_future()
                pool.idle.append(self)
                await self._wake
                if not pool.claim(self):
                    pool.woken_in_vain()
        finally:
            pool.ended(self)

    async def _pull(self) -> None:
        """Run jobs until there are none, or until another runner pulls."""
        pool = self.pool
        while pool.puller is self and pool.batches and not self.worn:
            pool.at_work = True
            pool.loop.call_soon(pool.settle)
            self._slice_jobs = SLICE_JOBS_MAX
            self._slice_until = monotonic() + SLICE_S
            while pool.puller is self and pool.batches and self._slice_jobs > 0:
                batch = pool.batches[0]
                if batch.plain:
                    await self._run_plain(batch)
                else:
                    await self._run_mixed(batch)
                if pool.puller is not self:
                    return
                pool.close_run(batch, batch.next)
                if batch.next == batch.count:
                    pool.batches.popleft()
            pool.at_work = False
            if pool.batches and not self.worn:
                if monotonic() >= self._slice_until:
                    pool.flush()
                else:
                    pool.flush_when_full()
                await asyncio.sleep(0)
        pool.leave(self)

    async def _run_plain(self, batch: Batch) -> None:
        """The fast path: one async task, no context, no limits. Returns at the end of the slice."""
        pool = self.pool
        task = batch.tasks[0]
        assert task is not None
        call = task.binding.call
        assert call is not None
        payloads, count, tokens = batch.payloads, batch.count, batch.tokens
        succeeded = pool.succeeded
        cancelling, base = self.task.cancelling, pool.context
        until, left = self._slice_until, self._slice_jobs
        while left > 0 and (index := batch.next) < count:
            batch.next = index + 1
            left -= 1
            try:
                coroutine = call(payloads[index])  # type: ignore[arg-type]  # None: raises
            except Exception as error:  # noqa: BLE001 - whatever it is, the arguments are bad
                pool.refuse(batch, index, error)
                continue
            try:
                result = await coroutine
            except (GeneratorExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - a handler may raise anything
                result = Raised(error)
            if pool.puller is not self:
                self._return(result)
                return
            if result is not None:
                if index > batch.start:
                    pool.close_run(batch, index)
                batch.start = index + 1
                if type(result) is Raised:
                    self.conclude(batch, index, result)
                else:
                    succeeded(tokens[index * TOKEN_BYTES : (index + 1) * TOKEN_BYTES], result)
            if cancelling() or copy_context() != base:
                self.worn = True
                left = 0
            elif monotonic() >= until:
                left = 0
        self._slice_jobs = left

    async def _run_mixed(self, batch: Batch) -> None:
        """Any jobs: several tasks, sync ones, contexts, time limits, later attempts."""
        pool = self.pool
        while self._slice_jobs > 0 and (index := batch.next) < batch.count:
            batch.next = index + 1
            self._slice_jobs -= 1
            coroutine = pool.begin(self, batch, index)
            if coroutine is None:
                continue
            try:
                result = await coroutine
            except (GeneratorExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - a handler may raise anything
                result = Raised(error)
            if pool.puller is not self:
                self._return(result)
                return
            self._close_context()
            if result is not None:
                pool.close_run(batch, index)
                batch.start = index + 1
                self.conclude(batch, index, result)
            if self.task.cancelling() or copy_context() != pool.context:
                self.worn = True
                self._slice_jobs = 0
            elif monotonic() >= self._slice_until:
                self._slice_jobs = 0

    def _return(self, result: Any) -> None:
        """A handler that had suspended has ended."""
        pool, batch = self.pool, self.batch
        assert batch is not None
        self.conclude(batch, self.index, result)
        self.worn = self.task.cancelling() > 0 or copy_context() != pool.context
        self._close_context()
        self.batch, self.stop_reason = None, None
        pool.returned(self)

    def _close_context(self) -> None:
        self.deadline = self.soft_deadline = 0.0
        self.softly = None
        if self.context is not None:
            self.context._close()
            self.context = None

    def conclude(self, batch: Batch, index: int, result: Any) -> None:
        """Report the end of one job."""
        pool = self.pool
        token = batch.token(index)
        if type(result) is not Raised:
            pool.succeeded(token, result)
        elif self.stop_reason == "timeout":
            pool.failed(token, failure_json("timeout", "the time limit is over", retryable=True))
        elif self.stop_reason == "cancelled":
            pool.failed(token, CANCELLED)
        elif self.stop_reason == "shutdown":
            pool.given_back(token)
        elif self.stop_reason is None:
            pool.raised(token, result.error)
