"""The stream of a worker: a WebSocket whose frames go to its session and come from it.

    upgraded ──hello──► greeted ──attach_worker──► attached ──close, loss──► closed
        └──── no hello in time, a bad one, an unknown queue ────────────────► closed

Only the hello is decoded here. Other frames go to the session as they are, one at a time and each
after the one before was taken: a session that has enough to do stops the reading, then the socket.
At full load a frame carries hundreds of completions, so handing them on singly costs nothing.

Frames to the worker are written at once, by whoever has them: a frame of a server has no mask, so
its head is a few bytes, and the transport buffers what the socket does not take. No task, no queue
of our own. What waits there is bounded: a worker that does not read loses its connection, not its
leases. Unmasking what a worker sends is compiled code of aiohttp and takes some 0.1 ms a MiB.

A connection outlives the request that began it, so its credential is looked at again every
STREAM_CHECK_S: a key that was revoked meanwhile ends it. That asks the cache of credentials, not
the database.

Close codes: 1008 bad hello, unknown queue, or a credential that is no longer good, 1002 broken
frame, 1009 too big, 1013 try again later, 1001 the server stops; the session has its own (4001
replaced, 4002 moved).
"""

import asyncio
import logging
import struct
from collections.abc import Awaitable, Callable

from aiohttp import WSMsgType, web

from taskforge_server.api.auth.principals import Principal
from taskforge_server.api.service.catalog import QueueCatalog
from taskforge_server.api.service.ports import Engine
from taskforge_server.api.stream.hello import HelloRefused, decode_hello
from taskforge_server.engine import limits
from taskforge_server.engine.actors.ports import Hello, WorkerInlet
from taskforge_server.engine.errors import (
    CallerError,
    EnvironmentalError,
    FrameError,
    NotFound,
)
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.engine.observe.logs import CORRELATION_HEADER, correlation_id

log = logging.getLogger(__name__)

GOING_AWAY = 1001
BROKEN_FRAME = 1002
REFUSED = 1008
OUR_FAULT = 1011
TRY_LATER = 1013

_BINARY = 0x82
_REASON_BYTES_MAX = 123
_COPY_BYTES_MAX = 16 * 1024


class SocketOutlet:
    """The worker's connection, outwards."""

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport) -> None:
        self._socket = socket
        self._transport = transport
        self.closing: asyncio.Task[bool] | None = None

    def send(self, frame: bytes) -> None:
        """Never blocks. What comes after a close is dropped: the worker is gone."""
        transport = self._transport
        if self.closing is not None or transport.is_closing():
            return
        size = len(frame)
        if size < 126:
            head = struct.pack("!BB", _BINARY, size)
        elif size < 65_536:
            head = struct.pack("!BBH", _BINARY, 126, size)
        else:
            head = struct.pack("!BBQ", _BINARY, 127, size)
        if size <= _COPY_BYTES_MAX:
            transport.write(head + frame)
        else:
            transport.write(head)
            transport.write(frame)
        if transport.get_write_buffer_size() > limits.STREAM_OUT_BYTES_MAX:
            log.warning("a worker does not read what it asked for: its connection is closed")
            # A close frame would wait behind all the others.
            self.closing = asyncio.create_task(self._abort())

    def close(self, code: int, reason: str) -> None:
        """End the connection after what was sent."""
        if self.closing is None:
            message = reason.encode()[:_REASON_BYTES_MAX].decode(errors="ignore").encode()
            self.closing = asyncio.create_task(self._socket.close(code=code, message=message))

    async def _abort(self) -> bool:
        self._transport.abort()
        return False


class WorkerStreams:
    """The streams of all workers of this process."""

    def __init__(
        self,
        engine: Engine,
        catalog: QueueCatalog,
        upgraded: Callable[[web.BaseRequest], None] = lambda request: None,
        check: Callable[[str | None], Awaitable[None]] | None = None,
    ) -> None:
        """`upgraded` is told when a connection speaks HTTP no longer. `check` raises a CallerError
        when who has this `Authorization` header may be no worker any more."""
        self._engine = engine
        self._catalog = catalog
        self._upgraded = upgraded
        self._check = check
        self._outlets: dict[SocketOutlet, str | None] = {}
        """Open connections, each with its `Authorization` header."""
        self._checker: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def count(self) -> int:
        return len(self._outlets)

    async def handle(self, request: web.BaseRequest, principal: Principal) -> web.StreamResponse:
        """Serve one worker from its handshake to its end."""
        socket = web.WebSocketResponse(
            heartbeat=limits.STREAM_PING_S,
            compress=False,
            max_msg_size=limits.STREAM_MESSAGE_BYTES_MAX,
            timeout=limits.STREAM_CLOSE_S,
        )
        if not socket.can_prepare(request):
            raise CallerError("upgrade_required", "this path wants a WebSocket handshake")
        socket.headers[CORRELATION_HEADER] = correlation_id.get()
        await socket.prepare(request)
        transport = request.transport
        if transport is None:
            return socket
        self._upgraded(request)
        outlet = SocketOutlet(socket, transport)
        self._outlets[outlet] = request.headers.get("Authorization")
        try:
            if self._stopping:
                outlet.close(TRY_LATER, "the server stops")
            await self._serve(socket, outlet, principal)
        finally:
            del self._outlets[outlet]
            if outlet.closing is not None:
                await asyncio.gather(outlet.closing, return_exceptions=True)
        return socket

    def start(self) -> None:
        self._checker = asyncio.create_task(self._check_all(), name="credentials of workers")

    async def check(self) -> None:
        """Close the streams whose credential is no longer good."""
        if self._check is None:
            return
        for header in set(self._outlets.values()):
            try:
                await self._check(header)
            except EnvironmentalError:
                continue  # nobody knows: the next look tells
            except CallerError as error:
                for outlet, its in list(self._outlets.items()):
                    if its == header:
                        outlet.close(REFUSED, error.message)

    async def _check_all(self) -> None:
        while True:
            await asyncio.sleep(limits.STREAM_CHECK_S)
            try:
                await self.check()
            except Exception:
                log.exception("the credentials of workers were not looked at")

    async def stop(self) -> None:
        """Close all streams; workers connect to another node, or here when it is back."""
        self._stopping = True
        if self._checker is not None:
            self._checker.cancel()
            await asyncio.gather(self._checker, return_exceptions=True)
        for outlet in self._outlets:
            outlet.close(GOING_AWAY, "the server stops")
        closing = [outlet.closing for outlet in self._outlets if outlet.closing is not None]
        await asyncio.gather(*closing, return_exceptions=True)

    async def _serve(
        self, socket: web.WebSocketResponse, outlet: SocketOutlet, principal: Principal
    ) -> None:
        inlet: WorkerInlet | None = None
        try:
            hello = await self._hello(socket, outlet)
            if hello is None:
                return
            queues = await self._queues(hello, principal)
            inlet = await self._engine.attach_worker(hello, principal.project_id, queues, outlet)
            while (frame := await _receive(socket)) is not None:
                await inlet.receive([frame])
        except FrameError as error:
            outlet.close(BROKEN_FRAME, error.reason)
        except HelloRefused as error:
            outlet.close(REFUSED, error.reason)
        except CallerError as error:
            outlet.close(REFUSED, error.message)
        except EnvironmentalError as error:
            outlet.close(TRY_LATER, error.message)
        except Exception:
            log.exception("the stream of a worker failed")
            outlet.close(OUR_FAULT, "the server failed; its log says why")
        finally:
            if inlet is not None:
                inlet.detach()

    @staticmethod
    async def _hello(socket: web.WebSocketResponse, outlet: SocketOutlet) -> Hello | None:
        """The first frame; None when the connection ends before it."""
        try:
            async with asyncio.timeout(limits.HELLO_WAIT_S):
                frame = await _receive(socket)
        except TimeoutError:
            outlet.close(REFUSED, f"no hello within {limits.HELLO_WAIT_S:g} s")
            return None
        return None if frame is None else decode_hello(frame)

    async def _queues(self, hello: Hello, principal: Principal) -> list[QueueRef]:
        found = []
        for name in hello.queues:
            try:
                found.append(await self._catalog.find(principal.project_id, name))
            except NotFound:
                raise HelloRefused(f"no queue named {name}") from None
        return found


async def _receive(socket: web.WebSocketResponse) -> bytes | None:
    """The next frame; None when the connection is over."""
    message = await socket.receive()
    if message.type is WSMsgType.BINARY:
        data: bytes = message.data
        return data
    if message.type is WSMsgType.TEXT:
        raise FrameError("a text message: frames are binary")
    return None
