"""What each operation does: from a checked call to the use case and back."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from taskforge_server.api.rest import views
from taskforge_server.api.rest.bodies import decode, take_batch, take_job
from taskforge_server.api.rest.media import Coding
from taskforge_server.api.rest.problems import item_problem_of
from taskforge_server.api.rest.routes import Call, Reply, answer
from taskforge_server.api.rest.schemas import (
    Health,
    HeartbeatReply,
    ItemResult,
    JobBatchReply,
    JobBatchReplyPacked,
    JobPage,
    JobsQuery,
    JobSubmitted,
    MetHow,
    PageQuery,
    QueueCreate,
    QueuePage,
    QueueSettingsUpdate,
    QueueUpdate,
    QueueView,
    Readiness,
    WaitQuery,
    encode_json,
    wait_s,
)
from taskforge_server.api.service.allowances import Allowances
from taskforge_server.api.service.audit import AuditService
from taskforge_server.api.service.catalog import QueueCatalog, queue_key
from taskforge_server.api.service.control import ControlService
from taskforge_server.api.service.dead_letters import DeadLetterService
from taskforge_server.api.service.encryption import EncryptionService
from taskforge_server.api.service.events import EventService
from taskforge_server.api.service.graphs import GraphService
from taskforge_server.api.service.identity import Identity
from taskforge_server.api.service.joblogs import JobLogService
from taskforge_server.api.service.jobs import JobService
from taskforge_server.api.service.people import PeopleService
from taskforge_server.api.service.ports import Engine
from taskforge_server.api.service.queues import NewQueue, QueueService
from taskforge_server.api.service.schedules import ScheduleService
from taskforge_server.api.service.submission import Checker
from taskforge_server.api.service.tenants import TenantService
from taskforge_server.api.service.waits import WaitService
from taskforge_server.api.service.workers import WorkerService
from taskforge_server.engine import limits
from taskforge_server.engine.errors import InvalidInput, NotFound, TooLarge, UniqueConflict
from taskforge_server.engine.model.job import JobStatus
from taskforge_server.engine.model.queue import JobQueue, QueueRef, QueueSettings
from taskforge_server.engine.model.subscription import Plan
from taskforge_server.engine.observe.metrics import ProjectCollector
from taskforge_server.engine.shard.keys import (
    CALLERS_KEY,
    INBOX_PREFIX,
    OWN_PREFIX,
    KeyedRequest,
)
from taskforge_server.engine.shard.unique import Outcome
from taskforge_server.engine.store.job_queries import JobFilter
from taskforge_server.ext.ids import uuid_bytes, uuid_text

T = TypeVar("T")
Parents = Mapping[bytes, JobStatus]

_ID_BYTES = 16
_NO_ID = bytes(_ID_BYTES)
_CALLERS_KEY = re.compile(CALLERS_KEY)
Met = Mapping[int, Outcome]
"""What became of jobs that met another one, by their places among those that passed."""

REPLAY_HEADERS = {"Idempotent-Replay": "true"}


@dataclass(frozen=True, slots=True)
class Services:
    """What the handlers work with."""

    engine: Engine
    queues: QueueService
    jobs: JobService
    tenants: TenantService
    workers: WorkerService
    allowances: Allowances
    catalog: QueueCatalog
    dead_letters: DeadLetterService
    encryption: EncryptionService | None
    audit: AuditService
    control: ControlService
    logs: JobLogService
    events: EventService
    waits: WaitService
    graphs: GraphService | None
    registry: CollectorRegistry
    ready: Callable[[], list[str]]
    """What keeps the node from taking requests; nothing when it does."""
    openapi: bytes
    schedules: ScheduleService | None = None
    identity: Identity | None = None
    people: PeopleService | None = None
    payload_bytes_max: int = limits.PAYLOAD_BYTES_MAX_DEFAULT


# Queues


async def create_queue(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, QueueCreate)
    wanted = NewQueue(given.name, given.priority, given.settings, keyed(call))
    row, repeated = await services.queues.create(call.principal.project_id, wanted, call.actor)
    reply = answer(call, queue_view(services, row))
    if repeated:
        reply.headers |= REPLAY_HEADERS
    return reply


async def list_queues(services: Services, call: Call) -> Reply:
    query: PageQuery = call.query
    rows, cursor = await services.queues.page(call.principal.project_id, query.cursor, query.limit)
    items = [queue_view(services, row) for row in rows]
    return answer(call, QueuePage(items=items, next_cursor=cursor))


async def get_queue(services: Services, call: Call) -> Reply:
    row = await services.queues.get(call.principal.project_id, call.params["queue"])
    return answer(call, queue_view(services, row))


async def update_queue(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, QueueUpdate)
    wanted = given.settings
    row = await services.queues.update(
        call.principal.project_id,
        call.params["queue"],
        None if given.priority is UNSET else given.priority,
        None if wanted is UNSET else lambda settings: _changed_settings(settings, wanted),
        call.actor,
    )
    return answer(call, queue_view(services, row))


async def delete_queue(services: Services, call: Call) -> Reply:
    await services.queues.delete(call.principal.project_id, call.params["queue"], call.actor)
    return Reply(b"", 204)


def _changed_settings(settings: QueueSettings, update: QueueSettingsUpdate) -> QueueSettings:
    changes = given_fields(update)
    if update.retry_policy is not UNSET:
        changes["retry_policy"] = update.retry_policy.over(settings.retry_policy)
    if update.dead_letters is not UNSET:
        changes["dead_letters"] = msgspec.structs.replace(
            settings.dead_letters, **given_fields(update.dead_letters)
        )
    return msgspec.structs.replace(settings, **changes)


def given_fields(update: msgspec.Struct) -> dict[str, Any]:
    """The fields of an update that the caller gave."""
    fields = ((name, getattr(update, name)) for name in update.__struct_fields__)
    return {name: value for name, value in fields if value is not UNSET}


def queue_view(services: Services, row: JobQueue) -> QueueView:
    return views.queue_view(row, services.queues.counts(row))


# Submits


def checker_of(
    services: Services, plan: Plan, key: str | None, parents: Parents | None = None
) -> Checker:
    bytes_max = payload_bytes_max(services, plan)
    return Checker(services.engine.now_us(), bytes_max, key, parents, unique=True)


async def taken(
    services: Services,
    project_id: bytes,
    make: Callable[[Parents | None], Checker],
    take: Callable[[Checker], T],
) -> tuple[Checker, T]:
    """The items of a submit, checked; where they name parents, once more with what these are."""
    checker = make(None)
    found = take(checker)
    if checker.parents:
        if services.graphs is None:
            raise InvalidInput("here no job waits for another", "parents")
        if len(checker.parents) > limits.GRAPH_EDGES_MAX:
            message = (
                f"{len(checker.parents)} parents: at most {limits.GRAPH_EDGES_MAX} in a request"
            )
            raise TooLarge(message, "parents")
        checker = make(await services.graphs.known(project_id, checker.parents))
        found = take(checker)
    return checker, found


def payload_bytes_max(services: Services, plan: Plan) -> int:
    """The smaller bound of the server's and the plan's."""
    return plan.limits.payload_bytes_max(services.payload_bytes_max)


async def submit_job(services: Services, call: Call) -> Reply:
    project_id = call.principal.project_id
    queue = await services.catalog.find(project_id, queue_key(call.params["queue"]))
    plan = await services.allowances.submitter(call.principal)
    checker, _ = await taken(
        services,
        project_id,
        lambda known: checker_of(services, plan, call.idempotency_key, known),
        lambda checker: take_job(call.body, call.body_coding, checker),
    )
    ids, replayed, met = await submit_checked(services, queue, checker, keyed(call))
    submitted = submitted_view(ids, checker, met)
    status = 200 if met else None
    query: WaitQuery = call.query
    if seconds := wait_s(query.wait):
        job, executions = await services.jobs.wait(project_id, ids, seconds)
        reply = answer(call, views.job_details(job, executions, queue.name, call.coding), status)
    else:
        reply = answer(call, submitted, status)
    if replayed:
        reply.headers |= REPLAY_HEADERS
    return reply


async def submit_checked(
    services: Services, queue: QueueRef, checker: Checker, key: KeyedRequest | None
) -> tuple[bytes, bool, Met]:
    """The ids, whether it was a repetition, and what became of those that met a unique key."""
    if checker.unique:
        return await services.jobs.submit_unique(queue, checker, key)
    ids, replayed = await services.jobs.submit(queue, checker.batch, key)
    return ids, replayed, {}


def submitted_view(ids: bytes, checker: Checker, met: Met) -> JobSubmitted:
    """The answer to a submit of one job; UniqueConflict if it was rejected."""
    outcome = met.get(0)
    if outcome is None:
        return JobSubmitted(
            id=uuid_text(ids), status="scheduled" if checker.scheduled else "pending"
        )
    if outcome.became == "rejected":
        raise UniqueConflict(outcome.job_id)
    assert outcome.status is not None
    return JobSubmitted(id=uuid_text(ids), status=outcome.status, unique=outcome.became)


async def submit_batch(services: Services, call: Call) -> Reply:
    project_id = call.principal.project_id
    queue = await services.catalog.find(project_id, queue_key(call.params["queue"]))
    plan = await services.allowances.submitter(call.principal)
    checker, count = await taken(
        services,
        project_id,
        lambda known: checker_of(services, plan, call.idempotency_key, known),
        lambda checker: take_batch(call.body, call.body_coding, checker),
    )
    ids, replayed, met = await submit_checked(services, queue, checker, keyed(call))
    if met:
        reply = _unique_results(call, count, ids, checker, met)
        reply.headers |= REPLAY_HEADERS if replayed else {}
        return reply
    encode = _results_json if call.coding is Coding.JSON else _results_msgpack
    reply = Reply(encode(count, ids, checker), call.route.status, call.coding.value)
    if replayed:
        reply.headers |= REPLAY_HEADERS
    return reply


def _unique_results(call: Call, count: int, ids: bytes, checker: Checker, met: Met) -> Reply:
    """What became of each item, where some met another job."""
    errors = {place: item_problem_of(error, place) for place, error in checker.refused.items()}
    results: list[ItemResult] = []
    packed: list[bytes] = []
    kept: dict[int, MetHow] = {}
    taken = 0
    for place in range(count):
        if place in errors:
            results.append(ItemResult(error=errors[place]))
            packed.append(_NO_ID)
            continue
        id, outcome = ids[taken * _ID_BYTES : (taken + 1) * _ID_BYTES], met.get(taken)
        how = None if outcome is None else outcome.became
        if outcome is not None and how == "rejected":
            errors[place] = item_problem_of(UniqueConflict(outcome.job_id), place)
            results.append(ItemResult(error=errors[place]))
        elif outcome is not None and how is not None and how != "rejected":
            kept[place] = how
            found = outcome.status or UNSET
            results.append(ItemResult(id=uuid_text(id), status=found, unique=how))
        else:
            results.append(
                ItemResult(
                    id=uuid_text(id),
                    status="scheduled" if taken in checker.scheduled else "pending",
                )
            )
        packed.append(id)
        taken += 1
    if call.coding is Coding.JSON:
        return answer(call, JobBatchReply(results=results))
    return answer(call, JobBatchReplyPacked(ids=b"".join(packed), errors=errors, unique=kept))


def keyed(call: Call) -> KeyedRequest | None:
    """The Idempotency-Key with what it was given for: method, path and body."""
    if call.idempotency_key is None:
        return None
    return KeyedRequest(call.idempotency_key, call.request_hash())


def _results_json(count: int, ids: bytes, checker: Checker) -> bytes:
    """As `JobBatchReply`; written by hand, since it is most of what a good batch costs here."""
    pending, scheduled = '","status":"pending"}', '","status":"scheduled"}'
    waiting = checker.scheduled
    parts = [
        '{"id":"' + uuid_text(ids[at : at + _ID_BYTES]) + pending
        for at in range(0, len(ids), _ID_BYTES)
    ]
    for place in waiting:
        parts[place] = parts[place].replace(pending, scheduled)
    if checker.refused:
        taken = iter(parts)
        parts = [
            _refused_json(checker, place) if place in checker.refused else next(taken)
            for place in range(count)
        ]
    return ('{"results":[' + ",".join(parts) + "]}").encode()


def _refused_json(checker: Checker, place: int) -> str:
    problem = encode_json(item_problem_of(checker.refused[place], place)).decode()
    return '{"error":' + problem + "}"


def _results_msgpack(count: int, ids: bytes, checker: Checker) -> bytes:
    refused = checker.refused
    if refused:
        taken = iter(ids[at : at + _ID_BYTES] for at in range(0, len(ids), _ID_BYTES))
        ids = b"".join(_NO_ID if place in refused else next(taken) for place in range(count))
    errors = {place: item_problem_of(error, place) for place, error in refused.items()}
    return msgspec.msgpack.encode(JobBatchReplyPacked(ids=ids, errors=errors))


def check_idempotency_key(text: str | None) -> str | None:
    """The key of a request, if it has one."""
    if text is not None and not _CALLERS_KEY.fullmatch(text):
        raise InvalidInput(
            f"1 to 255 visible ASCII characters, which do not begin with {INBOX_PREFIX} or "
            f"{OWN_PREFIX}: such keys are the server's own",
            "Idempotency-Key",
        )
    return text


# Jobs


async def list_jobs(services: Services, call: Call) -> Reply:
    query: JobsQuery = call.query
    project_id = call.principal.project_id
    wanted = JobFilter(
        statuses=None if query.status is None else (query.status,),
        job_type=query.job_type,
        created_from=query.created_after,
        created_before=query.created_before,
    )
    jobs, cursor = await services.jobs.page(
        project_id, query.queue, wanted, query.cursor, query.limit
    )
    names = {
        queue_id: await services.jobs.queue_name(project_id, queue_id)
        for queue_id in {job["queue_id"] for job in jobs}
    }
    items = [views.job_view(job, names[job["queue_id"]], call.coding) for job in jobs]
    return answer(call, JobPage(items=items, next_cursor=cursor))


async def get_job(services: Services, call: Call) -> Reply:
    query: WaitQuery = call.query
    found = await services.jobs.wait(call.principal.project_id, job_id_of(call), wait_s(query.wait))
    return await job_answer(services, call, found)


async def retry_job(services: Services, call: Call) -> Reply:
    found, repeated = await services.jobs.retry(
        call.principal.project_id, job_id_of(call), keyed(call)
    )
    reply = await job_answer(services, call, found)
    if repeated:
        reply.headers |= REPLAY_HEADERS
    return reply


async def job_answer(
    services: Services, call: Call, found: tuple[dict[str, Any], list[dict[str, Any]]]
) -> Reply:
    """A job with its executions as the answer."""
    job, executions = found
    queue = await services.jobs.queue_name(call.principal.project_id, job["queue_id"])
    return answer(call, views.job_details(job, executions, queue, call.coding))


def job_id_of(call: Call) -> bytes:
    try:
        return uuid_bytes(call.params["job_id"])
    except ValueError:
        raise NotFound("this is no job id", "job_id", code="job_not_found") from None


# Workers


async def heartbeat(services: Services, call: Call) -> Reply:
    try:
        worker_id = uuid_bytes(call.params["worker_id"])
    except ValueError:
        raise NotFound("this is no worker id", "worker_id", code="worker_not_found") from None
    if not services.engine.heartbeat(worker_id, call.principal.project_id):
        raise NotFound("no such worker here: connect anew", "worker_id", code="worker_not_found")
    return answer(call, HeartbeatReply())


# The process


METRICS_TYPE = CONTENT_TYPE_PLAIN_0_0_4


async def openapi(services: Services, call: Call) -> Reply:
    return Reply(services.openapi)


async def healthz(services: Services, call: Call) -> Reply:
    return answer(call, Health())


async def readyz(services: Services, call: Call) -> Reply:
    reasons = services.ready()
    value = Readiness(ready=not reasons, reasons=reasons)
    return answer(call, value, 503 if reasons else 200)


async def metrics(services: Services, call: Call) -> Reply:
    return Reply(generate_latest(services.registry), content_type=METRICS_TYPE)


async def project_metrics(services: Services, call: Call) -> Reply:
    lengths = await services.queues.lengths(call.principal.project_id)
    figures = CollectorRegistry()
    figures.register(ProjectCollector(lengths))
    return Reply(generate_latest(figures), content_type=METRICS_TYPE)
