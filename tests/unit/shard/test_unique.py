"""Unique keys against a naive model, live and rebuilt from the log: one holder of a key at most."""

import os
from typing import Any

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from taskforge_server.engine import limits
from taskforge_server.engine.actors.commands import Requeue
from taskforge_server.engine.actors.queue import define
from taskforge_server.engine.actors.uniques import SubmitUnique
from taskforge_server.engine.errors import ShareUsedUp, UniqueConflict
from taskforge_server.engine.model.joboptions import JobOptions, pack_told
from taskforge_server.engine.shard.shard import Shard
from taskforge_server.engine.shard.unique import MARK_PREFIX, Ask, Outcome, Part
from taskforge_server.engine.vault.sealing import DataKey, looks_sealed
from taskforge_server.engine.vault.vault import Ring
from taskforge_server.ext.table import ShardTable, SubmitBatch
from tests.support.engine_parts import PROJECT, EngineParts

PERIOD_US = 60_000_000


class Reply:
    """What a caller waits with."""

    def __init__(self) -> None:
        self.value: bytes | None = None
        self.error: Exception | None = None

    def done(self) -> bool:
        return self.value is not None or self.error is not None

    def set_result(self, result: bytes, /) -> None:
        self.value = result

    def set_exception(self, error: Exception, /) -> None:
        self.error = error


def part(
    key: str | None,
    scope: Any = "unfinished",
    on_conflict: Any = "existing",
    payload: bytes = b"{}",
    due_us: int = 0,
) -> Part:
    batch = SubmitBatch()
    if key is None:
        batch.add("send", payload)
        return Part(batch, None)
    options = pack_told({"unique_key": key, "more": JobOptions(unique=scope)})
    batch.add("send", payload, 0, due_us, 0, 0, options)
    period_us = PERIOD_US if scope == "period" else 0
    return Part(batch, Ask(key, scope, period_us, on_conflict, payload, 3, options, due_us))


class Bench:
    """One queue, whose shard can be lost and rebuilt from its log."""

    def __init__(self) -> None:
        self.parts = EngineParts()
        self.queue = self.parts.queue("mail")

    def submit(self, *parts: Part) -> tuple[list[bytes], dict[int, Outcome]]:
        reply = Reply()
        command = SubmitUnique(parts, None, reply)
        self.queue.handle([command])
        if self.table.gathered_events:
            assert reply.value is None, "an answer before its commit"
        self.parts.journal.commit()
        if reply.error is not None:
            raise reply.error
        assert reply.value is not None
        ids = reply.value
        return [ids[at : at + 16] for at in range(0, len(ids), 16)], command.outcomes

    def one(self, *args: Any, **options: Any) -> tuple[bytes, str]:
        ids, outcomes = self.submit(part(*args, **options))
        return ids[0], outcomes[0].became if outcomes else "new"

    @property
    def table(self) -> ShardTable:
        return self.queue.shard.table

    def job(self, job_id: bytes) -> dict[str, Any]:
        job = self.table.get(job_id)
        assert job is not None
        return job

    def start(self) -> list[bytes]:
        """The tokens of all that starts."""
        worker = self.table.worker(b"w" * 16)
        frame, count = self.table.start(self.queue.index, None, worker, 1000, self.now_us)
        self.parts.journal.dirty(self.queue.shard)
        self.parts.journal.commit()
        tokens = msgpack.unpackb(frame, strict_map_key=False)[4] if count else b""
        return [tokens[at : at + 24] for at in range(0, len(tokens), 24)]

    def move(self, name: str, *args: Any) -> None:
        assert getattr(self.table, name)(*args, self.now_us)
        self.parts.journal.dirty(self.queue.shard)
        self.parts.journal.commit()

    @property
    def now_us(self) -> int:
        return self.parts.clock.now_us()

    def rebuild(self) -> None:
        """The shard as the next owner makes it from the log."""
        table = ShardTable(1, 99)
        define(table, self.queue.ref)
        for _, lsn, body in self.parts.journal.bodies:
            table.replay(lsn, body)
        shard = Shard(1, table, 2)
        early = table.collect(1, 0)
        for _, key, until, ids, _ in early.keys if early is not None else ():
            if key.startswith(MARK_PREFIX):
                shard.unique.restore(key, until, ids, PROJECT)
        shard.marks.drain(table)
        if early is not None:
            table.projected(early)
        self.parts.shards[1] = shard
        self.queue.shard = shard
        self.queue.update(self.queue.ref)


def test_while_unfinished_the_first_job_is_given_again() -> None:
    bench = Bench()
    first, became = bench.one("k")
    assert became == "new"
    assert bench.one("k") == (first, "existing")
    assert bench.one("other")[1] == "new"
    (token,) = (token for token in bench.start() if token[:16] == first)
    assert bench.one("k") == (first, "existing")
    bench.move("succeed_with", token, None)
    assert bench.one("k")[1] == "new"


def test_a_waiting_job_holds_its_key_until_it_first_starts() -> None:
    bench = Bench()
    first, _ = bench.one("k", "waiting")
    (token,) = bench.start()
    second, became = bench.one("k", "waiting")
    assert became == "new"
    bench.move("retried", token, bench.now_us + 5, b'{"type":"E"}')
    assert bench.one("k", "waiting") == (second, "existing")
    assert first != second


def test_a_period_holds_whatever_becomes_of_the_job() -> None:
    bench = Bench()
    first, _ = bench.one("k", "period")
    bench.move("cancelled", first, "no")
    bench.rebuild()
    assert bench.one("k", "period") == (first, "existing")
    bench.parts.clock.advance(PERIOD_US / 1e6 + 1)
    assert bench.one("k", "period")[1] == "new"


def test_rejected_names_the_holder_and_submits_nothing() -> None:
    bench = Bench()
    first, _ = bench.one("k")
    ids, outcomes = bench.submit(part("k", on_conflict="reject"), part(None), part("new"))
    assert outcomes == {0: Outcome("rejected", first, "pending")}
    assert ids[0] == bytes(16)
    assert bench.table.counts(bench.queue.index)[0] == 3


def test_replace_and_debounce_change_the_job_that_waits() -> None:
    bench = Bench()
    first, _ = bench.one("k", "waiting", payload=b"1")
    assert bench.one("k", "waiting", "replace", b"2") == (first, "replaced")
    assert (bench.job(first)["payload"], bench.job(first)["priority"]) == (b"2", 3)
    later_us = bench.now_us + 9_000_000
    assert bench.one("k", "waiting", "debounce", b"3", later_us) == (first, "debounced")
    job = bench.job(first)
    assert (job["payload"], job["status"], job["due_us"]) == (b"3", "scheduled", later_us)
    bench.rebuild()
    assert bench.job(first)["payload"] == b"3"
    assert bench.one("k", "waiting")[0] == first


def test_what_runs_is_not_replaced() -> None:
    bench = Bench()
    first, _ = bench.one("k")
    bench.start()
    ids, outcomes = bench.submit(part("k", on_conflict="replace", payload=b"2"))
    assert ids == [bytes(16)]
    assert outcomes == {0: Outcome("rejected", first, "processing")}
    assert bench.job(first)["payload"] == b"{}"


def test_a_payload_that_takes_the_place_of_another_is_sealed_for_that_job() -> None:
    bench = Bench()
    keys = Ring(PROJECT, encrypted=True)
    keys.add(DataKey(b"1" * 16, 1, os.urandom(32)))
    bench.parts.vault.replace([keys])
    first, _ = bench.one("k", "waiting", payload=b'"before"')
    assert bench.one("k", "waiting", "replace", b'"secret"') == (first, "replaced")
    stored = bench.job(first)["payload"]
    assert looks_sealed(stored)
    assert keys.open(first, "payload", stored) == b'"secret"'
    assert all(b"secret" not in body for _, _, body in bench.parts.journal.bodies)


def test_jobs_of_one_request_meet_each_other() -> None:
    bench = Bench()
    ids, outcomes = bench.submit(
        part("k", "waiting", payload=b"1"), part("k", "waiting", "replace", b"2"), part("k")
    )
    assert ids[0] == ids[1] == ids[2]
    assert [outcomes[n].became for n in (1, 2)] == ["replaced", "existing"]
    assert bench.job(ids[0])["payload"] == b"2"


def test_keys_of_two_queues_are_two_keys() -> None:
    bench = Bench()
    first, _ = bench.one("k")
    bench.queue = bench.parts.queue("other")
    assert bench.one("k")[1] == "new"
    assert bench.queue.shard.unique.holder(bench.queue.ref.id, "k", bench.now_us) is not None
    assert first


def test_periods_are_bounded_and_those_that_are_over_make_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "UNIQUE_PERIODS_MAX", 4)
    bench = Bench()
    bench.one("a", "period")
    bench.one("b", "period")
    with pytest.raises(ShareUsedUp, match="unique keys for a period"):
        bench.one("c", "period")
    bench.queue.shard.unique.require_room(b"another", 1, bench.now_us)
    bench.parts.clock.advance(PERIOD_US / 1e6 + 1)
    assert bench.one("c", "period")[1] == "new"


def test_what_no_longer_holds_is_forgotten() -> None:
    bench = Bench()
    for number in range(200):
        job_id, _ = bench.one(f"k{number}", "waiting")
        bench.move("cancelled", job_id, "no")
    assert len(bench.queue.shard.unique) < 10


def test_a_key_that_is_used_again_and_again_is_looked_at_once_a_turn() -> None:
    bench = Bench()
    for _ in range(200):
        job_id, _ = bench.one("k")
        bench.move("cancelled", job_id, "no")
    assert len(bench.queue.shard.unique._turns) == 1


def test_a_job_that_waits_again_without_a_start_does_not_join_another_that_holds_its_key() -> None:
    bench = Bench()
    first, _ = bench.one("k", "waiting")
    bench.move("cancelled", first, "no")
    second, _ = bench.one("k", "waiting")
    reply: Any = Reply()
    bench.queue.handle([Requeue(bench.job(first), reply)])
    assert isinstance(reply.error, UniqueConflict)
    assert reply.error.job_id == second


MOVES = st.lists(
    st.one_of(
        st.tuples(
            st.just("submit"),
            st.sampled_from("ab"),
            st.sampled_from(["waiting", "unfinished", "period"]),
            st.sampled_from(["reject", "existing", "replace", "debounce"]),
            st.sampled_from([0, 10, 40]),
        ),
        st.just(("start",)),
        st.just(("succeed",)),
        st.just(("retry",)),
        st.just(("cancel",)),
        st.just(("rebuild",)),
        st.just(("time",)),
    ),
    min_size=8,
    max_size=25,
)
FIRST = ("submit", "a", "unfinished", "existing", 10)


@settings(max_examples=60, deadline=None)
@given(moves=MOVES)
@example(moves=[FIRST, ("submit", "a", "unfinished", "replace", 40), ("rebuild",), ("time",)])
@example(moves=[FIRST, ("submit", "a", "unfinished", "debounce", 40), ("rebuild",), ("time",)])
def test_never_two_holders_of_one_key(moves: list[tuple[Any, ...]]) -> None:
    """The model: a job (key, scope, when, begun, ended); who holds follows from it alone. And what
    it is to run with, and from when on, by the last who said so."""
    bench, model, running = Bench(), {}, {}
    wanted: dict[bytes, tuple[bytes, int]] = {}

    def holds(job_id: bytes) -> bool:
        _, scope, since_us, begun, ended = model[job_id]
        if scope == "period":
            return bench.now_us < since_us + PERIOD_US
        return not ended and not (begun and scope == "waiting")

    for number, move in enumerate(moves):
        if move[0] == "submit":
            _, key, scope, on_conflict, delay_s = move
            payload = b'{"n":%d}' % number
            due_us = bench.now_us + delay_s * 1_000_000 if delay_s else 0
            holders = [job for job in model if model[job][0] == key and holds(job)]
            assert len(holders) <= 1
            ids, outcomes = bench.submit(part(key, scope, on_conflict, payload, due_us))
            if not holders:
                assert outcomes == {}
                wanted[ids[0]] = payload, due_us
                model[ids[0]] = [key, scope, bench.now_us, False, False]
                continue
            outcome = outcomes[0]
            assert outcome.job_id == holders[0]
            waits = holders[0] not in running and not model[holders[0]][4]
            if on_conflict == "existing":
                assert outcome.became == "existing"
            elif on_conflict == "reject" or not waits:
                assert outcome.became == "rejected"
            else:
                assert outcome.became in ("replaced", "debounced")
                late = outcome.became == "debounced"
                wanted[holders[0]] = payload, due_us if late else wanted[holders[0]][1]
        elif move[0] == "start":
            for token in bench.start():
                running[token[:16]] = token
                model[token[:16]][3] = True
        elif move[0] in ("succeed", "retry") and running:
            job_id, token = running.popitem()
            if move[0] == "succeed":
                bench.move("succeed_with", token, None)
                model[job_id][4] = True
            else:
                bench.move("retried", token, bench.now_us + 1_000, b'{"type":"E"}')
        elif move[0] == "cancel":
            waiting = [job for job in model if job not in running and not model[job][4]]
            if waiting:
                bench.move("cancelled", waiting[0], "no")
                model[waiting[0]][4] = True
        elif move[0] == "rebuild":
            bench.rebuild()
        elif move[0] == "time":
            bench.parts.clock.advance(25)
            bench.table.due(bench.now_us, 1000)
        for job_id, (payload, due_us) in wanted.items():
            if model[job_id][4]:
                continue
            job = bench.job(job_id)
            assert job["payload"] == payload
            if not job["attempt"] and job["status"] == "scheduled":
                assert job["due_us"] == due_us
            elif not job["attempt"] and job["status"] == "pending":
                assert due_us <= bench.now_us
