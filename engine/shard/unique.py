"""Unique keys: which job of a queue holds a key now, so that no second one gets in.

    submit with a key ──► held? ──no──► a new job, which holds it
                            └──yes──► reject, give the existing one, replace its payload, debounce

A job holds its key as its scope says:

    waiting      until it starts for the first time
    unfinished   until it has ended for good
    period       for so long from its submit on, whatever becomes of it

The first two follow from the live jobs: the book is fed by marks, and looks at the job when it is
asked. Jobs that hold a key for a period may be gone by then, so each of them leaves a mark beside
the Idempotency-Keys, in the same log row as its `submitted`: a key that no caller can give, kept
for a day. So the book is the same after every takeover, and one shard decides about a queue.

Bounded: what no longer holds is forgotten, two looks for each key that comes; and there are at most
UNIQUE_PERIODS_MAX keys of periods in a shard, shared by its tenants, beyond which such a submit is
refused.
"""

import hashlib
from collections import OrderedDict
from typing import Any, Literal, NamedTuple

from taskforge_server.engine import limits
from taskforge_server.engine.model.job import JobStatus
from taskforge_server.engine.model.joboptions import Told, read_told
from taskforge_server.engine.shard.shared import SharedBound
from taskforge_server.ext.table import ShardTable, SubmitBatch

Scope = Literal["waiting", "unfinished", "period"]
OnConflict = Literal["reject", "existing", "replace", "debounce"]
Became = Literal["existing", "replaced", "debounced", "rejected"]

WAITING_STATES = ("pending", "scheduled")
OPEN_STATES = (*WAITING_STATES, "processing")
MARK_PREFIX = "unique "
"""With its space it is no Idempotency-Key of a caller."""

_LOOKS = 2
_ROOM_US = 1_000_000
"""A full book is looked through once in this time: that takes some 10 ms."""
_UNTIL_BYTES = 8
ID_BYTES = 16


class Ask(NamedTuple):
    """What a submit says of its key, and what it would put in the place of what is there."""

    key: str
    scope: Scope
    period_us: int
    on_conflict: OnConflict
    payload: bytes
    priority: int
    options: bytes | None
    due_us: int


class Part(NamedTuple):
    """Some jobs of a submit: one that asks for a key, or a run of those that do not."""

    batch: SubmitBatch
    ask: Ask | None


class Outcome(NamedTuple):
    """What became of a job that asked for a key: its own id, or that of the one that holds it.
    `status` None: not in memory."""

    became: Became
    job_id: bytes
    status: JobStatus | None


class Holder(NamedTuple):
    """Who holds a key."""

    job_id: bytes
    job: dict[str, Any] | None

    @property
    def waits(self) -> bool:
        return self.job is not None and self.job["status"] in WAITING_STATES


class Period(NamedTuple):
    """A job holds a key until then, for this tenant."""

    job_id: bytes
    until_us: int
    tenant: bytes


class UniqueBook:
    """The keys of one shard."""

    def __init__(self, table: ShardTable) -> None:
        self._table = table
        self._held: dict[str, bytes] = {}
        # By mark.
        self._periods: dict[str, Period] = {}
        self._bound = SharedBound("unique keys for a period", limits.UNIQUE_PERIODS_MAX)
        self._turns: OrderedDict[str, None] = OrderedDict()
        self._room_us = 0

    def __len__(self) -> int:
        return len(self._held) + len(self._periods)

    def see(self, job_id: bytes, told: Told) -> None:
        """A job that is told something holds its key, if its scope says so and no other does."""
        key = told.named.get("unique_key")
        if key is None or told.more.unique is None:
            return
        job = self._table.get(job_id)
        if job is not None and _holds(job, told.more.unique):
            name = mark_of(job["queue_id"], key)
            if self._live(name) is None:
                self._hold(name, job_id)

    def holder(self, queue_id: bytes, key: str, now_us: int) -> Holder | None:
        """Who holds the key of this queue now."""
        name = mark_of(queue_id, key)
        live = self._live(name)
        if live is not None:
            return live
        period = self._periods.get(name)
        if period is None or period.until_us <= now_us:
            return None
        return Holder(period.job_id, self._table.get(period.job_id))

    def take(
        self,
        project_id: bytes,
        tenant: bytes,
        queue_id: bytes,
        job_id: bytes,
        ask: Ask,
        now_us: int,
    ) -> None:
        """A new job holds the key; for a period this goes to the log with the job."""
        name = mark_of(queue_id, ask.key)
        if ask.scope != "period":
            self._hold(name, job_id)
            return
        until_us = now_us + ask.period_us
        self._table.keyed(
            project_id,
            name,
            until_us.to_bytes(_UNTIL_BYTES),
            job_id,
            now_us,
        )
        self._keep(name, Period(job_id, until_us, tenant))

    def require_room(self, tenant: bytes, count: int, now_us: int) -> None:
        """ShareUsedUp: the tenant may not hold so many more keys for their periods."""
        if count > self._bound.room(tenant) and now_us >= self._room_us:
            self._room_us = now_us + _ROOM_US
            for name in [n for n, period in self._periods.items() if period.until_us <= now_us]:
                self._bound.remove(self._periods.pop(name).tenant)
        self._bound.require(tenant, count)

    def restore(self, name: str, until: bytes, job_id: bytes, tenant: bytes) -> None:
        """What the log and the tables remember of a period."""
        until_us = int.from_bytes(until)
        known = self._periods.get(name)
        if known is None or known.until_us < until_us:
            self._keep(name, Period(job_id, until_us, tenant))

    def _live(self, name: str) -> Holder | None:
        """The job in memory that holds the key by its state; one that does not is forgotten."""
        job_id = self._held.get(name)
        if job_id is None:
            return None
        job = self._table.get(job_id)
        if job is not None and _holds(job, _scope_of(job)):
            return Holder(job_id, job)
        del self._held[name]
        return None

    def _hold(self, name: str, job_id: bytes) -> None:
        self._held[name] = job_id
        self._look(name)

    def _keep(self, name: str, period: Period) -> None:
        before = self._periods.get(name)
        if before is not None:
            self._bound.remove(before.tenant)
        self._periods[name] = period
        self._bound.add(period.tenant)

    def _look(self, name: str) -> None:
        """Look at the keys that were not looked at for longest, so that the dead do not gather."""
        for _ in range(min(_LOOKS, len(self._turns))):
            other, _ = self._turns.popitem(last=False)
            if self._live(other) is not None:
                self._turns[other] = None
        self._turns[name] = None


def mark_of(queue_id: bytes, key: str) -> str:
    """The key of a queue, of bounded length, readable to nobody."""
    return MARK_PREFIX + hashlib.sha256(queue_id + key.encode()).hexdigest()


def _scope_of(job: dict[str, Any]) -> str | None:
    return read_told(job["options"]).more.unique


def _holds(job: dict[str, Any], scope: str | None) -> bool:
    """Whether the state of a job says that it holds its key."""
    if scope == "waiting":
        return job["attempt"] == 0 and job["status"] in WAITING_STATES
    return scope == "unfinished" and job["status"] in OPEN_STATES
