"""What is asked of a body before it is decoded, in plain Python: the oracle of `bodyscan.pyx`."""

import struct
from collections.abc import Iterator

DEPTH_LIMIT = 256
NAMES_MAX = 32
ENTRIES_DEPTH = 2
OWN_DEPTH_MAX = 4

_FIXED_BYTES = {
    0xCA: 4,
    0xCB: 8,
    **{0xCC + i: 1 << i for i in range(4)},
    **{0xD0 + i: 1 << i for i in range(4)},
    **{0xD4 + i: 1 + (1 << i) for i in range(5)},
}


class DepthError(ValueError):
    """More levels of arrays and maps than allowed."""


class _Names:
    """The names of one object."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def repeats(self, name: bytes) -> bool:
        if name in self._seen:
            return True
        if len(self._seen) < NAMES_MAX:
            self._seen.add(name)
        return False


def scan_json(data: bytes, depth: int) -> tuple[int, int]:
    """(offset of a name that is not the first of its kind in an object of ours or -1, entries)."""
    if not 1 <= depth <= OWN_DEPTH_MAX:
        raise ValueError(f"depth {depth} is not in 1 … {OWN_DEPTH_MAX}")
    open_objects: list[_Names | None] = []
    name_next = False
    at = commas = entries = 0
    offset = -1
    while at < len(data):
        c = data[at : at + 1]
        if c == b'"':
            end = _string_end(data, at + 1)
            if name_next and len(open_objects) <= depth:
                name = data[at + 1 : end]
                names = open_objects[-1]
                assert names is not None
                if offset == -1 and (b"\\" in name or names.repeats(name)):
                    offset = at
            name_next = False
            at = end
        elif c in (b"{", b"["):
            if len(open_objects) == DEPTH_LIMIT:
                break
            open_objects.append(_Names() if c == b"{" else None)
            if len(open_objects) == ENTRIES_DEPTH:
                commas = 0
            name_next = c == b"{"
        elif c in (b"}", b"]"):
            if len(open_objects) <= 1:
                break
            if open_objects.pop() is None and len(open_objects) == ENTRIES_DEPTH - 1:
                entries = max(entries, commas + 1)
            name_next = False
        elif c == b",":
            name_next = bool(open_objects) and open_objects[-1] is not None
            commas += len(open_objects) == ENTRIES_DEPTH
        at += 1
    return offset, entries


def _string_end(data: bytes, at: int) -> int:
    while at < len(data) and data[at] != ord('"'):
        at += 2 if data[at] == ord("\\") else 1
    return min(at, len(data))


def scan_msgpack(data: bytes, depth: int, depth_max: int) -> tuple[int, int]:
    """(offset of a name that is not the first of its kind in a map of ours or -1, entries)."""
    if not 1 <= depth <= OWN_DEPTH_MAX:
        raise ValueError(f"depth {depth} is not in 1 … {OWN_DEPTH_MAX}")
    if not depth <= depth_max <= DEPTH_LIMIT:
        raise ValueError(f"depth_max {depth_max} is not in {depth} … {DEPTH_LIMIT}")
    open_containers: list[tuple[Iterator[int], bool, _Names]] = [(iter(range(1)), False, _Names())]
    at = entries = 0
    offset = -1
    while open_containers:
        left, is_map, names = open_containers[-1]
        place = next(left, None)
        if place is None:
            open_containers.pop()
            continue
        try:
            kind, count, size = _head(data, at)
        except (IndexError, struct.error):
            break
        level = len(open_containers) - 1
        if kind in ("array", "map"):
            if level == depth_max:
                raise DepthError(f"more than {depth_max} arrays and maps inside each other")
            if kind == "array" and level + 1 == ENTRIES_DEPTH:
                entries = max(entries, count)
            values = count * 2 if kind == "map" else count
            open_containers.append((iter(range(values)), kind == "map", _Names()))
            at += size
            continue
        if at + size + count > len(data):
            break
        is_name = is_map and place % 2 == 0 and kind == "str" and level <= depth
        if offset == -1 and is_name and names.repeats(data[at + size : at + size + count]):
            offset = at
        at += size + count
    return offset, entries


def _head(data: bytes, at: int) -> tuple[str, int, int]:
    """Kind of the value, its entries or bytes, the size of its head; IndexError: no msgpack."""
    c = data[at]
    if c < 0x80 or c >= 0xE0 or c in (0xC0, 0xC2, 0xC3):
        return "scalar", 0, 1
    if c < 0xA0:
        return ("map" if c < 0x90 else "array"), c & 0x0F, 1
    if c < 0xC0:
        return "str", c & 0x1F, 1
    if c in _FIXED_BYTES:
        return "scalar", _FIXED_BYTES[c], 1
    wide = {0xC4: "bin", 0xC7: "ext", 0xD9: "str"}
    for first, kind in wide.items():
        if first <= c <= first + 2:
            form = ">BHI"[c - first + 1]
            (count,) = struct.unpack_from(f">{form}", data, at + 1)
            return kind, count + (kind == "ext"), 1 + struct.calcsize(form)
    if c >= 0xDC:
        form = ">I" if c & 1 else ">H"
        (count,) = struct.unpack_from(form, data, at + 1)
        return ("map" if c >= 0xDE else "array"), count, 1 + struct.calcsize(form)
    raise IndexError
