"""The calls of the API: what each sends, and what its answer means. Shared by both clients.

A `Call` is a request and the function that reads its response. Whoever executes it (`http`) sees to
connections, retries and time limits; errors become exceptions here.
"""

import itertools
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Generic, Literal, TypedDict, TypeVar
from urllib.parse import quote, urlencode
from uuid import UUID

import msgspec

from taskforge.client import models
from taskforge.client.http1 import JSON, MSGPACK, Response
from taskforge.errors import ApiError, JobCancelled, JobFailed, SubmitError, error_class
from taskforge.limits import (
    BATCH_BYTES_MAX,
    BATCH_JOBS_MAX,
    PAGE_JOBS,
    PAGE_LINES,
    PATHS_CACHED,
    RETRY_AFTER_S_MAX,
    RETRY_DELAY_MAX_S,
    RETRY_DELAY_MIN_S,
)
from taskforge.options import JobOptions, known_options, parent_ref
from taskforge.task import JobSpec, Payload, Task

T = TypeVar("T")

RETRIED_STATUSES = frozenset({429, 502, 503, 504})
REFUSED_STATUSES = frozenset({429, 503})
_ITEM = re.compile(r"^jobs\[\d+\]\.?")
_to_json = msgspec.json.Encoder().encode
_to_msgpack = msgspec.msgpack.Encoder().encode
_read_submitted = msgspec.json.Decoder(models.Submitted).decode
_read_job = msgspec.json.Decoder(models.Job).decode
_read_jobs = msgspec.json.Decoder(models.Page[models.Job]).decode
_read_logs = msgspec.json.Decoder(models.Page[models.LogLine]).decode
_read_why = msgspec.json.Decoder(models.Why).decode
_read_cancelled = msgspec.json.Decoder(models.CancelledJobs).decode
_read_queue = msgspec.json.Decoder(models.Queue).decode
_read_queues = msgspec.json.Decoder(models.Page[models.Queue]).decode
_read_batch = msgspec.msgpack.Decoder(models.BatchReply).decode


class Call(msgspec.Struct, Generic[T], frozen=True):
    """A request and how to read its answer. `extra_s`: the server may take so much longer.

    `repeatable`: doing it twice is like doing it once, so it is tried again even when it is not
    known whether the server has done it.
    """

    method: str
    path: str
    read: Callable[[Response], T]
    body: bytes | None = None
    content_type: str = JSON
    key: str | None = None
    extra_s: float = 0.0
    repeatable: bool = True


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """A job as it is sent. `payload` is `Raw` JSON in a JSON body, bytes of JSON in MessagePack."""

    job_type: str
    payload: Any = None
    priority: int = 0
    scheduled_for: str | None = None
    delay_s: float | None = None
    timeout_s: float | None = None
    max_attempts: int | None = None
    tags: Sequence[str] | None = None


_ItemWithOptions: Any = msgspec.defstruct(
    "ItemWithOptions",
    [(name, Any, None) for name in JobOptions.__annotations__],
    bases=(Item,),
    frozen=True,
    omit_defaults=True,
)


class Batch(msgspec.Struct, frozen=True):
    """Jobs for one queue."""

    jobs: Sequence[Item]


class _Keys:
    """Idempotency-Keys that nobody else makes: chance for the process, a number for the request."""

    def __init__(self) -> None:
        self.renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        self.prefix = secrets.token_hex(12)
        self.numbers = itertools.count()

    def make(self) -> str:
        return f"{self.prefix}-{next(self.numbers):x}"


make_key = _Keys().make


# --- submit -------------------------------------------------------------------------------------


def queue_of(spec: JobSpec[Any]) -> str:
    """The queue that the job goes to."""
    if spec.queue is not None:
        return spec.queue
    if isinstance(spec.task, Task):
        return spec.task.queue
    raise TypeError(f"job type {spec.task!r} is only a name: say which queue")


def item(spec: JobSpec[Any]) -> Item:
    """The job as it goes into a MessagePack batch; TypeError when it cannot be one."""
    return _item(spec, _payload_json(spec.task, spec.payload))


def json_item(spec: JobSpec[Any]) -> Item:
    """The job as it goes into a JSON body; TypeError when it cannot be one."""
    return _item(spec, msgspec.Raw(_payload_json(spec.task, spec.payload)))


def _item(spec: JobSpec[Any], payload: bytes | msgspec.Raw) -> Item:
    task = spec.task
    when, due = spec.scheduled_for, None
    if when is not None:
        if spec.delay_s is not None:
            raise TypeError("delay_s and scheduled_for exclude each other")
        due = time_text(when, "scheduled_for")
    name, priority, timeout_s, max_attempts = str(task), 0, None, None
    options = spec.options or {}
    if isinstance(task, Task):
        name, priority = task.name, task.priority
        timeout_s, max_attempts = task.timeout_s, task.max_attempts
        options = task.options | options if options else task.options
    fields = (
        name,
        payload,
        priority if spec.priority is None else spec.priority,
        due,
        spec.delay_s,
        timeout_s if spec.timeout_s is None else spec.timeout_s,
        max_attempts if spec.max_attempts is None else spec.max_attempts,
        spec.tags,
    )
    if not options:
        return Item(*fields)
    plain: dict[str, Any] = {
        name: time_text(value, name) if isinstance(value, datetime) else value
        for name, value in known_options(options).items()
    }
    if "parents" in plain:
        plain["parents"] = [parent_ref(parent) for parent in plain["parents"]]
    special: Item = _ItemWithOptions(*fields, **plain)
    return special


def time_text(when: datetime, name: str) -> str:
    """As requests have it; TypeError without a time zone."""
    if when.tzinfo is None:
        raise TypeError(f"{name} needs a time zone")
    return when.astimezone(UTC).isoformat()


def _payload_json(task: Task[..., Any] | str, payload: Payload) -> bytes:
    """The payload as JSON text; names of arguments are checked where the task is known."""
    if isinstance(payload, bytes):
        return payload
    if isinstance(task, Task) and (payload is None or isinstance(payload, Mapping)):
        task.check_arguments(payload or {})
    return _to_json(payload)


def submit(spec: JobSpec[Any], key: str | None) -> Call[models.Submitted]:
    """Submit one job."""
    body = _to_json(json_item(spec))
    path = _submit_path(queue_of(spec))
    return Call("POST", path, _submitted, body, JSON, key, repeatable=key is not None)


@lru_cache(maxsize=PATHS_CACHED)
def _submit_path(queue: str) -> str:
    return f"/v1/queues/{quote(queue, safe='')}/jobs"


def _submitted(response: Response) -> models.Submitted:
    return _read_submitted(checked(response).body)


def batch(queue: str, items: Sequence[Item], key: str | None) -> Call[models.BatchReply]:
    """Submit jobs to one queue; `BATCH_JOBS_MAX` at most."""
    path = f"{_submit_path(queue)}/batch"
    body = _to_msgpack(Batch(items))
    return Call("POST", path, _batch_reply, body, MSGPACK, key, repeatable=key is not None)


def _batch_reply(response: Response) -> models.BatchReply:
    return _read_batch(checked(response).body)


def batches(specs: Sequence[JobSpec[Any]]) -> list[tuple[str, list[int], list[Item]]]:
    """The specs by queue, cut to batches that the server takes: queue, places in `specs`, items."""
    found: list[tuple[str, list[int], list[Item]]] = []
    open_batches: dict[str, tuple[list[int], list[Item]]] = {}
    weights: dict[str, int] = {}
    for place, spec in enumerate(specs):
        queue, made = queue_of(spec), item(spec)
        weight = len(made.payload)
        current = open_batches.get(queue)
        full = current is not None and (
            len(current[0]) >= BATCH_JOBS_MAX or weights[queue] + weight > BATCH_BYTES_MAX
        )
        if current is None or full:
            current = open_batches[queue] = [], []
            weights[queue] = 0
            found.append((queue, *current))
        current[0].append(place)
        current[1].append(made)
        weights[queue] += weight
    return found


def batch_results(
    reply: models.BatchReply, places: Sequence[int]
) -> list[tuple[int, str | SubmitError]]:
    """Place and id, or why the job was refused, for each job of a batch."""
    if len(reply.ids) != 16 * len(places):
        raise ValueError(f"{len(reply.ids)} bytes of ids for {len(places)} jobs")
    found: list[tuple[int, str | SubmitError]] = []
    for index, place in enumerate(places):
        problem = reply.errors.get(index)
        if problem is None:
            found.append((place, str(UUID(bytes=reply.ids[16 * index : 16 * index + 16]))))
        else:
            found.append((place, _submit_error(problem, place)))
    return found


def _submit_error(problem: models.Problem, place: int) -> SubmitError:
    field = _ITEM.sub("", problem.field) or None if problem.field is not None else None
    error = SubmitError(
        problem.detail or problem.code,
        index=place,
        code=problem.code,
        status=problem.status,
        field=field,
    )
    error.job_id = problem.job_id
    return error


# --- jobs ---------------------------------------------------------------------------------------


def _job(response: Response) -> models.Job:
    return _read_job(checked(response).body)


def job_path(job_id: str) -> str:
    """The path of a job; ValueError for what is no id."""
    try:
        return f"/v1/jobs/{UUID(job_id)}"
    except (ValueError, AttributeError):
        raise ValueError(f"not the id of a job: {job_id!r}") from None


def get(job_id: str, wait_s: float = 0.0) -> Call[models.Job]:
    """Look at a job; with `wait_s`, when it has ended or when that time is over."""
    path = job_path(job_id)
    if wait_s > 0:
        path = f"{path}?wait={max(1, round(wait_s * 1000))}ms"
    return Call("GET", path, _job, extra_s=wait_s)


def cancel(job_id: str, grace_s: float | None = None) -> Call[models.Job]:
    """End a job: at once if it waits. One that runs is asked to end within `grace_s`, 30 s by
    default; Conflict when it has ended otherwise."""
    query = "" if grace_s is None else f"?grace_s={grace_s:g}"
    return Call("POST", f"{job_path(job_id)}/cancel{query}", _job)


def change(
    job_id: str,
    *,
    priority: int | None = None,
    scheduled_for: datetime | None = None,
    delay_s: float | None = None,
) -> Call[models.Job]:
    """Give a job that waits another priority or time; Conflict when it does not wait."""
    when = None if scheduled_for is None else time_text(scheduled_for, "scheduled_for")
    body = _to_json(given(priority=priority, scheduled_for=when, delay_s=delay_s))
    return Call("PATCH", job_path(job_id), _job, body)


def why(job_id: str) -> Call[models.Why]:
    """Why a job is not running: position, limits, workers, times."""
    return Call("GET", f"{job_path(job_id)}/why", lambda reply: _read_why(checked(reply).body))


def run_now(job_id: str) -> Call[models.Job]:
    """Let a job that is scheduled start at once; Conflict when it does not wait."""
    return Call("POST", f"{job_path(job_id)}/run-now", _job)


class JobsToCancel(TypedDict, total=False):
    """Which open jobs of a queue, and how they end; what is not given does not matter."""

    statuses: Sequence[Literal["pending", "scheduled", "processing"]]
    job_type: str
    tags: Sequence[str]
    created_after: datetime
    created_before: datetime
    grace_s: float
    dry_run: bool


def cancel_jobs(queue: str, cursor: str | None, wanted: JobsToCancel) -> Call[models.CancelledJobs]:
    """End the open jobs of one page that match."""
    body: dict[str, Any] = {"cursor": cursor, **wanted}
    for name in ("created_after", "created_before"):
        if name in wanted:
            body[name] = time_text(body[name], name)
    path = f"/v1/queues/{quote(queue, safe='')}/cancel"
    return Call("POST", path, lambda reply: _read_cancelled(checked(reply).body), _to_json(body))


def pause_queue(name: str) -> Call[models.Queue]:
    """Have a queue start nothing; what runs goes on, and jobs are taken in."""
    return Call("POST", f"/v1/queues/{quote(name, safe='')}/pause", _queue)


def resume_queue(name: str) -> Call[models.Queue]:
    """Let a paused queue go on."""
    return Call("POST", f"/v1/queues/{quote(name, safe='')}/resume", _queue)


def retry(job_id: str, key: str | None) -> Call[models.Job]:
    """Run a job again that failed or was cancelled."""
    path = f"{job_path(job_id)}/retry"
    return Call("POST", path, _job, key=key, repeatable=key is not None)


def list_jobs(
    cursor: str | None,
    *,
    queue: str | None = None,
    status: models.JobStatus | None = None,
    job_type: str | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
) -> Call[models.Page[models.Job]]:
    """Jobs, newest first, fetched page by page as they are taken."""
    wanted: dict[str, Any] = {
        "queue": queue,
        "status": status,
        "job_type": job_type,
        "created_after": created_after and time_text(created_after, "created_after"),
        "created_before": created_before and time_text(created_before, "created_before"),
        "cursor": cursor,
        "limit": PAGE_JOBS,
    }
    path = f"/v1/jobs?{query_text(wanted)}"
    return Call("GET", path, lambda response: _read_jobs(checked(response).body))


def list_logs(
    cursor: str | None,
    job_id: str,
    *,
    attempt: int | None = None,
    level: models.LogLevel | None = None,
) -> Call[models.Page[models.LogLine]]:
    """What the handlers of a job logged, the oldest line first, page by page as it is taken."""
    wanted = {
        "attempt": attempt,
        "level": level,
        "cursor": cursor,
        "limit": PAGE_LINES,
    }
    path = f"{job_path(job_id)}/logs?{query_text(wanted)}"
    return Call("GET", path, lambda response: _read_logs(checked(response).body))


# --- queues -------------------------------------------------------------------------------------


QUEUE_NAME_TAKEN = "queue_name_taken"


def _queue(response: Response) -> models.Queue:
    return _read_queue(checked(response).body)


def create_queue(
    name: str, priority: int, settings: models.QueueSettings | None, key: str | None
) -> Call[models.Queue]:
    """Make a queue."""
    body: dict[str, Any] = {"name": name, "priority": priority}
    if settings is not None:
        body["settings"] = settings
    content = _to_json(body)
    return Call("POST", "/v1/queues", _queue, content, key=key, repeatable=key is not None)


def get_queue(name: str) -> Call[models.Queue]:
    """The queue with its counts; NotFound."""
    return Call("GET", f"/v1/queues/{quote(name, safe='')}", _queue)


def list_queues(cursor: str | None) -> Call[models.Page[models.Queue]]:
    """All queues."""
    path = "/v1/queues" if cursor is None else f"/v1/queues?{query_text({'cursor': cursor})}"
    return Call("GET", path, lambda response: _read_queues(checked(response).body))


def update_queue(
    name: str, *, priority: int | None = None, settings: models.QueueSettings | None = None
) -> Call[models.Queue]:
    """Change what is given; the rest stays."""
    body: dict[str, Any] = {}
    if priority is not None:
        body["priority"] = priority
    if settings is not None:
        body["settings"] = settings
    return Call("PATCH", f"/v1/queues/{quote(name, safe='')}", _queue, _to_json(body))


def delete_queue(name: str) -> Call[None]:
    """Delete a queue that has no open jobs; else Conflict."""
    path = f"/v1/queues/{quote(name, safe='')}"
    return Call("DELETE", path, read_nothing, repeatable=False)


# --- for calls that stand elsewhere -------------------------------------------------------------


def reader(kind: type[T]) -> Callable[[Response], T]:
    """What reads an answer of this kind."""
    decode = msgspec.json.Decoder(kind).decode
    return lambda response: decode(checked(response).body)


def read_nothing(response: Response) -> None:
    """For an answer that says nothing, but may be a refusal."""
    checked(response)


def query_text(wanted: Mapping[str, str | int | Sequence[str] | None]) -> str:
    """The query string; None is left out, and each item of a list is a parameter."""
    return urlencode(given(**wanted), doseq=True)


def given(**fields: Any) -> dict[str, Any]:
    """The fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


# --- errors and retries -------------------------------------------------------------------------


def checked(response: Response) -> Response:
    """The response, if it is a success; else its problem as an exception."""
    if response.status < 300:
        return response
    raise problem_error(response)


def problem_error(response: Response) -> ApiError:
    """The exception for a refusal. An answer that is no problem document is not the server's own
    (a proxy's, say): its status must do."""
    problem = models.Problem()
    if "json" in response.header("content-type"):
        try:
            problem = msgspec.json.decode(response.body, type=models.Problem)
        except msgspec.DecodeError:
            pass
    error = error_class(response.status)(
        problem.detail or problem.title or f"the server answered {response.status}",
        code=problem.code,
        status=response.status,
        field=problem.field,
        retry_after_s=retry_after_s(response),
    )
    error.correlation_id = response.header("x-request-id")
    error.job_id = problem.job_id
    return error


def is_token_refused(response: Response) -> bool:
    """Whether the server does not take the credential, or no longer; a wrong password is another
    refusal."""
    return response.status == 401 and problem_error(response).code == "unauthenticated"


def retry_after_s(response: Response) -> float | None:
    """What the server asks for; only seconds are understood, as it sends no dates."""
    text = response.header("retry-after")
    return float(text) if text.isdigit() else None


def next_delay_s(
    call: Call[Any], attempt: int, outcome: Response | Exception, chance: float
) -> float | None:
    """The pause before the call is tried again after `attempt` (0, 1, …) ended so; None: it is not.

    Doubled and spread, so that callers who failed together do not come back together. A server that
    said 429 or 503 has not done the call; whether any other failure left it done is not known.
    """
    asked_s = None
    if isinstance(outcome, Response):
        if outcome.status not in RETRIED_STATUSES:
            return None
        if outcome.status not in REFUSED_STATUSES and not call.repeatable:
            return None
        asked_s = retry_after_s(outcome)
        if asked_s is not None and asked_s > RETRY_AFTER_S_MAX:
            return None
    elif not call.repeatable:
        return None
    return (asked_s or 0.0) + pause_s(attempt, chance)


def pause_s(attempt: int, chance: float) -> float:
    """The pause before attempt 0, 1, 2, …: doubled, bounded, and spread by `chance` (0–1)."""
    ceiling_s = min(RETRY_DELAY_MAX_S, RETRY_DELAY_MIN_S * 2.0 ** min(attempt, 16))
    return ceiling_s * (0.5 + chance / 2)


# --- the end of a job ---------------------------------------------------------------------------


def result_of(job: models.Job, result_type: Any) -> Any:
    """The result of a job that has ended, as the type that its task names; else JobFailed or
    JobCancelled."""
    if job.status == "cancelled":
        raise JobCancelled(job.id)
    if job.status != "succeeded":
        raise JobFailed(job.id, job.failed_reason, job.last_error)
    if result_type is Any:
        return job.result
    return msgspec.convert(job.result, result_type, str_keys=True)


def result_type_of(task: Task[..., Any] | str | None) -> Any:
    """What results are converted to; Any for a job type that is only a name, or unknown."""
    return task.result_type if isinstance(task, Task) else Any
