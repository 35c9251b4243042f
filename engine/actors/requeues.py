"""Finished jobs that shall run again: one whichever, or many dead letters of a queue at a pace.

A job is here still, or it comes as its row says; it begins anew under its id. All that may refuse
it is looked at first: from the first change on there is no way back.
"""

from typing import TYPE_CHECKING, Any

from taskforge_server.engine.actors import control, families, uniques
from taskforge_server.engine.actors.commands import Requeue, RequeueMany
from taskforge_server.engine.errors import Conflict
from taskforge_server.engine.shard.effects import Reply
from taskforge_server.engine.shard.family import kept
from taskforge_server.engine.shard.shard import Shard
from taskforge_server.engine.vault.sealing import looks_sealed
from taskforge_server.engine.vault.vault import Ring
from taskforge_server.ext.table import NEVER_US, TransitionError

if TYPE_CHECKING:
    from taskforge_server.engine.actors.queue import Context, QueueActor

Job = dict[str, Any]


def requeue(queue: "QueueActor", context: "Context", command: Requeue, now_us: int) -> None:
    """One job; answered with the job."""
    shard, job_id = queue.shard, command.job["id"]
    job = shard.table.get(job_id)
    if job is None:
        control.require_here(shard.table, job_id, command.departures)
        job = command.job
    ring = context.vault.ring(queue.ref.project_id)
    first, request = queue.repetitions.first(command.key, ring, now_us)
    if first is not None:
        command.repeated = True
        queue.repetitions.answer(first, Reply(command.reply, job))
        return
    if shard.requeues.outdates(job_id, job["lsn"]):
        raise Conflict("this job was just retried by somebody else", code="job_not_retryable")
    uniques.require_free(shard, job, now_us)
    try:
        _put_back(shard, context, _as_stored(job, ring), now_us)
    except TransitionError as error:
        raise Conflict(
            "only a failed or cancelled job can be retried", code="job_not_retryable"
        ) from error
    if request is not None:
        queue.repetitions.remember(request, job_id, now_us)
    control.answer(shard, job_id, command.reply)


def requeue_many(
    queue: "QueueActor", context: "Context", command: RequeueMany, now_us: int
) -> None:
    """Those that are failed still and whose keys are free; answered with their ids."""
    shard = queue.shard
    ring = context.vault.ring(queue.ref.project_id)
    first, request = queue.repetitions.first(command.key, ring, now_us)
    if first is not None:
        command.repeated = True
        queue.repetitions.answer(first, Reply(command.reply, first.ids))
        return
    for stored in command.jobs:
        control.require_here(shard.table, stored["id"], command.departures)
    jobs = [shard.table.get(stored["id"]) or stored for stored in command.jobs]
    jobs = [
        _as_stored(job, ring)
        for job in jobs
        if job["status"] == "failed" and not shard.requeues.outdates(job["id"], job["lsn"])
    ]
    due_us, again = command.first_us, []
    for job in jobs:
        try:
            uniques.require_free(shard, job, now_us)
        except Conflict:
            continue
        _put_back(shard, context, job, now_us)
        if due_us > now_us:
            shard.table.change(job["id"], now_us, due_us=due_us)
        due_us += command.interval_us
        again.append(job["id"])
    ids = b"".join(again) + command.tail
    if request is not None:
        queue.repetitions.remember(request, ids, now_us)
    shard.effect(Reply(command.reply, ids))


def _put_back(shard: Shard, context: "Context", job: Job, now_us: int) -> None:
    """The job runs again; TransitionError."""
    shard.table.requeue(job, now_us)
    shard.requeues.note(job["id"], shard.table.gathering_lsn)
    if families.waits(job["options"]):
        shard.table.change(job["id"], now_us, due_us=NEVER_US)  # it never came to its turn
    shard.marks.drain(shard.table)  # its key is held again, for what comes in this turn
    if context.dependencies.revived(job["id"]) and (options := kept(job["options"])) is not None:
        shard.table.change(job["id"], now_us, options=options)  # it had ended when they came
    context.counters.requeued_jobs += 1


def _as_stored(job: Job, ring: Ring | None) -> Job:
    """As the log may have it, and begun anew."""
    job = job | {"options": control.begun_anew(job["options"])}
    if ring is None or looks_sealed(job["payload"]):
        return job
    # From before the encryption; the log must not have it again.
    return job | {"payload": ring.seal(job["id"], "payload", job["payload"])}
