"""A database whose owner is no superuser: row security holds for the node itself."""

import asyncio
from collections.abc import Iterator

import pytest

from taskforge_server.engine.store.audit import AuditLog
from taskforge_server.engine.store.migrate import migrate
from taskforge_server.engine.store.pool import connect
from tests.support.engine_parts import done
from tests.support.people import serving
from tests.support.real_node import Hand, arrives
from tests.support.servers import temporary_servers


@pytest.fixture
def plain_url() -> Iterator[str]:
    """A fresh database on servers of its own: roles belong to a server, and none is there yet."""
    with temporary_servers() as servers:
        servers.postgres.execute("CREATE ROLE plain LOGIN CREATEROLE")
        servers.postgres.execute("CREATE DATABASE plain OWNER plain")
        yield servers.postgres.url("plain").replace("postgres@", "plain@")


async def test_a_node_under_an_owner_who_is_no_superuser(plain_url: str) -> None:
    await migrate(plain_url)
    connection = await connect(plain_url, application_name="test")
    plain = "SELECT NOT rolsuper AND NOT rolbypassrls FROM pg_roles WHERE rolname = current_user"
    assert await connection.fetchval(plain)
    await connection.close()
    async with serving(plain_url) as site:
        ada, other = await site.sign_up(), await site.sign_up()
        members = await site.get("/v1/users", ada)
        assert [item["id"] for item in members.json["items"]] == [ada.id]
        assert (await site.get("/v1/audit/verify", ada)).json["intact"]
        assert (await site.get(f"/v1/projects/{ada.project_id}", other)).status == 404
        node = site.node
        for organization in await AuditLog(node.pool).organizations():
            assert (await AuditLog(node.pool).verify(organization)).is_intact
        hand = Hand(node, bytes.fromhex(ada.project_id.replace("-", "")))
        queue = await hand.queue()
        worker, outlet = await hand.worker(queue)
        ids = await hand.submit(queue, 3)
        await arrives(outlet, lambda: len(outlet.tokens()) == 3)
        await worker.receive([done(1, b"".join(outlet.tokens()))])
        async with asyncio.timeout(20):
            for job_id in ids:
                await node.doors.wait_finished(job_id, 10.0)
        assert [row["status"] for row in await hand.rows("jobs")] == ["succeeded"] * 3
        assert len(await hand.rows("job_executions")) == 3
