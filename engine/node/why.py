"""Why a job is not running, from what this node knows at the moment.

    ended, running  ─► said so
    scheduled       ─► until when, or for whom it waits;   then what holds for its queue
    pending         ─► the queue, its limits, its workers, the jobs ahead; or nothing: it starts

Nothing here is kept for the purpose: the roster, the sessions and the shard table are asked. Jobs
ahead are counted in memory as long as they are few; beyond that the caller counts rows, which
follow a moment later, up to a bound (`ahead`).
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from taskforge_server.engine import limits
from taskforge_server.engine.actors.outcomes import GIVEN_BACK_TYPE, SNOOZED_TYPE
from taskforge_server.engine.actors.queue import QueueActor
from taskforge_server.engine.actors.worker import WorkerActor
from taskforge_server.engine.errors import Unavailable
from taskforge_server.engine.model.graph import unpacked
from taskforge_server.engine.model.job import FINAL
from taskforge_server.engine.model.joboptions import Told, read_told
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.engine.model.why import BLOCKERS, Explanation
from taskforge_server.engine.node.core import Core
from taskforge_server.engine.node.pager import may_be_away
from taskforge_server.ext.ids import shard_of, uuid_text
from taskforge_server.ext.table import NEVER_US

Job = dict[str, Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def ended(job: Job) -> Explanation:
    """Of a job that is over."""
    found = Explanation(job["status"])
    at = _time(job["finished_us"])
    if job["status"] == "succeeded":
        found.add("succeeded", "the job has succeeded", finished_at=at)
    elif job["status"] == "failed":
        reason = job["reason"]
        found.add("failed", f"the job has failed: {reason}", reason=reason, finished_at=at)
    else:
        reason = job["reason"]
        found.add("cancelled", "the job was cancelled", reason=reason, finished_at=at)
    return found


def explain(
    core: Core, ref: QueueRef, job: Job, executions: Sequence[Job], ahead: int | None
) -> Explanation:
    """The reasons of a job that is not over. `ahead` is what the caller counted in the tables."""
    if job["status"] in FINAL:
        return ended(job)
    now_us = core.clock.now_us()
    found = Explanation(job["status"])
    told = read_told(job["options"])
    if shard_of(job["id"]) not in core.shards:
        _elsewhere(found, job)
    elif job["status"] == "processing":
        _running(core, found, job, told)
    else:
        try:
            actor = core.queue(ref)
        except Unavailable:
            _elsewhere(found, job)
            return found
        if job["status"] == "scheduled":
            _scheduled(found, job, executions, told, now_us)
        _queue(core, found, actor)
        _workers(core, found, actor, job)
        if job["status"] == "pending":
            _pending(found, actor, job, now_us, ahead)
        _estimate(found, actor, job, now_us)
    return found


def _elsewhere(found: Explanation, job: Job) -> None:
    found.add(
        "elsewhere",
        "the shard of its queue is not on this node: another one has it, or takes it over",
        shard=shard_of(job["id"]),
    )


def _running(core: Core, found: Explanation, job: Job, told: Told) -> None:
    found.running = True
    worker_id = job["worker_id"]
    name = None if worker_id is None else uuid_text(worker_id)
    found.add(
        "running",
        f"attempt {job['attempt']} runs on worker {name}",
        attempt=job["attempt"],
        worker_id=name,
        started_at=_time(job["started_us"]),
        deadline_at=_time(job["deadline_us"]),
    )
    if told.more.cancel_us:
        asked_at = _time(told.more.cancel_us)
        found.add("cancel_asked", "its handler was asked to end", asked_at=asked_at)
    if not any(session.id == worker_id for session in core.sessions):
        message = "its worker is not connected: the job waits for it until its lease runs out"
        found.add("worker_away", message, worker_id=name)


def _scheduled(
    found: Explanation, job: Job, executions: Sequence[Job], told: Told, now_us: int
) -> None:
    due_us = job["due_us"]
    if not 0 < due_us < NEVER_US:
        waiting = told.named.get("waiting_on")
        parents = unpacked(told.more.parents.edges) if told.more.parents is not None else []
        if not (waiting or parents):
            found.add("held", "it is held until somebody gives it a time")
            return
        found.parents = [edge.parent_id for edge in parents if not edge.done]
        count = waiting or len(found.parents)
        found.add(
            "waiting_for_parents",
            f"it waits for {count} other jobs",
            waiting_on=count,
            parents=[uuid_text(each) for each in found.parents[: limits.WHY_NAMES_MAX]],
        )
        return
    at, left_s = _time(due_us), max(0.0, (due_us - now_us) / 1e6)
    if not job["attempt"]:
        found.add("scheduled", f"it is to start in {left_s:.0f} s", due_at=at)
    elif _failed_last(job, executions):
        found.add(
            "backoff",
            f"attempt {job['attempt']} failed; the next one begins in {left_s:.0f} s",
            due_at=at,
            attempt=job["attempt"],
            error=_error(job["output"]),
        )
    else:
        message = f"it was given back, and goes on in {left_s:.0f} s"
        found.add("put_off", message, due_at=at, attempt=job["attempt"])


def _failed_last(job: Job, executions: Sequence[Job]) -> bool:
    """The last attempt failed, and was not given back."""
    error = _error(executions[-1]["error"] if executions else job["output"])
    return error is None or error.get("type") not in (GIVEN_BACK_TYPE, SNOOZED_TYPE)


def _error(text: bytes | None) -> dict[str, str] | None:
    """What the last error says of itself, in short."""
    try:
        error = msgspec.json.decode(text or b"null")
    except msgspec.DecodeError:
        return None
    if not isinstance(error, dict):
        return None
    short = limits.WHY_ERROR_CHARS_MAX
    return {name: str(error[name])[:short] for name in ("type", "message") if name in error}


def _queue(core: Core, found: Explanation, actor: QueueActor) -> None:
    """What holds for all jobs of the queue."""
    if core.dispatcher.stopped:
        found.add("node_draining", "this node stops, and starts nothing any more")
    if actor.ref.paused:
        found.add("queue_paused", "the queue is paused", queue=actor.ref.name)
    ring = core.vault.ring(actor.ref.project_id)
    if ring is not None and not ring.whole:
        found.add("keys_missing", "the project's keys have not been read yet")


def _workers(core: Core, found: Explanation, actor: QueueActor, job: Job) -> None:
    """Whether anybody takes jobs of this type from the queue."""
    asking = [
        (worker, takes)
        for worker, takes in core.dispatcher.asking(actor)
        if isinstance(worker, WorkerActor) and not worker.ended
    ]
    takers = [worker for worker, takes in asking if takes]
    if not asking:
        message = f"no worker is connected that asks for queue {actor.ref.name}"
        found.add("no_worker", message, queue=actor.ref.name)
        return
    if not takers:
        _refused(core, found, actor, [worker for worker, _ in asking])
        return
    able = [worker for worker in takers if job["job_type"] in worker.types]
    if not able:
        types = sorted(set[str]().union(*(worker.types for worker in takers)))
        found.add(
            "no_worker_for_type",
            f"no worker of the queue runs {job['job_type']}",
            job_type=job["job_type"],
            workers=len(takers),
            connected_types=types[: limits.WHY_NAMES_MAX],
        )
    elif job["status"] == "pending" and not any(worker.free > 0 for worker in able):
        found.add(
            "no_credit",
            f"all {len(able)} workers of its type have as many jobs as they asked for",
            workers=len(able),
            outstanding=sum(worker.outstanding for worker in able),
        )


def _refused(
    core: Core, found: Explanation, actor: QueueActor, asking: Sequence[WorkerActor]
) -> None:
    """Workers ask, and none may have jobs of the queue."""
    roster, wanted = core.roster, actor.ref.settings.worker_types
    drained = [worker for worker in asking if worker.id in roster.drained]
    other = [worker for worker in asking if worker not in drained]
    mistyped = [worker for worker in other if wanted and worker.worker_type not in wanted]
    unassigned = [worker for worker in other if worker not in mistyped]
    if drained:
        message = f"{len(drained)} workers of the queue were drained"
        found.add("workers_drained", message, workers=_names(drained))
    if mistyped:
        found.add(
            "worker_type_refused",
            f"the queue takes workers of the types {', '.join(wanted)} only",
            worker_types=list(wanted),
            connected=sorted({worker.worker_type for worker in mistyped}),
        )
    if unassigned:
        message = "other workers are assigned to the queue, and not connected"
        found.add("workers_not_assigned", message, workers=_names(unassigned))


def _names(workers: Sequence[WorkerActor]) -> list[str]:
    return sorted(uuid_text(worker.id) for worker in workers)[: limits.WHY_NAMES_MAX]


def _pending(
    found: Explanation, actor: QueueActor, job: Job, now_us: int, ahead: int | None
) -> None:
    """What stands before a job that could start."""
    table = actor.shard.table
    _limits(found, actor, job, now_us)
    if not actor.shard.counted:
        found.add("loading", "the jobs of its shard are still being counted", shard=table.shard)
    waiting = table.counts(actor.index)[0]
    counted = _count_ahead(actor, job)
    exact = counted is not None
    if counted is None:
        counted = min(ahead or 0, max(0, waiting - 1))
        found.counts_rows = ahead is None
    if counted or not exact:
        found.add(
            "jobs_ahead",
            f"jobs of its queue and type that start first: {'' if exact else 'about '}{counted}",
            ahead=counted,
            position=counted + 1,
            exact=exact,
            waiting=waiting,
        )
    if not found.reasons:
        found.add("starting", "nothing stands in its way: it starts in a moment")


def _limits(found: Explanation, actor: QueueActor, job: Job, now_us: int) -> None:
    for limit in actor.shard.table.blocked(actor.index, now_us, job["id"]):
        refill_at = _time(limit["refill_us"])
        until = (
            f": {limit['running']} of {limit['max']} run"
            if refill_at is None
            else f": the next start may be in {(limit['refill_us'] - now_us) / 1e6:.0f} s"
        )
        found.add(
            "limit",
            f"the limit {limit['limit']} of the queue is used up{until}",
            limit=limit["limit"],
            max=limit["max"] or None,
            running=limit["running"],
            holders=[uuid_text(held) for held in limit["holders"]],
            refill_at=refill_at,
        )


def _count_ahead(actor: QueueActor, job: Job) -> int | None:
    """Jobs of its queue and type that start first; None: too many to look at."""
    table = actor.shard.table
    here = table.ready(actor.index, frozenset((job["job_type"],)))
    if here <= 1 and not may_be_away(actor.shard):
        return 0
    ids, more = table.open_jobs(actor.index, 0, limits.WHY_JOBS_MAX, limits.WHY_LOOKS_MAX)
    if more >= 0 or may_be_away(actor.shard):
        return None
    mine, count = (-job["priority"], job["id"]), 0
    for job_id in ids:
        other = table.get(job_id)
        if (
            other is not None
            and other["status"] == "pending"
            and other["job_type"] == job["job_type"]
            and (-other["priority"], job_id) < mine
        ):
            count += 1
    return count


def _estimate(found: Explanation, actor: QueueActor, job: Job, now_us: int) -> None:
    """When it will start, as far as that can be said from how fast the queue's jobs start."""
    if found.codes & BLOCKERS:
        return
    start_us = now_us
    if job["status"] == "scheduled":
        start_us = max(now_us, job["due_us"])
    for reason in found.reasons:
        if reason.code == "limit" and reason.details["refill_at"] is None:
            return  # whoever holds it ends when it ends
        if reason.code == "limit":
            start_us = max(start_us, _us(reason.details["refill_at"]))
        if reason.code in ("jobs_ahead", "no_credit"):
            rate = actor.starts.per_s(now_us)
            if not rate:
                return
            start_us += round((reason.details.get("ahead", 0) + 1) / rate * 1e6)
    found.estimated_start_at = _time(start_us)


def _time(at_us: int) -> datetime | None:
    return _EPOCH + timedelta(microseconds=at_us) if 0 < at_us < NEVER_US else None


def _us(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)
