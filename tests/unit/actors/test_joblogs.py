"""Lines of handlers: the current lease counts, numbers tell repetitions, nothing grows forever."""

from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.actors.worker import WorkerActor
from taskforge_server.engine.model.execution import LogLine, log_id, log_number
from tests.support.engine_parts import PROJECT, EngineParts, KeptOutlet, done


class KeptLines:
    """A sink that keeps lines, and says that they are written when it is told to."""

    def __init__(self) -> None:
        self.lines: list[LogLine] = []
        self.waiting: list[Callable[[], None]] = []

    def add(self, lines: list[LogLine], written: Callable[[], None]) -> None:
        self.lines += lines
        self.waiting.append(written)

    def written(self) -> None:
        for written in self.waiting:
            written()
        self.waiting.clear()

    def messages(self) -> list[str]:
        return [line.message for line in self.lines]


def logs(seq: int, *groups: tuple[bytes, int, list[Any]]) -> bytes:
    """A log frame."""
    frame: bytes = msgpack.packb([6, seq, [list(group) for group in groups]])
    return frame


def line(message: str, level: int = 0, age_us: int = 0, metadata: bytes | None = None) -> list[Any]:
    return [level, age_us, message, metadata]


def running(
    jobs: int = 1, **settings: Any
) -> tuple[EngineParts, WorkerActor, KeptOutlet, KeptLines]:
    parts = EngineParts()
    kept = parts.logs.sink = KeptLines()
    queue = parts.queue("mail", **settings)
    worker, outlet = parts.worker(["mail"])
    parts.submit(queue, jobs)
    parts.settle()
    return parts, worker, outlet, kept


async def test_lines_are_taken_under_the_lease_and_acked_when_written() -> None:
    parts, worker, outlet, kept = running(2)
    first, second = outlet.tokens()
    parts.clock.advance(5)
    worker.handle(
        [
            logs(
                7,
                (first, 1, [line("a", 0, 2_000_000, b'{"n":1}'), line("b", 1)]),
                (second, 1, [line("c", 2, 10**12)]),
            )
        ]
    )
    assert outlet.of(16) == []
    kept.written()
    assert outlet.of(16) == [[16, 7]]
    table = parts.shards[1].table
    execution = table.executions(first[:16])[-1]
    now_us = parts.clock.now_us()
    assert kept.lines[0] == LogLine(
        execution_id=execution["id"],
        number=1,
        job_id=first[:16],
        project_id=PROJECT,
        level="info",
        message="a",
        metadata=b'{"n":1}',
        logged_us=now_us - 2_000_000,
    )
    assert [(entry.number, entry.level, entry.metadata) for entry in kept.lines[1:]] == [
        (2, "warn", b"{}"),
        (1, "error", b"{}"),
    ]
    # No line is older than its execution, whatever a worker says.
    assert kept.lines[2].logged_us == table.executions(second[:16])[-1]["started_us"]


async def test_lines_without_a_lease_are_refused_and_the_handler_is_stopped() -> None:
    parts, worker, outlet, kept = running(2)
    ended, alive = outlet.tokens()
    worker.handle([logs(1, (ended, 1, [line("before")]))])
    worker.handle([done(1, ended)])
    parts.settle()
    unknown = bytes(6) + b"\x70\x01" + b"x" * 16
    worker.handle([logs(2, (ended, 2, [line("late")]), (unknown, 1, [line("?")]))])
    worker.handle([logs(3, (alive, 1, [line("alive")]))])
    assert kept.messages() == ["before", "alive"]
    assert outlet.of(14) == [[14, ended + unknown]]
    assert outlet.of(16) == [[16, 2]]  # nothing of it will be written
    assert parts.counters.log_lines_stale == 2


async def test_another_worker_cannot_log_for_a_job() -> None:
    parts, worker, outlet, kept = running()
    other, other_outlet = parts.worker(["mail"], worker_id=b"o" * 16)
    token = outlet.tokens()[0]
    other.handle([logs(1, (token, 1, [line("forged")]))])
    worker.handle([logs(1, (token, 1, [line("mine")]))])
    other.handle([logs(2, (token, 2, [line("forged")]))])
    assert kept.messages() == ["mine"]
    assert other_outlet.of(14) == [[14, token], [14, token]]


async def test_lines_that_come_again_are_known_by_their_numbers() -> None:
    parts, worker, outlet, kept = running()
    token = outlet.tokens()[0]
    worker.handle([logs(1, (token, 1, [line("1"), line("2")]))])
    worker.handle([logs(1, (token, 1, [line("1"), line("2")]))])
    worker.handle([logs(2, (token, 2, [line("2"), line("3")]), (token, 9, [line("9")]))])
    assert [(entry.number, entry.message) for entry in kept.lines] == [
        (1, "1"),
        (2, "2"),
        (3, "3"),
        (9, "9"),
    ]
    assert parts.counters.log_lines_dropped == 0


async def test_an_execution_has_room_for_so_many_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOG_LINES_MAX", 3)
    parts, worker, outlet, kept = running()
    token = outlet.tokens()[0]
    worker.handle([logs(1, (token, 1, [line(str(n)) for n in range(1, 6)]))])
    worker.handle([logs(2, (token, 6, [line("6")]))])
    assert kept.messages()[:3] == ["1", "2", "3"]
    notice = kept.lines[3]
    assert (notice.number, notice.level, len(kept.lines)) == (4, "warn", 4)
    assert b"log_full" in notice.metadata
    assert parts.counters.log_lines_dropped == 2
    kept.written()
    assert outlet.of(16) == [[16, 2], [16, 1]]


async def test_an_execution_has_room_for_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOG_BYTES_MAX", 100)
    _, worker, outlet, kept = running()
    worker.handle([logs(1, (outlet.tokens()[0], 1, [line("x" * 40) for _ in range(9)]))])
    assert [len(message) for message in kept.messages()][:2] == [40, 40]
    assert len(kept.lines) == 3
    assert "full" in kept.messages()[2]


async def test_what_cannot_be_stored_is_mended() -> None:
    _, worker, outlet, kept = running()
    long = "ä" * limits.LOG_MESSAGE_BYTES_MAX
    worker.handle(
        [
            logs(
                1,
                (
                    outlet.tokens()[0],
                    1,
                    [
                        line("a\0b", 0, 0, b"[1]"),
                        line(long, 0, 0, b'{"a":"\\u0000"}'),
                        line("x", 0, 0, b'{"a":' + b'"' + b"x" * limits.LOG_METADATA_BYTES_MAX),
                    ],
                ),
            )
        ]
    )
    assert kept.messages() == ["a\ufffdb", "ä" * (limits.LOG_MESSAGE_BYTES_MAX // 2), "x"]
    assert all(b"cannot be kept" in entry.metadata for entry in kept.lines)


@pytest.mark.parametrize(
    "groups",
    [
        5,
        [5],
        [[b"x", 1, []]],
        [[b"x" * 24, 0, []]],
        [[b"x" * 24, limits.LOG_NUMBER_MAX + 1, []]],
        [[b"x" * 24, 1, {}]],
        [[b"x" * 24, 1, [5]]],
        [[b"x" * 24, 1, [[3, 0, "", None]]]],
        [[b"x" * 24, 1, [[0, -1, "", None]]]],
        [[b"x" * 24, 1, [[0, 0, b"", None]]]],
        [[b"x" * 24, 1, [[0, 0, "", "{}"]]]],
        [[b"x" * 24, 1, [[0, 0, "", None]] * (limits.LOG_FRAME_LINES_MAX + 1)]],
    ],
)
async def test_a_frame_that_makes_no_sense_ends_the_session(groups: Any) -> None:
    _, worker, outlet, kept = running()
    token = outlet.tokens()[0]
    if isinstance(groups, list):
        groups = [[token, 1, [line("good")]], *groups]
    worker.handle([msgpack.packb([6, 1, groups])])
    assert outlet.closed is not None
    assert outlet.closed[0] == 1002
    assert kept.lines == []


async def test_without_history_there_are_no_lines() -> None:
    _, worker, outlet, kept = running(history="none")
    worker.handle([logs(1, (outlet.tokens()[0], 1, [line("gone")]))])
    assert kept.lines == []
    assert outlet.of(16) == [[16, 1]]


async def test_executions_that_ended_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOG_ATTEMPTS_SWEPT", 10)
    parts, worker, outlet, _ = running(40)
    parts.logs._sweep_at = 10
    for seq, token in enumerate(outlet.tokens()):
        worker.handle([logs(seq, (token, 1, [line("a")])), done(seq, token)])
        assert len(parts.logs) <= 10
    parts.settle()


def test_ids_of_lines_are_in_their_order() -> None:
    execution = bytes.fromhex("0190000000007007") + bytes.fromhex("ffffffffffffffff")
    ids = [log_id(execution, number) for number in (0, 1, 2, 300, limits.LOG_NUMBER_MAX)]
    assert ids == sorted(ids)
    assert [log_number(line_id) for line_id in ids] == [0, 1, 2, 300, limits.LOG_NUMBER_MAX]
    assert all(line_id[:8] == execution[:8] and line_id[8] & 0xC0 == 0x80 for line_id in ids)
