"""A database of its own, nodes and workers around it, and the judgement on what they did.

Everything that an arena starts is a child of this process and is gone when the arena is closed.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from taskforge import Client
from taskforge.client.models import QueueSettings, RetryPolicy
from taskforge_server.api.cli.embedded import EmbeddedServers
from taskforge_server.engine.config import Config
from taskforge_server.engine.node.checking import check_database
from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.migrate import migrate
from taskforge_server.engine.store.pool import connect
from tests.support.evidence import DATABASE_AWAY, fetch, gather, is_quiet
from tests.support.history import Rule, Run, Violation, check
from tests.support.load import Load, Submitter
from tests.support.masterkeys import MASTER_KEYS
from tests.support.processes import Child, CrashWorker, Node, until
from tests.support.servers import data_folder

API_KEY = "crash-tests"
TEMPLATE = "crash_template"
LEASE_TTL_S = 2.0
QUIET_S = 120.0
QUIET_LOOK_S = 0.1
RETRIES = RetryPolicy(max_attempts=20, base_delay_s=0.02, max_delay_s=0.2)
"""Short pauses, and enough attempts: a kill must not use them up."""
SETTINGS = QueueSettings(retry_policy=RETRIES, crashes_max=100)

log = logging.getLogger(__name__)

_numbers = count(1)


class Arena:
    """One database and what works on it."""

    def __init__(
        self,
        servers: EmbeddedServers,
        url: str,
        folder: Path,
        shards: int,
        off: Sequence[str],
        options: Mapping[str, str],
    ) -> None:
        self.servers = servers
        self.url = url
        self.folder = folder
        self.shards = shards
        self.queues: list[str] = []
        self.children: list[Child] = []
        self.clients: list[Submitter] = []
        self._node_environment = {
            "TASKFORGE_POSTGRES_URL": url,
            "TASKFORGE_REDIS_URL": servers.redis_url,
            "TASKFORGE_SHARDS": str(shards),
            "TASKFORGE_MASTER_KEYS": MASTER_KEYS,
            "TASKFORGE_LEASE_TTL_S": str(LEASE_TTL_S),
            "TASKFORGE_HEARTBEAT_S": "0.5",
            "TASKFORGE_TICK_S": "0.05",
            "TASKFORGE_SETTLE_S": "0.2",
            "TASKFORGE_LOG_RETENTION_ALL": "true",
            "TASKFORGE_DRAIN_TIMEOUT_S": "5",
            **options,
        }
        if off:
            self._node_environment |= {
                "TASKFORGE_TEST_BUILD": "1",
                "TASKFORGE_TEST_DISABLE": ",".join(off),
            }

    def node(self, name: str = "node", **more: str) -> Node:
        """A node that is ready."""
        node = Node(name, self._node_environment, self.folder)
        self.children.append(node)
        node.start(**more)
        node.await_ready()
        return node

    def make_queues(self, node: Node, names: Sequence[str]) -> None:
        """Queues with short retries."""
        with Client(node.url, API_KEY) as client:
            for name in names:
                client.queues.create(name, settings=SETTINGS)
        self.queues += names

    def worker(self, node: Node, name: str = "worker") -> CrashWorker:
        """A worker of all queues at this node."""
        environment = {"TASKFORGE_URL": node.url, "TASKFORGE_API_KEY": API_KEY}
        worker = CrashWorker(name, environment, self.folder, self.queues)
        self.children.append(worker)
        worker.start()
        return worker

    def client(self, node: Node, name: str = "client", answer_s: float = 8.0) -> Submitter:
        """A client in the hands of the test."""
        client = Submitter(name, node.url, API_KEY, self.folder, answer_s)
        self.clients.append(client)
        return client

    @contextmanager
    def load(self, node: Node, seed: int, clients: int = 3) -> Iterator[Load]:
        """Clients that submit until the block ends."""
        load = Load(node.url, API_KEY, self.queues, self.folder, seed, clients)
        load.start()
        try:
            yield load
        except BaseException:
            load.abandon()
            raise
        load.stop()

    def check_alive(self) -> None:
        """Every child that nobody killed is still there."""
        for child in self.children:
            assert child.alive or child.expected_dead, f"{child.name} has ended\n{child.tail()}"

    def run_until_now(self) -> Run:
        """What there is to know at this moment."""
        return gather(self.url, self.folder)

    def quiet(self, timeout_s: float = QUIET_S) -> bool:
        """Wait until no job is open and the tables know the log. False: not in time."""

        def look() -> bool:
            try:
                return is_quiet(self.url)
            except DATABASE_AWAY:
                return False

        try:
            return until(look, "quiet", timeout_s, every_s=QUIET_LOOK_S)
        except AssertionError:
            return False

    def judge(self, timeout_s: float = QUIET_S) -> tuple[Run, list[Violation]]:
        """The run once all is quiet, or the time is over, and the promises that it broke."""
        for client in self.clients:
            client.close()
        self.clients.clear()
        found = []
        if not self.quiet(timeout_s):
            found.append(Violation(Rule.UNFINISHED, "the run", f"not quiet after {timeout_s:g} s"))
        run = self.run_until_now()
        return run, found + check(run) + self.differences()

    def differences(self) -> list[Violation]:
        """What `taskforge check` finds in the database."""
        config = Config(postgres_url=self.url, shards=self.shards, log_retention_all=True)
        return [
            Violation(Rule.TABLES_DIFFER, found.id.hex() if found.id else "", f"check: {found}")
            for found in asyncio.run(check_database(config))
        ]

    def close(self) -> None:
        """End every child."""
        for client in self.clients:
            client.close()
        for child in self.children:
            child.kill()

    def tails(self) -> str:
        """The end of every log, for a failure."""
        return "\n".join(child.tail() for child in self.children)


class Ground:
    """Servers of their own to kill, on which arenas stand."""

    def __init__(self, servers: EmbeddedServers) -> None:
        self.servers = servers
        servers.postgres.create_database(TEMPLATE)
        asyncio.run(migrate(servers.postgres.url(TEMPLATE)))

    @contextmanager
    def arena(self, shards: int = 8, off: Sequence[str] = (), **options: str) -> Iterator[Arena]:
        """A fresh database with an API key; `off` are safeguards that its nodes do without,
        `options` variables of their environment."""
        name = f"arena_{next(_numbers)}"
        postgres = self.servers.postgres
        postgres.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        url = postgres.url(name)
        asyncio.run(_bootstrap(url, shards))
        with data_folder() as folder:
            arena = Arena(self.servers, url, folder, shards, off, options)
            try:
                yield arena
            except BaseException:
                log.error("the arena's processes said:\n%s", arena.tails())
                raise
            finally:
                arena.close()
        postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def _bootstrap(url: str, shards: int) -> None:
    connection = await connect(url, application_name="crash tests")
    try:
        await bootstrap(connection, shards, API_KEY)
    finally:
        await connection.close()


def kill_backends(url: str) -> int:
    """pg_terminate_backend of everybody in the arena's database; how many there were."""
    statement = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    return int(fetch(url, statement)[0][0])
