"""Access tokens that were taken back: the rows of `token_revocations`."""

from collections.abc import Iterable

from taskforge_server.engine.model.identity import Revocation
from taskforge_server.engine.store.pool import Lent, Pool, acquire
from taskforge_server.engine.store.statements import sql


class TokenRevocations:
    """The repository of `token_revocations`, for all organisations: nodes check tokens by it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def since(self, seconds: float) -> list[Revocation]:
        """What was taken back in so many last seconds."""
        async with acquire(self._pool) as connection:
            rows = await connection.fetch(sql("token_revocations_since"), seconds)
        return [Revocation(row["subject"], row["version"]) for row in rows]

    async def expire(self, older_s: float, rows_max: int) -> None:
        """Forget those whose tokens have expired by themselves."""
        async with acquire(self._pool) as connection:
            await connection.execute(sql("token_revocations_expire"), older_s, rows_max)


async def revoke(
    connection: Lent, organization_id: bytes, revocations: Iterable[Revocation]
) -> None:
    """For the transaction of the act that takes them back."""
    subjects: dict[int, list[bytes]] = {}
    for revocation in revocations:
        subjects.setdefault(revocation.version, []).append(revocation.subject)
    for version, ids in subjects.items():
        await connection.execute(sql("token_revoke"), ids, organization_id, version)
