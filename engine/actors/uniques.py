"""Submits with unique keys: each job is decided by itself, in its place among the others.

    parts ──► held? ──► new ──► submitted
                   └──► reject, existing, replace, debounce: see `shard.unique`

All of a request is decided in one turn, so two jobs of one request with one key meet each other.
What is answered rests on jobs that are durable by then, the existing ones too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from taskforge_server.engine.errors import UniqueConflict
from taskforge_server.engine.model.joboptions import pack_told, read_told
from taskforge_server.engine.shard.effects import Promise
from taskforge_server.engine.shard.keys import KeyedRequest
from taskforge_server.engine.shard.shard import Shard
from taskforge_server.engine.shard.unique import Ask, Became, Holder, Outcome, Part
from taskforge_server.engine.vault.vault import Ring

if TYPE_CHECKING:
    from taskforge_server.engine.actors.queue import QueueActor

NO_ID = bytes(16)


@dataclass(slots=True)
class SubmitUnique:
    """New jobs, some of which ask for keys; answered with their ids, or those of the jobs that
    stand for them, zeros where one was rejected."""

    parts: Sequence[Part]
    key: KeyedRequest | None
    reply: Promise[bytes]
    repeated: bool = False
    """The key came before: the ids are those of the first time."""
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    """By the place of the job, of those that asked and met another one."""


def decide(queue: "QueueActor", command: SubmitUnique, ring: Ring | None, now_us: int) -> bytes:
    """Submit what is new, and do to what is there what was asked; the ids."""
    shard = queue.shard
    queue.require_usage(_new_jobs(queue, command.parts, now_us), now_us)
    tenant = queue.tenant
    periods = sum(part.ask is not None and part.ask.scope == "period" for part in command.parts)
    if periods:
        shard.unique.require_room(tenant, periods, now_us)
    ids, place = [], 0
    for part in command.parts:
        ask = part.ask
        holder = None
        if ask is not None:
            holder = shard.unique.holder(queue.ref.id, ask.key, now_us)
        if holder is None:
            made = queue.submit_now(part.batch, now_us)
            if ask is not None:
                shard.unique.take(queue.ref.project_id, tenant, queue.ref.id, made, ask, now_us)
            ids.append(made)
        else:
            assert ask is not None
            outcome = _meet(shard, holder, ask, ring, now_us)
            command.outcomes[place] = outcome
            ids.append(NO_ID if outcome.became == "rejected" else outcome.job_id)
        place += part.batch.count
    return b"".join(ids)


def _new_jobs(queue: "QueueActor", parts: Sequence[Part], now_us: int) -> int:
    """How many of the jobs are going to be submitted."""
    count, taken = 0, set()
    for batch, ask in parts:
        if ask is None:
            count += batch.count
        elif ask.key not in taken:
            taken.add(ask.key)
            count += queue.shard.unique.holder(queue.ref.id, ask.key, now_us) is None
    return count


def _meet(shard: Shard, holder: Holder, ask: Ask, ring: Ring | None, now_us: int) -> Outcome:
    """The key is held: what was asked for that case."""
    became: Became = "existing" if ask.on_conflict == "existing" else "rejected"
    job, job_id = holder.job, holder.job_id
    if ask.on_conflict in ("replace", "debounce") and holder.waits and job is not None:
        payload = ask.payload if ring is None else ring.seal(job_id, "payload", ask.payload)
        if ask.on_conflict == "replace":
            became, options = "replaced", _replaced(job["options"], ask.options)
            shard.table.change(
                job_id, now_us, payload=payload, priority=ask.priority, options=options
            )
        else:
            became = "debounced"
            held = read_told(job["options"]).named.get("waiting_on")
            due_us = -1 if held else ask.due_us
            shard.table.change(job_id, now_us, payload=payload, due_us=due_us)
        job = shard.table.get(job_id)
    return Outcome(became, job_id, None if job is None else job["status"])


def _replaced(old: bytes | None, new: bytes | None) -> bytes:
    """Of the new options what the caller wrote for this job; what binds the old one to others (its
    keys, its parents) stays."""
    was, comes = read_told(old), read_told(new)
    more = msgspec.structs.replace(
        was.more,
        expires_us=comes.more.expires_us,
        soft_timeout_s=comes.more.soft_timeout_s,
        retry_policy=comes.more.retry_policy,
    )
    return pack_told({**was.named, "tags": comes.named.get("tags"), "more": more}) or b""


def require_free(shard: Shard, job: dict[str, Any], now_us: int) -> None:
    """A job that shall run again would hold its key: Conflict if another one does."""
    told = read_told(job["options"])
    key, scope = told.named.get("unique_key"), told.more.unique
    if key is None or not (scope == "unfinished" or (scope == "waiting" and not job["attempt"])):
        return
    holder = shard.unique.holder(job["queue_id"], key, now_us)
    if holder is not None and holder.job_id != job["id"]:
        raise UniqueConflict(holder.job_id)
