"""The jobs that a worker holds: waiting in batches, in a runner, or in a thread.

Order: jobs start in the order in which they came. Invariant: each job that came in and has not
ended is in exactly one of `batches` (not taken), the puller, `suspended`, and the threads.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextvars import copy_context
from time import monotonic
from typing import Any

from taskforge.context import Context, LogSink, ParentSource, ProgressSink, StopReason
from taskforge.errors import FatalError
from taskforge.limits import DONE_JOBS_FLUSH, RESULT_BYTES_MAX_DEFAULT, RUNNERS_WOKEN_MAX
from taskforge.task import Task
from taskforge.worker import frames
from taskforge.worker.batch import Batch
from taskforge.worker.completions import Completions
from taskforge.worker.outcome import (
    CANCELLED,
    bad_arguments_json,
    exception_json,
    failure_json,
    raised,
    result_json,
)
from taskforge.worker.runner import Runner
from taskforge.worker.soft import Softly
from taskforge.worker.threads import SyncJob, Threads


class Pool:
    """Runs the jobs it is fed and gathers their completions; `on_flush` sends them.

    `puller` takes jobs from `batches`; `at_work` is False while it is between two slices or about
    to start. `idle` runners wait to be chosen; `suspended` ones are inside a handler.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task[..., Any]],
        *,
        concurrency: int,
        threads: int,
        completions: Completions,
        on_flush: Callable[[], None],
        lines: LogSink | None = None,
        words: ProgressSink | None = None,
        on_extend: Callable[[bytes, float], None] = lambda token, deadline: None,
        parents: ParentSource | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.context = copy_context()
        self.tasks = dict(tasks)
        self.concurrency = concurrency
        self.completions = completions
        self.lines = lines
        self.parents = parents
        self.words = words
        self.result_bytes_max = RESULT_BYTES_MAX_DEFAULT
        self.batches: deque[Batch] = deque()
        self.puller: Runner | None = None
        self.at_work = False
        self.idle: list[Runner] = []
        self.suspended: set[Runner] = set()
        self.threads = Threads(threads, self.loop, self._thread_ended)
        self.failure: asyncio.Future[None] = self.loop.create_future()
        self.closed = False
        self._runners: set[Runner] = set()
        self._on_flush = on_flush
        self._on_extend = on_extend
        self._fan = 1  # runners that are woken together
        self._flush_scheduled = False
        self._idle_waiters: list[asyncio.Future[None]] = []

    # --- jobs come in -------------------------------------------------------------------------

    def feed(self, frame: frames.Jobs) -> None:
        """Take the jobs of a frame; ValueError when the frame is broken."""
        batch = Batch(frame, self.tasks, monotonic())
        if batch.count:
            self.batches.append(batch)
            self.settle()

    def settle(self) -> None:
        """Move a puller that is suspended in its handler aside; see that jobs have a puller."""
        if self.at_work:
            self._set_aside()
            if self.batches:
                self._fan = min(self._fan * 2, RUNNERS_WOKEN_MAX)
        if self.puller is None:
            if self.batches and not self.closed:
                self._choose()
            if self.completions.gathered_jobs or self._idle_waiters:
                self.flush_soon()

    def _set_aside(self) -> None:
        """The puller is suspended in its handler: it pulls no more."""
        puller = self.puller
        assert puller is not None
        batch = self.batches[0]
        index = batch.next - 1
        self.close_run(batch, index)
        batch.start = index + 1
        puller.batch, puller.index = batch, index
        self.suspended.add(puller)
        if batch.next == batch.count:
            self.batches.popleft()
        self.puller = None
        self.at_work = False

    def _choose(self) -> None:
        """Make an idle or a new runner the puller; without one, the first that returns pulls.

        While handlers suspend, several are woken, so that a turn of the loop starts several jobs:
        each takes over from the one before (`claim`).
        """
        for _ in range(self._fan):
            if self.idle:
                runner = self.idle.pop()
                runner.wake()
            elif len(self._runners) < self.concurrency:
                runner = Runner(self)
                self._runners.add(runner)
            else:
                break
            if self.puller is None:
                self.puller = runner

    def claim(self, runner: Runner) -> bool:
        """A free runner becomes the puller if nobody else is, or if that one is suspended."""
        if self.at_work:
            self._set_aside()
        if self.puller is None and self.batches and not self.closed:
            self.puller = runner
        return self.puller is runner

    def woken_in_vain(self) -> None:
        """More runners were woken than there was work for."""
        self._fan = max(1, self._fan // 2)

    # --- what runners tell --------------------------------------------------------------------

    def leave(self, runner: Runner) -> None:
        """The runner stops pulling: no jobs are left, or it is worn."""
        if self.puller is runner:
            self.puller = None
            self.at_work = False
            self.settle()
            self.flush()

    def returned(self, runner: Runner) -> None:
        """The handler in which the runner was suspended has ended."""
        self.suspended.discard(runner)
        self.flush_soon()

    def ended(self, runner: Runner) -> None:
        """The runner's task is over."""
        self._runners.discard(runner)
        self.suspended.discard(runner)
        if runner in self.idle:
            self.idle.remove(runner)
        if self.puller is runner:
            self.puller = None
            self.at_work = False
        self.settle()

    def check_end(self, task: asyncio.Task[None]) -> None:
        """A runner never fails by itself: if one does, the worker must not go on half-blind."""
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.failure.done():
            self.failure.set_exception(error)

    def begin(self, runner: Runner, batch: Batch, index: int) -> Awaitable[Any] | None:
        """Start one job of a mixed batch: the handler's coroutine, or None: it is seen to."""
        task = batch.tasks[batch.kinds[index] if batch.kinds else 0]
        payload = batch.payloads[index]
        if task is None or payload is None:
            self.refuse(batch, index, FatalError("no such task here"))
            return None
        extra = batch.extras.get(index)
        deadline = soft_deadline = 0.0
        if extra is not None and (soft_s := extra.soft_timeout_s):
            soft_deadline = batch.received_monotonic + soft_s
        if extra is not None and extra.timeout_ms:
            deadline = batch.received_monotonic + extra.timeout_ms / 1000
            if deadline <= monotonic():
                self._skip(batch, index)
                self.failed(batch.token(index), _TIMEOUT_WAITING)
                return None
        context = None
        binding = task.binding
        if binding.takes_context:
            attempt = extra.attempt if extra is not None else 1
            token = batch.token(index)
            context = Context(
                token,
                batch.queue,
                task.name,
                attempt,
                payload,
                deadline,
                self.lines,
                self.words,
                self.parents,
            )
        if not task.is_async:
            self._skip(batch, index)
            job = SyncJob(
                batch.token(index),
                binding,
                payload,
                context,
                deadline,
                soft_deadline,
                self._extended_elsewhere,
            )
            if context is not None:
                context._attempt = job
            self.threads.submit(job)
            return None
        try:
            if context is not None:
                assert binding.call_with is not None
                coroutine = binding.call_with(payload, context)
            else:
                assert binding.call is not None
                coroutine = binding.call(payload)
        except Exception as error:  # noqa: BLE001 - whatever it is, the arguments are bad
            self.refuse(batch, index, error)
            return None
        runner.deadline, runner.context = deadline, context
        if context is not None:
            context._attempt = runner
        if soft_deadline:
            runner.soft_deadline, runner.softly = soft_deadline, Softly(coroutine)
            return runner.softly
        return coroutine  # type: ignore[no-any-return]

    def _skip(self, batch: Batch, index: int) -> None:
        """The job at `index` is not part of a run of successes."""
        self.close_run(batch, index)
        batch.start = index + 1

    # --- how jobs end -------------------------------------------------------------------------

    def close_run(self, batch: Batch, end: int) -> None:
        """Report the jobs before `end` that succeeded without a result."""
        if end > batch.start:
            tokens, jobs = batch.take_run(end)
            self.completions.succeeded(tokens, jobs)

    def refuse(self, batch: Batch, index: int, error: Exception) -> None:
        """The job cannot be run here: its lease is gone, or its arguments are bad."""
        self._skip(batch, index)
        if batch.payloads[index] is not None:
            self.failed(batch.token(index), bad_arguments_json(error))

    def succeeded(self, token: bytes, result: Any) -> None:
        """The job ended with this result."""
        if result is None:
            self.completions.succeeded(token, 1)
            return
        try:
            data = result_json(result, self.result_bytes_max)
        except FatalError as error:
            self.failed(token, exception_json(error))
        else:
            self.completions.add(token, frames.SUCCEEDED, data)

    def failed(self, token: bytes, data: bytes) -> None:
        """The job failed; the error in JSON says whether it may be tried again."""
        self.completions.add(token, frames.FAILED, data)

    def raised(self, token: bytes, error: BaseException) -> None:
        """The handler ended with this exception."""
        self.completions.add(token, *raised(error))

    def given_back(self, token: bytes) -> None:
        """The job goes back to its queue."""
        self.completions.add(token, frames.GIVEN_BACK, None)

    def _thread_ended(self, token: bytes, outcome: int, data: bytes | None) -> None:
        if outcome == frames.SUCCEEDED and data is None:
            self.completions.succeeded(token, 1)
        elif outcome == frames.SUCCEEDED and data is not None and len(data) > self.result_bytes_max:
            text = f"the result has {len(data)} bytes, the server takes {self.result_bytes_max}"
            self.failed(token, failure_json("FatalError", text, retryable=False))
        else:
            self.completions.add(token, outcome, data)
        self.flush_soon()

    # --- completions go out -------------------------------------------------------------------

    def flush_soon(self) -> None:
        """Send what is gathered at the end of this turn of the loop."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self.loop.call_soon(self._scheduled_flush)

    def _scheduled_flush(self) -> None:
        self._flush_scheduled = False
        self.flush()

    def flush_when_full(self) -> None:
        """Send what is gathered if it is worth a frame."""
        if self.completions.gathered_jobs >= DONE_JOBS_FLUSH:
            self.flush()

    def flush(self) -> None:
        """Send what is gathered now."""
        if self.completions.gathered_jobs:
            self._on_flush()
        if self._idle_waiters and self.is_idle:
            for waiter in self._idle_waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._idle_waiters.clear()

    # --- stopping -----------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """No job is held, but for completions on their way."""
        return not (self.batches or self.suspended or self.puller or self.threads.jobs)

    async def wait_idle(self) -> None:
        """Return when no job is held."""
        if not self.is_idle:
            waiter = self.loop.create_future()
            self._idle_waiters.append(waiter)
            await waiter

    def sweep(self, now: float) -> None:
        """Enforce the deadlines of what runs."""
        self.settle()
        for runner in self.suspended:
            if runner.deadline and now >= runner.deadline:
                runner.stop("timeout")
            elif runner.soft_deadline and now >= runner.soft_deadline:
                runner.soft_stop()
        self.threads.soften(now)
        for token in self.threads.expire(now):
            self.failed(token, _TIMEOUT)
            self.flush_soon()

    def held(self) -> bytes:
        """The tokens of all jobs that have not ended, and of completions not acknowledged."""
        self.settle()
        parts = [self.completions.tokens()]
        for batch in self.batches:
            self.close_run(batch, batch.next)
            parts.extend(token for _, token in batch.waiting())
        kept = (runner for runner in self.suspended if runner.stop_reason != "lease_lost")
        parts.extend(runner.token for runner in kept)
        parts.extend(self.threads.jobs)
        return b"".join(parts)

    def cancel(self, tokens: set[bytes]) -> None:
        """Somebody wants these jobs to end: what waits does so at once, what runs is told."""
        self.settle()
        for batch in self.batches:
            for index, token in batch.waiting():
                if token in tokens:
                    batch.payloads[index] = None
                    self.failed(token, CANCELLED)
        for runner in self.suspended:
            if runner.token in tokens:
                runner.stop("cancelled")
        for token in self.threads.cancel(tokens):
            self.failed(token, CANCELLED)
        self.flush_soon()

    def extended(self, token: bytes, deadline: float) -> None:
        """A handler has put its deadline off: the server shall know."""
        self._on_extend(token, deadline)

    def _extended_elsewhere(self, token: bytes, deadline: float) -> None:
        self.loop.call_soon_threadsafe(self.extended, token, deadline)

    def lost(self, tokens: set[bytes]) -> None:
        """The leases of these jobs are gone: drop what waits, stop what runs."""
        self.settle()
        for batch in self.batches:
            for index, token in batch.waiting():
                if token in tokens:
                    batch.payloads[index] = None
        for runner in self.suspended:
            if runner.token in tokens:
                runner.stop("lease_lost")
        self.threads.drop(tokens, "lease_lost")
        self.flush_soon()

    def give_back_waiting(self) -> None:
        """Return what has not begun."""
        self.settle()
        for batch in self.batches:
            self.close_run(batch, batch.next)
            for _, token in batch.waiting():
                self.given_back(token)
        self.batches.clear()
        for token in self.threads.cancel_waiting():
            self.given_back(token)
        self.flush_soon()

    def stop_running(self, reason: StopReason) -> None:
        """Cancel async handlers, tell sync ones."""
        self.settle()
        for runner in self.suspended:
            runner.stop(reason)
        self.threads.flag_all(reason)

    def close(self) -> None:
        """Start nothing any more."""
        self.closed = True
        self.batches.clear()
        self.threads.close()
        self.failure.cancel()

    def abandon_threads(self) -> None:
        """Give back what still runs in threads; its later end no longer counts."""
        for token in self.threads.abandon():
            self.given_back(token)
        self.flush_soon()


_TIMEOUT = failure_json("timeout", "the time limit is over", retryable=True)
_TIMEOUT_WAITING = failure_json(
    "timeout", "the time limit was over before it began", retryable=True
)
