"""A node on a real database, with a worker that a test holds in its hands."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from taskforge_server.engine.actors.ports import Hello
from taskforge_server.engine.actors.worker import WorkerActor
from taskforge_server.engine.cluster.memory import Exchange, MemoryCluster
from taskforge_server.engine.config import Config
from taskforge_server.engine.model.queue import QueueRef, QueueSettings
from taskforge_server.engine.node.node import Node
from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.pool import connect
from taskforge_server.ext.table import SubmitBatch
from tests.support.engine_parts import KeptOutlet
from tests.support.masterkeys import MASTER_KEYS

SHARDS = 4


def config_for(url: str, **options: Any) -> Config:
    """Quick ticks, so that a test waits for little; leases that last, since nobody sends heartbeats
    for a worker in a test's hands while the machine is busy with something else."""
    quick: dict[str, Any] = {
        "tick_s": 0.02,
        "settle_s": 0.05,
        "heartbeat_s": 0.4,
        "lease_ttl_s": 30.0,
        "drain_timeout_s": 5.0,
    }
    if "master_key_file" not in options:
        quick["master_keys"] = MASTER_KEYS
    return Config(postgres_url=url, node_name="test", **({"shards": SHARDS} | quick | options))


async def prepared(url: str) -> bytes:
    """Bootstrap the database; the project's id."""
    connection = await connect(url, application_name="test")
    try:
        return (await bootstrap(connection, SHARDS)).project_id
    finally:
        await connection.close()


@asynccontextmanager
async def running_node(
    url: str, exchange: Exchange | None = None, **options: Any
) -> AsyncIterator[Node]:
    """A node from start to a clean stop."""
    exchange = exchange or Exchange()
    node = Node(config_for(url, **options), lambda node_id: MemoryCluster(exchange, node_id))
    await node.start()
    try:
        yield node
    finally:
        await node.stop()


async def kill(node: Node) -> None:
    """Let the node end as by SIGKILL: nothing is written out, connections break off."""
    await node._background.stop()
    await node.pager.stop()
    await node.ownership.stop()
    await node.core.supervisor.stop_all()
    await node.clock.stop()
    node.pool.terminate()
    for link in (
        *(writer.link for writer in node.log._writers),
        node.log._trimmer,
        node.tables._executions,
        *node.tables._jobs,
    ):
        link.discard()


class Hand:
    """A project's client and worker."""

    def __init__(self, node: Node, project_id: bytes) -> None:
        self.node = node
        self.project_id = project_id

    async def queue(self, name: str = "mail", priority: int = 0, **settings: Any) -> QueueRef:
        made = await self.node.queues.create(
            self.project_id, name, priority, msgspec.convert(settings, QueueSettings)
        )
        return made.ref()

    async def submit(self, queue: QueueRef, count: int = 1, due_us: int = 0) -> list[bytes]:
        batch = SubmitBatch()
        for _ in range(count):
            batch.add("send", b'{"to": 1}', 0, due_us)
        ids = await self.node.doors.submit(queue, batch)
        return [ids[at : at + 16] for at in range(0, len(ids), 16)]

    async def worker(
        self,
        *queues: QueueRef,
        credit: int = 1000,
        worker_id: bytes = b"",
        running: bytes = b"",
    ) -> tuple[WorkerActor, KeptOutlet]:
        hello = Hello(
            worker_id or secrets.token_bytes(16),
            "worker",
            "general",
            tuple(ref.name for ref in queues),
            frozenset({"send"}),
            credit,
            running,
            "test",
        )
        outlet = KeptOutlet()
        worker = await self.node.doors.attach_worker(hello, self.project_id, queues, outlet)
        return worker, outlet

    async def status(self, job_id: bytes) -> str:
        found = await self.node.doors.job(job_id)
        return "" if found is None else str(found[0]["status"])

    async def rows(self, table: str) -> list[dict[str, Any]]:
        """All rows of `jobs` or `job_executions`, once everything is projected."""
        await self.node.projector.flush()
        statements = {
            "jobs": "SELECT * FROM jobs ORDER BY id",
            "job_executions": "SELECT * FROM job_executions ORDER BY job_id, attempt_number",
            "workers": "SELECT * FROM workers",
        }
        return [dict(row) for row in await self.node.pool.fetch(statements[table])]


async def arrives(outlet: KeptOutlet, holds: Callable[[], object]) -> None:
    """Wait until frames that came to the outlet make it hold."""
    async with asyncio.timeout(20):
        while not holds():
            assert outlet.closed is None, f"no more frames come: {outlet.closed}"
            outlet.arrived.clear()
            await outlet.arrived.wait()
