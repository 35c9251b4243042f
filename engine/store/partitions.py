"""Daily partitions of `jobs`, `job_executions` and `execution_logs`: made ahead, dropped by age.

The work is done by two functions of the database (migration 0005), under an advisory lock, so that
any number of nodes may call them at any time. A row whose day has no partition goes to the default
partition, and moves when its day is made.
"""

from taskforge_server.engine import limits
from taskforge_server.engine.store.pool import Lent
from taskforge_server.engine.store.statements import sql


async def ensure_partitions(
    connection: Lent, ahead_days: int = limits.PARTITIONS_AHEAD_DAYS
) -> int:
    """Make what is missing up to `ahead_days` after today; returns how many were made."""
    made: int = await connection.fetchval(
        sql("partitions_ensure"), ahead_days, timeout=limits.BULK_TIMEOUT_S
    )
    return made


async def drop_partitions(connection: Lent, retention_days: int) -> int:
    """Drop days older than `retention_days`, except such with unfinished jobs; returns how many."""
    if retention_days < 1:
        raise ValueError("retention_days must be at least 1")
    dropped: int = await connection.fetchval(
        sql("partitions_drop"), retention_days, timeout=limits.BULK_TIMEOUT_S
    )
    return dropped
