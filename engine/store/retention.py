"""How long finished jobs are kept: for the days of their organisation's plan, and until the day in
which they came (UTC) is past them as a whole.

    a day ──► something has to stay ──► the rest goes by rows, in portions
          ──► nothing has           ──► detached, attempts and lines dropped ──► jobs dropped

A job that has not ended stays, however old it is, and with it the partitions of its day and of its
attempts. Jobs that a crash left detached are dropped by the next round.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, NamedTuple

from taskforge_server.engine import limits
from taskforge_server.engine.model.subscription import Plan
from taskforge_server.engine.store.pool import Connection
from taskforge_server.engine.store.statements import sql

_DAY: Final = timedelta(days=1)


class Keeper(NamedTuple):
    """Since when an organisation keeps what has ended; None: for ever."""

    organization_id: bytes
    since: datetime | None


def keepers_of(plans: Sequence[Plan], now: datetime) -> list[Keeper]:
    """What the plans say now."""
    return [
        Keeper(plan.organization_id, None if days is None else now - days * _DAY)
        for plan in plans
        for days in [plan.limits.history_days]
    ]


class Retention:
    """One round, over a connection of its own, which holds the lock."""

    def __init__(self, connection: Connection, keepers: Sequence[Keeper]) -> None:
        self._connection = connection
        self.keepers = keepers
        self._organizations = [keeper.organization_id for keeper in keepers]
        self._since = [keeper.since for keeper in keepers]

    async def begin(self) -> bool:
        """False: another node is at it."""
        lock_timeout = f"{round(limits.RETENTION_LOCK_S * 1000)}ms"
        await self._connection.execute(sql("retention_session"), lock_timeout)
        return bool(await self._connection.fetchval(sql("retention_lock")))

    async def days(self) -> list[date]:
        """Those with a partition that somebody no longer keeps, the oldest first."""
        ends = [since for since in self._since if since is not None]
        if not ends:
            return []
        last = (max(ends).astimezone(UTC) - _DAY).date()
        return [row["day"] for row in await self._connection.fetch(sql("partition_days"), last)]

    async def drop(self, day: date, rows_max: int = limits.HISTORY_DELETE_ROWS_MAX) -> bool:
        """Drop a day of which nothing has to stay; whether it went.
        LockNotAvailableError: somebody reads for long, it may be tried again."""
        fetchval = self._connection.fetchval
        if await fetchval(sql("day_is_kept"), day, self._organizations, self._since):
            return False
        low = datetime.combine(day, time(), UTC)
        newest = max((since for since in self._since if since is not None), default=low)
        straddling = sql("history_straddling"), low, low + _DAY, rows_max, newest
        while _count(await self._connection.execute(*straddling)):
            pass
        if not await fetchval(sql("day_detach"), day):
            return False
        await fetchval(sql("day_drop_detached"), day, self._organizations, self._since)
        return True

    async def delete(self, keeper: Keeper, rows_max: int = limits.HISTORY_DELETE_ROWS_MAX) -> int:
        """Delete what an organisation does not keep of days that others do, with attempts and
        lines, in transactions of up to `rows_max`; how many jobs."""
        gone = 0
        while keeper.since is not None:
            count = _count(await self._connection.execute(sql("history_expire"), *keeper, rows_max))
            gone += count
            if count < rows_max:
                break
        return gone


def _count(status: str) -> int:
    return int(status.rpartition(" ")[2])
