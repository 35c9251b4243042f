"""A database user that is neither superuser nor passes row security: all of the server works."""

from collections.abc import Iterator

import pytest

from taskforge_server.api.cli.embedded import EmbeddedServers
from taskforge_server.engine.errors import ConfigError
from taskforge_server.engine.store.migrate import migrate
from taskforge_server.engine.store.pool import connect
from taskforge_server.engine.store.tenancy import check_roles
from tests.support.estate import found, rows_of
from tests.support.people import serving

USER, DATABASE = "plain_owner", "plain"


@pytest.fixture
def plain_url(servers: EmbeddedServers, migrated_template: str) -> Iterator[str]:
    """An empty database of a user who has no rights but on it. The roles of the isolation are there
    already, as an administrator would have made them."""
    run = servers.postgres.execute
    run(f"CREATE ROLE {USER} LOGIN")
    run(f"GRANT taskforge_tenant, taskforge_engine TO {USER}")
    run(f"CREATE DATABASE {DATABASE} OWNER {USER}")
    yield servers.postgres.url(DATABASE).replace("postgres@", f"{USER}@")
    run(f"DROP DATABASE {DATABASE} WITH (FORCE)")
    run(f"DROP ROLE {USER}")


async def test_a_server_without_privileges(plain_url: str) -> None:
    await migrate(plain_url)
    connection = await connect(plain_url, application_name="test")
    role = await connection.fetchrow("SELECT * FROM pg_roles WHERE rolname = current_user")
    assert role is not None
    assert (role["rolsuper"], role["rolbypassrls"]) == (False, False)
    async with serving(plain_url) as site:
        ada, bob = await found(site, "ada"), await found(site, "bob")
        job = {"job_type": "t"}
        queues = (await site.get("/v1/queues", ada.key)).json["items"]
        made = await site.post(f"/v1/queues/{queues[0]['id']}/jobs", ada.key, job)
        await site.post(f"/v1/jobs/{made.json['id']}/cancel", ada.key)
        await site.node.projector.flush()
        assert not await connection.fetchval("SELECT count(*) FROM projection_errors")
        listed = (await site.get("/v1/jobs?status=cancelled", ada.key)).json["items"]
        assert [row["id"] for row in listed] == [made.json["id"]]
        seen = await rows_of(connection, ada.organization_id, ada.project_id)
        theirs = await rows_of(connection, bob.organization_id, bob.project_id)
        for table, rows in seen.items():
            assert rows, table
            assert not rows & theirs[table], table
    await connection.close()


async def test_a_user_that_could_not_work_is_told_so(plain_url: str) -> None:
    await migrate(plain_url)
    connection = await connect(plain_url, application_name="test")
    await check_roles(connection)
    await connection.execute("ALTER TABLE jobs FORCE ROW LEVEL SECURITY")
    with pytest.raises(ConfigError, match="cannot fill the tables"):
        await check_roles(connection)
    await connection.close()


async def test_a_user_without_the_roles_is_told_so(
    servers: EmbeddedServers, postgres_url: str
) -> None:
    servers.postgres.execute("CREATE ROLE stranger LOGIN")
    connection = await connect(
        postgres_url.replace("postgres@", "stranger@"), application_name="test"
    )
    try:
        with pytest.raises(ConfigError, match="taskforge_tenant"):
            await check_roles(connection)
    finally:
        await connection.close()
        servers.postgres.execute("DROP ROLE stranger")
