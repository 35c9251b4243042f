"""Payloads that are sealed with the ids of their jobs, over both implementations."""

from types import ModuleType
from typing import Any

import pytest

from taskforge_server.ext import table as compiled
from tests.support.table_bench import NOW_US, PROJECT, Bench
from tests.support.table_pair import Pair

CANARY = b'{"canary":"c4n4ry"}'


def seal(ids: bytes, payloads: list[bytes]) -> list[bytes]:
    """Longer than what it seals, and different for each id."""
    return [
        b'"' + ids[16 * n : 16 * n + 16].hex().encode() + b"x" * len(payload) + b'"'
        for n, payload in enumerate(payloads)
    ]


class TestSeal:
    def test_it_is_asked_once_for_all_with_the_ids_that_the_jobs_get(
        self, bench: Bench, impl: ModuleType
    ) -> None:
        asked: list[tuple[bytes, list[bytes]]] = []

        def remembering(ids: bytes, payloads: list[bytes]) -> list[bytes]:
            asked.append((ids, payloads))
            return seal(ids, payloads)

        batch = impl.SubmitBatch()
        for payload in (CANARY, b"[1]", CANARY):
            batch.add("mail", payload, options=b"\x80")
        ids = bench.table.submit(0, batch, NOW_US, remembering)
        assert asked == [(ids, [CANARY, b"[1]", CANARY])]
        stored = [bench.job(ids[at : at + 16])["payload"] for at in (0, 16, 32)]
        assert stored == seal(ids, [CANARY, b"[1]", CANARY])

    def test_the_log_has_what_was_sealed_alone(self, bench: Bench, impl: ModuleType) -> None:
        batch = impl.SubmitBatch()
        batch.add("mail", CANARY)
        ids = bench.table.submit(0, batch, NOW_US, seal)
        body = bench.commit()
        assert b"c4n4ry" not in body
        assert seal(ids, [CANARY])[0] in body

    @pytest.mark.parametrize(
        "stored", [[], [b"1"], [b"1", b"2", b"3"], [b"1", b""], [b"1", "2"], [b"1", None]]
    )
    def test_an_answer_that_does_not_fit_changes_nothing(
        self, bench: Bench, impl: ModuleType, stored: Any
    ) -> None:
        batch = impl.SubmitBatch()
        batch.add("mail", b"1")
        batch.add("mail", b"2")
        with pytest.raises((ValueError, TypeError), match=r"."):
            bench.table.submit(0, batch, NOW_US, lambda ids, payloads: stored)
        assert bench.table.jobs_resident == bench.table.gathered_events == 0

    def test_what_it_raises_changes_nothing_and_no_id_comes_twice(
        self, bench: Bench, impl: ModuleType
    ) -> None:
        seen: list[bytes] = []

        def failing(ids: bytes, payloads: list[bytes]) -> list[bytes]:
            seen.append(ids)
            raise OSError("no key")

        batch = impl.SubmitBatch()
        batch.add("mail", b"1")
        with pytest.raises(OSError, match="no key"):
            bench.table.submit(0, batch, NOW_US, failing)
        assert bench.table.jobs_resident == bench.table.gathered_events == 0
        assert bench.table.submit(0, batch, NOW_US) > seen[0]

    def test_both_write_the_same(self) -> None:
        pair = Pair(compiled, 5, 1)
        pair.call("queue", b"q" * 16, PROJECT, "default", 0, 2)
        jobs = [{"job_type": "mail", "payload": b"1" * n} for n in (1, 300, 70_000)]
        pair.submit(0, jobs, NOW_US, seal)
        pair.submit(0, jobs, NOW_US)
        pair.same_state()
        assert pair.take_batch() is not None


def test_the_project_of_a_job(bench: Bench) -> None:
    (job_id,) = bench.submit()
    assert bench.table.project_of(job_id) == PROJECT
    assert bench.table.project_of(bytes(16)) is None
    with pytest.raises(ValueError, match="16"):
        bench.table.project_of(b"short")
