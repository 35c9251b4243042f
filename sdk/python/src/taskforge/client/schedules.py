"""Schedules: jobs that are made again and again, at the ticks of a cron expression."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec

from taskforge.client.calls import (
    Call,
    checked,
    given,
    json_item,
    make_key,
    query_text,
    queue_of,
    read_nothing,
    reader,
    time_text,
)
from taskforge.client.http1 import Response
from taskforge.client.methods import (
    AsyncGroup,
    Group,
    async_listing,
    async_method,
    listing,
    method,
)
from taskforge.client.models import Page, Submitted
from taskforge.options import CatchUp, Overlap
from taskforge.task import JobSpec, Task


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as it was when the server answered."""

    id: str
    name: str
    queue: str
    cron: str
    timezone: str
    job: dict[str, Any]
    """The job of each tick, as it was given."""
    catch_up: CatchUp
    window_s: int
    overlap: Overlap
    jitter_s: int
    paused: bool
    next_at: datetime | None = None
    """None: it is paused, or never ticks again."""
    last_tick: datetime | None = None
    last_job_id: str | None = None
    last_problem: str | None = None
    """Why its newest tick had no job."""


class _Preview(msgspec.Struct, frozen=True):
    ticks: list[datetime]


_PATH = "/v1/schedules"
_read = reader(Schedule)
_read_page = reader(Page[Schedule])
_read_submitted = reader(Submitted)
_read_preview = msgspec.json.Decoder(_Preview).decode
_to_json = msgspec.json.Encoder().encode


def _one(name: str) -> str:
    return f"{_PATH}/{quote(name, safe='')}"


def _create(
    name: str,
    cron: str,
    job: JobSpec[Any],
    *,
    timezone: str = "UTC",
    catch_up: CatchUp | None = None,
    window_s: int | None = None,
    overlap: Overlap | None = None,
    jitter_s: int | None = None,
    paused: bool = False,
) -> Call[Schedule]:
    """A job at each tick: `create("nightly", "30 2 * * *", report.job(kind="daily"))`. What is not
    given is as the server has it: `catch_up` latest of an hour, `overlap` allow, no jitter."""
    rest = given(catch_up=catch_up, window_s=window_s, overlap=overlap, jitter_s=jitter_s)
    body = {"name": name, "paused": paused} | _body(cron, timezone, job) | rest
    return Call("POST", _PATH, _read, _to_json(body), key=make_key())


def _put(
    name: str,
    cron: str,
    job: JobSpec[Any],
    *,
    timezone: str = "UTC",
    catch_up: CatchUp | None = None,
    window_s: int | None = None,
    overlap: Overlap | None = None,
    jitter_s: int | None = None,
) -> Call[Schedule]:
    """The same, or change the schedule of this name to it; nothing happens where it is so already.
    It stays in its queue (else Conflict), and stays paused if it is."""
    rest = given(catch_up=catch_up, window_s=window_s, overlap=overlap, jitter_s=jitter_s)
    return Call("PUT", _one(name), _read, _to_json(_body(cron, timezone, job) | rest))


def _body(cron: str, timezone: str, job: JobSpec[Any]) -> dict[str, Any]:
    return {"queue": queue_of(job), "cron": cron, "timezone": timezone, "job": json_item(job)}


def declared(tasks: Iterable[Task[..., Any]]) -> Sequence[Call[Schedule]]:
    """The schedules that tasks declare: `@task(cron=…)`."""
    return [
        _put(task.name, job=task.job(), **task.schedule)
        for task in tasks
        if task.schedule is not None
    ]


def _list_schedules(cursor: str | None, *, queue: str | None = None) -> Call[Page[Schedule]]:
    """All schedules, or those of a queue, in the order of their names."""
    return Call("GET", f"{_PATH}?{query_text({'queue': queue, 'cursor': cursor})}", _read_page)


def _get(name: str) -> Call[Schedule]:
    """By name or id; NotFound."""
    return Call("GET", _one(name), _read)


def _update(
    name: str,
    *,
    cron: str | None = None,
    timezone: str | None = None,
    job: JobSpec[Any] | None = None,
    catch_up: CatchUp | None = None,
    window_s: int | None = None,
    overlap: Overlap | None = None,
    jitter_s: int | None = None,
) -> Call[Schedule]:
    """Change what is given; a job is replaced as a whole. It stays in its queue."""
    body = given(
        cron=cron,
        timezone=timezone,
        job=None if job is None else json_item(job),
        catch_up=catch_up,
        window_s=window_s,
        overlap=overlap,
        jitter_s=jitter_s,
    )
    return Call("PATCH", _one(name), _read, _to_json(body))


def _delete(name: str) -> Call[None]:
    """Its jobs stay."""
    return Call("DELETE", _one(name), read_nothing, repeatable=False)


def _pause(name: str) -> Call[Schedule]:
    """It does not tick until `resume`."""
    return Call("POST", f"{_one(name)}/pause", _read)


def _resume(name: str) -> Call[Schedule]:
    """It ticks again from now on; what it paused over is not made up for."""
    return Call("POST", f"{_one(name)}/resume", _read)


def _run_now(name: str) -> Call[Submitted]:
    """Submit its job now, beside its ticks; its id, for `client.wait`."""
    return Call("POST", f"{_one(name)}/run-now", _read_submitted, key=make_key())


def _preview(name: str, count: int = 10) -> Call[list[datetime]]:
    """The next ticks of a schedule."""
    return Call("GET", f"{_one(name)}/preview?count={count}", _ticks)


def _preview_cron(
    cron: str, *, timezone: str = "UTC", count: int = 10, after: datetime | None = None
) -> Call[list[datetime]]:
    """The next ticks of an expression; InvalidInput."""
    wanted: dict[str, Any] = {
        "cron": cron,
        "timezone": timezone,
        "count": count,
        "after": after and time_text(after, "after"),
    }
    return Call("GET", f"/v1/cron/preview?{query_text(wanted)}", _ticks)


def _ticks(response: Response) -> list[datetime]:
    return _read_preview(checked(response).body).ticks


class Schedules(Group):
    """The schedules of the project."""

    create = method(_create)
    put = method(_put)
    list = listing(_list_schedules)
    get = method(_get)
    update = method(_update)
    delete = method(_delete)
    pause = method(_pause)
    resume = method(_resume)
    run_now = method(_run_now)
    preview = method(_preview)
    preview_cron = method(_preview_cron)

    def declare(self, *tasks: Task[..., Any]) -> Sequence[Schedule]:
        """Put the schedules of tasks that have a `cron`, as a worker does when it starts."""
        return [self.execute(call) for call in declared(tasks)]


class AsyncSchedules(AsyncGroup):
    """The schedules of the project."""

    create = async_method(_create)
    put = async_method(_put)
    list = async_listing(_list_schedules)
    get = async_method(_get)
    update = async_method(_update)
    delete = async_method(_delete)
    pause = async_method(_pause)
    resume = async_method(_resume)
    run_now = async_method(_run_now)
    preview = async_method(_preview)
    preview_cron = async_method(_preview_cron)

    async def declare(self, *tasks: Task[..., Any]) -> Sequence[Schedule]:
        """Put the schedules of tasks that have a `cron`, as a worker does when it starts."""
        return [await self.execute(call) for call in declared(tasks)]
