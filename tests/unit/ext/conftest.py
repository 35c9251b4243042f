"""Fixtures of the tests of compiled modules."""

from types import ModuleType

import pytest

from taskforge_server.ext import table as compiled
from taskforge_server.ext.pure import table as pure
from tests.support.table_bench import Bench


@pytest.fixture(params=[pure, compiled], ids=["pure", "compiled"])
def impl(request: pytest.FixtureRequest) -> ModuleType:
    """The table under test."""
    module: ModuleType = request.param
    return module


@pytest.fixture
def bench(impl: ModuleType) -> Bench:
    return Bench(impl)
