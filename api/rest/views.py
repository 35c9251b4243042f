"""From what the engine and the tables know to what a caller sees."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from taskforge_server.api.rest.media import Coding
from taskforge_server.api.rest.schemas import (
    ExecutionView,
    JobDetails,
    JobView,
    ProgressView,
    QueueCounts,
    QueueView,
)
from taskforge_server.api.service.ports import JobDict
from taskforge_server.engine.model.events import Progress
from taskforge_server.engine.model.joboptions import read_told
from taskforge_server.engine.model.queue import JobQueue
from taskforge_server.ext.ids import uuid_text
from taskforge_server.ext.table import NEVER_US

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encode_bin = msgspec.msgpack.Encoder().encode

Embed = Callable[[bytes | None], msgspec.Raw]
"""How JSON text stands in an answer."""


def _in_json(text: bytes | None) -> msgspec.Raw:
    return msgspec.Raw(b"null" if text is None else text)


def _in_msgpack(text: bytes | None) -> msgspec.Raw:
    return msgspec.Raw(_encode_bin(text))


EMBED: dict[Coding, Embed] = {Coding.JSON: _in_json, Coding.MSGPACK: _in_msgpack}


def time_of(at_us: int) -> datetime | None:
    """Microseconds since the epoch as a time; 0 is none, and so is the time of a held job."""
    return _EPOCH + timedelta(microseconds=at_us) if 0 < at_us < NEVER_US else None


def _moment(at_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=at_us)


def _id_or_none(raw: bytes | None) -> str | None:
    return None if raw is None else uuid_text(raw)


def queue_view(row: JobQueue, counts: tuple[int, int, int]) -> QueueView:
    pending, scheduled, processing = counts
    return QueueView(
        id=uuid_text(row.id),
        name=row.name,
        priority=row.priority,
        settings=row.settings,
        created_at=row.created_at,
        counts=QueueCounts(pending=pending, scheduled=scheduled, processing=processing),
        paused_at=row.paused_at,
    )


def job_view(job: JobDict, queue: str, coding: Coding) -> JobView:
    return JobView(**_job_fields(job, queue, EMBED[coding]))


def job_details(job: JobDict, executions: list[JobDict], queue: str, coding: Coding) -> JobDetails:
    embed = EMBED[coding]
    views = [_execution_view(execution, embed) for execution in executions]
    progress = progress_view(job.get("progress"))
    return JobDetails(executions=views, progress=progress, **_job_fields(job, queue, embed))


def progress_view(progress: Progress | None) -> ProgressView | None:
    if progress is None:
        return None
    return ProgressView(
        percent=progress.percent, message=progress.message, at=time_of(progress.at_us)
    )


def _job_fields(job: JobDict, queue: str, embed: Embed) -> dict[str, Any]:
    status, output = job["status"], job["output"]
    told = read_told(job["options"])
    options, more = told.named, told.more
    succeeded = status == "succeeded"
    return {
        "id": uuid_text(job["id"]),
        "queue": queue,
        "queue_id": uuid_text(job["queue_id"]),
        "job_type": job["job_type"],
        "payload": embed(job["payload"]),
        "status": status,
        "priority": job["priority"],
        "tags": options.get("tags") or [],
        "scheduled_for": time_of(job["due_us"]),
        "created_at": _moment(job["created_us"]),
        "updated_at": _moment(job["updated_us"]),
        "started_at": time_of(job["started_us"]),
        "finished_at": time_of(job["finished_us"]),
        "deadline_at": time_of(job["deadline_us"]),
        "attempts": job["attempt"],
        "crashes": job["crashes"],
        "max_attempts": job["max_attempts"] or None,
        "timeout_s": job["timeout_ms"] / 1000 if job["timeout_ms"] else None,
        "worker_id": _id_or_none(job["worker_id"]),
        "result": embed(output if succeeded else None),
        "last_error": embed(None if succeeded else output),
        "failed_reason": job["reason"] if status == "failed" else None,
        "cancel_reason": job["reason"] if status == "cancelled" else None,
        "idempotency_key": options.get("idempotency_key"),
        "unique_key": options.get("unique_key"),
        "waiting_on": options.get("waiting_on"),
        "ref": more.ref,
        "group_key": options.get("group_key"),
        "expires_at": time_of(more.expires_us),
        "soft_timeout_s": more.soft_timeout_s or None,
        "cancel_requested_at": time_of(more.cancel_us),
        "retry_policy": more.retry_policy,
    }


def _execution_view(execution: JobDict, embed: Embed) -> ExecutionView:
    return ExecutionView(
        id=uuid_text(execution["id"]),
        attempt=execution["attempt_number"],
        status=execution["status"],
        worker_id=_id_or_none(execution["worker_id"]),
        started_at=time_of(execution["started_us"]),
        finished_at=time_of(execution["finished_us"]),
        output=embed(execution["output"]),
        error=embed(execution["error"]),
    )
