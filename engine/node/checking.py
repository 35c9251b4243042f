"""The check of a whole database: what the log says against what the tables hold."""

from collections.abc import Sequence
from datetime import datetime

from taskforge_server.engine import limits
from taskforge_server.engine.config import Config
from taskforge_server.engine.journal.check import Difference, Since, check
from taskforge_server.engine.journal.checked_tables import PostgresCheckedTables
from taskforge_server.engine.journal.link import Connection
from taskforge_server.engine.journal.postgres import PostgresShardLog
from taskforge_server.engine.model.queue import JobQueue
from taskforge_server.engine.node.adapters import DatabaseTime, StoredJobs
from taskforge_server.engine.node.node import check_schema
from taskforge_server.engine.node.workerrows import moment
from taskforge_server.engine.runtime.clock import DatabaseClock
from taskforge_server.engine.store.audit import AuditLog
from taskforge_server.engine.store.pool import Pool, acquire, connect, open_pool
from taskforge_server.engine.store.queues import Queues
from taskforge_server.engine.store.retention import keepers_of
from taskforge_server.engine.store.subscriptions import Subscriptions
from taskforge_server.engine.store.usage import UsageRows

NAME = "taskforge check"


async def check_database(config: Config) -> list[Difference]:
    """All differences; none means that the database is as it should be. No node may run on it."""

    async def connected() -> Connection:
        return await connect(config.postgres_url, application_name=NAME)

    pool = await open_pool(config.postgres_url, application_name=NAME, connections_max=2)
    shard_log = PostgresShardLog(connected)
    try:
        async with acquire(pool) as connection:
            await check_schema(connection, config.shards)
        clock = DatabaseClock(DatabaseTime(pool).measure_us)
        await clock.refresh()
        tables = PostgresCheckedTables(connected, StoredJobs(pool, clock))
        queues = await Queues(pool, config.shards).all()
        return await check(
            shard_log,
            tables,
            [queue.ref() for queue in queues],
            range(config.shards),
            await _kept_since_us(pool, clock),
            await _since(pool, clock, queues),
        )
    finally:
        await shard_log.close()
        await pool.close()


async def _kept_since_us(pool: Pool, clock: DatabaseClock) -> dict[bytes, int]:
    """By project; those that keep all are left out."""
    keepers = keepers_of(await Subscriptions(pool).plans(), moment(clock.now_us()))
    since = {keeper.organization_id: keeper.since for keeper in keepers}
    owners = await UsageRows(pool, clock.now_us).owners()
    return {
        project_id: round(at.timestamp() * 1e6)
        for project_id, organization_id in owners
        if (at := since.get(organization_id)) is not None
    }


async def _since(
    pool: Pool, clock: DatabaseClock, queues: Sequence[JobQueue]
) -> dict[bytes, Since]:
    """What the queues were told earlier, and that their dead letters have a time, by queue."""
    since = {
        kept.queue_id: Since(
            # Until every node had heard of it jobs ended as before.
            _us(kept.whole_since, round(2 * limits.QUEUES_READ_S * 1e6)),
            _us(kept.failed_since),
        )
        for kept in await AuditLog(pool).queues_kept()
    }
    for queue in queues:
        if (keep_s := queue.settings.dead_letters.keep_s) is not None:
            known = since.get(queue.id, Since())
            failed_us = max(known.failed_us, clock.now_us() - round(keep_s * 1e6))
            since[queue.id] = known._replace(failed_us=failed_us)
    return since


def _us(at: datetime | None, later_us: int = 0) -> int:
    return 0 if at is None else round(at.timestamp() * 1e6) + later_us
