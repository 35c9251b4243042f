"""The limits of a queue and the groups of its jobs, in plain Python: told from the jobs themselves.

Of a group nothing is kept but what its jobs do not say: the `tat` of its bucket and its round. How
many of it wait and run is counted each time. What buckets and rounds are, `groups.pyx` says.

A group without a member is remembered only while it owes; beyond `idle_max` of them, those that owe
least are forgotten, and a group that is not remembered owes as much as they did.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgpack

from taskforge_server.ext.pure.tablejob import Job

NUMBERS = 8
INTERVAL_NS_MAX = 2**52
I32_MAX = 2**31 - 1
KEYLESS = ""


def key_of(job: Job) -> str:
    """The key of the job's group; all jobs without one are one group."""
    return key_in(job.options)


def key_in(options: bytes | None) -> str:
    named = msgpack.unpackb(options) if options else {}
    key: str = named.get("group_key", KEYLESS)
    return key


@dataclass(frozen=True, slots=True)
class Rate:
    interval_ns: int = 0
    burst: int = 0

    @property
    def room_ns(self) -> int:
        return self.interval_ns * self.burst

    def full_ns(self, tat_ns: int, floor_ns: int) -> int:
        """When the bucket is full; before the floor it was empty."""
        return max(tat_ns, floor_ns + self.room_ns)

    def token_ns(self, tat_ns: int, floor_ns: int) -> int:
        return self.full_ns(tat_ns, floor_ns) - self.room_ns + self.interval_ns


@dataclass(frozen=True, slots=True)
class Limits:
    running_max: int = 0
    key_running_max: int = 0
    rate: Rate = Rate()
    key_rate: Rate = Rate()
    fair: bool = False
    idle_max: int = 0

    @property
    def keys_matter(self) -> bool:
        return self.fair or bool(self.key_running_max or self.key_rate.interval_ns)

    @property
    def any(self) -> bool:
        return self.keys_matter or bool(self.running_max or self.rate.interval_ns)

    @classmethod
    def read(cls, given: tuple[int, ...] | None) -> "Limits":
        if given is None:
            return cls()
        if len(given) != NUMBERS:
            raise ValueError(f"{len(given)} numbers are no limits of a queue")
        for place, value in enumerate(given):
            if not 0 <= value <= (INTERVAL_NS_MAX if place in (2, 4) else I32_MAX):
                raise ValueError(f"limit {place} of a queue is {value}")
        rates = Rate(*given[2:4]), Rate(*given[4:6])
        for rate in rates:
            if bool(rate.interval_ns) != bool(rate.burst) or rate.room_ns > INTERVAL_NS_MAX:
                raise ValueError("no rate")
        return cls(given[0], given[1], *rates, bool(given[6]), given[7])


@dataclass(slots=True)
class QueueLimits:
    """What the limits of one queue remember."""

    limits: Limits = Limits()
    born_us: int = 0
    """No job of the queue was started before; 0: nobody knows."""
    clock_ns: int = 0
    floor_ns: int = 0
    """As of the last look."""
    stale: bool = False
    tat_ns: int = 0
    tats: dict[str, int] = field(default_factory=dict)
    rounds: dict[str, int] = field(default_factory=dict)
    round: int = 0
    forgotten_ns: int = 0

    def tune(self, limits: Limits) -> None:
        """Other limits hold from now on."""
        if limits == self.limits:
            return
        if not limits.key_rate.interval_ns:
            self.tats, self.forgotten_ns = {}, 0
        if not limits.rate.interval_ns:
            self.tat_ns = 0
        if limits.fair != self.limits.fair or not limits.keys_matter:
            self.rounds, self.round = {}, 0
        self.limits = limits
        self.stale = True

    def look(self, now_us: int, floor_us: int) -> None:
        """It is this late; after a change no bucket owes more than one of the new size can."""
        self.clock_ns = max(self.clock_ns, now_us * 1000)
        self.floor_ns = 0 if self.born_us > floor_us else floor_us * 1000
        if self.stale:
            self.stale = False
            self.tat_ns = self._clamped(self.tat_ns, self.limits.rate)
            self.forgotten_ns = self._clamped(self.forgotten_ns, self.limits.key_rate)
            self.tats = {
                key: self._clamped(tat, self.limits.key_rate) for key, tat in self.tats.items()
            }

    def _clamped(self, tat_ns: int, rate: Rate) -> int:
        return min(tat_ns, self.clock_ns + rate.room_ns)

    # --- groups ---------------------------------------------------------------------------------

    def came(self, job: Job, members: Iterable[Job]) -> None:
        """The job waits or runs from now on; a group without a member before begins anew."""
        key = key_of(job)
        if not self.limits.keys_matter or any(True for _ in members):
            return
        self.rounds[key] = self.round
        if self.tats.get(key, 0) <= self.clock_ns and key != KEYLESS:
            self.tats[key] = max(self.tats.get(key, 0), self.forgotten_ns)

    def went(self, job: Job, has_members: Callable[[str], bool]) -> None:
        """The group has no member left."""
        key = key_of(job)
        if not self.limits.key_rate.interval_ns:
            self.tats.pop(key, None)
            return
        owing = [tat for tat in (self.tats.get(key, 0),) if tat > self.clock_ns]
        idle = [k for k, tat in self.tats.items() if tat > self.clock_ns and not has_members(k)]
        if owing and len(idle) > self.limits.idle_max:
            least = min(self.tats[k] for k in idle)
            self.forgotten_ns = max(self.forgotten_ns, least)
            for k in idle:
                if self.tats[k] <= least:
                    del self.tats[k]

    def frees(self, job: Job, running: list[Job], pending: list[Job]) -> bool:
        """Whether the end of this job, one more than `running`, lets one of `pending` start."""
        limits, key = self.limits, key_of(job)
        if not pending:
            return False
        if limits.running_max and len(running) >= limits.running_max - 1:
            return True
        of_key = [other for other in running if key_of(other) == key]
        if not any(key_of(other) == key for other in pending) or not limits.keys_matter:
            return False
        return not self._may(key, len(of_key) + 1) and self._may(key, len(of_key))

    def _may(self, key: str, running: int) -> bool:
        """Whether one more of the group may start, with so many running."""
        if key == KEYLESS:
            return True
        full = 0 < self.limits.key_running_max <= running
        return not full and self._token_ns(key) <= self.clock_ns

    def _token_ns(self, key: str) -> int:
        rate = self.limits.key_rate
        if not rate.interval_ns or key == KEYLESS:
            return 0
        return rate.token_ns(self.tats.get(key, 0), self.floor_ns)

    # --- questions, after a look ------------------------------------------------------------------

    def allowed(self, running: int) -> int:
        """How many jobs the limits of the queue itself let start."""
        most = I32_MAX
        rate = self.limits.rate
        if self.limits.running_max:
            most = max(0, self.limits.running_max - running)
        if rate.interval_ns:
            full_ns = max(self.clock_ns, rate.full_ns(self.tat_ns, self.floor_ns))
            most = min(most, max(0, self.clock_ns + rate.room_ns - full_ns) // rate.interval_ns)
        return most

    def may_start(self, pending: Iterable[Job], running: list[Job]) -> list[Job]:
        """Those whose group may start one, in the order in which they would."""
        if not self.limits.keys_matter:
            return sorted(pending, key=lambda job: job.order)
        counts: dict[str, int] = {}
        for job in running:
            counts[key_of(job)] = counts.get(key_of(job), 0) + 1
        ready = [job for job in pending if self._may(key_of(job), counts.get(key_of(job), 0))]
        if self.limits.fair:
            return sorted(ready, key=lambda job: (self.rounds.get(key_of(job), 0), *job.order))
        return sorted(ready, key=lambda job: job.order)

    def charge(self, job: Job) -> None:
        """The job is about to start: what this costs the queue and its group."""
        key = key_of(job)
        rate = self.limits.rate
        if rate.interval_ns:
            self.tat_ns = rate.interval_ns + max(
                rate.full_ns(self.tat_ns, self.floor_ns), self.clock_ns
            )
        rate = self.limits.key_rate
        if rate.interval_ns and key != KEYLESS:
            full_ns = rate.full_ns(self.tats.get(key, 0), self.floor_ns)
            self.tats[key] = rate.interval_ns + max(full_ns, self.clock_ns)
        if self.limits.fair:
            self.round = max(self.round, self.rounds.get(key, 0))
            self.rounds[key] = self.round + 1

    def next_token_us(self, pending: Iterable[Job]) -> int:
        at_ns = 0
        if self.limits.rate.interval_ns:
            at_ns = self.limits.rate.token_ns(self.tat_ns, self.floor_ns)
        if at_ns <= self.clock_ns:
            times = (self._token_ns(key_of(job)) for job in pending)
            at_ns = min((time for time in times if time > self.clock_ns), default=0)
        return -(-at_ns // 1000)

    def blocking(self, running: list[Job], job: Job | None) -> list[dict[str, Any]]:
        """The limits that keep jobs of the queue from starting, or the given one that waits."""
        limits, found = self.limits, []
        if 0 < limits.running_max <= len(running):
            found.append(_blocking("max_concurrency", limits.running_max, running))
        if limits.rate.interval_ns:
            at_ns = limits.rate.token_ns(self.tat_ns, self.floor_ns)
            if at_ns > self.clock_ns:
                found.append(_blocking("rate", 0, running, at_ns))
        key = KEYLESS if job is None else key_of(job)
        if key == KEYLESS:
            return found
        mine = [other for other in running if key_of(other) == key]
        if 0 < limits.key_running_max <= len(mine):
            found.append(_blocking("max_concurrency_per_key", limits.key_running_max, mine))
        if self._token_ns(key) > self.clock_ns:
            found.append(_blocking("rate_per_key", 0, mine, self._token_ns(key)))
        return found


HOLDERS_SHOWN = 10


def _blocking(limit: str, most: int, running: list[Job], at_ns: int = 0) -> dict[str, Any]:
    """A rate is held by nobody; a concurrency is not refilled."""
    holders = [] if at_ns else sorted(job.id for job in running)[:HOLDERS_SHOWN]
    return {
        "limit": limit,
        "max": most,
        "running": len(running),
        "holders": holders,
        "refill_us": -(-at_ns // 1000),
    }
