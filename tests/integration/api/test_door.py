"""The door itself: credentials, codings, paths, connections, health, the document."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgpack
import pytest

from taskforge_server.api.auth.principals import Authenticator, digest
from taskforge_server.api.rest.problems import KINDS
from taskforge_server.api.rest.table import ROUTES
from taskforge_server.engine import limits
from taskforge_server.engine.errors import Unauthenticated
from taskforge_server.engine.model.permissions import PROJECT_PERMISSIONS
from taskforge_server.engine.model.tenant import Project, api_key_text
from tests.integration.api.conftest import KEY, PROJECT, Fixture, until
from tests.support.stub_engine import StubKeys, StubProjects

JOBS = "/v1/queues/default/jobs"

CLOSED = [route for route in ROUTES if route.permission in PROJECT_PERMISSIONS]
"""What an API key may be allowed to do."""


def path_of(path: str) -> str:
    """The path with parameters that name nothing."""
    return re.sub(r"\{.*?\}", "01997b5c-6c00-7001-8000-5f3a9c2d4e6f", path)


# Credentials


@pytest.mark.parametrize("route", CLOSED, ids=lambda route: route.operation_id)
async def test_every_operation_wants_its_permission(api: Fixture, route: Any) -> None:
    path = path_of(route.path)
    nobody = await api.call(route.method, path, key=None)
    assert (nobody.status, nobody.json["code"]) == (401, "unauthenticated")
    assert nobody.headers["WWW-Authenticate"] == "Bearer"
    unknown = await api.call(route.method, path, key=api_key_text(b"\7" * 32))
    assert (unknown.status, unknown.json["code"]) == (401, "unauthenticated")
    poor = api_key_text(b"\5" * 32)
    api.keys.add(poor, PROJECT, [name for name in PROJECT_PERMISSIONS if name != route.permission])
    refused = await api.call(route.method, path, key=poor)
    assert (refused.status, refused.json["code"]) == (403, "permission_denied")
    assert route.permission in refused.json["detail"]
    rich = api_key_text(b"\6" * 32)
    api.keys.add(rich, PROJECT, [route.permission])
    allowed = await api.call(route.method, path, key=rich)
    assert allowed.status not in (401, 403)


@pytest.mark.parametrize(
    "header",
    [f"Basic {KEY}", "Bearer", "Bearer ", KEY, f"Bearer {'x' * 200}", "Bearer a b", "Bearer \xff"],
)
async def test_bad_credentials(api: Fixture, header: str) -> None:
    answer = await api.get("/v1/queues", headers={"Authorization": header}, key=None)
    assert (answer.status, answer.json["code"]) == (401, "unauthenticated")


async def test_keys_expire_and_are_revoked_also_on_the_short_way(api: Fixture) -> None:
    body = {"job_type": "t"}
    for _ in range(3):
        assert (await api.post(JOBS, body)).status == 201
    assert api.keys.reads == 1, "no query once it is known"
    assert api.queues.reads == 1
    api.keys.rows.clear()
    api.server.authenticator.forget()
    assert (await api.post(JOBS, body)).status == 401
    poor = api_key_text(bytes(32))
    assert poor == KEY
    api.keys.add(KEY, PROJECT, ["jobs:read"])
    api.server.authenticator.forget()
    assert (await api.post(JOBS, body)).status == 403


async def test_the_cache_of_principals() -> None:
    keys, now_s, today = StubKeys(), 100.0, datetime(2030, 1, 1, tzinfo=UTC)
    authenticator = Authenticator(
        keys, StubProjects(), monotonic_s=lambda: now_s, now=lambda: today
    )
    header = f"Bearer {KEY}"

    with pytest.raises(Unauthenticated):
        await authenticator.authenticate(header)
    keys.add(KEY, PROJECT, expires_at=today + timedelta(seconds=60))
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate(header)
    assert keys.reads == 1, "that it is unknown is remembered"
    now_s += limits.UNKNOWN_KEY_TTL_S + 0.1
    calls = [authenticator.authenticate(header) for _ in range(10)]
    principals = await asyncio.gather(*calls)
    assert keys.reads == 2, "one look-up for all"
    assert {principal.project_id for principal in principals} == {PROJECT}
    assert principals[0].permissions == frozenset(PROJECT_PERMISSIONS)

    now_s += limits.PRINCIPAL_TTL_S * 0.6
    await authenticator.authenticate(header)
    assert keys.reads == 2, "renewed in the background"
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert keys.reads == 3
    keys.rows.clear()
    now_s += limits.PRINCIPAL_TTL_S + 0.1
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate(header)

    now_s += limits.UNKNOWN_KEY_TTL_S + 0.1
    keys.add(KEY, PROJECT, expires_at=today + timedelta(seconds=60))
    await authenticator.authenticate(header)
    today += timedelta(seconds=61)
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate(header)


async def test_a_key_that_is_revoked_while_it_is_looked_up() -> None:
    keys, now_s = StubKeys(), 100.0
    key = keys.add(KEY, PROJECT)

    class SlowProjects(StubProjects):
        async def get(self, project_id: bytes) -> Project:
            nonlocal now_s
            now_s += 5.0
            if revoked:
                keys.rows.clear()
                authenticator.forget(key.id)
            return await super().get(project_id)

    revoked = False
    authenticator = Authenticator(keys, SlowProjects(), monotonic_s=lambda: now_s)
    assert await authenticator.authenticate(f"Bearer {KEY}")
    assert authenticator.cached(digest(KEY), KEY) is None, "what was read is old by now"
    revoked = True
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate(f"Bearer {KEY}")


async def test_a_failing_lookup_is_no_verdict(api: Fixture) -> None:
    def fail() -> None:
        raise ConnectionError("the database is away")

    api.keys.before_read = fail
    assert (await api.get("/v1/queues")).status == 500
    api.keys.before_read = lambda: None
    assert (await api.get("/v1/queues")).status == 200


# Codings


@pytest.mark.parametrize(
    ("headers", "status", "field"),
    [
        ({"Content-Type": "text/plain"}, 415, "Content-Type"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415, "Content-Type"),
        ({"Content-Type": "application/json; charset=latin-1"}, 415, "Content-Type"),
        ({"Content-Type": "application/json; charset=UTF-8"}, 201, None),
        ({"Content-Type": "Application/JSON"}, 201, None),
        ({"Content-Encoding": "gzip"}, 415, "Content-Encoding"),
        ({"Content-Encoding": "identity"}, 201, None),
        ({"Accept": "text/html"}, 406, "Accept"),
        ({"Accept": "application/json;q=0"}, 406, "Accept"),
        ({"Accept": "text/html, application/*;q=0.5"}, 201, None),
    ],
)
async def test_codings(
    api: Fixture, headers: dict[str, str], status: int, field: str | None
) -> None:
    answer = await api.post(JOBS, {"job_type": "t"}, headers=headers)
    assert answer.status == status, answer.body
    if status != 201:
        assert answer.json.get("field") == field


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("*/*", "application/json"),
        ("application/msgpack", "application/msgpack"),
        ("application/x-msgpack", "application/msgpack"),
        ("application/json;q=0.5, application/msgpack", "application/msgpack"),
        ("*/*;q=0.1, application/json;q=0", "application/msgpack"),
        ("application/msgpack;q=0.9, application/json", "application/json"),
    ],
)
async def test_accept(api: Fixture, accept: str, coding: str) -> None:
    answer = await api.get("/v1/queues/default", headers={"Accept": accept})
    assert answer.headers["Content-Type"] == coding
    view = answer.json if coding.endswith("json") else msgpack.unpackb(answer.body, timestamp=3)
    assert view["name"] == "default"


# Paths


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v2/queues", "/v1/queues/", "/v1//queues", "/v1/queues/a/b", "/V1/queues"]
)
async def test_nothing_here(api: Fixture, path: str) -> None:
    answer = await api.get(path)
    assert (answer.status, answer.json["code"]) == (404, "not_found")


async def test_methods(api: Fixture) -> None:
    answer = await api.call("DELETE", "/v1/queues")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, POST")
    answer = await api.call("PATCH", JOBS, body=b"{}")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


async def test_heartbeat_of_nobody(api: Fixture) -> None:
    for worker in ("x", "01997b5c-6c00-7001-8000-5f3a9c2d4e6f"):
        answer = await api.post(f"/v1/workers/{worker}/heartbeat")
        assert (answer.status, answer.json["code"]) == (404, "worker_not_found")


# The process


async def test_health_readiness_metrics(api: Fixture) -> None:
    assert (await api.get("/healthz", key=None)).json == {"status": "ok"}
    ready = await api.get("/readyz", key=None)
    assert (ready.status, ready.json) == (200, {"ready": True, "reasons": []})
    api.reasons.append("the log is away")
    not_ready = await api.get("/readyz", key=None)
    assert not_ready.status == 503
    assert not_ready.json == {"ready": False, "reasons": ["the log is away"]}
    metrics = await api.get("/metrics", key=None)
    assert b"things_total 1.0" in metrics.body
    assert b'taskforge_http_requests_total{operation="readyz",status="503"} 1.0' in metrics.body
    assert b"taskforge_http_connections 1.0" in metrics.body
    assert metrics.headers["Content-Type"].startswith("text/plain")


async def test_the_document_is_the_table(api: Fixture) -> None:
    document = (await api.get("/openapi.json", key=None)).json
    assert document["openapi"].startswith("3.1")
    listed = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method in operations
    }
    assert listed == {(route.method, route.path) for route in ROUTES}
    names = [
        operation["operationId"]
        for operations in document["paths"].values()
        for operation in operations.values()
    ]
    assert len(set(names)) == len(names)
    text = (await api.get("/openapi.json", key=None)).body.decode()
    for name in re.findall(r'"#/components/schemas/(\w+)"', text):
        assert name in document["components"]["schemas"]
    codes = set(re.findall(r'"code":"(\w+)"', text))
    assert codes <= set(KINDS)
    assert set(KINDS) - codes <= {"not_found", "method_not_allowed", "conflict"}


# Connections


async def raw(api: Fixture, *parts: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    return reader, writer


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = int(re.search(r"content-length: (\d+)", head, re.IGNORECASE)[1])  # type: ignore[index]
    return int(head.split()[1]), await reader.readexactly(length)


def submit(payload: str = "", headers: str = "", path: str = JOBS) -> bytes:
    body = b'{"job_type":"t","payload":"' + payload.encode() + b'"}'
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    )
    return head.encode() + body


async def test_requests_sent_ahead_are_answered_in_order(api: Fixture) -> None:
    reader, writer = await raw(api, submit("aa"))
    assert (await answer_of(reader))[0] == 201
    api.engine.hold = asyncio.Event()
    writer.write(submit("bb"))
    await until(lambda: not (api.engine.table.jobs_resident < 2))
    # Behind a request on its short way: a known one, an unknown one, two in one piece, a bad one.
    for part in (submit("cc"), submit("d" * 9), submit("ee") * 2, submit("f" * 5000), submit("gg")):
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0)
    api.engine.hold.set()
    statuses = [(await answer_of(reader))[0] for _ in range(7)]
    assert statuses == [201, 201, 201, 201, 201, 413, 201]
    payloads = [job["payload"][1:-1] for job in api.engine.table.snapshot()]
    assert payloads == [b"aa", b"bb", b"cc", b"d" * 9, b"ee", b"ee", b"gg"]
    writer.close()


async def test_a_request_in_pieces(api: Fixture) -> None:
    whole = submit("payload")
    for cut in (1, 20, whole.index(b"\r\n\r\n") + 2, len(whole) - 3):
        reader, writer = await raw(api, submit("payload"))
        assert (await answer_of(reader))[0] == 201
        writer.write(whole[:cut])
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.write(whole[cut:] + submit("x"))
        assert [(await answer_of(reader))[0] for _ in range(2)] == [201, 201]
        writer.close()


@pytest.mark.parametrize("cut", ["before the key", "in the key", "before the end"])
async def test_part_of_a_head_is_not_known(api: Fixture, cut: str) -> None:
    """A head that came in pieces: its first piece opens nothing for whoever sends that alone."""
    whole = submit("secret", "X-Last: 1\r\n")
    # As some clients write it: the key last.
    line = f"Authorization: Bearer {KEY}\r\n".encode()
    whole = whole.replace(line, b"").replace(b"X-Last: 1\r\n", line)
    at = {"before the key": whole.index(b"/json"), "in the key": whole.index(line) + 40}
    first = whole[: at.get(cut, whole.index(b"\r\n\r\n") + 2)]
    door = api.server._door
    reader, writer = await raw(api, first)
    await until(lambda: any(front.first_chunk for front in door.fronts))
    writer.write(whole[len(first) :])
    assert (await answer_of(reader))[0] == 201
    writer.close()
    assert not door.submits._heads
    if cut == "before the key":
        body = whole.partition(b"\r\n\r\n")[2]
        reader, writer = await raw(api, first[:-1] + b"\r\n\r\n" + body)
        assert (await answer_of(reader))[0] in (400, 401)
        writer.close()


async def test_blank_lines_before_a_head_are_no_head(api: Fixture) -> None:
    reader, writer = await raw(api, b"\r\n\r\n" + submit("payload"))
    assert (await answer_of(reader))[0] == 201
    assert not api.server._door.submits._heads
    writer.close()


async def test_a_chunked_body(api: Fixture) -> None:
    head = submit().split(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n"
    body = b'{"job_type":"t"}'
    reader, writer = await raw(api, head + b"10\r\n" + body + b"\r\n0\r\n\r\n")
    assert (await answer_of(reader))[0] == 201
    writer.write(submit("x"))
    assert (await answer_of(reader))[0] == 201
    writer.close()


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: \x00\r\n\r\n",
    ],
)
async def test_malformed_http(api: Fixture, data: bytes) -> None:
    reader, writer = await raw(api, data)
    status, body = await answer_of(reader)
    assert status == 400
    assert b'"code":"malformed_request"' in body
    assert await reader.read() == b"", "and the connection ends"
    writer.close()


async def test_a_declared_length_is_refused_before_it_is_read(api: Fixture) -> None:
    head = submit().split(b"Content-Length")[0] + b"Content-Length: 99999999\r\n\r\n"
    reader, writer = await raw(api, head)
    status, body = await answer_of(reader)
    assert (status, b'"code":"too_large"' in body) == (413, True)
    writer.close()


async def test_a_slow_body_is_given_up(api: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_READ_S", 0.05)
    reader, writer = await raw(api, submit("x")[:-3])
    status, body = await answer_of(reader)
    assert (status, b'"code":"request_timeout"' in body) == (408, True)
    writer.close()


async def test_bodies_share_a_budget(api: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    door = api.server._door
    bodies = door._api._bodies
    monkeypatch.setattr(bodies, "_most", 500_000)
    path = f"{JOBS}/batch"
    head = submit(path=path).split(b"Content-Length")[0] + b"Content-Length: 200000\r\n\r\n"
    _, writer = await raw(api, head + b"{")
    await until(lambda: bool(bodies.used))
    reader, second = await raw(api, head + b"{")
    status, body = await answer_of(reader)
    assert (status, b'"code":"share_used_up"' in body) == (429, True)
    assert bodies.room(b"another organization") > 100_000
    writer.close()
    second.close()
    await until(lambda: not bodies.used)


async def test_a_caller_that_goes_away_leaves_nothing_behind(api: Fixture) -> None:
    reader, writer = await raw(api, submit("aa"))
    assert (await answer_of(reader))[0] == 201
    api.engine.hold = asyncio.Event()
    writer.write(submit("bb"))
    door = api.server._door
    await until(lambda: bool(door.direct_count))
    writer.transport.abort()
    await until(lambda: not (door.direct_count or door.fronts))


async def test_who_waits_and_goes_away_is_forgotten(api: Fixture) -> None:
    _, writer = await raw(api, submit("aa", path=f"{JOBS}?wait=60s"))
    await until(lambda: api.engine.waiters == 1)
    writer.transport.abort()
    await until(lambda: api.engine.waiters == 0)
    assert api.engine.table.jobs_resident == 1, "the job stays"


async def test_stopping_answers_what_is_under_way(api: Fixture) -> None:
    connections = [await raw(api, submit("aa")) for _ in range(2)]
    for reader, _ in connections:
        assert (await answer_of(reader))[0] == 201
    api.engine.hold = asyncio.Event()
    connections[0][1].write(submit("bb"))  # the short way
    connections[1][1].write(submit("c" * 9))  # the long way
    await until(lambda: not (api.engine.table.jobs_resident < 4))
    stopping = asyncio.create_task(api.server.stop(5.0))
    await asyncio.sleep(0.01)
    api.engine.hold.set()
    for reader, writer in connections:
        assert (await answer_of(reader))[0] == 201
        assert await reader.read() == b""
        writer.close()
    await stopping
    with pytest.raises(OSError, match="Connect call failed"):
        await raw(api)


async def test_idle_connections_are_closed(api: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IDLE_SWEEP_S", 0.01)
    monkeypatch.setattr(limits, "IDLE_CONNECTION_S", 0.05)
    api.server._door._sweeper.cancel()  # type: ignore[union-attr]
    api.server._door.start()
    for start in (b"", submit("aa"), b"GET /heal"):
        reader, writer = await raw(api, start)
        if start == submit("aa"):
            await answer_of(reader)
        assert await reader.read() == b""
        writer.close()
