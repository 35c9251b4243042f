"""What a shard table projects is what the real tables take, and what they give back it loads."""

from typing import Any

import msgpack

from taskforge_server.engine.model.joboptions import pack_told
from taskforge_server.engine.store.loader import unfinished_jobs
from taskforge_server.engine.store.pool import Connection
from taskforge_server.ext.pure.tablelog import NEVER_US
from tests.support.rows import copy_parts
from tests.support.table_bench import ERROR, NOW_US, SHARD, Bench
from tests.unit.ext.conftest import impl

__all__ = ["impl"]  # the fixture: both implementations

# As jsonb writes it, so that it comes back the same.
MORE = b'{"parents": {"a": 1}, "expires_us": 7}'
HELD = pack_told({"tags": ["t"], "waiting_on": 3, "more": MORE, "keep": True})
PAYLOAD = '{"ü": [1, 2.5, null], "text": "'.encode() + b"x" * 3_000 + b'"}'


def busy(bench: Bench) -> None:
    """Jobs in every state, with every kind of column filled."""
    options = msgpack.packb(
        {"idempotency_key": "i", "unique_key": "ü", "group_key": "", "tags": ["a", "", "å"]}
    )
    bench.submit({"priority": 9, "timeout_ms": 1_500, "options": options, "payload": PAYLOAD})
    (token,) = bench.start()
    bench.table.failed(token, "attempts_exhausted", ERROR, NOW_US + 1)
    bench.submit({"options": options, "payload": PAYLOAD})
    (token,) = bench.start()
    bench.table.succeed_with(token, PAYLOAD, NOW_US + 1)
    (job_id,) = bench.submit({"max_attempts": 32767})
    bench.table.cancelled(job_id, "not wanted", NOW_US)
    bench.submit({"priority": 9, "payload": b"1"}, {"priority": 8, "payload": b"true"})
    first, _ = bench.start()
    bench.table.retried(first, NOW_US + 9, b'{"a": 1}', NOW_US + 2)
    bench.submit({"timeout_ms": 2_001, "payload": PAYLOAD, "priority": 1})
    bench.start()
    late = {"due_us": NOW_US + 1_234_567, "payload": b"null", "options": options}
    bench.submit(late, {"payload": PAYLOAD, "options": options, "max_attempts": 7})
    bench.submit({"due_us": NEVER_US, "options": HELD, "payload": b"1"})


async def test_rows_go_in_and_come_back(connection: Connection, impl: Any) -> None:
    bench = Bench(impl)
    busy(bench)
    p = bench.project()
    await copy_parts(connection, "jobs", p.jobs_copy)
    await copy_parts(connection, "job_executions", p.executions_copy)
    assert (p.jobs_copy_rows, p.executions_copy_rows) == (9, 5)

    twin = Bench(impl)
    loaded = [
        twin.table.load(chunk)
        for running in (True, False)
        async for chunk in unfinished_jobs(connection, SHARD, running)
    ]
    assert sum(loaded) == 6
    twin.table.adopt(1)
    assert twin.table.snapshot() == bench.table.snapshot()


async def test_columns_say_what_happened(connection: Connection, impl: Any) -> None:
    bench = Bench(impl)
    busy(bench)
    p = bench.project()
    await copy_parts(connection, "jobs", p.jobs_copy)
    await copy_parts(connection, "job_executions", p.executions_copy)
    found = await connection.fetch("TABLE jobs ORDER BY id")
    failed, succeeded, cancelled, retried, *_ = found
    assert [row["status"] for row in found] == [
        *("failed", "succeeded", "cancelled", "scheduled"),
        *("processing", "processing", "scheduled", "pending", "scheduled"),
    ]
    held = found[-1]
    assert (held["scheduled_for"], held["waiting_on"], held["keep"]) == (None, 3, True)
    assert held["options"] == MORE.decode()
    assert (failed["waiting_on"], failed["options"], failed["keep"]) == (None, None, None)
    assert failed["failed_reason"] == "attempts_exhausted"
    assert failed["last_error"] is not None
    assert (failed["timeout_s"], failed["tags"]) == (1.5, ["a", "", "å"])
    assert (failed["unique_key"], failed["group_key"]) == ("ü", "")
    assert succeeded["result"] == PAYLOAD.decode()
    assert cancelled["cancel_reason"] == "not wanted"
    assert retried["last_error"] == '{"a": 1}'
    assert (retried["scheduled_for"] - retried["updated_at"]).microseconds == 7
    attempts = await connection.fetch("TABLE job_executions ORDER BY id")
    assert sorted(row["status"] for row in attempts) == [
        *("failed", "retrying", "started", "started", "succeeded"),
    ]
    assert {row["job_id"] for row in attempts} <= {row["id"] for row in found}
