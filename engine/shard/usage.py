"""How many jobs were submitted: exactly, by project and calendar month, without a write per job.

    submit ──add(lsn)──► pending of the shard ──collect(watermark)──► settled ──► rows of the tables
                │                                                        ▲
                '── accounts of organisations: what quotas ask            '── restored at a takeover

The `submitted` events of the log are the truth. A row of the tables says how many of them a project
and month had in a shard up to some lsn. It is written with the shard's watermark, always as a whole
count: so it may be written twice, or late by an earlier owner, and the one with the greater lsn is
right. Whoever takes a shard over begins with these rows and counts the log above them again.

Invariant: an account is the sum of what is settled and pending in the shards of this node, and of
what was last known of the others (`elsewhere`). A shard that comes or goes takes its count along.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from taskforge_server.engine.errors import QuotaExceeded
from taskforge_server.engine.model.subscription import (
    month_after,
    month_before,
    month_of,
    month_start_us,
)

Key = tuple[bytes, int]
"""Project and month."""

MONTHS_KEPT = 2
"""Before this one: no event above a watermark is older."""


class UsageRow(NamedTuple):
    """A project's submitted jobs of a month in a shard, up to an lsn."""

    project_id: bytes
    month: int
    jobs: int
    lsn: int


class StoredUsage(NamedTuple):
    """Such a row as the tables have it, with the organisation that it counts for."""

    row: UsageRow
    organization_id: bytes | None


class ShardUsage:
    """The count of one shard under one ownership."""

    __slots__ = ("pending", "settled")

    def __init__(self) -> None:
        self.settled: dict[Key, int] = {}
        self.pending: deque[list[Any]] = deque()
        """[lsn, key, count]: one entry for all of a project in a batch that come in a row."""

    def add(self, lsn: int, key: Key, count: int) -> None:
        """So many jobs were submitted by the event at this lsn; lsns never fall."""
        pending = self.pending
        if pending and (last := pending[-1])[0] == lsn and last[1] == key:
            last[2] += count
        else:
            pending.append([lsn, key, count])

    def collect(self, watermark: int) -> list[UsageRow]:
        """What changed up to the watermark, as whole counts."""
        changed: dict[Key, int] = {}
        pending, settled = self.pending, self.settled
        while pending and pending[0][0] <= watermark:
            _, key, count = pending.popleft()
            changed[key] = settled[key] = settled.get(key, 0) + count
        return [UsageRow(*key, jobs, watermark) for key, jobs in changed.items()]

    def totals(self) -> dict[Key, int]:
        """All that is counted."""
        found = dict(self.settled)
        for _, key, count in self.pending:
            found[key] = found.get(key, 0) + count
        return found

    def forget_before(self, month: int) -> None:
        """Months that no event of the log belongs to any more."""
        for key in [key for key in self.settled if key[1] < month]:
            del self.settled[key]


class Account:
    """What an organisation has submitted in the current month, and how much it may."""

    __slots__ = ("elsewhere", "jobs", "jobs_max")

    def __init__(self) -> None:
        self.jobs = 0
        self.elsewhere = 0
        self.jobs_max: int | None = None

    @property
    def used(self) -> int:
        return self.jobs + self.elsewhere


class UsageBook:
    """The counts of a node's shards."""

    def __init__(self) -> None:
        self._shards: set[ShardUsage] = set()
        # By organisation; a project whose organisation is not known yet has one of its own.
        self._accounts: dict[bytes, Account] = {}
        self._owners: dict[bytes, bytes] = {}
        self._of_project: dict[bytes, Account] = {}
        self.month = 0
        self._month_ends_us = 0

    # submits

    def require(self, project_id: bytes, count: int, now_us: int) -> None:
        """QuotaExceeded unless the organisation may submit so many more this month."""
        if now_us >= self._month_ends_us:
            self._begin_month(now_us)
        account = self._of_project.get(project_id)
        if account is None or account.jobs_max is None:
            return
        if account.jobs + account.elsewhere + count > account.jobs_max:
            raise QuotaExceeded(account.jobs_max, account.used)

    def add(self, shard: ShardUsage, lsn: int, project_id: bytes, count: int) -> None:
        """So many were submitted by the event at this lsn, after `require`."""
        shard.add(lsn, (project_id, self.month), count)
        account = self._of_project.get(project_id)
        if account is None:
            account = self._account_of(project_id)
        account.jobs += count

    # who belongs to whom

    def learn(self, project_id: bytes, organization_id: bytes) -> Account:
        """The organisation of the project; it never changes. Its account."""
        account = self._accounts.get(organization_id)
        if account is None:
            account = self._accounts[organization_id] = Account()
        before = self._of_project.get(project_id)
        if before is not account:
            if before is not None:
                account.jobs += before.jobs
                del self._accounts[project_id]
            self._owners[project_id] = organization_id
            self._of_project[project_id] = account
        return account

    def owner(self, project_id: bytes) -> bytes | None:
        """The organisation of the project, if it is known."""
        return self._owners.get(project_id)

    def tenant(self, project_id: bytes) -> bytes:
        """Who shares bounds with others: the organisation, or while it is unknown the project."""
        return self._owners.get(project_id, project_id)

    def used(self, organization_id: bytes, now_us: int) -> int:
        """What the organisation has submitted this month."""
        if now_us >= self._month_ends_us:
            self._begin_month(now_us)
        account = self._accounts.get(organization_id)
        return 0 if account is None else account.used

    def month_at(self, now_us: int) -> int:
        """The month that counts now."""
        if now_us >= self._month_ends_us:
            self._begin_month(now_us)
        return self.month

    def counted_elsewhere(self, month: int, jobs: Mapping[bytes, int]) -> None:
        """What the tables say of shards that are not here, by organisation."""
        if month != self.month:
            return
        for organization_id, account in self._accounts.items():
            account.elsewhere = jobs.get(organization_id, 0)
        for organization_id in jobs.keys() - self._accounts.keys():
            account = self._accounts[organization_id] = Account()
            account.elsewhere = jobs[organization_id]

    def _account_of(self, project_id: bytes) -> Account:
        return self.learn(project_id, self._owners.get(project_id, project_id))

    # shards

    def restore(
        self,
        usage: ShardUsage,
        stored: Iterable[StoredUsage],
        submitted: Iterable[tuple[int, Key, int]],
        now_us: int,
    ) -> None:
        """The shard is ours: what the tables have, and what the log above its watermark says.

        A row may be ahead of the watermark; events that it knows are not counted again."""
        if now_us >= self._month_ends_us:
            self._begin_month(now_us)
        known: dict[Key, int] = {}
        for row, organization_id in stored:
            key = (row.project_id, row.month)
            usage.settled[key] = row.jobs
            known[key] = row.lsn
            if organization_id is not None:
                self.learn(row.project_id, organization_id)
            if row.month == self.month:
                account = self._account_of(row.project_id)
                account.elsewhere = max(0, account.elsewhere - row.jobs)
        for lsn, key, count in submitted:
            if lsn > known.get(key, 0):
                usage.add(lsn, key, count)
        self._shards.add(usage)
        self._book(usage, 1)

    def drop(self, usage: ShardUsage) -> None:
        """The shard is no longer ours: what it counted is somebody else's to say."""
        if usage in self._shards:
            self._shards.remove(usage)
            self._book(usage, -1)
            for (project_id, month), jobs in usage.settled.items():
                if month == self.month:
                    self._account_of(project_id).elsewhere += jobs

    def _book(self, usage: ShardUsage, sign: int) -> None:
        for (project_id, month), jobs in usage.totals().items():
            if month == self.month:
                self._account_of(project_id).jobs += sign * jobs

    def _begin_month(self, now_us: int) -> None:
        """The first call of a month; what is counted of it already is what other nodes said."""
        self.month = month_of(now_us)
        self._month_ends_us = month_start_us(month_after(self.month))
        for account in self._accounts.values():
            account.jobs = account.elsewhere = 0
        for usage in self._shards:
            self._book(usage, 1)
            oldest = min([key[1] for _, key, _ in usage.pending], default=self.month)
            usage.forget_before(min(oldest, month_before(self.month, MONTHS_KEPT)))
