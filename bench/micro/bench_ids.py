"""Ids: what one costs, and its text, compiled beside plain.

python -m pytest bench/micro/bench_ids.py --benchmark-enable
"""

from types import ModuleType
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from taskforge_server.ext import ids as compiled
from taskforge_server.ext.pure import ids as plain

NOW_US = 1_700_000_000_000_000


@pytest.fixture(params=[compiled, plain], ids=["compiled", "plain"])
def ids(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_next(benchmark: BenchmarkFixture, ids: ModuleType) -> None:
    benchmark(ids.IdSource(1, 1).next, NOW_US)


def test_execution_id(benchmark: BenchmarkFixture, ids: ModuleType) -> None:
    benchmark(ids.execution_id, ids.IdSource(1, 1).next(NOW_US), 1, NOW_US)


def test_uuid_text(benchmark: BenchmarkFixture, ids: ModuleType) -> None:
    benchmark(ids.uuid_text, ids.IdSource(1, 1).next(NOW_US))


def test_uuid_bytes(benchmark: BenchmarkFixture, ids: ModuleType) -> None:
    benchmark(ids.uuid_bytes, ids.uuid_text(ids.IdSource(1, 1).next(NOW_US)))
