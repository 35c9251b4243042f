"""The async client. It belongs to the event loop in which it is first used."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from datetime import datetime
from time import monotonic
from typing import Any, Generic, TypeVar, Unpack, cast

from taskforge import settings
from taskforge.client import calls, graph_calls
from taskforge.client.async_caller import AsyncCaller
from taskforge.client.buffer import Buffer
from taskforge.client.dead_letters import AsyncDeadLetters
from taskforge.client.following import Following, events, job_events
from taskforge.client.methods import AsyncGroup, async_listing, async_method
from taskforge.client.models import (
    CancelledJobs,
    GraphReply,
    Job,
    JobEnd,
    JobEvent,
    LogLevel,
    LogLine,
    Queue,
    QueueSettings,
    Why,
)
from taskforge.client.schedules import AsyncSchedules
from taskforge.client.waiting import HasId, Wait
from taskforge.client.workers import AsyncWorkers
from taskforge.errors import Conflict, SubmitError
from taskforge.graph import Graph, Node
from taskforge.limits import (
    BUFFER_JOBS,
    BUFFER_LINGER_MS,
    CONNECTIONS_MAX,
    REQUEST_TIMEOUT_S,
    RETRIES_DEFAULT,
    WAIT_STEP_S,
)
from taskforge.task import JobSpec, Payload, Task

R = TypeVar("R")
T = TypeVar("T")


class AsyncJobHandle(Generic[R]):
    """A job that was submitted; `wait` gives its result."""

    __slots__ = ("_client", "_result_type", "id", "unique")

    def __init__(
        self,
        client: "AsyncClient",
        job_id: str,
        result_type: Any = Any,
        unique: str | None = None,
    ) -> None:
        self._client = client
        self._result_type = result_type
        self.id = job_id
        self.unique = unique
        """The job was there and holds the unique key: existing, replaced or debounced."""

    async def wait(self, timeout_s: float | None = None) -> R:
        """Wait for the job's end: its result, or JobFailed, JobCancelled, TimeoutError."""
        job = await self._client.wait(self.id, timeout_s)
        return cast(R, calls.result_of(job, self._result_type))

    async def get(self) -> Job:
        """The job as it is now."""
        return await self._client.get(self.id)

    async def cancel(self, grace_s: float | None = None) -> Job:
        """End the job: at once if it waits, within `grace_s` if it runs; else Conflict."""
        return await self._client.cancel(self.id, grace_s)

    async def change(
        self,
        *,
        priority: int | None = None,
        scheduled_for: datetime | None = None,
        delay_s: float | None = None,
    ) -> Job:
        """Give the job another priority or time, while it waits; else Conflict."""
        return await self._client.change(
            self.id, priority=priority, scheduled_for=scheduled_for, delay_s=delay_s
        )

    async def why(self) -> Why:
        """Why the job is not running: position, limits, workers, times."""
        return await self._client.why(self.id)

    async def run_now(self) -> Job:
        """Let the job start at once, if it is scheduled; Conflict when it does not wait."""
        return await self._client.run_now(self.id)

    async def retry(self) -> Job:
        """Run the job again, if it failed or was cancelled; else Conflict."""
        return await self._client.retry(self.id)

    def events(self) -> AsyncGenerator[JobEvent, None]:
        """What the job is, and what happens to it until it has ended."""
        return self._client.job_events(self.id)

    def __repr__(self) -> str:
        return f"AsyncJobHandle({self.id})"


class AsyncGraphHandle:
    """The jobs of a graph that was submitted."""

    __slots__ = ("_by_ref", "jobs", "on_complete", "on_success")

    def __init__(self, client: "AsyncClient", graph: Graph, reply: GraphReply) -> None:
        self._by_ref: dict[str, AsyncJobHandle[Any]] = {
            node.ref: AsyncJobHandle(client, made.id, calls.result_type_of(node.spec.task))
            for node, made in zip(graph.nodes, reply.jobs, strict=True)
        }
        self.jobs = list(self._by_ref.values())
        """Their handles, in the order of the graph."""

        def callback(name: str, job_id: str | None) -> "AsyncJobHandle[Any] | None":
            if job_id is None:
                return None
            return AsyncJobHandle(client, job_id, calls.result_type_of(graph.callbacks[name].task))

        self.on_success = callback("on_success", reply.on_success)
        self.on_complete = callback("on_complete", reply.on_complete)

    def __getitem__(self, node: "Node[R] | str") -> AsyncJobHandle[R]:
        """The job of a node, or of its name."""
        return self._by_ref[node if isinstance(node, str) else node.ref]


class AsyncClient(AsyncCaller):
    """Submits jobs and looks after them; `url` and `api_key` default to TASKFORGE_URL and
    TASKFORGE_API_KEY. An https server must show a certificate of an authority in `ca_file`, by
    default TASKFORGE_CA_FILE, else of one that the system trusts.

    Refusals that say "later" (429, 503) and broken connections are tried again, `retries` times
    with growing pauses; so are answers of 502 and 504, which do not tell whether it was done. With
    `auto_key` every submit, every retry of a job and every new queue carries an Idempotency-Key, so
    that a repeated one is done once. Without it a submit costs the server less, and is not repeated
    where it may have been done: it raises ConnectionFailed, or ServerError with the code
    `outcome_unknown`.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        retries: int = RETRIES_DEFAULT,
        auto_key: bool = True,
        timeout_s: float = REQUEST_TIMEOUT_S,
        ca_file: str | None = None,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        server = settings.server(url, api_key, ca_file)
        super().__init__(server, retries, timeout_s, connections_max)
        self._auto_key = auto_key and retries > 0
        self.queues = AsyncQueues(self)
        self.workers = AsyncWorkers(self)
        self.schedules = AsyncSchedules(self)
        self.dead_letters = AsyncDeadLetters(self)

    async def submit(
        self,
        task: Task[..., R] | str,
        payload: Payload = None,
        *,
        queue: str | None = None,
        priority: int | None = None,
        delay_s: float | None = None,
        scheduled_for: datetime | None = None,
        timeout_s: float | None = None,
        max_attempts: int | None = None,
        tags: Sequence[str] | None = None,
        idempotency_key: str | None = None,
        **arguments: Any,
    ) -> AsyncJobHandle[R]:
        """Submit a job; when this returns, it is durable.

        `submit(greet, name="Ada")`: arguments of the task by name. Those that have the name of an
        option here go into `payload`, a mapping, a struct or JSON text. A task may be given by its
        name, then with its queue. Options that are None are those of the task.
        """
        if arguments and payload is not None:
            raise TypeError("give the arguments either as payload or by name")
        spec = JobSpec(
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
        submitted = await self.execute(calls.submit(spec, idempotency_key or self.make_key()))
        return AsyncJobHandle(self, submitted.id, calls.result_type_of(task), submitted.unique)

    async def submit_many(
        self, specs: Iterable[JobSpec[Any]]
    ) -> list[AsyncJobHandle[Any] | SubmitError]:
        """Submit many jobs in few requests: a handle or an error for each, in their order.

        An exception means that some requests failed as a whole; batches before it are durable.
        """
        wanted = list(specs)
        found: list[AsyncJobHandle[Any] | SubmitError | None] = [None] * len(wanted)
        for queue, places, items in calls.batches(wanted):
            reply = await self.execute(calls.batch(queue, items, self.make_key()))
            for place, result in calls.batch_results(reply, places):
                if isinstance(result, SubmitError):
                    found[place] = result
                else:
                    found[place] = self.handle(result, wanted[place].task)
        return [result for result in found if result is not None]

    def buffered(
        self, *, linger_ms: float = BUFFER_LINGER_MS, jobs_max: int = BUFFER_JOBS
    ) -> "Buffer[AsyncJobHandle[Any]]":
        """A context in which single submits are gathered into batches; see `Buffer`."""
        return Buffer(self.execute, self.handle, self.make_key, linger_ms / 1000, jobs_max)

    async def submit_graph(
        self, graph: Graph, *, idempotency_key: str | None = None
    ) -> "AsyncGraphHandle":
        """Submit jobs that wait for each other; when this returns, all of them are durable."""
        call = graph_calls.submit_graph(graph, idempotency_key or self.make_key())
        return AsyncGraphHandle(self, graph, await self.execute(call))

    add_parents = async_method(graph_calls.add_parents)
    parents = async_listing(graph_calls.list_parents)
    graph = async_method(graph_calls.get_graph)

    def handle(self, job_id: str, task: Task[..., R] | str | None = None) -> AsyncJobHandle[R]:
        """A handle for a job of which only the id is at hand."""
        return AsyncJobHandle(self, job_id, calls.result_type_of(task))

    async def get(self, job_id: str) -> Job:
        """The job with its executions, as it is now; NotFound."""
        return await self.execute(calls.get(job_id))

    async def wait(self, job_id: str, timeout_s: float | None = None) -> Job:
        """The job when it has ended; TimeoutError when it has not after `timeout_s`."""
        until = None if timeout_s is None else monotonic() + timeout_s
        while True:
            left_s = WAIT_STEP_S if until is None else until - monotonic()
            job = await self.execute(calls.get(job_id, max(0.0, min(WAIT_STEP_S, left_s))))
            if job.finished:
                return job
            if until is not None and monotonic() >= until:
                raise TimeoutError(f"job {job_id} is {job.status} after {timeout_s:g} s")

    cancel = async_method(calls.cancel)
    change = async_method(calls.change)
    run_now = async_method(calls.run_now)
    why = async_method(calls.why)

    async def retry(self, job_id: str) -> Job:
        """Run a job again that failed or was cancelled; else Conflict."""
        return await self.execute(calls.retry(job_id, self.make_key()))

    list = async_listing(calls.list_jobs)
    logs = async_listing(calls.list_logs)

    def follow_logs(
        self,
        job_id: str,
        *,
        attempt: int | None = None,
        level: LogLevel | None = None,
        after: str | None = None,
    ) -> AsyncGenerator[LogLine, None]:
        """Lines of a job as they come, until it has ended; from `after` on, the id of a line.

        A broken connection is made again, and goes on behind the last line; ConnectionFailed when
        that fails `retries` times in a row.
        """
        return self.resumed(Following(job_id, attempt, level, after))

    def events(
        self, *, queue: str | None = None, after: str | None = None
    ) -> AsyncGenerator[JobEvent, None]:
        """What happens to the jobs of the project, or of one queue, from now on.

        A broken connection is made again, and goes on where it was; an event `missed` says what
        could not be told. ConnectionFailed when that fails `retries` times in a row.
        """
        return self.resumed(events(queue, after))

    def job_events(
        self, job_id: str, *, after: str | None = None
    ) -> AsyncGenerator[JobEvent, None]:
        """What a job is (`state`), and what happens to it until it has ended."""
        return self.resumed(job_events(job_id, after))

    async def wait_all(
        self, jobs: Iterable[HasId | str], timeout_s: float | None = None
    ) -> Sequence[JobEnd]:
        """Wait until these jobs, handles or ids, have ended: how, in their order. TimeoutError."""
        return await self._wait(Wait(jobs, "all", timeout_s))

    async def wait_any(
        self, jobs: Iterable[HasId | str], timeout_s: float | None = None
    ) -> Sequence[JobEnd]:
        """Wait until one of these jobs has ended: those that have. TimeoutError."""
        return await self._wait(Wait(jobs, "any", timeout_s))

    async def _wait(self, wait: Wait) -> Sequence[JobEnd]:
        while not wait.over:
            wait.take(await self.execute(wait.next_call()))
        for job_id in wait.omitted:
            wait.fill(await self.get(job_id))
        return wait.found()

    def make_key(self) -> str | None:
        """An Idempotency-Key, where requests may be repeated."""
        return calls.make_key() if self._auto_key else None


class AsyncQueues(AsyncGroup):
    """The queues of the project."""

    def __init__(self, client: AsyncClient) -> None:
        super().__init__(client)
        self._make_key = client.make_key

    async def create(
        self, name: str, *, priority: int = 0, settings: QueueSettings | None = None
    ) -> Queue:
        """Make a queue; Conflict when there is one of that name."""
        call = calls.create_queue(name, priority, settings, self._make_key())
        return await self.execute(call)

    async def put(
        self, name: str, *, priority: int | None = None, settings: QueueSettings | None = None
    ) -> Queue:
        """Make a queue, or change the one of that name to what is given: for programs that say at
        each start which queues they want."""
        try:
            return await self.create(name, priority=priority or 0, settings=settings)
        except Conflict as error:
            if error.code != calls.QUEUE_NAME_TAKEN:
                raise
        if priority is None and settings is None:
            return await self.get(name)
        return await self.update(name, priority=priority, settings=settings)

    get = async_method(calls.get_queue)
    list = async_listing(calls.list_queues)
    update = async_method(calls.update_queue)
    delete = async_method(calls.delete_queue)
    pause = async_method(calls.pause_queue)
    resume = async_method(calls.resume_queue)

    async def cancel_jobs(
        self, name: str, /, **wanted: Unpack[calls.JobsToCancel]
    ) -> CancelledJobs:
        """End the open jobs of a queue that match, all of them; how many. With `dry_run` they are
        only counted. Those that run are asked to end within `grace_s`."""
        found = CancelledJobs()
        while True:
            found += await self.execute(calls.cancel_jobs(name, found.next_cursor, wanted))
            if found.next_cursor is None:
                return found
