"""Daily partitions of jobs that ended, `job_executions` and `execution_logs`, made ahead.

The work is done by a function of the database (migration 0035), under an advisory lock, so that any
number of nodes may call it at any time. A row whose day has no partition goes to the default
partition, and moves when its day is made. `retention` drops what nobody keeps.
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
