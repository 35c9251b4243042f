"""How long finished jobs are kept: by the plan of their organisation."""

from datetime import datetime, timedelta

from taskforge_server.engine import limits
from taskforge_server.engine.model.subscription import Plan
from taskforge_server.engine.store.pool import Pool, acquire
from taskforge_server.engine.store.statements import sql


async def expire_history(
    pool: Pool, plan: Plan, now: datetime, rows_max: int = limits.HISTORY_DELETE_ROWS_MAX
) -> int:
    """Delete the organisation's finished jobs that are older than their days, with their attempts
    and lines, in transactions of up to `rows_max`; says how many jobs went."""
    days = plan.limits.history_days
    if days is None:
        return 0
    finished_before = now - timedelta(days=days)
    gone = 0
    while True:
        async with acquire(pool) as connection:
            status = await connection.execute(
                sql("history_expire"),
                plan.organization_id,
                finished_before,
                rows_max,
                timeout=limits.BULK_TIMEOUT_S,
            )
        count = int(status.rpartition(" ")[2])
        gone += count
        if count < rows_max:
            return gone
