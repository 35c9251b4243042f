"""A stand-in for the server's worker stream, which tests and benchmarks script frame by frame.

It speaks the wire protocol over a real WebSocket and keeps what workers send. It decides nothing:
the test says which jobs go out, which leases stand, and which acks are held back. What a test waits
for are its signals: `until` returns when a condition on what was received holds.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

HELLO, CREDIT, DONE, HEARTBEAT, BYE, LOGS = 1, 2, 3, 4, 5, 6
WELCOME, JOBS, ACK, PONG, STOP, DRAIN, LOGS_ACK = 10, 11, 12, 13, 14, 15, 16
TOKEN_BYTES = 24

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder().decode


def token(number: int, lease: int = 1) -> bytes:
    """The token of a made-up job."""
    return number.to_bytes(16, "big") + lease.to_bytes(8, "big")


def split(tokens: bytes) -> list[bytes]:
    """The single tokens."""
    return [tokens[at : at + TOKEN_BYTES] for at in range(0, len(tokens), TOKEN_BYTES)]


def jobs_frame(
    queue: str,
    jobs: list[tuple[bytes, str, bytes]],
    extras: dict[int, dict[str, int]] | None = None,
) -> bytes:
    """A frame of (token, job type, payload)."""
    types = list(dict.fromkeys(job_type for _, job_type, _ in jobs))
    kinds = bytes(types.index(job_type) for _, job_type, _ in jobs) if len(types) > 1 else b""
    tokens = b"".join(token for token, _, _ in jobs)
    return encode([JOBS, queue, types, kinds, tokens, [job[2] for job in jobs], extras or {}])


@dataclass
class Connection:
    """One connection of a worker, from its hello on."""

    socket: web.WebSocketResponse
    hello: dict[str, Any]
    done: list[list[Any]] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    """Of the frames as they came, the hello left out."""
    logs: list[list[Any]] = field(default_factory=list)
    credits: list[int] = field(default_factory=list)
    bye: bool = False
    closed: bool = False

    async def send(self, frame: bytes) -> None:
        """Send a frame."""
        await self.socket.send_bytes(frame)


class StubStream:
    """A server with the stream and the heartbeat route on a free port of the loopback.

    `auto_ack` acknowledges done frames at once; `stale` answers hello: the tokens whose lease is
    gone; `known` is what heartbeats are answered by.
    """

    def __init__(self, *, lease_ttl_s: float = 15.0, heartbeat_s: float = 5.0) -> None:
        self.lease_ttl_s = lease_ttl_s
        self.heartbeat_s = heartbeat_s
        self.result_bytes_max = 1 << 20
        self.log_lines_max = 10_000
        self.auto_ack = True
        self.answer_pings = True
        self.known = True
        self.refuse_status = 0
        self.stale: set[bytes] = set()
        self.connections: list[Connection] = []
        self.ok: list[bytes] = []
        self.ended: dict[bytes, tuple[int, Any]] = {}
        self.heartbeats = 0
        self.authorizations: set[str] = set()
        self.url = ""
        self._changed = asyncio.Condition()
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def __aenter__(self) -> "StubStream":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; the second time on the same port."""
        app = web.Application()
        app.router.add_get("/v1/workers/stream", self._stream)
        app.router.add_post("/v1/workers/{worker_id}/heartbeat", self._heartbeat)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        assert site._server is not None
        self._port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._port}"

    async def stop(self) -> None:
        """Cut all connections and stop listening."""
        for connection in self.connections:
            await self.cut(connection)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def last(self) -> Connection:
        """The newest connection."""
        return self.connections[-1]

    async def cut(self, connection: Connection, code: int = WSCloseCode.GOING_AWAY) -> None:
        """Close a connection from the server's side."""
        if not connection.closed:
            await connection.socket.close(code=code, message=b"cut")

    async def until(self, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """Return when the condition holds; it is looked at whenever something was received."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(condition)

    async def connected(self, connections: int = 1) -> Connection:
        """The connection with this number, when it has said hello."""
        await self.until(lambda: len(self.connections) >= connections)
        return self.connections[connections - 1]

    async def ack(self, connection: Connection, seq: int, stale: bytes = b"") -> None:
        """Acknowledge a done frame."""
        await connection.send(encode([ACK, seq, stale]))

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _heartbeat(self, request: web.Request) -> web.Response:
        self.heartbeats += 1
        self.authorizations.add(request.headers.get("Authorization", ""))
        await self._notify()
        return web.Response(status=204 if self.known else 404)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        self.authorizations.add(request.headers.get("Authorization", ""))
        if self.refuse_status:
            await self._notify()
            return web.Response(status=self.refuse_status)
        socket = web.WebSocketResponse(compress=False, max_msg_size=1 << 26)
        await socket.prepare(request)
        kind, hello = decode(await socket.receive_bytes())
        assert kind == HELLO
        connection = Connection(socket, hello)
        held = split(hello["running"])
        body = {
            "protocol": 1,
            "session": str(len(self.connections)),
            "lease_ttl_s": self.lease_ttl_s,
            "heartbeat_s": self.heartbeat_s,
            "kept": b"".join(one for one in held if one not in self.stale),
            "stale": b"".join(one for one in held if one in self.stale),
            "result_bytes_max": self.result_bytes_max,
            "log_lines_max": self.log_lines_max,
        }
        await connection.send(encode([WELCOME, body]))
        self.connections.append(connection)
        await self._notify()
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                await self._receive(connection, decode(message.data))
                await self._notify()
        connection.closed = True
        await self._notify()
        return socket

    async def _receive(self, connection: Connection, frame: list[Any]) -> None:
        kind = frame[0]
        connection.kinds.append(kind)
        if kind == CREDIT:
            connection.credits.append(frame[1])
        elif kind == DONE:
            connection.done.append(frame)
            self.ok.extend(split(frame[2]))
            for one, outcome, data in frame[3]:
                self.ended[one] = (outcome, None if data is None else msgspec.json.decode(data))
            if self.auto_ack:
                await self.ack(connection, frame[1])
        elif kind == LOGS:
            connection.logs.append(frame)
            if self.auto_ack:
                await connection.send(encode([LOGS_ACK, frame[1]]))
        elif kind == HEARTBEAT:
            if self.answer_pings:
                await connection.send(encode([PONG]))
        elif kind == BYE:
            connection.bye = True
