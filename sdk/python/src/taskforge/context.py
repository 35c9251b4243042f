"""What a handler may know about the job it runs, and whether it should stop.

A handler gets a `Context` by naming a parameter of that type. A context is made only for such
handlers. `lease` grows with every attempt of a job: a handler that passes it along with its own
writes can refuse those of an older attempt (a fencing token).
"""

import logging
from collections.abc import MutableMapping
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Literal
from uuid import UUID

StopReason = Literal["timeout", "lease_lost", "shutdown"]

logger = logging.getLogger("taskforge.job")


class JobLogger(logging.LoggerAdapter[logging.Logger]):
    """Prefixes each message with the job's id and attempt."""

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the prefix, and the fields for structured handlers."""
        extra = self.extra or {}
        kwargs["extra"] = {**extra, **(kwargs.get("extra") or {})}
        return f"[{extra.get('job_id')} #{extra.get('attempt')}] {msg}", kwargs


class Context:
    """One attempt of one job. `deadline_monotonic` is 0 when there is no time limit."""

    __slots__ = (
        "_deadline_monotonic",
        "_logger",
        "_stop_reason",
        "_token",
        "attempt",
        "job_type",
        "payload",
        "queue",
    )

    def __init__(
        self,
        token: bytes,
        queue: str,
        job_type: str,
        attempt: int,
        payload: bytes,
        deadline_monotonic: float = 0.0,
    ) -> None:
        self._token = token
        self.queue = queue
        self.job_type = job_type
        self.attempt = attempt
        self.payload = payload
        """The payload as it was submitted: JSON text."""
        self._deadline_monotonic = deadline_monotonic
        self._stop_reason: StopReason | None = None
        self._logger: JobLogger | None = None

    @property
    def job_id(self) -> str:
        """The job's id, a UUID in text form."""
        return str(UUID(bytes=self._token[:16]))

    @property
    def lease(self) -> int:
        """The fencing token: greater than that of any earlier attempt of this job."""
        return int.from_bytes(self._token[16:], "big")

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the deadline, negative after it; None without a time limit."""
        if not self._deadline_monotonic:
            return None
        return self._deadline_monotonic - monotonic()

    @property
    def deadline(self) -> datetime | None:
        """When this attempt is stopped, by this machine's clock; None without a time limit."""
        remaining_s = self.remaining_s
        if remaining_s is None:
            return None
        return datetime.fromtimestamp(datetime.now(UTC).timestamp() + remaining_s, UTC)

    @property
    def cancelled(self) -> bool:
        """The handler should stop. Async handlers are cancelled besides; sync ones look here."""
        return self._stop_reason is not None

    @property
    def lost(self) -> bool:
        """The lease is gone: another worker may be running this job, and no result is accepted."""
        return self._stop_reason == "lease_lost"

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the handler should stop: timeout, lease_lost or shutdown."""
        return self._stop_reason

    @property
    def logger(self) -> JobLogger:
        """A logger that names the job in every message."""
        if self._logger is None:
            extra = {"job_id": self.job_id, "attempt": self.attempt, "queue": self.queue}
            self._logger = JobLogger(logger, extra)
        return self._logger

    def _stop(self, reason: StopReason) -> None:
        """Tell the handler to stop; the first reason stays."""
        if self._stop_reason is None:
            self._stop_reason = reason

    def __repr__(self) -> str:
        return f"Context(job_id={self.job_id}, job_type={self.job_type}, attempt={self.attempt})"
