"""The shortest way for the most frequent request: one job, JSON in, JSON out.

A client sends the same request head again and again; only the body differs. Parsing HTTP is a pure
function of bytes, so a head that was parsed, authenticated and answered once needs no second
parsing: it is known by heart, with what it says. What may change between two requests (the
principal, the queue and the plan) is looked up in caches that never wait. For WAY_TTL_S the head
then goes the way that was found, as long as none of these caches has had news. Where anything is
not as known, the request goes the long way. The values of `Idempotency-Key` and `X-Request-Id` are
cut out of the head before it is compared: of visible characters alone they change nothing of what
the rest says.

Why it is worth it, in server time a request: docs/decisions/0008-known-request-heads.md.
"""

import logging
import re
import time
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import web

from taskforge_server.api.auth import principals
from taskforge_server.api.auth.principals import Authenticator
from taskforge_server.api.rest import correlation
from taskforge_server.api.rest.bodies import take_job
from taskforge_server.api.rest.handlers import (
    REPLAY_HEADERS,
    Services,
    payload_bytes_max,
    submit_checked,
    submitted_view,
    taken,
)
from taskforge_server.api.rest.http import SERVER, problem_reply
from taskforge_server.api.rest.media import Coding
from taskforge_server.api.rest.metrics import RequestCounts
from taskforge_server.api.rest.problems import rate_headers
from taskforge_server.api.rest.routes import Call, Reply, request_hash
from taskforge_server.api.rest.schemas import encode_json
from taskforge_server.api.rest.table import SUBMIT_ROUTE
from taskforge_server.api.service.allowances import Standing
from taskforge_server.api.service.catalog import queue_key
from taskforge_server.api.service.submission import Checker
from taskforge_server.engine import limits
from taskforge_server.engine.errors import InternalError, TaskForgeError
from taskforge_server.engine.model.permissions import JOBS_WRITE
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.engine.model.subscription import Plan
from taskforge_server.engine.observe.logs import correlation_id
from taskforge_server.engine.shard.keys import CALLERS_KEY, KeyedRequest
from taskforge_server.ext.ids import uuid_text

log = logging.getLogger(__name__)

HEAD_END = b"\r\n\r\n"
_COUNTED = (SUBMIT_ROUTE.operation_id, SUBMIT_ROUTE.status)
_KEY_NAME = b"\r\nIdempotency-Key: "
_CORRELATION_NAME = f"\r\n{correlation.HEADER}: ".encode()
_KEY_VALUE = re.compile(CALLERS_KEY.encode())
_CREATED = b"HTTP/1.1 201 Created\r\n"
_CREATED_AGAIN = _CREATED + b"Idempotent-Replay: true\r\n"
_PENDING = '{"id":"%s","status":"pending"}'
_SCHEDULED = '{"id":"%s","status":"scheduled"}'
_UUID_CHARS = 36
_RATE = "".join(f"{name}: %d\r\n" for name in rate_headers(1, 1, 1))
_HEAD = (
    "HTTP/1.1 201 Created\r\n"
    "Content-Type: application/json\r\n"
    "Server: {server}\r\n"
    "Date: {date}\r\n"
    "{correlation}: %s\r\n"
    "%s"
    "Content-Length: {length}\r\n\r\n"
)


CutHead = tuple[bytes, str | None, str | None]
"""A head without the values that differ from request to request, its key, its correlation id."""


def cut(head: bytes) -> CutHead | None:
    """None where the long way has to refuse or replace a value: such a head must not be taken for
    one whose values were cut out."""
    key = request_id = None
    if (at := head.find(_KEY_NAME)) >= 0:
        head, value = _without_value(head, at + len(_KEY_NAME))
        if not _KEY_VALUE.fullmatch(value):
            return None
        key = value.decode()
    if (at := head.find(_CORRELATION_NAME)) >= 0:
        head, value = _without_value(head, at + len(_CORRELATION_NAME))
        request_id = value.decode("latin-1")
        if not correlation.is_id(request_id):
            return None
    return head, key, request_id


def _without_value(head: bytes, begin: int) -> tuple[bytes, bytes]:
    """A head without the value that begins here, and that value."""
    end = head.find(b"\r\n", begin)
    if end < 0:
        end = len(head)
    return head[:begin] + head[end:], head[begin:end]


@dataclass(slots=True)
class Way:
    """What a head leads to, by what the caches said: for whom there is nothing to look up again."""

    project_id: bytes
    queue: QueueRef
    plan: Plan
    payload_bytes_max: int
    until_s: float
    changes: int


@dataclass(slots=True)
class KnownHead:
    """What a head says: whose request, for which queue, how long its body is."""

    key_digest: bytes
    key_text: str
    path: str
    queue: str | bytes
    body_bytes: int
    way: Way | None = None


@dataclass(slots=True)
class Submit:
    """A request that goes the short way."""

    way: Way
    body: bytes
    path: str
    idempotency_key: str | None
    correlation_id: str


class Submits:
    """Knows heads, and answers the requests that begin with them."""

    def __init__(
        self, services: Services, authenticator: Authenticator, counts: RequestCounts
    ) -> None:
        self._requests = counts.requests
        self._services = services
        self._authenticator = authenticator
        self._catalog = services.catalog
        self._allowances = services.allowances
        self._plans = services.allowances.plans
        self._heads: dict[bytes, KnownHead] = {}
        self._second = 0
        self._pending = self._scheduled = ""

    def learn(self, head: bytes, request: web.BaseRequest, call: Call) -> None:
        """Remember the head of a request that was just answered, if it is one for the short way."""
        headers = request.headers
        length = request.content_length
        parts = cut(head)
        if parts is None:
            return
        head, key, request_id = parts
        plain = (
            call.route is SUBMIT_ROUTE
            and call.coding is call.body_coding is Coding.JSON
            and key == call.idempotency_key
            and len(headers.getall("Idempotency-Key", ())) == (key is not None)
            and len(headers.getall(correlation.HEADER, ())) == (request_id is not None)
            and call.query.wait is None
            and request.version == (1, 1)
            and request.keep_alive
            and length is not None
            and len(head) <= limits.HEAD_BYTES_MAX
            and not any(name in headers for name in ("Transfer-Encoding", "Expect", "Upgrade"))
        )
        if not plain or length is None:
            return
        text = principals.bearer(headers.get("Authorization"))
        if len(self._heads) >= limits.HEADS_MAX:
            del self._heads[next(iter(self._heads))]
        self._heads[head] = KnownHead(
            principals.digest(text), text, call.path, queue_key(call.params["queue"]), length
        )

    def recognise(self, data: bytes) -> Submit | None:
        """The request, if this is a whole one, and its head, its key and its queue are known."""
        end = data.find(HEAD_END)
        if end < 0:
            return None
        parts = cut(data[:end])
        if parts is None:
            return None
        head, key, request_id = parts
        known = self._heads.get(head)
        if known is None or len(data) != end + 4 + known.body_bytes:
            return None
        way = known.way
        if (
            way is None
            or way.until_s < time.monotonic()
            or way.changes
            != self._authenticator.changes + self._catalog.changes + self._plans.changes
        ):
            way = self._find_way(known)
            if way is None:
                return None
        if request_id is None:
            request_id = correlation.new_id()
        return Submit(way, data[end + 4 :], known.path, key, request_id)

    def _find_way(self, known: KnownHead) -> Way | None:
        """Look everything up; None when something is not known, or refuses."""
        known.way = None
        changes = self._authenticator.changes + self._catalog.changes + self._plans.changes
        principal = self._authenticator.cached(known.key_digest, known.key_text)
        if principal is None or JOBS_WRITE not in principal.permissions:
            return None
        project_id = principal.project_id
        queue = self._catalog.cached(project_id, known.queue)
        plan = self._allowances.cached(project_id)
        if queue is None or plan is None:
            return None
        now_us = self._services.engine.now_us()
        if not plan.is_active(now_us):
            return None
        # What is taken back of a person is not told to the caches: it is asked each time.
        lasts_s = limits.WAY_TTL_S if principal.kind == "api_key" else 0.0
        until_s = time.monotonic() + min(lasts_s, (plan.ends_us - now_us) / 1e6)
        bytes_max = payload_bytes_max(self._services, plan)
        known.way = Way(project_id, queue, plan, bytes_max, until_s, changes)
        return known.way

    async def answer(self, submit: Submit) -> bytes:
        """The whole response, once the job is durable or refused."""
        standing: Standing | None = None
        way, engine, key = submit.way, self._services.engine, submit.idempotency_key
        try:
            standing = self._allowances.take(way.project_id, way.plan)
            checker = Checker(engine.now_us(), way.payload_bytes_max, key, unique=True)
            take_job(submit.body, Coding.JSON, checker)
            if checker.parents:
                checker = await self._with_parents(submit)
            if checker.unique:
                return await self._unique(submit, checker, standing)
            if key is None:
                ids, replayed = await engine.submit_once(way.queue, checker.batch, None)
            else:
                body_hash = request_hash("POST", submit.path, submit.body)
                ids, replayed = await self._services.jobs.submit(
                    way.queue, checker.batch, KeyedRequest(key, body_hash)
                )
        except TaskForgeError as error:
            return self._refused(submit, error, standing)
        except Exception:
            correlation_id.set(submit.correlation_id)
            log.exception("a submit failed")
            return self._refused(submit, InternalError(), standing)
        self._requests[_COUNTED] += 1
        now_s = int(time.time())
        if now_s != self._second:
            self._renew(now_s)
        form = self._scheduled if checker.scheduled else self._pending
        rate = "" if standing is None else _RATE % standing
        answer = (form % (submit.correlation_id, rate, uuid_text(ids))).encode()
        return answer.replace(_CREATED, _CREATED_AGAIN, 1) if replayed else answer

    async def _unique(self, submit: Submit, checker: Checker, standing: Standing | None) -> bytes:
        """The answer to a job with a unique key."""
        key = None
        if submit.idempotency_key is not None:
            body_hash = request_hash("POST", submit.path, submit.body)
            key = KeyedRequest(submit.idempotency_key, body_hash)
        ids, replayed, met = await submit_checked(self._services, submit.way.queue, checker, key)
        body = encode_json(submitted_view(ids, checker, met))
        reply = Reply(body, 200 if met else SUBMIT_ROUTE.status, Coding.JSON.value)
        reply.headers |= REPLAY_HEADERS if replayed else {}
        reply.headers |= {} if standing is None else rate_headers(*standing)
        reply.headers[correlation.HEADER] = submit.correlation_id
        self._requests[SUBMIT_ROUTE.operation_id, reply.status] += 1
        return raw(reply)

    async def _with_parents(self, submit: Submit) -> Checker:
        """The job once more, with what its parents are."""
        way, engine = submit.way, self._services.engine
        checker, _ = await taken(
            self._services,
            way.project_id,
            lambda known: Checker(
                engine.now_us(), way.payload_bytes_max, submit.idempotency_key, known, unique=True
            ),
            lambda checker: take_job(submit.body, Coding.JSON, checker),
        )
        return checker

    def _refused(self, submit: Submit, error: TaskForgeError, standing: Standing | None) -> bytes:
        reply = problem_reply(error)
        if standing is not None:
            reply.headers.update(rate_headers(*standing))
        reply.headers[correlation.HEADER] = submit.correlation_id
        self._requests[SUBMIT_ROUTE.operation_id, reply.status] += 1
        return raw(reply)

    def _renew(self, now_s: int) -> None:
        """Heads with the date of this second."""
        self._second = now_s
        date = formatdate(now_s, usegmt=True)
        for name, body in (("_pending", _PENDING), ("_scheduled", _SCHEDULED)):
            length = len(body) - len("%s") + _UUID_CHARS
            head = _HEAD.format(
                server=SERVER, date=date, correlation=correlation.HEADER, length=length
            )
            setattr(self, name, head + body)


def raw(reply: Reply) -> bytes:
    """A reply as the bytes of an HTTP response."""
    lines = [
        f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}",
        f"Content-Type: {reply.content_type}",
        f"Server: {SERVER}",
        f"Date: {formatdate(usegmt=True)}",
        f"Content-Length: {len(reply.body)}",
        *(f"{name}: {value}" for name, value in reply.headers.items()),
    ]
    return "\r\n".join(lines).encode() + HEAD_END + reply.body
