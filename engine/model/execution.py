"""An execution: one attempt of a job on one worker; and what its handler logged.

started ──► succeeded
        ──► retrying   failed or lost, and the job is tried again
        ──► failed     the job failed with it
"""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Conflict
from taskforge_server.engine.model.base import Id, Model, Time

ExecutionStatus = Literal["started", "succeeded", "failed", "retrying"]
LogLevel = Literal["info", "warn", "error"]


class JobExecution(Model, frozen=True, kw_only=True):
    """A row of `job_executions`. It ends once; each end gives a new struct."""

    id: Id
    job_id: Id
    worker_id: Id | None
    status: ExecutionStatus = "started"
    output: str | None = None
    attempt_number: Annotated[int, msgspec.Meta(ge=1, le=limits.ATTEMPTS_MAX)] = 1
    started_at: Time | None = None
    finished_at: Time | None = None
    created_at: Time
    error: Any = None

    def mark_succeeded(self, now: datetime, output: str | None = None) -> "JobExecution":
        return self._ended("succeeded", now, output)

    def mark_failed(self, now: datetime) -> "JobExecution":
        return self._ended("failed", now)

    def mark_retrying(self, now: datetime) -> "JobExecution":
        return self._ended("retrying", now)

    def get_duration(self) -> timedelta | None:
        """How long it ran; None while it runs."""
        if self.started_at is None or self.finished_at is None:
            return None
        return self.finished_at - self.started_at

    def _ended(
        self, status: ExecutionStatus, now: datetime, output: str | None = None
    ) -> "JobExecution":
        if self.status != "started":
            raise Conflict(f"the execution has ended as {self.status}: it cannot end as {status}")
        return msgspec.structs.replace(self, status=status, finished_at=now, output=output)


class ExecutionLog(Model, frozen=True, kw_only=True):
    """A row of `execution_logs`."""

    id: Id
    execution_id: Id
    level: LogLevel
    message: str
    metadata: dict[str, Any]
    logged_at: Time


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a handler's log on its way between worker, table and reader: JSON is undecoded.

    Lines of an execution are numbered from 1 by the worker; a number that is missing was dropped.
    """

    execution_id: bytes
    number: int
    job_id: bytes
    project_id: bytes
    level: LogLevel
    message: str
    metadata: bytes = b"{}"
    logged_us: int

    @property
    def id(self) -> bytes:
        return log_id(self.execution_id, self.number)

    @property
    def weight(self) -> int:
        """What it takes in memory, about."""
        return limits.LOG_LINE_BYTES + len(self.message) + len(self.metadata)


def log_id(execution_id: bytes, number: int) -> bytes:
    """The id of a line: UUIDv7 of the execution's start, with the number where ids count.

    So a line that is written twice has one id, ids of one job are in the order of its lines, and
    a line stands in the partition of its execution.
    """
    low = int.from_bytes(execution_id[8:])
    return execution_id[:8] + (_VARIANT | number << _TAIL_BITS | low & _TAIL).to_bytes(8)


def log_number(line_id: bytes) -> int:
    """The number of the line in its execution."""
    return (int.from_bytes(line_id[8:]) & ~_VARIANT) >> _TAIL_BITS


_VARIANT = 1 << 63
_TAIL_BITS = 42
_TAIL = (1 << _TAIL_BITS) - 1
