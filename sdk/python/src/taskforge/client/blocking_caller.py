"""What sends the calls of the blocking clients. Threads may share one."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Self, TypeVar

from taskforge.client import calls
from taskforge.client.blocking_http import BlockingPool
from taskforge.client.following import Resumable, refused
from taskforge.client.http1 import JSON, ProtocolError, Requests, Response
from taskforge.errors import ConnectionFailed
from taskforge.limits import FOLLOW_SILENCE_S
from taskforge.settings import Server

T = TypeVar("T")


class Caller:
    """Sends calls to one server, again where that helps.

    An API key stays what it is. The token of a person's session is replaced by what `_new_token`
    gives when the server no longer takes it: once, however many threads meet the refusal.
    """

    _new_token: Callable[[], str] | None = None

    def __init__(self, server: Server, retries: int, timeout_s: float) -> None:
        self._server = server
        self._requests = Requests(server)
        self._pool = BlockingPool(server)
        self._retries = retries
        self._timeout_s = timeout_s
        self._renewing = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def execute(self, call: calls.Call[T]) -> T:
        """Send a request, again where that helps, and read its response."""
        requests = self._requests
        response = self._send(call, requests)
        if response.status == 401 and self._renewed(response, requests):
            response = self._send(call, self._requests)
        return call.read(response)

    def _send(self, call: calls.Call[T], requests: Requests) -> Response:
        request = requests.make(call.method, call.path, call.body, call.content_type, call.key)
        attempt = 0
        while True:
            problem: Exception | None = None
            try:
                response = self._pool.exchange(request, self._timeout_s + call.extra_s)
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
            time.sleep(delay_s)
            attempt += 1

    def resumed(self, stream: Resumable[T]) -> Iterator[T]:
        """What comes of a stream; ConnectionFailed when it breaks `retries` times in a row."""
        tries = 0
        while not stream.over:
            try:
                for item in self._stream_once(stream):
                    tries = 0
                    yield item
            except (OSError, ProtocolError) as error:
                if tries >= self._retries:
                    raise self._no_answer(error) from error
            if not stream.over:
                chance = random.random()  # noqa: S311 - jitter
                time.sleep(calls.pause_s(tries, chance))
                tries += 1

    def _no_answer(self, problem: Exception) -> ConnectionFailed:
        return ConnectionFailed(f"no answer from {self._server.origin}: {problem}")

    def _stream_once(self, stream: Resumable[T]) -> Iterator[T]:
        """What comes on one connection."""
        requests = self._requests
        request = requests.make("GET", stream.path(), None, JSON, None)
        for part in self._pool.stream(request, FOLLOW_SILENCE_S):
            if isinstance(part, bytes):
                yield from stream.feed(part)
            elif self._renewed(part, requests) or refused(part):
                raise ConnectionRefusedError(f"the server answered {part.status}")
            else:
                stream.ended()

    def _renewed(self, response: Response, refused: Requests) -> bool:
        """Whether another token stands in the place of one that the server no longer takes."""
        if not calls.is_token_refused(response):
            return False
        with self._renewing:
            if self._new_token is None:
                return False
            if self._requests is refused:
                self._use(self._new_token())
        return True

    def _use(self, token: str) -> None:
        self._requests = Requests(replace(self._server, api_key=token))
