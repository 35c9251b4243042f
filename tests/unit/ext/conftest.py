"""Fixtures of the tests of compiled modules."""

from types import ModuleType

import pytest

from taskforge_server.ext.pure import table as pure
from tests.support.table_bench import Bench


@pytest.fixture(params=["pure", "compiled"])
def impl(request: pytest.FixtureRequest) -> ModuleType:
    if request.param == "pure":
        return pure
    return pytest.importorskip(
        "taskforge_server.ext.table", reason="the compiled table is not built yet"
    )


@pytest.fixture
def bench(impl: ModuleType) -> Bench:
    return Bench(impl)
