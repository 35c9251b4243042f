"""The routes of what handlers logged."""

from collections.abc import AsyncGenerator
from typing import Annotated

from msgspec import Meta

from taskforge_server.api.rest.handlers import Services, job_id_of
from taskforge_server.api.rest.media import Coding
from taskforge_server.api.rest.routes import EVENTS_TYPE, Call, Event, Reply, Route, answer
from taskforge_server.api.rest.schemas import (
    Answer,
    AnyJson,
    PageQuery,
    Request,
    UuidText,
    encode_json,
)
from taskforge_server.api.rest.views import EMBED, time_of
from taskforge_server.api.service.joblogs import Ended, LogFilter, Logged
from taskforge_server.engine import limits
from taskforge_server.engine.errors import InvalidInput
from taskforge_server.engine.model import permissions
from taskforge_server.engine.model.base import Time
from taskforge_server.engine.model.execution import LogLevel
from taskforge_server.engine.store.execution_logs import after_log, log_cursor
from taskforge_server.ext.ids import uuid_bytes, uuid_text

Attempt = Annotated[int, Meta(ge=1, le=limits.ATTEMPTS_MAX, description="of this attempt only")]
Level = Annotated[LogLevel, Meta(description="of this level only")]


class LogView(Answer):
    """A line of a handler's log. `number` counts from 1 in each attempt; one that is missing was
    dropped."""

    id: UuidText
    execution_id: UuidText
    attempt: int
    number: int
    level: LogLevel
    message: str
    metadata: AnyJson
    logged_at: Time | None


class LogPage(Answer):
    """Lines, the oldest first."""

    items: list[LogView]
    next_cursor: str | None


class LogEnd(Answer):
    """The last event: the job has ended so; `gone` if its queue does not keep such jobs."""

    status: str


class LogsQuery(PageQuery, kw_only=True):
    """Which lines."""

    attempt: Attempt | None = None
    level: Level | None = None


class FollowQuery(Request):
    """Which lines, and from where on."""

    attempt: Attempt | None = None
    level: Level | None = None
    after: Annotated[UuidText, Meta(description="behind this line")] | None = None


async def list_logs(services: Services, call: Call) -> Reply:
    query: LogsQuery = call.query
    after = None if query.cursor is None else after_log(query.cursor)
    wanted = LogFilter(attempt=query.attempt, level=query.level)
    found, more = await services.logs.page(
        call.principal.project_id, job_id_of(call), wanted, after, query.limit
    )
    cursor = log_cursor(found[-1].line.id) if more else None
    return answer(
        call, LogPage(items=[_view(logged, call.coding) for logged in found], next_cursor=cursor)
    )


async def follow_logs(services: Services, call: Call) -> Reply:
    query: FollowQuery = call.query
    wanted = LogFilter(attempt=query.attempt, level=query.level)
    after = _line_id(query.after, "after")
    if call.last_event_id:
        after = _line_id(call.last_event_id, "Last-Event-ID")
    lines = await services.logs.follow(call.principal.project_id, job_id_of(call), wanted, after)
    return Reply(b"", content_type=EVENTS_TYPE, events=_events(lines))


async def _events(lines: AsyncGenerator[Logged | Ended, None]) -> AsyncGenerator[Event, None]:
    try:
        async for seen in lines:
            if isinstance(seen, Ended):
                yield Event(encode_json(LogEnd(status=seen.status)), name="end")
            else:
                yield Event(encode_json(_view(seen, Coding.JSON)), uuid_text(seen.line.id))
    finally:
        await lines.aclose()


def _view(logged: Logged, coding: Coding) -> LogView:
    line = logged.line
    return LogView(
        id=uuid_text(line.id),
        execution_id=uuid_text(line.execution_id),
        attempt=logged.attempt,
        number=line.number,
        level=line.level,
        message=line.message,
        metadata=EMBED[coding](line.metadata),
        logged_at=time_of(line.logged_us),
    )


def _line_id(text: str | None, field: str) -> bytes | None:
    if text is None:
        return None
    try:
        return uuid_bytes(text)
    except ValueError:
        raise InvalidInput("not the id of a line", field) from None


ROUTES = (
    Route(
        method="GET",
        path="/v1/jobs/{job_id}/logs",
        operation_id="listLogs",
        summary="List what the handlers of a job logged; the list follows by a moment",
        tag="jobs",
        permission=permissions.JOBS_READ,
        handler=list_logs,
        query=LogsQuery,
        reply=LogPage,
        problems=("job_not_found",),
    ),
    Route(
        method="GET",
        path="/v1/jobs/{job_id}/logs/stream",
        operation_id="followLogs",
        summary="Follow what the handlers of a job log, to the end of the job",
        tag="jobs",
        permission=permissions.JOBS_READ,
        handler=follow_logs,
        query=FollowQuery,
        reply_type=EVENTS_TYPE,
        problems=("job_not_found", "overloaded"),
    ),
)
