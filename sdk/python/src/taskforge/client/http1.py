"""HTTP/1.1 as the clients need it: requests to bytes, bytes to responses. No sockets, no clock.

    head ──► body by length ──────────────────────────────────► response
         ├─► chunks ──► last chunk ──► trailers ──────────────►
         ├─► body until the server closes ────────────────────►
         └─► (1xx: forgotten, the next head follows)

General clients cost more than all the rest of a submit (aiohttp's 165 µs a call, `http.client`'s
100, this 25), and latency of the call is what a submit is measured by. The bounds on heads and
bodies hold for every server, also a hostile one.
"""

from typing import Final

from taskforge.limits import RESPONSE_BYTES_MAX, RESPONSE_HEAD_BYTES_MAX
from taskforge.settings import Server
from taskforge.version import VERSION

HEAD_END: Final = b"\r\n\r\n"
JSON: Final = "application/json"
MSGPACK: Final = "application/msgpack"


class ProtocolError(Exception):
    """The server's bytes are no HTTP response, or one beyond the bounds."""


class Requests:
    """Makes the bytes of requests to one server."""

    def __init__(self, server: Server) -> None:
        default_port = 443 if server.scheme == "https" else 80
        host = server.origin.split("://", 1)[1]
        if server.port == default_port:
            host = host.rsplit(":", 1)[0]
        self._base_path = server.base_path
        who = f"Authorization: {server.authorization}\r\n" if server.api_key else ""
        self._common = (
            f" HTTP/1.1\r\nHost: {host}\r\n{who}User-Agent: taskforge-python/{VERSION}\r\n"
        )

    def make(
        self, method: str, path: str, body: bytes | None, content_type: str, key: str | None
    ) -> bytes:
        """One request; `path` is quoted already, `key` is its Idempotency-Key."""
        head = f"{method} {self._base_path}{path}{self._common}"
        if body is not None:
            head = f"{head}Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        if key is not None:  # last: all before it is the same in every submit of a task
            head = f"{head}Idempotency-Key: {key}\r\n"
        return f"{head}\r\n".encode("ascii") + (body or b"")


class Response:
    """A whole response. Its head is kept in lower case and read when somebody asks."""

    __slots__ = ("_head", "body", "keep_alive", "status")

    def __init__(self, status: int, head: bytes, body: bytes, keep_alive: bool) -> None:
        self.status = status
        self._head = head
        self.body = body
        self.keep_alive = keep_alive

    def header(self, name: str) -> str:
        """A header's value, all in lower case; the first if it is repeated, "" without one."""
        return _header(self._head, b"\r\n" + name.encode() + b":").decode("latin-1")


def _header(head: bytes, needle: bytes) -> bytes:
    """The value behind `needle`, which has the line break before the name and the colon after."""
    at = head.find(needle)
    if at < 0:
        return b""
    end = head.find(b"\r\n", at + 2)
    return head[at + len(needle) : end if end >= 0 else len(head)].strip()


class ResponseParser:
    """Collects the bytes of one response. Make a new one for the next."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._status = 0
        self._head = b""
        self._keep_alive = True
        self._length: int | None = None  # of the body, when it is known
        self._chunked = False
        self._body = bytearray()  # of the chunks so far
        self._in_trailers = False

    @property
    def begun(self) -> bool:
        """Whether a byte has come."""
        return bool(self._received or self._status)

    def feed(self, data: bytes) -> Response | None:
        """Take bytes; the response, once it is whole. What follows it is an error."""
        self._received += data
        while not self._status:
            if not self._read_head():
                return None
        if self._chunked:
            return self._read_chunks()
        if self._length is None:
            if len(self._received) > RESPONSE_BYTES_MAX:
                raise ProtocolError("the body is larger than the bound")
            return None
        if len(self._received) < self._length:
            return None
        if len(self._received) > self._length:
            raise ProtocolError("more bytes than the response announced")
        return self._response(bytes(self._received))

    def feed_eof(self) -> Response | None:
        """The server closed: the response, if that was how its body should end."""
        if self._status and self._length is None and not self._chunked:
            self._keep_alive = False
            return self._response(bytes(self._received))
        return None

    def _response(self, body: bytes) -> Response:
        return Response(self._status, self._head, body, self._keep_alive)

    def _read_head(self) -> bool:
        end = self._received.find(HEAD_END)
        if end < 0:
            if len(self._received) > RESPONSE_HEAD_BYTES_MAX:
                raise ProtocolError("the head is larger than the bound")
            return False
        head = bytes(self._received[:end]).lower()
        del self._received[: end + len(HEAD_END)]
        if not head.startswith(b"http/1.") or not head[9:12].isdigit():
            raise ProtocolError(f"not HTTP/1: {head[:40]!r}")
        status = int(head[9:12])
        if 100 <= status < 200:
            return True  # an interim response: the loop reads the next head
        self._status, self._head = status, head
        connection = _header(head, b"\r\nconnection:")
        if head.startswith(b"http/1.1"):
            self._keep_alive = b"close" not in connection
        else:
            self._keep_alive = b"keep-alive" in connection
        self._set_length(head)
        return True

    def _set_length(self, head: bytes) -> None:
        if self._status in (204, 304):
            self._length = 0
        elif b"chunked" in _header(head, b"\r\ntransfer-encoding:"):
            self._chunked = True
        elif text := _header(head, b"\r\ncontent-length:"):
            if not text.isdigit() or int(text) > RESPONSE_BYTES_MAX:
                raise ProtocolError(f"a body of {text[:20]!r} bytes")
            self._length = int(text)

    def _read_chunks(self) -> Response | None:
        received = self._received
        while True:
            end = received.find(b"\r\n")
            if end < 0:
                if len(received) > RESPONSE_HEAD_BYTES_MAX:
                    raise ProtocolError("a chunk's head is larger than the bound")
                return None
            if self._in_trailers:
                line = received[:end]
                del received[: end + 2]
                if not line:
                    if received:
                        raise ProtocolError("more bytes than the response announced")
                    return self._response(bytes(self._body))
                continue
            try:
                size = int(received[:end].split(b";", 1)[0], 16)
            except ValueError:
                raise ProtocolError("a chunk without a size") from None
            if size < 0 or len(self._body) + size > RESPONSE_BYTES_MAX:
                raise ProtocolError("the body is larger than the bound")
            if not size:
                del received[: end + 2]
                self._in_trailers = True
                continue
            if len(received) < end + 2 + size + 2:
                return None
            self._body += received[end + 2 : end + 2 + size]
            del received[: end + 2 + size + 2]
