"""The routes of schedules."""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from taskforge_server.api.rest.bodies import decode, payload_text
from taskforge_server.api.rest.handlers import REPLAY_HEADERS, Services, given_fields, keyed
from taskforge_server.api.rest.media import Coding
from taskforge_server.api.rest.routes import Call, Reply, Route, answer
from taskforge_server.api.rest.schemas import (
    Answer,
    AnyJson,
    JobSubmit,
    JobSubmitted,
    PageQuery,
    QueueText,
    Request,
    UuidText,
)
from taskforge_server.api.rest.views import EMBED
from taskforge_server.api.service.schedules import NewSchedule, ScheduleService
from taskforge_server.engine import limits
from taskforge_server.engine.errors import InvalidInput, NotFound
from taskforge_server.engine.model import permissions
from taskforge_server.engine.model.base import Name, Time
from taskforge_server.engine.model.schedule import (
    WINDOW_S_DEFAULT,
    CatchUp,
    Cron,
    JitterS,
    Overlap,
    Schedule,
    Timezone,
    WindowS,
)
from taskforge_server.ext.ids import uuid_text

Paused = Annotated[bool, Meta(description="whether it waits to be resumed")]
Count = Annotated[int, Meta(ge=1, le=limits.PREVIEW_TICKS_MAX, description="how many ticks")]


class SchedulePut(Request, kw_only=True):
    """A schedule as it is to be."""

    queue: Annotated[QueueText, Meta(description="where it stays")]
    cron: Cron
    timezone: Timezone = "UTC"
    job: Annotated[JobSubmit, Meta(description="the job of each tick")]
    catch_up: CatchUp = "latest"
    window_s: WindowS = WINDOW_S_DEFAULT
    overlap: Overlap = "allow"
    jitter_s: JitterS = 0


class ScheduleCreate(SchedulePut, kw_only=True):
    """A new schedule."""

    name: Annotated[Name, Meta(examples=["nightly-report"])]
    paused: Paused = False


class ScheduleUpdate(Request):
    """What of a schedule is to change; the rest stays."""

    cron: Cron | UnsetType = UNSET
    timezone: Timezone | UnsetType = UNSET
    job: Annotated[JobSubmit, Meta(description="instead of the whole of it")] | UnsetType = UNSET
    catch_up: CatchUp | UnsetType = UNSET
    window_s: WindowS | UnsetType = UNSET
    overlap: Overlap | UnsetType = UNSET
    jitter_s: JitterS | UnsetType = UNSET


class ScheduleView(Answer):
    """A schedule. `last_problem` says why its newest tick had no job."""

    id: UuidText
    name: str
    queue: str
    queue_id: UuidText
    cron: str
    timezone: str
    job: Annotated[dict[str, AnyJson], Meta(description="the job of each tick, as it was given")]
    catch_up: CatchUp
    window_s: int
    overlap: Overlap
    jitter_s: int
    paused: bool
    paused_at: Time | None
    next_at: Annotated[Time | None, Meta(description="null: it is paused, or never ticks again")]
    last_tick: Annotated[Time | None, Meta(description="the newest that had a job")]
    last_job_id: UuidText | None
    last_problem: str | None
    created_at: Time
    updated_at: Time


class SchedulePage(Answer):
    """Schedules in the order of their names."""

    items: list[ScheduleView]
    next_cursor: str | None


class Preview(Answer):
    """The next ticks; fewer than asked for when no more will come."""

    ticks: list[Time]


class SchedulesQuery(PageQuery, kw_only=True):
    """Which schedules."""

    queue: QueueText | None = None


class PreviewQuery(Request):
    """How many ticks."""

    count: Count = 10


class CronQuery(PreviewQuery, kw_only=True):
    """Ticks of which expression."""

    cron: Cron
    timezone: Timezone = "UTC"
    after: Annotated[Time, Meta(description="after this time instead of now")] | None = None


# Handlers


async def create_schedule(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, ScheduleCreate)
    wanted = _wanted(call, given, given.name, paused=given.paused, key=keyed(call))
    row, repeated = await _service(services).create(call.principal.project_id, wanted, call.actor)
    reply = answer(call, _view(row, call.coding))
    if repeated:
        reply.headers |= REPLAY_HEADERS
    return reply


async def put_schedule(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, SchedulePut)
    try:
        name = msgspec.convert(call.params["schedule"], Name)
    except msgspec.ValidationError as error:
        raise InvalidInput(str(error), "schedule") from None
    wanted = _wanted(call, given, name)
    row = await _service(services).put(call.principal.project_id, wanted, call.actor)
    return answer(call, _view(row, call.coding))


async def list_schedules(services: Services, call: Call) -> Reply:
    query: SchedulesQuery = call.query
    rows, cursor = await _service(services).page(
        call.principal.project_id, query.queue, query.cursor, query.limit
    )
    items = [_view(row, call.coding) for row in rows]
    return answer(call, SchedulePage(items=items, next_cursor=cursor))


async def get_schedule(services: Services, call: Call) -> Reply:
    row = await _service(services).get(call.principal.project_id, call.params["schedule"])
    return answer(call, _view(row, call.coding))


async def update_schedule(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, ScheduleUpdate)
    changes = given_fields(given)
    job = changes.pop("job", None)
    if job is not None:
        job = (job, _payload(job, call))
    row = await _service(services).update(
        call.principal.project_id, call.params["schedule"], changes, job, call.actor
    )
    return answer(call, _view(row, call.coding))


async def delete_schedule(services: Services, call: Call) -> Reply:
    name = call.params["schedule"]
    await _service(services).delete(call.principal.project_id, name, call.actor)
    return Reply(b"", call.route.status)


async def pause_schedule(services: Services, call: Call) -> Reply:
    name = call.params["schedule"]
    row = await _service(services).pause(call.principal.project_id, name, call.actor)
    return answer(call, _view(row, call.coding))


async def resume_schedule(services: Services, call: Call) -> Reply:
    name = call.params["schedule"]
    row = await _service(services).resume(call.principal.project_id, name, call.actor)
    return answer(call, _view(row, call.coding))


async def run_schedule(services: Services, call: Call) -> Reply:
    await services.allowances.submitter(call.principal)
    job_id, repeated = await _service(services).run_now(
        call.principal.project_id, call.params["schedule"], keyed(call)
    )
    reply = answer(call, JobSubmitted(id=uuid_text(job_id), status="pending"))
    if repeated:
        reply.headers |= REPLAY_HEADERS
    return reply


async def preview_schedule(services: Services, call: Call) -> Reply:
    query: PreviewQuery = call.query
    ticks = await _service(services).preview(
        call.principal.project_id, call.params["schedule"], query.count
    )
    return answer(call, Preview(ticks=ticks))


async def preview_cron(services: Services, call: Call) -> Reply:
    query: CronQuery = call.query
    ticks = _service(services).preview_of(query.cron, query.timezone, query.after, query.count)
    return answer(call, Preview(ticks=ticks))


def _wanted(call: Call, given: SchedulePut, name: str, **more: Any) -> NewSchedule:
    return NewSchedule(
        name=name,
        queue=given.queue,
        cron=given.cron,
        timezone=given.timezone,
        job=given.job,
        payload=_payload(given.job, call),
        catch_up=given.catch_up,
        window_s=given.window_s,
        overlap=given.overlap,
        jitter_s=given.jitter_s,
        **more,
    )


def _payload(job: JobSubmit, call: Call) -> bytes:
    try:
        return bytes(payload_text(job.payload, call.body_coding))
    except InvalidInput as error:
        error.field = "job.payload"
        raise


def _service(services: Services) -> ScheduleService:
    if services.schedules is None:
        message = "this project has no such schedule"
        raise NotFound(message, "schedule", code="schedule_not_found")
    return services.schedules


def _view(row: Schedule, coding: Coding) -> ScheduleView:
    return ScheduleView(
        id=uuid_text(row.id),
        name=row.name,
        queue=row.queue,
        queue_id=uuid_text(row.queue_id),
        cron=row.cron,
        timezone=row.timezone,
        job=_job_view(row, coding),
        catch_up=row.catch_up,
        window_s=row.window_s,
        overlap=row.overlap,
        jitter_s=row.jitter_s,
        paused=row.paused_at is not None,
        paused_at=row.paused_at,
        next_at=None if row.paused_at is not None else row.next_at,
        last_tick=row.last_tick,
        last_job_id=None if row.last_job_id is None else uuid_text(row.last_job_id),
        last_problem=row.last_problem,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _job_view(row: Schedule, coding: Coding) -> dict[str, Raw]:
    """In the coding of the answer; a payload in MessagePack is `bin`, as that of a job."""
    encode = msgspec.json.encode if coding is Coding.JSON else msgspec.msgpack.encode
    told: dict[str, Any] = msgspec.json.decode(row.job)
    return {name: Raw(encode(value)) for name, value in told.items()} | {
        "payload": EMBED[coding](row.payload)
    }


PATH = "/v1/schedules"
ONE = PATH + "/{schedule}"
MISSING = ("schedule_not_found",)

EXAMPLE: dict[str, Any] = {
    "name": "nightly-report",
    "queue": "default",
    "cron": "30 2 * * *",
    "timezone": "Europe/Berlin",
    "job": {"job_type": "report", "payload": {"kind": "daily"}, "priority": 3},
}

ROUTES = (
    Route(
        method="POST",
        path=PATH,
        operation_id="createSchedule",
        summary="Make a schedule: a job at each tick of a cron expression",
        tag="schedules",
        permission=permissions.SCHEDULES_MANAGE,
        handler=create_schedule,
        status=201,
        body=ScheduleCreate,
        reply=ScheduleView,
        idempotent=True,
        problems=("queue_not_found", "schedule_name_taken", "too_many_schedules"),
        example=EXAMPLE,
    ),
    Route(
        method="GET",
        path=PATH,
        operation_id="listSchedules",
        summary="List schedules in the order of their names",
        tag="schedules",
        permission=permissions.SCHEDULES_READ,
        handler=list_schedules,
        query=SchedulesQuery,
        reply=SchedulePage,
        problems=("queue_not_found",),
    ),
    Route(
        method="GET",
        path=ONE,
        operation_id="getSchedule",
        summary="Look at a schedule",
        tag="schedules",
        permission=permissions.SCHEDULES_READ,
        handler=get_schedule,
        reply=ScheduleView,
        problems=MISSING,
    ),
    Route(
        method="PUT",
        path=ONE,
        operation_id="putSchedule",
        summary="Make a schedule of this name, or change it to this, where it is not so already",
        tag="schedules",
        permission=permissions.SCHEDULES_MANAGE,
        handler=put_schedule,
        body=SchedulePut,
        reply=ScheduleView,
        problems=(*MISSING, "queue_not_found", "schedule_in_other_queue", "too_many_schedules"),
        example={name: value for name, value in EXAMPLE.items() if name != "name"},
    ),
    Route(
        method="PATCH",
        path=ONE,
        operation_id="updateSchedule",
        summary="Change a schedule; what is not given stays",
        tag="schedules",
        permission=permissions.SCHEDULES_MANAGE,
        handler=update_schedule,
        body=ScheduleUpdate,
        reply=ScheduleView,
        problems=MISSING,
        example={"cron": "0 3 * * *", "overlap": "skip"},
    ),
    Route(
        method="DELETE",
        path=ONE,
        operation_id="deleteSchedule",
        summary="Delete a schedule; its jobs stay",
        tag="schedules",
        permission=permissions.SCHEDULES_MANAGE,
        handler=delete_schedule,
        status=204,
        problems=MISSING,
    ),
    Route(
        method="POST",
        path=ONE + "/pause",
        operation_id="pauseSchedule",
        summary="Let a schedule stand still",
        tag="schedules",
        permission=permissions.SCHEDULES_MANAGE,
        handler=pause_schedule,
        reply=ScheduleView,
        problems=MISSING,
    ),
    Route(
        method="POST",
        path=ONE + "/resume",
        operation_id="resumeSchedule",
        summary="Let a paused schedule go on from now",
        tag="schedules",
        permission=permissions.SCHEDULES_MANAGE,
        handler=resume_schedule,
        reply=ScheduleView,
        problems=MISSING,
    ),
    Route(
        method="POST",
        path=ONE + "/run-now",
        operation_id="runSchedule",
        summary="Submit the job of a schedule now, beside its ticks",
        tag="schedules",
        permission=permissions.SCHEDULES_MANAGE,
        handler=run_schedule,
        status=201,
        reply=JobSubmitted,
        idempotent=True,
        problems=(
            *MISSING,
            "idempotency_key_reused",
            "quota_exceeded",
            "subscription_expired",
            "overloaded",
            "outcome_unknown",
        ),
    ),
    Route(
        method="GET",
        path=ONE + "/preview",
        operation_id="previewSchedule",
        summary="The next ticks of a schedule",
        tag="schedules",
        permission=permissions.SCHEDULES_READ,
        handler=preview_schedule,
        query=PreviewQuery,
        reply=Preview,
        problems=MISSING,
    ),
    Route(
        method="GET",
        path="/v1/cron/preview",
        operation_id="previewCron",
        summary="The next ticks of a cron expression",
        tag="schedules",
        permission=permissions.SCHEDULES_READ,
        handler=preview_cron,
        query=CronQuery,
        reply=Preview,
    ),
)
