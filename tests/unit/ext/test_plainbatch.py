"""Plain batches: the compiled reader against its plain twin, and what is left to the long way."""

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge_server.ext import plainbatch
from taskforge_server.ext.pure import plainbatch as pure

BOUNDS = (3, 40, 5)

PLAIN: list[dict[str, Any]] = [
    {"job_type": "a", "payload": b"null"},
    {"payload": b'{"n": [1]}', "job_type": "zwölf", "priority": 9},
    {"job_type": "a", "payload": b"0", "priority": 0},
]
LEFT: dict[str, Any] = {
    "another field": {"job_type": "a", "payload": b"0", "tags": ["x"]},
    "no payload": {"job_type": "a"},
    "no type": {"payload": b"0"},
    "an empty type": {"job_type": "", "payload": b"0"},
    "a long type": {"job_type": "x" * 256, "payload": b"0"},
    "a type with U+0000": {"job_type": "a\0", "payload": b"0"},
    "a type of bytes": {"job_type": b"a", "payload": b"0"},
    "a payload of text": {"job_type": "a", "payload": "0"},
    "a payload that is no JSON": {"job_type": "a", "payload": b"{"},
    "an empty payload": {"job_type": "a", "payload": b""},
    "a long payload": {"job_type": "a", "payload": b" " * 40 + b"0"},
    "a deep payload": {"job_type": "a", "payload": b"[[[[[[1]]]]]]"},
    "priority 10": {"job_type": "a", "payload": b"0", "priority": 10},
    "priority -1": {"job_type": "a", "payload": b"0", "priority": -1},
    "priority 1.0": {"job_type": "a", "payload": b"0", "priority": 1.0},
    "no map": 1,
}


def pack(*jobs: Any) -> bytes:
    packed: bytes = msgpack.packb({"jobs": list(jobs)})
    return packed


def summary(module: Any, body: bytes) -> tuple[int, int] | None:
    batch = module.plain_batch(body, *BOUNDS)
    return None if batch is None else (batch.count, batch.bytes_total)


@pytest.mark.parametrize("module", [plainbatch, pure], ids=["compiled", "pure"])
class TestPlain:
    def test_plain_jobs_are_taken(self, module: Any) -> None:
        assert summary(module, pack(*PLAIN)) == (3, 4 + 10 + 1)

    @pytest.mark.parametrize("name", LEFT)
    def test_the_rest_is_left(self, module: Any, name: str) -> None:
        assert summary(module, pack(PLAIN[0], LEFT[name])) is None

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            pack(),
            pack(*PLAIN, PLAIN[0]),
            pack(PLAIN[0]) + b"\xc0",
            pack(PLAIN[0])[:-1],
            msgpack.packb({"jobs": [PLAIN[0]], "more": 1}),
            msgpack.packb([PLAIN[0]]),
            pack(PLAIN[1]).replace("ö".encode(), b"\xff\xfe"),
            b"\x81\xa4jobs\x91\x83\xa8job_type\xa1a\xa7payload\xc4\x010\xa7payload\xc4\x010",
        ],
    )
    def test_bodies_of_another_shape_are_left(self, module: Any, body: bytes) -> None:
        assert summary(module, body) is None


@given(st.data())
def test_compiled_and_pure_agree_on_damage(data: st.DataObject) -> None:
    body = bytearray(pack(*PLAIN))
    for _ in range(data.draw(st.integers(0, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(body[: data.draw(st.integers(0, len(body)))])
    assert summary(plainbatch, damaged) == summary(pure, damaged)
