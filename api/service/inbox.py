"""Takes what applications wrote in transactions of their own, and makes jobs of it.

    bell, or every INBOX_SWEEP_S ──► rows of this node's shards ──► one keyed submit each
                                                                     │ durable
                       row put off or refused ◄── why not ───────────┴──► row deleted

A row goes after its job is durable, so none is lost; its id is the Idempotency-Key of the submit,
so a row that is met again, after a kill in between, gives no second job. What a plan or the load
forbids now is put off; what no job can be made of stays, with the reason, for an operator.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

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
)
from taskforge_server.engine.model.base import checked
from taskforge_server.engine.shard.keys import INBOX_PREFIX, KeyedRequest
from taskforge_server.engine.store.inbox import InboxRow
from taskforge_server.ext import jsontext
from taskforge_server.ext.ids import uuid_text

log = logging.getLogger(__name__)


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
        payload_bytes_max: int,
    ) -> None:
        self._ports = ports
        self._jobs = jobs
        self._catalog = catalog
        self._allowances = allowances
        self._payload_bytes_max = payload_bytes_max
        self._rung = asyncio.Event()
        self._bell = ports.bell(self._rung.set)
        self._task: asyncio.Task[None] | None = None

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
        found = await asyncio.gather(*(self._take(row) for row in rows))
        if taken := [row.id for row, is_taken in zip(rows, found, strict=True) if is_taken]:
            await self._ports.rows.taken(taken)
        if later := [row.id for row, is_taken in zip(rows, found, strict=True) if is_taken is None]:
            await self._ports.rows.put_off(later, limits.INBOX_PUT_OFF_S)
        return len(rows)

    async def _take(self, row: InboxRow) -> bool | None:
        """True: its job is durable. False: refused. None: not now."""
        try:
            await self._submit(row)
        except (QuotaExceeded, SubscriptionExpired, EnvironmentalError) as error:
            log.info("row %s of the inbox waits: %s", row.id.hex(), error)
            return None
        except CallerError as error:
            problem = error.message if error.field is None else f"{error.field}: {error.message}"
            log.warning("row %s of the inbox is refused: %s", row.id.hex(), problem)
            await self._ports.rows.refuse(row.id, problem)
            return False
        except Exception:
            # One row must not stand in the way of all others.
            log.exception("row %s of the inbox waits", row.id.hex())
            return None
        return True

    async def _submit(self, row: InboxRow) -> None:
        plan = await self._allowances.active_plan(row.project_id, row.organization_id)
        queue = await self._catalog.find(row.project_id, row.queue_id)
        key = f"{INBOX_PREFIX}{uuid_text(row.id)}"
        bytes_max = plan.limits.payload_bytes_max(self._payload_bytes_max)
        checker = Checker(self._jobs.engine.now_us(), bytes_max, key)
        payload = row.payload.encode()
        _check_json(row.options.encode(), "options")
        _check_json(payload, "payload")
        named = msgspec.json.decode(row.options)
        checker.add(checked({**named, "job_type": row.job_type}, NewJob), payload)
        if checker.parents:
            raise InvalidInput("a job of the inbox waits for no others", "parents")
        digest = hashlib.sha256(row.id).digest()
        await self._jobs.submit(queue, checker.batch, KeyedRequest(key, digest))


def _check_json(text: bytes, field: str) -> None:
    """The server's JSON knows numbers and depths that nobody else does; InvalidInput."""
    try:
        jsontext.check(text, limits.JSON_DEPTH_MAX)
    except ValueError as error:
        raise InvalidInput(str(error), field) from None
