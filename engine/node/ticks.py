"""What becomes of the ticks of one turn: a job each, or none and why, or another try.

    its key is in the log? ──► that job
    the job before has not ended? ──skip──► none       ──cancel_previous──► cancelled, go on
    else ──► a keyed submit, together with the others of its queue ──durable──► that job

Refusals that another try would not mend decide the tick too: it had no job, and its schedule says
why. Everything else puts it off.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from taskforge_server.engine.actors.schedulebook import Plan
from taskforge_server.engine.errors import (
    CallerError,
    EnvironmentalError,
    ShardLost,
    TaskForgeError,
)
from taskforge_server.engine.model.job import UNFINISHED
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.engine.model.schedule import jittered_us, tick_key
from taskforge_server.engine.node.core import Core
from taskforge_server.engine.runtime import safeguards
from taskforge_server.engine.shard.effects import Reply
from taskforge_server.engine.shard.keys import KeyedRequest
from taskforge_server.engine.vault.sealing import UnreadableError
from taskforge_server.ext.ids import shard_of
from taskforge_server.ext.table import SubmitBatch

log = logging.getLogger(__name__)

YIELD_TICKS = 100
"""Ticks between two turns of the loop."""

ID_BYTES = 16
T = TypeVar("T")


class Maker(Protocol):
    """Who knows what a job may be told; for one batch."""

    @property
    def batch(self) -> SubmitBatch: ...

    def add_tick(self, job: bytes, payload: bytes, due_us: int, key: str) -> None:
        """One more job, due then (0: at once); CallerError when it is not right."""
        ...


Makers = Callable[[bytes, int], Awaitable[Maker]]
"""Gives a maker for a project and a time; CallerError when the project may submit nothing."""


class Doors(Protocol):
    """The node, as those who submit and cancel see it."""

    async def submit_ticks(
        self, queue: QueueRef, batch: SubmitBatch, keys: list[KeyedRequest]
    ) -> bytes: ...

    async def cancel(self, job_id: bytes, project_id: bytes) -> object: ...


class TickRows(Protocol):
    """What is read of rows at a tick."""

    async def payloads(self, schedule_ids: Sequence[bytes]) -> dict[bytes, bytes]: ...
    async def unfinished_jobs(self, job_ids: Sequence[bytes]) -> set[bytes]: ...


@dataclass(slots=True)
class Tick:
    """A tick that is out. Not settled: it has to be tried again."""

    plan: Plan
    us: int
    settled: bool = False
    job_id: bytes | None = None
    problem: str | None = None

    @property
    def key(self) -> KeyedRequest:
        return KeyedRequest(*tick_key(self.plan.id, self.us))

    def had(self, job_id: bytes) -> None:
        """Its job is durable."""
        self.settled, self.job_id = True, job_id

    def none(self, problem: str) -> None:
        """It has no job, and gets none."""
        self.settled, self.problem = True, problem


class TickDecider:
    """Decides ticks."""

    def __init__(self, core: Core, doors: Doors, rows: TickRows) -> None:
        self._core = core
        self._doors = doors
        self._rows = rows
        self.makers: Makers | None = None
        """None: no tick can be decided yet."""

    async def decide(self, ticks: list[Tick]) -> None:
        """Settle those of the ticks that can be settled now; EnvironmentalError: none."""
        now_us = self._core.clock.now_us()
        await self._look_back(
            [
                tick
                for tick in ticks
                if tick.plan.overlap != "allow" and self._known(tick, now_us) is None
            ]
        )
        open_ticks = [tick for tick in ticks if not tick.settled]
        large = [tick.plan.id for tick in open_ticks if tick.plan.payload is None]
        payloads = await self._rows.payloads(large) if large else {}
        of_queue: dict[bytes, list[Tick]] = {}
        for tick in open_ticks:
            of_queue.setdefault(tick.plan.queue_id, []).append(tick)
        submits, since = [], 0
        for queue_id, all_of_it in of_queue.items():
            for part in _parts(all_of_it):
                submits.append(asyncio.create_task(self._submit(queue_id, part, payloads)))
                since += len(part)
                if since >= YIELD_TICKS:
                    since = 0
                    await asyncio.sleep(0)
        await asyncio.gather(*submits)

    # the job before

    async def _look_back(self, ticks: list[Tick]) -> None:
        waiting = [(tick, job_id) for tick in ticks if (job_id := self._previous(tick)) is not None]
        if not waiting:
            return
        unfinished = await self._unfinished({job_id for _, job_id in waiting})
        cancelled: list[tuple[Tick, bytes]] = []
        for tick, job_id in waiting:
            if job_id in unfinished:
                if tick.plan.overlap == "skip":
                    tick.none("previous_not_ended")
                else:
                    cancelled.append((tick, job_id))
        for part in _parts(cancelled):
            await asyncio.gather(*(self._cancel_previous(tick, job_id) for tick, job_id in part))

    def _previous(self, tick: Tick) -> bytes | None:
        """The job of the tick before. Where the row does not know it, since whoever made it died
        before he wrote so, the keys do."""
        plan = tick.plan
        newest = self._core.keys.newest_tick(plan.project_id, plan.id)
        return plan.last_job_id if newest is None or newest[0] >= tick.us else newest[1]

    async def _unfinished(self, job_ids: set[bytes]) -> set[bytes]:
        """Which of these have not ended: memory knows, or else the tables."""
        found, elsewhere = set(), []
        for job_id in job_ids:
            shard = self._core.shards.get(shard_of(job_id))
            job = None if shard is None else shard.table.get(job_id)
            if job is None:
                elsewhere.append(job_id)
            elif job["status"] in UNFINISHED:
                found.add(job_id)
        return found | (await self._rows.unfinished_jobs(elsewhere) if elsewhere else set())

    async def _cancel_previous(self, tick: Tick, job_id: bytes) -> None:
        try:
            await self._doors.cancel(job_id, tick.plan.project_id)
        except CallerError as error:
            # It has ended meanwhile.
            log.debug("job %s was not cancelled: %s", job_id.hex(), error)

    # the jobs

    async def _submit(
        self, queue_id: bytes, ticks: list[Tick], payloads: dict[bytes, bytes]
    ) -> None:
        """The jobs of ticks of one queue; what stays unsettled is to be tried again."""
        ref = self._core.refs.get(queue_id)
        if ref is None or self.makers is None:
            return
        now_us = self._core.clock.now_us()
        new: list[Tick] = []
        known: list[tuple[Tick, bytes]] = []
        try:
            for tick in ticks:
                job_id = self._known(tick, now_us)
                if job_id is not None:
                    known.append((tick, job_id))
                else:
                    new.append(tick)
            if new:
                maker = await self.makers(ref.project_id, now_us)
                new = [tick for tick in new if self._add(tick, maker, payloads)]
            if new:
                ids = await self._doors.submit_ticks(ref, maker.batch, [tick.key for tick in new])
                for place, tick in enumerate(new):
                    tick.had(ids[ID_BYTES * place : ID_BYTES * (place + 1)])
            if known:
                await self._await_known(known)
        except CallerError as refusal:
            for tick in new:
                tick.none(refusal.code)
        except (EnvironmentalError, ShardLost) as error:
            log.debug("ticks of queue %s are put off: %s", ref.name, error)
        except Exception:
            log.exception("ticks of queue %s are put off", ref.name)

    def _known(self, tick: Tick, now_us: int) -> bytes | None:
        """The job that the tick has already."""
        entry = self._core.keys.find(tick.plan.project_id, tick.key, now_us)
        return None if entry is None or not safeguards.ACTIVE.tick_keys else entry.ids

    async def _await_known(self, known: list[tuple[Tick, bytes]]) -> None:
        """Jobs that were submitted before count once they are durable."""
        reply: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        known[0][0].plan.shard.effect(Reply(reply, None))
        await reply
        for tick, job_id in known:
            tick.had(job_id)

    def _add(self, tick: Tick, maker: Maker, payloads: dict[bytes, bytes]) -> bool:
        """Whether the tick has a job in the batch now."""
        plan = tick.plan
        payload = plan.payload if plan.payload is not None else payloads.get(plan.id)
        if payload is None:
            return False  # deleted: the news is on its way
        ring = self._core.vault.ring(plan.project_id)
        if ring is not None and not ring.whole:
            return False
        due_us = jittered_us(plan.id, tick.us, plan.jitter_s) if plan.jitter_s else 0
        try:
            if ring is not None:
                payload = ring.open(plan.id, "schedule", payload)
            maker.add_tick(plan.job, payload, due_us, tick.key.key)
        except UnreadableError:
            tick.none("payload_unreadable")
        except TaskForgeError as refusal:
            tick.none(refusal.code)
        return not tick.settled


def _parts(ticks: Sequence[T]) -> Iterable[list[T]]:
    return (list(ticks[at : at + YIELD_TICKS]) for at in range(0, len(ticks), YIELD_TICKS))
