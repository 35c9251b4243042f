"""What a shard table writes to its log and takes back, over both implementations."""

import zlib
from types import ModuleType
from typing import Any

import msgpack
import pytest

from taskforge_server.ext.pure import ids
from tests.support.table_bench import (
    ERROR,
    HISTORY_NONE,
    NOW_US,
    PROJECT,
    QUEUE,
    SHARD,
    WORKER,
    Bench,
)


def framed(content: bytes) -> bytes:
    return b"\x01" + zlib.crc32(content).to_bytes(4, "big") + content


class TestLog:
    def test_body_byte_by_byte(self, bench: Bench) -> None:
        bench.table.owned("n1", 7, NOW_US)
        job, late = bench.submit({"options": b"\x80"}, {"due_us": NOW_US + 9}, now_us=NOW_US + 1)
        (token,) = bench.start(now_us=NOW_US - 2)
        bench.table.retried(token, NOW_US + 50, b"{}", NOW_US + 3)
        bench.table.cancelled(late, "cancelled", NOW_US + 4)
        bench.table.keyed(PROJECT, "key", b"hash", job, NOW_US + 5)
        snapshot = bench.job(late)
        bench.table.requeue(snapshot, NOW_US + 6)
        assert bench.table.gathered_events == 8
        lsn, count, body = bench.table.take_batch()
        assert (lsn, count) == (1, 8)
        content = body[5:]
        assert body == framed(content)
        nonce = content[3:11]
        events = [
            [nonce, NOW_US, [QUEUE], ["mail"], [WORKER], 8],
            [10, "n1", 7, 0],
            [1, job, 0, 0, 0, 1, 0, 0, 0, b'{"to":1}', b"\x80"],
            [1, late, 0, 0, 0, 1, NOW_US + 9, 0, 0, b'{"to":1}', None],
            [2, job, 0, 1, -2, 0],
            [4, job, 3, NOW_US + 50, b"{}"],
            [7, late, 4, "cancelled"],
            [9, PROJECT, "key", b"hash", 5, job],
            [8, late, 0, 0, 0, 6, NOW_US + 1, 0, 0, 0, 0, 0, b'{"to":1}', None],
        ]
        assert content == b"".join(msgpack.packb(event) for event in events)

    def test_the_other_events(self, bench: Bench) -> None:
        bench.submit({}, {}, {}, {})
        tokens = bench.start()
        bench.commit()
        bench.table.succeed(tokens[0], NOW_US)
        bench.table.failed(tokens[1], "error", ERROR, NOW_US + 1)
        bench.table.released(tokens[2], ERROR, NOW_US + 2)
        bench.table.returned(tokens[3], ERROR, NOW_US + 3)
        unpacker = msgpack.Unpacker()
        unpacker.feed(bench.commit()[5:])
        assert list(unpacker)[1:] == [
            [3, tokens[0][:16], 0, None],
            [5, tokens[1][:16], 1, "error", ERROR],
            [6, tokens[2][:16], 2, ERROR],
            [11, tokens[3][:16], 3, ERROR],
        ]

    def test_a_requeue_of_a_log_that_does_not_know_returns(self, impl: ModuleType) -> None:
        table = Bench(impl).table
        job = ids.IdSource(SHARD, 1).next(NOW_US)
        header = [b"n" * 8, NOW_US, [QUEUE], ["mail"], [], 1]
        event = [8, job, 0, 0, 5, 0, NOW_US - 9, 0, 0, 4, 3, b"1", None]
        assert table.replay(1, framed(msgpack.packb(header) + msgpack.packb(event))) == 1
        found = table.get(job)
        assert (found["attempt"], found["crashes"], found["returns"]) == (4, 3, 0)
        assert (found["payload"], found["options"]) == (b"1", None)

    def test_nonces_differ_and_follow_the_seed(self, impl: ModuleType) -> None:
        def nonces(seed: int) -> list[bytes]:
            table = impl.ShardTable(SHARD, seed)
            found = []
            for _ in range(2):
                table.owned("n", 1, NOW_US)
                found.append(table.take_batch()[2][8:16])
            return found

        assert nonces(1) == nonces(1)
        assert len({*nonces(1), *nonces(2)}) == 4

    def test_batches_gather_while_others_are_written(self, bench: Bench) -> None:
        assert bench.table.take_batch() is None
        bench.submit()
        assert bench.table.gathering_lsn == 1
        assert bench.table.take_batch()[0] == 1
        assert bench.table.gathering_lsn == 2
        bench.submit()
        assert bench.table.take_batch()[0] == 2
        assert bench.table.committed_lsn == 0
        bench.table.committed(1)
        assert bench.table.committed_lsn == 1
        bench.table.committed(1)
        with pytest.raises(ValueError, match=r"."):
            bench.table.committed(3)

    def test_adopt_goes_on_above_the_head(self, bench: Bench) -> None:
        bench.table.adopt(41)
        assert (bench.table.committed_lsn, bench.table.gathering_lsn) == (41, 42)
        token = bench.running()
        assert token[16:] == (42).to_bytes(8, "big")
        with pytest.raises(ValueError, match=r"."):
            bench.table.adopt(43)

    def test_replay_gives_the_same_state(self, bench: Bench) -> None:
        bench.submit({"priority": 2}, {"due_us": NOW_US + 5}, {"options": b"\x80"})
        bench.start(most=1)
        bodies = [bench.commit()]
        bench.table.succeed_with(bench.table.running(0)[0], b"1", NOW_US + 1)
        bodies.append(bench.commit())
        twin = Bench(bench.impl)
        assert [twin.table.replay(lsn, body) for lsn, body in enumerate(bodies, 1)] == [4, 1]
        assert twin.table.snapshot() == bench.table.snapshot()
        assert (twin.table.committed_lsn, twin.table.gathering_lsn) == (2, 3)
        assert twin.table.unprojected == 3
        p = twin.collect()
        assert (p.jobs_copy_rows, p.jobs_merge_rows) == (0, 3)
        assert (p.executions_copy_rows, p.executions_merge_rows) == (0, 1)

    def test_replay_registers_queues_and_workers(self, bench: Bench) -> None:
        bench.submit({}, {})
        tokens = bench.start()
        bench.table.succeed(tokens[0], NOW_US)
        table = bench.impl.ShardTable(SHARD, 1)
        table.replay(7, bench.commit())
        assert table.get(tokens[0][:16])["project_id"] == bytes(16)
        assert table.queue(QUEUE, PROJECT, "default", 0, HISTORY_NONE) == 0
        assert table.get(tokens[0][:16])["project_id"] == PROJECT
        assert table.worker(WORKER) == 0
        assert table.running(0) == [tokens[1][:16] + (7).to_bytes(8, "big")]
        assert table.collect(100, 0).deletes == tokens[0][:16] + (7).to_bytes(8, "big")

    def test_replayed_events_of_gone_jobs_are_ignored(self, bench: Bench) -> None:
        token = bench.running()
        first = bench.commit()
        bench.table.succeed(token, NOW_US)
        bench.table.keyed(PROJECT, "key", b"hash", token[:16], NOW_US)
        second = bench.commit()
        twin = Bench(bench.impl)
        assert twin.table.replay(2, second) == 1
        assert twin.table.snapshot() == []
        assert twin.collect().keys == [(PROJECT, "key", b"hash", token[:16], NOW_US)]
        assert first != second

    def test_replay_is_in_turn(self, bench: Bench) -> None:
        bench.submit()
        body = bench.commit()
        table = bench.impl.ShardTable(SHARD, 1)
        with pytest.raises(bench.impl.BodyError):
            table.replay(0, body)
        table.replay(9, body)
        for lsn in (8, 9, 11):
            with pytest.raises(bench.impl.BodyError):
                table.replay(lsn, body)
        assert table.replay(10, body) == 0

    def test_a_table_with_decisions_of_its_own_cannot_replay(self, bench: Bench) -> None:
        bench.submit()
        body = bench.commit()
        bench.submit()
        with pytest.raises(ValueError, match=r"."):
            bench.table.replay(2, body)

    def test_events_that_contradict_the_state(self, bench: Bench) -> None:
        bench.submit()
        bench.commit()
        (token,) = bench.start()
        body = bench.commit()
        table = bench.impl.ShardTable(SHARD, 1)
        twin = Bench(bench.impl)
        twin.submit()
        twin.start()
        table.replay(1, twin.commit())
        assert table.get(token[:16])["status"] == "processing"
        with pytest.raises(bench.impl.TransitionError):
            table.replay(2, body)


class TestDamage:
    """A body that is not whole is refused, and changes nothing."""

    @staticmethod
    def body(bench: Bench) -> bytes:
        jobs = bench.submit({}, {"due_us": NOW_US + 9}, {"options": b"\x80", "priority": 9})
        tokens = bench.start(most=1)
        bench.table.succeed_with(tokens[0], b"1", NOW_US + 3)
        (token,) = bench.start()
        bench.table.failed(token, "error", ERROR, NOW_US + 300)
        bench.table.cancelled(jobs[1], "cancelled", NOW_US)
        bench.table.requeue(bench.job(jobs[1]), NOW_US)
        bench.table.keyed(PROJECT, "k", b"h", b"".join(jobs), NOW_US)
        bench.table.owned("node", 300, NOW_US)
        return bench.commit()

    @pytest.fixture
    def target(self, impl: ModuleType) -> Bench:
        bench = Bench(impl)
        bench.submit()
        bench.commit()
        return bench

    def refuse(self, target: Bench, body: bytes) -> None:
        before = target.table.snapshot()
        with pytest.raises(target.impl.BodyError):
            target.table.replay(2, body)
        assert target.table.snapshot() == before
        assert (target.table.committed_lsn, target.table.gathering_lsn) == (1, 2)

    def test_every_cut(self, bench: Bench, target: Bench) -> None:
        body = self.body(bench)
        for size in range(len(body)):
            self.refuse(target, body[:size])
        self.refuse(target, body + b"\x00")

    def test_every_flipped_bit(self, bench: Bench, target: Bench) -> None:
        body = self.body(bench)
        for at in range(len(body)):
            for bit in range(8):
                flipped = bytes([body[at] ^ 1 << bit])
                self.refuse(target, body[:at] + flipped + body[at + 1 :])

    def test_cut_content_under_a_right_checksum(self, bench: Bench, target: Bench) -> None:
        content = self.body(bench)[5:]
        for size in range(len(content)):
            self.refuse(target, framed(content[:size]))
        self.refuse(target, framed(content + b"\xc0"))

    def test_flipped_bytes_under_a_right_checksum(self, bench: Bench, target: Bench) -> None:
        """Some of these are still sound; none does more than be refused or replayed."""
        content = self.body(bench)[5:]
        for at in range(len(content)):
            for byte in (0x00, 0x7F, 0x80, 0xC0, 0xC1, 0xC6, 0xCF, 0xDB, 0xDD, 0xDF, 0xFF):
                table = target.impl.ShardTable(SHARD, 1)
                body = framed(content[:at] + bytes([byte]) + content[at + 1 :])
                try:
                    assert 0 <= table.replay(1, body) <= 20
                except target.impl.BodyError:
                    assert table.snapshot() == []
                except target.impl.TransitionError:
                    pass

    HEAD: tuple[Any, ...] = (b"n" * 8, NOW_US, [QUEUE], ["mail"], [WORKER])
    JOB = ids.IdSource(SHARD, 2).next(NOW_US)
    SUBMITTED: tuple[Any, ...] = (1, JOB, 0, 0, 0, 0, 0, 0, 0, b"1", None)

    def test_the_sound_form_of_the_next_test(self, target: Bench) -> None:
        parts = ([*self.HEAD, 1], list(self.SUBMITTED))
        body = framed(b"".join(msgpack.packb(part) for part in parts))
        assert target.table.replay(2, body) == 1

    @pytest.mark.parametrize(
        ("head", "event"),
        [
            ({}, {0: 11}),  # a kind that nobody knows
            ({}, {0: 0}),
            ({}, {0: "1"}),
            ({}, {1: JOB[:15]}),
            ({}, {1: b"\xff" * 16}),  # of another shard
            ({}, {1: None}),
            ({}, {2: 1}),  # an index beyond the table
            ({}, {3: 1}),
            ({}, {2: -1}),
            ({}, {4: 10}),
            ({}, {5: "now"}),
            ({}, {6: -1}),
            ({}, {7: 2**31}),
            ({}, {8: 32768}),
            ({}, {9: None}),
            ({}, {9: "1"}),
            ({}, {10: 5}),
            ({}, {11: None}),  # one field more
            ({0: b"n" * 7}, {}),
            ({1: None}, {}),
            ({2: [b"short"]}, {}),
            ({2: QUEUE}, {}),
            ({3: [1]}, {}),
            ({4: ["worker"]}, {}),
            ({5: 2}, {}),
            ({5: 0}, {}),
            ({5: -1}, {}),
            ({6: None}, {}),
        ],
    )
    def test_wrong_structure_under_a_right_checksum(
        self, target: Bench, head: dict[int, Any], event: dict[int, Any]
    ) -> None:
        def changed(fields: list[Any], changes: dict[int, Any]) -> bytes:
            for at, value in changes.items():
                fields[at : at + 1] = [value]
            return msgpack.packb(fields)

        header = changed([*self.HEAD, 1], head)
        self.refuse(target, framed(header + changed(list(self.SUBMITTED), event)))

    def test_another_version(self, bench: Bench, target: Bench) -> None:
        body = self.body(bench)
        for version in (0, 2, 255):
            self.refuse(target, bytes([version]) + body[1:])
