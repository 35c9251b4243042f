"""From an HTTP request to a handler and back: routing, credentials, codings, bodies, problems.

    request ──route──► ──credentials──► ──query, headers──► ──body──► Call ──handler──► Reply

Every refusal on the way is a problem document. What a request may make the server hold is known
before it is read: a declared length is compared with the bound of its route, and the bodies that
are being read share one budget.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import msgspec.inspect
from aiohttp import web
from aiohttp.web_exceptions import HTTPException

from taskforge_server.api.auth.principals import NOBODY, Authenticator, Principal
from taskforge_server.api.rest import correlation
from taskforge_server.api.rest.bodies import refusal
from taskforge_server.api.rest.events import EventStreams
from taskforge_server.api.rest.handlers import Services, check_idempotency_key
from taskforge_server.api.rest.media import Coding, body_coding, check_encoding, reply_coding
from taskforge_server.api.rest.metrics import NO_OPERATION, RequestCounts
from taskforge_server.api.rest.problems import (
    CONTENT_TYPE,
    encoded,
    headers_of,
    problem_of,
    rate_headers,
)
from taskforge_server.api.rest.proxies import HEADER as FORWARDED_FOR
from taskforge_server.api.rest.proxies import Proxies
from taskforge_server.api.rest.routes import (
    EVENTS_TYPE,
    Call,
    MethodNotAllowedError,
    Reply,
    Route,
    Router,
)
from taskforge_server.engine import limits
from taskforge_server.engine.errors import (
    CallerError,
    InternalError,
    InvalidInput,
    TaskForgeError,
    TooLarge,
)
from taskforge_server.engine.observe.logs import correlation_id
from taskforge_server.engine.shard.shared import SharedBound

log = logging.getLogger(__name__)

SERVER = "TaskForge"
RATE = web.RequestKey("rate", dict[str, str])
"""Under this a request has the headers that tell of its project's rate."""

Stream = Callable[[web.BaseRequest, Principal], Awaitable[web.StreamResponse]]
"""Takes over the connection of a worker."""

Learn = Callable[[web.BaseRequest, Call], None]
"""Is told of requests that were answered as they should be."""


class Response(web.Response):
    """An answer that says when the whole of it is with the transport."""

    on_sent: Callable[[], None] | None = None

    async def write_eof(self, data: bytes = b"") -> None:
        await super().write_eof(data)
        if self.on_sent is not None:
            self.on_sent()


class Api:
    """The REST interface behind the HTTP server."""

    def __init__(
        self,
        routes: tuple[Route, ...],
        services: Services,
        authenticator: Authenticator,
        stream: Stream,
        counts: RequestCounts,
        learn: Learn = lambda request, call: None,
        proxies: Proxies | None = None,
    ) -> None:
        """`stream` gets requests of routes without a handler, with their principal."""
        self._router = Router(routes)
        self._services = services
        self._authenticator = authenticator
        self._stream = stream
        self._learn = learn
        self._proxies = proxies or Proxies()
        self._requests = counts.requests
        self._bodies = SharedBound("bytes of bodies that are being read", limits.BODIES_BYTES_MAX)
        self.events = EventStreams()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; never raises for what a caller can do."""
        operation = NO_OPERATION
        request_id = correlation.id_of(request.headers.get(correlation.HEADER))
        correlation_id.set(request_id)
        try:
            path, _, query = request.raw_path.partition("?")
            route, params = self._router.find(request.method, path)
            operation = route.operation_id
            answer = await self._answer(request, route, path, query, params)
        except TaskForgeError as error:
            answer = self._refused(error)
        except HTTPException as error:
            answer = response_of(CallerError("malformed_request", error.reason or "bad request"))
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            answer = response_of(InternalError())
        if not answer.prepared:
            answer.headers[correlation.HEADER] = request_id
            answer.headers.update(request.get(RATE) or {})
        self._requests[operation, answer.status] += 1
        return answer

    async def _answer(
        self,
        request: web.BaseRequest,
        route: Route,
        path: str,
        query: str,
        params: dict[str, str],
    ) -> web.StreamResponse:
        principal = NOBODY
        if route.permission is not None:
            header = request.headers.get("Authorization")
            principal = await self._authenticator.authenticate(header)
            principal.require(route.permission)
            standing = await self._services.allowances.request(principal, route.permission)
            if standing is not None:
                request[RATE] = rate_headers(*standing)
        if route.handler is None:
            return await self._stream(request, principal)
        call = self._call(request, route, path, query, principal, params)
        if route.body is not None or request.body_exists:
            return await self._with_body(request, call)
        reply = await route.handler(self._services, call)
        return await self._sent(request, call, reply)

    async def _sent(self, request: web.BaseRequest, call: Call, reply: Reply) -> web.StreamResponse:
        """The reply as an answer; one in pieces or events is sent here, to its end."""
        if reply.parts is not None:
            return await streamed(request, reply, reply.parts)
        if reply.events is None:
            return response(reply)

        async def allowed() -> None:
            if call.route.permission is not None:
                header = request.headers.get("Authorization")
                principal = await self._authenticator.authenticate(header)
                principal.require(call.route.permission)

        headers = {**_headers(reply), correlation.HEADER: call.correlation_id}
        organization_id = call.principal.organization_id
        return await self.events.serve(request, headers, reply.events, organization_id, allowed)

    def _call(
        self,
        request: web.BaseRequest,
        route: Route,
        path: str,
        query: str,
        principal: Principal,
        params: dict[str, str],
    ) -> Call:
        headers = request.headers
        of_body = Coding.JSON
        if route.body is not None:
            check_encoding(headers.get("Content-Encoding"))
            of_body = body_coding(headers.get("Content-Type"))
        of_reply = of_body
        if route.reply_type is None:
            of_reply = reply_coding(headers.get("Accept"), of_body)
        key = check_idempotency_key(headers.get("Idempotency-Key")) if route.idempotent else None
        return Call(
            route,
            path,
            principal,
            params,
            _query(route, query),
            b"",
            of_body,
            of_reply,
            key,
            self._proxies.caller(request.remote or "", headers.getall(FORWARDED_FOR, ())),
            correlation_id.get(),
            headers.get("Last-Event-ID") if route.reply_type == EVENTS_TYPE else None,
        )

    async def _with_body(self, request: web.BaseRequest, call: Call) -> web.StreamResponse:
        """Read the body, and hold its share of the budget until the handler is through with it."""
        bytes_max = call.route.body_bytes_max
        declared = request.content_length
        if declared is not None and declared > bytes_max:
            raise TooLarge(f"a body of {declared} bytes: at most {bytes_max} here")
        held = bytes_max if declared is None else declared
        organization_id = call.principal.organization_id
        self._bodies.require(organization_id, held)
        self._bodies.add(organization_id, held)
        try:
            call.body = await read_body(request, bytes_max)
            assert call.route.handler is not None
            reply = await call.route.handler(self._services, call)
        finally:
            self._bodies.remove(organization_id, held)
        answer = await self._sent(request, call, reply)
        if reply.status < 400:
            self._learn(request, call)
        return answer

    @staticmethod
    def _refused(error: TaskForgeError) -> Response:
        if isinstance(error, InternalError):
            log.error("a request failed: %s", error, exc_info=error)
        return response_of(error)


async def read_body(request: web.BaseRequest, bytes_max: int) -> bytes:
    """The whole body; 413 beyond the bound, 408 when it does not come."""
    content = request.content
    if content.is_eof():
        # All of it came with the head: no timer for the usual case.
        whole = content.read_nowait()
        if len(whole) > bytes_max:
            raise TooLarge(f"at most {bytes_max} bytes here")
        return whole
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.BODY_READ_S):
            while part := await content.readany():
                size += len(part)
                if size > bytes_max:
                    raise TooLarge(f"at most {bytes_max} bytes here")
                parts.append(part)
    except TimeoutError:
        message = f"the body did not come within {limits.BODY_READ_S:g} s"
        raise CallerError("request_timeout", message) from None
    return b"".join(parts)


def _query(route: Route, text: str) -> Any:
    """The query string as the route's struct; 422 names the parameter."""
    values: dict[str, Any] = {}
    try:
        pairs = parse_qsl(
            text,
            keep_blank_values=True,
            strict_parsing=bool(text),
            errors="strict",
            max_num_fields=limits.QUERY_FIELDS_MAX,
        )
    except (ValueError, UnicodeDecodeError):
        raise InvalidInput("the query string is malformed", code="malformed_request") from None
    for name, value in pairs:
        if "\0" in value:
            raise InvalidInput("U+0000 cannot be stored", name)
        if name in _lists(route.query):
            values.setdefault(name, []).append(value)
        elif name in values:
            raise InvalidInput("given twice", name)
        else:
            values[name] = value
    try:
        return msgspec.convert(values, route.query, strict=False)
    except msgspec.ValidationError as error:
        raise refusal(error, route.query) from None


@cache
def _lists(kind: type[msgspec.Struct]) -> frozenset[str]:
    """The parameters that may be given more than once."""
    fields = msgspec.structs.fields(kind)
    return frozenset(
        field.name for field in fields if _is_list(msgspec.inspect.type_info(field.type))
    )


def _is_list(kind: msgspec.inspect.Type) -> bool:
    match kind:
        case msgspec.inspect.Metadata(type=inner):
            return _is_list(inner)
        case msgspec.inspect.UnionType(types=choices):
            return any(map(_is_list, choices))
    return isinstance(kind, msgspec.inspect.ListType)


def response(reply: Reply) -> Response:
    """A reply as the HTTP server takes it."""
    return Response(body=reply.body, status=reply.status, headers=_headers(reply))


def _headers(reply: Reply) -> dict[str, str]:
    return {"Content-Type": reply.content_type, "Server": SERVER, **reply.headers}


async def streamed(
    request: web.BaseRequest, reply: Reply, parts: AsyncIterator[bytes]
) -> web.StreamResponse:
    """Send a long answer as it comes. If it fails on the way, the connection is cut, so that nobody
    takes it for whole."""
    answer = web.StreamResponse(status=reply.status, headers=_headers(reply))
    answer.headers[correlation.HEADER] = correlation_id.get()
    await answer.prepare(request)
    try:
        async for part in parts:
            async with asyncio.timeout(limits.PART_WRITE_S):
                await answer.write(part)
        await answer.write_eof()
    except (Exception, asyncio.CancelledError) as error:
        if request.transport is not None:
            request.transport.abort()
        if not isinstance(error, Exception):
            raise
        log.warning("a long answer was cut off: %s", error)
    finally:
        if isinstance(parts, AsyncGenerator):
            await parts.aclose()
    return answer


def response_of(error: TaskForgeError) -> Response:
    """The problem document of an error."""
    return response(problem_reply(error))


def problem_reply(error: TaskForgeError) -> Reply:
    """The same before it is a response."""
    problem = problem_of(error)
    headers = headers_of(error)
    if isinstance(error, MethodNotAllowedError):
        headers["Allow"] = error.allowed
    return Reply(encoded(problem), problem.status, CONTENT_TYPE, headers)
