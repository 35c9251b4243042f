"""Takes what applications wrote in transactions of their own, and makes jobs of it.

    bell, or every INBOX_SWEEP_S ──► rows of this node's shards ──► one keyed submit each
                                                                     │ durable
                       row put off or refused ◄── why not ───────────┴──► row deleted

A row goes after its job is durable, so none is lost; its id is the Idempotency-Key of the submit,
so a row that is met again, after a kill in between, gives no second job. What a plan or the load
forbids now is put off; what no job can be made of stays, with the reason, for an operator: so does
one whose unique key is held and that asked to be rejected then. Where the one that holds the key
stands for it (existing, replaced, debounced), the row goes as if the job were its own.

All rows of a look are checked before the first is submitted, and then they go in their order: of
two with one unique key that replace or debounce, the younger one is the last.
"""

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from taskforge_server.api.service.allowances import Allowances
from taskforge_server.api.service.catalog import QueueCatalog
from taskforge_server.api.service.jobs import JobService
from taskforge_server.api.service.submission import Checker, NewJob
from taskforge_server.engine import limits
from taskforge_server.engine.errors import (
    CallerError,
    EnvironmentalError,
    InvalidInput,
    QuotaExceeded,
    SubscriptionExpired,
    UniqueConflict,
)
from taskforge_server.engine.model.base import checked
from taskforge_server.engine.model.job import JobStatus
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.engine.shard.keys import INBOX_PREFIX, KeyedRequest
from taskforge_server.engine.store.inbox import InboxRow
from taskforge_server.ext import jsontext
from taskforge_server.ext.ids import uuid_text

log = logging.getLogger(__name__)

T = TypeVar("T")


class Fate(Enum):
    """What became of a row."""

    TAKEN = "taken"
    """Its job, or the one that stands for it, is durable."""
    PUT_OFF = "put_off"
    """Not now."""
    REFUSED = "refused"
    """Not as it is."""


class Wanted(NamedTuple):
    """A row that a job can be made of."""

    queue: QueueRef
    checker: Checker
    request: KeyedRequest


class Parents(Protocol):
    """Jobs that others may wait for."""

    async def known(
        self, project_id: bytes, job_ids: Iterable[bytes]
    ) -> Mapping[bytes, JobStatus]: ...


class InboxRows(Protocol):
    """The rows that wait."""

    async def waiting(self, shards: Sequence[int], rows_max: int) -> list[InboxRow]: ...
    async def taken(self, ids: Sequence[bytes]) -> None: ...
    async def put_off(self, ids: Sequence[bytes], delay_s: float) -> None: ...
    async def refuse(self, row_id: bytes, problem: str) -> None: ...


class Bell(Protocol):
    """Says that there may be rows; hints."""

    async def listen(self) -> None: ...
    async def close(self) -> None: ...


class InboxPorts(NamedTuple):
    """What the drain stands on."""

    rows: InboxRows
    bell: Callable[[Callable[[], None]], Bell]
    shards: Callable[[], Sequence[int]]
    """Those that this node owns now."""


class InboxDrain:
    """One task a node, from `start` to `stop`."""

    def __init__(
        self,
        ports: InboxPorts,
        jobs: JobService,
        catalog: QueueCatalog,
        allowances: Allowances,
        parents: Parents | None,
        payload_bytes_max: int,
    ) -> None:
        """`parents`: None where no job waits for another."""
        self._ports = ports
        self._jobs = jobs
        self._catalog = catalog
        self._allowances = allowances
        self._parents = parents
        self._payload_bytes_max = payload_bytes_max
        self.fates: Counter[Fate] = Counter()
        """Of rows since the start; one that is put off is counted each time."""
        self._rung = asyncio.Event()
        self._bell = ports.bell(self._rung.set)
        self._task: asyncio.Task[None] | None = None

    def counts(self) -> Iterable[tuple[str, int]]:
        """Of rows since the start, what became of how many."""
        return [(fate.value, self.fates[fate]) for fate in Fate]

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="inbox")

    async def stop(self) -> None:
        """What is under way is met again by whoever drains next."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._bell.close()

    async def _run(self) -> None:
        while True:
            try:
                await self._bell.listen()
                self._rung.clear()
                if await self.drain():
                    continue  # there may be more; none of these is found again at once
                async with asyncio.timeout(limits.INBOX_SWEEP_S):
                    await self._rung.wait()
            except TimeoutError:
                pass  # bells may be missed: look anyway
            except EnvironmentalError as error:
                log.warning("inbox: %s", error)
                await asyncio.sleep(limits.INBOX_SWEEP_S)
            except Exception:
                log.exception("inbox failed")
                await asyncio.sleep(limits.INBOX_SWEEP_S)

    async def drain(self) -> int:
        """Take the oldest rows, bounded; how many were there."""
        rows = await self._ports.rows.waiting(self._ports.shards(), limits.INBOX_ROWS_MAX)
        checked = await asyncio.gather(*(self._judged(row, self._checked(row)) for row in rows))
        wanted = [
            (row, found)
            for row, found in zip(rows, checked, strict=True)
            if isinstance(found, Wanted)
        ]
        made = await asyncio.gather(*(self._judged(row, self._submit(job)) for row, job in wanted))
        fates = dict(zip((row.id for row in rows), checked, strict=True))
        fates |= dict(zip((row.id for row, _ in wanted), made, strict=True))
        self.fates.update(fate for fate in fates.values() if isinstance(fate, Fate))
        if taken := [row_id for row_id, fate in fates.items() if fate is Fate.TAKEN]:
            await self._ports.rows.taken(taken)
        if later := [row_id for row_id, fate in fates.items() if fate is Fate.PUT_OFF]:
            await self._ports.rows.put_off(later, limits.INBOX_PUT_OFF_S)
        return len(rows)

    async def _judged(self, row: InboxRow, work: Awaitable[T]) -> T | Fate:
        """What comes of the work, or what its failure means for the row."""
        try:
            return await work
        except (QuotaExceeded, SubscriptionExpired, EnvironmentalError) as error:
            log.info("row %s of the inbox waits: %s", row.id.hex(), error)
            return Fate.PUT_OFF
        except CallerError as error:
            problem = error.message if error.field is None else f"{error.field}: {error.message}"
            if isinstance(error, UniqueConflict):
                problem += f": {uuid_text(error.job_id)}"
            log.warning("row %s of the inbox is refused: %s", row.id.hex(), problem)
            await self._ports.rows.refuse(row.id, problem)
            return Fate.REFUSED
        except Exception:
            # One row must not stand in the way of all others.
            log.exception("row %s of the inbox waits", row.id.hex())
            return Fate.PUT_OFF

    async def _checked(self, row: InboxRow) -> Wanted:
        plan = await self._allowances.active_plan(row.project_id, row.organization_id)
        queue = await self._catalog.find(row.project_id, row.queue_id)
        key = f"{INBOX_PREFIX}{uuid_text(row.id)}"
        bytes_max = plan.limits.payload_bytes_max(self._payload_bytes_max)
        payload = row.payload.encode()
        _check_json(row.options.encode(), "options")
        _check_json(payload, "payload")
        named = msgspec.json.decode(row.options)
        job = checked({**named, "job_type": row.job_type}, NewJob)

        def take(known: Mapping[bytes, JobStatus] | None) -> Checker:
            checker = Checker(self._jobs.engine.now_us(), bytes_max, key, known, unique=True)
            checker.add(job, payload)
            return checker

        checker = take(None)
        if checker.parents:
            if self._parents is None:
                raise InvalidInput("here no job waits for another", "parents")
            checker = take(await self._parents.known(row.project_id, checker.parents))
        return Wanted(queue, checker, KeyedRequest(key, hashlib.sha256(row.id).digest()))

    async def _submit(self, wanted: Wanted) -> Fate:
        """The job is durable, or the one that stands for it; UniqueConflict."""
        queue, checker, request = wanted
        if checker.unique:
            _, _, met = await self._jobs.submit_unique(queue, checker, request)
            outcome = met.get(0)
            if outcome is not None and outcome.became == "rejected":
                raise UniqueConflict(outcome.job_id)
        else:
            await self._jobs.submit(queue, checker.batch, request)
        return Fate.TAKEN


def _check_json(text: bytes, field: str) -> None:
    """The server's JSON knows numbers and depths that nobody else does; InvalidInput."""
    try:
        jsontext.check(text, limits.JSON_DEPTH_MAX)
    except ValueError as error:
        raise InvalidInput(str(error), field) from None
