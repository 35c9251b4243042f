"""Jobs that applications enqueue in their own transactions: `taskforge.enqueue` and its helpers."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import psycopg
import pytest
import sqlalchemy
import sqlalchemy.orm
from prometheus_client import generate_latest
from sqlalchemy.ext.asyncio import create_async_engine
from typer.testing import CliRunner

from taskforge import AsyncClient, Context, JobSpec, task
from taskforge.transactional import enqueue, enqueue_spec
from taskforge.worker import Worker
from taskforge_server.api.cli.embedded import EmbeddedServers
from taskforge_server.api.cli.main import app
from taskforge_server.api.cli.serving import api_of
from taskforge_server.api.server import ApiServer
from taskforge_server.api.service.inbox import InboxPorts
from taskforge_server.engine import limits
from taskforge_server.engine.model.queue import QueueSettings
from taskforge_server.engine.model.tenant import api_key_text
from taskforge_server.engine.node.node import Node
from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.inbox import Inbox
from taskforge_server.engine.store.pool import connect, open_pool
from taskforge_server.ext.ids import uuid_text
from tests.support.real_node import SHARDS, running_node
from tests.support.reference import ROOT
from tests.support.sealed import encrypt, tables_of

EXAMPLE = ROOT / "docs" / "examples" / "transactional_enqueue.py"
GUIDE = ROOT / "docs" / "guides" / "transactional-enqueue.md"
KEY = api_key_text(bytes(32))
SHOP = "shop"
"""The role of an application."""


@pytest.fixture
def shop(servers: EmbeddedServers) -> Iterator[str]:
    servers.postgres.execute(f"CREATE ROLE {SHOP} LOGIN")
    yield SHOP
    servers.postgres.execute(f"DROP ROLE {SHOP}")


@dataclass
class Site:
    """A database with a project that the shop may enqueue jobs of."""

    url: str
    shop_url: str
    project_id: bytes
    server_url: str = ""


@pytest.fixture
async def site(shop: str, postgres_url: str) -> Site:
    connection = await connect(postgres_url, application_name="test")
    made = await bootstrap(connection, SHARDS, KEY)
    await connection.execute("CREATE TABLE orders (id integer)")
    await connection.execute(f"GRANT ALL ON orders TO {shop}")
    await connection.close()
    return Site(postgres_url, postgres_url.replace("postgres@", f"{shop}@"), made.project_id)


@pytest.fixture
async def allowed(site: Site) -> Site:
    pool = await open_pool(site.url, application_name="test", connections_max=1)
    await Inbox(pool).allow(site.project_id, SHOP)
    await pool.close()
    return site


@pytest.fixture(autouse=True)
def sent() -> None:
    """The orders of which receipts were sent, of one test."""
    global orders
    orders = asyncio.Queue()


orders: "asyncio.Queue[tuple[int, str]]"


@task(queue="receipts")
async def receipt(ctx: Context, order: int) -> None:
    orders.put_nowait((order, ctx.job_id))


@pytest.fixture
async def client(allowed: Site) -> AsyncIterator[AsyncClient]:
    """A node with a worker for receipts."""
    async with running_node(allowed.url) as node:
        server = api_of(node)
        url = allowed.server_url = f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}"
        async with AsyncClient(url, KEY) as client:
            await client.queues.create("receipts")
            worker = Worker(url, KEY, [receipt])
            serving = asyncio.create_task(worker.serve())
            yield client
            worker.stop()
            async with asyncio.timeout(20):
                await serving
        await server.stop(1.0)


async def next_order() -> int:
    return (await next_receipt())[0]


async def next_receipt() -> tuple[int, str]:
    async with asyncio.timeout(20):
        return await orders.get()


async def test_commit_makes_the_job_and_rollback_leaves_nothing(
    client: AsyncClient, site: Site
) -> None:
    connection = await asyncpg.connect(site.shop_url)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("INSERT INTO orders VALUES (1)")
    await enqueue(connection, receipt, order=1)
    await transaction.rollback()
    async with connection.transaction():
        await connection.execute("INSERT INTO orders VALUES (2)")
        spec = JobSpec(receipt, {"order": 2}, priority=7)
        reference = await enqueue_spec(connection, spec)
    order, job_id = await next_receipt()
    assert order == 2
    assert orders.empty()
    job = await client.get(job_id)
    assert (job.job_type, job.payload, job.priority) == ("receipt", {"order": 2}, 7)
    assert job.idempotency_key == f"inbox:{reference}"
    await connection.close()


async def test_every_library(client: AsyncClient, site: Site) -> None:
    with psycopg.connect(site.shop_url) as plain:
        enqueue(plain, receipt, order=1)
    assert await next_order() == 1
    async with await psycopg.AsyncConnection.connect(site.shop_url) as connection:
        await enqueue(connection, receipt, order=2)
    assert await next_order() == 2
    url = site.shop_url.replace("postgresql://", "postgresql+psycopg://")
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection_2:
        enqueue(connection_2, receipt, {"order": 3})
    assert await next_order() == 3
    with sqlalchemy.orm.Session(engine) as session, session.begin():
        enqueue_spec(session, receipt.job(order=4))
    assert await next_order() == 4
    engine.dispose()
    async_engine = create_async_engine(url.replace("+psycopg", "+asyncpg"))
    async with async_engine.begin() as connection_3:
        await enqueue(connection_3, receipt, order=5)
    assert await next_order() == 5
    await async_engine.dispose()
    with pytest.raises(TypeError, match="no connection of"):
        enqueue(object(), receipt, order=6)


async def test_the_guide(client: AsyncClient, site: Site) -> None:
    await client.queues.create("default")
    environment = {name: value for name, value in os.environ.items() if "TASKFORGE" not in name}
    environment |= {"TASKFORGE_URL": site.server_url, "TASKFORGE_API_KEY": KEY}
    environment |= {"SHOP_DATABASE_URL": site.shop_url}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLE), env=environment, stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()
    assert process.returncode == 0
    page = GUIDE.read_text(encoding="utf-8")
    assert f"```text\n{told.decode()}```" in page
    assert EXAMPLE.read_text(encoding="utf-8") in page


# --- without a worker ---------------------------------------------------------------------------


@dataclass
class Drained:
    """A node whose inbox is drained by hand."""

    site: Site
    node: Node
    api: ApiServer
    rows: "Rows"
    shop: "asyncpg.Connection[asyncpg.Record]"

    async def drain(self) -> int:
        assert self.api.inbox is not None
        return await self.api.inbox.drain()

    async def counts(self) -> tuple[int, int]:
        """Rows of the inbox, and jobs."""
        await self.node.projector.flush()
        async with self.node.pool.acquire() as connection:
            waiting: int = await connection.fetchval("SELECT count(*) FROM inbox")
            jobs: int = await connection.fetchval("SELECT count(*) FROM jobs")
        return waiting, jobs

    async def jobs(self) -> "list[asyncpg.Record]":
        """All of them, the oldest first."""
        await self.node.projector.flush()
        async with self.node.pool.acquire() as connection:
            return list(await connection.fetch("SELECT * FROM jobs ORDER BY id"))

    async def enqueue_unique(self, order: int, **rule: Any) -> UUID:
        """A receipt with a key that all of these have; its reference."""
        keyed = receipt.configure(unique_key="orders", **({"unique": rule} if rule else {}))
        reference: UUID = await enqueue(self.shop, keyed, {"order": order}, queue="mail")
        return reference


class Rows(Inbox):
    """The real rows, and a kill between the job and the end of its row."""

    killed = False

    async def taken(self, ids: Sequence[bytes]) -> None:
        if self.killed:
            raise ZeroDivisionError
        await super().taken(ids)


class NoBell:
    async def listen(self) -> None: ...
    async def close(self) -> None: ...


@pytest.fixture
async def drained(allowed: Site) -> AsyncIterator[Drained]:
    async with running_node(allowed.url) as node:
        rows = Rows(node.pool)
        ports = InboxPorts(rows, lambda ring: NoBell(), lambda: list(node.core.shards))
        api = api_of(node, inbox=ports)
        await node.queues.create(allowed.project_id, "mail", 0, QueueSettings())
        shop = await asyncpg.connect(allowed.shop_url)
        yield Drained(allowed, node, api, rows, shop)
        await shop.close()


async def test_the_helper_takes_what_submit_takes(drained: Drained) -> None:
    """All options of a submit come to the job."""
    due = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
    options: dict[str, Any] = {
        "priority": 7,
        "timeout_s": 5.0,
        "max_attempts": 2,
        "tags": ["a"],
        "queue": "mail",
    }
    await enqueue(drained.shop, receipt, {"order": 1}, scheduled_for=due, **options)
    grouped = receipt.configure(group_key="g")
    await enqueue(drained.shop, grouped, {"order": 2}, delay_s=3600, queue="mail")
    assert await drained.drain() == 2
    first, second = await drained.jobs()
    child = receipt.configure(parents=[uuid_text(first["id"])])
    await enqueue(drained.shop, child, {"order": 3}, queue="mail")
    assert await drained.drain() == 1
    (*_, third) = await drained.jobs()
    assert third["status"] == "scheduled", "it waits for its parent"
    assert third["scheduled_for"] is None
    shown = ("priority", "timeout_s", "max_attempts", "tags", "scheduled_for")
    assert [first[name] for name in shown] == [7, 5, 2, ["a"], due]
    assert second["group_key"] == "g"
    assert second["scheduled_for"] > datetime.now(UTC) + timedelta(minutes=50)


OTHER_PROJECTS = """INSERT INTO projects (id, organization_id, name)
SELECT gen_random_uuid(), organization_id, n::text
FROM projects CROSS JOIN generate_series(1, 2) AS n RETURNING id"""
MANY_ROWS = """INSERT INTO inbox (project_id, queue_id, shard, job_type, payload)
SELECT project_id, (SELECT id FROM job_queues LIMIT 1), 0, 'send', '{}'
FROM unnest(array_fill($1::uuid, ARRAY[20]) || $2::uuid[]) AS project_id"""


async def test_projects_take_turns(drained: Drained) -> None:
    """Many rows of one do not stand before the one row of another; and none is left out when there
    are more projects than a look has room for."""
    async with drained.node.pool.acquire() as connection:
        others = [row["id"] for row in await connection.fetch(OTHER_PROJECTS)]
        await connection.execute(MANY_ROWS, drained.site.project_id, others)
    rows = await drained.rows.waiting(range(SHARDS), 6)
    assert {row.project_id for row in rows} == {*others, drained.site.project_id}
    assert len(rows) == 4, "an even part of the look for each project"
    seen = [row.project_id for _ in range(3) for row in await drained.rows.waiting([0], 1)]
    assert len(set(seen)) == 3


async def test_what_was_written_before_the_encryption_is_sealed_when_it_is_taken(
    drained: Drained,
) -> None:
    canary = "canary-of-the-inbox"
    await drained.shop.fetchval("SELECT taskforge.enqueue('mail', 'send', $1)", f'"{canary}"')
    await encrypt(drained.node, drained.site.project_id)
    assert await drained.drain() == 1
    assert await drained.counts() == (0, 1)
    assert await tables_of(drained.node.pool, canary) == []
    with pytest.raises(asyncpg.FeatureNotSupportedError):
        await drained.shop.fetchval("SELECT taskforge.enqueue('mail', 'send')")


async def test_a_row_that_is_met_again_makes_no_second_job(drained: Drained) -> None:
    await drained.shop.fetchval("SELECT taskforge.enqueue('mail', 'send')")
    drained.rows.killed = True
    with pytest.raises(ZeroDivisionError):
        await drained.drain()
    drained.rows.killed = False
    assert await drained.drain() == 1
    assert await drained.drain() == 0
    assert await drained.counts() == (0, 1)


async def test_a_row_whose_key_is_held_makes_no_job(drained: Drained) -> None:
    """The one that is there stands for it; who asked to be rejected waits for an operator."""
    for order in (1, 2):
        await drained.enqueue_unique(order)
    rejected = await drained.enqueue_unique(3, on_conflict="reject")
    assert await drained.drain() == 3
    (job,) = await drained.jobs()
    assert job["payload"] == '{"order": 1}'
    (row,) = await drained.rows.refused()
    assert (row.id, row.problem) == (
        rejected.bytes,
        f"unique_key: another job holds this key: {uuid_text(job['id'])}",
    )
    await drained.node.doors.cancel(job["id"], drained.site.project_id)
    await drained.rows.retry([row.id])
    assert await drained.drain() == 1
    assert await drained.rows.refused() == []
    assert [job["payload"] for job in await drained.jobs()] == ['{"order": 1}', '{"order": 3}']


@pytest.mark.parametrize("rule", [{"on_conflict": "replace"}, {"on_conflict": "debounce"}])
async def test_of_rows_that_take_each_others_place_the_youngest_is_the_last(
    drained: Drained, rule: dict[str, Any]
) -> None:
    """Also where all are met again."""
    rule |= {"debounce_s": 3600} if rule["on_conflict"] == "debounce" else {}
    for order in range(1, 6):
        await drained.enqueue_unique(order, **rule)
    drained.rows.killed = True
    with pytest.raises(ZeroDivisionError):
        await drained.drain()
    drained.rows.killed = False
    await drained.enqueue_unique(6, **rule)
    assert await drained.drain() == 6
    assert [job["payload"] for job in await drained.jobs()] == ['{"order": 6}']
    assert await drained.drain() == 0


async def test_a_row_whose_job_has_ended_is_met_again(drained: Drained) -> None:
    """Its key is free by then, and still it makes no second job."""
    await drained.enqueue_unique(1)
    drained.rows.killed = True
    with pytest.raises(ZeroDivisionError):
        await drained.drain()
    drained.rows.killed = False
    (job,) = await drained.jobs()
    await drained.node.doors.cancel(job["id"], drained.site.project_id)
    assert await drained.drain() == 1
    assert [job["status"] for job in await drained.jobs()] == ["cancelled"]


WRONG = ("priority", "colour")


async def test_what_no_job_can_be_made_of_stays_for_an_operator(drained: Drained) -> None:
    for options in ('{"priority": 99}', '{"colour": "red"}', '{"delay_s": 5}'):
        await drained.shop.fetchval(
            "SELECT taskforge.enqueue('mail', 'send', options => $1)", options
        )
    assert await drained.drain() == 3
    assert await drained.drain() == 0
    refused = await drained.rows.refused()
    assert [word in row.problem for word, row in zip(WRONG, refused, strict=True)] == [True, True]
    scraped = generate_latest(drained.node.registry).decode()
    assert 'taskforge_inbox_rows_total{fate="refused"} 2.0' in scraped
    assert 'taskforge_inbox_rows_total{fate="taken"} 1.0' in scraped
    url = ("--postgres-url", drained.site.url)

    async def operator(*arguments: str) -> str:
        result = await asyncio.to_thread(CliRunner().invoke, app, ["inbox", *arguments, *url])
        assert result.exit_code == 0, result.output
        return str(result.output)

    first, second = (uuid_text(row.id) for row in refused)
    assert first in await operator("refused")
    assert "1 wait" in await operator("retry", first)
    assert await drained.drain() == 1
    assert "2 discarded" in await operator("discard", first, second)
    assert await drained.counts() == (0, 1)
    assert SHOP in await operator("grants")
    await operator("forbid", uuid_text(drained.site.project_id), SHOP)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await drained.shop.fetchval("SELECT taskforge.enqueue('mail', 'send')")


@pytest.mark.parametrize(
    ("payload", "options", "said"),
    [
        ("{}", '{"delay_s": 1e400}', "delay_s: "),
        ("{}", '{"delay_s": 1e5000}', "options: "),
        ("{}", f'{{"colour": {"[" * 3000}{"]" * 3000}}}', "options: "),
        ("1e5000", "{}", "payload: "),
        (f"{'[' * 3000}{']' * 3000}", "{}", "payload: "),
        (
            "{}",
            '{"parents": [{"job_id": "01997b5c-6c00-7001-8000-5f3a9c2d4e6f"}]}',
            "parents[0].job_id: ",
        ),
    ],
)
async def test_what_only_the_database_understands_stands_in_nobodys_way(
    drained: Drained, payload: str, options: str, said: str
) -> None:
    ask = "SELECT taskforge.enqueue('mail', 'send', $1, $2)"
    await drained.shop.fetchval(ask, payload, options)
    await drained.shop.fetchval(ask, "{}", "{}")
    assert await drained.drain() == 2
    assert [row.problem.startswith(said) for row in await drained.rows.refused()] == [True]
    assert await drained.counts() == (1, 1)


async def test_a_row_that_our_own_fault_hits_waits_alone(
    drained: Drained, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: object) -> None:
        raise RecursionError

    with monkeypatch.context() as patch:
        patch.setattr("taskforge_server.api.service.inbox.checked", fault)
        await drained.shop.fetchval("SELECT taskforge.enqueue('mail', 'send')")
        assert await drained.drain() == 1
    await drained.shop.fetchval("SELECT taskforge.enqueue('mail', 'send')")
    assert await drained.drain() == 1, "the other is put off"
    assert await drained.counts() == (1, 1)


async def test_a_look_takes_no_more_than_it_may_hold(
    drained: Drained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "INBOX_BYTES_MAX", 2_000)
    for size in (3_000, 900, 900, 900):
        await drained.shop.fetchval(
            "SELECT taskforge.enqueue('mail', 'send', $1)", f'"{"x" * size}"'
        )
    assert [await drained.drain() for _ in range(4)] == [1, 2, 1, 0]


async def test_what_was_put_off_stands_behind_what_came_meanwhile(drained: Drained) -> None:
    await drained.shop.fetchval("SELECT taskforge.enqueue('mail', 'first')")
    (first,) = await drained.rows.waiting(range(SHARDS), 10)
    await drained.shop.fetchval("SELECT taskforge.enqueue('mail', 'second')")
    await drained.rows.put_off([first.id], 0.0)
    rows = await drained.rows.waiting(range(SHARDS), 10)
    assert [row.job_type for row in rows] == ["second", "first"]


async def test_a_project_over_its_quota_waits_and_others_do_not(drained: Drained) -> None:
    for _ in range(2):
        await drained.shop.fetchval("SELECT taskforge.enqueue('mail', 'send')")
    async with drained.node.pool.acquire() as connection:
        await connection.execute(
            "UPDATE subscriptions SET current_period_end = now() - interval '1 day'"
        )
        organization_id = await connection.fetchval("SELECT id FROM organizations")
    drained.node.plans.forget(organization_id)
    assert await drained.drain() == 2
    assert await drained.drain() == 0, "put off"
    assert await drained.counts() == (2, 0)


@pytest.mark.parametrize(
    ("queue", "job_type", "payload", "options", "said"),
    [
        ("post", "send", "{}", "{}", 'queue: the project has no queue "post"'),
        ("mail", "", "{}", "{}", "job_type: 1 to 255 bytes"),
        ("mail", "x" * 256, "{}", "{}", "job_type: 1 to 255 bytes"),
        ("mail", "send", f'"{"x" * 2**20}"', "{}", "payload: .* at most"),
        ("mail", "send", "{}", "[]", "options: an object"),
        ("mail", "send", "{}", f'{{"x": "{"x" * 2**16}"}}', "options: .* at most"),
    ],
)
async def test_mistakes_are_named_at_once(
    drained: Drained, queue: str, job_type: str, payload: str, options: str, said: str
) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match=said):
        await drained.shop.fetchval(
            "SELECT taskforge.enqueue($1, $2, $3, $4)", queue, job_type, payload, options
        )


async def test_only_whom_an_operator_allowed(drained: Drained) -> None:
    async with drained.node.pool.acquire() as connection:
        organization_id = await connection.fetchval("SELECT id FROM organizations")
        elsewhere = await connection.fetchval(
            "INSERT INTO projects (id, organization_id, name) "
            "VALUES (gen_random_uuid(), $1, 'two') RETURNING id",
            organization_id,
        )
    ask = "SELECT taskforge.enqueue('mail', 'send', project => $1::text::uuid)"
    here, there = uuid_text(drained.site.project_id), uuid_text(elsewhere)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="may not enqueue"):
        await drained.shop.fetchval(ask, there)
    await drained.rows.allow(elsewhere, SHOP)
    with pytest.raises(asyncpg.InvalidParameterValueError, match="say of which"):
        await drained.shop.fetchval("SELECT taskforge.enqueue('mail', 'send')")
    await drained.shop.fetchval(ask, here)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await drained.shop.execute("INSERT INTO inbox DEFAULT VALUES")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await drained.shop.execute("SELECT * FROM inbox")
    async with drained.node.pool.acquire() as connection:
        await connection.execute("UPDATE projects SET encrypted = true")
    with pytest.raises(asyncpg.FeatureNotSupportedError, match="encrypted"):
        await drained.shop.fetchval(ask, here)
