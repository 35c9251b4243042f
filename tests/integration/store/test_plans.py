"""The plans of the hot reads over filled tables: each uses its index, whatever history there is.

The tables hold jobs of many queues over two days, nearly all finished. A plan is looked at with a
generic plan too, since that is what a prepared statement of a long-lived connection may get. The
partial indexes are named in no statement: one is taken if the statement asks for its condition.
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
FULL = ("jobs_p20250301", "jobs_p20250302")
RARE_EVERY = 250
RARE: tuple[dict[str, Any], ...] = (
    {"status": "scheduled", "scheduled_for": 1_800_000_000_000_000},
    {"status": "processing"},
    {"status": "failed", "finished_at": 1_740_900_000_000_000},
    {"status": "pending", "options": b'{"after": 1}'},
)
START_US = 1_740_823_200_000_000  # 2025-03-01 10:00
PROJECT = bytes(15) + b"p"

# What is left of a plan that reads only what it returns: far below the 40,000 rows of the table.
ROWS_READ_MAX = 2_000

REMOVED = ("Filter", "Index Recheck")


@pytest.fixture(scope="module")
def filled_url(module_postgres_url: str) -> str:
    return module_postgres_url


@pytest.fixture(params=["force_custom_plan", "force_generic_plan"])
def plans(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def filled(filled_url: str, plans: str) -> AsyncIterator[Connection]:
    connection = await connect(filled_url, application_name="test")
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM jobs)"):
        await _fill(connection)
    await connection.execute("SELECT set_config('plan_cache_mode', $1, false)", plans)
    yield connection
    await connection.close()


LOW, HIGH = datetime(2000, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)
QUEUE = (3).to_bytes(16)


async def test_jobs_that_wait(filled: Connection) -> None:
    """Each way to them has its index, and reads what it returns."""
    waiting = JOBS_PER_QUEUE // UNFINISHED_EVERY + 1
    kind = await filled.fetchval("SELECT job_type FROM jobs LIMIT 1")
    types = "smallint, uuid, varchar, integer, uuid, integer"
    plan = await _explain(filled, "jobs_page", types, 3, QUEUE, kind, 9, FIRST_ID, 4)
    assert _indexes(plan) == {"jobs_pending"}
    assert _rows_read(plan) <= waiting
    plan = await _explain(filled, "jobs_first_pages", "smallint, integer", 3, 100)
    assert _indexes(plan) == {"jobs_pending"}
    assert _rows_read(plan) <= 3 * waiting
    types = "smallint, uuid, varchar, integer, uuid, uuid, integer"
    ahead = (3, QUEUE, kind, 9, LAST_ID, PROJECT, 1_000)
    plan = await _explain(filled, "jobs_ahead", types, *ahead)
    assert _indexes(plan) == {"jobs_pending"}
    assert _rows_read(plan) == waiting
    types = "smallint, timestamptz, uuid, timestamptz, integer"
    plan = await _explain(filled, "jobs_due", types, 3, LOW, FIRST_ID, HIGH, 10)
    assert _indexes(plan) == {"jobs_scheduled"}
    assert _rows_read(plan) == 1
    plan = await _explain(filled, "jobs_bound", "smallint", 3)
    assert _indexes(plan) == {"jobs_bound"}
    assert _rows_read(plan) == 1


async def test_jobs_that_run(filled: Connection, plans: str) -> None:
    """The statement is always planned with its values: it is a COPY."""
    if plans == "force_custom_plan":
        plan = await _explain(filled, "jobs_unfinished", "smallint, boolean", 3, True)
        assert _indexes(plan) == {"jobs_running"}
        assert _rows_read(plan) == 1


async def test_open_jobs_are_looked_for_among_open_ones(filled: Connection) -> None:
    """No day of ended ones is touched, however many there are."""
    for name, types, asked in (
        ("jobs_of_queue", "uuid, uuid, integer", (QUEUE, FIRST_ID, 10)),
        ("jobs_named", "uuid[]", ([QUEUE],)),
        ("jobs_unfinished_of", "uuid[]", ([QUEUE],)),
        ("jobs_away_count", "smallint[], bigint[]", (None, None)),
    ):
        plan = await _plan(filled, name, types, *asked)
        assert {node.get("Relation Name") for node in _nodes(plan)} - {None} == {"jobs_open"}, name


async def test_dead_letters(filled: Connection) -> None:
    """One of the queue: no statement looks at another row."""
    types = "uuid, timestamptz, uuid, timestamptz, timestamptz"
    place = (QUEUE, HIGH, LAST_ID, LOW, HIGH)
    more = "varchar[], varchar, text[], integer, integer"
    for name in ("dead_letters", "dead_letters_count"):
        plan = await _explain(filled, name, f"{types}, {more}", *place, None, None, None, 10, 100)
        assert _indexes(plan) == {"jobs_dead"}, name
        assert _rows_read(plan) == 1, name
    plan = await _explain(filled, "dead_letters_seen", f"{types}, integer", *place, 1)
    assert _indexes(plan) == {"jobs_dead"}
    # What writes, or is read through other tables that are empty here, is planned alone.
    expire = await _plan(
        filled, "dead_letters_expire", "uuid, timestamptz, integer", QUEUE, HIGH, 100
    )
    assert "jobs_dead" in _planned(expire)
    for name, asked in (
        ("dead_letter_hook_due", (QUEUE, 10)),
        ("dead_letter_hook_begin", (QUEUE,)),
    ):
        plan = await _plan(filled, name, ", ".join(("uuid", "integer")[: len(asked)]), *asked)
        assert _planned(plan) == {"jobs_dead_lsn"}, name


async def test_one_job(filled: Connection) -> None:
    """Among the open ones, and in its day."""
    for one in ("SELECT id FROM jobs_open LIMIT 1", "SELECT id FROM jobs_ended LIMIT 1"):
        job_id = await filled.fetchval(one)
        plan = await _explain(filled, "job_get", "uuid, uuid", job_id, PROJECT)
        assert _indexes(plan) == {"jobs_open_pkey", "jobs_ended_pkey"}
        assert _rows_read(plan) == 1


async def test_executions_of_a_job(filled: Connection) -> None:
    """Those that did not succeed by their job, the one that did by its id: nothing else is read."""
    query = "SELECT job_id, id FROM job_executions OFFSET 500 LIMIT 1"
    job_id, last = await filled.fetchrow(query)
    plan = await _explain(filled, "executions_of_job", "uuid, uuid, integer", job_id, last, 100)
    assert _indexes(plan) == {"job_executions_unsuccessful", "job_executions_pkey"}
    assert _rows_read(plan) == 1


async def test_jobs_by_a_state_that_few_have(filled: Connection) -> None:
    """No other row is looked at, but for open ones, which are few."""
    unfinished = await filled.fetchval("SELECT count(*) FROM jobs_open")
    for asked, found in (("'pending'", unfinished), ("'failed'", QUEUES), ("'cancelled'", 0)):
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
        LOW,
        HIGH,
        101,
    )
    assert _indexes(plan) == {"idx_jobs_queue_id"}
    assert _rows_read(plan) <= ROWS_READ_MAX


async def _fill(connection: Connection) -> None:
    await connection.execute("SELECT ensure_partitions('2025-03-01', '2025-03-03')")
    for number in range(QUEUES):
        rows = Rows(number, number.to_bytes(16), PROJECT, START_US + number)
        rows.step_us = 100_000_000  # a thousand jobs take some 28 hours: two days or more
        jobs = [rows.job(priority=job % 10, **_told(job)) for job in range(JOBS_PER_QUEUE)]
        await copy_jobs(connection, jobs)
        await copy_executions(connection, [rows.execution(job, 1) for job in jobs])
    await connection.execute("ANALYZE jobs, job_executions")


def _told(job: int) -> dict[str, Any]:
    """Most succeeded, some wait, one of each queue is in each of the rare states."""
    if job % RARE_EVERY == 1:
        return RARE[job // RARE_EVERY]
    return {"status": "succeeded" if job % UNFINISHED_EVERY else "pending"}


async def _explain(connection: Connection, name: str, types: str, *arguments: Any) -> Any:
    """The plan as it ran."""
    return await _plan(connection, name, types, *arguments, how="ANALYZE, TIMING OFF, BUFFERS OFF")


async def _plan(
    connection: Connection, name: str, types: str, *arguments: Any, how: str = "COSTS OFF"
) -> Any:
    """By way of a prepared statement, for EXPLAIN itself takes no generic plan. Indexes of
    partitions have the names of those of their table."""
    await connection.execute(" ".join(["PREPARE", f"wanted ({types})", "AS", sql(name)]))
    literals = ", ".join(_literal(argument) for argument in arguments)
    text = await connection.fetchval(f"EXPLAIN ({how}, FORMAT JSON) EXECUTE wanted ({literals})")
    await connection.execute("DEALLOCATE wanted")
    plan = json.loads(text)[0]["Plan"]
    rows = await connection.fetch(
        """SELECT oid::regclass::text AS part, pg_partition_root(oid)::text AS whole
        FROM pg_class WHERE relkind IN ('i', 'I') AND relispartition"""
    )
    tables = {row["part"]: row["whole"] for row in rows}
    for node in _nodes(plan):
        if "Index Name" in node:
            node["Index Name"] = tables.get(node["Index Name"], node["Index Name"])
    return plan


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
    """The indexes that were read; a scan of a whole table that has rows shows as its own name."""
    found = set()
    for node in _nodes(plan):
        if not _ran(node):
            continue
        if "Index Name" in node:
            found.add(node["Index Name"])
        elif node["Node Type"] == "Seq Scan" and _rows(node):
            found.add(node["Relation Name"])
    return found


def _planned(plan: Any) -> set[str]:
    """The indexes by which jobs would be found, and full partitions that would be read whole."""
    found = {node["Index Name"] for node in _nodes(plan) if "Index Name" in node}
    whole = {node["Relation Name"] for node in _nodes(plan) if node["Node Type"] == "Seq Scan"}
    return {name for name in found if name.startswith(("jobs_", "idx_jobs_"))} | {
        name for name in whole if name in FULL
    }


def _rows(node: Any) -> int:
    read = node["Actual Rows"] + sum(node.get(f"Rows Removed by {why}", 0) for why in REMOVED)
    return round(read * node["Actual Loops"])


def _rows_read(plan: Any) -> int:
    scans = [node for node in _nodes(plan) if "Relation Name" in node and _ran(node)]
    return sum(_rows(node) for node in scans)
