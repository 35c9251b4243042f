"""Connections of the blocking client: kept open, one request at a time on each.

Threads share the pool; each takes a connection for one exchange. A connection whose exchange did
not come to its end is closed: its late answer would meet the next request. After a fork the child
drops the parent's connections, or two processes would read from one socket.
"""

import os
import socket
import ssl
import threading
from collections.abc import Iterator
from time import monotonic

from taskforge.client.following import StreamParser
from taskforge.client.http1 import Response, ResponseParser
from taskforge.limits import CONNECT_TIMEOUT_S, IDLE_CONNECTIONS_MAX
from taskforge.settings import Server

READ_BYTES = 64 * 1024


class BlockingPool:
    """The connections to one server. The last used is used first."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._tls = server.tls
        self._lock = threading.Lock()
        self._idle: list[socket.socket] = []
        self._pid = os.getpid()
        self._closed = False

    def exchange(self, request: bytes, timeout_s: float) -> Response:
        """Send a request on a free or a new connection and wait for its response."""
        connection = self._free() or self._connect()
        kept = False
        try:
            response = _exchange(connection, request, monotonic() + timeout_s)
            kept = response.keep_alive and self._keep(connection)
        finally:
            if not kept:
                connection.close()
        return response

    def stream(self, request: bytes, silence_s: float) -> Iterator[bytes | Response]:
        """Send a request on a connection of its own: its body as it comes, then the response."""
        connection = self._connect()
        try:
            connection.settimeout(silence_s)
            connection.sendall(request)
            parser = StreamParser()
            while True:
                data = connection.recv(READ_BYTES)
                response = parser.feed(data) if data else parser.feed_eof()
                if part := parser.take():
                    yield part
                if response is not None:
                    yield response
                    return
                if not data:
                    raise ConnectionResetError("the server closed the connection")
        finally:
            connection.close()

    def _free(self) -> socket.socket | None:
        if self._pid != os.getpid():
            self._forget_parent()
        while True:
            with self._lock:
                if self._closed:
                    raise RuntimeError("the client is closed")
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if _is_quiet(connection):
                return connection
            connection.close()

    def _keep(self, connection: socket.socket) -> bool:
        with self._lock:
            if self._closed or len(self._idle) >= IDLE_CONNECTIONS_MAX:
                return False
            self._idle.append(connection)
            return True

    def _forget_parent(self) -> None:
        # A new lock: the old one may have been held by a thread that the child does not have.
        self._lock = threading.Lock()
        self._pid = os.getpid()
        for connection in self._idle:
            connection.close()  # only this process's handle: the parent's connection lives on
        self._idle = []

    def _connect(self) -> socket.socket:
        address = (self._server.host, self._server.port)
        connection = socket.create_connection(address, timeout=CONNECT_TIMEOUT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is None:
            return connection
        try:
            return self._tls.wrap_socket(connection, server_hostname=self._server.host)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Close the idle connections; those in use close after their exchange."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def _is_quiet(connection: socket.socket) -> bool:
    """Whether an idle connection is still open: one with something to read was closed."""
    connection.settimeout(0)
    try:
        if isinstance(connection, ssl.SSLSocket):
            connection.read(1)
        else:
            connection.recv(1, socket.MSG_PEEK)
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        return False
    return False


def _exchange(connection: socket.socket, request: bytes, until: float) -> Response:
    connection.settimeout(max(0.001, until - monotonic()))
    connection.sendall(request)
    parser = ResponseParser()
    while True:
        connection.settimeout(max(0.001, until - monotonic()))
        data = connection.recv(READ_BYTES)
        response = parser.feed(data) if data else parser.feed_eof()
        if response is not None:
            return response
        if not data:
            raise ConnectionResetError("the server closed the connection")
