"""An organisation that has something of everything, behind a real server: isolation is tried on it.

    async with serving(postgres_url) as site:
        ada = await found(site, "ada")     # organisation, people, projects, keys, queues, jobs, …

Every name that an estate gives to something ends with `of MARK`, in its second project with `of
MARK two`, so that whoever finds that in an answer has found a row of this organisation.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from taskforge_server.engine.model.execution import log_id
from taskforge_server.engine.store.pool import Lent, acquire
from taskforge_server.ext.ids import IdSource, execution_id, uuid_bytes, uuid_text
from tests.support.people import Person, Site

QUEUE_SHARD = 0
_seeds = count(1)

ENTERPRISE = "UPDATE subscriptions SET tier = 'enterprise' WHERE organization_id = $1"
JOB = """INSERT INTO jobs (id, queue_id, project_id, job_type, payload, status, shard, lsn,
    idempotency_key, failed_reason, finished_at)
    VALUES ($1, $2, $3, $4, jsonb_build_object('of', $4::varchar), 'failed', 0, 1, $4, 'timeout',
        now())"""
EXECUTION = """INSERT INTO job_executions (id, job_id, status, output, started_at, shard, lsn)
    VALUES ($1, $2, 'failed', $3, now(), 0, 1)"""
LOG = """INSERT INTO execution_logs (id, execution_id, project_id, level, message)
    VALUES ($1, $2, $3, 'info', $4)"""
DEPENDENCY = """INSERT INTO job_dependencies (parent_job_id, child_job_id, project_id)
    VALUES ($1, $2, $3)"""
IDEMPOTENCY = """INSERT INTO idempotency_keys (project_id, key, shard, body_hash, ids)
    VALUES ($1, $2, 0, '', '')"""
WORKER = """INSERT INTO workers (id, project_id, name, last_heartbeat)
    VALUES ($1, $2, $3, now())"""
ASSIGNMENT = "INSERT INTO queue_worker_assignments (queue_id, worker_id) VALUES ($1, $2)"
USAGE = """INSERT INTO monthly_usage (shard, project_id, month, organization_id, jobs, lsn)
    VALUES (0, $1, 202601, $2, 7, 1)"""
HOOK = "INSERT INTO dead_letter_hooks (queue_id, lsn, job_id) VALUES ($1, 0, $1)"
INBOX = """INSERT INTO inbox (project_id, queue_id, shard, job_type, payload, refused_at, problem)
    VALUES ($1, $2, 0, 't', '{}', now(), $3)"""
GRANT = "INSERT INTO inbox_grants (project_id, role_name) VALUES ($1, $2::text)"
REVOCATION = """INSERT INTO token_revocations (subject, organization_id, version)
    VALUES (gen_random_uuid(), $1, 1)"""

# Names come from the catalogue; they cannot be arguments.
EVERY_ROW = "SELECT seen::text FROM {table} AS seen"
SOME_VALUE = "SELECT {column} FROM {table} WHERE {column} IS NOT NULL LIMIT 1"


@dataclass(frozen=True, slots=True)
class Estate:
    """One organisation: its first project is full, the second one holds a queue and a job too."""

    mark: str
    admin: Person
    member: Person
    organization_id: bytes
    project_id: bytes
    second_project_id: bytes
    key: str
    key_id: str
    second_key: str


async def found(site: Site, mark: str) -> Estate:
    """Make it, in part over HTTP, in part in the tables."""
    admin = await site.sign_up(f"{mark}@example.com", f"organization of {mark}")
    organization_id = uuid_bytes(admin.organization_id)
    await enterprise(site, admin)
    async with acquire(site.node.pool) as connection:
        await connection.execute(REVOCATION, organization_id)
    member = await site.member(admin)
    await _made(site, "/v1/invitations", admin, {"email": f"x{mark}@example.com", "role": "member"})
    second = await _made(site, "/v1/projects", admin, {"name": f"second of {mark}"})
    key = await make_key(site, admin, admin.project_id, ["*"], f"key of {mark}")
    second_key = await make_key(site, admin, second["id"], ["*"], f"second key of {mark}")
    for project_id, text, name in (
        (admin.project_id, key["key"], mark),
        (second["id"], second_key["key"], f"{mark} two"),
    ):
        queue = await _made(site, "/v1/queues", text, {"name": f"queue of {name}"})
        job = {"job_type": "t", "payload": {"of": name}}
        schedule = {"name": f"schedule of {name}", "queue": queue["id"], "cron": "@daily"}
        await _made(site, "/v1/schedules", text, schedule | {"job": job, "paused": True})
        await _made(site, f"/v1/queues/{queue['id']}/jobs", text, job)
        async with acquire(site.node.pool) as connection:
            await _fill(connection, uuid_bytes(project_id), organization_id, queue["id"], name)
    return Estate(
        mark,
        admin,
        member,
        organization_id,
        uuid_bytes(admin.project_id),
        uuid_bytes(second["id"]),
        key["key"],
        key["id"],
        second_key["key"],
    )


async def enterprise(site: Site, admin: Person) -> None:
    """No limits for this organisation: something else is tried."""
    organization_id = uuid_bytes(admin.organization_id)
    async with acquire(site.node.pool) as connection:
        await connection.execute(ENTERPRISE, organization_id)
    site.node.plans.forget(organization_id)


async def make_key(
    site: Site, admin: Person, project_id: str, permissions: list[str], name: str = "key"
) -> dict[str, str]:
    """A new key, as the answer tells of it."""
    value = {"name": name, "permissions": permissions}
    return await _made(site, f"/v1/projects/{project_id}/api-keys", admin, value)


async def _made(site: Site, path: str, who: Person | str, value: dict[str, Any]) -> dict[str, str]:
    answer = await site.post(path, who, value)
    assert answer.status == 201, answer.body
    made: dict[str, str] = answer.json
    return made


async def _fill(
    connection: Lent, project_id: bytes, organization_id: bytes, queue: str, mark: str
) -> None:
    """Rows of all tables of a project, as if jobs had run."""
    now_us = round(time.time() * 1e6)
    ids = IdSource(QUEUE_SHARD, next(_seeds))
    parent, child, worker = (ids.next(now_us) for _ in range(3))
    attempt = execution_id(parent, 1, now_us)
    queue_id = uuid_bytes(queue)
    for job in (parent, child):
        await connection.execute(JOB, job, queue_id, project_id, mark)
    await connection.execute(EXECUTION, attempt, parent, f"output of {mark}")
    await connection.execute(LOG, log_id(attempt, 1), attempt, project_id, f"line of {mark}")
    await connection.execute(DEPENDENCY, parent, child, project_id)
    await connection.execute(IDEMPOTENCY, project_id, mark)
    await connection.execute(WORKER, worker, project_id, f"worker of {mark}")
    await connection.execute(ASSIGNMENT, queue_id, worker)
    await connection.execute(HOOK, queue_id)
    await connection.execute(USAGE, project_id, organization_id)
    await connection.execute(INBOX, project_id, queue_id, mark)
    await connection.execute(GRANT, project_id, mark)


TENANT_TABLES = """SELECT class.relname AS name
    FROM pg_class class JOIN pg_policy policy ON policy.polrelid = class.oid
    WHERE policy.polname = 'tenant' ORDER BY 1"""


async def tenant_tables(connection: Lent) -> list[str]:
    """The tables that hold rows of tenants which a tenant may see."""
    return [row["name"] for row in await connection.fetch(TENANT_TABLES)]


@asynccontextmanager
async def acting(
    connection: Lent, organization_id: bytes = b"", *project_ids: bytes
) -> AsyncIterator[None]:
    """Statements in the block are those of a tenant, and undone at its end."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(
            """SELECT set_config('taskforge.organization_id', $1, true),
            set_config('taskforge.project_id', $2, true),
            set_config('role', 'taskforge_tenant', true)""",
            organization_id.hex(),
            "".join(project.hex() for project in project_ids),
        )
        yield
    finally:
        await transaction.rollback()


async def rows_of(
    connection: Lent, organization_id: bytes = b"", *project_ids: bytes
) -> dict[str, set[str]]:
    """Every row of every table that this tenant sees, by queries without a WHERE."""
    tables = await tenant_tables(connection)
    async with acting(connection, organization_id, *project_ids):
        return {
            table: {row[0] for row in await connection.fetch(EVERY_ROW.format(table=table))}
            for table in tables
        }


async def ids_of(connection: Lent, organization_id: bytes, project_id: bytes) -> set[str]:
    """An id of each kind that stands in a table of this tenant."""
    found: set[str] = set()
    columns = await connection.fetch(
        """SELECT table_name, column_name FROM information_schema.columns
        WHERE data_type = 'uuid' AND table_name = ANY ($1::text[])""",
        await tenant_tables(connection),
    )
    async with acting(connection, organization_id, project_id):
        for table, column in columns:
            value = await connection.fetchval(SOME_VALUE.format(table=table, column=column))
            found |= {uuid_text(value)} if value is not None else set()
    return found


async def id_of(
    connection: Lent, parameter: str, organization_id: bytes, project_id: bytes
) -> str | None:
    """What a tenant would write for a path parameter such as `api_key_id`, found by its name: the
    id of a row of `api_keys`."""
    special = {"queue": "job_queues", "schedule": "cron_schedules"}
    table = special.get(parameter, f"{parameter.removesuffix('_id')}s")
    if table not in await tenant_tables(connection):
        return None
    async with acting(connection, organization_id, project_id):
        value = await connection.fetchval(SOME_VALUE.format(table=table, column="id"))
    return None if value is None else uuid_text(value)
