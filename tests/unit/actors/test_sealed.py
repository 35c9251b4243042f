"""Frames, keys and lines of encrypted projects, on their way."""

import os
from collections.abc import Callable

import msgpack
import pytest

from taskforge_server.engine.actors.sealed import SealedLines, find_first, opened
from taskforge_server.engine.errors import KeyConflict
from taskforge_server.engine.model.execution import LogLine
from taskforge_server.engine.observe.counters import Counters
from taskforge_server.engine.shard.keys import KeyBook, KeyedRequest, KeyEntry
from taskforge_server.engine.vault.sealing import DataKey
from taskforge_server.engine.vault.vault import Ring, Vault
from tests.support.engine_parts import PROJECT, EngineParts, done


def ring(encrypted: bool = True) -> Ring:
    made = Ring(PROJECT, encrypted)
    made.add(DataKey(b"1" * 16, 1, os.urandom(32)))
    return made


def frame_of(payloads: list[bytes], tokens: list[bytes]) -> bytes:
    kinds = bytes(place % 2 for place in range(len(payloads)))
    details = {place: {"attempt": place + 1} for place in range(1, len(payloads))}
    packed: bytes = msgpack.packb(
        [11, "mail", ["a", "b"], kinds, b"".join(tokens), payloads, details]
    )
    return packed


def test_jobs_that_cannot_be_opened_leave_the_frame_with_all_that_belongs_to_them() -> None:
    keys = ring()
    tokens = [bytes([number]) * 24 for number in range(4)]
    payloads = [keys.seal(token[:16], "payload", b"%d" % at) for at, token in enumerate(tokens)]
    payloads[1] = payloads[3]
    frame, unreadable = opened(frame_of(payloads, tokens), keys)
    assert unreadable == [tokens[1]]
    kept = [tokens[0], tokens[2], tokens[3]]
    assert msgpack.unpackb(frame, strict_map_key=False) == [
        11,
        "mail",
        ["a", "b"],
        b"\0\0\1",
        b"".join(kept),
        [b"0", b"2", b"3"],
        {1: {"attempt": 3}, 2: {"attempt": 4}},
    ]


def test_a_frame_without_sealed_payloads_is_not_touched() -> None:
    frame = frame_of([b"1"], [bytes(24)])
    assert opened(frame, ring())[0] is frame


async def test_frames_of_other_projects_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = EngineParts()
    monkeypatch.setattr("taskforge_server.engine.actors.sealed.opened", None)
    other = Ring(b"o" * 16, True)
    other.add(DataKey(b"1" * 16, 1, os.urandom(32)))
    parts.vault.replace([other])
    queue = parts.queue("mail")
    worker, outlet = parts.worker(["mail"])
    parts.submit(queue, 1, payload=b'"plain"')
    parts.settle()
    assert outlet.payloads() == [b'"plain"']
    worker.handle([done(1, b"", (outlet.tokens()[0], 0, b'"result"'))])
    body = b"".join(body for _, _, body in parts.journal.bodies)
    assert b'"plain"' in body


def test_a_request_is_found_under_its_keyed_hash_or_the_plain_one_from_before() -> None:
    keys, book, request = ring(), KeyBook(), KeyedRequest("k", b"h" * 32)
    first, kept = find_first(book, keys, PROJECT, request, 0)
    assert first is None
    assert kept.body_hash not in (request.body_hash, b"")
    for known in (request, kept):
        entry = KeyEntry(1, 1, known.body_hash, b"", 0)
        book.remember(PROJECT, "k", entry)
        assert find_first(book, keys, PROJECT, request, 0) == (entry, kept)
        with pytest.raises(KeyConflict):
            find_first(book, keys, PROJECT, KeyedRequest("k", b"x" * 32), 0)
    assert find_first(book, ring(False), PROJECT, KeyedRequest("l", b"h"), 0)[1].body_hash == b"h"


class Sink:
    def __init__(self) -> None:
        self.lines: list[LogLine] = []

    def add(self, lines: list[LogLine], written: Callable[[], None]) -> None:
        self.lines += lines
        written()


def test_lines_without_a_key_are_dropped_and_said_to_be() -> None:
    sink, vault, counters, acked = Sink(), Vault(), Counters(), []
    line = LogLine(
        execution_id=b"e" * 16,
        number=1,
        job_id=b"j" * 16,
        project_id=PROJECT,
        level="info",
        message="secret",
        logged_us=0,
    )
    sealing = SealedLines(sink, vault, counters)
    sealing.add([line], lambda: acked.append(1))
    assert sink.lines == [line]
    broken = Ring(PROJECT, True)
    vault.replace([broken])
    sealing.add([line], lambda: acked.append(2))
    assert sink.lines == [line]
    assert counters.log_lines_dropped == 1
    vault.replace([ring()])
    sealing.add([line], lambda: acked.append(3))
    assert "secret" not in sink.lines[1].message
    assert acked == [1, 2, 3]
