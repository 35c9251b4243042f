"""Makes a database usable: its shards, one organisation, one project, one API key.

May run at every start, on any number of nodes at once: what is there stays. The text of a key that
is made here exists nowhere else; whoever called must show it.
"""

import secrets
from dataclasses import dataclass

from taskforge_server.engine.errors import ConfigError
from taskforge_server.engine.model.tenant import (
    ALL_PERMISSIONS,
    API_KEY_RANDOM_BYTES,
    Organization,
    Project,
    SubscriptionTier,
    api_key_text,
)
from taskforge_server.engine.store.api_keys import create_api_key
from taskforge_server.engine.store.pool import Lent
from taskforge_server.engine.store.statements import sql
from taskforge_server.engine.store.subscriptions import create_subscription, current_subscription
from taskforge_server.engine.store.tenants import create_organization, create_project

NAME = "default"
BILLING_EMAIL = "billing@localhost"
TIER: SubscriptionTier = "enterprise"
"""Whoever runs the installation limits nobody but guests."""


@dataclass(frozen=True, slots=True)
class Bootstrapped:
    """What the first project of the first organisation is, and the key if one was made now."""

    organization_id: bytes
    project_id: bytes
    new_api_key: str | None


async def bootstrap(connection: Lent, shards: int, api_key: str | None = None) -> Bootstrapped:
    """Make what is missing. A given `api_key` will work afterwards; without one, a key is made only
    if the project has none."""
    async with connection.transaction():
        await connection.execute(sql("bootstrap_lock"))
        await _check_shards(connection, shards)
        row = await connection.fetchrow(sql("organization_oldest"))
        organization = (
            Organization(**row)
            if row is not None
            else await create_organization(connection, NAME, BILLING_EMAIL)
        )
        if await current_subscription(connection, organization.id) is None:
            await create_subscription(connection, organization.id, TIER)
        row = await connection.fetchrow(sql("project_oldest"), organization.id)
        project = (
            Project(**row)
            if row is not None
            else await create_project(connection, organization.id, NAME)
        )
        made: str | None = None
        if api_key is not None:
            await create_api_key(connection, project.id, NAME, api_key, [ALL_PERMISSIONS])
        elif not await connection.fetchval(sql("api_key_exists"), project.id):
            made = api_key_text(secrets.token_bytes(API_KEY_RANDOM_BYTES))
            await create_api_key(connection, project.id, NAME, made, [ALL_PERMISSIONS])
    return Bootstrapped(organization.id, project.id, made)


async def _check_shards(connection: Lent, shards: int) -> None:
    """Fix the number of shards at the first start: queues and job ids hold shard numbers."""
    known = await connection.fetchval(sql("shards_count"))
    if known == 0:
        await connection.execute(sql("shards_create"), shards)
    elif known != shards:
        problem = f"{shards} is not {known}, the number of shards that this database was made for"
        raise ConfigError("shards", "configuration", problem)
