"""What can go wrong at the REST interface: RFC 9457 problem documents with stable codes.

One catalogue, used where errors become answers, in the OpenAPI document and in the reference:

    code ──► status, title, what it means and what to do

An error of ours brings its own code. A code that the catalogue lacks falls back to the status of
its class, so that a new error of the engine is never a 500 by mistake.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import msgspec

from taskforge_server.engine.errors import (
    Conflict,
    EnvironmentalError,
    InvalidInput,
    NotFound,
    Overloaded,
    PermissionDenied,
    RateLimited,
    TaskForgeError,
    TooLarge,
    Unauthenticated,
    UniqueConflict,
)
from taskforge_server.ext.ids import uuid_text

TYPE_PREFIX = "https://taskforge.dev/problems/"
CONTENT_TYPE = "application/problem+json"


class Problem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A refusal or a failure. Programs compare `code`; people read `detail`."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    field: Annotated[
        str | None, msgspec.Meta(description="the input at fault", examples=["jobs[3].priority"])
    ] = None
    job_id: Annotated[str | None, msgspec.Meta(description="the job that holds the unique key")] = (
        None
    )


class ItemProblem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Why one item of a batch was refused; the others were not."""

    status: int
    detail: str
    code: str
    field: str | None = None
    job_id: str | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem."""

    code: str
    status: int
    title: str
    about: str


KINDS = {
    kind.code: kind
    for kind in (
        Kind("malformed_body", 400, "Malformed body", "The body is not valid JSON or MessagePack."),
        Kind("malformed_request", 400, "Malformed request", "The request is not valid HTTP."),
        Kind("repeated_field", 400, "Repeated field", "An object names a field twice."),
        Kind("unauthenticated", 401, "Not authenticated", "Give a valid API key or access token."),
        Kind("quota_exceeded", 402, "Quota used up", "The month's jobs are used up."),
        Kind("subscription_expired", 402, "Subscription ended", "No new jobs are taken."),
        Kind("login_failed", 401, "Login failed", "The address or the password is wrong."),
        Kind("permission_denied", 403, "Not allowed", "The credential lacks the permission."),
        Kind("signup_closed", 403, "Sign-up closed", "Here an operator makes organisations."),
        Kind("not_found", 404, "Not found", "There is nothing at this path."),
        Kind("queue_not_found", 404, "No such queue", "This project has no queue like that."),
        Kind("job_not_found", 404, "No such job", "This project has no job with this id."),
        Kind("worker_not_found", 404, "No such worker", "A worker that hears this connects anew."),
        Kind("organization_not_found", 404, "No such organization", "It is there no more."),
        Kind("project_not_found", 404, "No such project", "The organisation has no such project."),
        Kind("api_key_not_found", 404, "No such API key", "The project has no such key."),
        Kind("user_not_found", 404, "No such user", "The organisation has no such person."),
        Kind("invitation_not_found", 404, "No such invitation", "It is used, expired or revoked."),
        Kind("assignment_not_found", 404, "Not assigned", "The worker is not of this queue's own."),
        Kind("schedule_not_found", 404, "No such schedule", "The project has none like that."),
        Kind("method_not_allowed", 405, "Method not allowed", "See the `Allow` header."),
        Kind("not_acceptable", 406, "Not acceptable", "Answers are JSON or MessagePack."),
        Kind("request_timeout", 408, "Request timeout", "The body did not come in time."),
        Kind("conflict", 409, "Conflict", "The state of the thing does not allow this."),
        Kind("queue_name_taken", 409, "Queue exists", "The project has a queue of this name."),
        Kind("too_many_queues", 409, "Too many queues", "The project has as many as it may."),
        Kind("queue_not_empty", 409, "Queue not empty", "Its jobs must end or be cancelled first."),
        Kind("queue_has_schedules", 409, "Queue has schedules", "Delete them first."),
        Kind("schedule_in_other_queue", 409, "Schedule elsewhere", "It stays in its queue."),
        Kind("schedule_name_taken", 409, "Schedule exists", "The project has one of this name."),
        Kind("too_many_schedules", 409, "Too many schedules", "The project has all it may."),
        Kind("queue_deleted", 409, "Queue deleted", "Its jobs can only be looked at."),
        Kind("too_many_projects", 409, "Too many projects", "The organisation has all it may."),
        Kind("project_not_empty", 409, "Project not empty", "`detail` says what it still has."),
        Kind("too_many_api_keys", 409, "Too many API keys", "Revoke some first."),
        Kind("api_key_revoked", 409, "API key revoked", "It stays so: make another."),
        Kind("not_encrypted", 409, "Not encrypted", "Encrypt the project first."),
        Kind("too_many_keys", 409, "Too many keys", "The project has as many as it may."),
        Kind("worker_connected", 409, "Connected", "Stop the worker first."),
        Kind("worker_assigned", 409, "Assigned", "Take its assignments back first."),
        Kind("too_many_assignments", 409, "Too many", "The queue has as many as it may."),
        Kind("job_not_cancellable", 409, "Not cancellable", "It has ended."),
        Kind("job_not_changeable", 409, "Not changeable", "Only a job that waits can be."),
        Kind("unique_conflict", 409, "Not unique", "`job_id` holds the unique key."),
        Kind("job_not_retryable", 409, "Not retryable", "Only failed or cancelled jobs can be."),
        Kind("job_not_waiting", 409, "Not waiting", "Only a job that waits can be given parents."),
        Kind("email_taken", 409, "Address taken", "There is an account with this address."),
        Kind("last_admin", 409, "Last admin", "Make somebody else an admin first."),
        Kind("too_many_users", 409, "Too many people", "The organisation has as many as it may."),
        Kind("too_many_invitations", 409, "Too many invitations", "Revoke some, or wait."),
        Kind(
            "idempotency_key_reused",
            409,
            "Idempotency-Key reused",
            "The key came with another request before.",
        ),
        Kind("too_large", 413, "Too large", "More bytes, items or levels than allowed."),
        Kind(
            "unsupported_media_type",
            415,
            "Unsupported media type",
            "Send uncompressed JSON or MessagePack, and name it in `Content-Type`.",
        ),
        Kind("invalid_input", 422, "Invalid input", "`field` says which input, `detail` why."),
        Kind("dependency_cycle", 422, "A cycle", "`detail` names jobs that wait for each other."),
        Kind("upgrade_required", 426, "Upgrade required", "This path wants a WebSocket."),
        Kind("rate_limited", 429, "Too many requests", "Come back after `Retry-After` seconds."),
        Kind("too_many_attempts", 429, "Too many attempts", "Try again after `Retry-After`."),
        Kind("overloaded", 429, "Overloaded", "Come back after `Retry-After` seconds."),
        Kind("share_used_up", 429, "Share used up", "`detail` says which bound, and who has what."),
        Kind("internal", 500, "Internal error", "Our fault; the server's log says why."),
        Kind("unavailable", 503, "Unavailable", "Come back after `Retry-After` seconds."),
        Kind(
            "outcome_unknown",
            504,
            "Outcome unknown",
            "It may have been done or not: repeat it with the same `Idempotency-Key`.",
        ),
    )
}

_FALLBACKS: tuple[tuple[type[TaskForgeError], str], ...] = (
    (NotFound, "not_found"),
    (Conflict, "conflict"),
    (TooLarge, "too_large"),
    (Unauthenticated, "unauthenticated"),
    (PermissionDenied, "permission_denied"),
    (InvalidInput, "invalid_input"),
    (Overloaded, "overloaded"),
    (EnvironmentalError, "unavailable"),
)

_encode = msgspec.json.Encoder().encode


def kind_of(error: TaskForgeError) -> Kind:
    """The kind that an error belongs to."""
    known = KINDS.get(error.code)
    if known is not None:
        return known
    for cls, code in _FALLBACKS:
        if isinstance(error, cls):
            return KINDS[code]
    return KINDS["internal"]


def problem_of(error: TaskForgeError) -> Problem:
    """The document that says what the error says."""
    kind = kind_of(error)
    code = kind.code if kind.status == 500 else error.code
    return Problem(
        type=TYPE_PREFIX + code,
        title=kind.title,
        status=kind.status,
        detail=error.message,
        code=code,
        field=error.field,
        job_id=_job_id(error),
    )


def item_problem_of(error: TaskForgeError, place: int) -> ItemProblem:
    """The same for one item of a batch: its field is named from the body on."""
    field = f"jobs[{place}]" if error.field is None else f"jobs[{place}].{error.field}"
    return ItemProblem(
        status=kind_of(error).status,
        detail=error.message,
        code=error.code,
        field=field,
        job_id=_job_id(error),
    )


def _job_id(error: TaskForgeError) -> str | None:
    if isinstance(error, UniqueConflict) and any(error.job_id):
        return uuid_text(error.job_id)
    return None


def encoded(problem: Problem) -> bytes:
    """As the body of an answer."""
    return _encode(problem)


def rate_headers(rate: int, remaining: int, reset_s: int) -> dict[str, str]:
    """How many requests a second, how many of them at once from here on, and after how many seconds
    that is as much as it can be."""
    return {
        "RateLimit-Limit": str(rate),
        "RateLimit-Remaining": str(remaining),
        "RateLimit-Reset": str(reset_s),
    }


def headers_of(error: TaskForgeError) -> dict[str, str]:
    """What goes with the document."""
    if isinstance(error, RateLimited):
        return rate_headers(error.rate, 0, error.reset_s) | {
            "Retry-After": str(max(1, math.ceil(error.retry_after_s)))
        }
    if isinstance(error, EnvironmentalError):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
    if isinstance(error, Unauthenticated):
        return {"WWW-Authenticate": "Bearer"}
    return {}
