"""Secrets that callers send stand in no log line, metric, audit entry or problem document.

Every operation of the OpenAPI document gets a canary in each input that may hold a secret: in well
formed requests, in those that are refused, and in those that are no requests at all. A new
operation is tried without being added.
"""

import asyncio
import base64
import io
import json
import logging
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgpack
import pytest
import pytest_asyncio

from taskforge_server.api.auth.tokens import AccessTokens, Grant, KeyRing
from taskforge_server.engine.model.permissions import of_role
from taskforge_server.engine.model.tenant import api_key_text
from taskforge_server.engine.observe.logs import JsonFormatter, WithoutDetails
from taskforge_server.engine.store.pool import acquire
from taskforge_server.ext.ids import uuid_bytes
from tests.integration.tenants.test_matrix import DOCUMENT, OPERATIONS, Operation
from tests.support.estate import Estate, found, id_of, make_key
from tests.support.people import Person, Site, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

CANARY = "CanaryInTheCoalMine"
WORDS = ("password", "token", "secret", "key", "payload")
"""In the names of inputs that may hold a secret."""
ISSUED = ("access_token", "refresh_token", "token", "key")
"""What answers give that is one."""
ENTRIES = "SELECT entry::text FROM audit_log AS entry"

WRONG: tuple[Any, ...] = (
    CANARY,
    [CANARY],
    {CANARY: CANARY},
    CANARY * 400,
    f"\0{CANARY}",
    f"tf_{CANARY}",
    f"{CANARY}.{CANARY}.{CANARY}",
)
"""For a field that holds a secret."""
CREDENTIALS = (
    CANARY,
    f"Bearer {CANARY}",
    f"Bearer {CANARY} {CANARY}",
    f"Bearer {api_key_text(bytes(32))[:-19]}{CANARY}",
    f"Bearer eyJ{CANARY}.{CANARY}.{CANARY}",
    f"Bearer {CANARY * 200}",
    f"Basic {base64.b64encode(CANARY.encode()).decode()}",
)
MALFORMED = (
    f"GET /v1/queues HTTP/1.1\r\nAuthorization: Bearer {CANARY * 2000}\r\n\r\n",
    f"GET /v1/queues HTTP/1.1\r\nAuthorization: Bearer {CANARY}\0\r\n\r\n",
    f"GET /v1/queues HTTP/1.1\r\nAuthorization Bearer {CANARY}\r\n\r\n",
    f"GET /v1/queues HTTP/9.1\r\nAuthorization: Bearer {CANARY}\r\n\r\n",
    f"{CANARY}\r\n\r\n",
)


@dataclass(slots=True)
class Place:
    """A server, who calls, and what could be overheard."""

    site: Site
    ada: Estate
    keeper: Person
    own: dict[str, str]
    tokens: AccessTokens
    log: io.StringIO
    problems: list[bytes]
    issued: set[str]

    def overheard(self, *more: str) -> list[str]:
        """What was told to somebody that holds a secret."""
        told = [*self.log.getvalue().splitlines(), *more]
        told += [problem.decode() for problem in self.problems]
        secrets = {CANARY, CANARY.encode().hex(), base64.b64encode(CANARY.encode()).decode()[:24]}
        secrets |= {text[:40] for text in self.issued}
        return [line for line in told if any(secret in line for secret in secrets)]

    async def credential(self, operation: Operation) -> str | None:
        if operation.permission is None:
            return None
        if operation.permission not in of_role("admin", in_project=True):
            return self.ada.key
        keeper = self.keeper
        ids = uuid_bytes(keeper.id), self.ada.organization_id, uuid.uuid4().bytes
        text, _ = await self.tokens.issue(Grant(*ids, "admin", 1, self.ada.project_id))
        self.issued.add(text)
        return text

    async def send(self, operation: Operation, body: bytes | None, headers: dict[str, str]) -> int:
        """The status; a problem document and what was issued are kept."""
        url = self.site.url + operation.url(self.own)
        async with self.site.client.request(
            operation.method, url, data=body, headers=headers
        ) as answer:
            if answer.status >= 400:
                self.problems.append(f"{answer.headers}".encode() + await answer.read())
            elif answer.content_type == "application/json":
                value = await answer.json() or {}
                self.issued |= {value[name] for name in ISSUED if value.get(name)}
            return answer.status


@pytest.fixture(scope="module")
def log() -> Iterator[io.StringIO]:
    """Every line of every logger, as the server writes it."""
    handler, root = logging.StreamHandler(io.StringIO()), logging.getLogger()
    handler.setFormatter(JsonFormatter())
    handler.addFilter(WithoutDetails())
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler.stream
    root.removeHandler(handler)
    root.setLevel(before)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(module_postgres_url: str, log: io.StringIO) -> AsyncIterator[Place]:
    async with serving(module_postgres_url) as site:
        ada = await found(site, "ada")
        keeper = await site.member(ada.admin, "admin")
        await site.node.projector.flush()
        names = {name for operation in OPERATIONS for name in operation.path_parameters}
        async with acquire(site.node.pool) as connection:
            own = {
                name: await id_of(connection, name, ada.organization_id, ada.project_id)
                or str(uuid.uuid4())
                for name in names
            }
        project_id = ada.admin.project_id
        victim = await make_key(site, ada.admin, project_id, ["*"])
        own |= {"user_id": ada.member.id, "project_id": project_id, "api_key_id": victim["id"]}
        tokens = AccessTokens(KeyRing(site.node.signing_keys))
        issued = {ada.key, ada.second_key, ada.admin.access_token, ada.admin.refresh_token}
        yield Place(site, ada, keeper, own, tokens, log, [], issued)


def _secret_places(schema: dict[str, Any]) -> list[tuple[str, ...]]:
    """Paths of fields that may hold a secret; `[]` is each item of a list."""
    while "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "items" in schema:
        return [("[]", *rest) for rest in _secret_places(schema["items"])]
    found: list[tuple[str, ...]] = []
    for name, inner in schema.get("properties", {}).items():
        found += [(name,)] if any(word in name for word in WORDS) else []
        found += [(name, *rest) for rest in _secret_places(inner)]
    return found


def _with(value: Any, path: tuple[str, ...], secret: Any) -> Any:
    if not path:
        return secret
    if path[0] == "[]":
        return [_with(value[0] if value else {}, path[1:], secret)]
    value = value if isinstance(value, dict) else {}
    return value | {path[0]: _with(value.get(path[0]), path[1:], secret)}


def _bodies(operation: Operation) -> Iterator[tuple[bytes, str]]:
    """Bodies with canaries, and how they are coded."""
    example = operation.example or {}
    places = _secret_places(operation.body or {})
    whole = example
    for path in places:
        whole = _with(whole, path, f"{CANARY} in words")
    values = [whole] + [_with(whole, path, wrong) for path in places for wrong in WRONG]
    values += [whole | {"password": CANARY, "not_known": CANARY}, [CANARY], CANARY]
    for value in values:
        yield json.dumps(value).encode(), "application/json"
        yield msgpack.packb(value), "application/msgpack"
    text = json.dumps(whole | {"password": CANARY})
    for broken in (text[:-3], text + CANARY, text.replace("{", "{{", 1), f'{{"a":{CANARY}}}'):
        yield broken.encode(), "application/json"
    yield msgpack.packb(whole | {"password": CANARY})[:-3], "application/msgpack"
    yield text.encode(), f"text/{CANARY}"


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.id)
async def test_nothing_is_told(place: Place, operation: Operation) -> None:
    who = await place.credential(operation)
    headers = {} if who is None else {"Authorization": f"Bearer {who}"}
    seen = set()
    if operation.body is not None:
        for body, coding in _bodies(operation):
            seen.add(await place.send(operation, body, headers | {"Content-Type": coding}))
        assert seen & {400, 409, 415, 422, 429}, "nothing was refused"
    if operation.method != "GET":
        example = json.dumps(operation.example or {}).encode()
        for key in (CANARY, f"{CANARY} {CANARY}", CANARY * 20):
            more = {"Idempotency-Key": key, "Content-Type": "application/json"}
            for body in (example, json.dumps({"payload": CANARY}).encode(), None):
                seen.add(await place.send(operation, body, headers | more))
    assert who is None or seen != {401}, "the credential of this test is no longer good"
    if operation.permission is not None:
        for credential in CREDENTIALS:
            assert await place.send(operation, None, {"Authorization": credential}) == 401
    assert not place.overheard()


async def test_what_is_no_http(place: Place) -> None:
    for text in MALFORMED:
        reader, writer = await asyncio.open_connection("127.0.0.1", place.site.port)
        writer.write(text.encode())
        place.problems.append(await reader.read())
        writer.close()
    assert all(b" 400 " in problem for problem in place.problems[-len(MALFORMED) :])
    assert not place.overheard()


def _frames() -> Iterator[list[Any] | bytes]:
    token = CANARY.encode().ljust(24)[:24]
    yield from ([3, 1, token, []], [3, 1, b"", [[token, 0, f'"{CANARY}"'.encode()]]])
    yield from ([3, CANARY, b"", []], [3, 1, b"", [[token, 1, CANARY]]], [CANARY], CANARY.encode())
    yield from ([6, 1, [[token, 1, [[0, 0, CANARY, None]]]]], [6, 1, [[token, CANARY, []]]])


async def test_workers(place: Place) -> None:
    hello: dict[str, Any] = {
        "protocol": 1,
        "worker_id": uuid.uuid4().bytes,
        "name": "worker",
        "queues": ["queue of ada"],
        "types": ["t"],
        "credit": 10,
        "api_key": CANARY,
    }
    refused = [
        hello | {"running": CANARY.encode()},
        hello | {"worker_id": CANARY},
        hello | {"credit": CANARY},
        {"protocol": 1, "api_key": CANARY},
    ]
    begun = [[1, value] for value in refused] + [CANARY, [CANARY]]
    talks = [[first] for first in begun] + [[[1, hello], frame] for frame in _frames()]
    told = [await _spoken(place, frames) for frames in talks]
    assert not place.overheard(*told)


async def _spoken(place: Place, frames: list[Any]) -> str:
    """Say all of these to the stream; why it was closed."""
    url, headers = (
        f"{place.site.url}/v1/workers/stream",
        {"Authorization": f"Bearer {place.ada.key}"},
    )
    async with place.site.client.ws_connect(url, headers=headers) as socket:
        for place_in, frame in enumerate(frames):
            await socket.send_bytes(frame if isinstance(frame, bytes) else msgpack.packb(frame))
            if len(frames) > 1 and place_in == 0:
                await socket.receive()
        if len(frames) > 1:
            await socket.send_bytes(msgpack.packb([5]))
        while True:
            message = await socket.receive()
            if message.type is not aiohttp.WSMsgType.BINARY:
                return f"{message.data} {message.extra}"


async def test_metrics_and_the_audit_log(place: Place) -> None:
    """After all that."""
    told = [(await place.site.get("/metrics")).body.decode()]
    told.append((await place.site.get("/v1/metrics", place.ada.key)).body.decode())
    await place.site.node.projector.flush()
    async with acquire(place.site.node.pool) as connection:
        entries = [row[0] for row in await connection.fetch(ENTRIES)]
    assert len(entries) > len(OPERATIONS) / 4
    assert not place.overheard(*told, *entries)
    assert len(place.issued) > 10
