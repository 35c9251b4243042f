"""Rows of a page, over both implementations: all that a pending job may have, and damaged ones."""

from functools import partial
from types import ModuleType

import msgpack
import pytest

from taskforge_server.ext.pure.tablejob import page_row
from taskforge_server.ext.pure.tablerows import JOB_COLUMNS, encode_row
from tests.support.rows import PENDING_MORE, Rows, pending_each
from tests.support.table_bench import ERROR, NOW_US, PROJECT, QUEUE, SHARD, Bench, jobs_of


def test_a_page_has_all_of_a_job(impl: ModuleType) -> None:
    """What its row leaves out follows from the lane, or is what most jobs have."""
    bench = Bench(impl)
    named = {"idempotency_key": "i", "unique_key": "ü", "tags": ["a", ""], "keep": True}
    told = {"priority": 7, "options": msgpack.packb(named | {"more": b"{}"})}
    bench.submit(told | {"timeout_ms": 1_500, "max_attempts": 3}, {}, {"due_us": NOW_US + 1})
    bench.table.due(NOW_US + 2, 10)
    (urgent, plain, _) = bench.start(now_us=NOW_US + 2)
    assert bench.table.released(urgent, ERROR, NOW_US + 3)
    assert bench.table.returned(plain, ERROR, NOW_US + 3)
    bench.submit({})
    rows = [row for row in jobs_of(bench.project()) if row["status"] == "pending"]
    rows.sort(key=lambda row: (-row["priority"], row["id"]))
    assert len(rows) == 3
    whole, paged = Bench(impl), Bench(impl)
    whole.table.load(b"".join(encode_row(JOB_COLUMNS, row) for row in rows))
    page = b"".join(page_row(row) for row in rows)
    with pytest.raises(ValueError, match="no rows are being read"):
        paged.table.next_in(0, "mail", page)
    paged.table.begin_reading()
    foreign = page[:6] + bytes(16) + page[22:]
    for damaged in (page[: len(page) // 4], foreign, encode_row(JOB_COLUMNS, rows[0])):
        with pytest.raises(ValueError, match=r"."):
            paged.table.next_in(0, "mail", damaged)
    assert paged.table.next_in(0, "mail", page) == 3
    paged.table.end_reading(3)
    assert paged.table.snapshot() == whole.table.snapshot()


def test_a_page_has_each_column_of_a_job(impl: ModuleType) -> None:
    """All that a pending job may have, alone and beside all others."""
    rows = pending_each(Rows(SHARD, QUEUE, PROJECT, NOW_US))
    each = {"id", "payload", "lsn", "created_at"}
    lane = {"queue_id", "project_id", "job_type", "status", "shard"}
    running = {"lease_lsn", "worker_id", "deadline_at"}
    over = {"finished_at", "result", "failed_reason", "cancel_reason", "history_until"}
    assert PENDING_MORE.keys() == {*rows[0]} - each - lane - running - over
    rows.sort(key=lambda row: (-row["priority"], row["id"]))
    whole, paged = Bench(impl), Bench(impl)
    whole.table.load(b"".join(encode_row(JOB_COLUMNS, row | {"job_type": "mail"}) for row in rows))
    paged.table.begin_reading()
    assert paged.table.next_in(0, "mail", b"".join(map(page_row, rows))) == len(rows)
    paged.table.end_reading(len(rows))
    jobs = paged.table.snapshot()
    assert jobs == whole.table.snapshot()
    assert len({repr(job | {"id": b"", "created_us": 0}) for job in jobs}) > len(PENDING_MORE)


def test_an_empty_error_is_damage(impl: ModuleType) -> None:
    """A jsonb says its version at least; alone, and in a page."""
    error = b'{"type": "E"}'
    whole, cut = [
        size.to_bytes(4) + text for size, text in ((len(error) + 1, b"\1" + error), (0, b""))
    ]
    row = dict.fromkeys(column.name for column in JOB_COLUMNS)
    row |= Rows(SHARD, QUEUE, PROJECT, NOW_US).job(job_type="mail", last_error=error)
    bench = Bench(impl)
    bench.table.begin_reading()
    for encoded, read in (
        (encode_row(JOB_COLUMNS, row), bench.table.load),
        (page_row(row), partial(bench.table.next_in, 0, "mail")),
    ):
        assert encoded.count(whole) == 1
        with pytest.raises(ValueError, match=r"."):
            read(encoded.replace(whole, cut))
