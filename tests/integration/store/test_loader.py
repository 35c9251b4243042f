"""What a new owner of a shard reads: unfinished jobs in order, keys, watermarks."""

from datetime import UTC, datetime, timedelta

import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.store.job_queries import EPOCH
from taskforge_server.engine.store.loader import (
    expire_idempotency_keys,
    idempotency_keys,
    jobs_page,
    unfinished_jobs,
    watermarks,
)
from taskforge_server.engine.store.pool import Connection
from taskforge_server.ext.pure.table import ShardTable
from taskforge_server.ext.pure.tablejob import page_row
from taskforge_server.ext.pure.tablerows import JOB_COLUMNS, decode_row, split_rows
from tests.support.rows import Rows, copy_jobs, pending_each

START = datetime(2026, 11, 22, 12, tzinfo=UTC)
START_US = (START - EPOCH) // timedelta(microseconds=1)
QUEUE, PROJECT = bytes(15) + b"q", bytes(15) + b"p"


async def test_rows_come_whole_and_in_order(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LOAD_CHUNK_BYTES", 2000)
    payload = b'"' + b"x" * 4000 + b'"'  # more than a socket gives at once
    rows, foreign = Rows(3, QUEUE, PROJECT, START_US), Rows(4, QUEUE, PROJECT, START_US)
    jobs = [rows.job(priority=number % 10, payload=payload) for number in range(500)]
    jobs += [rows.job(status=status) for status in ("scheduled", "processing")]
    finished = [rows.job(status=status) for status in ("succeeded", "failed", "cancelled")]
    await copy_jobs(connection, jobs + finished + [foreign.job()])

    chunks = [chunk async for chunk in unfinished_jobs(connection, 3, running=True)]
    assert len(chunks) == 1
    chunks += [chunk async for chunk in unfinished_jobs(connection, 3, running=False)]
    assert len(chunks) > 3
    found = []
    for chunk in chunks:
        found += [decode_row(JOB_COLUMNS, chunk[a:b]) for a, b in split_rows(chunk)]
    wanted = sorted(
        jobs, key=lambda job: (job["status"] != "processing", -job["priority"], job["id"])
    )
    assert [row["id"] for row in found] == [job["id"] for job in wanted]

    table = ShardTable(3, 1)
    table.queue(QUEUE, PROJECT, "q", 0, 2)
    assert sum(table.load(chunk) for chunk in chunks) == len(jobs)
    assert table.jobs_resident == len(jobs)


async def test_a_page_has_each_column_of_its_jobs(connection: Connection) -> None:
    """Alone and beside all others: none is left out, and none hides another."""
    jobs = pending_each(Rows(3, QUEUE, PROJECT, START_US))
    await copy_jobs(connection, jobs)
    chunks = jobs_page(connection, 3, QUEUE, "email", (9, bytes(16)), len(jobs) + 1)
    data = b"".join([chunk async for chunk in chunks])
    jobs.sort(key=lambda job: (-job["priority"], job["id"]))
    assert [data[a:b] for a, b in split_rows(data)] == [page_row(job) for job in jobs]


async def test_an_empty_shard(connection: Connection) -> None:
    chunks = [chunk async for chunk in unfinished_jobs(connection, 0, running=False)]
    assert [split_rows(chunk) for chunk in chunks] == [[]]


async def test_a_reader_that_stops_early(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LOAD_CHUNK_BYTES", 100)
    rows = Rows(3, QUEUE, PROJECT, START_US)
    await copy_jobs(connection, [rows.job() for _ in range(5000)])
    reader = unfinished_jobs(connection, 3, running=False)
    assert await anext(reader)
    await reader.aclose()  # type: ignore[attr-defined]


async def test_keys(connection: Connection) -> None:
    old = START - timedelta(seconds=limits.IDEMPOTENCY_KEY_RETENTION_S)
    for key, shard, created_at in (
        ("b", 3, START - timedelta(seconds=1)),
        ("a", 3, START - timedelta(seconds=2)),
        ("other shard", 4, START),
        ("too old", 3, old),
    ):
        await connection.execute(
            "INSERT INTO idempotency_keys VALUES ($1, $2, $3, $4, $5, $6)",
            *(PROJECT, key, shard, b"hash", QUEUE * 2, created_at),
        )
    found = await idempotency_keys(connection, 3, START_US)
    assert [(entry.key, entry.created_us) for entry in found] == [
        ("a", START_US - 2_000_000),
        ("b", START_US - 1_000_000),
    ]
    assert found[0][:4] == (PROJECT, "a", b"hash", QUEUE * 2)
    assert await expire_idempotency_keys(connection, START_US + 1, 10) == 1
    assert await expire_idempotency_keys(connection, START_US + 1, 10) == 0


async def test_watermarks(connection: Connection) -> None:
    await connection.execute("INSERT INTO shard_projection (shard, lsn) VALUES (1, 7), (2, 8)")
    assert await watermarks(connection, [0, 1]) == {0: 0, 1: 7}
