"""The routes that tell jobs and queues what to do: end, start at another time, go first, pause."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from taskforge_server.api.rest.bodies import decode
from taskforge_server.api.rest.handlers import Services, job_answer, job_id_of, queue_view
from taskforge_server.api.rest.routes import Call, Reply, Route, answer
from taskforge_server.api.rest.schemas import (
    Answer,
    Cursor,
    JobDetails,
    QueueView,
    Request,
)
from taskforge_server.api.service.catalog import queue_key
from taskforge_server.api.service.control import OpenFilter
from taskforge_server.api.service.submission import DelayS, Tags, due_us_of
from taskforge_server.engine import limits
from taskforge_server.engine.errors import InvalidInput
from taskforge_server.engine.model import permissions
from taskforge_server.engine.model.base import Priority, Time

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

GraceS = Annotated[
    float,
    Meta(
        ge=0,
        le=limits.CANCEL_GRACE_S_MAX,
        description="seconds that the handler of a running job gets to end in",
    ),
]
OpenStatus = Literal["pending", "scheduled", "processing"]


class CancelQuery(Request):
    """How to cancel a job that runs."""

    grace_s: GraceS = limits.CANCEL_GRACE_S


class JobChange(Request):
    """What of a job that waits is to change; the rest stays."""

    priority: Priority | UnsetType = UNSET
    scheduled_for: (
        Annotated[Time, Meta(description="not before this time; with its offset")] | UnsetType
    ) = UNSET
    delay_s: DelayS | UnsetType = UNSET


class CancelJobs(Request):
    """Which open jobs of the queue are to end; what is not given does not matter."""

    statuses: Annotated[list[OpenStatus], Meta(min_length=1, max_length=3)] | None = None
    job_type: Annotated[str, Meta(max_length=limits.JOB_TYPE_BYTES_MAX)] | None = None
    tags: Tags | None = None
    created_after: Annotated[Time, Meta(description="at this time or later")] | None = None
    created_before: Annotated[Time, Meta(description="before this time")] | None = None
    grace_s: GraceS = limits.CANCEL_GRACE_S
    dry_run: Annotated[bool, Meta(description="count only")] = False
    cursor: Cursor | None = None


class JobsCancelled(Answer):
    """What became of a page."""

    matched: int
    cancelled: Annotated[int, Meta(description="those that waited")]
    asked: Annotated[int, Meta(description="those that run, and have their grace time now")]
    next_cursor: Annotated[str | None, Meta(description="null: no open job is left to look at")]


async def cancel_job(services: Services, call: Call) -> Reply:
    query: CancelQuery = call.query
    found = await services.jobs.cancel(call.principal.project_id, job_id_of(call), query.grace_s)
    return await job_answer(services, call, found)


async def cancel_jobs(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, CancelJobs)
    queue = await services.catalog.find(call.principal.project_id, queue_key(call.params["queue"]))
    wanted = OpenFilter(
        statuses=None if given.statuses is None else frozenset(given.statuses),
        job_type=given.job_type,
        tags=given.tags or (),
        created_from_us=_us(given.created_after),
        created_before_us=_us(given.created_before),
    )
    page = await services.control.cancel_many(
        queue, wanted, given.grace_s, given.cursor, call.actor, dry_run=given.dry_run
    )
    return answer(
        call,
        JobsCancelled(
            matched=page.matched,
            cancelled=page.cancelled,
            asked=page.asked,
            next_cursor=page.next_cursor,
        ),
    )


def _us(time: datetime | None) -> int | None:
    return None if time is None else round((time - _EPOCH).total_seconds() * 1e6)


async def change_job(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, JobChange)
    when = None if given.scheduled_for is UNSET else given.scheduled_for
    delay_s = None if given.delay_s is UNSET else given.delay_s
    priority = -1 if given.priority is UNSET else given.priority
    timed = when is not None or delay_s is not None
    if not timed and priority < 0:
        raise InvalidInput("nothing is to change", "priority")
    now_us = services.engine.now_us()
    due_us = (due_us_of(when, delay_s, now_us) or now_us) if timed else -1
    found = await services.control.change(
        call.principal.project_id, job_id_of(call), due_us, priority
    )
    return await job_answer(services, call, found)


async def run_job_now(services: Services, call: Call) -> Reply:
    found = await services.control.run_now(call.principal.project_id, job_id_of(call))
    return await job_answer(services, call, found)


async def pause_queue(services: Services, call: Call) -> Reply:
    return await _paused(services, call, paused=True)


async def resume_queue(services: Services, call: Call) -> Reply:
    return await _paused(services, call, paused=False)


async def _paused(services: Services, call: Call, *, paused: bool) -> Reply:
    row = await services.queues.pause(
        call.principal.project_id, call.params["queue"], paused, call.actor
    )
    return answer(call, queue_view(services, row))


CHANGE_PROBLEMS = ("job_not_found", "job_not_changeable", "outcome_unknown")

ROUTES = (
    Route(
        method="POST",
        path="/v1/jobs/{job_id}/cancel",
        operation_id="cancelJob",
        summary="End a job: at once if it waits, within a grace time if it runs",
        tag="jobs",
        permission=permissions.JOBS_CANCEL,
        handler=cancel_job,
        query=CancelQuery,
        reply=JobDetails,
        problems=("job_not_found", "job_not_cancellable", "outcome_unknown"),
    ),
    Route(
        method="POST",
        path="/v1/queues/{queue}/cancel",
        operation_id="cancelJobs",
        summary="End the open jobs of a queue that match, page by page",
        tag="jobs",
        permission=permissions.JOBS_CANCEL,
        handler=cancel_jobs,
        body=CancelJobs,
        reply=JobsCancelled,
        problems=("queue_not_found", "outcome_unknown"),
        example={"job_type": "send_email", "tags": ["newsletter"], "statuses": ["pending"]},
    ),
    Route(
        method="PATCH",
        path="/v1/jobs/{job_id}",
        operation_id="changeJob",
        summary="Give a job that waits another time or priority",
        tag="jobs",
        permission=permissions.JOBS_WRITE,
        handler=change_job,
        body=JobChange,
        reply=JobDetails,
        problems=CHANGE_PROBLEMS,
        example={"priority": 9, "delay_s": 60},
    ),
    Route(
        method="POST",
        path="/v1/jobs/{job_id}/run-now",
        operation_id="runJobNow",
        summary="Let a job that is scheduled start at once",
        tag="jobs",
        permission=permissions.JOBS_WRITE,
        handler=run_job_now,
        reply=JobDetails,
        problems=CHANGE_PROBLEMS,
    ),
    Route(
        method="POST",
        path="/v1/queues/{queue}/pause",
        operation_id="pauseQueue",
        summary="Have a queue start nothing; what runs goes on, and jobs are taken in",
        tag="queues",
        permission=permissions.QUEUES_MANAGE,
        handler=pause_queue,
        reply=QueueView,
        problems=("queue_not_found",),
    ),
    Route(
        method="POST",
        path="/v1/queues/{queue}/resume",
        operation_id="resumeQueue",
        summary="Let a paused queue go on",
        tag="queues",
        permission=permissions.QUEUES_MANAGE,
        handler=resume_queue,
        reply=QueueView,
        problems=("queue_not_found",),
    ),
)
