"""Connections of the async client: kept open, one request at a time on each.

    connecting ──► idle ──exchange──► waiting ──whole response──► idle
                     └─ server closes ─┴── timeout, cancelled, broken ──► closed

A connection whose exchange did not come to its end is closed: its late answer would meet the next
request. One pool belongs to one event loop.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import cast

from taskforge.client.following import StreamParser
from taskforge.client.http1 import ProtocolError, Response, ResponseParser
from taskforge.limits import CONNECT_TIMEOUT_S
from taskforge.settings import Server

READ_BYTES = 64 * 1024


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request in flight."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser: ResponseParser | None = None
        self._waiting: asyncio.Future[Response] | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection stands."""
        self._transport = cast(asyncio.Transport, transport)

    async def exchange(self, request: bytes, timeout_s: float) -> Response:
        """Send a request and wait for its response."""
        assert self._transport is not None
        assert self._waiting is None
        self._parser = ResponseParser()
        self._waiting = waiting = self._loop.create_future()
        timer = self._loop.call_later(timeout_s, self._expire)
        self._transport.write(request)
        try:
            response: Response = await waiting
        except BaseException:
            self.close()
            raise
        finally:
            timer.cancel()
            self._waiting = None
        if not response.keep_alive:
            self.close()
        return response

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes have come."""
        if self._waiting is None or self._parser is None:
            self.close()  # an answer that nobody asked for
            return
        try:
            response = self._parser.feed(data)
        except ProtocolError as error:
            self._fail(error)
            return
        if response is not None and not self._waiting.done():
            self._parser = None
            self._waiting.set_result(response)

    def eof_received(self) -> bool:
        """asyncio: the server sends no more."""
        if self._parser is not None and self._waiting is not None and not self._waiting.done():
            response = self._parser.feed_eof()
            if response is not None:
                self._waiting.set_result(response)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self.closed = True
        self._fail(exc or ConnectionResetError("the server closed the connection"))

    def close(self) -> None:
        """Give the connection up."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def _expire(self) -> None:
        self._fail(TimeoutError("the server did not answer in time"))

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)


class AsyncPool:
    """The connections to one server, `connections_max` at most. The last used is used first."""

    def __init__(self, server: Server, connections_max: int) -> None:
        self._server = server
        self._tls = server.tls
        self._idle: list[Connection] = []
        self._slots = asyncio.Semaphore(connections_max)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def exchange(self, request: bytes, timeout_s: float) -> Response:
        """Send a request on a free or a new connection and wait for its response."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None:
                raise RuntimeError("an AsyncClient belongs to the event loop that it began in")
            self._loop = loop
        if self._closed:
            raise RuntimeError("the client is closed")
        async with self._slots:
            connection = self._free() or await self._connect(loop)
            response = await connection.exchange(request, timeout_s)
            self._give_back(connection)
            return response

    async def stream(
        self, request: bytes, silence_s: float
    ) -> AsyncGenerator[bytes | Response, None]:
        """Send a request on a connection of its own: its body as it comes, then the response."""
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(
                self._server.host, self._server.port, ssl=self._tls
            )
        try:
            writer.write(request)
            parser = StreamParser()
            while True:
                async with asyncio.timeout(silence_s):
                    data = await reader.read(READ_BYTES)
                response = parser.feed(data) if data else parser.feed_eof()
                if part := parser.take():
                    yield part
                if response is not None:
                    yield response
                    return
                if not data:
                    raise ConnectionResetError("the server closed the connection")
        finally:
            writer.transport.abort()

    def _give_back(self, connection: Connection) -> None:
        if self._closed:
            connection.close()
        elif not connection.closed:
            self._idle.append(connection)

    def _free(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        return None

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> Connection:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await loop.create_connection(
                lambda: Connection(loop), self._server.host, self._server.port, ssl=self._tls
            )
        return connection

    def close(self) -> None:
        """Close the idle connections; those in use close after their exchange."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()
