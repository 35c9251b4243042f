"""The front of a connection: requests with known heads are answered here, all others by aiohttp.

                    ┌── known, whole ──► Submits ──► transport          (in order, one at a time)
    bytes ──► Front ┤
                    └── anything else ──► aiohttp's RequestHandler ──► Api ──► transport

States of a connection:

    clean     at the border between two requests, nothing under way: the short way may be taken
    direct    a request is on the short way; what comes meanwhile is held, HELD_BYTES_MAX at most
    parsed    aiohttp's parser has bytes of a request, until its answer is with the transport
    aside     a worker's stream: aiohttp has the transport for good

From `parsed` it goes back to `clean` only if all bytes that came were those of that one request.
Otherwise (a chunked body, requests sent ahead, a head in pieces) it stays with aiohttp, which is
slower and never wrong. Invariant: bytes go to the parser or to the short way in the order in which
they came, and answers leave in that order.
"""

import asyncio
import logging
import re
from typing import cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from taskforge_server.api.auth.principals import Authenticator
from taskforge_server.api.rest import correlation
from taskforge_server.api.rest.handlers import Services
from taskforge_server.api.rest.http import Api, Response, Stream, response_of
from taskforge_server.api.rest.metrics import RequestCounts
from taskforge_server.api.rest.proxies import Proxies
from taskforge_server.api.rest.routes import Call
from taskforge_server.api.rest.submits import HEAD_END, Submit, Submits
from taskforge_server.api.rest.table import ROUTES
from taskforge_server.engine import limits
from taskforge_server.engine.errors import CallerError, InternalError

log = logging.getLogger(__name__)

# Idle connections are closed by `Door`; the timer of aiohttp sees only the requests it parses.
_NEVER_S = 10 * 365 * 86_400.0


class _Handler(RequestHandler):
    """aiohttp's side of a connection."""

    __slots__ = ("front",)

    front: "Front"

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Malformed HTTP, or a failure outside of `Api`; the connection ends with the answer."""
        if status == 400:
            # What follows is what was sent, and that may be a key.
            text = re.split(r"[:'\"\n]", message or "", maxsplit=1)[0].strip()
            answer = response_of(CallerError("malformed_request", text or "this is not HTTP/1.1"))
        else:
            log.error("the HTTP server failed", exc_info=exc)
            answer = response_of(InternalError())
        answer.headers[correlation.HEADER] = correlation.new_id()
        answer.force_close()
        return answer


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        return _Handler(self, loop=self._loop, **self._kwargs)


class Door:
    """All connections of a listening process."""

    def __init__(
        self,
        services: Services,
        authenticator: Authenticator,
        stream: Stream,
        proxies: Proxies | None = None,
    ) -> None:
        counts = RequestCounts(self._gauges)
        services.registry.register(counts)
        self._api = Api(ROUTES, services, authenticator, stream, counts, self.learn, proxies)
        self.submits = Submits(services, authenticator, counts)
        self.server = _Server(
            self._handle,
            # A caller that is gone waits for nothing: its handler ends, and what it held is free.
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=_NEVER_S,
            auto_decompress=False,
            lingering_time=limits.LINGER_S,
        )
        self.fronts: set[Front] = set()
        self.direct_count = 0
        self.draining = False
        self.loop = asyncio.get_running_loop()
        self.now_s = self.loop.time()
        """As of the last sweep: exact enough to tell who is idle, and free."""
        self._direct_done = asyncio.Event()
        self._sweeper: asyncio.Task[None] | None = None

    def __call__(self) -> "Front":
        """A new connection."""
        return Front(self)

    def start(self) -> None:
        self._sweeper = asyncio.create_task(self._sweep(), name="idle connections")

    async def stop(self, timeout_s: float) -> None:
        """End all connections, those that are busy after their answer."""
        self.draining = True
        self._api.events.stop()
        if self._sweeper is not None:
            self._sweeper.cancel()
        try:
            async with asyncio.timeout(timeout_s):
                while self.direct_count:
                    self._direct_done.clear()
                    await self._direct_done.wait()
        except TimeoutError:
            log.warning("%d submits were not answered in time", self.direct_count)
        self.server.pre_shutdown()
        await self.server.shutdown(timeout_s)

    def _gauges(self) -> list[tuple[str, str, float]]:
        count = len(self.fronts)
        events = self._api.events.count
        return [
            ("taskforge_http_connections", "Open, but for worker streams.", count),
            ("taskforge_http_event_streams", "Answers that go on.", events),
        ]

    def direct_ended(self) -> None:
        self.direct_count -= 1
        if self.draining:
            self._direct_done.set()

    def learn(self, request: web.BaseRequest, call: Call) -> None:
        """A submit was answered: its head may be worth knowing."""
        head, end, _ = _front_of(request).first_chunk.partition(HEAD_END)
        # Whose key it is remembered with rests on this: part of a head may lack its key.
        if end and is_head_of(head, request):
            self.submits.learn(head, request, call)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        front = _front_of(request)
        front.requests_parsed += 1
        try:
            answer = await self._api.handle(request)
        finally:
            front.requests_parsed -= 1
        if isinstance(answer, Response):
            length = request.content_length
            if length is None and request.body_exists:
                length = -1  # chunked: where it ends is the parser's secret
            answer.on_sent = lambda: front.parsed_answered(length or 0)
            if self.draining:
                answer.force_close()
        return answer

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(limits.IDLE_SWEEP_S)
            self.now_s = self.loop.time()
            oldest_s = self.now_s - limits.IDLE_CONNECTION_S
            for front in list(self.fronts):
                if front.is_idle and front.active_s < oldest_s:
                    front.transport.close()


def is_head_of(head: bytes, request: web.BaseRequest) -> bool:
    """Whether these bytes are the whole head of the request, as the parser read it: its first line,
    and each of its header fields on a line of its own."""
    first, *lines = head.split(b"\r\n")
    if first != f"{request.method} {request.raw_path} HTTP/1.1".encode(errors="surrogateescape"):
        return False
    fields = [line.partition(b":") for line in lines]
    read = [(name, value.strip(b" \t")) for name, _, value in fields]
    return read == list(request.raw_headers) and b"\n" not in head.replace(b"\r\n", b"")


def _front_of(request: web.BaseRequest) -> "Front":
    return cast(_Handler, request.protocol).front


def step_aside(request: web.BaseRequest) -> None:
    """From now on aiohttp has the connection for itself."""
    front = _front_of(request)
    front.transport.set_protocol(request.protocol)
    front.gone()


class Front(asyncio.Protocol):
    """One connection; see the module."""

    __slots__ = (
        "_clean",
        "_door",
        "_fed_bytes",
        "_held",
        "_inner",
        "_paused",
        "_reading",
        "_submit",
        "active_s",
        "first_chunk",
        "requests_parsed",
        "transport",
    )

    def __init__(self, door: Door) -> None:
        self._door = door
        inner = door.server()
        assert isinstance(inner, _Handler)
        inner.front = self
        self._inner = inner
        self._clean = True
        self._submit: Submit | None = None
        self._held = b""
        self._reading = True
        self._paused = False
        self._fed_bytes = 0
        self.first_chunk = b""
        self.requests_parsed = 0
        self.active_s = door.now_s

    @property
    def is_idle(self) -> bool:
        return self._submit is None and self.requests_parsed == 0

    # the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._door.fronts.add(self)
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._submit is not None:
            self._hold(data)
            return
        if self._clean:
            if not self._door.draining:
                submit = self._door.submits.recognise(data, self)
                if submit is not None:
                    self._begin(submit)
                    return
            self._clean = False
            self._fed_bytes = 0
            self.first_chunk = data
            self.active_s = self._door.now_s
        self._fed_bytes += len(data)
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        self._inner.eof_received()
        return None

    def pause_writing(self) -> None:
        self._paused = True
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._paused = False
        self._inner.resume_writing()
        if self._submit is not None and not self._submit.begun:
            self._door.submits.begin(self._submit)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.gone()
        self._inner.connection_lost(exc)

    def gone(self) -> None:
        """The connection is over, or somebody else's."""
        self._door.fronts.discard(self)
        submit, self._submit = self._submit, None
        if submit is not None:
            submit.gone()
            self._door.direct_ended()

    # the long way

    def parsed_answered(self, body_bytes: int) -> None:
        """aiohttp has given its answer to the transport."""
        end = self.first_chunk.find(HEAD_END)
        self._clean = end >= 0 and body_bytes >= 0 and self._fed_bytes == end + 4 + body_bytes
        self.first_chunk = b""
        self.active_s = self._door.now_s

    # the short way

    def _begin(self, submit: Submit) -> None:
        self._submit = submit
        self._door.direct_count += 1
        if not self._paused:
            self._door.submits.begin(submit)

    def answered(self, answer: bytes) -> None:
        """The submit that is under way has its response."""
        self.transport.write(answer)
        self._submit = None
        self._door.direct_ended()
        self.active_s = self._door.now_s
        if self._held:
            self._feed_held()

    def _hold(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > limits.HELD_BYTES_MAX and self._reading:
            self._reading = False
            self.transport.pause_reading()

    def _feed_held(self) -> None:
        held, self._held = self._held, b""
        if not self._reading:
            self._reading = True
            self.transport.resume_reading()
        self.data_received(held)
