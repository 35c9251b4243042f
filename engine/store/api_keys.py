"""API keys: the rows of `api_keys`. The text of a key passes through, and is never stored.

The organisation is given beside the project: keys are managed by people, and the project must be
one of their organisation's. Every change is in the audit log by the transaction that makes it.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
import msgspec

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Conflict, NotFound
from taskforge_server.engine.model.audit import OPERATOR, Actor
from taskforge_server.engine.model.tenant import ApiKey, api_key_hash, api_key_prefix
from taskforge_server.engine.store.audit import record
from taskforge_server.engine.store.cursors import API_KEYS, after_id, id_cursor
from taskforge_server.engine.store.pool import Lent, Pool, acquire
from taskforge_server.engine.store.statements import sql
from taskforge_server.engine.store.tenancy import tenant
from taskforge_server.engine.store.tenants import project_of
from taskforge_server.ext.ids import uuid_text

NO_ID = bytes(16)


@dataclass(frozen=True, slots=True)
class NewKey:
    """What a new key is to be."""

    name: str
    text: str
    permissions: Sequence[str]
    expires_at: datetime | None = None


class ApiKeys:
    """The repository of `api_keys`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(
        self, organization_id: bytes, project_id: bytes, new: NewKey, actor: Actor = OPERATOR
    ) -> ApiKey:
        """NotFound without the project; Conflict when there is a key with this text, or too many
        keys."""
        async with tenant(self._pool, organization_id=organization_id) as connection:
            await project_of(connection, organization_id, project_id, locked=True)
            key = await _insert(connection, project_id, new)
            await record(
                connection, organization_id, actor, "api_key.create", _target(key), None, shown(key)
            )
        return key

    async def rotate(
        self,
        organization_id: bytes,
        project_id: bytes,
        key_id: bytes,
        text: str,
        ends_at: datetime,
        actor: Actor = OPERATOR,
    ) -> tuple[ApiKey, ApiKey]:
        """A successor with another text and the same rights; the old key lives beside it until
        `ends_at` at the most. The successor and the old key; NotFound, Conflict when it is revoked
        or the project has too many keys."""
        async with tenant(self._pool, organization_id=organization_id) as connection:
            await project_of(connection, organization_id, project_id, locked=True)
            old = await _locked(connection, project_id, key_id)
            _refuse_revoked(old)
            ends_at = ends_at if old.expires_at is None else min(old.expires_at, ends_at)
            new = NewKey(old.name, text, old.permissions)
            successor = await _insert(connection, project_id, new)
            ending = msgspec.structs.replace(old, expires_at=ends_at)
            await _write(connection, ending)
            await record(
                connection,
                organization_id,
                actor,
                "api_key.rotate",
                _target(old),
                shown(old),
                {**shown(ending), "successor": uuid_text(successor.id)},
            )
        return successor, ending

    async def update(
        self,
        organization_id: bytes,
        project_id: bytes,
        key_id: bytes,
        change: Callable[[ApiKey], ApiKey],
        actor: Actor = OPERATOR,
    ) -> ApiKey:
        """Name, permissions and expiry as `change` makes them of what is there; NotFound, Conflict
        when the key is revoked."""

        def changed(key: ApiKey) -> ApiKey:
            _refuse_revoked(key)
            return change(key)

        return await self._change(
            organization_id, project_id, key_id, "api_key.update", changed, actor
        )

    async def revoke(
        self,
        organization_id: bytes,
        project_id: bytes,
        key_id: bytes,
        now: datetime,
        actor: Actor = OPERATOR,
    ) -> ApiKey:
        """The key opens nothing any more; once revoked it stays so. NotFound."""

        def revoked(key: ApiKey) -> ApiKey:
            return key if key.revoked_at else msgspec.structs.replace(key, revoked_at=now)

        return await self._change(
            organization_id, project_id, key_id, "api_key.revoke", revoked, actor
        )

    async def delete(
        self, organization_id: bytes, project_id: bytes, key_id: bytes, actor: Actor = OPERATOR
    ) -> None:
        """The key is no more; NotFound."""
        async with tenant(self._pool, organization_id=organization_id) as connection:
            await project_of(connection, organization_id, project_id)
            key = await _locked(connection, project_id, key_id)
            await connection.execute(sql("api_key_delete"), project_id, key_id)
            await record(
                connection, organization_id, actor, "api_key.delete", _target(key), shown(key)
            )

    async def get(self, organization_id: bytes, project_id: bytes, key_id: bytes) -> ApiKey:
        """NotFound."""
        async with tenant(self._pool, organization_id=organization_id) as connection:
            await project_of(connection, organization_id, project_id)
            return _found(await connection.fetchrow(sql("api_key_get"), project_id, key_id))

    async def page(
        self,
        organization_id: bytes,
        project_id: bytes,
        cursor: str | None = None,
        rows_max: int = limits.PAGE_ROWS_DEFAULT,
    ) -> tuple[list[ApiKey], str | None]:
        """A page in the order of ids, revoked keys too, and the cursor of the next one."""
        after = NO_ID if cursor is None else after_id(API_KEYS, cursor)
        async with tenant(self._pool, organization_id=organization_id) as connection:
            await project_of(connection, organization_id, project_id)
            rows = await connection.fetch(sql("api_key_list"), project_id, after, rows_max + 1)
        page = [ApiKey(**row) for row in rows[:rows_max]]
        more = len(rows) > rows_max
        return page, id_cursor(API_KEYS, page[-1].id) if more else None

    # for the engine, which knows no tenant yet

    async def find(self, text: str) -> ApiKey | None:
        """The key with this text, live or not."""
        async with acquire(self._pool) as connection:
            row = await connection.fetchrow(sql("api_key_find"), api_key_hash(text))
        return None if row is None else ApiKey(**row)

    async def used(self, seen_at: Mapping[bytes, datetime]) -> None:
        """Remember when keys (by id) were last used."""
        async with acquire(self._pool) as connection:
            await connection.execute(
                sql("api_key_used"), list(seen_at.keys()), list(seen_at.values())
            )

    async def _change(
        self,
        organization_id: bytes,
        project_id: bytes,
        key_id: bytes,
        action: str,
        change: Callable[[ApiKey], ApiKey],
        actor: Actor,
    ) -> ApiKey:
        async with tenant(self._pool, organization_id=organization_id) as connection:
            await project_of(connection, organization_id, project_id)
            old = await _locked(connection, project_id, key_id)
            new = change(old)
            if new != old:
                new.validate()
                await _write(connection, new)
                await record(
                    connection, organization_id, actor, action, _target(new), shown(old), shown(new)
                )
        return new


async def create_api_key(
    connection: Lent,
    project_id: bytes,
    name: str,
    text: str,
    permissions: Sequence[str],
    expires_at: datetime | None = None,
) -> ApiKey | None:
    """For a transaction of the caller's; None when there is a key with this text."""
    try:
        row = await connection.fetchrow(
            sql("api_key_create"),
            uuid.uuid4().bytes,
            project_id,
            api_key_hash(text),
            api_key_prefix(text),
            name,
            list(permissions),
            expires_at,
        )
    except asyncpg.ForeignKeyViolationError:
        raise NotFound("no such project", "project_id", code="project_not_found") from None
    if row is None:
        return None
    key = ApiKey(**row)
    key.validate()
    return key


def shown(key: ApiKey) -> dict[str, Any]:
    """What the audit log tells of a key."""
    return {
        name: msgspec.to_builtins(getattr(key, name))
        for name in ("name", "prefix", "permissions", "expires_at", "revoked_at")
    } | {"project": uuid_text(key.project_id)}


async def _insert(connection: Lent, project_id: bytes, new: NewKey) -> ApiKey:
    if await connection.fetchval(sql("api_key_count"), project_id) >= (
        limits.API_KEYS_PER_PROJECT_MAX
    ):
        raise Conflict(
            f"a project has at most {limits.API_KEYS_PER_PROJECT_MAX} keys: revoke some",
            code="too_many_api_keys",
        )
    key = await create_api_key(
        connection, project_id, new.name, new.text, new.permissions, new.expires_at
    )
    if key is None:
        raise Conflict("there is a key with this text", code="api_key_taken")
    return key


async def _locked(connection: Lent, project_id: bytes, key_id: bytes) -> ApiKey:
    return _found(await connection.fetchrow(sql("api_key_get_locked"), project_id, key_id))


async def _write(connection: Lent, key: ApiKey) -> None:
    await connection.execute(
        sql("api_key_update"),
        key.project_id,
        key.id,
        key.name,
        key.permissions,
        key.expires_at,
        key.revoked_at,
    )


def _refuse_revoked(key: ApiKey) -> None:
    if key.revoked_at is not None:
        raise Conflict("this key is revoked, for good", code="api_key_revoked")


def _found(row: asyncpg.Record | None) -> ApiKey:
    if row is None:
        raise NotFound("no such API key", "api_key_id", code="api_key_not_found")
    return ApiKey(**row)


def _target(key: ApiKey) -> str:
    return f"api_key:{uuid_text(key.id)}"
