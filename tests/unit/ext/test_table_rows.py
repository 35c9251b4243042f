"""What a shard table gives to the tables and takes from them, over both implementations."""

from types import ModuleType

import msgpack
import pytest

from taskforge_server.ext.pure import ids
from taskforge_server.ext.pure.tablerows import (
    EXECUTION_COLUMNS,
    JOB_COLUMNS,
    SIGNATURE,
    decode_row,
    split_rows,
)
from tests.support.table_bench import (
    ERROR,
    HISTORY_ALL,
    HISTORY_FAILED,
    HISTORY_NONE,
    NOW_US,
    PROJECT,
    QUEUE,
    SHARD,
    WORKER,
    Bench,
    executions_of,
    jobs_of,
)
from tests.support.table_pair import read_rows


class TestProjection:
    def test_row_of_a_finished_job(self, impl: ModuleType) -> None:
        bench = Bench(impl, timeout_ms=9_000)
        named = {"idempotency_key": "i", "unique_key": "ü", "group_key": "g", "tags": ["a", ""]}
        options = msgpack.packb(named)
        bench.submit({"priority": 7, "options": options, "timeout_ms": 1_500, "max_attempts": 3})
        (token,) = bench.start(now_us=NOW_US + 1)
        bench.table.succeed_with(token, b'{"ok":1}', NOW_US + 2)
        p = bench.project()
        assert (p.shard, p.watermark, p.rows) == (SHARD, 1, 2)
        (job,) = read_rows(JOB_COLUMNS, *p.jobs_copy)
        assert {name: value for name, value in job.items() if value is not None} == {
            "id": token[:16],
            "queue_id": QUEUE,
            "project_id": PROJECT,
            "job_type": "mail",
            "payload": b'{"to":1}',
            "status": "succeeded",
            "priority": 7,
            "created_at": NOW_US,
            "updated_at": NOW_US + 2,
            "started_at": NOW_US + 1,
            "finished_at": NOW_US + 2,
            "shard": SHARD,
            "lsn": 1,
            "attempts": 1,
            "crashes": 0,
            "max_attempts": 3,
            "timeout_s": 1.5,
            "result": b'{"ok":1}',
            **named,
        }
        (execution,) = read_rows(EXECUTION_COLUMNS, *p.executions_copy)
        assert execution == {
            "id": ids.execution_id(token[:16], 1, NOW_US + 1),
            "job_id": token[:16],
            "worker_id": WORKER,
            "status": "succeeded",
            "output": b'{"ok":1}',
            "attempt_number": 1,
            "started_at": NOW_US + 1,
            "finished_at": NOW_US + 2,
            "created_at": NOW_US + 1,
            "error": None,
            "shard": SHARD,
            "lsn": 1,
        }
        assert bench.table.jobs_resident == 0

    def test_rows_have_all_columns_where_a_rare_one_is_not_null(self, bench: Bench) -> None:
        told = msgpack.packb({"tags": ["a"]})
        bench.submit({}, {"due_us": NOW_US + 9}, {"options": told}, *({"priority": 1},) * 6)
        ends, gives, fails, retries, returns, _ = bench.start(6)
        bench.table.succeed(ends, NOW_US)
        bench.table.succeed_with(gives, b"1", NOW_US)
        bench.table.failed(fails, "error", ERROR, NOW_US)
        bench.table.retried(retries, NOW_US + 9, ERROR, NOW_US)
        bench.table.returned(returns, ERROR, NOW_US)
        p = bench.project()
        jobs = [read_rows(JOB_COLUMNS, part) for part in p.jobs_copy]
        runs = [read_rows(EXECUTION_COLUMNS, part) for part in p.executions_copy]
        statuses = [" ".join(sorted(row["status"] for row in part)) for part in jobs]
        assert statuses[:2] == ["failed", "succeeded succeeded"]
        assert statuses[2:] == ["pending pending processing scheduled", "pending scheduled"]
        of_jobs = [column.name for column in JOB_COLUMNS if column.rare]
        of_runs = ["output", "error"]
        for rare, full, short in ((of_jobs, *jobs[:2]), (of_jobs, *jobs[2:]), (of_runs, *runs)):
            assert all(any(row[name] is not None for name in rare) for row in full)
            assert not any(row[name] is not None for name in rare for row in short)
        heads = [int.from_bytes(part[:2]) for part in (*p.jobs_copy, *p.executions_copy)]
        assert heads == [34, 19, 34, 19, 12, 10]

    def test_rows_of_other_ends(self, bench: Bench) -> None:
        failed, cancelled = bench.submit({"priority": 1}, {})
        (token,) = bench.start(most=1)
        bench.table.failed(token, "timeout", ERROR, NOW_US)
        bench.table.cancelled(cancelled, "not wanted", NOW_US)
        first, second = jobs_of(bench.project())
        assert (first["id"], first["failed_reason"], first["last_error"]) == (
            failed,
            "timeout",
            ERROR,
        )
        assert (first["cancel_reason"], first["result"]) == (None, None)
        assert (second["status"], second["cancel_reason"]) == ("cancelled", "not wanted")
        assert (second["failed_reason"], second["started_at"]) == (None, None)

    def test_empty_tags_are_null(self, bench: Bench) -> None:
        bench.submit({"options": msgpack.packb({"tags": [], "other": 1})})
        (row,) = jobs_of(bench.project())
        assert row["tags"] is None

    def test_binary_row_as_the_server_wants_it(self, bench: Bench) -> None:
        bench.submit({"options": msgpack.packb({"tags": ["ab"]})})
        row = b"".join(bench.project().jobs_copy)
        assert row[:2] == (34).to_bytes(2, "big")
        jsonb = b"\x00\x00\x00\x09\x01" + b'{"to":1}'
        assert jsonb in row
        words = (34 - 8, 1, 0, 25, 1, 1, 2)
        assert b"".join(word.to_bytes(4, "big") for word in words) + b"ab" in row
        since_2000 = (8).to_bytes(4, "big") + (NOW_US - 946_684_800_000_000).to_bytes(8, "big")
        assert since_2000 in row

    def test_undurable_changes_stay(self, bench: Bench) -> None:
        token = bench.running()
        assert bench.collect() is None
        lsn, _, _ = bench.table.take_batch()
        assert bench.collect() is None
        bench.table.committed(lsn)
        bench.table.succeed(token, NOW_US)
        p = bench.collect()
        assert p is None, "its newest event is not durable"
        assert bench.table.unprojected == 1

    def test_open_jobs_wait_until_they_settled(self, bench: Bench) -> None:
        token = bench.running()
        bench.commit()
        assert bench.collect(settled_us=NOW_US - 1) is None
        p = bench.collect(settled_us=NOW_US)
        (job,) = read_rows(JOB_COLUMNS, *p.jobs_copy)
        assert (job["status"], job["worker_id"], job["lease_lsn"]) == ("processing", WORKER, 1)
        (execution,) = read_rows(EXECUTION_COLUMNS, *p.executions_copy)
        assert (execution["status"], execution["finished_at"]) == ("started", None)
        bench.table.projected(p)
        assert bench.table.unprojected == 0
        bench.table.succeed(token, NOW_US + 1)
        p = bench.project(settled_us=0)
        assert (p.jobs_copy_rows, p.jobs_merge_rows) == (0, 1)
        assert (p.executions_copy_rows, p.executions_merge_rows) == (0, 1)
        assert read_rows(EXECUTION_COLUMNS, *p.executions_merge)[0]["id"] == execution["id"]

    def test_a_later_attempt_of_a_swept_job_is_new(self, bench: Bench) -> None:
        token = bench.running()
        bench.project()
        bench.table.released(token, ERROR, NOW_US)
        (token,) = bench.start()
        bench.table.succeed(token, NOW_US)
        p = bench.project()
        assert (p.executions_merge_rows, p.executions_copy_rows) == (1, 1)
        assert [row["attempt_number"] for row in executions_of(p)] == [2, 1]

    def test_the_watermark_stays_below_open_changes(self, bench: Bench) -> None:
        bench.submit()
        bench.commit()
        bench.submit({}, {})
        (token,) = bench.start(most=1)
        bench.commit()
        bench.table.succeed(token, NOW_US)
        bench.commit()
        p = bench.collect(settled_us=0)
        assert (p.watermark, p.jobs_copy_rows) == (1, 1)
        bench.table.projected(p)
        bench.table.cancelled(bench.submit()[0], "cancelled", NOW_US)
        assert bench.collect(settled_us=0) is None
        bench.commit()
        p = bench.collect()
        assert (p.watermark, p.jobs_copy_rows) == (4, 3)

    def test_the_watermark_moves_without_rows(self, bench: Bench) -> None:
        bench.table.owned("node", 1, NOW_US)
        p = bench.project()
        assert (p.rows, p.watermark) == (0, 1)
        assert bench.collect() is None

    def test_the_watermark_stays_at_what_is_durable(self, bench: Bench) -> None:
        bench.table.owned("node", 1, NOW_US)
        bench.commit()
        bench.table.owned("node", 2, NOW_US)
        bench.table.take_batch()
        bench.submit()
        assert bench.collect().watermark == 1

    def test_rows_max_takes_the_oldest(self, bench: Bench) -> None:
        job_ids = bench.submit({}, {}, {})
        bench.commit()
        p = bench.collect(rows_max=2)
        assert [row["id"] for row in jobs_of(p)] == job_ids[:2]
        assert p.watermark == 0
        p = bench.collect(rows_max=2)
        assert [row["id"] for row in jobs_of(p)] == job_ids[2:]
        assert p.watermark == 1

    def test_a_job_that_changed_meanwhile_is_written_again(self, bench: Bench) -> None:
        token = bench.running()
        bench.commit()
        first = bench.collect()
        bench.table.succeed(token, NOW_US + 1)
        bench.commit()
        second = bench.collect(settled_us=0)
        assert (second.jobs_copy_rows, second.jobs_merge_rows) == (0, 1)
        bench.table.projected(first)
        assert (bench.table.jobs_resident, bench.table.unprojected) == (1, 1)
        bench.table.projected(second)
        assert (bench.table.jobs_resident, bench.table.unprojected) == (0, 0)

    def test_a_job_of_a_projection_under_way_makes_the_next_one_overlap(self, bench: Bench) -> None:
        tokens = bench.running(), bench.running()
        assert bench.project().overlaps  # a table that the shard had before may be written yet
        under_way = []
        for token in tokens:
            bench.table.succeed(token, NOW_US + 1)
            bench.commit()
            under_way.append(bench.collect())
        (job_id,) = bench.submit()
        bench.commit()
        under_way.append(bench.collect())
        assert not any(p.overlaps for p in under_way)
        bench.table.cancelled(job_id, "cancelled", NOW_US)
        bench.commit()
        under_way.append(bench.collect())
        assert under_way[-1].overlaps
        for p in under_way:
            bench.table.projected(p)
        bench.submit()
        assert not bench.project().overlaps

    def test_a_final_job_that_was_requeued_meanwhile_stays(self, bench: Bench) -> None:
        (job_id,) = bench.submit()
        bench.table.cancelled(job_id, "cancelled", NOW_US)
        bench.commit()
        p = bench.collect()
        bench.table.requeue(bench.job(job_id), NOW_US)
        bench.table.projected(p)
        assert bench.job(job_id)["status"] == "pending"
        assert bench.project().jobs_merge_rows == 1

    def test_projections_are_confirmed_in_order_and_once(self, bench: Bench) -> None:
        bench.submit({}, {})
        bench.commit()
        first, second = bench.collect(rows_max=1), bench.collect(rows_max=1)
        with pytest.raises(ValueError, match=r"."):
            bench.table.projected(second)
        bench.table.projected(first)
        with pytest.raises(ValueError, match=r"."):
            bench.table.projected(first)
        bench.table.projected(second)

    def test_keys(self, bench: Bench) -> None:
        bench.table.keyed(PROJECT, "ä", b"hash", b"i" * 32, NOW_US)
        assert bench.collect() is None
        bench.commit()
        p = bench.collect()
        assert p.keys == [(PROJECT, "ä", b"hash", b"i" * 32, NOW_US)]
        assert (p.rows, p.watermark) == (0, 1)


class TestHistory:
    def attempts(self, bench: Bench, end: str) -> bytes:
        """A job with a retried, a released and a last attempt."""
        token = bench.running()
        bench.table.retried(token, NOW_US + 1, ERROR, NOW_US)
        bench.table.due(NOW_US + 1, 10)
        bench.commit()
        (token,) = bench.start()
        bench.table.released(token, ERROR, NOW_US)
        bench.commit()
        (token,) = bench.start()
        if end == "succeeded":
            bench.table.succeed(token, NOW_US)
        else:
            bench.table.failed(token, "error", ERROR, NOW_US)
        return token[:16]

    @pytest.mark.parametrize(
        ("history", "end", "jobs", "executions"),
        [
            (HISTORY_ALL, "succeeded", 1, ["retrying", "retrying", "succeeded"]),
            (HISTORY_ALL, "failed", 1, ["retrying", "retrying", "failed"]),
            (HISTORY_FAILED, "succeeded", 0, []),
            (HISTORY_FAILED, "failed", 1, ["retrying", "retrying", "failed"]),
            (HISTORY_NONE, "succeeded", 0, []),
            (HISTORY_NONE, "failed", 0, []),
        ],
    )
    def test_what_a_finished_job_leaves(
        self, impl: ModuleType, history: int, end: str, jobs: int, executions: list[str]
    ) -> None:
        bench = Bench(impl, history)
        self.attempts(bench, end)
        p = bench.project()
        assert (p.jobs_copy_rows, p.jobs_merge_rows, p.deletes) == (jobs, 0, b"")
        assert [row["status"] for row in read_rows(EXECUTION_COLUMNS, *p.executions_copy)] == (
            executions
        )
        assert (bench.table.jobs_resident, bench.table.unprojected, p.watermark) == (0, 0, 3)

    @pytest.mark.parametrize("history", [HISTORY_FAILED, HISTORY_NONE])
    def test_a_row_that_was_swept_is_deleted(self, impl: ModuleType, history: int) -> None:
        bench = Bench(impl, history)
        token = bench.running()
        p = bench.project()
        assert p.jobs_copy_rows == 1
        assert p.executions_copy_rows == (history == HISTORY_FAILED)
        bench.table.succeed(token, NOW_US)
        p = bench.project()
        assert (p.rows, p.deletes) == (0, token[:16] + (2).to_bytes(8, "big"))
        assert bench.table.jobs_resident == 0

    @pytest.mark.parametrize("history", [HISTORY_FAILED, HISTORY_NONE])
    @pytest.mark.parametrize("ended", [False, True])
    def test_attempts_that_came_before_their_job_go_with_it(
        self, impl: ModuleType, history: int, ended: bool
    ) -> None:
        """The queue's history changes after an attempt was written, and before its job is: while
        it runs again, or when it has ended. The order must not leave one without its job."""
        bench = Bench(impl, HISTORY_ALL)
        token = bench.running()
        bench.table.retried(token, NOW_US, ERROR, NOW_US)
        bench.commit()
        p = bench.collect(settled_us=0)
        assert (p.jobs_copy_rows, p.executions_copy_rows) == (0, 1)
        bench.table.projected(p)
        bench.table.due(NOW_US, 10)
        (token,) = bench.start()
        if ended:
            bench.table.succeed(token, NOW_US)
        bench.define(history)
        if not ended:
            bench.table.succeed(token, NOW_US)
        p = bench.project()
        assert (p.jobs_copy_rows + p.jobs_merge_rows, len(p.deletes)) == (0, 24)
        assert p.deletes[:16] == token[:16]
        assert bench.table.jobs_resident == 0

    def test_held_attempts_go_with_the_sweep(self, impl: ModuleType) -> None:
        """The watermark passes them, so they must not stay in memory alone."""
        bench = Bench(impl, HISTORY_FAILED)
        token = bench.running()
        bench.table.retried(token, NOW_US + 1, ERROR, NOW_US)
        assert len(bench.table.executions(token[:16])) == 1
        bench.commit()
        assert bench.collect(settled_us=0) is None
        p = bench.collect()
        assert [row["status"] for row in executions_of(p)] == ["retrying"]

    def test_only_the_newest_hundred_attempts_are_held(self, impl: ModuleType) -> None:
        bench = Bench(impl, HISTORY_FAILED)
        token = bench.running()
        for _ in range(104):
            bench.table.released(token, ERROR, NOW_US)
            bench.commit()
            (token,) = bench.start()
        bench.table.failed(token, "error", ERROR, NOW_US)
        numbers = [row["attempt_number"] for row in executions_of(bench.project())]
        assert numbers == list(range(6, 106))

    def test_an_attempt_that_a_sweep_wrote_is_ended_also_when_it_is_not_held(
        self, impl: ModuleType
    ) -> None:
        bench = Bench(impl, HISTORY_FAILED)
        token = bench.running()
        assert [row["status"] for row in executions_of(bench.project())] == ["started"]
        for _ in range(101):
            bench.table.released(token, ERROR, NOW_US)
            bench.commit()
            (token,) = bench.start()
        (ended,) = executions_of(bench.collect(settled_us=0))
        assert (ended["attempt_number"], ended["status"]) == (1, "retrying")

    def test_a_cancelled_job_keeps_its_attempts(self, impl: ModuleType) -> None:
        bench = Bench(impl, HISTORY_FAILED)
        token = bench.running()
        bench.table.released(token, ERROR, NOW_US)
        bench.table.cancelled(token[:16], "cancelled", NOW_US)
        p = bench.project()
        assert (p.jobs_copy_rows, p.executions_copy_rows) == (1, 1)
        (row,) = jobs_of(p)
        assert (row["last_error"], row["crashes"]) == (ERROR, 1)


class TestLoad:
    def rows(self, impl: ModuleType) -> tuple[Bench, bytes]:
        """A pending, a scheduled, a retried and a running job, and their rows."""
        bench = Bench(impl)
        options = msgpack.packb({"unique_key": "u", "tags": ["x"]})
        bench.submit({"options": options}, {"due_us": NOW_US + 5}, {"priority": 9, "timeout_ms": 7})
        bench.submit({"priority": 8, "job_type": "resize"})
        first, _ = bench.start(most=2)
        bench.table.retried(first, NOW_US + 9, ERROR, NOW_US + 2)
        p = bench.project()
        assert p.jobs_copy_rows == 4
        return bench, b"".join(p.jobs_copy)

    @pytest.mark.parametrize("file", [False, True])
    def test_rows_come_back_as_the_jobs_they_were(self, impl: ModuleType, file: bool) -> None:
        bench, rows = self.rows(impl)
        data = SIGNATURE + bytes(8) + rows + b"\xff\xff" if file else rows
        twin = Bench(impl)
        assert twin.table.load(data) == 4
        twin.table.adopt(1)
        assert twin.table.snapshot() == bench.table.snapshot()
        assert twin.table.running(0) == bench.table.running(0)
        assert twin.table.counts(0) == (1, 2, 1)
        assert twin.table.unprojected == 0
        assert twin.table.holds(bench.table.running(0)[0])
        assert twin.table.next_due_us() == NOW_US + 5

    def test_loaded_jobs_are_merged_later(self, impl: ModuleType) -> None:
        _, rows = self.rows(impl)
        twin = Bench(impl)
        twin.table.load(rows)
        twin.table.adopt(1)
        twin.table.succeed(twin.table.running(0)[0], NOW_US + 10)
        for token in twin.start(now_us=NOW_US + 10):
            twin.table.succeed(token, NOW_US + 11)
        p = twin.project()
        assert (p.jobs_copy_rows, p.jobs_merge_rows) == (0, 2)
        assert (p.executions_copy_rows, p.executions_merge_rows) == (1, 1)

    def test_a_replayed_running_attempt_is_merged_later(self, bench: Bench) -> None:
        """Its row may have been swept before the table was lost."""
        token = bench.running()
        twin = Bench(bench.impl)
        twin.table.replay(1, bench.commit())
        twin.table.succeed(token, NOW_US)
        p = twin.project()
        assert (p.executions_copy_rows, p.executions_merge_rows) == (0, 1)

    def test_loaded_jobs_wait_in_order_of_their_ids(self, impl: ModuleType) -> None:
        bench = Bench(impl)
        job_ids = bench.submit({}, {"priority": 1}, {}, {"priority": 1})
        twin = Bench(impl)
        twin.table.load(b"".join(bench.project().jobs_copy))
        assert [t[:16] for t in twin.start()] == [job_ids[i] for i in (1, 3, 0, 2)]

    def test_nothing_overtakes_jobs_that_are_away(self, impl: ModuleType) -> None:
        bench = Bench(impl)
        job_ids = bench.submit({"priority": 5}, {"priority": 5}, {"priority": 1})
        rows = b"".join(bench.project().jobs_copy)
        first, second, third = (rows[start:end] for start, end in impl.split_rows(rows))
        twin = Bench(impl)
        twin.table.begin_reading()
        twin.table.page_in(first)
        twin.table.end_reading(1)
        twin.table.count_away(QUEUE, PROJECT, 3, 0)
        assert (twin.table.counts(0), twin.table.away_jobs) == ((3, 0, 0), 2)
        (late,) = twin.submit({"priority": 5}, now_us=NOW_US + 1_000_000)
        (urgent,) = twin.submit({"priority": 9}, now_us=NOW_US + 2_000_000)
        assert [t[:16] for t in twin.start()] == [urgent, job_ids[0]]
        assert twin.start() == []
        assert twin.table.short(1) == [(0, QUEUE, "mail")]
        twin.table.begin_reading()
        assert twin.table.place(0, "mail") == (5, job_ids[0])
        twin.table.page_in(second)
        assert [t[:16] for t in twin.start()] == [job_ids[1]]
        twin.table.page_in(third)
        twin.table.end_reading(3)
        assert twin.table.short(1) == []
        assert [t[:16] for t in twin.start()] == [late, job_ids[2]]

    def test_workers_of_other_types_do_not_wait_for_jobs_that_are_away(
        self, impl: ModuleType
    ) -> None:
        bench = Bench(impl)
        bench.submit({"job_type": "mail"}, {"job_type": "mail"})
        bench.project()
        assert bench.table.release(0, "mail", 0, 10) == 2
        (other,) = bench.submit({"job_type": "resize"})
        assert bench.start(types=frozenset({"mail"})) == []
        assert bench.start() == []
        assert [t[:16] for t in bench.start(types=frozenset({"resize"}))] == [other]

    def test_jobs_that_must_stay(self, impl: ModuleType) -> None:
        """Watched, told something, changed since, under a projection, due by the clock alone."""
        bench = Bench(impl)
        more = msgpack.packb({"more": b"{}"})
        watched, told, _, due, plain = bench.submit(
            {}, {"options": more}, {}, {"due_us": NOW_US + 1}, {}
        )
        bench.table.watch(watched, True)
        bench.project()
        bench.table.due(NOW_US + 2, 10)
        (changed,) = bench.submit()
        assert bench.table.release(0, "mail", 0, 10) == 2
        here = {job["id"] for job in bench.table.snapshot()}
        assert here == {watched, told, due, changed}
        bench.commit()
        under_way = bench.collect()
        assert bench.table.release(0, "mail", 0, 10) == 0
        bench.table.projected(under_way)
        assert bench.table.release(0, "mail", 0, 10) == 1
        assert bench.table.get(plain) is None
        assert bench.table.counts(0) == (6, 0, 0)

    def test_what_ends_while_rows_are_read_stays_until_they_have_come(
        self, impl: ModuleType
    ) -> None:
        """Its row, read before it ended, must not bring it back."""
        bench = Bench(impl)
        (job_id,) = bench.submit()
        stale = b"".join(bench.project().jobs_copy)
        bench.table.begin_reading()
        with pytest.raises(ValueError, match="nothing leaves"):
            bench.table.release(0, "mail", 0, 10)
        (token,) = bench.start()
        bench.table.succeed(token, NOW_US)
        bench.project()
        assert bench.job(job_id)["status"] == "succeeded"
        assert bench.table.fault_in(stale) == 1
        bench.table.end_reading()
        assert bench.table.get(job_id) is None
        assert bench.table.counts(0) == (0, 0, 0)
        with pytest.raises(ValueError, match="no rows"):
            bench.table.fault_in(stale)

    def test_scheduled_jobs_leave_and_come_in_the_order_of_their_time(
        self, impl: ModuleType
    ) -> None:
        bench = Bench(impl)
        late, early, _ = bench.submit(*({"due_us": NOW_US + n} for n in (300, 200, 100)))
        rows = b"".join(bench.project().jobs_copy)
        by_id = {row["id"]: row for row in read_rows(JOB_COLUMNS, rows)}
        assert by_id.keys() >= {late, early}
        each = [rows[start:end] for start, end in impl.split_rows(rows)]
        assert bench.table.release_scheduled(NOW_US + 100) == 2
        assert bench.table.counts(0) == (0, 3, 0)
        assert bench.table.due_place() == (NOW_US + 100, b"\xff" * 16)
        assert bench.table.due_at(0) == NOW_US + 100
        bench.table.begin_reading()
        assert bench.table.due_in(each[1]) == 1
        assert bench.table.due_place() == (NOW_US + 200, early)
        bench.table.due_read(2**63 - 1, b"\xff" * 16)
        bench.table.end_reading()
        assert bench.table.due_place() is None
        assert bench.table.next_due_us() == NOW_US + 100

    def test_jobs_that_log_rows_name(self, impl: ModuleType) -> None:
        bench = Bench(impl)
        known, gone, _ = bench.submit({}, {}, {"due_us": NOW_US + 10})
        bench.project()
        tokens = bench.start()
        (new,) = bench.submit()
        first = bench.commit()
        bench.table.succeed(b"".join(tokens), NOW_US)
        bench.table.cancelled(new, "no", NOW_US)
        bench.table.keyed(PROJECT, "key", b"h" * 32, new, NOW_US)
        second = bench.commit()
        twin = Bench(impl)
        assert twin.table.missing([first, second]) == known + gone
        assert twin.table.missing([second]) == known + gone + new
        with pytest.raises(impl.BodyError):
            twin.table.missing([second[:-1]])

    def test_new_ids_are_above_loaded_ones(self, impl: ModuleType) -> None:
        bench = Bench(impl)
        *_, newest = bench.submit(*({} for _ in range(50)), now_us=NOW_US + 5_000_000)
        twin = Bench(impl)
        twin.table.load(b"".join(bench.project().jobs_copy))
        assert twin.submit(now_us=NOW_US)[0] > newest

    def test_events_that_the_row_knows_are_ignored(self, bench: Bench) -> None:
        token = bench.running()
        first = bench.commit()
        bench.table.released(token, ERROR, NOW_US)
        (token,) = bench.start()
        second = bench.commit()
        rows = b"".join(bench.collect().jobs_copy)
        bench.table.succeed(token, NOW_US)
        third = bench.commit()
        twin = Bench(bench.impl)
        twin.table.load(rows)
        bodies = (first, second, third)
        assert [twin.table.replay(lsn, body) for lsn, body in enumerate(bodies, 1)] == [0, 0, 1]
        assert twin.table.snapshot() == bench.table.snapshot()

    def test_several_events_of_a_job_in_one_body(self, bench: Bench) -> None:
        """The lsn of a body is no reason to ignore its later events."""
        bench.submit()
        rows = b"".join(bench.project().jobs_copy)
        (token,) = bench.start()
        bench.table.failed(token, "error", ERROR, NOW_US)
        bench.table.requeue(bench.job(token), NOW_US)
        body = bench.commit()
        twin = Bench(bench.impl)
        twin.table.load(rows)
        assert twin.table.replay(2, body) == 3
        assert twin.table.snapshot() == bench.table.snapshot()

    def test_unknown_queues_and_workers_are_registered(self, impl: ModuleType) -> None:
        _, rows = self.rows(impl)
        table = impl.ShardTable(SHARD, 1)
        assert table.load(rows) == 4
        assert {job["project_id"] for job in table.snapshot()} == {PROJECT}
        assert table.queue(QUEUE, PROJECT, "default", 0, HISTORY_ALL) == 0
        assert len(table.running(table.worker(WORKER))) == 1

    def test_damaged_rows_change_nothing(self, impl: ModuleType) -> None:
        _, rows = self.rows(impl)
        twin = Bench(impl)
        for size in (1, 2, 5, 100, len(rows) - 1):
            with pytest.raises(ValueError, match=r"."):
                twin.table.load(rows[:size])
        with pytest.raises(ValueError, match=r"."):
            twin.table.load(rows + rows)
        assert twin.table.jobs_resident == 0
        twin.table.load(rows)
        with pytest.raises(ValueError, match=r"."):
            twin.table.load(rows)
        assert twin.table.jobs_resident == 4

    def test_only_unfinished_jobs_of_the_shard(self, impl: ModuleType) -> None:
        bench = Bench(impl)
        bench.table.succeed(bench.running(), NOW_US)
        with pytest.raises(ValueError, match=r"."):
            Bench(impl).table.load(b"".join(bench.project().jobs_copy))
        _, rows = self.rows(impl)
        with pytest.raises(ValueError, match=r"."):
            impl.ShardTable(SHARD + 1, 1).load(rows)

    def test_nothing_to_load(self, bench: Bench) -> None:
        assert bench.table.load(b"") == 0
        assert bench.table.load(SIGNATURE + bytes(8) + b"\xff\xff") == 0


class TestSplits:
    def test_split_rows(self, bench: Bench) -> None:
        bench.submit({"payload": b"1"}, {"payload": b'"' + b"x" * 70_000 + b'"'})
        rows = b"".join(bench.project().jobs_copy)
        spans = bench.impl.split_rows(rows)
        assert spans == split_rows(rows)
        payloads = [decode_row(JOB_COLUMNS, rows[a:b])["payload"] for a, b in spans]
        assert [len(payload) for payload in payloads] == [1, 70_002]
        assert bench.impl.split_rows(b"") == []
        whole = SIGNATURE + bytes(8) + rows + b"\xff\xff"
        assert bench.impl.split_rows(whole) == [(a + 19, b + 19) for a, b in spans]
        with pytest.raises(ValueError, match=r"."):
            bench.impl.split_rows(rows[:-1])

    def test_split_tokens(self, impl: ModuleType) -> None:
        tokens = {
            shard: ids.IdSource(shard, 1).next(NOW_US) + bytes(8) for shard in (0, 7, 255, 4095)
        }
        mixed = tokens[7] + tokens[0] + tokens[4095] + tokens[7] + tokens[255]
        expected = {7: tokens[7] * 2, 0: tokens[0], 4095: tokens[4095], 255: tokens[255]}
        assert impl.split_tokens(mixed) == expected
        assert impl.split_tokens(b"") == {}
        with pytest.raises(ValueError, match=r"."):
            impl.split_tokens(mixed[:-1])
