"""The check of a whole database: what the log says against what the tables hold."""

from taskforge_server.engine.config import Config
from taskforge_server.engine.journal.check import Difference, check
from taskforge_server.engine.journal.checked_tables import PostgresCheckedTables
from taskforge_server.engine.journal.link import Connection
from taskforge_server.engine.journal.postgres import PostgresShardLog
from taskforge_server.engine.node.adapters import DatabaseTime, StoredJobs
from taskforge_server.engine.node.node import check_schema
from taskforge_server.engine.node.workerrows import moment
from taskforge_server.engine.runtime.clock import DatabaseClock
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
        queues = [queue.ref() for queue in await Queues(pool, config.shards).all()]
        kept_since_us = await _kept_since_us(pool, clock)
        return await check(shard_log, tables, queues, range(config.shards), kept_since_us)
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
