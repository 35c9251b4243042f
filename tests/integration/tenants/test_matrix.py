"""Every operation of the OpenAPI document, with every kind of credential and with foreign ids.

The document is the only list of operations here: a new one is tried without being added. What each
may be called with follows from its permission and the table in `engine/model/permissions.py`.
"""

import secrets
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from taskforge_server.api.auth.tokens import AccessTokens, Grant, KeyRing
from taskforge_server.api.rest.openapi import document
from taskforge_server.api.rest.table import ROUTES
from taskforge_server.engine.model.permissions import (
    PERMISSIONS,
    PROJECT_PERMISSIONS,
    of_role,
)
from taskforge_server.engine.model.tenant import UserRole, api_key_text
from taskforge_server.engine.store.pool import Lent, acquire
from taskforge_server.ext.ids import uuid_bytes
from tests.support.estate import Estate, found, id_of, ids_of, make_key, rows_of
from tests.support.people import Answer, Person, Site, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

# What anybody may call; nothing else may be without a permission.
OPEN = {
    "openapi": "what there is",
    "healthz": "for who watches over processes",
    "readyz": "for balancers",
    "metrics": "for Prometheus; names nothing of a tenant's",
    "signUp": "makes the credential",
    "logIn": "gives the credential",
    "refreshTokens": "gives the credential; wants a refresh token",
    "acceptInvitation": "gives the credential; wants an invitation",
}
ROLES: tuple[UserRole, ...] = ("admin", "member")
DOCUMENT = document(ROUTES)


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation, as the document has it."""

    id: str
    method: str
    path: str
    permission: str | None
    path_parameters: tuple[str, ...]
    query_parameters: tuple[str, ...]
    body: dict[str, Any] | None
    """The schema of its body."""
    example: Any

    @property
    def in_project(self) -> bool:
        return self.permission in PROJECT_PERMISSIONS

    def url(self, values: dict[str, str]) -> str:
        return self.path.format(**values)


def _operations() -> list[Operation]:
    made = []
    for path, methods in DOCUMENT["paths"].items():
        for method, told in methods.items():
            content = told.get("requestBody", {}).get("content", {}).get("application/json", {})
            parameters = told["parameters"]
            made.append(
                Operation(
                    told["operationId"],
                    method.upper(),
                    path,
                    told.get("x-permission"),
                    tuple(one["name"] for one in parameters if one["in"] == "path"),
                    tuple(one["name"] for one in parameters if one["in"] == "query"),
                    _resolved(content["schema"]) if content else None,
                    content.get("example"),
                )
            )
    return made


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


OPERATIONS = _operations()
CLOSED = [operation for operation in OPERATIONS if operation.permission is not None]


def _named(operations: list[Operation]) -> Any:
    return pytest.mark.parametrize("operation", operations, ids=lambda operation: operation.id)


@dataclass(slots=True)
class Place:
    """Two organisations at one server, and credentials of every kind."""

    site: Site
    ada: Estate
    bob: Estate
    tokens: AccessTokens
    keys: dict[str, tuple[str, frozenset[str]]]
    """API keys of ada's, each with what it allows."""
    dead: dict[str, str | None]
    """What opens nothing."""
    foreign: set[str]
    """Ids of bob's, one of each kind."""
    next_door: set[str]
    """Ids of ada's second project alone."""
    own: dict[str, str]
    bobs: dict[str, str]
    before: dict[str, set[str]]
    """What bob has."""

    async def person(self, who: Person, role: UserRole, *, in_project: bool) -> str:
        """A token of a session of its own, so that ending it ends no other."""
        grant = Grant(
            uuid_bytes(who.id),
            self.ada.organization_id,
            uuid.uuid4().bytes,
            role,
            1,
            self.ada.project_id if in_project else b"",
        )
        return (await self.tokens.issue(grant))[0]

    async def people(self) -> dict[str, tuple[str, frozenset[str]]]:
        """A session of each role, with and without a project, with what it allows."""
        return {
            f"{role}, {'project' if in_project else 'organisation'}": (
                await self.person(getattr(self.ada, role), role, in_project=in_project),
                of_role(role, in_project=in_project),
            )
            for role in ROLES
            for in_project in (True, False)
        }

    async def allowed(self, operation: Operation) -> list[str]:
        """Credentials of ada's that may call the operation."""
        credentials = [await self.person(self.ada.admin, "admin", in_project=True)]
        if operation.permission not in of_role("admin", in_project=True):
            credentials.clear()
        if operation.in_project:
            credentials.append(self.ada.key)
        assert credentials, "there is nobody who may call it"
        return credentials

    async def call(self, operation: Operation, url: str, who: str | None, value: Any) -> Answer:
        sent = None if operation.body is None else value
        return await self.site.call(operation.method, url, who, sent)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(module_postgres_url: str) -> AsyncIterator[Place]:
    async with serving(module_postgres_url) as site:
        ada, bob = await found(site, "ada"), await found(site, "bob")
        await site.node.projector.flush()
        await site.api.last_used.write()
        async with acquire(site.node.pool) as connection:
            next_door = await ids_of(connection, b"", ada.second_project_id)
            yield Place(
                site,
                ada,
                bob,
                AccessTokens(KeyRing(site.node.signing_keys)),
                await _keys(site, ada, connection),
                await _dead(site, ada, connection),
                await ids_of(connection, bob.organization_id, bob.project_id),
                next_door - await ids_of(connection, ada.organization_id, ada.project_id),
                await _values(connection, ada),
                await _values(connection, bob),
                await rows_of(connection, bob.organization_id, bob.project_id),
            )


async def _keys(site: Site, ada: Estate, connection: Lent) -> dict[str, tuple[str, frozenset[str]]]:
    project_id = ada.admin.project_id
    sets = {
        "no permission": [],
        "every permission": ["*"],
        **{f"{name} alone": [name] for name in PROJECT_PERMISSIONS},
        **{f"all but {name}": sorted(PROJECT_PERMISSIONS - {name}) for name in PROJECT_PERMISSIONS},
    }
    made = {}
    for name, granted in sets.items():
        key = await make_key(site, ada.admin, project_id, granted)
        allowed = PROJECT_PERMISSIONS if granted == ["*"] else frozenset(granted)
        made[name] = (key["key"], allowed)
    # What no interface lets one write: a key is nobody's who could manage people.
    key = await make_key(site, ada.admin, project_id, [])
    statement = "UPDATE api_keys SET permissions = $2 WHERE id = $1"
    await connection.execute(statement, uuid_bytes(key["id"]), sorted(PERMISSIONS))
    made["what is not for keys"] = (key["key"], PROJECT_PERMISSIONS)
    return made


async def _dead(site: Site, ada: Estate, connection: Lent) -> dict[str, str | None]:
    project_id = ada.admin.project_id
    expired = await make_key(site, ada.admin, project_id, ["*"])
    statement = "UPDATE api_keys SET expires_at = now() - interval '1 second' WHERE id = $1"
    await connection.execute(statement, uuid_bytes(expired["id"]))
    revoked = await make_key(site, ada.admin, project_id, ["*"])
    await site.post(f"/v1/projects/{project_id}/api-keys/{revoked['id']}/revoke", ada.admin)
    return {
        "nothing": None,
        "a key that nobody made": api_key_text(secrets.token_bytes(32)),
        "an expired key": expired["key"],
        "a revoked key": revoked["key"],
        "a broken token": ada.admin.access_token[:-2],
    }


async def _values(connection: Lent, estate: Estate) -> dict[str, str]:
    """What the estate has for each path parameter, where its name tells that."""
    names = {name for operation in OPERATIONS for name in operation.path_parameters}
    values = {
        name: await id_of(connection, name, estate.organization_id, estate.project_id)
        for name in names
    }
    values["project_id"] = estate.admin.project_id
    return {name: value or str(uuid.uuid4()) for name, value in values.items()}


def _nowhere(operation: Operation) -> str:
    """The path with ids of nothing: what may be called does no harm."""
    return operation.url({name: str(uuid.uuid4()) for name in operation.path_parameters})


async def test_what_is_open_is_known() -> None:
    assert {one.id for one in OPERATIONS if one.permission is None} == set(OPEN)
    for path, methods in DOCUMENT["paths"].items():
        for method, told in methods.items():
            assert (told.get("security") == []) == ("x-permission" not in told), (method, path)


@_named(CLOSED)
async def test_credentials(place: Place, operation: Operation) -> None:
    assert operation.permission in PERMISSIONS
    for kind, text in place.dead.items():
        answer = await place.call(operation, _nowhere(operation), text, {})
        assert answer.status == 401, kind
    for kind, (text, allowed) in (place.keys | await place.people()).items():
        answer = await place.call(operation, _nowhere(operation), text, {})
        if operation.permission in allowed:
            assert answer.status not in (401, 403), (kind, answer.body)
            assert answer.status < 500, (kind, answer.body)
        else:
            assert (answer.status, answer.json["code"]) == (403, "permission_denied"), kind


@_named([operation for operation in CLOSED if operation.path_parameters])
async def test_foreign_ids(place: Place, operation: Operation) -> None:
    assert operation.body is None or operation.example is not None, "give the route an example"
    strangers = place.foreign | (place.next_door if operation.in_project else set())
    names = {"queue of bob", "queue of ada two"}
    for who in await place.allowed(operation):
        unknown = await place.call(operation, _nowhere(operation), who, operation.example)
        assert unknown.status == 404, unknown.body
        urls = {operation.url(place.bobs)}
        for name in operation.path_parameters:
            tried = strangers | names if name == "queue" else strangers
            urls |= {operation.url(place.own | {name: stranger}) for stranger in tried}
        for url in urls:
            answer = await place.call(operation, url, who, operation.example)
            assert answer.status == 404, (url, answer.body)
            assert b"of bob" not in answer.body
            known = (answer.json["code"], answer.json["detail"])
            if len(operation.path_parameters) == 1:
                assert known == (unknown.json["code"], unknown.json["detail"]), url


@_named([operation for operation in CLOSED if operation.body is not None])
async def test_foreign_ids_in_bodies(place: Place, operation: Operation) -> None:
    assert operation.body is not None
    names = [name for name in operation.body.get("properties", {}) if _may_name(name)]
    for who in await place.allowed(operation) if names else []:
        for name in names:
            for stranger in place.foreign:
                value = (operation.example or {}) | {name: stranger}
                answer = await place.call(operation, operation.url(place.own), who, value)
                assert 400 <= answer.status < 500, (value, answer.body)
                assert b"of bob" not in answer.body


@_named([operation for operation in CLOSED if operation.method == "GET" and operation.body is None])
async def test_foreign_ids_in_queries(place: Place, operation: Operation) -> None:
    if operation.path_parameters:
        return
    for who in await place.allowed(operation):
        urls = [operation.path] + [
            f"{operation.path}?{name}={stranger}"
            for name in operation.query_parameters
            if _may_name(name)
            for stranger in place.foreign
        ]
        for url in urls:
            answer = await place.call(operation, url, who, None)
            assert answer.status < 500, answer.body
            assert b"of bob" not in answer.body, url
            if operation.in_project:
                assert b"of ada two" not in answer.body, url


def _may_name(name: str) -> bool:
    """Whether a value of this name may be an id of something."""
    return name.endswith("_id") or name in ("queue", "target", "cursor")


async def test_bob_is_untouched(place: Place) -> None:
    """After all that; what is written late is written now."""
    await place.site.node.projector.flush()
    await place.site.api.last_used.write()
    async with acquire(place.site.node.pool) as connection:
        now = await rows_of(connection, place.bob.organization_id, place.bob.project_id)
    assert now == place.before
