"""Jobs as the tables have them: the same dict as in memory, by page, within a project."""

import random
from datetime import UTC, datetime, timedelta

import msgpack
import pytest

from taskforge_server.engine.errors import InvalidInput
from taskforge_server.engine.model.queue import QueueSettings
from taskforge_server.engine.store.job_queries import EPOCH, JobFilter, JobQueries
from taskforge_server.engine.store.pool import Connection, Pool
from taskforge_server.engine.store.queues import Queues
from taskforge_server.ext.ids import execution_id
from taskforge_server.ext.pure.table import ShardTable, SubmitBatch
from tests.integration.store.conftest import Tenant
from tests.support.rows import Rows, copy_executions, copy_jobs, copy_parts

START = datetime(2025, 3, 1, 23, 59, 0, tzinfo=UTC)
START_US = (START - EPOCH) // timedelta(microseconds=1)
OPTIONS = msgpack.packb({"idempotency_key": "k", "unique_key": "u", "tags": ["a", "b"]})


async def test_a_row_reads_like_memory(pool: Pool, connection: Connection) -> None:
    """The projection of a job, read back, is what the shard table said before it let go of it."""
    queue_id, project_id, worker_id = bytes(15) + b"q", bytes(15) + b"p", bytes(15) + b"w"
    table = ShardTable(5, 1)
    queue = table.queue(queue_id, project_id, "q", 0, 2)
    batch = SubmitBatch()
    for job_type in ("ends well", "ends badly", "waits", "later"):
        due_us = START_US + 10**9 if job_type == "later" else 0
        batch.add(job_type, b'{"a": [1, null]}', 3, due_us, 1500, 4, OPTIONS)
    ids = table.submit(queue, batch, START_US)
    job_ids = [ids[at : at + 16] for at in range(0, len(ids), 16)]
    _, count = table.start(queue, None, table.worker(worker_id), 2, START_US + 7)
    assert count == 2
    tokens = {token[:16]: token for token in table.running(table.worker(worker_id))}
    table.succeed_with(tokens[job_ids[0]], b'{"r": 1}', START_US + 8)
    table.failed(tokens[job_ids[1]], "error", b'{"type": "E", "message": "m"}', START_US + 9)
    table.cancelled(job_ids[2], "not needed", START_US + 10)
    expected = [(table.get(job_id), table.executions(job_id)) for job_id in job_ids]
    table.take_batch()
    table.committed(1)
    projection = table.collect(100, START_US + 10**9)
    assert projection is not None

    await copy_parts(connection, "jobs", projection.jobs_copy)
    await copy_parts(connection, "job_executions", projection.executions_copy)
    for job_id, one in zip(job_ids, expected, strict=True):
        found = await JobQueries(pool).get(project_id, job_id)
        assert found is not None
        assert found == one
        assert await JobQueries(pool).get(queue_id, job_id) is None, "another project"


async def test_pages_over_partitions(pool: Pool, connection: Connection, tenant: Tenant) -> None:
    await connection.execute("SELECT ensure_partitions('2025-03-01', '2025-03-02')")
    queue = await Queues(pool, 64).create(tenant.project_id, "q", 0, QueueSettings())
    rows = Rows(queue.shard, queue.id, tenant.project_id, START_US)
    states = ("succeeded", "pending", "failed")  # two of them have days, and midnight is among them
    jobs = [rows.job(status=states[number % 3]) for number in range(125)]
    await copy_jobs(connection, jobs)
    assert await connection.fetchval("SELECT count(DISTINCT tableoid) FROM jobs") == 3
    queries = JobQueries(pool)
    found: list[bytes] = []
    cursor = None
    for _ in range(13):
        page, cursor = await queries.page(tenant.project_id, [queue.id], JobFilter(), cursor, 10)
        found += [job["id"] for job in page]
    assert cursor is None
    assert found == [job["id"] for job in reversed(jobs)]


async def test_filters(pool: Pool, connection: Connection, tenant: Tenant) -> None:
    one, other = Rows(1, bytes(15) + b"1", tenant.project_id, START_US), None
    other = Rows(2, bytes(15) + b"2", tenant.project_id, START_US)
    jobs = [
        one.job(),
        one.job(status="failed", job_type="sms"),
        one.job(status="succeeded"),
        other.job(status="failed"),
        one.job(status="failed"),
    ]
    await copy_jobs(connection, jobs)

    async def found(wanted: JobFilter, *queues: Rows) -> list[int]:
        ids = [rows.queue_id for rows in queues]
        page, _ = await JobQueries(pool).page(tenant.project_id, ids, wanted)
        return sorted(jobs.index(next(j for j in jobs if j["id"] == job["id"])) for job in page)

    assert await found(JobFilter(), one) == [0, 1, 2, 4]
    assert await found(JobFilter(), one, other) == [0, 1, 2, 3, 4]
    assert await found(JobFilter(), other) == [3]
    assert await found(JobFilter()) == []
    assert await found(JobFilter(statuses=("failed", "succeeded")), one) == [1, 2, 4]
    assert await found(JobFilter(statuses=("failed",), job_type="sms"), one) == [1]
    second = timedelta(seconds=1)
    assert await found(JobFilter(created_from=START + 2 * second), one) == [1, 2, 4]
    assert await found(JobFilter(created_before=START + 2 * second), one) == [0]
    between = JobFilter(created_from=START + 2 * second, created_before=START + 4 * second)
    assert await found(between, one) == [1, 2]
    edge = JobFilter(
        created_from=datetime.min.replace(tzinfo=UTC),
        created_before=datetime.max.replace(tzinfo=UTC),
    )
    assert await found(edge, one) == [0, 1, 2, 4]


async def test_attempts_come_in_order(pool: Pool, connection: Connection, tenant: Tenant) -> None:
    rows = Rows(1, bytes(16), tenant.project_id, START_US)
    job = rows.job(status="succeeded", attempts=3)
    await copy_jobs(connection, [job])
    statuses = {3: "succeeded", 1: "failed", 2: "retrying"}
    attempts = [rows.execution(job, number, status=statuses[number]) for number in statuses]
    await copy_executions(connection, attempts)
    found = await JobQueries(pool).get(tenant.project_id, job["id"])
    assert found is not None
    assert [entry["attempt_number"] for entry in found[1]] == [1, 2, 3]


async def test_attempts_are_found_before_their_job_is(
    pool: Pool, connection: Connection, tenant: Tenant
) -> None:
    rows = Rows(1, bytes(16), tenant.project_id, START_US)
    job = rows.job(status="succeeded", attempts=2)
    attempts = [rows.execution(job, 1, status="retrying"), rows.execution(job, 2)]
    await copy_executions(connection, attempts)
    assert await JobQueries(pool).get(tenant.project_id, job["id"]) is None
    known = {"id": job["id"], "attempt": 2, "started_us": job["started_at"]}
    found = await JobQueries(pool).executions(known)
    assert [entry["attempt_number"] for entry in found] == [1, 2]


async def test_ids_of_attempts_are_the_same_in_sql(connection: Connection) -> None:
    some = random.Random(1)
    for _ in range(200):
        job_id = execution_id(some.randbytes(16), some.randrange(300), some.randrange(1 << 50))
        number, started_us = some.randrange(33_000), some.randrange(1 << 51)
        assert execution_id(job_id, number, started_us) == await connection.fetchval(
            "SELECT execution_id($1, $2, $3)",
            *(job_id, number, EPOCH + timedelta(microseconds=started_us)),
        )


async def test_a_broken_cursor(pool: Pool) -> None:
    with pytest.raises(InvalidInput):
        await JobQueries(pool).page(bytes(16), [bytes(16)], JobFilter(), "nonsense")
