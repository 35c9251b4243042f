"""Hooks of dead letters, and the end of their time.

    a job fails ──news──► waiting ──the tables know it──► hook jobs submitted ──► place moved
                             ▲                                     │
                             └──────── a kill, then a takeover ────┘

Each dead letter is told of once. The queue's place in `dead_letter_hooks` says up to which lsn all
are; what the tables have behind it, up to the watermark, is still to come, whoever was killed when.
A hook job carries an Idempotency-Key made of the dead letter's job and attempt, so one that was
submitted before the place was moved gives no second job. Whoever puts a dead letter back has its
hook submitted first (`ensure`), for then it is in the tables no more.

A hook job that fails for good has no hook of its own: no two queues can keep each other busy.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

import msgspec

from taskforge_server.engine import limits
from taskforge_server.engine.errors import CallerError, EnvironmentalError, KeyConflict
from taskforge_server.engine.model.deadletter import DeadLetterHook
from taskforge_server.engine.model.joboptions import pack_told, read_told
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.engine.node.core import Core
from taskforge_server.engine.node.workerrows import moment
from taskforge_server.engine.shard.keys import OWN_PREFIX, KeyedRequest
from taskforge_server.engine.store.dead_letters import DeadLetters
from taskforge_server.engine.vault.sealing import UnreadableError
from taskforge_server.ext.ids import uuid_text
from taskforge_server.ext.table import SubmitBatch

log = logging.getLogger(__name__)

Job = dict[str, Any]
KEY_PREFIX = f"{OWN_PREFIX}dead-letter/"
_NO_ERROR = msgspec.Raw(b"null")


class Engine(Protocol):
    """Where hook jobs go."""

    async def submit_once(
        self, queue: QueueRef, batch: SubmitBatch, key: KeyedRequest | None
    ) -> tuple[bytes, bool]: ...


FindQueue = Callable[[bytes, str], Awaitable[QueueRef]]
"""By project and name; NotFound."""


class DeadLetterUpkeep:
    """Submits hooks, and deletes dead letters past their time, for the shards that are here."""

    def __init__(
        self, core: Core, rows: DeadLetters, engine: Engine, find_queue: FindQueue
    ) -> None:
        self._core = core
        self._rows = rows
        self._engine = engine
        self._find_queue = find_queue
        self._rests: dict[bytes, int] = {}
        """Queue -> until when it is left alone (monotonic): its hooks could not be submitted."""

    # hooks

    async def run(self) -> None:
        """Submit hooks as long as the node lives."""
        news, some = self._core.dead_letters, asyncio.Event()
        news.wake = some.set
        while True:
            if not news.waiting:
                some.clear()
                await some.wait()
            now_us = self._core.clock.monotonic_us()
            for queue_id, lsn in list(news.waiting.items()):
                if self._rests.get(queue_id, 0) > now_us:
                    continue
                self._rests.pop(queue_id, None)
                try:
                    if await self.look(queue_id, lsn):
                        news.done(queue_id, lsn)
                except (CallerError, EnvironmentalError) as problem:
                    log.warning("hooks of queue %s wait: %s", queue_id.hex(), problem)
                    self._rests[queue_id] = now_us + round(limits.HOOKS_PAUSE_S * 1e6)
            await asyncio.sleep(limits.HOOKS_LOOK_S)

    async def look(self, queue_id: bytes, lsn: int) -> bool:
        """Submit what the tables have; whether all up to this lsn is done, or somebody else's."""
        ref = self._core.find(queue_id)
        hook = None if ref is None else ref.settings.dead_letters.hook
        if ref is None or hook is None or ref.shard not in self._core.shards:
            return True
        found = await self._rows.hooks_due(queue_id, limits.HOOKS_AT_ONCE_MAX)
        if found is None:
            return True
        jobs, watermark = found
        if jobs:
            await self._submit(ref, hook, jobs)
            last = jobs[-1]
            await self._rows.hooks_submitted(queue_id, last["lsn"], last["id"])
        return len(jobs) < limits.HOOKS_AT_ONCE_MAX and watermark >= lsn

    async def ensure(self, ref: QueueRef, jobs: Iterable[Job]) -> None:
        """The hooks of these failed jobs are submitted when this returns."""
        hook = ref.settings.dead_letters.hook
        if hook is None:
            return
        place = await self._rows.hook_place(ref.id)
        if place is None:
            return
        late = [job for job in jobs if job["status"] == "failed" and _place(job) > place]
        await self._submit(ref, hook, late)

    async def _submit(self, ref: QueueRef, hook: DeadLetterHook, jobs: Iterable[Job]) -> None:
        wanted = [job for job in jobs if not _is_hook_job(job)]
        if not wanted:
            return
        target = await self._find_queue(ref.project_id, hook.queue)
        submits = [self._submit_one(ref, hook, target, job) for job in wanted]
        for outcome in await asyncio.gather(*submits, return_exceptions=True):
            if isinstance(outcome, KeyConflict):
                log.error("a hook job was not submitted: its key is somebody else's")
            elif isinstance(outcome, BaseException):
                raise outcome

    async def _submit_one(
        self, ref: QueueRef, hook: DeadLetterHook, target: QueueRef, job: Job
    ) -> None:
        key = f"{KEY_PREFIX}{uuid_text(job['id'])}/{job['attempt']}"
        batch = SubmitBatch()
        options = pack_told({"idempotency_key": key})
        batch.add(hook.job_type, self._payload(ref, job), 0, 0, 0, 0, options)
        request = KeyedRequest(key, hashlib.sha256(key.encode()).digest())
        await self._engine.submit_once(target, batch, request)

    def _payload(self, ref: QueueRef, job: Job) -> bytes:
        """What the hook job is told; as readable as its own queue lets it be."""
        return msgspec.json.encode(
            {
                "job_id": uuid_text(job["id"]),
                "queue": ref.name,
                "job_type": job["job_type"],
                "reason": job["reason"],
                "error": self._error(ref, job),
                "attempts": job["attempt"],
                "crashes": job["crashes"],
                "failed_at": moment(job["finished_us"]),
                "tags": read_told(job["options"]).named.get("tags") or [],
            }
        )

    def _error(self, ref: QueueRef, job: Job) -> msgspec.Raw:
        error: bytes | None = job["output"]
        ring = self._core.vault.ring(ref.project_id)
        if error is None:
            return _NO_ERROR
        try:
            return msgspec.Raw(error if ring is None else ring.open(job["id"], "error", error))
        except UnreadableError:
            return _NO_ERROR

    # the end of their time

    async def expire(self) -> None:
        """Delete what is past its time, in bounded pieces; the rest goes the next time."""
        for ref in list(self._core.refs.values()):
            keep_s = ref.settings.dead_letters.keep_s
            if keep_s is None or ref.shard not in self._core.shards:
                continue
            before = moment(self._core.clock.now_us() - round(keep_s * 1e6))
            for _ in range(limits.DEAD_LETTERS_SWEEP_ROUNDS):
                rows_max = limits.DEAD_LETTERS_SWEEP_ROWS
                if await self._rows.expire(ref.id, before, rows_max) < rows_max:
                    break


def _place(job: Job) -> tuple[int, bytes]:
    return job["lsn"], job["id"]


def _is_hook_job(job: Job) -> bool:
    key = read_told(job["options"]).named.get("idempotency_key")
    return key is not None and key.startswith(KEY_PREFIX)
