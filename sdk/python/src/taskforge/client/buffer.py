"""Single submits, gathered into batches.

    submit ──► gathering ──full, or linger over──► in flight ──answer──► futures

Each submit gets a future of its own: a handle, or its own error. At most
BUFFER_BATCHES_IN_FLIGHT requests are under way; when as many batches again as
BUFFER_WAITING_BATCHES_MAX wait for them, `submit` waits, so a slow server slows the caller instead
of filling its memory.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Generic, Protocol, Self, TypeVar

from taskforge.client import calls
from taskforge.errors import ApiError, SubmitError, TaskForgeError
from taskforge.limits import (
    BATCH_BYTES_MAX,
    BATCH_JOBS_MAX,
    BUFFER_BATCHES_IN_FLIGHT,
    BUFFER_WAITING_BATCHES_MAX,
)
from taskforge.task import JobSpec, Payload, Task

H_co = TypeVar("H_co", covariant=True)
H = TypeVar("H")
T = TypeVar("T")


class Execute(Protocol):
    """Sends a call and reads its answer."""

    def __call__(self, call: calls.Call[T]) -> Awaitable[T]: ...


class MakeHandle(Protocol[H_co]):
    """Makes a handle of an id and its task."""

    def __call__(self, job_id: str, task: Task[..., Any] | str) -> H_co: ...


class _Gathering(Generic[H]):
    """One batch for one queue, until it is sent."""

    __slots__ = ("bytes", "futures", "items", "queue", "tasks")

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.items: list[calls.Item] = []
        self.tasks: list[Task[..., Any] | str] = []
        self.futures: list[asyncio.Future[H]] = []
        self.bytes = 0


class Buffer(Generic[H]):
    """Use it as `async with client.buffered() as buffer`; leaving the block sends what is left and
    waits for all answers.

    `submit` returns a future at once, unless the buffer is full: then it waits for room first.
    """

    def __init__(
        self,
        execute: Execute,
        make_handle: MakeHandle[H],
        make_key: Callable[[], str | None],
        linger_s: float,
        jobs_max: int,
    ) -> None:
        if not 1 <= jobs_max <= BATCH_JOBS_MAX:
            raise ValueError(f"jobs_max is 1 to {BATCH_JOBS_MAX}, not {jobs_max}")
        if linger_s < 0:
            raise ValueError("linger_ms is 0 or more")
        self._execute = execute
        self._make_handle = make_handle
        self._make_key = make_key
        self._linger_s = linger_s
        self._jobs_max = jobs_max
        self._gathering: dict[str, _Gathering[H]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._in_flight = asyncio.Semaphore(BUFFER_BATCHES_IN_FLIGHT)
        self._sending: set[asyncio.Task[None]] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        self.flush()
        while self._sending:
            await asyncio.wait(self._sending)

    async def submit(
        self,
        task: Task[..., Any] | str,
        payload: Payload = None,
        *,
        queue: str | None = None,
        priority: int | None = None,
        delay_s: float | None = None,
        scheduled_for: datetime | None = None,
        timeout_s: float | None = None,
        max_attempts: int | None = None,
        tags: Sequence[str] | None = None,
        **arguments: Any,
    ) -> "asyncio.Future[H]":
        """Put a job into the next batch; the future has its handle once it is durable."""
        if arguments and payload is not None:
            raise TypeError("give the arguments either as payload or by name")
        return await self.put(
            JobSpec(
                task,
                arguments if payload is None else payload,
                queue=queue,
                priority=priority,
                delay_s=delay_s,
                scheduled_for=scheduled_for,
                timeout_s=timeout_s,
                max_attempts=max_attempts,
                tags=tags,
            )
        )

    async def put(self, spec: JobSpec[Any]) -> "asyncio.Future[H]":
        """The same for a job that is described already."""
        queue, item = calls.queue_of(spec), calls.item(spec)
        while len(self._sending) >= BUFFER_BATCHES_IN_FLIGHT + BUFFER_WAITING_BATCHES_MAX:
            await asyncio.wait(self._sending, return_when=asyncio.FIRST_COMPLETED)
        if self._closed:
            raise RuntimeError("the buffer is closed")
        loop = asyncio.get_running_loop()
        batch = self._gathering.get(queue)
        if batch is None:
            batch = self._gathering[queue] = _Gathering(queue)
            if self._timer is None:
                self._timer = loop.call_later(self._linger_s, self.flush)
        future: asyncio.Future[H] = loop.create_future()
        batch.items.append(item)
        batch.tasks.append(spec.task)
        batch.futures.append(future)
        batch.bytes += len(item.payload)
        if len(batch.items) >= self._jobs_max or batch.bytes >= BATCH_BYTES_MAX:
            self._send(batch)
        return future

    def flush(self) -> None:
        """Send what has gathered, full or not."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for batch in list(self._gathering.values()):
            self._send(batch)

    def _send(self, batch: _Gathering[H]) -> None:
        del self._gathering[batch.queue]
        sending = asyncio.ensure_future(self._request(batch))
        self._sending.add(sending)
        sending.add_done_callback(self._sending.discard)

    async def _request(self, batch: _Gathering[H]) -> None:
        async with self._in_flight:
            try:
                reply = await self._execute(calls.batch(batch.queue, batch.items, self._make_key()))
                results = calls.batch_results(reply, range(len(batch.items)))
            except (ApiError, TaskForgeError, ValueError, RuntimeError) as error:
                for future in batch.futures:
                    if not future.done():
                        future.set_exception(error)
                return
        for place, result in results:
            future = batch.futures[place]
            if future.done():
                continue  # its submitter was cancelled
            if isinstance(result, SubmitError):
                future.set_exception(result)
            else:
                future.set_result(self._make_handle(result, batch.tasks[place]))
