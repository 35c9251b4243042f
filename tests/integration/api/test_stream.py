"""The stream of workers: handshake, hello, frames, close codes."""

import asyncio
import uuid
from typing import Any

import aiohttp
import msgpack
import pytest

from taskforge_server.api.stream import session as session_module
from taskforge_server.engine import limits
from taskforge_server.engine.errors import Unavailable
from tests.integration.api.conftest import KEY, Fixture, until

PATH = "/v1/workers/stream"
WORKER = uuid.UUID(int=77)


def hello(**changes: Any) -> bytes:
    body: dict[str, Any] = {
        "protocol": 1,
        "worker_id": WORKER.bytes,
        "name": "w1",
        "worker_type": "general",
        "queues": ["default"],
        "types": ["t"],
        "credit": 10,
        "running": b"",
        "sdk": "test",
    }
    body |= changes
    frame: bytes = msgpack.packb([1, {name: value for name, value in body.items() if value != ()}])
    return frame


def connect(api: Fixture, **options: Any) -> Any:
    headers = {"Authorization": f"Bearer {KEY}"}
    return api.session.ws_connect(api.url + PATH, headers=headers, **options)


async def closed(socket: Any) -> tuple[int, str]:
    """How the server closes."""
    message = await socket.receive()
    assert message.type is aiohttp.WSMsgType.CLOSE, message
    return socket.close_code, message.extra


async def test_a_session(api: Fixture) -> None:
    token = b"j" * 16 + b"\0" * 7 + b"\1"
    async with connect(api) as socket:
        await socket.send_bytes(hello(running=token, credit=10**6))
        welcome = msgpack.unpackb((await socket.receive()).data)
        assert welcome == [10, {"protocol": 1, "session": "s", "kept": token}]
        session = await api.engine.session_waiters.get()
        assert session.hello.queues == ("default",)
        assert session.hello.types == frozenset({"t"})
        assert session.hello.credit == limits.CREDIT_MAX, "no more than a node gives"
        for frame in ([2, 5], [3, 1, token, [[token, 0, b"1"]]], [4]):
            await socket.send_bytes(msgpack.packb(frame))
        assert [await session.frames.get() for _ in range(3)] == [
            [2, 5],
            [3, 1, token, [[token, 0, b"1"]]],
            [4],
        ]
        for size in (0, 125, 126, 65_535, 65_536, 300_000):
            session.outlet.send(b"x" * size)
            assert (await socket.receive()).data == b"x" * size
        beat = await api.post(f"/v1/workers/{WORKER}/heartbeat")
        assert (beat.status, beat.json) == (200, {"status": "ok"})
        await socket.send_bytes(msgpack.packb([5]))
        session.outlet.send(b"in time")
        assert (await socket.receive()).data == b"in time"
        assert await closed(socket) == (1000, "bye")
    await session.detached.wait()
    session.outlet.send(b"too late")
    await until(lambda: api.server.streams.count == 0)


@pytest.mark.parametrize(
    ("frame", "code", "reason"),
    [
        (hello(protocol=2), 1008, "protocol 2"),
        (hello(queues=["default", "nowhere"]), 1008, "no queue named nowhere"),
        (hello(queues=[]), 1008, "queues"),
        (hello(queues="default"), 1008, "queues"),
        (hello(types=[]), 1008, "types"),
        (hello(types=[""]), 1008, "types"),
        (hello(name=""), 1008, "name"),
        (hello(name=()), 1008, "name"),
        (hello(worker_id=b"short"), 1008, "worker_id"),
        (hello(worker_type="huge"), 1008, "worker_type"),
        (hello(credit=-1), 1008, "credit"),
        (hello(running=b"x"), 1008, "running"),
        (hello(queues=["q"] * 1001), 1008, "queues"),
        (msgpack.packb([4]), 1002, "first frame"),
        (msgpack.packb({"a": 1}), 1008, "array"),
        (msgpack.packb([1]), 1008, "protocol None"),
        (b"\xc1", 1002, "MessagePack"),
        (b"", 1002, "MessagePack"),
        (hello()[:-4], 1002, "MessagePack"),
        (hello() + b"\0", 1002, "MessagePack"),
        (b"\x91" * 100, 1002, "MessagePack"),
        (b"\x92\x01\x81\xa4name\xa1\xff", 1002, "MessagePack"),
        (b"\x92\x01\x82\xa1a\x01\xa1a\x01", 1002, "twice"),
        (b"\xdd\xff\xff\xff\xff", 1002, "MessagePack"),
    ],
)
async def test_bad_hellos(api: Fixture, frame: bytes, code: int, reason: str) -> None:
    async with connect(api) as socket:
        await socket.send_bytes(frame)
        seen = await closed(socket)
        assert (seen[0], reason in seen[1]) == (code, True), seen
    assert api.engine.sessions == []


async def test_no_hello(api: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HELLO_WAIT_S", 0.02)
    async with connect(api) as socket:
        assert (await closed(socket))[0] == 1008


@pytest.mark.parametrize(
    ("frame", "code"), [(b"\xc1", 1002), (msgpack.packb([99]), 1002), (b"x" * 5000, 1009)]
)
async def test_broken_frames_end_the_session(
    api: Fixture, monkeypatch: pytest.MonkeyPatch, frame: bytes, code: int
) -> None:
    monkeypatch.setattr(limits, "STREAM_MESSAGE_BYTES_MAX", 4000)
    async with connect(api) as socket:
        await socket.send_bytes(hello())
        await socket.receive()
        session = await api.engine.session_waiters.get()
        await socket.send_bytes(frame)
        assert (await closed(socket))[0] == code
    await session.detached.wait()


async def test_text_is_no_frame(api: Fixture) -> None:
    async with connect(api) as socket:
        await socket.send_str("hello")
        assert await closed(socket) == (1002, "a text message: frames are binary")


async def test_a_lost_connection_detaches(api: Fixture) -> None:
    socket = await connect(api)
    await socket.send_bytes(hello())
    await socket.receive()
    session = await api.engine.session_waiters.get()
    socket._response.connection.transport.abort()
    await session.detached.wait()
    await until(lambda: api.server.streams.count == 0)
    await socket.close()


async def test_what_the_session_says_goes_into_the_close(api: Fixture) -> None:
    async with connect(api) as socket:
        await socket.send_bytes(hello())
        await socket.receive()
        session = await api.engine.session_waiters.get()
        session.outlet.close(4001, "replaced é" * 30)
        session.outlet.close(1000, "only the first counts")
        code, reason = await closed(socket)
        assert code == 4001
        assert reason.startswith("replaced é")


async def test_an_engine_that_cannot_now(api: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any) -> Any:
        raise Unavailable(1.0, "this node is stopping")

    monkeypatch.setattr(api.engine, "attach_worker", refuse)
    async with connect(api) as socket:
        await socket.send_bytes(hello())
        assert await closed(socket) == (1013, "this node is stopping")

    async def fail(*_: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr(api.engine, "attach_worker", fail)
    async with connect(api) as socket:
        await socket.send_bytes(hello())
        assert (await closed(socket))[0] == 1011


async def test_a_worker_that_does_not_read_is_cut_off(
    api: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STREAM_OUT_BYTES_MAX", 100_000)
    socket = await connect(api)
    await socket.send_bytes(hello())
    await socket.receive()
    session = await api.engine.session_waiters.get()
    socket._response.connection.transport.pause_reading()
    for _ in range(200):
        session.outlet.send(b"x" * 100_000)
    await session.detached.wait()
    await socket.close()


async def test_only_a_websocket_is_served(api: Fixture) -> None:
    answer = await api.get(PATH)
    assert (answer.status, answer.json["code"]) == (426, "upgrade_required")
    assert (await api.get("/healthz")).status == 200


async def test_stopping_closes_streams(api: Fixture) -> None:
    async with connect(api) as socket:
        await socket.send_bytes(hello())
        await socket.receive()
        session = await api.engine.session_waiters.get()
        stopping = asyncio.create_task(api.server.stop(1.0))
        assert (await closed(socket))[0] == session_module.GOING_AWAY
    await stopping
    await session.detached.wait()
