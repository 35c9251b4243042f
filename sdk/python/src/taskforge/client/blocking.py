"""The blocking client. Threads may share one."""

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar, Unpack, cast

from taskforge import settings
from taskforge.client import calls, graph_calls
from taskforge.client.blocking_caller import Caller
from taskforge.client.dead_letters import DeadLetters
from taskforge.client.following import Following, events, job_events
from taskforge.client.methods import Group, listing, method
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
from taskforge.client.schedules import Schedules
from taskforge.client.waiting import HasId, Wait
from taskforge.client.workers import Workers
from taskforge.errors import Conflict, SubmitError
from taskforge.graph import Graph, Node
from taskforge.limits import REQUEST_TIMEOUT_S, RETRIES_DEFAULT, WAIT_STEP_S
from taskforge.task import JobSpec, Payload, Task

R = TypeVar("R")
T = TypeVar("T")


class JobHandle(Generic[R]):
    """A job that was submitted; `wait` gives its result."""

    __slots__ = ("_client", "_result_type", "id", "unique")

    def __init__(
        self,
        client: "Client",
        job_id: str,
        result_type: Any = Any,
        unique: str | None = None,
    ) -> None:
        self._client = client
        self._result_type = result_type
        self.id = job_id
        self.unique = unique
        """The job was there and holds the unique key: existing, replaced or debounced."""

    def wait(self, timeout_s: float | None = None) -> R:
        """Wait for the job's end: its result, or JobFailed, JobCancelled, TimeoutError."""
        job = self._client.wait(self.id, timeout_s)
        return cast(R, calls.result_of(job, self._result_type))

    def get(self) -> Job:
        """The job as it is now."""
        return self._client.get(self.id)

    def cancel(self, grace_s: float | None = None) -> Job:
        """End the job: at once if it waits, within `grace_s` if it runs; else Conflict."""
        return self._client.cancel(self.id, grace_s)

    def change(
        self,
        *,
        priority: int | None = None,
        scheduled_for: datetime | None = None,
        delay_s: float | None = None,
    ) -> Job:
        """Give the job another priority or time, while it waits; else Conflict."""
        return self._client.change(
            self.id, priority=priority, scheduled_for=scheduled_for, delay_s=delay_s
        )

    def why(self) -> Why:
        """Why the job is not running: position, limits, workers, times."""
        return self._client.why(self.id)

    def run_now(self) -> Job:
        """Let the job start at once, if it is scheduled; Conflict when it does not wait."""
        return self._client.run_now(self.id)

    def retry(self) -> Job:
        """Run the job again, if it failed or was cancelled; else Conflict."""
        return self._client.retry(self.id)

    def events(self) -> Iterator[JobEvent]:
        """What the job is, and what happens to it until it has ended."""
        return self._client.job_events(self.id)

    def __repr__(self) -> str:
        return f"JobHandle({self.id})"


class GraphHandle:
    """The jobs of a graph that was submitted."""

    __slots__ = ("_by_ref", "jobs", "on_complete", "on_success")

    def __init__(self, client: "Client", graph: Graph, reply: GraphReply) -> None:
        self._by_ref: dict[str, JobHandle[Any]] = {
            node.ref: JobHandle(client, made.id, calls.result_type_of(node.spec.task))
            for node, made in zip(graph.nodes, reply.jobs, strict=True)
        }
        self.jobs = list(self._by_ref.values())
        """Their handles, in the order of the graph."""

        def callback(name: str, job_id: str | None) -> "JobHandle[Any] | None":
            if job_id is None:
                return None
            return JobHandle(client, job_id, calls.result_type_of(graph.callbacks[name].task))

        self.on_success = callback("on_success", reply.on_success)
        self.on_complete = callback("on_complete", reply.on_complete)

    def __getitem__(self, node: "Node[R] | str") -> JobHandle[R]:
        """The job of a node, or of its name."""
        return self._by_ref[node if isinstance(node, str) else node.ref]


class Client(Caller):
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
    ) -> None:
        super().__init__(settings.server(url, api_key, ca_file), retries, timeout_s)
        self._auto_key = auto_key and retries > 0
        self.queues = Queues(self)
        self.workers = Workers(self)
        self.schedules = Schedules(self)
        self.dead_letters = DeadLetters(self)

    def submit(
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
    ) -> JobHandle[R]:
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
        submitted = self.execute(calls.submit(spec, idempotency_key or self.make_key()))
        return JobHandle(self, submitted.id, calls.result_type_of(task), submitted.unique)

    def submit_many(self, specs: Iterable[JobSpec[Any]]) -> list[JobHandle[Any] | SubmitError]:
        """Submit many jobs in few requests: a handle or an error for each, in their order.

        An exception means that some requests failed as a whole; batches before it are durable.
        """
        wanted = list(specs)
        found: list[JobHandle[Any] | SubmitError | None] = [None] * len(wanted)
        for queue, places, items in calls.batches(wanted):
            reply = self.execute(calls.batch(queue, items, self.make_key()))
            for place, result in calls.batch_results(reply, places):
                if isinstance(result, SubmitError):
                    found[place] = result
                else:
                    result_type = calls.result_type_of(wanted[place].task)
                    found[place] = JobHandle(self, result, result_type)
        return [result for result in found if result is not None]

    def submit_graph(self, graph: Graph, *, idempotency_key: str | None = None) -> "GraphHandle":
        """Submit jobs that wait for each other; when this returns, all of them are durable."""
        call = graph_calls.submit_graph(graph, idempotency_key or self.make_key())
        return GraphHandle(self, graph, self.execute(call))

    add_parents = method(graph_calls.add_parents)
    parents = listing(graph_calls.list_parents)
    graph = method(graph_calls.get_graph)

    def handle(self, job_id: str, task: Task[..., R] | str | None = None) -> JobHandle[R]:
        """A handle for a job of which only the id is at hand."""
        return JobHandle(self, job_id, calls.result_type_of(task))

    def get(self, job_id: str) -> Job:
        """The job with its executions, as it is now; NotFound."""
        return self.execute(calls.get(job_id))

    def wait(self, job_id: str, timeout_s: float | None = None) -> Job:
        """The job when it has ended; TimeoutError when it has not after `timeout_s`."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = WAIT_STEP_S if until is None else until - time.monotonic()
            job = self.execute(calls.get(job_id, max(0.0, min(WAIT_STEP_S, left_s))))
            if job.finished:
                return job
            if until is not None and time.monotonic() >= until:
                raise TimeoutError(f"job {job_id} is {job.status} after {timeout_s:g} s")

    cancel = method(calls.cancel)
    change = method(calls.change)
    run_now = method(calls.run_now)
    why = method(calls.why)

    def retry(self, job_id: str) -> Job:
        """Run a job again that failed or was cancelled; else Conflict."""
        return self.execute(calls.retry(job_id, self.make_key()))

    list = listing(calls.list_jobs)
    logs = listing(calls.list_logs)

    def follow_logs(
        self,
        job_id: str,
        *,
        attempt: int | None = None,
        level: LogLevel | None = None,
        after: str | None = None,
    ) -> Iterator[LogLine]:
        """Lines of a job as they come, until it has ended; from `after` on, the id of a line.

        A broken connection is made again, and goes on behind the last line; ConnectionFailed when
        that fails `retries` times in a row.
        """
        return self.resumed(Following(job_id, attempt, level, after))

    def events(self, *, queue: str | None = None, after: str | None = None) -> Iterator[JobEvent]:
        """What happens to the jobs of the project, or of one queue, from now on.

        A broken connection is made again, and goes on where it was; an event `missed` says what
        could not be told. ConnectionFailed when that fails `retries` times in a row.
        """
        return self.resumed(events(queue, after))

    def job_events(self, job_id: str, *, after: str | None = None) -> Iterator[JobEvent]:
        """What a job is (`state`), and what happens to it until it has ended."""
        return self.resumed(job_events(job_id, after))

    def wait_all(
        self, jobs: Iterable[HasId | str], timeout_s: float | None = None
    ) -> Sequence[JobEnd]:
        """Wait until these jobs, handles or ids, have ended: how, in their order. TimeoutError."""
        return self._wait(Wait(jobs, "all", timeout_s))

    def wait_any(
        self, jobs: Iterable[HasId | str], timeout_s: float | None = None
    ) -> Sequence[JobEnd]:
        """Wait until one of these jobs has ended: those that have. TimeoutError."""
        return self._wait(Wait(jobs, "any", timeout_s))

    def _wait(self, wait: Wait) -> Sequence[JobEnd]:
        while not wait.over:
            wait.take(self.execute(wait.next_call()))
        for job_id in wait.omitted:
            wait.fill(self.get(job_id))
        return wait.found()

    def make_key(self) -> str | None:
        """An Idempotency-Key for a call that is to be done once; None when keys are off."""
        return calls.make_key() if self._auto_key else None


class Queues(Group):
    """The queues of the project."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self._make_key = client.make_key

    def create(
        self, name: str, *, priority: int = 0, settings: QueueSettings | None = None
    ) -> Queue:
        """Make a queue; Conflict when there is one of that name."""
        call = calls.create_queue(name, priority, settings, self._make_key())
        return self.execute(call)

    def put(
        self, name: str, *, priority: int | None = None, settings: QueueSettings | None = None
    ) -> Queue:
        """Make a queue, or change the one of that name to what is given: for programs that say at
        each start which queues they want."""
        try:
            return self.create(name, priority=priority or 0, settings=settings)
        except Conflict as error:
            if error.code != calls.QUEUE_NAME_TAKEN:
                raise
        if priority is None and settings is None:
            return self.get(name)
        return self.update(name, priority=priority, settings=settings)

    get = method(calls.get_queue)
    list = listing(calls.list_queues)
    update = method(calls.update_queue)
    delete = method(calls.delete_queue)
    pause = method(calls.pause_queue)
    resume = method(calls.resume_queue)

    def cancel_jobs(self, name: str, /, **wanted: Unpack[calls.JobsToCancel]) -> CancelledJobs:
        """End the open jobs of a queue that match, all of them; how many. With `dry_run` they are
        only counted. Those that run are asked to end within `grace_s`."""
        found = CancelledJobs()
        while True:
            found += self.execute(calls.cancel_jobs(name, found.next_cursor, wanted))
            if found.next_cursor is None:
                return found
