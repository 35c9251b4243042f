"""Runs sync handlers: a bounded set of daemon threads that share one queue.

    submitted ──a thread takes it──► running ──► ended (reported once)
        └──── cancelled ────┘           └─ past its deadline, lost, abandoned: reported at once;
                                           the thread goes on, its later end no longer counts

A thread cannot be stopped: a handler that should stop is told through its context. The threads are
daemons, so that one that never returns does not keep the process alive. Ends travel to the loop in
batches: one wake-up for all that ended meanwhile.

`jobs` has every job whose end counts, by token. Only the loop's thread changes it.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import copy_context
from queue import SimpleQueue

from taskforge.binding import Binding
from taskforge.context import Context, StopReason
from taskforge.errors import FatalError
from taskforge.limits import FRAME_BYTES_MAX
from taskforge.worker import frames
from taskforge.worker.outcome import bad_arguments_json, exception_json, raised, result_json

Ended = Callable[[bytes, int, bytes | None], None]


class SyncJob:
    """One job for a thread. `taken` is set by the thread, `dropped` by the loop."""

    __slots__ = (
        "_on_extend",
        "binding",
        "context",
        "deadline",
        "dropped",
        "payload",
        "soft_deadline",
        "taken",
        "token",
    )

    def __init__(
        self,
        token: bytes,
        binding: Binding,
        payload: bytes,
        context: Context | None,
        deadline: float,
        soft_deadline: float = 0.0,
        on_extend: Callable[[bytes, float], None] = lambda token, deadline: None,
    ) -> None:
        self.token = token
        self.binding = binding
        self.payload = payload
        self.context = context
        self.deadline = deadline
        self.soft_deadline = soft_deadline
        self._on_extend = on_extend
        self.taken = False
        self.dropped = False

    def extended(self, token: bytes, deadline: float) -> None:
        """The handler has put its deadline off; called in its thread."""
        self._on_extend(token, deadline)

    def run(self) -> tuple[int, bytes | None]:
        """Call the handler: outcome and JSON text."""
        try:
            if self.context is not None:
                assert self.binding.call_with is not None
                bound = self.binding.call_with(self.payload, self.context)
            else:
                assert self.binding.call is not None
                bound = self.binding.call(self.payload)
        except Exception as error:  # noqa: BLE001 - whatever it is, the arguments are bad
            return frames.FAILED, bad_arguments_json(error)
        try:
            result = bound()
        except BaseException as error:  # noqa: BLE001 - a handler may raise anything
            return raised(error)
        finally:
            if self.context is not None:
                self.context._close()
        if result is None:
            return frames.SUCCEEDED, None
        try:
            return frames.SUCCEEDED, result_json(result, FRAME_BYTES_MAX)
        except FatalError as error:
            return frames.FAILED, exception_json(error)


class Threads:
    """The threads and what they run. `on_end` is called in the loop."""

    def __init__(self, threads_max: int, loop: asyncio.AbstractEventLoop, on_end: Ended) -> None:
        self.jobs: dict[bytes, SyncJob] = {}
        self._threads_max = threads_max
        self._loop = loop
        self._on_end = on_end
        self._queue: SimpleQueue[SyncJob | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._busy = 0  # jobs in the queue or in a thread, dropped ones included
        self._ended: deque[tuple[SyncJob, int, bytes | None]] = deque()
        self._scheduled = False

    def submit(self, job: SyncJob) -> None:
        """Run a job as soon as a thread is free."""
        self.jobs[job.token] = job
        self._busy += 1
        if self._busy > len(self._threads) < self._threads_max:
            thread = threading.Thread(
                target=self._work, name=f"taskforge-{len(self._threads)}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        self._queue.put(job)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            job.taken = True
            # A job that is dropped just now runs although nobody counts it: that is harmless.
            outcome, data = (
                (frames.GIVEN_BACK, None) if job.dropped else copy_context().run(job.run)
            )
            self._ended.append((job, outcome, data))
            if not self._scheduled:
                self._scheduled = True
                try:
                    self._loop.call_soon_threadsafe(self._collect)
                except RuntimeError:
                    return  # the loop is closed: nobody waits for this end

    def _collect(self) -> None:
        # First the flag, then the queue: an end that comes in between schedules another call.
        self._scheduled = False
        while self._ended:
            job, outcome, data = self._ended.popleft()
            self._busy -= 1
            if not job.dropped and self.jobs.pop(job.token, None) is not None:
                self._on_end(job.token, outcome, data)

    def _drop(self, jobs: Iterable[SyncJob], reason: StopReason) -> list[bytes]:
        """Their ends no longer count; tell their handlers."""
        tokens = []
        for job in jobs:
            job.dropped = True
            if job.context is not None:
                job.context._stop(reason)
            del self.jobs[job.token]
            tokens.append(job.token)
        return tokens

    def expire(self, now: float) -> list[bytes]:
        """Drop the jobs whose deadline is over; their tokens."""
        if not self.jobs:
            return []
        late = [job for job in self.jobs.values() if job.deadline and now >= job.deadline]
        return self._drop(late, "timeout")

    def soften(self, now: float) -> None:
        """Tell the handlers whose soft limit is over."""
        for job in self.jobs.values():
            if job.soft_deadline and now >= job.soft_deadline:
                job.soft_deadline = 0.0
                if job.context is not None:
                    job.context._soft_timed_out = True

    def cancel(self, tokens: set[bytes]) -> list[bytes]:
        """Drop those of these jobs that no thread has begun, their tokens; tell the others, whose
        ends still count."""
        mine = [self.jobs[token] for token in tokens & self.jobs.keys()]
        for job in mine:
            if job.taken and job.context is not None:
                job.context._stop("cancelled")
        return self._drop([job for job in mine if not job.taken], "cancelled")

    def drop(self, tokens: set[bytes], reason: StopReason) -> None:
        """Drop these jobs."""
        self._drop([self.jobs[token] for token in tokens & self.jobs.keys()], reason)

    def cancel_waiting(self) -> list[bytes]:
        """Drop the jobs that no thread has begun; their tokens."""
        return self._drop([job for job in self.jobs.values() if not job.taken], "shutdown")

    def flag_all(self, reason: StopReason) -> None:
        """Tell all handlers to stop; their ends still count."""
        for job in self.jobs.values():
            if job.context is not None:
                job.context._stop(reason)

    def abandon(self) -> list[bytes]:
        """Drop all jobs; their tokens."""
        return self._drop(list(self.jobs.values()), "shutdown")

    def close(self) -> None:
        """Let the threads end as they become free."""
        for _ in self._threads:
            self._queue.put(None)
