"""What sends the calls of the async clients. It belongs to the event loop in which it is first
used."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Self, TypeVar

from taskforge.client import calls
from taskforge.client.asyncio_http import AsyncPool
from taskforge.client.following import Resumable, refused
from taskforge.client.http1 import JSON, ProtocolError, Requests, Response
from taskforge.errors import ConnectionFailed
from taskforge.limits import CONNECTIONS_MAX, FOLLOW_SILENCE_S
from taskforge.settings import Server

T = TypeVar("T")


class AsyncCaller:
    """Sends calls to one server, again where that helps.

    An API key stays what it is. The token of a person's session is replaced by what `_new_token`
    gives when the server no longer takes it: once, however many tasks meet the refusal.
    """

    _new_token: Callable[[], Awaitable[str]] | None = None

    def __init__(
        self,
        server: Server,
        retries: int,
        timeout_s: float,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        self._server = server
        self._requests = Requests(server)
        self._pool = AsyncPool(server, connections_max)
        self._retries = retries
        self._timeout_s = timeout_s
        self._renewal: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        self._pool.close()
        await asyncio.sleep(0)  # the loop lets go of their sockets

    async def execute(self, call: calls.Call[T]) -> T:
        """Send a request, again where that helps, and read its response."""
        requests = self._requests
        response = await self._send(call, requests)
        if response.status == 401 and await self._renewed(response, requests):
            response = await self._send(call, self._requests)
        return call.read(response)

    async def _send(self, call: calls.Call[T], requests: Requests) -> Response:
        request = requests.make(call.method, call.path, call.body, call.content_type, call.key)
        attempt = 0
        while True:
            problem: Exception | None = None
            try:
                response = await self._pool.exchange(request, self._timeout_s + call.extra_s)
            except (OSError, ProtocolError) as error:
                problem = error
            outcome = problem or response
            delay_s = None
            if attempt < self._retries:
                chance = random.random()  # noqa: S311 - jitter
                delay_s = calls.next_delay_s(call, attempt, outcome, chance)
            if delay_s is None:
                if problem is not None:
                    raise self._no_answer(problem) from problem
                return response
            await asyncio.sleep(delay_s)
            attempt += 1

    async def resumed(self, stream: Resumable[T]) -> AsyncGenerator[T, None]:
        """What comes of a stream; ConnectionFailed when it breaks `retries` times in a row."""
        tries = 0
        while not stream.over:
            try:
                async with aclosing(self._stream_once(stream)) as items:
                    async for item in items:
                        tries = 0
                        yield item
            except (OSError, ProtocolError) as error:
                if tries >= self._retries:
                    raise self._no_answer(error) from error
            if not stream.over:
                chance = random.random()  # noqa: S311 - jitter
                await asyncio.sleep(calls.pause_s(tries, chance))
                tries += 1

    def _no_answer(self, problem: Exception) -> ConnectionFailed:
        return ConnectionFailed(f"no answer from {self._server.origin}: {problem}")

    async def _stream_once(self, stream: Resumable[T]) -> AsyncGenerator[T, None]:
        """What comes on one connection."""
        requests = self._requests
        request = requests.make("GET", stream.path(), None, JSON, None)
        async with aclosing(self._pool.stream(request, FOLLOW_SILENCE_S)) as parts:
            async for part in parts:
                if isinstance(part, bytes):
                    for item in stream.feed(part):
                        yield item
                elif await self._renewed(part, requests) or refused(part):
                    raise ConnectionRefusedError(f"the server answered {part.status}")
                else:
                    stream.ended()

    async def _renewed(self, response: Response, refused: Requests) -> bool:
        """Whether another token stands in the place of one that the server no longer takes."""
        if self._new_token is None or not calls.is_token_refused(response):
            return False
        if self._requests is refused:
            if self._renewal is None or self._renewal.done():
                self._renewal = asyncio.create_task(self._renew(self._new_token))
            # Whoever began it may be cancelled: a refresh token that was used and whose answer got
            # lost would be the end of the session for all.
            await asyncio.shield(self._renewal)
        return True

    async def _renew(self, new_token: Callable[[], Awaitable[str]]) -> None:
        self._use(await new_token())

    def _use(self, token: str) -> None:
        self._requests = Requests(replace(self._server, api_key=token))
