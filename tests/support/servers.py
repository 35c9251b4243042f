"""Fixtures: one embedded PostgreSQL and Valkey a session, and a migrated database for each test.

A fresh database is a copy of a template that was migrated once; that takes some 50 ms. Import the
fixtures where a conftest needs them; `tests/conftest.py` offers them to every test.
"""

import asyncio
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from taskforge_server.api.cli.embedded import EmbeddedServers
from taskforge_server.engine.store.migrate import migrate

TEMPLATE = "taskforge_template"
SETTINGS = {"shared_buffers": "128MB", "max_wal_size": "1GB", "min_wal_size": "80MB"}

_numbers = count(1)


@contextmanager
def temporary_servers(settings: Mapping[str, str] | None = None) -> Iterator[EmbeddedServers]:
    """Servers of one's own on a fresh directory, for tests that kill or misconfigure them."""
    # Not below pytest's folder: that is closed to the user that runs PostgreSQL for root.
    folder = Path(tempfile.mkdtemp(prefix="taskforge-tests-"))
    try:
        with EmbeddedServers(folder, SETTINGS | dict(settings or {})) as started:
            yield started
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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


@pytest.fixture
def postgres_url(servers: EmbeddedServers, migrated_template: str) -> Iterator[str]:
    """A fresh migrated database for one test."""
    yield from _copied(servers, migrated_template)


@pytest.fixture(scope="module")
def module_postgres_url(servers: EmbeddedServers, migrated_template: str) -> Iterator[str]:
    """A fresh migrated database for the tests of one module."""
    yield from _copied(servers, migrated_template)


@pytest.fixture
def empty_postgres_url(servers: EmbeddedServers) -> Iterator[str]:
    """A fresh database with nothing in it."""
    yield from _copied(servers, "template1")


@pytest.fixture
def redis_url(servers: EmbeddedServers) -> str:
    """The session's Valkey, emptied."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(servers.valkey.socket_path))
        connection.sendall(b"FLUSHALL\r\n")
        assert connection.recv(16).startswith(b"+OK")
    return servers.redis_url


def _copied(servers: EmbeddedServers, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    servers.postgres.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield servers.postgres.url(name)
    servers.postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")
