"""The way of a job with nothing on it: what no node, on this machine, comes under.

    client ──request──► relay ──log row, committed──► relay ──frame──► sink
                          └──reply──► client

The relay stands in the place of a node: it has its loop, its driver and its statement, and looks at
no byte of what it forwards. No HTTP is read, no JSON, nothing is decided, no handler is found. The
sink stands in the place of a worker, and notes how long ago the call began.

`relay` serves until it is ended; `sink` prints the latencies as a JSON object when the relay is
gone.
"""

import argparse
import asyncio
import json
import socket
import time
from array import array
from typing import cast

import asyncpg
import uvloop

from bench.load.bodies import stamp_of
from taskforge_server.engine import limits
from taskforge_server.engine.journal.direct import DirectStatement
from taskforge_server.engine.journal.statements import sql

FREE_SHARD = 4_000
"""No node has it."""
ROW_BYTES = 300
FRAME_BYTES = 160
SINK = b"sink"
HERE = b"here"
REPLY = (
    b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n"
    b'{"status":"pending"}'
)
LOOK_S = 0.002


class _Relay:
    """What its connections share."""

    def __init__(self, append: DirectStatement) -> None:
        self._append = append
        self._lsn = 0
        self._calls: set[asyncio.Task[None]] = set()
        self.sink: asyncio.Transport | None = None

    def begin(self, request: bytes, caller: asyncio.Transport) -> None:
        call = asyncio.create_task(self._call(request, caller))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _call(self, request: bytes, caller: asyncio.Transport) -> None:
        assert self.sink is not None
        self._lsn += 1
        await self._append.run((FREE_SHARD, self._lsn, 1, 2, bytes(ROW_BYTES)))
        self.sink.write(request[-FRAME_BYTES:])
        caller.write(REPLY)


class _Connection(asyncio.Protocol):
    """Of the client, or of the sink, which says so first."""

    def __init__(self, relay: _Relay) -> None:
        self._relay = relay

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if data == SINK:
            self._relay.sink = self._transport
            self._transport.write(HERE)
        else:
            self._relay.begin(data, self._transport)


async def relay(port: int, url: str) -> None:
    """Serve until ended."""
    connection = await asyncpg.connect(url)
    prepared = await connection.prepare(sql("log_append_one"))
    made = _Relay(DirectStatement(connection, prepared, limits.JOURNAL_STATEMENT_S))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(made), "127.0.0.1", port)
    await server.serve_forever()


def sink(port: int) -> None:
    """Note what comes until the relay is gone."""
    connection = _connected(port)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(SINK)
    if connection.recv(len(HERE)) != HERE:
        raise RuntimeError("the relay does not know a sink")
    print(HERE.decode(), flush=True)
    latencies_ns = array("q")
    frames = b""
    while received := connection.recv(4096):
        now_ns, frames = time.monotonic_ns(), frames + received
        while len(frames) >= FRAME_BYTES:
            latencies_ns.append(now_ns - stamp_of(frames[:FRAME_BYTES]))
            frames = frames[FRAME_BYTES:]
    print(json.dumps({"latencies_ns": list(latencies_ns)}))


def _connected(port: int) -> socket.socket:
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            time.sleep(LOOK_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("relay", "sink"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", help="as all clients get; nobody asks for it")
    parser.add_argument("--url", help="of the database; of the relay")
    given = parser.parse_args()
    if given.role == "sink":
        sink(given.port)
    else:
        uvloop.run(relay(given.port, given.url))


if __name__ == "__main__":
    main()
