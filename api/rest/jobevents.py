"""The routes of live events, and of waiting for many jobs."""

from collections.abc import AsyncGenerator
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from taskforge_server.api.rest.bodies import decode
from taskforge_server.api.rest.handlers import Services, job_id_of
from taskforge_server.api.rest.media import Coding
from taskforge_server.api.rest.routes import EVENTS_TYPE, Call, Event, Reply, Route, answer
from taskforge_server.api.rest.schemas import (
    Answer,
    AnyJson,
    ProgressView,
    Request,
    UuidText,
    Wait,
    encode_json,
    wait_s,
)
from taskforge_server.api.rest.views import EMBED, progress_view, time_of
from taskforge_server.api.service.catalog import queue_key
from taskforge_server.api.service.events import State
from taskforge_server.api.service.ports import JobDict
from taskforge_server.api.service.waits import Waited
from taskforge_server.engine import limits
from taskforge_server.engine.errors import InvalidInput
from taskforge_server.engine.model import permissions
from taskforge_server.engine.model.base import Time
from taskforge_server.engine.model.events import JobEvent, Missed, Told
from taskforge_server.engine.model.job import FINAL, FailedReason, JobStatus
from taskforge_server.ext.ids import uuid_bytes, uuid_text

EVENT_ID_CHARS_MAX = 64


class EventsQuery(Request):
    """From where on."""

    after: (
        Annotated[
            str, Meta(max_length=EVENT_ID_CHARS_MAX, description="behind the event of this id")
        ]
        | None
    ) = None


class EventView(Struct, kw_only=True, omit_defaults=True):
    """Something that happened to a job; in the stream of one job, first what it is (`state`)."""

    event: str
    job_id: UuidText
    queue: str
    job_type: str
    status: str = ""
    """After it, if it is another one; `gone`: it has ended, and its queue keeps no such jobs."""
    at: Time | None
    final: bool = False
    """The job has ended: nothing follows of it, but for a retry by hand."""
    attempt: int | UnsetType = UNSET
    scheduled_for: Time | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    progress: ProgressView | UnsetType = UNSET


class MissedView(Struct, kw_only=True):
    """Some events were not told, because the reader was too slow or too much happened: how many, if
    that is known."""

    event: Literal["missed"] = "missed"
    missed: int | None


async def follow_job(services: Services, call: Call) -> Reply:
    project_id, job_id = call.principal.project_id, job_id_of(call)
    events = await services.events.of_job(project_id, job_id, _after(call))
    return Reply(b"", content_type=EVENTS_TYPE, events=_events(services, call, events))


async def follow_queue(services: Services, call: Call) -> Reply:
    queue = await services.catalog.find(call.principal.project_id, queue_key(call.params["queue"]))
    events = services.events.of_queue(queue, _after(call))
    return Reply(b"", content_type=EVENTS_TYPE, events=_events(services, call, events))


async def follow_project(services: Services, call: Call) -> Reply:
    events = services.events.of_project(call.principal.project_id, _after(call))
    return Reply(b"", content_type=EVENTS_TYPE, events=_events(services, call, events))


def _after(call: Call) -> str | None:
    query: EventsQuery = call.query
    return call.last_event_id or query.after


async def _events(
    services: Services, call: Call, told: AsyncGenerator[Told | State, None]
) -> AsyncGenerator[Event, None]:
    project_id = call.principal.project_id
    names: dict[bytes, str] = {}

    async def name_of(queue_id: bytes) -> str:
        if queue_id not in names:
            names[queue_id] = await services.jobs.queue_name(project_id, queue_id)
        return names[queue_id]

    try:
        async for item in told:
            if isinstance(item, State):
                job = item.job
                queue = "" if job is None else await name_of(job["queue_id"])
                view = _state_view(job, call.params["job_id"], queue)
                yield Event(encode_json(view), name=view.event)
                continue
            id, event = item
            if isinstance(event, Missed):
                yield Event(encode_json(MissedView(missed=event.events)), id, "missed")
            else:
                view = _event_view(event, await name_of(event.queue_id))
                yield Event(encode_json(view), id, event.kind)
    finally:
        await told.aclose()


def _state_view(job: JobDict | None, job_id: str, queue: str) -> EventView:
    if job is None:
        return EventView(
            event="state",
            job_id=job_id,
            queue=queue,
            job_type="",
            status="gone",
            at=None,
            final=True,
        )
    return EventView(
        event="state",
        job_id=uuid_text(job["id"]),
        queue=queue,
        job_type=job["job_type"],
        status=job["status"],
        at=time_of(job["updated_us"]),
        final=job["status"] in FINAL,
        attempt=job["attempt"] or UNSET,
        scheduled_for=time_of(job["due_us"]) or UNSET,
        reason=job["reason"] or UNSET,
        progress=progress_view(job.get("progress")) or UNSET,
    )


def _event_view(event: JobEvent, queue: str) -> EventView:
    return EventView(
        event=event.kind,
        job_id=uuid_text(event.job_id),
        queue=queue,
        job_type=event.job_type,
        status=event.status,
        at=time_of(event.at_us),
        final=event.final,
        attempt=event.attempt or UNSET,
        scheduled_for=time_of(event.due_us) or UNSET,
        reason=event.reason or UNSET,
        progress=progress_view(event.progress) or UNSET,
    )


# Waiting


class JobsWait(Request):
    """Which jobs to wait for, and how."""

    ids: Annotated[list[UuidText], Meta(min_length=1, max_length=limits.WAIT_JOBS_MAX)]
    mode: Annotated[
        Literal["all", "any"], Meta(description="until all of them, or one of them, has ended")
    ] = "all"
    timeout: Wait = f"{limits.WAIT_S_DEFAULT:g}s"


class WaitedJob(Answer):
    """One of the jobs, as it is now."""

    id: UuidText
    status: JobStatus
    finished_at: Time | None
    result: AnyJson
    last_error: AnyJson
    failed_reason: FailedReason | None
    cancel_reason: str | None
    result_omitted: Annotated[
        bool, Meta(description="too large for this answer: look at the job itself")
    ]


class JobsWaited(Answer):
    """The jobs in the order of the request. `done`: as many have ended as were waited for."""

    done: bool
    jobs: list[WaitedJob]


async def wait_jobs(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, JobsWait)
    ids = [_id(text, place) for place, text in enumerate(given.ids)]
    if len(set(ids)) < len(ids):
        raise InvalidInput("an id stands there twice", "ids")
    project_id = call.principal.project_id
    done, jobs = await services.waits.wait(project_id, ids, given.mode, wait_s(given.timeout))
    return answer(call, JobsWaited(done=done, jobs=[_waited(job, call.coding) for job in jobs]))


def _waited(waited: Waited, coding: Coding) -> WaitedJob:
    job, embed = waited.job, EMBED[coding]
    status = job["status"]
    ended, succeeded = status in FINAL, status == "succeeded"
    return WaitedJob(
        id=uuid_text(job["id"]),
        status=status,
        finished_at=time_of(job["finished_us"]),
        result=embed(job["output"] if succeeded else None),
        last_error=embed(None if succeeded else job["output"]),
        failed_reason=job["reason"] if status == "failed" else None,
        cancel_reason=job["reason"] if status == "cancelled" else None,
        result_omitted=ended and waited.omitted,
    )


def _id(text: str, place: int) -> bytes:
    try:
        return uuid_bytes(text)
    except ValueError:
        raise InvalidInput("not the id of a job", f"ids[{place}]") from None


ROUTES = (
    Route(
        method="GET",
        path="/v1/jobs/{job_id}/events",
        operation_id="followJob",
        summary="Follow what happens to a job, to its end",
        tag="jobs",
        permission=permissions.JOBS_READ,
        handler=follow_job,
        query=EventsQuery,
        reply_type=EVENTS_TYPE,
        problems=("job_not_found", "overloaded", "share_used_up"),
    ),
    Route(
        method="GET",
        path="/v1/queues/{queue}/events",
        operation_id="followQueue",
        summary="Follow what happens to the jobs of a queue",
        tag="queues",
        permission=permissions.JOBS_READ,
        handler=follow_queue,
        query=EventsQuery,
        reply_type=EVENTS_TYPE,
        problems=("queue_not_found", "overloaded", "share_used_up"),
    ),
    Route(
        method="GET",
        path="/v1/events",
        operation_id="followProject",
        summary="Follow what happens to the jobs of the project",
        tag="jobs",
        permission=permissions.JOBS_READ,
        handler=follow_project,
        query=EventsQuery,
        reply_type=EVENTS_TYPE,
        problems=("overloaded", "share_used_up"),
    ),
    Route(
        method="POST",
        path="/v1/jobs/wait",
        operation_id="waitJobs",
        summary="Wait for the end of many jobs, or of one of them",
        tag="jobs",
        permission=permissions.JOBS_READ,
        handler=wait_jobs,
        body=JobsWait,
        reply=JobsWaited,
        problems=("job_not_found", "overloaded"),
        example={"ids": ["01997b5c-6c00-7001-8000-5f3a9c2d4e6f"], "mode": "any", "timeout": "10s"},
    ),
)
