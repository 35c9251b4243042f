"""A small HTTP/1.1 load client: prebuilt requests over keep-alive connections, latencies counted.

    connection:  idle --send--> waiting --whole reply--> idle ...

Each connection has one request in flight, so `connections` is the concurrency and a single
connection measures the call in sequence. A reply is complete when `Content-Length` bytes follow
its head; a reply without that header is an error. It knows nothing else of HTTP: the client must
cost less than the server that it loads (about 12 µs a request on one core).
"""

import asyncio
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

HEAD_END = b"\r\n\r\n"
LENGTH = b"content-length:"


@dataclass(slots=True)
class LoadResult:
    """What one run saw. Latencies are nanoseconds, in order of completion."""

    elapsed_s: float = 0.0
    latencies_ns: "array[int]" = field(default_factory=lambda: array("q"))
    statuses: dict[int, int] = field(default_factory=dict)
    by_second: list[int] = field(default_factory=lambda: [0])
    """Replies in each second since the start; the last one may be cut short."""
    unexpected: int = 0
    last_reply: bytes = b""

    @property
    def requests(self) -> int:
        return len(self.latencies_ns)


def post(host: str, path: str, body: bytes, token: str, *headers: str) -> bytes:
    """The bytes of one POST request; `headers` replace the JSON content type."""
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {host}",
        f"Authorization: Bearer {token}",
        f"Content-Length: {len(body)}",
        *(headers or ("Content-Type: application/json",)),
    ]
    return "\r\n".join(lines).encode() + HEAD_END + body


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request in flight."""

    def __init__(
        self, result: LoadResult, next_request: Callable[[], bytes | None], expected: bytes
    ) -> None:
        self.result = result
        self.expected = expected
        self.next_request = next_request
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.received = b""
        self.sent_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        if self.received:
            data = self.received + data
        status = complete_status(data)
        if status == 0:
            self.received = data
            return
        self.received = b""
        result = self.result
        result.latencies_ns.append(time.perf_counter_ns() - self.sent_ns)
        result.statuses[status] = result.statuses.get(status, 0) + 1
        result.by_second[-1] += 1
        if self.expected not in data:
            result.unexpected += 1
        result.last_reply = data
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def _send(self) -> None:
        request = self.next_request()
        if request is None:
            self.transport.close()
            return
        self.sent_ns = time.perf_counter_ns()
        self.transport.write(request)


def complete_status(data: bytes) -> int:
    """The status of a whole reply; 0 while bytes are missing."""
    end = data.find(HEAD_END)
    if end < 0:
        return 0
    head = data[:end].lower()
    at = head.find(LENGTH)
    if at < 0:
        raise ValueError(f"reply without Content-Length: {head!r}")
    length = int(head[at + len(LENGTH) :].split(b"\r\n", 1)[0])
    return int(head[9:12]) if len(data) >= end + len(HEAD_END) + length else 0


async def load(
    host: str,
    port: int,
    requests: Sequence[bytes],
    *,
    connections: int = 64,
    seconds: float = 5.0,
    requests_max: int = 0,
    expected: bytes = b"",
) -> LoadResult:
    """Send `requests` round robin until `seconds` are over or `requests_max` (0: no bound) sent.

    Replies that do not contain `expected` are counted as unexpected.
    """
    loop = asyncio.get_running_loop()
    result = LoadResult()
    ends = time.perf_counter() + seconds
    sent = 0

    def next_request() -> bytes | None:
        nonlocal sent
        if time.perf_counter() >= ends or (requests_max and sent >= requests_max):
            return None
        sent += 1
        return requests[sent % len(requests)]

    def connection() -> _Connection:
        return _Connection(result, next_request, expected)

    started = time.perf_counter()
    made = [(await loop.create_connection(connection, host, port))[1] for _ in range(connections)]
    seconds_task = asyncio.create_task(_next_seconds(result, loop.time()))
    await asyncio.gather(*(connection.closed for connection in made))
    result.elapsed_s = time.perf_counter() - started
    seconds_task.cancel()
    return result


async def _next_seconds(result: LoadResult, begun: float) -> None:
    """Open a new counter at each whole second."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(max(0.0, begun + len(result.by_second) - loop.time()))
        result.by_second.append(0)
