"""Schedules: make, list, look at, change, pause, run now, preview; and how a tick's job is made.

A schedule keeps its job as a caller gave it, and the job is checked anew at every tick, by the same
`Checker` as any submit: what is reckoned from the time of the submit (`ttl_s`) is right each time.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final, Protocol

import msgspec

from taskforge_server.api.service.allowances import Allowances
from taskforge_server.api.service.catalog import QueueCatalog, queue_key
from taskforge_server.api.service.encryption import Opener
from taskforge_server.api.service.jobs import JobService
from taskforge_server.api.service.submission import Checker, NewJob
from taskforge_server.engine import limits
from taskforge_server.engine.errors import (
    CallerError,
    Conflict,
    InvalidInput,
    KeyConflict,
    NotFound,
)
from taskforge_server.engine.model.audit import Actor
from taskforge_server.engine.model.base import checked
from taskforge_server.engine.model.cron import NEVER_US, rule_of
from taskforge_server.engine.model.schedule import CatchUp, Overlap, Schedule
from taskforge_server.engine.shard.keys import KeyedRequest
from taskforge_server.engine.vault.vault import Vault
from taskforge_server.ext.table import SubmitBatch

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

OF_ONE_MOMENT: Final = ("scheduled_for", "delay_s", "expires_at", "parents", "ref")
"""What a job may be told once, and not again and again."""

PUT_FIELDS: Final = ("cron", "timezone", "catch_up", "window_s", "overlap", "jitter_s")


class ScheduleRows(Protocol):
    """The rows of `cron_schedules`."""

    async def create(
        self, wanted: Schedule, actor: Actor = ..., key: KeyedRequest | None = None
    ) -> Schedule: ...
    async def made_by(self, project_id: bytes, key: KeyedRequest) -> Schedule | None: ...
    async def get(self, project_id: bytes, schedule: bytes | str) -> Schedule: ...
    async def page(
        self,
        project_id: bytes,
        cursor: str | None = None,
        rows_max: int = ...,
        *,
        queue_id: bytes | None = None,
    ) -> tuple[list[Schedule], str | None]: ...
    async def update(
        self,
        project_id: bytes,
        schedule_id: bytes,
        action: str,
        changes: Mapping[str, Any],
        actor: Actor = ...,
    ) -> Schedule: ...
    async def delete(self, project_id: bytes, schedule_id: bytes, actor: Actor = ...) -> None: ...


class ScheduleDesk(Protocol):
    """The node, as those who manage schedules see it."""

    def now_us(self) -> int: ...

    async def schedule_changed(self, schedule_id: bytes) -> None:
        """The schedule was made, changed or deleted: when this returns it holds on this node."""
        ...


@dataclass(frozen=True, slots=True)
class SchedulePorts:
    """What the use cases stand on."""

    desk: ScheduleDesk
    rows: ScheduleRows
    vault: Vault


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSchedule:
    """A schedule as a caller wants it."""

    name: str
    queue: str
    cron: str
    timezone: str
    job: NewJob
    payload: bytes
    catch_up: CatchUp
    window_s: int
    overlap: Overlap
    jitter_s: int
    paused: bool = False
    key: KeyedRequest | None = None
    """The request that makes it, if it may be repeated."""


class ScheduleService:
    """The use cases of schedules; each sees one project only."""

    def __init__(
        self, ports: SchedulePorts, jobs: JobService, catalog: QueueCatalog, opener: Opener
    ) -> None:
        self._desk = ports.desk
        self._rows = ports.rows
        self._vault = ports.vault
        self._jobs = jobs
        self._catalog = catalog
        self._opener = opener

    async def create(
        self, project_id: bytes, new: NewSchedule, actor: Actor
    ) -> tuple[Schedule, bool]:
        """A new schedule, or the one that this request made the first time; and which of both.
        Conflict when the name is taken, KeyConflict, NotFound without the queue."""
        if isinstance(queue_key(new.name), bytes):
            raise InvalidInput("must not read like an id", "name")
        first = await self._made_by(project_id, new)
        if first is not None:
            return await self._opened(first), True
        queue = await self._catalog.find(project_id, queue_key(new.queue))
        now_us = self._desk.now_us()
        now = _moment(now_us)
        self._check_job(new.job, new.payload, new.jitter_s)
        schedule_id = uuid.uuid4().bytes
        wanted = Schedule(
            id=schedule_id,
            project_id=project_id,
            queue_id=queue.id,
            queue=queue.name,
            name=new.name,
            cron=new.cron,
            timezone=new.timezone,
            job=job_text(new.job),
            payload=self._sealed(project_id, schedule_id, new.payload),
            catch_up=new.catch_up,
            window_s=new.window_s,
            overlap=new.overlap,
            jitter_s=new.jitter_s,
            paused_at=now if new.paused else None,
            decided_at=now,
            next_at=_next(new.cron, new.timezone, now_us),
            created_at=now,
            updated_at=now,
        )
        try:
            made = await self._rows.create(wanted, actor, self._kept(project_id, new.key))
        except Conflict:
            # Perhaps by the same request, a moment ago.
            first = await self._made_by(project_id, new)
            if first is None:
                raise
            return await self._opened(first), True
        await self._desk.schedule_changed(made.id)
        return await self._opened(made), False

    async def _made_by(self, project_id: bytes, new: NewSchedule) -> Schedule | None:
        if new.key is None:
            return None
        kept = self._kept(project_id, new.key)
        try:
            return await self._rows.made_by(project_id, kept or new.key)
        except KeyConflict:
            # Perhaps from before the encryption.
            return await self._rows.made_by(project_id, new.key)

    def _kept(self, project_id: bytes, key: KeyedRequest | None) -> KeyedRequest | None:
        """As the row has it: a plain hash would tell whether a guessed payload is right."""
        ring = self._vault.ring(project_id)
        if key is None or ring is None or not ring.encrypted:
            return key
        return KeyedRequest(key.key, ring.digest(key.body_hash))

    async def get(self, project_id: bytes, schedule: str) -> Schedule:
        """The schedule with this name or id; NotFound."""
        return await self._opened(await self._rows.get(project_id, queue_key(schedule)))

    async def page(
        self, project_id: bytes, queue: str | None, cursor: str | None, rows_max: int
    ) -> tuple[list[Schedule], str | None]:
        """A page in the order of names, and the cursor of the next one."""
        queue_id = None
        if queue is not None:
            queue_id = (await self._catalog.find(project_id, queue_key(queue))).id
        rows, following = await self._rows.page(project_id, cursor, rows_max, queue_id=queue_id)
        return [await self._opened(row) for row in rows], following

    async def put(self, project_id: bytes, new: NewSchedule, actor: Actor) -> Schedule:
        """Make it, or change it to this; what is so already is no act. One that is paused stays so.
        NotFound without the queue or for an unknown id; Conflict for another queue than it has."""
        name = queue_key(new.name)
        try:
            row = await self._rows.get(project_id, name)
        except NotFound:
            if isinstance(name, bytes):
                raise  # an id is of one that is there
            try:
                return (await self.create(project_id, new, actor))[0]
            except Conflict as error:
                if error.code != "schedule_name_taken":
                    raise
            # By somebody else, a moment ago.
            row = await self._rows.get(project_id, name)
        queue = await self._catalog.find(project_id, queue_key(new.queue))
        if queue.id != row.queue_id:
            message = f"its jobs go to queue {row.queue}, and it stays there"
            raise Conflict(message, "queue", "schedule_in_other_queue")
        changes = {name: getattr(new, name) for name in PUT_FIELDS}
        return await self.update(project_id, new.name, changes, (new.job, new.payload), actor)

    async def update(
        self,
        project_id: bytes,
        schedule: str,
        changes: dict[str, Any],
        job: tuple[NewJob, bytes] | None,
        actor: Actor,
    ) -> Schedule:
        """Change these fields, and the job as a whole if one is given; NotFound.

        With another expression or zone, what comes after this moment counts."""
        row = await self._rows.get(project_id, queue_key(schedule))
        now_us = self._desk.now_us()
        if job is not None:
            changes["job"] = job_text(job[0])
            changes["payload"] = job[1]
        jitter_s = changes.get("jitter_s", row.jitter_s)
        given = read_job(changes.get("job", row.job))
        if job is not None or "jitter_s" in changes:
            self._check_job(given, changes.get("payload", b"null"), jitter_s)
        if "payload" in changes:
            if _canonical(changes["payload"]) == _canonical((await self._opened(row)).payload):
                del changes["payload"]
            else:
                changes["payload"] = self._sealed(project_id, row.id, changes["payload"])
        cron = changes.get("cron", row.cron)
        timezone = changes.get("timezone", row.timezone)
        if (cron, timezone) != (row.cron, row.timezone):
            changes["next_at"] = _next(cron, timezone, now_us)
            changes["decided_at"] = _moment(now_us)
        return await self._changed(row, "schedule.update", changes, actor)

    async def pause(self, project_id: bytes, schedule: str, actor: Actor) -> Schedule:
        """It does not tick until it is resumed; NotFound."""
        row = await self._rows.get(project_id, queue_key(schedule))
        if row.paused_at is not None:
            return await self._opened(row)
        changes = {"paused_at": _moment(self._desk.now_us())}
        return await self._changed(row, "schedule.pause", changes, actor)

    async def resume(self, project_id: bytes, schedule: str, actor: Actor) -> Schedule:
        """It ticks again; what it paused over is not made up for. NotFound."""
        row = await self._rows.get(project_id, queue_key(schedule))
        if row.paused_at is None:
            return await self._opened(row)
        now_us = self._desk.now_us()
        changes = {
            "paused_at": None,
            "decided_at": _moment(now_us),
            "next_at": _moment_or_none(rule_of(row.cron, row.timezone).next_us(now_us)),
        }
        return await self._changed(row, "schedule.resume", changes, actor)

    async def _changed(
        self, row: Schedule, action: str, changes: dict[str, Any], actor: Actor
    ) -> Schedule:
        new = await self._rows.update(row.project_id, row.id, action, changes, actor)
        await self._desk.schedule_changed(row.id)
        return await self._opened(new)

    async def delete(self, project_id: bytes, schedule: str, actor: Actor) -> None:
        """Its jobs stay; NotFound."""
        row = await self._rows.get(project_id, queue_key(schedule))
        await self._rows.delete(project_id, row.id, actor)
        await self._desk.schedule_changed(row.id)

    async def run_now(
        self, project_id: bytes, schedule: str, key: KeyedRequest | None
    ) -> tuple[bytes, bool]:
        """A job as its ticks have it, beside them: its id, and whether the key came before.
        NotFound."""
        row = await self.get(project_id, schedule)
        queue = await self._catalog.find(project_id, row.queue_id)
        maker = TickMaker(self._desk.now_us())
        maker.add_tick(row.job, row.payload, 0)
        return await self._jobs.submit(queue, maker.batch, key)

    async def preview(self, project_id: bytes, schedule: str, count: int) -> list[datetime]:
        """The next ticks of a schedule, as if it were not paused; NotFound."""
        row = await self._rows.get(project_id, queue_key(schedule))
        return self.preview_of(row.cron, row.timezone, None, count)

    def preview_of(
        self, cron: str, timezone: str, after: datetime | None, count: int
    ) -> list[datetime]:
        """The next ticks of an expression; InvalidInput."""
        after_us = self._desk.now_us() if after is None else (after - _EPOCH) // _MICROSECOND
        if not 0 <= after_us <= self._desk.now_us() + limits.SCHEDULE_AHEAD_S_MAX * 1_000_000:
            raise InvalidInput("neither before 1970 nor more than five years ahead", "after")
        return [_moment(us) for us in islice(rule_of(cron, timezone).ticks_us(after_us), count)]

    # jobs

    def _check_job(self, job: NewJob, payload: bytes, jitter_s: int) -> None:
        for name in OF_ONE_MOMENT:
            if getattr(job, name, None) is not None:
                raise InvalidInput("not for a job that is made again and again", f"job.{name}")
        now_us = self._desk.now_us()
        try:
            TickMaker(now_us).add_tick(job_text(job), payload, now_us + jitter_s * 1_000_000)
        except CallerError as error:
            if error.field is not None:
                error.field = f"job.{error.field}"
            raise

    def _sealed(self, project_id: bytes, schedule_id: bytes, payload: bytes) -> bytes:
        ring = self._vault.ring(project_id)
        return payload if ring is None else ring.seal(schedule_id, "schedule", payload)

    async def _opened(self, row: Schedule) -> Schedule:
        payload = await self._opener.schedule(row.project_id, row.id, row.payload)
        return row if payload is row.payload else msgspec.structs.replace(row, payload=payload)


class TickMaker:
    """Makes the jobs of one batch of ticks."""

    def __init__(self, now_us: int) -> None:
        self._checker = Checker(now_us, limits.SCHEDULE_PAYLOAD_BYTES_MAX, None)

    @property
    def batch(self) -> SubmitBatch:
        return self._checker.batch

    def add_tick(self, job: bytes, payload: bytes, due_us: int, key: str = "") -> None:
        """One more job, due then (0: at once), under this key if there is one; CallerError."""
        if key:
            self._checker.under_key(key)
        given = read_job(job)
        if due_us:
            given.scheduled_for = _moment(due_us)
        self._checker.add(given, payload)


class TickMakers:
    """Gives makers to the node's scheduler."""

    def __init__(self, allowances: Allowances) -> None:
        self._allowances = allowances

    async def __call__(self, project_id: bytes, now_us: int) -> TickMaker:
        """SubscriptionExpired."""
        await self._allowances.require_submitter(project_id)
        return TickMaker(now_us)


def job_text(job: NewJob) -> bytes:
    """What was given of a job, but for its payload, as it is stored."""
    fields = ((name, getattr(job, name)) for name in NewJob.__struct_fields__)
    return msgspec.json.encode({name: value for name, value in fields if value is not None})


def read_job(text: bytes) -> NewJob:
    """As it was given; InvalidInput. Fields of a newer version are passed over."""
    raw = msgspec.json.decode(text)
    known = {name: raw[name] for name in NewJob.__struct_fields__ if name in raw}
    return checked(known, NewJob)


def _canonical(payload: bytes) -> bytes:
    """The same text for the same value."""
    return msgspec.json.encode(msgspec.json.decode(payload), order="deterministic")


def _next(cron: str, timezone: str, now_us: int) -> datetime:
    """InvalidInput when it never ticks."""
    next_us = rule_of(cron, timezone).next_us(now_us)
    if next_us == NEVER_US:
        raise InvalidInput("never matches", "cron")
    return _moment(next_us)


def _moment(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)


def _moment_or_none(us: int) -> datetime | None:
    return None if us == NEVER_US else _moment(us)
