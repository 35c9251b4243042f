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

import asyncio
import logging
import re
import time
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Protocol

from aiohttp import web

from taskforge_server.api.auth import principals
from taskforge_server.api.auth.principals import Authenticator
from taskforge_server.api.rest import correlation
from taskforge_server.api.rest.bodies import check_job, plain_job, take_checked_job
from taskforge_server.api.rest.handlers import (
    REPLAY_HEADERS,
    Parents,
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
from taskforge_server.api.service.jobs import ID_BYTES, other_count
from taskforge_server.api.service.ports import Repeatable
from taskforge_server.api.service.submission import Checker
from taskforge_server.engine import limits
from taskforge_server.engine.errors import InternalError, ShardLost, TaskForgeError
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


class Caller(Protocol):
    """The connection that a request came over."""

    def answered(self, answer: bytes) -> None:
        """The whole response to the request that is under way."""
        ...


class Submit:
    """A request on the short way, and the promise that the engine keeps.

    known ──► begun ──ids, an error──► over: answered
      '─────────┴──the caller is gone──► over: nobody hears of it
    """

    __slots__ = (
        "_caller",
        "_submits",
        "begun",
        "body",
        "command",
        "correlation_id",
        "idempotency_key",
        "over",
        "path",
        "scheduled",
        "standing",
        "task",
        "way",
    )

    def __init__(
        self,
        submits: "Submits",
        way: Way,
        body: bytes,
        path: str,
        idempotency_key: str | None,
        correlation_id: str,
        caller: Caller,
    ) -> None:
        self._submits = submits
        self.way = way
        self.body = body
        self.path = path
        self.idempotency_key = idempotency_key
        self.correlation_id = correlation_id
        self._caller = caller
        self.begun = False
        self.over = False
        self.scheduled = False
        """The job waits for a time or for others."""
        self.standing: Standing | None = None
        self.command: Repeatable | None = None
        """Set only where a key asks whether it came before."""
        self.task: asyncio.Task[None] | None = None
        """What goes on for a request that has to wait for more than one thing."""

    def answer(self, response: bytes) -> None:
        """Answer unless nobody is there."""
        if not self.over:
            self.over = True
            self._caller.answered(response)

    def gone(self) -> None:
        """The caller is gone."""
        self.over = True
        if self.task is not None:
            self.task.cancel()

    # the promise

    def done(self) -> bool:
        return self.over

    def set_result(self, ids: bytes) -> None:
        self.answer(self._submits.created(self, ids))

    def set_exception(self, error: Exception) -> None:
        self.answer(self._submits.refused(self, error))


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

    def recognise(self, data: bytes, caller: Caller) -> Submit | None:
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
        return Submit(self, way, data[end + 4 :], known.path, key, request_id, caller)

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

    def begin(self, submit: Submit) -> None:
        """Take the job in. The submit is answered when the job is durable, or refused, here or
        later: nothing waits for it meanwhile, neither a task nor a future."""
        way, key = submit.way, submit.idempotency_key
        submit.begun = True
        try:
            submit.standing = self._allowances.take(way.project_id, way.plan)
            check_job(submit.body)
            batch = plain_job(submit.body, way.payload_bytes_max, key)
            if batch is None:
                checker = self._checker(submit, None)
                take_checked_job(submit.body, checker)
                if checker.parents or checker.unique:
                    # Kept by the submit: a loop forgets the tasks that nobody holds.
                    submit.task = asyncio.create_task(self._looked_up(submit, checker))
                    return
                batch, submit.scheduled = checker.batch, bool(checker.scheduled)
            request = None if key is None else _keyed(submit)
            command = self._services.engine.submit_to(way.queue, batch, request, submit)
            if request is not None:
                submit.command = command
        except Exception as error:  # noqa: BLE001 - told, and logged unless it is the caller's
            submit.set_exception(error)

    def _checker(self, submit: Submit, known: Parents | None) -> Checker:
        now_us = self._services.engine.now_us()
        key, bytes_max = submit.idempotency_key, submit.way.payload_bytes_max
        return Checker(now_us, bytes_max, key, known, unique=True)

    async def _looked_up(self, submit: Submit, checker: Checker) -> None:
        """The same for a job with parents or a unique key."""
        services, way = self._services, submit.way
        try:
            if checker.parents:
                checker, _ = await taken(
                    services,
                    way.project_id,
                    lambda known: self._checker(submit, known),
                    lambda checker: take_checked_job(submit.body, checker),
                )
            submit.scheduled = bool(checker.scheduled)
            key = _keyed(submit)
            ids, replayed, met = await submit_checked(services, way.queue, checker, key)
            view = submitted_view(ids, checker, met)
        except Exception as error:  # noqa: BLE001 - told, and logged unless it is the caller's
            submit.set_exception(error)
            return
        reply = Reply(encode_json(view), 200 if met else SUBMIT_ROUTE.status, Coding.JSON.value)
        reply.headers |= REPLAY_HEADERS if replayed else {}
        submit.answer(self._raw(submit, reply))

    def created(self, submit: Submit, ids: bytes) -> bytes:
        """The response: the job is durable."""
        command = submit.command
        if command is not None and len(ids) != ID_BYTES:
            return self.refused(submit, other_count())
        self._requests[_COUNTED] += 1
        now_s = int(time.time())
        if now_s != self._second:
            self._renew(now_s)
        form = self._scheduled if submit.scheduled else self._pending
        standing = submit.standing
        rate = "" if standing is None else _RATE % standing
        answer = (form % (submit.correlation_id, rate, uuid_text(ids))).encode()
        if command is not None and command.repeated:
            return answer.replace(_CREATED, _CREATED_AGAIN, 1)
        return answer

    def refused(self, submit: Submit, error: Exception) -> bytes:
        """The response: nothing was done, or it is not known."""
        if isinstance(error, ShardLost):
            error = error.told(limits.UNAVAILABLE_RETRY_S)
        elif not isinstance(error, TaskForgeError):
            before = correlation_id.set(submit.correlation_id)
            log.error("a submit failed", exc_info=error)
            correlation_id.reset(before)
            error = InternalError()
        return self._raw(submit, problem_reply(error))

    def _raw(self, submit: Submit, reply: Reply) -> bytes:
        if submit.standing is not None:
            reply.headers.update(rate_headers(*submit.standing))
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


def _keyed(submit: Submit) -> KeyedRequest | None:
    key = submit.idempotency_key
    if key is None:
        return None
    return KeyedRequest(key, request_hash("POST", submit.path, submit.body))


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
