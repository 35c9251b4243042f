"""What was submitted, as the tables have it: written by the projector, read here.

owners         whose account a project's jobs go to
of_shard       for the node that takes the shard over
elsewhere      for a node that does not own all shards
history        for people
"""

from collections.abc import Callable, Iterable

from taskforge_server.engine.model.subscription import month_before, month_of
from taskforge_server.engine.shard.usage import MONTHS_KEPT, StoredUsage, UsageRow
from taskforge_server.engine.store.pool import Pool, acquire
from taskforge_server.engine.store.statements import sql
from taskforge_server.engine.store.tenancy import tenant


class UsageRows:
    """The rows of `monthly_usage`."""

    def __init__(self, pool: Pool, now_us: Callable[[], int]) -> None:
        self._pool = pool
        self._now_us = now_us

    async def of_shard(self, shard: int) -> list[StoredUsage]:
        """Counts of the months that events of the log may still belong to."""
        month = month_before(month_of(self._now_us()), MONTHS_KEPT)
        async with acquire(self._pool) as connection:
            rows = await connection.fetch(sql("usage_of_shard"), shard, month)
        return [
            StoredUsage(
                UsageRow(row["project_id"], row["month"], row["jobs"], row["lsn"]),
                row["organization_id"],
            )
            for row in rows
        ]

    async def owners(self) -> list[tuple[bytes, bytes]]:
        """Every project with its organisation."""
        async with acquire(self._pool) as connection:
            rows = await connection.fetch(sql("project_owners"))
        return [(row["id"], row["organization_id"]) for row in rows]

    async def elsewhere(self, month: int, own_shards: Iterable[int]) -> dict[bytes, int]:
        """By organisation: what was submitted to other shards than these."""
        async with acquire(self._pool) as connection:
            rows = await connection.fetch(sql("usage_elsewhere"), month, list(own_shards))
        return {row["organization_id"]: row["jobs"] for row in rows}

    async def history(self, organization_id: bytes, months: int) -> list[tuple[int, int]]:
        """Month and jobs of an organisation, the newest month first."""
        async with tenant(self._pool, organization_id=organization_id) as connection:
            rows = await connection.fetch(sql("usage_of_organization"), organization_id, months)
        return [(row["month"], row["jobs"]) for row in rows]
