"""The audit log in the tables: gap-free, append-only, and sealed."""

import asyncio
import uuid

import asyncpg
import pytest

from taskforge_server.engine.model.audit import NO_HASH, OPERATOR, Actor
from taskforge_server.engine.store.audit import record
from taskforge_server.engine.store.pool import Connection, Pool, acquire
from tests.integration.store.conftest import Tenant

ACTOR = Actor("user", b"u" * 16, "192.0.2.7", "request-1")
TARGET = f"queue:{uuid.UUID(int=7)}"


async def act(connection: Connection, organization_id: bytes, number: int = 0) -> None:
    async with connection.transaction():
        await record(
            connection, organization_id, ACTOR, "queue.update", TARGET, {"n": number}, {"n": -1}
        )


async def test_entries_are_numbered_and_linked(connection: Connection, tenant: Tenant) -> None:
    async with connection.transaction():
        first = await record(
            connection,
            tenant.organization_id,
            ACTOR,
            "queue.update",
            TARGET,
            None,
            {"b": 1, "a": 2},
        )
        second = await record(
            connection, tenant.organization_id, OPERATOR, "queue.delete", TARGET, {"a": 2}, None
        )
    assert (first.previous_hash, first.after) == (NO_HASH, '{"a":2,"b":1}')
    assert second.sequence == first.sequence + 1
    assert second.previous_hash == first.hash == first.seal()


async def test_nothing_is_recorded_outside_of_a_transaction(
    connection: Connection, tenant: Tenant
) -> None:
    with pytest.raises(RuntimeError, match="transaction"):
        await record(connection, tenant.organization_id, ACTOR, "queue.update", TARGET)


async def test_an_act_that_fails_leaves_no_entry_and_no_gap(
    connection: Connection, tenant: Tenant
) -> None:
    organization = uuid.uuid4().bytes
    with pytest.raises(ZeroDivisionError):
        async with connection.transaction():
            await record(connection, organization, ACTOR, "queue.update", TARGET)
            raise ZeroDivisionError
    await act(connection, organization)
    numbers = await connection.fetch(
        "SELECT sequence FROM audit_log WHERE organization_id = $1", organization
    )
    assert [row["sequence"] for row in numbers] == [1]


async def test_acts_at_one_time_get_one_number_each(pool: Pool, tenant: Tenant) -> None:
    organization = uuid.uuid4().bytes

    async def one(number: int) -> None:
        async with acquire(pool) as lent:
            await act(lent, organization, number)  # type: ignore[arg-type]

    await asyncio.gather(*(one(number) for number in range(20)))
    async with acquire(pool) as lent:
        rows = await lent.fetch(
            "SELECT sequence FROM audit_log WHERE organization_id = $1 ORDER BY sequence",
            organization,
        )
    assert [row["sequence"] for row in rows] == list(range(1, 21))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET action = 'queue.create'",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
        "UPDATE audit_heads SET sequence = 0",
        "DELETE FROM audit_heads",
        "TRUNCATE audit_heads",
        "INSERT INTO audit_heads VALUES (gen_random_uuid(), 5, sha256('x'))",
    ],
)
async def test_the_log_is_append_only(
    connection: Connection, tenant: Tenant, statement: str
) -> None:
    await act(connection, tenant.organization_id)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(statement)


async def test_only_what_follows_the_head_is_taken(connection: Connection, tenant: Tenant) -> None:
    await act(connection, tenant.organization_id)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="does not follow"):
        await connection.execute(
            "INSERT INTO audit_log SELECT organization_id, sequence + 2, at, actor_kind, actor_id,"
            " address, correlation_id, action, target, before, after, hash, hash FROM audit_log"
        )


async def test_secrets_are_not_recorded(connection: Connection, tenant: Tenant) -> None:
    async with connection.transaction():
        entry = await record(
            connection,
            tenant.organization_id,
            ACTOR,
            "user.update",
            TARGET,
            {"deep": [{"password": "canary"}]},
            {"key_hash": "canary", "name": "kept"},
        )
    assert entry.before == '{"deep":[{"password":"***"}]}'
    assert entry.after == '{"key_hash":"***","name":"kept"}'
