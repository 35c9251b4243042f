"""A worker's connection to a server: one WebSocket at a time, made again when it breaks.

    connecting ──hello, welcome──► connected ──lost, moved, replaced──► waiting ──► connecting
                                       └──bye──► closed

On each connection the worker says which jobs it holds, so that it keeps their leases; then it sends
every done frame again that is not acknowledged, oldest first. Completions of refused leases are
forgotten. While there is no connection handlers go on, and their ends gather.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from time import monotonic

import aiohttp

from taskforge.errors import WorkerRefused
from taskforge.limits import (
    BACKOFF_MAX_S,
    BACKOFF_MIN_S,
    CLOSE_TIMEOUT_S,
    CONNECT_TIMEOUT_S,
    FRAME_BYTES_MAX,
    STEADY_S,
    WELCOME_TIMEOUT_S,
)
from taskforge.settings import Server
from taskforge.worker import frames
from taskforge.worker.completions import Completions
from taskforge.worker.credit import differs
from taskforge.worker.lines import Lines
from taskforge.worker.pool import Pool
from taskforge.worker.progress import Words

logger = logging.getLogger("taskforge.worker")

TRY_LATER = 1013
REFUSED = 1008
_DATA = aiohttp.WSMsgType.BINARY
_ENDS = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED)


class Lost(Exception):  # noqa: N818 - an event, not an error: the link makes a new connection
    """The connection is over."""

    def __init__(self, reason: str, code: int = 0) -> None:
        super().__init__(f"{reason} (code {code})" if code else reason)
        self.code = code


def backoff_s(attempt: int, chance: float) -> float:
    """The pause before attempt 0, 1, 2, …: doubled, bounded, and spread by `chance` (0–1)."""
    return min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2.0 ** min(attempt, 16)) * (0.5 + chance / 2)


class Link:
    """Connects, greets, receives and sends until `finish` or until the server refuses for good.

    `hello(credit, running)` makes the first frame; `on_welcome` gets the server's answer.
    """

    def __init__(
        self,
        server: Server,
        pool: Pool,
        completions: Completions,
        lines: Lines,
        words: Words,
        hello: Callable[[int, bytes], bytes],
        on_welcome: Callable[[frames.Welcome], None],
    ) -> None:
        self._server = server
        self._pool = pool
        self._completions = completions
        self._lines = lines
        self._words = words
        self._hello = hello
        self._on_welcome = on_welcome
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._outgoing: deque[bytes] | None = None  # None: not connected
        self._outgoing_some = asyncio.Event()
        self._all_acked = asyncio.Event()
        self._heard = False  # anything, since the last look
        self._moving = False  # the node drains: connect anew when nothing is held
        self._closing = False
        self._background: asyncio.Future[bool] | None = None  # a close; kept, or it is collected
        self.credit = 0
        self.credit_sent = 0
        self.connections = 0
        self._outcome_max = frames.GIVEN_BACK  # what the server understands
        self._extends = False  # whether it lets deadlines be put off
        # Deadlines that were put off, on the monotonic clock, and how often it was not told back.
        self._extended: dict[bytes, tuple[float, int]] = {}
        self._welcomed_at = 0.0  # on the monotonic clock; 0: not on this connection

    # --- sending ------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send what was gathered, now or with the next connection. Lines and words go first: once a
        job has ended, the server takes none of it any more."""
        for frame in self._lines.seal():
            if self._outgoing is not None:
                self._send(frame.encode())
        for words in self._words.seal(self._outgoing is not None):
            self._send(words)
        for sealed in self._completions.seal():
            if self._outgoing is not None:
                self._send(sealed.encode(self._outcome_max))

    def set_credit(self, credit: int) -> None:
        """Ask for at most so many unfinished jobs."""
        self.credit = credit
        if self._outgoing is not None and differs(self.credit_sent, credit):
            self.credit_sent = credit
            self._send(frames.credit(credit))

    def extend(self, token: bytes, deadline: float) -> None:
        """Tell the server that a job has more time, now or with the next connection."""
        _, untold = self._extended.get(token, (0.0, 0))
        self._extended[token] = deadline, untold + 1
        if self._outgoing is not None and self._extends:
            self._send(frames.extend(token, deadline - monotonic()))

    def _extend_again(self, held: set[bytes]) -> None:
        """On a new connection: what the server may not have heard, of the jobs that go on."""
        for token, (deadline, _) in list(self._extended.items()):
            left_s = deadline - monotonic()
            if token not in held or left_s <= 0 or not self._extends:
                del self._extended[token]
            else:
                self._extended[token] = deadline, 1
                self._send(frames.extend(token, left_s))

    def _told(self, token: bytes) -> None:
        deadline, untold = self._extended.pop(token, (0.0, 0))
        if untold > 1:
            self._extended[token] = deadline, untold - 1

    def _send(self, frame: bytes) -> None:
        assert self._outgoing is not None
        self._outgoing.append(frame)
        self._outgoing_some.set()

    def reconnect(self) -> None:
        """Give the connection up and make a new one; the server has forgotten this worker."""
        if self._outgoing is not None and not self._closing:
            logger.warning("the server does not know this worker: connecting anew")
            self._drop_socket()

    def _drop_socket(self) -> None:
        self._outgoing = None
        if self._socket is not None:
            self._background = asyncio.ensure_future(self._socket.close())

    async def finish(self, timeout_s: float) -> bool:
        """Wait until all is acknowledged, say bye and close; whether all completions were."""
        self.flush()
        try:
            async with asyncio.timeout(timeout_s):
                while not (self._completions.empty and self._lines.empty):
                    self._all_acked.clear()
                    await self._all_acked.wait()
        except TimeoutError:
            if not self._completions.empty:
                logger.error("%d completions not acknowledged", self._completions.unacked_jobs)
            else:
                logger.warning("lines of handlers not acknowledged")
        self._closing = True
        if self._outgoing is not None and self._socket is not None:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._socket.send_bytes(frames.BYE)
                    await self._socket.close()
            except (TimeoutError, OSError, aiohttp.ClientError):
                pass  # it is gone: the server finds out by itself
        return self._completions.empty

    # --- the life of connections --------------------------------------------------------------

    async def run(self) -> None:
        """Keep a connection until `finish`; raises WorkerRefused when trying again is in vain."""
        attempt = 0
        headers = {"Authorization": self._server.authorization}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
        connector = aiohttp.TCPConnector(ssl=self._server.tls or True)
        async with aiohttp.ClientSession(
            headers=headers, timeout=timeout, connector=connector
        ) as session:
            while True:
                code = 0
                self._welcomed_at = 0.0
                try:
                    await self._connection(session)
                except Lost as error:
                    code = error.code
                    if code == REFUSED:
                        raise WorkerRefused(str(error)) from None
                    if not self._closing:
                        logger.warning("connection over: %s", error)
                except aiohttp.WSServerHandshakeError as error:
                    if error.status in (401, 403):
                        raise WorkerRefused(f"the server answered {error.status}") from None
                    logger.warning("the server answered %d", error.status)
                except (aiohttp.ClientError, OSError, TimeoutError) as error:
                    logger.warning("no connection: %s", str(error) or type(error).__name__)
                if self._closing:
                    return
                # A connection that stood proves the server well: begin with short pauses again.
                stood = self._welcomed_at and monotonic() - self._welcomed_at > STEADY_S
                attempt = 0 if stood else attempt + 1
                if code == TRY_LATER:
                    attempt = max(attempt, 4)
                await asyncio.sleep(backoff_s(attempt, random.random()))  # noqa: S311 - jitter

    async def _connection(self, session: aiohttp.ClientSession) -> None:
        """One connection from its handshake to its end, which is always an exception."""
        url = "ws" + self._server.url("/v1/workers/stream").removeprefix("http")
        helpers: list[asyncio.Task[None]] = []
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            socket = await session.ws_connect(
                url,
                compress=0,
                max_msg_size=FRAME_BYTES_MAX,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
            )
        try:
            self._socket = socket
            welcome = await self._greet(socket)
            helpers.append(asyncio.create_task(self._sender(socket)))
            helpers.append(asyncio.create_task(self._watch(socket, welcome.body.heartbeat_s)))
            while True:
                self._handle(await self._receive(socket))
        finally:
            self._outgoing = None
            self._socket = None
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            await socket.close()

    async def _greet(self, socket: aiohttp.ClientWebSocketResponse) -> frames.Welcome:
        """Say who we are and what we hold; sort out with the server which leases still stand."""
        self._moving = False
        self.credit_sent = self.credit
        await socket.send_bytes(self._hello(self.credit, self._pool.held()))
        async with asyncio.timeout(WELCOME_TIMEOUT_S):
            welcome = await self._receive(socket)
        if not isinstance(welcome, frames.Welcome):
            raise Lost("the first frame was not a welcome")
        stale = frames.split(welcome.body.stale)
        if stale:
            logger.warning("%d leases did not survive", len(stale))
            self._pool.lost(stale)
        # No await from here on: a completion is either among those sent again or comes behind them.
        self._outgoing = deque()
        self._lines.lines_max = welcome.body.log_lines_max
        self._words.per_s = welcome.body.progress_per_s
        for frame in self._lines.resend(stale):
            self._send(frame.encode())
        self._outcome_max = welcome.body.outcome_max
        self._extends = "extend" in welcome.body.features
        self._extend_again(frames.split(self._pool.held()))
        for sealed in self._completions.resend(stale):
            self._send(sealed.encode(self._outcome_max))
        self._check_acked()
        self.flush()
        self.set_credit(self.credit)
        self.connections += 1
        self._welcomed_at = monotonic()
        self._on_welcome(welcome)
        logger.info("connected to %s", self._server.origin)
        return welcome

    async def _receive(self, socket: aiohttp.ClientWebSocketResponse) -> frames.ServerFrame:
        message = await socket.receive()
        self._heard = True
        if message.type is _DATA:
            try:
                frame: frames.ServerFrame = frames.decode(message.data)
            except ValueError as error:  # msgspec's errors are such
                raise Lost(f"a frame that makes no sense: {error}") from None
            return frame
        if message.type in _ENDS:
            code = socket.close_code or 0
            raise Lost(str(message.extra or "closed by the server"), code)
        raise Lost(f"unexpected message: {message.type.name} {message.data}")

    def _handle(self, frame: frames.ServerFrame) -> None:
        match frame:
            case frames.Jobs():
                try:
                    self._pool.feed(frame)
                except ValueError as error:
                    raise Lost(f"a frame that makes no sense: {error}") from None
            case frames.Ack():
                if frame.stale:
                    jobs = len(frames.split(frame.stale))
                    logger.warning("%d completions came after the end of their leases", jobs)
                self._completions.acknowledged(frame.seq)
                self._check_acked()
            case frames.LogsAck():
                self._lines.acknowledged(frame.seq)
                self._check_acked()
            case frames.Stop():
                self._pool.lost(frames.split(frame.tokens))
            case frames.CancelJobs():
                self._pool.cancel(frames.split(frame.tokens))
            case frames.Extended():
                self._told(frame.token)
            case frames.Drain():
                self._moving = True
                self._check_acked()
            case _:
                pass  # a pong, or a second welcome: being heard was all

    def _check_acked(self) -> None:
        if not (self._completions.empty and self._lines.empty):
            return
        self._all_acked.set()
        if self._moving and self._pool.is_idle:
            logger.info("the node drains: connecting anew")
            self._drop_socket()

    async def _sender(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Writes frames; waits while the socket's buffer is full."""
        try:
            while True:
                await self._outgoing_some.wait()
                self._outgoing_some.clear()
                while self._outgoing:
                    await socket.send_bytes(self._outgoing.popleft())
        except (aiohttp.ClientError, OSError):
            await socket.close()

    async def _watch(self, socket: aiohttp.ClientWebSocketResponse, heartbeat_s: float) -> None:
        """Finds a connection that is dead without a word: a ping, and silence after it."""
        while True:
            self._heard = False
            await asyncio.sleep(heartbeat_s)
            if self._heard:
                continue
            if self._outgoing is not None:
                self._send(frames.HEARTBEAT)
            await asyncio.sleep(heartbeat_s)
            # The loop may have been blocked: let it read what has arrived before judging.
            await asyncio.sleep(min(heartbeat_s, 0.1))
            if not self._heard:
                logger.warning("the server is silent: connecting anew")
                await socket.close()
                return
