"""Dead letters over HTTP: structs, handlers, routes."""

from typing import Annotated

from msgspec import Meta, field

from taskforge_server.api.rest import views
from taskforge_server.api.rest.bodies import decode
from taskforge_server.api.rest.handlers import REPLAY_HEADERS, Services, keyed
from taskforge_server.api.rest.routes import Call, Reply, Route, answer
from taskforge_server.api.rest.schemas import (
    Answer,
    Cursor,
    JobDetails,
    Request,
    UuidText,
)
from taskforge_server.api.service.dead_letters import Done, Piece
from taskforge_server.api.service.submission import Tags
from taskforge_server.engine import limits
from taskforge_server.engine.model import permissions
from taskforge_server.engine.model.base import Time
from taskforge_server.engine.model.job import FailedReason
from taskforge_server.engine.store.dead_letters import DeadLetterFilter
from taskforge_server.ext.ids import uuid_text

Reasons = Annotated[list[FailedReason], Meta(min_length=1, max_length=20)]
JobTypeText = Annotated[str, Meta(max_length=limits.JOB_TYPE_BYTES_MAX)]
FailedAfter = Annotated[Time, Meta(description="failed at this time or later")]
FailedBefore = Annotated[Time, Meta(description="failed before this time")]


class DeadLetterSelection(Request):
    """Which dead letters; without a field: all."""

    reasons: Reasons | None = None
    job_type: JobTypeText | None = None
    tags: Annotated[Tags, Meta(description="all of them")] | None = None
    failed_after: FailedAfter | None = None
    failed_before: FailedBefore | None = None

    def wanted(self) -> DeadLetterFilter:
        return DeadLetterFilter(
            reasons=None if self.reasons is None else tuple(self.reasons),
            job_type=self.job_type,
            tags=None if self.tags is None else tuple(self.tags),
            failed_from=self.failed_after,
            failed_before=self.failed_before,
        )


class DeadLettersQuery(DeadLetterSelection):
    """Which dead letters, and which part of them."""

    limit: Annotated[int, Meta(ge=1, le=limits.PAGE_ROWS_MAX)] = limits.PAGE_ROWS_DEFAULT
    cursor: Cursor | None = None
    attempts: Annotated[
        int,
        Meta(
            ge=0,
            le=limits.DEAD_LETTER_ATTEMPTS_MAX,
            description="so many of the newest attempts of each; a look at the job shows all",
        ),
    ] = limits.DEAD_LETTER_ATTEMPTS_DEFAULT


class DeadLetterPage(Answer):
    """Failed jobs with their newest attempts, the newest failure first. A page may have few entries
    or none and still have a cursor: each request looks at a bounded number."""

    items: list[JobDetails]
    next_cursor: str | None


class DeadLettersPurge(Request):
    """Which dead letters to delete. A request deletes a bounded number, and says where to go on."""

    filter: DeadLetterSelection = field(default_factory=DeadLetterSelection)
    limit: Annotated[int, Meta(ge=1, le=limits.DEAD_LETTERS_ACT_MAX)] = limits.DEAD_LETTERS_ACT_MAX
    cursor: Cursor | None = None
    dry_run: Annotated[bool, Meta(description="only count, and show some")] = False


class DeadLettersRequeue(DeadLettersPurge):
    """Which dead letters shall run again. A request sees to a bounded number, and says where to go
    on."""

    per_s: (
        Annotated[
            float,
            Meta(
                ge=limits.REQUEUE_PER_S_MIN,
                le=limits.REQUEUE_PER_S_MAX,
                description="so many of them start in a second at most; null: at once",
            ),
        ]
        | None
    ) = None


class DeadLettersDone(Answer):
    """What became of the dead letters that a request saw to."""

    count: Annotated[int, Meta(description="put back or deleted; in a dry run: would be")]
    job_ids: Annotated[list[UuidText], Meta(description="of these; in a dry run: of some")]
    dry_run: bool
    more: Annotated[bool, Meta(description="there may be more")]
    next_cursor: Annotated[str | None, Meta(description="give it to go on; null: that was all")]


async def list_dead_letters(services: Services, call: Call) -> Reply:
    query: DeadLettersQuery = call.query
    queue, found, cursor = await services.dead_letters.page(
        call.principal.project_id,
        call.params["queue"],
        Piece(query.wanted(), query.limit, query.cursor),
        query.attempts,
    )
    items = [views.job_details(job, runs, queue.name, call.coding) for job, runs in found]
    return answer(call, DeadLetterPage(items=items, next_cursor=cursor))


async def requeue_dead_letters(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, DeadLettersRequeue)
    if given.dry_run:
        return await _counted(services, call, given)
    done = await services.dead_letters.requeue(
        call.principal.project_id,
        call.params["queue"],
        _piece(given),
        given.per_s,
        keyed(call),
        call.actor,
    )
    reply = answer(call, _told(done))
    if done.repeated:
        reply.headers |= REPLAY_HEADERS
    return reply


async def purge_dead_letters(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, DeadLettersPurge)
    if given.dry_run:
        return await _counted(services, call, given)
    done = await services.dead_letters.purge(
        call.principal.project_id, call.params["queue"], _piece(given), call.actor
    )
    return answer(call, _told(done))


async def _counted(services: Services, call: Call, given: DeadLettersPurge) -> Reply:
    done = await services.dead_letters.count(
        call.principal.project_id, call.params["queue"], _piece(given)
    )
    return answer(call, _told(done, dry_run=True))


def _piece(given: DeadLettersPurge) -> Piece:
    return Piece(given.filter.wanted(), given.limit, given.cursor)


def _told(done: Done, *, dry_run: bool = False) -> DeadLettersDone:
    return DeadLettersDone(
        count=done.count,
        job_ids=[uuid_text(job_id) for job_id in done.job_ids],
        dry_run=dry_run,
        more=done.more,
        next_cursor=done.cursor,
    )


_PATH = "/v1/queues/{queue}/dead-letters"

ROUTES = (
    Route(
        method="GET",
        path=_PATH,
        operation_id="listDeadLetters",
        summary="List jobs of a queue that have failed for good, the newest failure first",
        tag="dead letters",
        permission=permissions.JOBS_READ,
        handler=list_dead_letters,
        query=DeadLettersQuery,
        reply=DeadLetterPage,
        problems=("queue_not_found",),
    ),
    Route(
        method="POST",
        path=f"{_PATH}/requeue",
        operation_id="requeueDeadLetters",
        summary="Let dead letters run again, at once or at a rate",
        tag="dead letters",
        permission=permissions.JOBS_CANCEL,
        handler=requeue_dead_letters,
        body=DeadLettersRequeue,
        reply=DeadLettersDone,
        idempotent=True,
        problems=("queue_not_found", "idempotency_key_reused", "overloaded", "outcome_unknown"),
        example={"filter": {"reasons": ["attempts_exhausted"]}, "per_s": 10.0, "dry_run": True},
    ),
    Route(
        method="POST",
        path=f"{_PATH}/purge",
        operation_id="purgeDeadLetters",
        summary="Delete dead letters with their attempts and logs",
        tag="dead letters",
        permission=permissions.QUEUES_MANAGE,
        handler=purge_dead_letters,
        body=DeadLettersPurge,
        reply=DeadLettersDone,
        problems=("queue_not_found",),
        example={"filter": {"job_type": "send_email"}, "dry_run": True},
    ),
)
