"""Errors, sorted by who meets them.

Raised by handlers to say what should happen to their job:

| error | the job |
|---|---|
| `Retry` | failed this time, and is tried again when the handler says |
| `RetryableError` | failed this time, and is tried again as its retry policy says |
| any other exception | the same, unless the policy names its type as non-retryable |
| `Fail`, `FatalError` | has failed for good |
| `Snooze` | is put off: it comes again later, and this attempt does not count |
| `Cancel` | is cancelled |

Met by callers of a client: `ApiError` and its kinds (the server refused), `ConnectionFailed`
(the server did not answer), `JobFailed` and `JobCancelled` (the job ended without a result).
Met by who runs a worker: `WorkerRefused`.
"""

# ruff: noqa: N818 - the names say what happened; every one is an error by its base class.

import asyncio
from datetime import datetime
from typing import Any


class TaskForgeError(Exception):
    """The base of all errors of the SDK."""


class RetryableError(TaskForgeError):
    """Raised by a handler: this attempt failed, a later one may succeed."""


class FatalError(TaskForgeError):
    """Raised by a handler: no attempt can succeed, do not try again."""


class SoftTimeout(asyncio.CancelledError):
    """Raised in an async handler that runs for longer than its soft time limit, where it waits:
    clean up, or save what is done, before the hard one. Uncaught, the attempt has failed. As a kind
    of cancellation it passes `except Exception`, and task groups end for it as they should."""


class _Later:
    """A time that a handler names: one to come, or a pause from now."""

    def __init__(self, delay_s: float | None, at: datetime | None) -> None:
        if delay_s is not None and at is not None:
            raise TypeError("delay_s and at exclude each other")
        if delay_s is not None and not delay_s >= 0:
            raise ValueError(f"delay_s is 0 or more, not {delay_s}")
        if at is not None and at.tzinfo is None:
            raise TypeError("at needs a time zone")
        self.delay_s = delay_s
        self.at = at


class Retry(RetryableError, _Later):
    """Raised by a handler: this attempt failed, try again after `delay_s` or at a time, not when
    the retry policy says. Attempts are counted as ever. Without either: as the policy says.
    The server waits for seven days at most."""

    def __init__(
        self, message: str = "", *, delay_s: float | None = None, at: datetime | None = None
    ) -> None:
        RetryableError.__init__(self, message)
        _Later.__init__(self, delay_s, at)


class Fail(FatalError):
    """Raised by a handler: no attempt can succeed, the job has failed for good."""


class Snooze(TaskForgeError, _Later):
    """Raised by a handler: call me again after `delay_s` or at a time, as if I had not been called.
    This attempt counts neither as a failure nor as a crash; for a job that polls, say."""

    def __init__(self, delay_s: float | None = None, *, at: datetime | None = None) -> None:
        if delay_s is None and at is None:
            raise TypeError("say until when: delay_s or at")
        TaskForgeError.__init__(self, "put off")
        _Later.__init__(self, delay_s, at)


class Cancel(TaskForgeError):
    """Raised by a handler: there is nothing to do any more, the job is cancelled."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class WorkerRefused(TaskForgeError):
    """The server does not take this worker (key, queues, protocol); trying again is in vain."""


class ConnectionFailed(TaskForgeError):
    """No answer from the server within the retries; whether it did the work is not known."""


class ApiError(TaskForgeError):
    """The server's refusal: an RFC 9457 problem document.

    `code` is stable and meant for programs, `field` names the input at fault if there is one,
    `retry_after_s` is there when the server says when to come back. `correlation_id` names the
    request in the server's log.
    """

    correlation_id: str = ""
    job_id: str | None = None
    """The job that holds the unique key, where that is why."""

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int,
        field: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
        self.field = field
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        where = f" (field {self.field})" if self.field else ""
        return f"{self.message}{where} [{self.code}]"


class InvalidInput(ApiError):
    """400, 413, 415, 422: the request itself is wrong; `field` says where."""


class Unauthenticated(ApiError):
    """401: no key, or one that is not valid."""


class PermissionDenied(ApiError):
    """403: the key does not allow this."""


class NotFound(ApiError):
    """404: there is no such thing in the project of the key."""


class Conflict(ApiError):
    """409: the state of the thing does not allow this, or an idempotency key was reused."""


class Overloaded(ApiError):
    """429, 503: come back after `retry_after_s`. The clients do so by themselves first."""


class ServerError(ApiError):
    """5xx: the server's fault."""


class SubmitError(ApiError):
    """Why one job of a batch was not accepted; `index` is its place in the batch."""

    def __init__(
        self, message: str, *, index: int, code: str, status: int, field: str | None = None
    ) -> None:
        super().__init__(message, code=code, status=status, field=field)
        self.index = index


class JobFailed(TaskForgeError):
    """The job has failed for good: `reason` says why no further attempt is made."""

    def __init__(self, job_id: str, reason: str | None, error: Any) -> None:
        self.job_id = job_id
        self.reason = reason
        self.error = error
        kind = message = ""
        if isinstance(error, dict):
            kind, message = str(error.get("type", "")), str(error.get("message", ""))
        super().__init__(f"job {job_id} failed ({reason}): {kind}: {message}".rstrip(": "))


class JobCancelled(TaskForgeError):
    """The job was cancelled."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(f"job {job_id} was cancelled")


_BY_STATUS: dict[int, type[ApiError]] = {
    400: InvalidInput,
    401: Unauthenticated,
    403: PermissionDenied,
    404: NotFound,
    409: Conflict,
    413: InvalidInput,
    415: InvalidInput,
    422: InvalidInput,
    429: Overloaded,
    503: Overloaded,
}


def error_class(status: int) -> type[ApiError]:
    """The kind of error that stands for an HTTP status."""
    kind = _BY_STATUS.get(status)
    if kind is None:
        kind = ServerError if status >= 500 else InvalidInput
    return kind
