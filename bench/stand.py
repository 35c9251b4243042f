"""What is measured: embedded servers, a node of `taskforge serve`, worker and client processes.

    Stand   PostgreSQL and Valkey of one whole benchmark, and a migrated template
    Run     one measurement: a fresh copy of the template, its node, its workers and clients

Everything of a run ends with it; its database is dropped.
"""

import asyncio
import http.client
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from bench.load.tasks import RECORD_FILE_VARIABLE
from bench.processes import BenchError, Child, children, cpu_s, title
from taskforge_server.api.cli.embedded import EmbeddedServers
from taskforge_server.engine import limits
from taskforge_server.engine.model.tenant import (
    ALL_PERMISSIONS,
    API_KEY_RANDOM_BYTES,
    api_key_text,
)
from taskforge_server.engine.store.api_keys import create_api_key
from taskforge_server.engine.store.bootstrap import NAME, bootstrap
from taskforge_server.engine.store.migrate import migrate
from taskforge_server.engine.store.pool import connect
from taskforge_server.engine.store.tenants import create_project
from taskforge_server.engine.vault.masters import new_master_key

T = TypeVar("T")

TEMPLATE = "bench_template"
START_S = 60.0
FILL_S = 1_200.0
LOOK_S = 0.01
POSTGRES_SETTINGS = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "wal_sync_method",
    "wal_compression",
    "wal_buffers",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
    "autovacuum",
)


class Stand:
    """The servers of all runs, in a folder of their own."""

    def __init__(
        self,
        folder: Path | None,
        node_command: list[str] | None = None,
        settings: dict[str, str] | None = None,
    ) -> None:
        self._own = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="taskforge-bench-"))
        self.api_key, self.master_keys = _credentials(self.folder / "credentials.json")
        self.node_command = node_command or [_script("taskforge"), "serve"]
        self.servers = EmbeddedServers(self.folder, settings)
        self._numbers = count(1)

    def __enter__(self) -> "Stand":
        self.servers.start()
        try:
            self.drop(TEMPLATE)
            self.servers.postgres.create_database(TEMPLATE)
            asyncio.run(_prepare(self.url(TEMPLATE), self.api_key))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.servers.stop()
        if self._own:
            shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str) -> str:
        return self.servers.postgres.url(database)

    def settings(self) -> dict[str, str]:
        """How PostgreSQL is set, as far as it bears on the figures."""
        url = self.url(TEMPLATE)
        return {name: str(rows(url, f"SHOW {name}")[0][0]) for name in POSTGRES_SETTINGS}

    def drop(self, database: str) -> None:
        self.servers.postgres.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def copy(self, template: str, database: str) -> None:
        """A copy of a database to which nobody is connected. Also writes a checkpoint, so that
        none that an earlier run brought about falls into this one."""
        self.drop(database)
        execute = self.servers.postgres.execute
        execute(f"CREATE DATABASE {database} TEMPLATE {template} STRATEGY FILE_COPY")
        execute("CHECKPOINT")
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.servers.valkey.socket_path))
            connection.sendall(b"FLUSHALL\r\n")
            connection.recv(16)

    @contextmanager
    def run(self, template: str = TEMPLATE) -> Iterator["Run"]:
        """A measurement on a fresh database."""
        database = f"bench_{next(self._numbers)}"
        self.copy(template, database)
        try:
            with Run(self, database) as run:
                yield run
        finally:
            self.drop(database)


class Run:
    """One measurement; `with` ends its processes, the last one first."""

    def __init__(self, stand: Stand, database: str) -> None:
        self.stand = stand
        self.database = database
        self.url = stand.url(database)
        self.folder = stand.folder / "logs"
        self.folder.mkdir(exist_ok=True)
        for path in self.folder.glob("*.json"):
            path.unlink()
        self.port = _free_port()
        self.api = Api(self.port, stand.api_key)
        self.parts: dict[str, Child] = {}
        self.options: dict[str, str] = {}
        """Of the node, as variables, beside those that every run gives it."""
        self._stack = ExitStack()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def project(self, name: str) -> str:
        """Another project of the same organisation; its API key. Before the node starts."""
        key = api_key_text(os.urandom(API_KEY_RANDOM_BYTES))
        _run(_make_project(self.url, name, key))
        return key

    def start(self, name: str, command: list[str], key: str = "") -> Child:
        """Start a process that ends with the run, if not before."""
        child = Child(name, command, self._environment(name, key), self.folder)
        self.parts[name] = self._stack.enter_context(child)
        return child

    def node(self, *, wait: bool = True) -> Child:
        """`taskforge serve`, ready when this returns unless `wait` is off."""
        node = self.start("node", self.stand.node_command)
        if wait:
            self.await_ready()
        return node

    def await_ready(self) -> None:
        """Return when the node says that it is ready."""
        self.until(lambda: self.api.status("/readyz") == 200, "the node to be ready", START_S)

    def worker(
        self, *queues: str, concurrency: int = 100, name: str = "worker", key: str = ""
    ) -> Child:
        """The SDK's worker with the handlers of `bench.load.tasks`; of the project of the key."""
        options = [option for queue in queues for option in ("--queue", queue)]
        options += ["--concurrency", str(concurrency), "--log-level", "warning"]
        command = [_script("taskforge-worker"), "bench.load.tasks", *options]
        return self.start(name, command, key)

    def prompt_worker(self, queue: str) -> Child:
        """A worker that waits for the port of a node that is not there yet."""
        command = [sys.executable, "-m", "bench.load.prompt_worker"]
        worker = self.start("worker", [*command, "--port", str(self.port), "--queue", queue])
        _await_here(worker)
        return worker

    def bare_way(self) -> tuple[Child, Child]:
        """In the place of a node and of its worker: the relay and the sink of `load/bare_way.py`,
        connected."""
        relay = self.client("bare_way", "relay", "--url", self.url, name="relay")
        sink = self.client("bare_way", "sink", name="sink")
        _await_here(sink)
        return relay, sink

    def client(self, module: str, *options: object, name: str = "client", key: str = "") -> Child:
        """A load client in a process of its own; of the project of the key."""
        command = [sys.executable, "-m", f"bench.load.{module}"]
        command += ["--port", str(self.port), "--key", key or self.stand.api_key]
        return self.start(name, command + [str(option) for option in options])

    def rows(self, query: str, *arguments: object) -> list[Any]:
        return rows(self.url, query, *arguments)

    def fill(self, statement: str, *arguments: object) -> None:
        """Write rows in bulk, and have the server know how many there are."""
        _run(_fill(self.url, statement, arguments))

    def record(self, name: str = "worker") -> dict[str, list[int]]:
        """What the worker's handlers noted, after its end."""
        found: dict[str, list[int]] = json.loads(self._record_path(name).read_text())
        return found

    def _record_path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def until(self, holds: Callable[[], bool], what: str, timeout_s: float) -> float:
        """Wait until it holds, while all processes live; how long that took."""
        begun_s = time.monotonic()
        while not holds():
            self.parts["node"].check()
            if time.monotonic() - begun_s > timeout_s:
                raise BenchError(f"waited {timeout_s:g} s in vain for {what}")
            time.sleep(LOOK_S)
        return time.monotonic() - begun_s

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU so far, by process; PostgreSQL is the sum of its processes."""
        found = {name: cpu_s(child.pid) for name, child in self.parts.items()}
        postmaster = self.stand.servers.postmaster_pid
        backends = children(postmaster)
        found["postgres"] = cpu_s(postmaster, reaped=True) + sum(map(cpu_s, backends))
        found["valkey"] = cpu_s(self.stand.servers.valkey.pid)
        found["bench"] = cpu_s(os.getpid())
        return found

    def postgres_cpu(self) -> dict[str, float]:
        """The same of PostgreSQL's processes, by what they do. Asks the server who they are."""
        names = {
            int(pid): str(name or kind)
            for pid, name, kind in self.rows(
                "SELECT pid, nullif(application_name, ''), backend_type FROM pg_stat_activity"
            )
        }
        found: dict[str, float] = {}
        for pid in children(self.stand.servers.postmaster_pid):
            name = names.get(pid) or title(pid)
            found[name] = found.get(name, 0.0) + cpu_s(pid)
        return found

    def _environment(self, process: str, key: str) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith("TASKFORGE_")
        }
        return (
            kept
            | {
                "TASKFORGE_POSTGRES_URL": self.url,
                "TASKFORGE_REDIS_URL": self.stand.servers.redis_url,
                "TASKFORGE_PORT": str(self.port),
                "TASKFORGE_NODE_NAME": "bench",
                "TASKFORGE_MASTER_KEYS": self.stand.master_keys,
                "TASKFORGE_URL": f"http://127.0.0.1:{self.port}",
                "TASKFORGE_API_KEY": key or self.stand.api_key,
                RECORD_FILE_VARIABLE: str(self._record_path(process)),
            }
            | self.options
        )


class Api:
    """The node's HTTP interface, for what is not measured."""

    def __init__(self, port: int, api_key: str) -> None:
        self._port = port
        self._headers = {
            "Authorization": f"Bearer {api_key}",
            "Content-Type": "application/json",
        }

    def call(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30.0)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, self._headers)
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def status(self, path: str) -> int:
        """The status of a GET; 0 when nobody answers."""
        try:
            return self.call("GET", path)[0]
        except (OSError, http.client.HTTPException):
            return 0

    def create_queue(self, name: str, history: str = "all") -> None:
        body = {"name": name, "settings": {"history": history}}
        status, reply = self.call("POST", "/v1/queues", body)
        if status != 201:
            raise BenchError(f"no queue: {status} {reply.decode()}")

    def update_queue(self, name: str, **settings: object) -> None:
        status, reply = self.call("PATCH", f"/v1/queues/{name}", {"settings": settings})
        if status != 200:
            raise BenchError(f"no change: {status} {reply.decode()}")

    def metrics(self) -> dict[str, float]:
        """Every metric without labels."""
        status, text = self.call("GET", "/metrics")
        if status != 200:
            raise BenchError(f"no metrics: {status} {text.decode()[:500]}")
        found = re.findall(r"^(\w+) (\S+)$", text.decode(), re.MULTILINE)
        return {name.removeprefix("taskforge_"): float(value) for name, value in found}


def _credentials(file: Path) -> tuple[str, str]:
    """API key and master key of a folder: databases in it that are kept know no others."""
    if not file.exists():
        made = api_key_text(os.urandom(API_KEY_RANDOM_BYTES)), new_master_key("bench")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(made))
    api_key, master_key = json.loads(file.read_text())
    return api_key, master_key


def rows(url: str, query: str, *arguments: object) -> list[Any]:
    """The rows of a query, over a connection of its own."""

    async def fetch() -> list[Any]:
        connection = await asyncpg.connect(url)
        try:
            return [tuple(row) for row in await connection.fetch(query, *arguments)]
        finally:
            await connection.close()

    return _run(fetch())


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


async def _prepare(url: str, api_key: str) -> None:
    await migrate(url)
    connection = await connect(url, application_name="bench")
    try:
        await bootstrap(connection, limits.SHARDS_DEFAULT, api_key)
    finally:
        await connection.close()


async def _fill(url: str, statement: str, arguments: Sequence[object]) -> None:
    connection = await connect(url, application_name="bench", statement_timeout_s=FILL_S)
    try:
        await connection.execute(statement, *arguments, timeout=FILL_S)
        await connection.execute("VACUUM ANALYZE jobs", timeout=FILL_S)
    finally:
        await connection.close()


async def _make_project(url: str, name: str, api_key: str) -> None:
    connection = await connect(url, application_name="bench")
    try:
        organization_id = await connection.fetchval(
            "SELECT organization_id FROM projects WHERE name = $1", NAME
        )
        project = await create_project(connection, organization_id, name)
        await create_api_key(connection, project.id, name, api_key, [ALL_PERMISSIONS])
    finally:
        await connection.close()


def _await_here(child: Child) -> None:
    """Return when it says that it is there."""
    begun_s = time.monotonic()
    while "here" not in child.output:
        child.check()
        if time.monotonic() - begun_s > START_S:
            raise BenchError(f"{child.name} is not there")
        time.sleep(LOOK_S)


def _script(name: str) -> str:
    """A command of this environment."""
    return str(Path(sys.executable).with_name(name))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
