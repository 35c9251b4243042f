"""Lines of handlers in the worker, and what a follower makes of a stream."""

import asyncio
import json
import logging
from typing import Any

import msgspec
import pytest

from taskforge import Context
from taskforge.client.following import Following, StreamParser
from taskforge.client.http1 import ProtocolError
from taskforge.limits import (
    EVENT_BYTES_MAX,
    LOG_BYTES_MAX,
    LOG_FRAME_BYTES,
    LOG_FRAME_LINES_MAX,
    LOG_MESSAGE_CHARS_MAX,
    LOG_METADATA_BYTES_MAX,
)
from taskforge.worker.lines import Lines, SealedLines
from tests.support.stub_stream import token

JOB = "01997b5c-6c00-7001-8000-5f3a9c2d4e6f"


class Parts:
    """Lines with a flush that is noted."""

    def __init__(self) -> None:
        self.flushed = asyncio.Event()
        self.lines = Lines(asyncio.get_running_loop(), self.flushed.set)
        self.lines.lines_max = 1_000_000

    def context(self, number: int = 1) -> Context:
        return Context(token(number), "default", "send", 1, b"{}", 0.0, self.lines)


def groups(frame: SealedLines) -> list[list[Any]]:
    """Token, first number and messages of each group of the frame."""
    kind, seq, found = msgspec.msgpack.decode(frame.encode())
    assert (kind, seq) == (6, frame.seq)
    return [[one, first, [entry[2] for entry in entries]] for one, first, entries in found]


async def test_lines_are_grouped_by_attempt_and_numbered() -> None:
    parts = Parts()
    first, second = parts.context(1), parts.context(2)
    first.log("info", "a", n=1)
    second.log("warn", "b")
    first.log("error", "c")
    async with asyncio.timeout(20):
        await parts.flushed.wait()
    (frame,) = parts.lines.seal()
    assert groups(frame) == [[token(1), 1, ["a", "c"]], [token(2), 1, ["b"]]]
    entries = msgspec.msgpack.decode(frame.encode())[2][0][2]
    assert [(level, metadata) for level, _, _, metadata in entries] == [(0, b'{"n":1}'), (2, None)]
    assert all(0 <= age_us < 60_000_000 for _, age_us, _, _ in entries)
    assert parts.lines.seal() == []
    assert not parts.lines.empty
    parts.lines.acknowledged(frame.seq)
    parts.lines.acknowledged(frame.seq)
    assert parts.lines.empty


async def test_frames_are_bounded() -> None:
    parts = Parts()
    context = parts.context()
    for number in range(LOG_FRAME_LINES_MAX + 1):
        context.log("info", str(number))
    for _ in range(2):
        context.log("info", "x" * LOG_MESSAGE_CHARS_MAX * 2)
    frames = parts.lines.seal()
    assert [len(frame.lines) for frame in frames] == [LOG_FRAME_LINES_MAX, 3]
    assert all(frame.weight <= LOG_FRAME_BYTES for frame in frames)
    assert len(frames[1].lines[-1].message) == LOG_MESSAGE_CHARS_MAX
    assert groups(frames[1])[0][1] == LOG_FRAME_LINES_MAX + 1


async def test_lines_that_the_server_has_not_are_bounded_and_leave_a_gap() -> None:
    parts = Parts()
    context = parts.context()
    while not parts.lines.dropped_lines:
        context.log("info", "x" * 10_000)
    frames = parts.lines.seal()
    kept = sum(len(frame.lines) for frame in frames)
    assert sum(frame.weight for frame in frames) <= LOG_BYTES_MAX
    for frame in frames:
        parts.lines.acknowledged(frame.seq)
    context.log("info", "again")
    (frame,) = parts.lines.seal()
    assert groups(frame) == [[token(1), kept + 2, ["again"]]]


async def test_a_new_connection_gets_unacknowledged_frames_without_stale_lines() -> None:
    parts = Parts()
    first, second = parts.context(1), parts.context(2)
    first.log("info", "a")
    second.log("info", "b")
    (frame,) = parts.lines.seal()
    first.log("info", "c")
    (later,) = parts.lines.seal()
    assert [again.seq for again in parts.lines.resend(set())] == [frame.seq, later.seq]
    assert groups(parts.lines.resend({token(1)})[0]) == [[token(2), 1, ["b"]]]
    assert len(parts.lines.resend({token(1), token(2)})) == 0
    assert parts.lines.empty
    assert parts.lines._sealed_bytes == 0


async def test_a_server_that_takes_no_lines_gets_none() -> None:
    parts = Parts()
    context = parts.context()
    context.log("info", "a")
    (_,) = parts.lines.seal()
    context.log("info", "b")
    parts.lines.lines_max = 0
    assert parts.lines.resend(set()) == []
    assert parts.lines.seal() == []
    context.log("info", "c")
    assert parts.lines.empty
    assert (parts.lines._sealed_bytes, parts.lines._gathered_bytes) == (0, 0)


async def test_a_full_log_sends_one_line_more_than_is_kept() -> None:
    parts = Parts()
    parts.lines.lines_max = 3
    context = parts.context()
    for number in range(9):
        context.log("info", str(number))
    assert sum(len(frame.lines) for frame in parts.lines.seal()) == 4


async def test_after_the_end_nothing_is_kept() -> None:
    parts = Parts()
    context = parts.context()
    context._close()
    context.log("info", "late")
    context.logger.error("late")
    assert parts.lines.empty


async def test_anything_can_be_logged() -> None:
    parts = Parts()
    context = parts.context()
    context.log("info", "half \ud800 of a pair", when=object(), nan=float("nan"), big=2**200)
    context.log("info", "x", large="x" * LOG_METADATA_BYTES_MAX)
    context.logger.info("%s and %d", "text", "no number")
    context.logger.info("%(a)s", {"a": 1})
    context.logger.info(None, extra={1: {2}})
    with pytest.raises(ValueError, match="debug"):
        context.log("debug", "x")  # type: ignore[arg-type]
    (frame,) = parts.lines.seal()
    assert [line.message for line in frame.lines] == [
        "half ? of a pair",
        "x",
        "%s and %d",
        "1",
        "None",
    ]
    assert all(isinstance(json.loads(line.metadata), dict) for line in frame.lines if line.metadata)
    frame.encode()


async def test_the_logger_sends_from_info_on_whatever_is_shown_here(
    caplog: pytest.LogCaptureFixture,
) -> None:
    parts = Parts()
    context = parts.context()
    with caplog.at_level(logging.ERROR, "taskforge.job"):
        context.logger.debug("no")
        context.logger.info("yes")
        context.logger.critical("worst")
    (frame,) = parts.lines.seal()
    assert [(line.level, line.message) for line in frame.lines] == [(0, "yes"), (2, "worst")]
    assert [record.getMessage() for record in caplog.records] == [f"[{context.job_id} #1] worst"]


def line(number: int) -> bytes:
    found = {"id": f"id-{number}", "attempt": 1, "number": number, "level": "info", "message": "x"}
    return f"id: id-{number}\ndata: {json.dumps(found)}\n\n".encode()


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_events_arrive_in_any_pieces(size: int) -> None:
    following = Following(JOB, 2, "warn", None)
    assert following.path() == f"/v1/jobs/{JOB}/logs/stream?attempt=2&level=warn"
    stream = b"retry: 1000\n\n" + line(1) + b":\n\n" + line(2)
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert [seen.number for piece in pieces for seen in following.feed(piece)] == [1, 2]
    assert following.path().endswith("&after=id-2")
    assert list(following.feed(b'event: end\ndata: {"status": "failed"}\n\n')) == []
    assert following.over


def test_a_broken_event_is_not_kept_for_the_next_connection() -> None:
    following = Following(JOB, None, None, None)
    assert list(following.feed(line(1)[:-5])) == []
    following.path()
    assert [seen.number for seen in following.feed(line(1))] == [1]
    with pytest.raises(ProtocolError):
        list(following.feed(b"data: {}\n\n"))
    with pytest.raises(ProtocolError):
        list(following.feed(b"x" * (EVENT_BYTES_MAX + 1)))


def test_the_body_of_a_stream_is_taken_as_it_comes() -> None:
    parser = StreamParser()
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert parser.feed(head + b"3\r\nabc\r\n") is None
    assert parser.take() == b"abc"
    assert parser.feed(b"2\r\nde\r\n0\r\n\r\n") is not None
    assert parser.take() == b"de"
    refusal = StreamParser()
    refusal.feed(head.replace(b"200 OK", b"404 Not Found") + b"3\r\nabc\r\n")
    assert refusal.take() == b""
    whole = refusal.feed(b"0\r\n\r\n")
    assert whole is not None
    assert whole.body == b"abc"
