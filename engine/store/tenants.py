"""Organisations, projects and API keys."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypeVar

import asyncpg

from taskforge_server.engine.errors import NotFound
from taskforge_server.engine.model.base import Model
from taskforge_server.engine.model.tenant import ApiKey, Organization, Project, api_key_hash
from taskforge_server.engine.store.pool import Lent, Pool, acquire
from taskforge_server.engine.store.statements import sql

M = TypeVar("M", bound=Model)


class Organizations:
    """The repository of `organizations`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(self, name: str, billing_email: str) -> Organization:
        async with acquire(self._pool) as connection:
            return await create_organization(connection, name, billing_email)

    async def get(self, organization_id: bytes) -> Organization:
        async with acquire(self._pool) as connection:
            row = await connection.fetchrow(sql("organization_get"), organization_id)
        if row is None:
            raise NotFound("no such organization")
        return Organization(**row)


class Projects:
    """The repository of `projects`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(
        self, organization_id: bytes, name: str, description: str | None = None
    ) -> Project:
        async with acquire(self._pool) as connection:
            return await create_project(connection, organization_id, name, description)

    async def get(self, project_id: bytes) -> Project:
        async with acquire(self._pool) as connection:
            row = await connection.fetchrow(sql("project_get"), project_id)
        if row is None:
            raise NotFound("no such project")
        return Project(**row)


class ApiKeys:
    """The repository of `api_keys`. The text of a key passes through, and is never stored."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(
        self,
        project_id: bytes,
        name: str,
        text: str,
        permissions: Sequence[str],
        expires_at: datetime | None = None,
    ) -> ApiKey | None:
        """The new key; None when there is a key with this text."""
        async with acquire(self._pool) as connection:
            return await create_api_key(connection, project_id, name, text, permissions, expires_at)

    async def find(self, text: str) -> ApiKey | None:
        """The key with this text, expired or not."""
        async with acquire(self._pool) as connection:
            row = await connection.fetchrow(sql("api_key_find"), api_key_hash(text))
        return None if row is None else ApiKey(**row)

    async def used(self, seen_at: Mapping[bytes, datetime]) -> None:
        """Remember when keys (by id) were last used."""
        async with acquire(self._pool) as connection:
            await connection.execute(
                sql("api_key_used"), list(seen_at.keys()), list(seen_at.values())
            )


async def create_organization(connection: Lent, name: str, billing_email: str) -> Organization:
    """For a transaction of the caller's."""
    row = await connection.fetchrow(
        sql("organization_create"), uuid.uuid4().bytes, name, billing_email
    )
    assert row is not None
    return _valid(Organization(**row))


async def create_project(
    connection: Lent, organization_id: bytes, name: str, description: str | None = None
) -> Project:
    """For a transaction of the caller's."""
    try:
        row = await connection.fetchrow(
            sql("project_create"), uuid.uuid4().bytes, organization_id, name, description
        )
    except asyncpg.ForeignKeyViolationError:
        raise NotFound("no such organization", "organization_id") from None
    assert row is not None
    return _valid(Project(**row))


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
            name,
            list(permissions),
            expires_at,
        )
    except asyncpg.ForeignKeyViolationError:
        raise NotFound("no such project", "project_id") from None
    return None if row is None else ApiKey(**row)


def _valid(model: M) -> M:
    model.validate()
    return model
