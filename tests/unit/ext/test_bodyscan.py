"""Scans of bodies: the compiled scan against its plain twin, and both against plain cases."""

import json
from types import ModuleType
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge_server.ext import bodyscan
from taskforge_server.ext.pure import bodyscan as pure

both = pytest.mark.parametrize("scan", [bodyscan, pure], ids=["compiled", "pure"])

json_scalars = (
    st.none() | st.booleans() | st.integers(-(2**40), 2**63) | st.text('a"\\b{}[],:é', max_size=6)
)
scalars = json_scalars | st.floats()
names = st.sampled_from(["a", "b", "ab", 'a"', "é", "c"])


def written(value: Any) -> str:
    """JSON text of a value in which objects are lists of pairs, so that names may repeat."""
    match value:
        case ("object", pairs):
            inner = ", ".join(f"{json.dumps(name)} :{written(item)}" for name, item in pairs)
            return f"{{ {inner}}}"
        case list():
            return "[" + ",".join(written(item) for item in value) + " ]"
        case _:
            return json.dumps(value, ensure_ascii=False)


def packed(value: Any) -> bytes:
    """The same in msgpack."""
    match value:
        case ("object", pairs):
            head = msgpack.Packer().pack_map_header(len(pairs))
            return head + b"".join(msgpack.packb(name) + packed(item) for name, item in pairs)
        case list():
            head = msgpack.Packer().pack_array_header(len(value))
            return head + b"".join(packed(item) for item in value)
        case _:
            data: bytes = msgpack.packb(value)
            return data


def documents(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.tuples(st.just("object"), st.lists(st.tuples(names, inner), max_size=3))
        ),
        max_leaves=12,
    )


@given(documents(json_scalars), st.integers(1, 4))
def test_compiled_and_pure_agree_on_json(value: Any, depth: int) -> None:
    data = written(value).encode()
    assert bodyscan.scan_json(data, depth) == pure.scan_json(data, depth)


@given(documents(scalars | st.binary(max_size=40)), st.integers(1, 4))
def test_compiled_and_pure_agree_on_msgpack(value: Any, depth: int) -> None:
    data = packed(value)
    assert bodyscan.scan_msgpack(data, depth, 64) == pure.scan_msgpack(data, depth, 64)


@given(st.binary(max_size=60), st.integers(1, 4))
def test_compiled_and_pure_agree_on_anything(data: bytes, depth: int) -> None:
    outcomes = []
    for scan in (bodyscan, pure):
        try:
            outcomes.append(scan.scan_msgpack(data, depth, 5))
        except (bodyscan.DepthError, pure.DepthError):
            outcomes.append("deep")
    assert outcomes[0] == outcomes[1]


@both
@pytest.mark.parametrize(
    ("text", "depth", "offset"),
    [
        ('{"a":1,"b":2}', 1, -1),
        ('{"a":1,"a":2}', 1, 7),
        ('{"a":1,"\\u0061":2}', 1, 7),
        ('{"a":{"b":1,"b":2}}', 1, -1),
        ('{"a":{"b":1,"b":2}}', 2, 12),
        ('{"a":[{"b":1},{"b":2}]}', 3, -1),
        ('{"a":"\\"a\\":1","b":"a","c":["a","a"]}', 1, -1),
        ('{"a":"\\\\","a":1}', 1, 10),
        ("[1,2]", 1, -1),
        ('"a"', 1, -1),
    ],
)
def test_json(scan: ModuleType, text: str, depth: int, offset: int) -> None:
    assert scan.scan_json(text.encode(), depth)[0] == offset


@both
def test_msgpack_bodyscan(scan: ModuleType) -> None:
    twice = packed(("object", [("a", 1), ("b", 2), ("a", 3)]))
    assert scan.scan_msgpack(twice, 1, 64)[0] == 7
    assert scan.scan_msgpack(packed([[twice]]), 1, 64)[0] == -1
    inner = packed(("object", [("jobs", [("object", [("a", 1), ("a", 2)])])]))
    assert scan.scan_msgpack(inner, 3, 64)[0] > 0
    assert scan.scan_msgpack(inner, 1, 64)[0] == -1


@both
@pytest.mark.parametrize(
    "kind", [b"\x91", b"\x81\xa0", b"\xdc\x00\x01", b"\xdf\x00\x00\x00\x01\xa0"]
)
def test_msgpack_depth_is_bounded(scan: ModuleType, kind: bytes) -> None:
    assert scan.scan_msgpack(kind * 64 + b"\xc0", 1, 64)[0] == -1
    with pytest.raises(scan.DepthError, match="64"):
        scan.scan_msgpack(kind * 65 + b"\xc0", 1, 64)


@both
def test_bad_arguments(scan: ModuleType) -> None:
    for call in (
        lambda: scan.scan_json(b"1", 0),
        lambda: scan.scan_json(b"1", 5),
        lambda: scan.scan_msgpack(b"\xc0", 1, 257),
        lambda: scan.scan_msgpack(b"\xc0", 3, 2),
    ):
        with pytest.raises(ValueError, match="depth"):
            call()


@both
def test_entries(scan: ModuleType) -> None:
    batch: Any = ("object", [("jobs", [[1, 2, 3], 2, ("object", [("a", [1, 2, 3, 4, 5])])])])
    assert scan.scan_json(written(batch).encode(), 3) == (-1, 3)
    assert scan.scan_msgpack(packed(batch), 3, 64) == (-1, 3)
    assert scan.scan_json(b'{"a":[1],"b":[1,2],"b":[1,2,3]}', 1) == (19, 3)
    assert scan.scan_msgpack(b"\x81\xa1a\xdd\xff\xff\xff\xff", 3, 64) == (-1, 2**32 - 1)
