"""The server in memory, its clients, and what runs its jobs.

    scheduled ──time──► pending ──run──► succeeded, failed, cancelled
        └◄── retry, snooze ──┘

Time stands still but for `advance`. Jobs of one moment run by priority, then in the order of their
submits, one after the other. A run is bounded: a program whose jobs make jobs without end raises.
"""

import asyncio
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Self, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import UUID

import msgspec

from taskforge.client import calls, models
from taskforge.client.asynchronous import AsyncClient
from taskforge.client.blocking import Client
from taskforge.client.http1 import MSGPACK, Response
from taskforge.context import LEVELS, Context
from taskforge.limits import RESULT_BYTES_MAX_DEFAULT
from taskforge.task import Task
from taskforge.testing import rules
from taskforge.worker import frames
from taskforge.worker.outcome import bad_arguments_json, raised, result_json

T = TypeVar("T")

RUN_JOBS_MAX = 10_000
"""A run that starts more attempts than this is thought to be without end."""

_FIRST_ID = 0x0190_0000_0000_7000_8000_0000_0000_0000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_to_json = msgspec.json.Encoder().encode


class _Job:
    """A job of the server in memory."""

    def __init__(self, number: int, queue: str, fields: Mapping[str, Any], now: datetime) -> None:
        self.number = number
        self.id = str(UUID(int=_FIRST_ID + number))
        self.queue = queue
        self.fields = dict(fields)
        self.created_at = now
        self.due_at: datetime | None = None
        if (delay_s := fields.get("delay_s")) is not None:
            self.due_at = now + timedelta(seconds=delay_s)
        elif (when := fields.get("scheduled_for")) is not None:
            self.due_at = datetime.fromisoformat(when)
        self.status: models.JobStatus = "pending"
        self.executions: list[models.Execution] = []
        self.snoozes = 0
        self.result: Any = None
        self.error: Any = None
        self.failed_reason: str | None = None
        self.cancel_reason: str | None = None
        self.finished_at: datetime | None = None
        self.lines: list[models.LogLine] = []

    @property
    def order(self) -> tuple[int, int]:
        """By priority, the greatest first, then by submit."""
        return -self.fields.get("priority", 0), self.number

    @property
    def waits(self) -> bool:
        return self.status in ("pending", "scheduled")

    def settle(self, now: datetime) -> None:
        """Waiting for a time or not, as it is now."""
        if self.waits:
            due = self.due_at is None or self.due_at <= now
            self.status = "pending" if due else "scheduled"

    def view(self) -> models.Job:
        """As a client sees it."""
        named = ("priority", "max_attempts", "timeout_s", "tags", "idempotency_key")
        return models.Job(
            id=self.id,
            queue=self.queue,
            job_type=self.fields["job_type"],
            status=self.status,
            payload=self.fields.get("payload"),
            scheduled_for=self.due_at,
            created_at=self.created_at,
            updated_at=self.finished_at or self.created_at,
            started_at=self.executions[-1].started_at if self.executions else None,
            finished_at=self.finished_at,
            attempts=len(self.executions),
            result=self.result,
            last_error=self.error,
            failed_reason=self.failed_reason,
            cancel_reason=self.cancel_reason,
            executions=list(self.executions),
            **{name: self.fields[name] for name in named if self.fields.get(name) is not None},
        )


class _Lines:
    """What a handler logs, kept with its job."""

    def __init__(self, job: _Job, attempt: int, now: datetime) -> None:
        self._job = job
        self._attempt = attempt
        self._now = now

    def add(self, context: Context, level: int, message: str, metadata: bytes | None) -> None:
        number = len(self._job.lines) + 1
        line = models.LogLine(
            id=str(UUID(int=number)),
            attempt=self._attempt,
            number=number,
            level=LEVELS[level],
            message=message,
            metadata=msgspec.json.decode(metadata) if metadata else {},
            logged_at=self._now,
        )
        self._job.lines.append(line)


class MemoryTaskForge:
    """A server with one worker for `tasks`, in memory. `queues` gives settings to queues; those of
    the tasks and `default` are there anyway."""

    def __init__(
        self,
        tasks: Iterable[Task[..., Any]] = (),
        *,
        queues: Mapping[str, models.QueueSettings] | None = None,
        now: datetime | None = None,
    ) -> None:
        self.tasks = {task.name: task for task in tasks}
        self.now = now or datetime.now(UTC)
        """What time it is; `advance` moves it."""
        self.client = MemoryClient(self)
        self.async_client = MemoryAsyncClient(self)
        self._queues = {"default": models.QueueSettings()}
        self._queues |= {task.queue: models.QueueSettings() for task in self.tasks.values()}
        self._queues |= dict(queues or {})
        self._jobs: dict[str, _Job] = {}
        self._numbers = count(1)
        self._keys: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.client.close()
        await self.async_client.close()

    # what happened

    @property
    def jobs(self) -> list[models.Job]:
        """All jobs, in the order of their submits."""
        return [self.job(job_id) for job_id in self._jobs]

    def job(self, job_id: str) -> models.Job:
        """One of them, as it is now."""
        job = self._jobs[job_id]
        job.settle(self.now)
        return job.view()

    def logs(self, job_id: str) -> list[models.LogLine]:
        """What its handlers logged, the oldest first."""
        return list(self._jobs[job_id].lines)

    def submitted(
        self, task: Task[..., Any] | str, *, queue: str | None = None, **arguments: Any
    ) -> list[models.Job]:
        """The jobs of this task whose payload has (at least) these arguments."""
        name = task.name if isinstance(task, Task) else task
        wanted = msgspec.json.decode(_to_json(arguments))
        return [
            job
            for job in self.jobs
            if job.job_type == name
            and (queue is None or job.queue == queue)
            and wanted.items() <= (job.payload or {}).items()
        ]

    def assert_submitted(
        self, task: Task[..., Any] | str, *, queue: str | None = None, **arguments: Any
    ) -> models.Job:
        """Exactly one such job; AssertionError says which there are."""
        found = self.submitted(task, queue=queue, **arguments)
        if len(found) != 1:
            name = task.name if isinstance(task, Task) else task
            there = [f"  {job.job_type} {job.payload} on {job.queue}" for job in self.jobs]
            listed = "\n".join(there or ["  none"])
            raise AssertionError(
                f"{len(found)} jobs of {name} with {arguments}, not one; there are:\n{listed}"
            )
        return found[0]

    # time and work

    def advance(self, delay: float | timedelta) -> None:
        """Let time pass, seconds or a timedelta. Runs nothing."""
        step = delay if isinstance(delay, timedelta) else timedelta(seconds=delay)
        if step < timedelta(0):
            raise ValueError("time does not go back")
        self.now += step

    def run(self) -> int:
        """Run all that is due, with what it submits; how many attempts. For async tests there is
        `run_async`."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self.run_async())
        raise RuntimeError("an event loop is running: await forge.run_async()")

    async def run_async(self) -> int:
        """The same from an event loop."""
        ran = 0
        while (job := self._next()) is not None:
            if ran == RUN_JOBS_MAX:
                raise RuntimeError(f"{ran} attempts and no end: do jobs submit each other?")
            await self._attempt(job)
            ran += 1
        return ran

    def run_all(self) -> int:
        """Run until nothing is left, moving time to the next job that is due again and again."""
        ran = self.run()
        while (due_at := self._next_due()) is not None:
            self.now = max(self.now, due_at)
            ran += self.run()
            if ran >= RUN_JOBS_MAX:
                raise RuntimeError(f"{ran} attempts and no end: do jobs put themselves off?")
        return ran

    def _runnable(self) -> list[_Job]:
        for job in self._jobs.values():
            job.settle(self.now)
        return [job for job in self._jobs.values() if job.fields["job_type"] in self.tasks]

    def _next(self) -> _Job | None:
        ready = [job for job in self._runnable() if job.status == "pending"]
        return min(
            ready, key=lambda job: (-job.fields.get("priority", 0), job.number), default=None
        )

    def _next_due(self) -> datetime | None:
        due = (job.due_at for job in self._runnable() if job.status == "scheduled")
        return min((when for when in due if when is not None), default=None)

    async def _attempt(self, job: _Job) -> None:
        attempt = len(job.executions) + 1
        job.status = "processing"
        payload = _to_json(job.fields.get("payload"))
        token = UUID(job.id).bytes + attempt.to_bytes(8, "big")
        lines = _Lines(job, attempt, self.now)
        task = self.tasks[job.fields["job_type"]]
        context = Context(token, job.queue, task.name, attempt, payload, lines=lines)
        binding, outcome, data = task.binding, frames.SUCCEEDED, b"null"
        try:
            if binding.call_with is not None:
                call = binding.call_with(payload, context)
            else:
                assert binding.call is not None
                call = binding.call(payload)
        except Exception as error:  # noqa: BLE001 - whatever it is, the arguments are bad
            outcome, data = frames.FAILED, bad_arguments_json(error)
        else:
            try:
                result = await call if inspect.isawaitable(call) else call()
                data = result_json(result, RESULT_BYTES_MAX_DEFAULT)
            except Exception as error:  # noqa: BLE001 - a handler may raise anything
                outcome, data = raised(error)
        self._end(job, attempt, outcome, msgspec.json.decode(data))

    def _end(self, job: _Job, attempt: int, outcome: int, said: Any) -> None:
        error = said.get("error", said) if outcome in (frames.RETRY, frames.CANCELLED) else said
        status = "succeeded"
        if outcome == frames.SUCCEEDED:
            job.status, job.result = "succeeded", said
        elif outcome == frames.SNOOZE:
            job.snoozes += 1
            status, error = "retrying", None
            self._put_off(job, self._when(said))
        elif outcome == frames.CANCELLED:
            status = "failed"
            job.status, job.error = "cancelled", error
            job.cancel_reason = error.get("message") or "cancelled"
        else:
            status = self._failed(job, attempt, error, self._when(said))
        if job.status in models.FINAL:
            job.finished_at = self.now
        job.executions.append(
            models.Execution(
                id=str(UUID(int=attempt)),
                attempt=attempt,
                status=status,
                started_at=self.now,
                finished_at=self.now,
                output=job.result,
                error=error if status != "succeeded" else None,
            )
        )

    def _failed(self, job: _Job, attempt: int, error: Any, when: datetime | None) -> str:
        own = job.fields.get("retry_policy")
        policy = rules.policy_over(
            None if own is None else msgspec.convert(own, models.RetryPolicy),
            self._queues[job.queue].retry_policy,
        )
        failures = attempt - job.snoozes
        job.error = error
        reason = rules.failed_reason(policy, error, failures, job.fields.get("max_attempts"))
        if reason is not None:
            job.status, job.failed_reason = "failed", reason
            return "failed"
        delay = timedelta(seconds=rules.wait_s(policy, failures))
        self._put_off(job, when or self.now + delay)
        return "retrying"

    def _put_off(self, job: _Job, when: datetime | None) -> None:
        job.status, job.due_at = "scheduled", when

    def _when(self, said: Mapping[str, Any]) -> datetime | None:
        """The time that a handler named."""
        if (at_us := said.get("at_us")) is not None:
            return max(self.now, _EPOCH + timedelta(microseconds=at_us))
        delay_ms = said.get("delay_ms")
        return None if delay_ms is None else self.now + timedelta(milliseconds=delay_ms)

    # the interface

    def answer(self, call: calls.Call[Any]) -> Response:
        """What a server would answer."""
        parts = urlsplit(call.path)
        for method, pattern, name in _ROUTES:
            found = re.fullmatch(pattern, parts.path)
            if found is not None and method == call.method:
                query = {key: values[0] for key, values in parse_qs(parts.query).items()}
                handler: Callable[..., Response] = getattr(self, name)
                return handler(call, query, *(unquote(part) for part in found.groups()))
        raise NotImplementedError(f"{call.method} {parts.path} is no part of TaskForge in memory")

    def _submit(self, call: calls.Call[Any], query: dict[str, str], queue: str) -> Response:
        if queue not in self._queues:
            return _problem(404, "queue_not_found", f"there is no queue {queue}")
        job = self._take(queue, msgspec.json.decode(call.body or b"{}"), call.key)
        return _json({"id": job.id, "status": job.status}, 201)

    def _batch(self, call: calls.Call[Any], query: dict[str, str], queue: str) -> Response:
        if queue not in self._queues:
            return _problem(404, "queue_not_found", f"there is no queue {queue}")
        assert call.content_type == MSGPACK
        ids = b""
        for item in msgspec.msgpack.decode(call.body or b"")["jobs"]:
            fields = item | {"payload": msgspec.json.decode(item["payload"])}
            ids += UUID(self._take(queue, fields, None).id).bytes
        return Response(200, b"", msgspec.msgpack.encode({"ids": ids, "errors": {}}), True)

    def _take(self, queue: str, fields: dict[str, Any], key: str | None) -> _Job:
        if key is not None and key in self._keys:
            return self._jobs[self._keys[key]]
        named = fields if key is None else fields | {"idempotency_key": key}
        job = _Job(next(self._numbers), queue, named, self.now)
        job.settle(self.now)
        self._jobs[job.id] = job
        if key is not None:
            self._keys[key] = job.id
        return job

    def _get(self, call: calls.Call[Any], query: dict[str, str], job_id: str) -> Response:
        return _json(self.job(job_id)) if job_id in self._jobs else _NO_JOB

    def _cancel(self, call: calls.Call[Any], query: dict[str, str], job_id: str) -> Response:
        job = self._jobs.get(job_id)
        if job is None:
            return _NO_JOB
        if job.waits:
            job.status, job.cancel_reason, job.finished_at = "cancelled", "cancelled", self.now
        if job.status != "cancelled":
            return _problem(409, "job_not_cancellable", f"this job is {job.status}")
        return _json(job.view())

    def _retry(self, call: calls.Call[Any], query: dict[str, str], job_id: str) -> Response:
        job = self._jobs.get(job_id)
        if job is None:
            return _NO_JOB
        if job.status not in ("failed", "cancelled"):
            return _problem(409, "job_not_retryable", f"this job is {job.status}")
        job.status, job.due_at, job.finished_at = "pending", None, None
        job.failed_reason = job.cancel_reason = None
        return _json(job.view())

    def _list(self, call: calls.Call[Any], query: dict[str, str]) -> Response:
        fields = {name: query[name] for name in ("queue", "status", "job_type") if name in query}
        found = [
            job
            for job in reversed(self.jobs)
            if all(getattr(job, name) == value for name, value in fields.items())
        ]
        return _json({"items": found, "next_cursor": None})

    def _logs(self, call: calls.Call[Any], query: dict[str, str], job_id: str) -> Response:
        if job_id not in self._jobs:
            return _NO_JOB
        wanted = {name: query[name] for name in ("attempt", "level") if name in query}
        found = [
            line
            for line in self._jobs[job_id].lines
            if all(str(getattr(line, name)) == value for name, value in wanted.items())
        ]
        return _json({"items": found, "next_cursor": None})

    def _make_queue(self, call: calls.Call[Any], query: dict[str, str]) -> Response:
        made = msgspec.json.decode(call.body or b"{}", type=models.Queue)
        self._queues[made.name] = made.settings
        return _json(made, 201)


_JOB = r"/v1/jobs/([0-9a-f-]{36})"
_ROUTES = (
    ("POST", r"/v1/queues/([^/]+)/jobs", "_submit"),
    ("POST", r"/v1/queues/([^/]+)/jobs/batch", "_batch"),
    ("POST", r"/v1/queues", "_make_queue"),
    ("GET", r"/v1/jobs", "_list"),
    ("GET", _JOB, "_get"),
    ("GET", f"{_JOB}/logs", "_logs"),
    ("POST", f"{_JOB}/cancel", "_cancel"),
    ("POST", f"{_JOB}/retry", "_retry"),
)


def _json(value: Any, status: int = 200) -> Response:
    return Response(status, b"\r\ncontent-type: application/json", _to_json(value), True)


def _problem(status: int, code: str, detail: str) -> Response:
    return _json({"code": code, "status": status, "title": code, "detail": detail}, status)


_NO_JOB = _problem(404, "job_not_found", "there is no such job")


class MemoryClient(Client):
    """A client of the server in memory. To wait for a job is to run what is due."""

    def __init__(self, forge: MemoryTaskForge) -> None:
        super().__init__("http://memory", "memory", retries=0)
        self._forge = forge

    def execute(self, call: calls.Call[T]) -> T:
        if call.extra_s:
            self._forge.run()
        return call.read(self._forge.answer(call))

    def wait(self, job_id: str, timeout_s: float | None = None) -> models.Job:
        """The job when all that is due has run; TimeoutError when it has not ended by then."""
        return _ended(self.execute(calls.get(job_id, 1.0)))


class MemoryAsyncClient(AsyncClient):
    """The same for async programs."""

    def __init__(self, forge: MemoryTaskForge) -> None:
        super().__init__("http://memory", "memory", retries=0)
        self._forge = forge

    async def execute(self, call: calls.Call[T]) -> T:
        if call.extra_s:
            await self._forge.run_async()
        return call.read(self._forge.answer(call))

    async def wait(self, job_id: str, timeout_s: float | None = None) -> models.Job:
        """The job when all that is due has run; TimeoutError when it has not ended by then."""
        return _ended(await self.execute(calls.get(job_id, 1.0)))


def _ended(job: models.Job) -> models.Job:
    if job.finished:
        return job
    when = f" for {job.scheduled_for.isoformat()}" if job.scheduled_for else ""
    raise TimeoutError(f"job {job.id} is {job.status}{when}: forge.advance moves the time")
