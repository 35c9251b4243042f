"""Lines of handlers in the table: in order, once, and never another project's."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.errors import InvalidInput, NotFound
from taskforge_server.engine.model.execution import LogLevel, LogLine, log_id
from taskforge_server.engine.store.execution_logs import ExecutionLogs, after_log, log_cursor
from taskforge_server.engine.store.partitions import ensure_partitions
from taskforge_server.engine.store.pool import Pool, acquire
from taskforge_server.engine.store.statements import sql
from taskforge_server.ext.ids import IdSource, execution_id
from tests.integration.store.conftest import Tenant

NOW_US = 1_790_000_000_000_000
JOB = IdSource(7, 1).next(NOW_US)
EXECUTIONS = [execution_id(JOB, attempt, NOW_US + attempt * 86_400_000_000) for attempt in (1, 2)]


def lines(project_id: bytes, *numbers: int, attempt: int = 1) -> list[LogLine]:
    levels: tuple[LogLevel, ...] = ("info", "warn", "error")
    return [
        LogLine(
            execution_id=EXECUTIONS[attempt - 1],
            number=number,
            job_id=JOB,
            project_id=project_id,
            level=levels[number % 3],
            message=f"line {number} \N{SNOWMAN}",
            metadata=b'{"n": %d}' % number,
            logged_us=NOW_US + number,
        )
        for number in numbers
    ]


async def test_lines_are_read_as_they_were_written(pool: Pool, tenant: Tenant) -> None:
    table = ExecutionLogs(pool)
    written = lines(tenant.project_id, *range(1, 30)) + lines(
        tenant.project_id, *range(1, 4), attempt=2
    )
    assert await table.add(written) == 0
    page, more = await table.page(tenant.project_id, JOB, EXECUTIONS)
    assert (page, more) == (written, False)
    assert await table.get(tenant.project_id, JOB, written[3].id) == written[3]


async def test_pages_filters_and_cursors(pool: Pool, tenant: Tenant) -> None:
    table = ExecutionLogs(pool)
    written = lines(tenant.project_id, *range(1, 26)) + lines(
        tenant.project_id, *range(1, 26), attempt=2
    )
    await table.add(written[::-1])
    seen: list[LogLine] = []
    after = None
    while True:
        page, more = await table.page(tenant.project_id, JOB, EXECUTIONS, None, after, 7)
        seen += page
        if not more:
            break
        after = after_log(log_cursor(page[-1].id))
    assert seen == written
    page, _ = await table.page(tenant.project_id, JOB, EXECUTIONS[1:], "error")
    assert {(line.execution_id, line.level) for line in page} == {(EXECUTIONS[1], "error")}
    with pytest.raises(InvalidInput):
        after_log("nonsense")


async def test_a_line_that_comes_twice_stands_once(pool: Pool, tenant: Tenant) -> None:
    table = ExecutionLogs(pool)
    await table.add(lines(tenant.project_id, 1, 2))
    assert await table.add(lines(tenant.project_id, 2, 3, 3)) == 0
    page, _ = await table.page(tenant.project_id, JOB, EXECUTIONS)
    assert [line.number for line in page] == [1, 2, 3]


async def test_a_line_that_the_table_refuses_keeps_no_other_out(pool: Pool, tenant: Tenant) -> None:
    table = ExecutionLogs(pool)
    good = lines(tenant.project_id, *range(1, 9))
    bad = lines(tenant.project_id, 100)[0]
    bad = LogLine(
        **{name: getattr(bad, name) for name in bad.__struct_fields__} | {"metadata": b"{"}
    )
    assert await table.add([*good[:5], bad, *good[5:]]) == 1
    page, _ = await table.page(tenant.project_id, JOB, EXECUTIONS)
    assert page == good


async def test_a_project_sees_its_own_lines_only(pool: Pool, tenant: Tenant) -> None:
    table = ExecutionLogs(pool)
    written = lines(tenant.project_id, 1)
    await table.add(written)
    other = b"o" * 16
    assert await table.page(other, JOB, EXECUTIONS) == ([], False)
    with pytest.raises(NotFound):
        await table.get(other, JOB, written[0].id)


async def test_the_tenant_role_sees_lines_before_their_job_is_in_the_tables(
    pool: Pool, tenant: Tenant
) -> None:
    await ExecutionLogs(pool).add(lines(tenant.project_id, 1))
    seen = []
    async with acquire(pool) as connection:
        for project_id in (tenant.project_id.hex(), (b"o" * 16).hex(), ""):
            async with connection.transaction():
                await connection.execute("SET LOCAL ROLE taskforge_tenant")
                await connection.execute(
                    "SELECT set_config('taskforge.project_id', $1, true)", project_id
                )
                seen.append(await connection.fetchval("SELECT count(*) FROM execution_logs"))
    assert seen == [1, 0, 0]


async def test_lines_of_executions_are_deleted_and_others_stay(pool: Pool, tenant: Tenant) -> None:
    table = ExecutionLogs(pool)
    await table.add(lines(tenant.project_id, 1, 2) + lines(tenant.project_id, 1, attempt=2))
    await table.delete(EXECUTIONS[:1])
    page, _ = await table.page(tenant.project_id, JOB, EXECUTIONS)
    assert [line.execution_id for line in page] == EXECUTIONS[1:]


async def test_lines_of_an_execution_that_was_kept_are_not_deleted(
    pool: Pool, tenant: Tenant
) -> None:
    table = ExecutionLogs(pool)
    await table.add(lines(tenant.project_id, 1))
    async with acquire(pool) as connection:
        await connection.execute(
            "INSERT INTO job_executions (id, job_id, status, shard, lsn)"
            " VALUES ($1, $2, 'failed', 7, 1)",
            EXECUTIONS[0],
            JOB,
        )
    await table.delete(EXECUTIONS)
    page, _ = await table.page(tenant.project_id, JOB, EXECUTIONS)
    assert len(page) == 1


async def test_a_page_is_read_by_the_primary_key_of_one_partition(
    pool: Pool, tenant: Tenant
) -> None:
    table = ExecutionLogs(pool)
    async with acquire(pool) as connection:
        await ensure_partitions(connection)
    await asyncio.gather(
        *(table.add(lines(tenant.project_id, *range(n, n + 500))) for n in range(1, 3000, 500))
    )
    async with acquire(pool) as connection:
        await connection.execute("ANALYZE execution_logs")
        plan = json.loads(
            await connection.fetchval(
                "EXPLAIN (ANALYZE, FORMAT JSON) " + sql("log_list"),
                EXECUTIONS[:1],
                [log_id(EXECUTIONS[0], 0)],
                [log_id(EXECUTIONS[0], limits.LOG_NUMBER_MAX)],
                bytes(16),
                tenant.project_id,
                None,
                100,
            )
        )
    ran = [node for node in _nodes(plan[0]["Plan"]) if node["Actual Loops"]]
    (partition,) = {node["Relation Name"] for node in ran if "Relation Name" in node}
    # By the index or by its bitmap: the order in which lines were written decides. Behind the
    # cursor an execution has LOG_LINES_MAX lines at most: sorting them costs little.
    assert {node["Index Name"] for node in ran if "Index Name" in node} == {f"{partition}_pkey"}


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)
