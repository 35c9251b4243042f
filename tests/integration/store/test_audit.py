"""The audit log in the tables: gap-free, append-only, and sealed; what a verification finds."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator

import asyncpg
import pytest
from click.testing import Result
from typer.testing import CliRunner

from taskforge_server.api.cli.main import app
from taskforge_server.engine import limits
from taskforge_server.engine.model.audit import NO_HASH, OPERATOR, Actor
from taskforge_server.engine.store.audit import AuditLog, record
from taskforge_server.engine.store.pool import Connection, Pool, acquire, connect, open_pool

ACTOR = Actor("user", b"u" * 16, "192.0.2.7", "request-1")
TARGET = f"queue:{uuid.UUID(int=7)}"


@pytest.fixture
async def pool(module_postgres_url: str) -> AsyncIterator[Pool]:
    opened = await open_pool(module_postgres_url, application_name="test", connections_max=4)
    yield opened
    await opened.close()


@pytest.fixture
async def connection(module_postgres_url: str) -> AsyncIterator[Connection]:
    opened = await connect(module_postgres_url, application_name="test")
    yield opened
    await opened.close()


async def act(connection: Connection, organization_id: bytes, number: int = 0) -> None:
    async with connection.transaction():
        await record(
            connection, organization_id, ACTOR, "queue.update", TARGET, {"n": number}, {"n": -1}
        )


async def test_entries_are_numbered_and_linked(connection: Connection) -> None:
    organization = uuid.uuid4().bytes
    async with connection.transaction():
        first = await record(
            connection,
            organization,
            ACTOR,
            "queue.update",
            TARGET,
            None,
            {"b": 1, "a": 2},
        )
        second = await record(
            connection, organization, OPERATOR, "queue.delete", TARGET, {"a": 2}, None
        )
    assert (first.previous_hash, first.after) == (NO_HASH, '{"a":2,"b":1}')
    assert second.sequence == first.sequence + 1
    assert second.previous_hash == first.hash == first.seal()


async def test_nothing_is_recorded_outside_of_a_transaction(connection: Connection) -> None:
    organization = uuid.uuid4().bytes
    with pytest.raises(RuntimeError, match="transaction"):
        await record(connection, organization, ACTOR, "queue.update", TARGET)


async def test_an_act_that_fails_leaves_no_entry_and_no_gap(connection: Connection) -> None:
    organization = uuid.uuid4().bytes
    failed = connection.transaction()
    await failed.start()
    await record(connection, organization, ACTOR, "queue.update", TARGET)
    await failed.rollback()
    await act(connection, organization)
    numbers = await connection.fetch(
        "SELECT sequence FROM audit_log WHERE organization_id = $1", organization
    )
    assert [row["sequence"] for row in numbers] == [1]


async def test_acts_at_one_time_get_one_number_each(pool: Pool) -> None:
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
async def test_the_log_is_append_only(connection: Connection, statement: str) -> None:
    organization = uuid.uuid4().bytes
    await act(connection, organization)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(statement)


async def test_only_what_follows_the_head_is_taken(connection: Connection) -> None:
    organization = uuid.uuid4().bytes
    await act(connection, organization)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="does not follow"):
        await connection.execute(
            "INSERT INTO audit_log SELECT organization_id, sequence + 2, at, actor_kind, actor_id,"
            " address, correlation_id, action, target, before, after, hash, hash FROM audit_log"
        )


async def test_secrets_are_not_recorded(connection: Connection) -> None:
    organization = uuid.uuid4().bytes
    async with connection.transaction():
        entry = await record(
            connection,
            organization,
            ACTOR,
            "user.update",
            TARGET,
            {"deep": [{"password": "canary"}]},
            {"key_hash": "canary", "name": "kept"},
        )
    assert entry.before == '{"deep":[{"password":"***"}]}'
    assert entry.after == '{"key_hash":"***","name":"kept"}'


# What a verification finds when somebody who may do anything has been at the tables

CHANGE = "UPDATE audit_log SET {} WHERE organization_id = $1 AND sequence = {}"
NO_LAST = "DELETE FROM audit_log WHERE organization_id = $1 AND sequence = 6"
NO_LOG = "DELETE FROM audit_log WHERE organization_id = $1"
NO_HEAD = "DELETE FROM audit_heads WHERE organization_id = $1"
TRIGGERS_OFF = """
    ALTER TABLE audit_log DISABLE TRIGGER USER;
    ALTER TABLE audit_heads DISABLE TRIGGER USER
"""
TAMPERINGS = {
    "an entry deleted": (
        ["DELETE FROM audit_log WHERE organization_id = $1 AND sequence = 3"],
        [("missing", 3)],
    ),
    "the first deleted": (
        ["DELETE FROM audit_log WHERE organization_id = $1 AND sequence = 1"],
        [("missing", 1)],
    ),
    "content changed": ([CHANGE.format("after = '{}'", 3)], [("changed", 3)]),
    "only the spelling of content changed": (
        [CHANGE.format("after = '{\"n\": -1}'", 3)],
        [("changed", 3)],
    ),
    "actor changed": ([CHANGE.format("actor_id = NULL", 3)], [("changed", 3)]),
    "time changed": (
        [CHANGE.format("at = at + interval '1 microsecond'", 3)],
        [("changed", 3)],
    ),
    "two entries swapped": (
        [
            CHANGE.format("sequence = 99", 3),
            CHANGE.format("sequence = 3", 4),
            CHANGE.format("sequence = 4", 99),
        ],
        [("unlinked", 3), ("changed", 3), ("unlinked", 4), ("changed", 4), ("unlinked", 5)],
    ),
    "the end cut off": ([NO_LAST], [("truncated", 6)]),
    "everything deleted": (
        [NO_LOG],
        [("truncated", 1)],
    ),
    "the end cut off, and the head's number lowered": (
        [
            NO_LAST,
            "UPDATE audit_heads SET sequence = 5 WHERE organization_id = $1",
        ],
        [("other_head", 5)],
    ),
    "the head lost": (
        [NO_HEAD],
        [("beyond_head", 1)],
    ),
}


async def six_acts(connection: Connection) -> bytes:
    organization = uuid.uuid4().bytes
    for number in range(6):
        await act(connection, organization, number)
    return organization


async def tamper(connection: Connection, organization: bytes, statements: list[str]) -> None:
    """As the owner of the tables could."""
    async with connection.transaction():
        await connection.execute(TRIGGERS_OFF)
        for statement in statements:
            await connection.execute(statement, organization)
        await connection.execute(TRIGGERS_OFF.replace("DISABLE", "ENABLE"))


@pytest.mark.parametrize("name", TAMPERINGS)
async def test_tampering_is_found(connection: Connection, pool: Pool, name: str) -> None:
    statements, faults = TAMPERINGS[name]
    organization, other = await six_acts(connection), await six_acts(connection)
    logs = AuditLog(pool)
    assert (await logs.verify(organization)).is_intact
    await tamper(connection, organization, statements)
    verdict = await logs.verify(organization)
    assert [(fault.kind, fault.sequence) for fault in verdict.faults] == faults
    assert (await logs.verify(other)).is_intact


async def test_a_log_that_was_rewritten_whole_is_found_by_a_noted_head(
    connection: Connection, pool: Pool
) -> None:
    organization = await six_acts(connection)
    logs = AuditLog(pool)
    noted = (await logs.verify(organization)).head
    await act(connection, organization)
    assert (await logs.verify(organization, noted)).is_intact
    await tamper(connection, organization, [NO_LOG, NO_HEAD])
    faults = (await logs.verify(organization, noted)).faults
    assert [(fault.kind, fault.sequence) for fault in faults] == [("truncated", 1)]
    for number in range(7):
        await act(connection, organization, number + 100)
    assert (await logs.verify(organization)).is_intact
    faults = (await logs.verify(organization, noted)).faults
    assert [(fault.kind, fault.sequence) for fault in faults] == [("rewritten", 6)]


async def test_a_long_log_is_read_in_parts(
    connection: Connection, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "AUDIT_READ_ROWS", 2)
    organization = await six_acts(connection)
    logs = AuditLog(pool)
    assert (await logs.verify(organization)).head.sequence == 6
    parts = [[entry.sequence for entry in part] async for part in logs.entries(organization, 1)]
    assert parts == [[2, 3], [4, 5], [6]]


# Who may do what in the database


async def as_tenant(connection: Connection, organization: bytes) -> None:
    await connection.execute("SET LOCAL ROLE taskforge_tenant")
    await connection.execute(
        "SELECT set_config('taskforge.organization_id', $1, true)",
        str(uuid.UUID(bytes=organization)),
    )


async def test_a_tenant_writes_and_sees_its_own_log_alone(connection: Connection) -> None:
    organization, other = await six_acts(connection), await six_acts(connection)
    async with connection.transaction():
        await as_tenant(connection, organization)
        await record(connection, organization, ACTOR, "queue.update", TARGET)
        rows = await connection.fetch("SELECT DISTINCT organization_id AS id FROM audit_log")
        assert [row["id"] for row in rows] == [organization]
        rows = await connection.fetch("SELECT organization_id AS id FROM audit_heads")
        assert [row["id"] for row in rows] == [organization]
    failed = connection.transaction()
    await failed.start()
    await as_tenant(connection, organization)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await record(connection, other, ACTOR, "queue.update", TARGET)
    await failed.rollback()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET action = 'a.b'",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
        "UPDATE audit_heads SET sequence = 0",
        "INSERT INTO audit_heads VALUES (gen_random_uuid(), 0, sha256('x'))",
        "DELETE FROM audit_heads",
        "ALTER TABLE audit_log DISABLE TRIGGER USER",
    ],
)
async def test_a_tenant_has_no_right_but_to_add(connection: Connection, statement: str) -> None:
    organization = await six_acts(connection)
    failed = connection.transaction()
    await failed.start()
    await as_tenant(connection, organization)
    with pytest.raises(
        asyncpg.InsufficientPrivilegeError, match=r"permission denied|must be owner"
    ):
        await connection.execute(statement)
    await failed.rollback()


# The command


async def test_the_command(postgres_url: str) -> None:
    connection = await connect(postgres_url, application_name="test")
    organization, other = await six_acts(connection), await six_acts(connection)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["audit", *arguments, "--postgres-url", postgres_url])

    whole = await asyncio.to_thread(run, "verify")
    assert whole.exit_code == 0
    lines = dict(line.split(" ", 1) for line in whole.stdout.splitlines())
    head = lines[str(uuid.UUID(bytes=organization))].removesuffix(" whole")
    assert head.startswith("6:")
    assert str(uuid.UUID(bytes=other)) in lines

    name = str(uuid.UUID(bytes=organization))
    exported = await asyncio.to_thread(run, "export", "--organization", name, "--after", "4")
    assert [json.loads(line)["sequence"] for line in exported.stdout.splitlines()] == [5, 6]

    await tamper(connection, organization, TAMPERINGS["an entry deleted"][0])
    broken = await asyncio.to_thread(run, "verify")
    assert broken.exit_code == 1
    assert f"{name} {head} NOT WHOLE\n  entry 3: missing: entries 3 to 3 are missing\n" in (
        broken.stdout
    )
    sound = str(uuid.UUID(bytes=other))
    noted = f"6:{'ab' * 32}"
    rewritten = await asyncio.to_thread(run, "verify", "--organization", sound, "--head", noted)
    assert (rewritten.exit_code, "rewritten" in rewritten.stdout) == (1, True)
    assert (await asyncio.to_thread(run, "verify", "--head", noted)).exit_code == 2
    for wrong in (["--organization", "x"], ["--organization", sound, "--head", "x"]):
        assert (await asyncio.to_thread(run, "verify", *wrong)).exit_code == 2
    await connection.close()
