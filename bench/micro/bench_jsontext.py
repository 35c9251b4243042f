"""The JSON check: compiled beside plain, and beside decoders that also build the value.

python -m pytest bench/micro/bench_jsontext.py --benchmark-enable
"""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from taskforge_server.ext import jsontext as compiled
from taskforge_server.ext.pure import jsontext as plain

TEXTS = {
    "small": b'{"to":"someone@example.com","subject":"Hello","n":12345678}',
    "orders_4k": json.dumps(
        [{"sku": f"A-{n}", "price": n * 1.25, "tags": ["new", None, True]} for n in range(80)]
    ).encode(),
    "text_64k": json.dumps("All work and no play. " * 3_000).encode(),
    "german_64k": json.dumps("Größere Übungen für Ämter. " * 2_300, ensure_ascii=False).encode(),
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
@pytest.mark.parametrize(
    "reader",
    [compiled.check, plain.check, msgspec.json.decode, json.loads],
    ids=["compiled", "plain", "msgspec", "json"],
)
def test_check(benchmark: BenchmarkFixture, reader: Callable[[bytes], Any], text: bytes) -> None:
    benchmark(reader, text)
