"""The routes of the audit log, over a log in a real database."""

import hashlib
import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from taskforge_server.api.auth.principals import Principal
from taskforge_server.api.service.audit import AuditService
from taskforge_server.engine import limits
from taskforge_server.engine.model.audit import Actor
from taskforge_server.engine.model.permissions import of_role
from taskforge_server.engine.store.audit import AuditLog, record
from taskforge_server.engine.store.pool import Connection, Pool, connect, open_pool
from tests.integration.api.conftest import Fixture

ORGANIZATION, OTHER = b"1" * 16, b"2" * 16
USER = uuid.UUID(int=5)
QUEUE, PROJECT = f"queue:{uuid.UUID(int=7)}", f"project:{uuid.UUID(int=8)}"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture
async def connection(module_postgres_url: str) -> AsyncIterator[Connection]:
    opened = await connect(module_postgres_url, application_name="test")
    yield opened
    await opened.close()


@pytest.fixture
async def pool(module_postgres_url: str) -> AsyncIterator[Pool]:
    opened = await open_pool(module_postgres_url, application_name="test", connections_max=2)
    yield opened
    await opened.close()


@pytest.fixture
async def organization(
    api: Fixture, pool: Pool, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> bytes:
    """An organisation with four acts in its log, whose admin calls."""
    organization_id = uuid.uuid4().bytes
    admin = Principal(organization_id, b"", "user", USER.bytes, of_role("admin", in_project=False))

    async def authenticate(header: str | None) -> Principal:
        return admin

    monkeypatch.setattr(api.server.authenticator, "authenticate", authenticate)
    monkeypatch.setattr(api.server.audit, "_logs", AuditLog(pool))
    actor = Actor("user", USER.bytes, "192.0.2.7", "request-1")
    for owner in (organization_id, uuid.uuid4().bytes):
        for number, (action, target) in enumerate(
            [
                ("queue.create", QUEUE),
                ("project.update", PROJECT),
                ("queue.update", QUEUE),
                ("queue.update", QUEUE),
            ]
        ):
            async with connection.transaction():
                state = {"priority": number, "name": "ö"}
                await record(connection, owner, actor, action, target, None, state)
    return organization_id


async def test_list(api: Fixture, organization: bytes) -> None:
    answer = await api.get("/v1/audit?limit=3")
    assert [item["sequence"] for item in answer.json["items"]] == [4, 3, 2]
    rest = await api.get(f"/v1/audit?limit=3&cursor={answer.json['next_cursor']}")
    assert [item["sequence"] for item in rest.json["items"]] == [1]
    assert rest.json["next_cursor"] is None
    item = rest.json["items"][0]
    assert item["actor"] == {
        "kind": "user",
        "id": str(USER),
        "address": "192.0.2.7",
        "correlation_id": "request-1",
    }
    assert (item["action"], item["target"]) == ("queue.create", QUEUE)
    assert (item["before"], item["after"]) == (None, {"name": "ö", "priority": 0})


@pytest.mark.parametrize(
    ("query", "sequences"),
    [
        ("action=queue.update", [4, 3]),
        (f"target={QUEUE}", [4, 3, 1]),
        (f"target={QUEUE}&action=queue.create", [1]),
        (f"actor={USER}", [4, 3, 2, 1]),
        (f"actor={uuid.UUID(int=6)}", []),
    ],
)
async def test_filters(api: Fixture, organization: bytes, query: str, sequences: list[int]) -> None:
    answer = await api.get(f"/v1/audit?{query}")
    assert [item["sequence"] for item in answer.json["items"]] == sequences


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("actor=x", "actor"),
        ("target=queue", "target"),
        ("cursor=x", "cursor"),
        ("action=X", "action"),
    ],
)
async def test_bad_queries(api: Fixture, organization: bytes, query: str, field: str) -> None:
    answer = await api.get(f"/v1/audit?{query}")
    assert (answer.status, answer.json["field"]) == (422, field)


def seal(organization_id: bytes, entry: dict[str, Any], texts: dict[str, str | None]) -> str:
    """The hash of an exported entry, by the documented form alone."""
    at = datetime.fromisoformat(entry["at"])
    actor = entry["actor"]
    content = [
        "taskforge-audit-1",
        organization_id.hex(),
        entry["sequence"],
        (at - EPOCH) // timedelta(microseconds=1),
        actor["kind"],
        None if actor["id"] is None else uuid.UUID(actor["id"]).hex,
        actor["address"],
        actor["correlation_id"],
        entry["action"],
        entry["target"],
        texts["before"],
        texts["after"],
    ]
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    return hashlib.sha256(bytes.fromhex(entry["previous_hash"]) + text).hexdigest()


async def test_an_export_can_be_verified_by_itself(
    api: Fixture, organization: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "AUDIT_READ_ROWS", 2)
    answer = await api.get("/v1/audit/export")
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    assert answer.headers["X-Request-Id"]
    entries = [json.loads(line) for line in answer.body.splitlines()]
    assert [entry["sequence"] for entry in entries] == [1, 2, 3, 4]
    previous = "00" * 32
    for entry in entries:
        assert entry["previous_hash"] == previous
        after = json.dumps(
            entry["after"], separators=(",", ":"), ensure_ascii=False, sort_keys=True
        )
        previous = entry["hash"]
        assert previous == seal(organization, entry, {"before": None, "after": after})
    rest = await api.get("/v1/audit/export?after=3")
    assert [json.loads(line)["sequence"] for line in rest.body.splitlines()] == [4]
    nothing = await api.get("/v1/audit/export?after=4")
    assert (nothing.status, nothing.body) == (200, b"")


async def test_an_export_that_fails_on_its_way_is_no_whole_one(
    api: Fixture, organization: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "AUDIT_READ_ROWS", 2)
    whole = AuditLog.entries

    async def broken(self: AuditLog, organization_id: bytes, after: int = 0) -> Any:
        async for entries in whole(self, organization_id, after):
            yield entries
            raise ConnectionError("the database is away")

    monkeypatch.setattr(AuditLog, "entries", broken)
    with pytest.raises(aiohttp.ClientPayloadError):
        await api.get("/v1/audit/export")
    assert not api.server.audit._readers


async def test_verify(api: Fixture, organization: bytes, connection: Connection) -> None:
    whole = (await api.get("/v1/audit/verify")).json
    assert (whole["intact"], whole["faults"], whole["head"]["sequence"]) == (True, [], 4)
    noted = f"4:{whole['head']['hash']}"
    assert (await api.get(f"/v1/audit/verify?head={noted}")).json["intact"]
    other = f"4:{'ab' * 32}"
    rewritten = (await api.get(f"/v1/audit/verify?head={other}")).json
    assert [fault["kind"] for fault in rewritten["faults"]] == ["rewritten"]
    async with connection.transaction():
        await connection.execute("ALTER TABLE audit_log DISABLE TRIGGER USER")
        await connection.execute(
            "DELETE FROM audit_log WHERE organization_id = $1 AND sequence = 4", organization
        )
        await connection.execute("ALTER TABLE audit_log ENABLE TRIGGER USER")
    cut = (await api.get("/v1/audit/verify")).json
    assert not cut["intact"]
    assert cut["faults"] == [
        {"kind": "truncated", "sequence": 4, "detail": "entries 4 to 4 were cut off"}
    ]


async def test_readers_of_whole_logs_are_few(api: Fixture, organization: bytes) -> None:
    service: AuditService = api.server.audit
    open_exports = [service.export(organization, 0) for _ in range(limits.AUDIT_READERS_OF_ONE_MAX)]
    for export in open_exports:
        await anext(export)
    for path in ("/v1/audit/export", "/v1/audit/verify"):
        refused = await api.get(path)
        assert (refused.status, refused.json["code"]) == (429, "overloaded")
    assert (await service.verify(uuid.uuid4().bytes, None)).is_intact, "others are not held up"
    for export in open_exports:
        await export.aclose()
    assert (await api.get("/v1/audit/verify")).status == 200
