"""Organisation, projects, API keys: look at, make, change, end. The tenant is the caller's,
whatever the request names; what belongs to another is not there."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from taskforge_server.engine.errors import InvalidInput
from taskforge_server.engine.model.audit import Actor
from taskforge_server.engine.model.permissions import PROJECT_PERMISSIONS
from taskforge_server.engine.model.tenant import (
    ALL_PERMISSIONS,
    API_KEY_RANDOM_BYTES,
    ApiKey,
    Organization,
    Project,
    api_key_text,
)
from taskforge_server.engine.store.api_keys import ApiKeys, NewKey
from taskforge_server.engine.store.pool import Pool
from taskforge_server.engine.store.tenants import Organizations, Projects

GRANTABLE = PROJECT_PERMISSIONS | {ALL_PERMISSIONS}
"""What an API key may be given; `*` is every permission of a project, later ones too."""


@dataclass(frozen=True, slots=True)
class TenantRows:
    """The rows that the use cases work on."""

    organizations: Organizations
    projects: Projects
    api_keys: ApiKeys

    @classmethod
    def of(cls, pool: Pool) -> "TenantRows":
        return cls(Organizations(pool), Projects(pool), ApiKeys(pool))


class TenantService:
    """The use cases; each acts for one organisation only."""

    def __init__(
        self,
        rows: TenantRows,
        key_changed: Callable[[bytes], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`key_changed` is told the id of each key that is no longer what it was."""
        self.organizations = rows.organizations
        self.projects = rows.projects
        self.api_keys = rows.api_keys
        self._key_changed = key_changed
        self.now = now

    async def update_organization(
        self, organization_id: bytes, changes: dict[str, Any], actor: Actor
    ) -> Organization:
        """Change the given fields; NotFound."""
        return await self.organizations.update(
            organization_id, lambda row: msgspec.structs.replace(row, **changes), actor
        )

    async def update_project(
        self, organization_id: bytes, project_id: bytes, changes: dict[str, Any], actor: Actor
    ) -> Project:
        """Change the given fields; NotFound."""
        return await self.projects.update(
            organization_id, project_id, lambda row: msgspec.structs.replace(row, **changes), actor
        )

    async def delete_project(self, organization_id: bytes, project_id: bytes, actor: Actor) -> None:
        """Its keys end with it; NotFound, Conflict with what stands in the way."""
        for key_id in await self.projects.delete(organization_id, project_id, actor):
            self._key_changed(key_id)

    async def create_key(
        self,
        organization_id: bytes,
        project_id: bytes,
        name: str,
        permissions: list[str],
        expires_at: datetime | None,
        actor: Actor,
    ) -> tuple[ApiKey, str]:
        """A new key and its text, which exists nowhere else."""
        self._check_expiry(expires_at)
        text = _new_text()
        new = NewKey(name, text, _checked(permissions), expires_at)
        return await self.api_keys.create(organization_id, project_id, new, actor), text

    async def rotate_key(
        self,
        organization_id: bytes,
        project_id: bytes,
        key_id: bytes,
        overlap_s: int,
        actor: Actor,
    ) -> tuple[ApiKey, str]:
        """The successor of a key and its text; both open the project for `overlap_s`."""
        text = _new_text()
        ends_at = self.now() + timedelta(seconds=overlap_s)
        successor, _ = await self.api_keys.rotate(
            organization_id, project_id, key_id, text, ends_at, actor
        )
        self._key_changed(key_id)
        return successor, text

    async def update_key(
        self,
        organization_id: bytes,
        project_id: bytes,
        key_id: bytes,
        changes: dict[str, Any],
        actor: Actor,
    ) -> ApiKey:
        """Change the given fields; NotFound, Conflict when it is revoked."""
        if "permissions" in changes:
            changes["permissions"] = _checked(changes["permissions"])
        self._check_expiry(changes.get("expires_at"))
        key = await self.api_keys.update(
            organization_id,
            project_id,
            key_id,
            lambda row: msgspec.structs.replace(row, **changes),
            actor,
        )
        self._key_changed(key_id)
        return key

    async def revoke_key(
        self, organization_id: bytes, project_id: bytes, key_id: bytes, actor: Actor
    ) -> ApiKey:
        """The key opens nothing any more, on no node; NotFound."""
        key = await self.api_keys.revoke(organization_id, project_id, key_id, self.now(), actor)
        self._key_changed(key_id)
        return key

    async def delete_key(
        self, organization_id: bytes, project_id: bytes, key_id: bytes, actor: Actor
    ) -> None:
        """The key is no more, live or not; NotFound."""
        await self.api_keys.delete(organization_id, project_id, key_id, actor)
        self._key_changed(key_id)

    def _check_expiry(self, expires_at: datetime | None) -> None:
        if expires_at is not None and expires_at <= self.now():
            raise InvalidInput("lies in the past", "expires_at")


def _checked(permissions: list[str]) -> list[str]:
    """Each once, in order of their names; InvalidInput for one that no key can have."""
    for place, name in enumerate(permissions):
        if name not in GRANTABLE:
            raise InvalidInput("no permission of an API key", f"permissions[{place}]")
    return sorted(set(permissions))


def _new_text() -> str:
    return api_key_text(secrets.token_bytes(API_KEY_RANDOM_BYTES))
