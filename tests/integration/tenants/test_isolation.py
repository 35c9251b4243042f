"""Row level security: whatever a statement forgets, it sees and writes the rows of one tenant."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from taskforge_server.engine.errors import NotFound
from taskforge_server.engine.store import job_queries, queues
from taskforge_server.engine.store.pool import Connection, Pool, connect, open_pool
from taskforge_server.engine.store.statements import sql
from taskforge_server.engine.store.tenancy import tenant
from tests.support.estate import EVERY_ROW, Estate, acting, found, rows_of, tenant_tables
from tests.support.people import serving

# What no tenant has a right on, each with its reason.
ENGINE_TABLES = {
    "_pogo_migration": "which migrations were applied",
    "_pogo_version": "of the library that applies them",
    "encryption_version": "says that some wrapped key has changed",
    "nodes": "the installation's",
    "projection_errors": "rows that the tables refused, for the operator",
    "project_keys": "wrapped data keys: the engine alone opens them",
    "shard_log": "the log of all tenants",
    "shard_projection": "the installation's",
    "shards": "the installation's",
    "signing_keys": "the installation's secrets",
}

# Names come from the catalogue; they cannot be arguments.
UPDATE_ALL = "UPDATE {table} SET {column} = {column}"
DELETE_ALL = "DELETE FROM {table}"

TABLES = """SELECT class.relname AS name, class.relrowsecurity AS enabled,
    class.relforcerowsecurity AS forced,
    has_any_column_privilege('taskforge_tenant', class.oid, 'SELECT')
        OR has_table_privilege('taskforge_tenant', class.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
        AS granted,
    class.relispartition AS part
    FROM pg_class class
    WHERE class.relkind IN ('r', 'p') AND class.relnamespace = 'public'::regnamespace"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def estates(module_postgres_url: str) -> tuple[Estate, Estate]:
    async with serving(module_postgres_url) as site:
        made = await found(site, "ada"), await found(site, "bob")
        await site.node.projector.flush()
    return made


@pytest.fixture
async def connection(
    module_postgres_url: str, estates: tuple[Estate, Estate]
) -> AsyncIterator[Connection]:
    opened = await connect(module_postgres_url, application_name="test")
    yield opened
    await opened.close()


async def test_every_table_is_closed(connection: Connection) -> None:
    closed = set(await tenant_tables(connection))
    for row in await connection.fetch(TABLES):
        if row["part"] or row["name"] in ENGINE_TABLES:
            assert not row["granted"], f"{row['name']}: the tenant role has a right on it"
        else:
            assert row["name"] in closed, f"{row['name']}: no policy; `CALL isolate(…)` makes it"
            assert (row["enabled"], row["forced"]) == (True, True), row["name"]


async def test_the_roles_are_nobody(connection: Connection) -> None:
    roles = await connection.fetch(
        """SELECT rolname, rolsuper, rolbypassrls, rolcanlogin, rolcreaterole,
            EXISTS (SELECT FROM pg_class WHERE relowner = role.oid) AS owns
        FROM pg_roles role WHERE rolname LIKE 'taskforge\\_%'"""
    )
    assert {row["rolname"] for row in roles} >= {"taskforge_tenant", "taskforge_engine"}
    for row in roles:
        assert not any(list(row.values())[1:]), row


async def test_each_tenant_sees_its_own(
    connection: Connection, estates: tuple[Estate, Estate]
) -> None:
    ada, bob = [
        await rows_of(connection, estate.organization_id, estate.project_id) for estate in estates
    ]
    for table in await tenant_tables(connection):
        assert ada[table], f"{table}: the estate has no row of it"
        assert bob[table], f"{table}: the estate has no row of it"
        assert not ada[table] & bob[table], table
        assert "of bob" not in "".join(ada[table]), table
        assert "of ada" not in "".join(bob[table]), table


async def test_a_project_does_not_see_the_next(
    connection: Connection, estates: tuple[Estate, Estate]
) -> None:
    ada = estates[0]
    first = await rows_of(connection, b"", ada.project_id)
    second = await rows_of(connection, b"", ada.second_project_id)
    for table in ("api_keys", "job_queues", "workers", "jobs", "job_executions", "execution_logs"):
        assert first[table], table
        assert second[table], table
        assert not first[table] & second[table], table
    for table in ("users", "subscriptions", "audit_log", "organizations"):
        assert not first[table], f"{table}: a project alone opens nothing of its organisation"


async def test_nobody_sees_nothing(connection: Connection) -> None:
    for table, rows in (await rows_of(connection)).items():
        assert not rows, table


async def test_writes_stay_at_home(connection: Connection, estates: tuple[Estate, Estate]) -> None:
    ada, bob = estates
    mine = await rows_of(connection, ada.organization_id, ada.project_id)
    tried = 0
    for table in mine:
        column = await connection.fetchval(
            "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum = 1", table
        )
        for verb, statement in (
            ("UPDATE", UPDATE_ALL.format(table=table, column=column)),
            ("DELETE", DELETE_ALL.format(table=table)),
        ):
            if not await connection.fetchval(
                "SELECT has_table_privilege('taskforge_tenant', $1, $2)", table, verb
            ):
                continue
            tried += 1
            async with acting(connection, ada.organization_id, ada.project_id):
                try:
                    done = await connection.execute(statement)
                except asyncpg.ForeignKeyViolationError:
                    continue  # its own rows need one another
                assert int(done.split()[-1]) == len(mine[table]), statement
    assert tried > 10
    assert await rows_of(connection, bob.organization_id, bob.project_id)


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("INSERT INTO projects (organization_id, name) VALUES ($1, 'x')", ["organization_id"]),
        ("INSERT INTO job_queues (project_id, name, shard) VALUES ($1, 'x', 0)", ["project_id"]),
        ("INSERT INTO api_keys (project_id, name, key_hash) VALUES ($1, 'x', 'x')", ["project_id"]),
        ("UPDATE projects SET organization_id = $1", ["organization_id"]),
        ("UPDATE job_queues SET project_id = $1", ["project_id"]),
    ],
)
async def test_a_row_for_somebody_else_is_refused(
    connection: Connection, estates: tuple[Estate, Estate], statement: str, values: list[str]
) -> None:
    ada, bob = estates
    async with acting(connection, ada.organization_id, ada.project_id):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement, *(getattr(bob, name) for name in values))


async def test_what_belongs_to_nobody_is_out_of_reach(connection: Connection) -> None:
    for table in ENGINE_TABLES:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with acting(connection):
                await connection.execute(EVERY_ROW.format(table=table))


async def test_functions_with_the_owners_rights_know_whose_they_are_for(
    connection: Connection, estates: tuple[Estate, Estate]
) -> None:
    """Row security does not hold inside of them."""
    ada, bob = estates
    called = await connection.fetch(
        """SELECT proname, has_function_privilege('public', oid, 'EXECUTE') AS by_anybody
        FROM pg_proc WHERE prosecdef AND pronamespace = 'public'::regnamespace
        AND prorettype <> 'trigger'::regtype"""
    )
    assert [tuple(row) for row in called] == [("audit_head", False)]
    for organization_id in (ada.organization_id, b""):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with acting(connection, organization_id):
                await connection.fetchrow(sql("audit_head"), bob.organization_id)
    async with acting(connection, bob.organization_id):
        assert await connection.fetchrow(sql("audit_head"), bob.organization_id)


async def test_the_next_borrower_is_no_tenant(
    module_postgres_url: str, estates: tuple[Estate, Estate]
) -> None:
    pool = await open_pool(module_postgres_url, application_name="test", connections_max=1)
    async with tenant(pool, organization_id=estates[0].organization_id) as connection:
        assert await connection.fetchval("SELECT current_user") == "taskforge_tenant"
    async with pool.acquire() as connection:
        assert await connection.fetchval("SELECT current_user") != "taskforge_tenant"
        assert not await connection.fetchval("SELECT tenant_organization()")
    await pool.close()


async def test_a_forgotten_condition_shows_nothing(
    module_postgres_url: str, estates: tuple[Estate, Estate], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first wall taken away: the second one holds."""
    ada, bob = estates
    pool: Pool = await open_pool(module_postgres_url, application_name="test", connections_max=1)

    def careless(name: str) -> str:
        text = sql(name).replace("project_id = $1 AND ", "$1::uuid IS NOT NULL AND ")
        return text.replace("AND project_id = $2", "AND $2::uuid IS NOT NULL")

    queue_id = await pool.fetchval(
        "SELECT id FROM job_queues WHERE project_id = $1", bob.project_id
    )
    job_id = await pool.fetchval("SELECT id FROM jobs WHERE project_id = $1", bob.project_id)
    monkeypatch.setattr(queues, "sql", careless)
    monkeypatch.setattr(job_queries, "sql", careless)
    rows = queues.Queues(pool, 64)
    assert (await rows.get(bob.project_id, queue_id)).id == queue_id
    with pytest.raises(NotFound):
        await rows.get(ada.project_id, queue_id)
    jobs = job_queries.JobQueries(pool)
    assert await jobs.get(bob.project_id, job_id) is not None
    assert await jobs.get(ada.project_id, job_id) is None
    await pool.close()
