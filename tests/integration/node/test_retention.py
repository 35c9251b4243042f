"""A node whose clock goes on by days: finished jobs leave with their day, the others never do."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from taskforge_server.engine.model.audit import OPERATOR
from taskforge_server.engine.node.adapters import DatabaseTime
from taskforge_server.engine.node.checking import check_database
from taskforge_server.engine.node.node import Node
from tests.support.engine_parts import done
from tests.support.real_node import Hand, arrives, config_for, prepared, running_node

DAY = timedelta(days=1)
TABLES = ("jobs", "job_executions", "execution_logs")
PARTITIONS = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'jobs_ended'::regclass"

Later = Callable[[int], None]


@pytest.fixture
def days_later(monkeypatch: pytest.MonkeyPatch) -> Later:
    """Lets what starts from now on believe that so many days have gone by."""
    measured = DatabaseTime.measure_us

    def later(days: int) -> None:
        async def measure_us(self: DatabaseTime) -> int:
            return await measured(self) + days * DAY // timedelta(microseconds=1)

        monkeypatch.setattr(DatabaseTime, "measure_us", measure_us)

    return later


async def keep(node: Node, days: int) -> None:
    """All organisations have that many days."""
    for plan in await node.subscriptions.plans():
        await node.subscriptions.agree(
            plan.organization_id, OPERATOR, changes={"history_days": days}
        )


async def partitions_of(node: Node, job_id: bytes) -> int:
    """How many there are of the day in which the job came."""
    day = datetime.fromtimestamp(int.from_bytes(job_id[:6]) / 1000, UTC)
    names = [f"{table}_p{day:%Y%m%d}" for table in TABLES]
    found = await node.pool.fetch("SELECT FROM pg_class WHERE relname = ANY($1)", names)
    return len(found)


async def test_days_that_nobody_keeps_go_and_what_waits_runs(
    postgres_url: str, days_later: Later
) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url, log_retention_all=True) as node:
        await keep(node, 7)
        hand = Hand(node, project_id)
        queue = await hand.queue()
        worker, outlet = await hand.worker(queue)
        ended = await hand.submit(queue, 20)
        await arrives(outlet, lambda: len(outlet.tokens()) == 20)
        await worker.receive([done(1, b"".join(outlet.tokens()))])
        await node.doors.wait_finished(ended[-1], 10.0)
    days_later(1)
    async with running_node(postgres_url, log_retention_all=True) as node:
        hand = Hand(node, project_id)
        idle = await hand.queue("idle")
        worker, outlet = await hand.worker(queue)
        more = await hand.submit(queue, 2)
        await arrives(outlet, lambda: len(outlet.tokens()) == 2)
        await worker.receive([done(1, b"".join(outlet.tokens()))])
        await node.doors.wait_finished(more[-1], 10.0)
        waiting = await hand.submit(idle)
        await node.retention.sweep()
        assert len(await hand.rows("jobs")) == 23, "all of it is kept yet"
    days_later(9)
    async with running_node(postgres_url, log_retention_all=True) as node:
        hand = Hand(node, project_id)
        before = await node.pool.fetchval(PARTITIONS)
        assert await partitions_of(node, ended[0]) == len(TABLES)
        await node.retention.sweep()
        assert [row["id"] for row in await hand.rows("jobs")] == waiting
        assert await hand.rows("job_executions") == []
        assert await partitions_of(node, ended[0]) == 0
        assert await partitions_of(node, waiting[0]) == len(TABLES)
        dropped = node.core.counters.dropped_days
        assert dropped == before - await node.pool.fetchval(PARTITIONS) > 0
        worker, outlet = await hand.worker(idle)
        await arrives(outlet, outlet.tokens)
        await worker.receive([done(1, outlet.tokens()[0])])
        await node.doors.wait_finished(waiting[0], 10.0)
        await node.retention.sweep()
        assert len(await hand.rows("jobs")) == 1, "it has only just ended"
    assert await check_database(config_for(postgres_url, log_retention_all=True)) == []


async def test_a_running_node_makes_the_days_to_come(postgres_url: str) -> None:
    await prepared(postgres_url)
    async with running_node(postgres_url) as node:
        made = await node.pool.fetchval(PARTITIONS)
        await node.pool.execute(
            """DO $$ DECLARE part text; BEGIN
                FOR part IN SELECT inhrelid::regclass::text FROM pg_inherits
                    WHERE inhparent = 'jobs_ended'::regclass
                        AND inhrelid <> 'jobs_default'::regclass
                LOOP EXECUTE 'DROP TABLE ' || part; END LOOP;
            END $$"""
        )
        assert await node.pool.fetchval(PARTITIONS) < made
        await node._upkeep()
        assert await node.pool.fetchval(PARTITIONS) == made
