"""What a shard table decides, by example, over both implementations."""

from types import ModuleType
from typing import Any

import msgpack
import pytest

from taskforge_server.ext.pure import ids
from tests.support.table_bench import (
    ERROR,
    HISTORY_ALL,
    NOW_US,
    OTHER_WORKER,
    PROJECT,
    QUEUE,
    SHARD,
    WORKER,
    Bench,
)


class TestSubmit:
    def test_batch_counts_jobs_and_bytes(self, impl: ModuleType) -> None:
        batch = impl.SubmitBatch()
        batch.add("a", b"12345")
        batch.add("b", bytearray(b"1"), options=b"\x80")
        batch.add("c", memoryview(b"123")[1:])
        assert (batch.count, batch.bytes_total) == (3, 9)

    @pytest.mark.parametrize(
        "job",
        [
            {"job_type": ""},
            {"job_type": "ü" * 128},
            {"payload": b""},
            {"priority": 10},
            {"priority": -1},
            {"due_us": -1},
            {"timeout_ms": 2**31},
            {"timeout_ms": -1},
            {"max_attempts": 32768},
            {"max_attempts": -1},
        ],
    )
    def test_batch_refuses_what_is_out_of_range(self, impl: ModuleType, job: Any) -> None:
        batch = impl.SubmitBatch()
        with pytest.raises(ValueError, match=r"."):
            batch.add(**({"job_type": "mail", "payload": b"1"} | job))
        assert batch.count == 0

    def test_limits_themselves_are_allowed(self, bench: Bench) -> None:
        limits = {"priority": 9, "timeout_ms": 2**31 - 1, "max_attempts": 32767}
        (job_id,) = bench.submit({"job_type": "ü" * 127 + "x"} | limits)
        job = bench.job(job_id)
        assert {name: job[name] for name in limits} == limits

    def test_job_waits_with_what_was_given(self, bench: Bench) -> None:
        options = msgpack.packb({"group_key": "g"})
        (job_id,) = bench.submit({"priority": 3, "max_attempts": 4, "options": options})
        assert bench.job(job_id) == {
            "id": job_id,
            "queue_id": QUEUE,
            "project_id": PROJECT,
            "job_type": "mail",
            "payload": b'{"to":1}',
            "status": "pending",
            "priority": 3,
            "due_us": 0,
            "created_us": NOW_US,
            "updated_us": NOW_US,
            "started_us": 0,
            "finished_us": 0,
            "attempt": 0,
            "crashes": 0,
            "returns": 0,
            "max_attempts": 4,
            "timeout_ms": 0,
            "deadline_us": 0,
            "worker_id": None,
            "lease_lsn": 0,
            "lsn": 1,
            "options": options,
            "output": None,
            "reason": None,
        }
        assert bench.table.counts(0) == (1, 0, 0)
        assert bench.table.jobs_resident == 1
        assert ids.shard_of(job_id) == SHARD

    def test_batch_can_be_submitted_again(self, bench: Bench) -> None:
        batch = bench.impl.SubmitBatch()
        batch.add("mail", b"1")
        assert bench.table.submit(0, batch, NOW_US) != bench.table.submit(0, batch, NOW_US)

    def test_batch_owns_its_bytes(self, bench: Bench) -> None:
        payload = bytearray(b"123")
        batch = bench.impl.SubmitBatch()
        batch.add("mail", payload)
        payload[:] = b"xyz"
        assert bench.job(bench.table.submit(0, batch, NOW_US))["payload"] == b"123"

    def test_empty_batch_is_no_event(self, bench: Bench) -> None:
        assert bench.table.submit(0, bench.impl.SubmitBatch(), NOW_US) == b""
        assert bench.table.take_batch() is None

    def test_bytes_come_back_when_jobs_are_gone(self, bench: Bench) -> None:
        before = bench.table.bytes_resident
        payload = b'"' + b"x" * 1_000_000 + b'"'  # more than a chunk of slots
        bench.submit({"payload": payload})
        assert bench.table.bytes_resident >= before + len(payload)
        bench.table.succeed(bench.start()[0], NOW_US)
        bench.project()
        assert bench.table.bytes_resident < before + len(payload)
        assert bench.table.jobs_resident == 0


class TestOrder:
    def test_priority_then_submission(self, bench: Bench) -> None:
        job_ids = bench.submit(*({"priority": p} for p in (0, 9, 5, 9, 5)))
        tokens = bench.start()
        assert [token[:16] for token in tokens] == [job_ids[i] for i in (1, 3, 2, 4, 0)]

    def test_at_most(self, bench: Bench) -> None:
        job_ids = bench.submit({}, {}, {})
        assert bench.start(most=0) == []
        assert [token[:16] for token in bench.start(most=2)] == job_ids[:2]
        assert bench.table.counts(0) == (1, 0, 2)

    def test_types_that_the_worker_takes(self, bench: Bench) -> None:
        types = ("a", "b", "a", "c")
        job_ids = bench.submit(*({"job_type": job_type} for job_type in types))
        wanted = frozenset({"a", "never seen"})
        assert bench.table.ready(0, wanted) == 2
        assert [t[:16] for t in bench.start(types=wanted)] == [job_ids[0], job_ids[2]]
        assert bench.start(types=frozenset()) == []
        assert bench.table.ready(0, None) == 2

    def test_types_are_merged_in_order(self, bench: Bench) -> None:
        jobs = [{"job_type": "abc"[i % 3], "priority": i % 2} for i in range(9)]
        job_ids = bench.submit(*jobs)
        order = [i for p in (1, 0) for i in range(9) if i % 2 == p and i % 3 != 1]
        started = bench.start(types=frozenset("ac"))
        assert [token[:16] for token in started] == [job_ids[i] for i in order]

    def test_a_released_job_keeps_its_place(self, bench: Bench) -> None:
        first, second = bench.submit({}, {})
        (token,) = bench.start(most=1)
        assert bench.table.released(token, ERROR, NOW_US)
        bench.commit()
        assert [token[:16] for token in bench.start()] == [first, second]

    def test_no_two_leases_of_a_job_have_one_name(self, bench: Bench) -> None:
        """The name is the lsn of the start: a stale completion must not count for the next one."""
        first, second = bench.submit({}, {})
        (stale,) = bench.start(most=1)
        bench.table.released(stale, ERROR, NOW_US)
        assert bench.start() == []
        assert bench.table.rests(0)
        assert bench.table.ready(0, None) == 2
        bench.table.take_batch()
        assert not bench.table.rests(0)
        tokens = bench.start()
        assert [token[:16] for token in tokens] == [first, second]
        assert bench.table.succeed(stale, NOW_US) == (0, stale, [])
        assert bench.table.succeed(tokens[0], NOW_US) == (1, b"", [])

    @pytest.mark.parametrize("put_back", ["retried", "requeued"])
    def test_a_job_that_came_back_otherwise_rests_too(self, bench: Bench, put_back: str) -> None:
        token = bench.running()
        if put_back == "retried":
            bench.table.retried(token, NOW_US, ERROR, NOW_US)
            bench.table.due(NOW_US, 10)
        else:
            bench.table.failed(token, "error", ERROR, NOW_US)
            bench.table.requeue(bench.job(token), NOW_US)
        assert bench.start() == []
        bench.table.take_batch()
        assert bench.start() == [token[:16] + (2).to_bytes(8, "big")]

    def test_other_types_do_not_wait_for_a_job_that_rests(self, bench: Bench) -> None:
        token = bench.running()
        bench.table.released(token, ERROR, NOW_US)
        (other,) = bench.submit({"job_type": "other"})
        assert [t[:16] for t in bench.start(types=frozenset({"other"}))] == [other]
        assert bench.table.rests(0)

    def test_a_requeued_job_keeps_its_place(self, bench: Bench) -> None:
        first, second = bench.submit({}, {})
        bench.table.cancelled(first, "cancelled", NOW_US)
        bench.table.requeue(bench.job(first), NOW_US)
        assert [token[:16] for token in bench.start()] == [first, second]

    def test_jobs_of_the_log_and_of_the_tables_are_in_one_order(
        self, bench: Bench, impl: ModuleType
    ) -> None:
        first, second = bench.submit({}, {})
        body = bench.commit()
        rows = b"".join(bench.collect().jobs_copy)
        second_row = rows[slice(*impl.split_rows(rows)[1])]
        twin = Bench(impl)
        twin.table.load(second_row)
        twin.table.replay(1, body)
        assert [token[:16] for token in twin.start()] == [first, second]

    def test_queues_are_apart(self, bench: Bench) -> None:
        other = bench.table.queue(b"o" * 16, PROJECT, "other", 0, HISTORY_ALL)
        bench.submit()
        assert bench.table.start(other, None, 0, 10, NOW_US) == (b"", 0)
        assert bench.table.counts(other) == (0, 0, 0)


class TestFrame:
    def test_jobs_of_one_type(self, bench: Bench) -> None:
        first, second = bench.submit({"payload": b"1"}, {"payload": b"2"})
        frame, count = bench.table.start(0, None, 0, 10, NOW_US)
        lease = (1).to_bytes(8, "big")
        tokens = first + lease + second + lease
        assert count == 2
        assert frame == msgpack.packb([11, "default", ["mail"], b"", tokens, [b"1", b"2"], {}])

    def test_jobs_of_several_types_name_their_kind(self, bench: Bench) -> None:
        bench.submit(*({"job_type": job_type} for job_type in "abca"))
        frame, _ = bench.table.start(0, None, 0, 10, NOW_US)
        assert msgpack.unpackb(frame)[2:4] == [["a", "b", "c"], b"\x00\x01\x02\x00"]

    def test_details_of_later_attempts_and_timeouts(self, impl: ModuleType) -> None:
        bench = Bench(impl, timeout_ms=1_500)
        bench.submit({"timeout_ms": 20}, {})
        frame, _ = bench.table.start(0, None, 0, 10, NOW_US)
        assert msgpack.unpackb(frame, strict_map_key=False)[6] == {
            0: {"attempt": 1, "timeout_ms": 20, "deadline_us": NOW_US + 20_000},
            1: {"attempt": 1, "timeout_ms": 1_500, "deadline_us": NOW_US + 1_500_000},
        }
        bench.define(timeout_ms=0)
        bench.submit()
        for token in bench.table.running(0):
            bench.table.released(token, ERROR, NOW_US)
        bench.commit()
        frame, _ = bench.table.start(0, None, 0, 10, NOW_US)
        assert msgpack.unpackb(frame, strict_map_key=False)[6] == {
            0: {"attempt": 2, "timeout_ms": 20, "deadline_us": NOW_US + 20_000},
            1: {"attempt": 2, "timeout_ms": 0, "deadline_us": 0},
        }

    def test_a_frame_names_at_most_256_types(self, bench: Bench) -> None:
        bench.submit(*({"job_type": f"type-{n}"} for n in range(300)))
        assert len(bench.start(most=300)) == 256
        assert len(bench.start(most=300)) == 44


class TestTime:
    def test_a_delayed_job_is_scheduled_until_due(self, bench: Bench) -> None:
        (job_id,) = bench.submit({"due_us": NOW_US + 10})
        assert bench.job(job_id)["status"] == "scheduled"
        assert bench.table.next_due_us() == NOW_US + 10
        assert bench.start() == []
        assert bench.table.due(NOW_US + 9, 10) == (0, [])
        assert bench.table.due(NOW_US + 10, 10) == (1, [0])
        assert bench.job(job_id)["status"] == "pending"
        assert bench.job(job_id)["due_us"] == NOW_US + 10
        assert bench.table.next_due_us() == 0
        assert len(bench.start()) == 1

    def test_a_job_that_is_due_already_is_pending(self, bench: Bench) -> None:
        (job_id,) = bench.submit({"due_us": NOW_US})
        assert bench.job(job_id)["status"] == "pending"
        assert bench.job(job_id)["due_us"] == NOW_US

    def test_due_jobs_keep_the_order_of_submission(self, bench: Bench) -> None:
        first, second = bench.submit({"due_us": NOW_US + 10}, {})
        bench.table.due(NOW_US + 10, 10)
        assert [token[:16] for token in bench.start()] == [first, second]

    def test_due_names_each_queue_once(self, bench: Bench) -> None:
        assert bench.table.queue(b"o" * 16, PROJECT, "other", 0, HISTORY_ALL) == 1
        batch = bench.impl.SubmitBatch()
        batch.add("mail", b"1", due_us=NOW_US + 1)
        batch.add("mail", b"1", due_us=NOW_US + 2)
        bench.table.submit(1, batch, NOW_US)
        bench.table.submit(0, batch, NOW_US)
        assert bench.table.due(NOW_US + 5, 10) == (4, [0, 1])

    def test_due_moves_a_herd_in_parts_the_earliest_first(self, bench: Bench) -> None:
        job_ids = bench.submit(*({"due_us": NOW_US + 5 - n} for n in range(5)))
        assert bench.table.due(NOW_US + 4, 0) == (0, [])
        assert bench.table.due(NOW_US + 4, 3) == (3, [0])
        pending = [job_id for job_id in job_ids if bench.job(job_id)["status"] == "pending"]
        assert pending == job_ids[2:]
        assert bench.table.next_due_us() == NOW_US + 4
        assert bench.table.due(NOW_US + 4, 3) == (1, [0])
        assert bench.table.next_due_us() == NOW_US + 5

    def test_a_cancelled_job_is_not_due(self, bench: Bench) -> None:
        (job_id,) = bench.submit({"due_us": NOW_US + 10})
        bench.table.cancelled(job_id, "cancelled", NOW_US)
        assert bench.table.next_due_us() == 0
        assert bench.table.due(NOW_US + 10, 10) == (0, [])

    def test_expired_are_past_their_deadline(self, bench: Bench) -> None:
        bench.submit({"timeout_ms": 1}, {"timeout_ms": 2}, {})
        tokens = bench.start()
        assert bench.table.expired(NOW_US + 999) == []
        assert bench.table.expired(NOW_US + 1_000) == tokens[:1]
        assert sorted(bench.table.expired(NOW_US + 10_000)) == sorted(tokens[:2])
        bench.table.succeed(tokens[0], NOW_US)
        assert bench.table.expired(NOW_US + 10_000) == tokens[1:2]


class TestLeases:
    def test_the_lease_is_the_lsn_of_the_start(self, bench: Bench) -> None:
        bench.submit()
        bench.commit()
        (token,) = bench.start()
        job = bench.job(token)
        assert token == job["id"] + (2).to_bytes(8, "big")
        assert job["status"] == "processing"
        assert (job["lease_lsn"], job["worker_id"], job["attempt"]) == (2, WORKER, 1)
        assert (job["started_us"], job["lsn"]) == (NOW_US, 2)
        assert bench.table.holds(token)
        assert bench.table.running(0) == [token]

    def test_only_the_current_lease_completes(self, bench: Bench) -> None:
        old = bench.running()
        assert bench.table.released(old, ERROR, NOW_US)
        bench.commit()
        (token,) = bench.start()
        unknown = bytes(24)
        assert not bench.table.holds(old)
        assert not bench.table.succeed_with(old, None, NOW_US)
        assert not bench.table.retried(old, NOW_US + 1, ERROR, NOW_US)
        assert not bench.table.failed(old, "error", ERROR, NOW_US)
        assert not bench.table.released(old, ERROR, NOW_US)
        answer = bench.table.succeed(old + token + token + unknown, NOW_US)
        assert answer == (1, old + token + unknown, [])
        assert bench.job(token)["status"] == "succeeded"

    def test_a_lease_is_that_of_its_worker(self, bench: Bench) -> None:
        token = bench.running()
        other = bench.table.worker(OTHER_WORKER)
        assert bench.table.holds(token)
        assert bench.table.holds(token, 0)
        assert not bench.table.holds(token, other)
        assert bench.table.succeed(token, NOW_US, other) == (0, token, [])
        assert bench.table.succeed(token, NOW_US, 0) == (1, b"", [])

    def test_watched_jobs_are_reported_at_their_end(self, bench: Bench) -> None:
        first, _, third = bench.submit({}, {}, {})
        assert bench.table.watch(first, True)
        assert bench.table.watch(third, True)
        assert bench.table.watch(third, False)
        assert not bench.table.watch(bytes(16), True)
        tokens = b"".join(bench.start())
        assert bench.table.succeed(tokens, NOW_US) == (3, b"", [first])


class TestEnds:
    def test_success_with_a_result(self, bench: Bench) -> None:
        token = bench.running()
        assert bench.table.succeed_with(token, b"42", NOW_US + 5)
        job = bench.job(token)
        assert (job["status"], job["output"], job["finished_us"]) == (
            "succeeded",
            b"42",
            NOW_US + 5,
        )
        assert (job["worker_id"], job["lease_lsn"], job["deadline_us"]) == (None, 0, 0)
        assert bench.table.counts(0) == (0, 0, 0)

    def test_retry(self, bench: Bench) -> None:
        token = bench.running()
        assert bench.table.retried(token, NOW_US + 100, ERROR, NOW_US + 5)
        job = bench.job(token)
        assert (job["status"], job["due_us"], job["output"]) == ("scheduled", NOW_US + 100, ERROR)
        assert (job["attempt"], job["crashes"], job["finished_us"]) == (1, 0, 0)
        assert bench.table.due(NOW_US + 100, 10) == (1, [0])
        bench.commit()
        (token,) = bench.start(now_us=NOW_US + 200)
        assert bench.job(token)["attempt"] == 2
        assert bench.job(token)["output"] == ERROR
        assert bench.table.succeed_with(token, None, NOW_US + 300)
        assert bench.job(token)["output"] is None

    def test_final_failure(self, bench: Bench) -> None:
        token = bench.running()
        assert bench.table.failed(token, "attempts_exhausted", ERROR, NOW_US + 5)
        job = bench.job(token)
        assert (job["status"], job["reason"]) == ("failed", "attempts_exhausted")
        assert (job["output"], job["finished_us"]) == (ERROR, NOW_US + 5)

    def test_release_counts_a_crash(self, bench: Bench) -> None:
        token = bench.running()
        assert bench.table.released(token, ERROR, NOW_US + 5)
        job = bench.job(token)
        assert (job["status"], job["crashes"], job["attempt"]) == ("pending", 1, 1)

    def test_a_return_is_no_crash(self, bench: Bench) -> None:
        token = bench.running()
        assert bench.table.returned(token, ERROR, NOW_US + 5)
        job = bench.job(token)
        assert (job["status"], job["crashes"], job["returns"], job["attempt"]) == (
            ("pending", 0, 1, 1)
        )
        assert not bench.table.returned(token, ERROR, NOW_US + 5)
        (execution,) = bench.table.executions(token[:16])
        assert (execution["status"], execution["error"]) == ("retrying", ERROR)

    def test_returns_are_counted_as_far_as_a_slot_can(self, bench: Bench) -> None:
        token = bench.running()
        for _ in range(257):
            bench.table.returned(token, ERROR, NOW_US)
            bench.commit()
            (token,) = bench.start()
        assert (bench.job(token)["returns"], bench.job(token)["attempt"]) == (255, 258)

    def test_only_waiting_jobs_are_cancelled(self, bench: Bench) -> None:
        token = bench.running()
        with pytest.raises(
            bench.impl.TransitionError, match=f"{token[:16].hex()} is processing.*cancelled"
        ):
            bench.table.cancelled(token[:16], "cancelled", NOW_US)
        assert bench.table.gathered_events == 2
        assert not bench.table.cancelled(bytes(16), "cancelled", NOW_US)
        (job_id,) = bench.submit()
        assert bench.table.cancelled(job_id, "not wanted", NOW_US + 5)
        job = bench.job(job_id)
        assert (job["status"], job["reason"]) == ("cancelled", "not wanted")
        assert job["finished_us"] == NOW_US + 5
        with pytest.raises(bench.impl.TransitionError):
            bench.table.cancelled(job_id, "not wanted", NOW_US)

    def test_requeue_starts_over(self, bench: Bench) -> None:
        token = bench.running()
        bench.table.failed(token, "error", ERROR, NOW_US + 5)
        snapshot = bench.job(token)
        bench.table.requeue(snapshot, NOW_US + 10)
        fresh = {
            "status": "pending",
            "updated_us": NOW_US + 10,
            "started_us": 0,
            "finished_us": 0,
            "output": None,
            "reason": None,
        }
        assert bench.job(token) == snapshot | fresh
        bench.commit()
        (token,) = bench.start()
        assert bench.job(token)["attempt"] == 2

    def test_requeue_of_a_job_from_the_tables(self, bench: Bench) -> None:
        token = bench.running()
        bench.table.failed(token, "error", ERROR, NOW_US)
        snapshot = bench.job(token)
        bench.project()
        assert bench.table.get(token[:16]) is None
        bench.table.requeue(snapshot, NOW_US)
        assert bench.job(token)["status"] == "pending"
        p = bench.project()
        assert (p.jobs_copy_rows, p.jobs_merge_rows) == (0, 1)

    def test_only_failed_or_cancelled_jobs_are_requeued(self, bench: Bench) -> None:
        token = bench.running()
        with pytest.raises(bench.impl.TransitionError):
            bench.table.requeue(bench.job(token) | {"status": "failed"}, NOW_US)
        bench.table.succeed(token, NOW_US)
        succeeded = bench.job(token)
        with pytest.raises(bench.impl.TransitionError):
            bench.table.requeue(succeeded, NOW_US)
        bench.project()
        with pytest.raises(bench.impl.TransitionError):
            bench.table.requeue(succeeded, NOW_US)
        assert bench.table.gathered_events == 0

    def test_executions_are_the_attempts(self, bench: Bench) -> None:
        token = bench.running()
        bench.table.released(token, ERROR, NOW_US + 5)
        bench.commit()
        (token,) = bench.start(now_us=NOW_US + 10)
        first, second = bench.table.executions(token[:16])
        assert first == {
            "id": ids.execution_id(token[:16], 1, NOW_US),
            "job_id": token[:16],
            "worker_id": WORKER,
            "status": "retrying",
            "output": None,
            "error": ERROR,
            "attempt_number": 1,
            "started_us": NOW_US,
            "finished_us": NOW_US + 5,
        }
        assert (second["status"], second["attempt_number"]) == ("started", 2)
        assert (second["error"], second["finished_us"]) == (None, 0)
        bench.table.succeed_with(token, b"1", NOW_US + 20)
        _, second = bench.table.executions(token[:16])
        assert (second["status"], second["output"]) == ("succeeded", b"1")
        bench.project()
        assert bench.table.executions(token[:16]) == []


class TestBadCalls:
    @pytest.mark.parametrize(
        ("name", "args"),
        [
            ("start", (1, None, 0, 1, NOW_US)),
            ("start", (-1, None, 0, 1, NOW_US)),
            ("start", (0, None, 1, 1, NOW_US)),
            ("ready", (1, None)),
            ("counts", (1,)),
            ("running", (1,)),
            ("holds", (bytes(23), 0)),
            ("queue", (b"short", PROJECT, "n", 0, 0)),
            ("queue", (QUEUE, b"short", "n", 0, 0)),
            ("queue", (QUEUE, PROJECT, "n", -1, 0)),
            ("queue", (QUEUE, PROJECT, "n", 0, 3)),
            ("worker", (b"short",)),
            ("succeed", (bytes(25), NOW_US)),
            ("succeed_with", (bytes(23), None, NOW_US)),
            ("retried", (b"", NOW_US, ERROR, NOW_US)),
            ("failed", (bytes(25), "error", ERROR, NOW_US)),
            ("released", (bytes(48), ERROR, NOW_US)),
            ("holds", (bytes(16),)),
            ("cancelled", (bytes(24), "cancelled", NOW_US)),
            ("watch", (b"", True)),
            ("get", (bytes(15),)),
            ("executions", (bytes(17),)),
            ("keyed", (b"short", "k", b"h", bytes(16), NOW_US)),
            ("keyed", (PROJECT, "k", b"h", bytes(17), NOW_US)),
            ("collect", (0, NOW_US)),
        ],
    )
    def test_illegal_arguments(self, bench: Bench, name: str, args: tuple[Any, ...]) -> None:
        with pytest.raises(ValueError, match=r"."):
            getattr(bench.table, name)(*args)
        assert bench.table.gathered_events == 0

    def test_submit_to_an_unknown_queue(self, bench: Bench) -> None:
        with pytest.raises(ValueError, match=r"."):
            bench.table.submit(1, bench.impl.SubmitBatch(), NOW_US)

    def test_requeue_of_what_does_not_belong_here(self, bench: Bench) -> None:
        (job_id,) = bench.submit()
        bench.table.cancelled(job_id, "cancelled", NOW_US)
        job = bench.job(job_id)
        bench.project()
        for change in ({"id": b"short"}, {"id": b"\xff" * 16}, {"queue_id": b"?" * 16}):
            with pytest.raises(ValueError, match=r"."):
                bench.table.requeue(job | change, NOW_US)
        assert bench.table.gathered_events == 0
