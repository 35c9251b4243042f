"""Migrations: from empty, twice, from two nodes at once; and the schema that comes out."""

import asyncio
import shutil
from datetime import UTC, datetime
from importlib.resources import as_file, files
from pathlib import Path

import asyncpg
import pytest
from pogo_core.util.migrate import apply

from taskforge_server.api.cli.embedded import Postgres
from taskforge_server.engine import limits
from taskforge_server.engine.errors import ConfigError, Unavailable
from taskforge_server.engine.store.migrate import check_prepared, migrate
from taskforge_server.engine.store.pool import check_server, connect
from taskforge_server.ext.pure.tablerows import EXECUTION_COLUMNS, JOB_COLUMNS, Columns
from tests.support.rows import Rows, copy_executions, copy_jobs
from tests.support.servers import temporary_servers

DAY = "p20250301"
SEED_INDEXES = {
    "idx_jobs_status_scheduled_priority": ["status", "scheduled_for", "priority"],
    "idx_jobs_queue_id": ["queue_id", "id"],
    "idx_jobs_created_at": ["created_at"],
    "idx_job_executions_job_id": ["job_id"],
    "idx_job_executions_worker_id": ["worker_id"],
    "idx_workers_last_heartbeat": ["last_heartbeat"],
    "idx_workers_project_id": ["project_id", "id"],
    "idx_organizations_created_at": ["created_at"],
}

# The twelve tables with the fields of both documents of the data model.
SEED_TABLES = {
    "organizations": "id name billing_email created_at",
    "users": "id organization_id email password_hash role created_at",
    "subscriptions": "id organization_id tier limits current_period_end",
    "projects": "id organization_id name description created_at",
    "api_keys": "id project_id key_hash name permissions last_used_at expires_at",
    "job_queues": "id project_id name priority settings created_at",
    "jobs": "id queue_id job_type payload status priority scheduled_for created_at updated_at",
    "workers": "id project_id name type status last_heartbeat created_at",
    "queue_worker_assignments": "queue_id worker_id weight is_active created_at",
    "job_executions": (
        "id job_id worker_id status output attempt_number started_at finished_at created_at"
    ),
    "execution_logs": "id execution_id level message metadata logged_at",
    "job_dependencies": "parent_job_id child_job_id created_at",
}


async def test_from_empty_then_again(empty_postgres_url: str) -> None:
    first = await migrate(empty_postgres_url)
    assert first == sorted(first)
    assert first
    before = await _schema(empty_postgres_url)
    assert await migrate(empty_postgres_url) == []
    assert await _schema(empty_postgres_url) == before


async def test_a_database_without_the_newest_steps_is_refused(
    empty_postgres_url: str, tmp_path: Path
) -> None:
    """By nodes and by commands; one that has more than this version knows is not."""
    with as_file(files("taskforge_server.engine.store") / "migrations") as folder:
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
        *_, newest = sorted(path.stem for path in folder.glob("*.sql"))
    (tmp_path / f"{newest}.sql").rename(tmp_path.parent / "newest")
    connection = await connect(empty_postgres_url, application_name="test")
    try:
        with pytest.raises(ConfigError, match="not prepared: run `taskforge migrate`"):
            await check_prepared(connection)
        await apply(connection, tmp_path, schema_name="public")
        with pytest.raises(ConfigError, match=f"lacks {newest}: run `taskforge migrate`"):
            await check_prepared(connection)
        assert await migrate(empty_postgres_url) == [newest]
        await check_prepared(connection)
        later = f"-- Later\n-- depends: {newest}\n\n-- migrate: apply\nSELECT 1;\n"
        (tmp_path.parent / "newest").rename(tmp_path / f"{newest}.sql")
        (tmp_path / "9999_later.sql").write_text(f"{later}\n-- migrate: rollback\n")
        await apply(connection, tmp_path, schema_name="public")
        await check_prepared(connection)
    finally:
        await connection.close()


async def test_a_step_does_not_wait_long_for_whoever_uses_its_table(
    empty_postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All who come meanwhile would wait behind it. Nothing is done, and it may be repeated."""
    monkeypatch.setattr(limits, "MIGRATION_TABLE_WAIT_S", 0.05)
    with as_file(files("taskforge_server.engine.store") / "migrations") as folder:
        shutil.copytree(folder, tmp_path, ignore=shutil.ignore_patterns("003*"), dirs_exist_ok=True)
    connection = await connect(empty_postgres_url, application_name="test")
    try:
        await apply(connection, tmp_path, schema_name="public")
        async with connection.transaction():
            await connection.execute("LOCK TABLE jobs")
            with pytest.raises(Unavailable, match="a table is in use"):
                await migrate(empty_postgres_url)
        assert await migrate(empty_postgres_url)
    finally:
        await connection.close()


async def test_of_a_database_with_rows(empty_postgres_url: str, tmp_path: Path) -> None:
    """The newest steps find partitions with jobs in them; old and new partitions end alike."""
    with as_file(files("taskforge_server.engine.store") / "migrations") as folder:
        newest = shutil.ignore_patterns("003*.sql")
        shutil.copytree(folder, tmp_path, ignore=newest, dirs_exist_ok=True)
    connection = await connect(empty_postgres_url, application_name="test")
    try:
        await apply(connection, tmp_path, schema_name="public")
        await connection.execute("SELECT ensure_partitions('2025-03-01', '2025-03-01')")
        rows = Rows(3, bytes(16), bytes(16), 1_740_823_200_000_000)
        jobs = [rows.job(status=status) for status in ("succeeded", "failed", "pending")]
        await copy_jobs(connection, jobs)
        await copy_executions(connection, [rows.execution(job, 1) for job in jobs])
        # As no version wrote them.
        damaged = [
            rows.job(finished_at=rows.now_us),
            rows.job(status="failed", failed_reason=None),
            rows.job(status="cancelled", finished_at=None),
        ]
        await copy_jobs(connection, damaged)
        assert await migrate(empty_postgres_url)
        await connection.execute("SELECT ensure_partitions('2025-03-01', '2025-03-02')")
        for table in ("jobs", "job_executions"):
            old, new = [
                await connection.fetch(
                    """SELECT replace(indexdef, tablename, '') AS text FROM pg_indexes
                    WHERE tablename = $1 ORDER BY text""",
                    f"{table}_p2025030{day}",
                )
                for day in (1, 2)
            ]
            assert old == new, table
        assert await connection.fetchval("SELECT count(*) FROM jobs") == len(jobs + damaged)
        for row, place in zip(
            jobs + damaged,
            [f"jobs_{part}" for part in (DAY, DAY, "open", "open", DAY, DAY)],
            strict=True,
        ):
            after = await connection.fetchrow(
                "SELECT *, tableoid::regclass::text AS place FROM jobs WHERE id = $1", row["id"]
            )
            assert after is not None
            assert (after["status"], after["place"]) == (row["status"], place)
            assert (after["finished_at"] is None) == (place == "jobs_open")
            assert (after["failed_reason"] is not None) == (row["status"] == "failed")
    finally:
        await connection.close()


async def test_from_two_nodes_at_once(empty_postgres_url: str) -> None:
    results = await asyncio.gather(*(migrate(empty_postgres_url) for _ in range(3)))
    applied = [names for names in results if names]
    assert len(applied) == 1, "one did it, the others waited"
    assert await migrate(empty_postgres_url) == []


async def test_on_the_oldest_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Postgres, "binaries", "pginstall/bin")
    with temporary_servers() as old:
        connection = await connect(old.postgres_url, application_name="test")
        await check_server(connection, unsafe=False)
        assert await connection.fetchval("SHOW server_version_num") < "170000"
        assert await migrate(old.postgres_url)
        assert await migrate(old.postgres_url) == []
        await connection.close()


async def test_tables_have_the_fields_of_the_data_model(postgres_url: str) -> None:
    columns = await _columns(postgres_url)
    for table, fields in SEED_TABLES.items():
        assert set(fields.split()) <= set(columns[table]), table


@pytest.mark.parametrize(
    ("table", "columns"), [("jobs", JOB_COLUMNS), ("job_executions", EXECUTION_COLUMNS)]
)
async def test_rows_name_all_columns_and_what_they_may_lack_has_no_default(
    postgres_url: str, table: str, columns: Columns
) -> None:
    connection = await connect(postgres_url, application_name="test")
    try:
        rows = await connection.fetch(
            """SELECT column_name, column_default FROM information_schema.columns
            WHERE table_schema = 'public' AND table_name = $1""",
            table,
        )
    finally:
        await connection.close()
    defaults = {str(row["column_name"]): row["column_default"] for row in rows}
    assert defaults.keys() == {column.name for column in columns}
    rare = [column.name for column in columns if column.rare]
    assert rare
    assert [defaults[name] for name in rare] == [None] * len(rare)


async def test_named_indexes(postgres_url: str) -> None:
    connection = await connect(postgres_url, application_name="test")
    try:
        for name, columns in SEED_INDEXES.items():
            found = await connection.fetch(
                """SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass
                ORDER BY attnum""",
                name,
            )
            assert [row["attname"] for row in found] == columns, name
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("organizations", "name", " "),
        ("organizations", "billing_email", "nobody"),
        ("job_queues", "priority", 10),
        ("job_queues", "priority", -1),
        ("job_queues", "name", ""),
        ("workers", "type", "special"),
        ("workers", "status", "gone"),
        ("jobs", "status", "done"),
        ("jobs", "priority", 10),
        ("job_executions", "status", "done"),
        ("execution_logs", "level", "debug"),
        ("subscriptions", "tier", "gold"),
        ("users", "role", "root"),
        ("users", "email", "nobody"),
    ],
)
async def test_constraints(
    module_postgres_url: str, table: str, column: str, value: object
) -> None:
    """A CHECK alone refuses the value: the other columns of the row get what they need."""
    connection = await connect(module_postgres_url, application_name="test")
    try:
        needed = await connection.fetch(
            """SELECT attname, format_type(atttypid, NULL) AS type FROM pg_attribute
            WHERE attrelid = $1::regclass AND attnum > 0 AND attnotnull AND NOT atthasdef""",
            table,
        )
        sample = {
            "uuid": bytes(16),
            "smallint": 0,
            "bigint": 1,
            "character varying": _valid(table),
            "timestamp with time zone": datetime.now(UTC),
            "text": "x",
        }
        row = {entry["attname"]: sample[entry["type"]] for entry in needed}
        if table == "users":
            row["role"] = "admin"
        row[column] = value
        names = ", ".join(row)
        holes = ", ".join(f"${number}" for number in range(1, len(row) + 1))
        statement = " ".join(["INSERT INTO", table, f"({names}) VALUES ({holes})"])
        with pytest.raises(asyncpg.CheckViolationError) as caught:
            await connection.execute(statement, *row.values())
        assert column in str(caught.value.constraint_name)
    finally:
        await connection.close()


@pytest.mark.parametrize(
    "columns",
    [
        {"status": "pending", "finished_at": 1_740_823_200_000_000},
        {"status": "scheduled", "finished_at": 1_740_823_200_000_000},
        {"status": "processing", "finished_at": 1_740_823_200_000_000},
        {"status": "failed", "failed_reason": None},
        {"status": "succeeded", "finished_at": None},
        {"status": "cancelled", "finished_at": None},
    ],
)
async def test_no_job_is_missed_by_the_index_of_its_state(
    module_postgres_url: str, columns: dict[str, object]
) -> None:
    """The index asks for less than the state: what it asks for is held."""
    rows = Rows(3, bytes(16), bytes(16), 1_740_823_200_000_000)
    connection = await connect(module_postgres_url, application_name="test")
    try:
        with pytest.raises(asyncpg.CheckViolationError, match=r"jobs_(status_known|open_status)"):
            await copy_jobs(connection, [rows.job(**columns)])
    finally:
        await connection.close()


def _valid(table: str) -> str:
    return {"job_executions": "started", "execution_logs": "info", "subscriptions": "pro"}.get(
        table, "a@b"
    )


async def _columns(url: str) -> dict[str, list[str]]:
    connection = await connect(url, application_name="test")
    try:
        rows = await connection.fetch(
            """SELECT table_name, array_agg(column_name ORDER BY ordinal_position) AS names
            FROM information_schema.columns WHERE table_schema = 'public' GROUP BY table_name"""
        )
        return {row["table_name"]: [str(name) for name in row["names"]] for row in rows}
    finally:
        await connection.close()


async def _schema(url: str) -> list[tuple[str, list[str]]]:
    return sorted((await _columns(url)).items())
