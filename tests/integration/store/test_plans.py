"""The plans of the hot reads over filled tables: each uses its index, whatever history there is.

The tables hold jobs of many queues over two days, nearly all finished. A plan is looked at with a
generic plan too, since that is what a prepared statement of a long-lived connection may get.
"""

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from taskforge_server.engine.store.job_queries import FIRST_ID, LAST_ID
from taskforge_server.engine.store.pool import Connection, connect
from taskforge_server.engine.store.statements import sql
from tests.support.rows import Rows, copy_executions, copy_jobs

QUEUES = 40
JOBS_PER_QUEUE = 1_000
UNFINISHED_EVERY = 100
START_US = 1_740_823_200_000_000  # 2025-03-01 10:00
PROJECT = bytes(15) + b"p"

# What is left of a plan that reads only what it returns: far below the 40,000 rows of the table.
ROWS_READ_MAX = 2_000

REMOVED = ("Filter", "Index Recheck")


@pytest.fixture(scope="module")
def filled_url(module_postgres_url: str) -> str:
    return module_postgres_url


@pytest.fixture(params=["force_custom_plan", "force_generic_plan"])
async def filled(filled_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Connection]:
    connection = await connect(filled_url, application_name="test")
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM jobs)"):
        await _fill(connection)
    await connection.execute("SELECT set_config('plan_cache_mode', $1, false)", request.param)
    yield connection
    await connection.close()


PENDING, SCHEDULED = "shard_queue_id_job_type_expr_id", "shard_scheduled_for_id"
FIRST = (FIRST_ID, datetime(2000, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC))


async def test_jobs_that_wait(filled: Connection) -> None:
    """Each way to them has its index, and reads what it returns."""
    waiting = JOBS_PER_QUEUE // UNFINISHED_EVERY
    kind = await filled.fetchval("SELECT job_type FROM jobs LIMIT 1")
    types = "smallint, uuid, varchar, integer, uuid, integer"
    args = (3, (3).to_bytes(16), kind, 9, FIRST_ID, 4)
    plan = await _explain(filled, "jobs_page", types, *args)
    assert _indexes(plan) == {PENDING}
    assert _rows_read(plan) <= waiting
    plan = await _explain(filled, "jobs_first_pages", "smallint, integer", 3, 100)
    assert _indexes(plan) == {PENDING}
    assert _rows_read(plan) <= 3 * waiting
    first, low, high = FIRST
    plan = await _explain(
        filled,
        "jobs_due",
        "smallint, timestamptz, uuid, timestamptz, integer",
        *(3, low, first, high, 10),
    )
    assert _indexes(plan) <= {SCHEDULED}
    plan = await _explain(filled, "jobs_bound", "smallint", 3)
    assert all(name.startswith("shard_idx") for name in _indexes(plan))


async def test_one_job(filled: Connection) -> None:
    job_id = await filled.fetchval("SELECT id FROM jobs OFFSET 500 LIMIT 1")
    plan = await _explain(filled, "job_get", "uuid, uuid", job_id, PROJECT)
    assert _indexes(plan) == {"pkey"}
    assert _rows_read(plan) == 1


async def test_executions_of_a_job(filled: Connection) -> None:
    """Those that did not succeed by their job, the one that did by its id: nothing else is read."""
    query = "SELECT job_id, id FROM job_executions OFFSET 500 LIMIT 1"
    job_id, last = await filled.fetchrow(query)
    plan = await _explain(filled, "executions_of_job", "uuid, uuid, integer", job_id, last, 100)
    assert _indexes(plan) == {"job_id", "pkey"}
    assert _rows_read(plan) == 1


async def test_jobs_by_a_state_that_few_have(filled: Connection) -> None:
    """Jobs by a state that few have: no other row is looked at."""
    waiting = QUEUES * JOBS_PER_QUEUE // UNFINISHED_EVERY
    for asked, found in (("'pending'", waiting), ("'failed'", 0), ("'cancelled'", 0)):
        text = await filled.fetchval(
            "EXPLAIN (ANALYZE, TIMING OFF, BUFFERS OFF, FORMAT JSON)"
            f" SELECT * FROM jobs WHERE status = {asked}"
        )
        assert _rows_read(json.loads(text)[0]["Plan"]) == found, asked


@pytest.mark.parametrize("queues", [1, 3])
@pytest.mark.parametrize("middle", [True, False])
async def test_page_of_jobs(filled: Connection, queues: int, middle: bool) -> None:
    wanted = [queue.to_bytes(16) for queue in range(queues)]
    below = LAST_ID
    if middle:
        below = await filled.fetchval(
            "SELECT id FROM jobs WHERE queue_id = $1 ORDER BY id OFFSET 500 LIMIT 1", wanted[0]
        )
    plan = await _explain(
        filled,
        "job_list",
        "uuid[], uuid, uuid, varchar[], varchar, timestamptz, timestamptz, bigint",
        wanted,
        below,
        FIRST_ID,
        None,
        None,
        datetime(2000, 1, 1, tzinfo=UTC),
        datetime(3000, 1, 1, tzinfo=UTC),
        101,
    )
    assert _indexes(plan) == {"queue_id_id"}
    assert _rows_read(plan) <= ROWS_READ_MAX


async def _fill(connection: Connection) -> None:
    await connection.execute("SELECT ensure_partitions('2025-03-01', '2025-03-03')")
    for number in range(QUEUES):
        rows = Rows(number, number.to_bytes(16), PROJECT, START_US + number)
        rows.step_us = 100_000_000  # a thousand jobs take some 28 hours: two days or more
        jobs = [
            rows.job(status="succeeded" if job % UNFINISHED_EVERY else "pending", priority=job % 10)
            for job in range(JOBS_PER_QUEUE)
        ]
        await copy_jobs(connection, jobs)
        await copy_executions(connection, [rows.execution(job, 1) for job in jobs])
    await connection.execute("ANALYZE jobs, job_executions")


async def _explain(connection: Connection, name: str, types: str, *arguments: Any) -> Any:
    """The plan as it ran, by way of a prepared statement: EXPLAIN itself takes no generic plan."""
    await connection.execute("DEALLOCATE ALL")
    await connection.execute(" ".join(["PREPARE", f"wanted ({types})", "AS", sql(name)]))
    literals = ", ".join(_literal(argument) for argument in arguments)
    text = await connection.fetchval(
        f"EXPLAIN (ANALYZE, TIMING OFF, BUFFERS OFF, FORMAT JSON) EXECUTE wanted ({literals})"
    )
    return json.loads(text)[0]["Plan"]


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"'{value.hex()}'"
    if isinstance(value, list):
        return "'{" + ",".join(entry.hex() for entry in value) + "}'"
    if isinstance(value, str):
        return f"'{value}'"
    return str(value) if isinstance(value, int) else f"'{value.isoformat()}'"


def _nodes(plan: Any) -> Iterator[Any]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)


def _ran(node: Any) -> bool:
    return bool(node["Actual Loops"])


def _indexes(plan: Any) -> set[str]:
    """The indexes of the partitions that were read, without the name of the partition; a scan of a
    whole table that has rows shows as its own name."""
    found = set()
    for node in _nodes(plan):
        if not _ran(node):
            continue
        if "Index Name" in node:
            name = node["Index Name"]
            found.add(name.split("_", 2)[2] if "_p2" in name else name)
        elif node["Node Type"] == "Seq Scan" and _rows(node):
            found.add(node["Relation Name"])
    return {_short(name) for name in found}


def _short(name: str) -> str:
    for known in (PENDING, SCHEDULED, "queue_id_id", "job_id", "pkey"):
        if known in name:
            return known
    return name


def _rows(node: Any) -> int:
    read = node["Actual Rows"] + sum(node.get(f"Rows Removed by {why}", 0) for why in REMOVED)
    return round(read * node["Actual Loops"])


def _rows_read(plan: Any) -> int:
    scans = [node for node in _nodes(plan) if "Relation Name" in node and _ran(node)]
    return sum(_rows(node) for node in scans)
