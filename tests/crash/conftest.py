"""Servers that may be killed, and how much of it is wanted."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.arena import Ground
from tests.support.servers import temporary_servers


@dataclass(frozen=True)
class Form:
    """How often each thing is killed."""

    node_kills: int
    worker_kills: int
    postmaster_kills: int
    backend_kills: int


SHORT = Form(node_kills=4, worker_kills=2, postmaster_kills=1, backend_kills=1)
LONG = Form(node_kills=50, worker_kills=20, postmaster_kills=10, backend_kills=10)


@pytest.fixture
def form(request: pytest.FixtureRequest) -> Form:
    """About a minute, or minutes with --long."""
    return LONG if request.config.getoption("--long") else SHORT


@pytest.fixture(scope="package")
def ground() -> Iterator[Ground]:
    """PostgreSQL and Valkey of these tests alone."""
    with temporary_servers() as servers:
        yield Ground(servers)
