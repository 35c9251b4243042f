"""The one table of the REST interface: which path does what, for whom, with which structs.

Requests are dispatched by it, the OpenAPI document is made of it, tests walk it. Handlers see a
`Call` and give a `Reply`; they know nothing of the HTTP server.
"""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import msgspec

from taskforge_server.api.auth.principals import Principal
from taskforge_server.api.rest.media import Coding
from taskforge_server.api.rest.schemas import NoQuery, encode_json, encode_msgpack
from taskforge_server.engine import limits
from taskforge_server.engine.errors import CallerError, InvalidInput, NotFound
from taskforge_server.engine.model.audit import Actor


def request_hash(method: str, path: str, body: bytes) -> bytes:
    """What an Idempotency-Key is bound to: method, path and body."""
    return hashlib.sha256(f"{method} {path}\n".encode() + body).digest()


@dataclass(slots=True)
class Call:
    """A request after its checks: who, what, and in which coding the answer goes back."""

    route: "Route"
    path: str
    principal: Principal
    params: dict[str, str]
    query: Any
    body: bytes
    body_coding: Coding
    coding: Coding
    idempotency_key: str | None = None
    address: str = ""
    """Of the peer of the connection."""
    correlation_id: str = ""
    """From `X-Request-Id`, or made for this request."""
    last_event_id: str | None = None
    """Where a follower was cut off; routes of events only."""

    @property
    def actor(self) -> Actor:
        """Who acts, for the audit log."""
        who = self.principal
        return Actor(who.kind, who.id, self.address, self.correlation_id)

    def request_hash(self) -> bytes:
        """What an Idempotency-Key is bound to."""
        return request_hash(self.route.method, self.path, self.body)


EVENTS_TYPE = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Event:
    """One of the events of an answer that goes on; `id` is where a follower can take up again."""

    data: bytes
    id: str = ""
    name: str = ""
    """Of what kind it is; none for the usual kind."""


@dataclass(slots=True)
class Reply:
    """An answer, encoded."""

    body: bytes
    status: int = 200
    content_type: str = Coding.JSON.value
    headers: dict[str, str] = field(default_factory=dict)
    parts: AsyncIterator[bytes] | None = None
    """A long answer: these pieces instead of `body`, sent as they come."""
    events: AsyncGenerator[Event, None] | None = None
    """An answer that goes on: these events instead of `body`, as server-sent events."""


Handler = Callable[[Any, Call], Awaitable[Reply]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation. `permission` None: anybody may. `handler` None: the path is a WebSocket."""

    method: str
    path: str
    operation_id: str
    summary: str
    tag: str
    permission: str | None
    handler: Handler | None
    status: int = 200
    query: type[msgspec.Struct] = NoQuery
    body: type[msgspec.Struct] | None = None
    reply: type[msgspec.Struct] | None = None
    reply_msgpack: type[msgspec.Struct] | None = None
    """Where MessagePack answers have another form."""
    reply_waited: type[msgspec.Struct] | None = None
    """What comes instead when the caller waits."""
    reply_type: str | None = None
    """The media type of an answer that is neither JSON nor MessagePack."""
    other_statuses: tuple[int, ...] = ()
    problems: tuple[str, ...] = ()
    body_bytes_max: int = limits.SMALL_BODY_BYTES_MAX
    idempotent: bool = False
    """Takes an Idempotency-Key."""
    example: Any = None


def answer(call: Call, value: msgspec.Struct, status: int | None = None) -> Reply:
    """A struct as the answer, in the coding that the caller wants."""
    encode = encode_json if call.coding is Coding.JSON else encode_msgpack
    return Reply(encode(value), status or call.route.status, call.coding.value)


class Router:
    """Finds the route of a path; words go before parameters."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self._root: dict[str, Any] = {}
        for route in routes:
            node = self._root
            for segment in route.path[1:].split("/"):
                word = "{}" if segment.startswith("{") else segment
                node = node.setdefault(word, {})
            names = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
            node.setdefault("", {})[route.method] = (route, names)

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route and its parameters; 404 and 405 problems."""
        node, values = self._root, []
        for segment in path[1:].split("/"):
            known = node.get(segment) if segment else None
            if known is None:
                known = node.get("{}") if segment else None
                values.append(segment)
            if known is None:
                raise _nothing_here()
            node = known
        methods = node.get("")
        if methods is None or not path.startswith("/"):
            raise _nothing_here()
        found = methods.get(method)
        if found is None:
            raise MethodNotAllowedError(", ".join(sorted(methods)))
        route, names = found
        return route, {name: _decoded(text) for name, text in zip(names, values, strict=True)}


class MethodNotAllowedError(CallerError):
    """The path is there, but not for this method."""

    def __init__(self, allowed: str) -> None:
        super().__init__("method_not_allowed", f"here one may {allowed}")
        self.allowed = allowed


def _nothing_here() -> NotFound:
    return NotFound("there is nothing at this path; /openapi.json says what there is")


def _decoded(segment: str) -> str:
    if "%" not in segment:
        return segment
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise InvalidInput("the path is not UTF-8", code="malformed_request") from None
