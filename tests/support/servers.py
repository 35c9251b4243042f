"""Fixtures: one embedded PostgreSQL and Valkey a session, and a migrated database for each test.

A fresh database is a copy of a template that was migrated once; that takes some 40 ms, if the
files lie in memory: tests kill processes, not machines, so nothing is lost by it. Import the
fixtures where a conftest needs them; `tests/conftest.py` offers them to every test.
"""

import asyncio
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psycopg
import pytest

from taskforge_server.api.cli.embedded import EmbeddedServers
from taskforge_server.engine.limits import GIB
from taskforge_server.engine.store.migrate import migrate

TEMPLATE = "taskforge_template"
SETTINGS = {"shared_buffers": "128MB", "max_wal_size": "1GB", "min_wal_size": "80MB"}

MEMORY = Path("/dev/shm")
MEMORY_FREE_BYTES_MIN = 4 * GIB
"""With less, the files lie where temporary files do."""

_numbers = count(1)


@contextmanager
def data_folder() -> Iterator[Path]:
    """A new directory for servers, in memory where there is room."""
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MEMORY_FREE_BYTES_MIN
    # Not below pytest's folder: that is closed to the user that runs PostgreSQL for root.
    folder = Path(tempfile.mkdtemp(prefix="taskforge-tests-", dir=MEMORY if roomy else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def temporary_servers(settings: Mapping[str, str] | None = None) -> Iterator[EmbeddedServers]:
    """Servers of one's own on a fresh directory, for tests that kill or misconfigure them."""
    with (
        data_folder() as folder,
        EmbeddedServers(folder, SETTINGS | dict(settings or {})) as started,
    ):
        yield started


@pytest.fixture(scope="session")
def servers() -> Iterator[EmbeddedServers]:
    """Both servers, shared by all tests of the session."""
    with temporary_servers() as started:
        yield started


@pytest.fixture(scope="session")
def migrated_template(servers: EmbeddedServers) -> str:
    """The name of a database that was migrated from empty, with nobody connected."""
    servers.postgres.create_database(TEMPLATE)
    with ThreadPoolExecutor(1) as thread:  # its own thread: a loop may belong to this one
        thread.submit(asyncio.run, migrate(servers.postgres.url(TEMPLATE))).result()
    return TEMPLATE


@dataclass(frozen=True)
class Databases:
    """Makes databases for tests, over one connection: to start `psql` takes as long again."""

    servers: EmbeddedServers
    connection: psycopg.Connection

    @contextmanager
    def copied(self, template: str) -> Iterator[str]:
        """The URL of a copy that is there as long as the block."""
        name = f"test_{next(_numbers)}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield self.servers.postgres.url(name)
        self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _execute(self, statement: str) -> None:
        self.connection.execute(statement.encode())


@pytest.fixture(scope="session")
def databases(servers: EmbeddedServers) -> Iterator[Databases]:
    """Who makes databases on the session's PostgreSQL."""
    with psycopg.connect(servers.postgres.url("postgres"), autocommit=True) as connection:
        yield Databases(servers, connection)


@pytest.fixture
def postgres_url(databases: Databases, migrated_template: str) -> Iterator[str]:
    """A fresh migrated database for one test."""
    with databases.copied(migrated_template) as url:
        yield url


@pytest.fixture(scope="module")
def module_postgres_url(databases: Databases, migrated_template: str) -> Iterator[str]:
    """A fresh migrated database for the tests of one module."""
    with databases.copied(migrated_template) as url:
        yield url


@pytest.fixture
def empty_postgres_url(databases: Databases) -> Iterator[str]:
    """A fresh database with nothing in it."""
    with databases.copied("template1") as url:
        yield url


@pytest.fixture
def redis_url(servers: EmbeddedServers) -> str:
    """The session's Valkey, emptied."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(servers.valkey.socket_path))
        connection.sendall(b"FLUSHALL\r\n")
        assert connection.recv(16).startswith(b"+OK")
    return servers.redis_url
