"""For whom a transaction acts: the second wall between tenants.

    tenant(pool, organization_id=…, project_id=…)
        BEGIN ─► SET LOCAL ROLE taskforge_tenant, the ids as settings ─► statements ─► COMMIT

The role is neither owner nor superuser, so the policies of migration 0007 hold for it: a statement
that forgot its WHERE still sees this tenant's rows alone. Both, role and settings, end with the
transaction, so nothing of them can reach the next borrower of the connection. With a project alone,
the organisation's other rows are out of sight too.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from taskforge_server.engine.errors import ConfigError, NotFound
from taskforge_server.engine.store.pool import Lent, Pool, acquire
from taskforge_server.engine.store.statements import sql


@asynccontextmanager
async def tenant(
    pool: Pool, *, organization_id: bytes = b"", project_id: bytes = b""
) -> AsyncIterator[Lent]:
    """A transaction of this tenant's: committed at the end, rolled back by an error."""
    try:
        async with acquire(pool) as connection, connection.transaction():
            await connection.fetchrow(sql("tenant"), organization_id.hex(), project_id.hex())
            yield connection
    except asyncpg.InsufficientPrivilegeError as error:
        # A row of somebody else's was to be written: for the caller there is no such thing.
        raise NotFound("no such thing here") from error


@asynccontextmanager
async def project_tenant(pool: Pool, project_id: bytes) -> AsyncIterator[tuple[Lent, bytes]]:
    """A transaction of the tenant that this project belongs to, and its organisation; NotFound."""
    async with acquire(pool) as connection, connection.transaction():
        organization_id: bytes | None = await connection.fetchval(
            sql("project_organization"), project_id
        )
        if organization_id is None:
            raise NotFound("no such project")
        await connection.fetchrow(sql("tenant"), organization_id.hex(), project_id.hex())
        yield connection, organization_id


async def check_roles(connection: Lent) -> None:
    """Refuse a database user that cannot act for tenants, or could not fill the tables."""
    row = await connection.fetchrow(sql("roles_check"))
    assert row is not None
    if not row["acts_for_tenants"]:
        problem = (
            "the database user lacks the roles taskforge_tenant and taskforge_engine: "
            "an administrator makes them and grants them to it"
        )
        raise ConfigError("postgres_url", "its user", problem)
    if row["copies_blocked"]:
        problem = (
            "row security holds for the database user, so it cannot fill the tables: "
            "connect as the user that ran `taskforge migrate`"
        )
        raise ConfigError("postgres_url", "its user", problem)
