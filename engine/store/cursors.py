"""Cursors of lists: where the next page begins, as opaque text that is checked when it comes back.

    text = base64url( kind (1 byte) | checksum (4 bytes, CRC-32 of kind and key) | key )

A list is ordered by a unique key, and a page begins after the key of the row before it (keyset), so
rows that come or go between two pages move nothing. The checksum catches text that was cut or
mistyped; it is no protection, and needs none: a key only says where to begin among what the caller
may see.
"""

import base64
import binascii
import zlib
from collections.abc import Sequence

from taskforge_server.engine import limits
from taskforge_server.engine.errors import InvalidInput

AUDIT = b"a"
JOBS = b"j"
LOGS = b"l"
QUEUES = b"q"
WORKERS = b"w"
ASSIGNMENTS = b"n"
ORGANIZATIONS = b"o"
PROJECTS = b"p"
API_KEYS = b"k"
DEPENDENCIES = b"d"
DEAD_LETTERS = b"x"
SUBSCRIPTIONS = b"s"
USERS = b"u"
INVITATIONS = b"i"
SCHEDULES = b"c"

_CHECKSUM_BYTES = 4
_ID_BYTES = 16
_NUMBER_BYTES = 8


def id_cursor(kind: bytes, row_id: bytes) -> str:
    """The cursor that continues after the row with this id."""
    return _encode(kind, row_id)


def after_id(kind: bytes, cursor: str) -> bytes:
    """The id in a cursor; `InvalidInput` for anything that `id_cursor` did not make."""
    key = _decode(kind, cursor)
    if len(key) != _ID_BYTES:
        raise _not_a_cursor()
    return key


def name_cursor(kind: bytes, name: str) -> str:
    """The cursor that continues after the row with this name."""
    return _encode(kind, name.encode())


def after_name(kind: bytes, cursor: str) -> str:
    """The name in a cursor; `InvalidInput` for anything that `name_cursor` did not make."""
    try:
        name = _decode(kind, cursor).decode()
    except UnicodeDecodeError:
        raise _not_a_cursor() from None
    if "\0" in name:
        raise _not_a_cursor()
    return name


def number_cursor(kind: bytes, number: int) -> str:
    """The cursor that continues after the row with this number."""
    return _encode(kind, number.to_bytes(_NUMBER_BYTES))


def after_number(kind: bytes, cursor: str) -> int:
    """The number in a cursor; `InvalidInput` for anything that `number_cursor` did not make."""
    key = _decode(kind, cursor)
    if len(key) != _NUMBER_BYTES or key[0] & 0x80:
        raise _not_a_cursor()
    return int.from_bytes(key)


def place_cursor(kind: bytes, numbers: Sequence[int], row_id: bytes) -> str:
    """The cursor that continues behind the row with this id, with what belongs to its place."""
    return _encode(kind, b"".join(n.to_bytes(_NUMBER_BYTES) for n in numbers) + row_id)


def after_place(kind: bytes, cursor: str, count: int) -> tuple[list[int], bytes]:
    """The numbers, so many, and the id in a cursor; `InvalidInput`."""
    key = _decode(kind, cursor)
    if len(key) != count * _NUMBER_BYTES + _ID_BYTES:
        raise _not_a_cursor()
    parts = [key[at : at + _NUMBER_BYTES] for at in range(0, count * _NUMBER_BYTES, _NUMBER_BYTES)]
    if any(part[0] & 0x80 for part in parts):
        raise _not_a_cursor()
    return [int.from_bytes(part) for part in parts], key[count * _NUMBER_BYTES :]


def _encode(kind: bytes, key: bytes) -> str:
    raw = kind + _checksum(kind + key) + key
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(kind: bytes, cursor: str) -> bytes:
    if len(cursor) > limits.CURSOR_CHARS_MAX:
        raise _not_a_cursor()
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _not_a_cursor() from None
    head, key = raw[: 1 + _CHECKSUM_BYTES], raw[1 + _CHECKSUM_BYTES :]
    if head != kind + _checksum(kind + key):
        raise _not_a_cursor()
    return key


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(_CHECKSUM_BYTES)


def _not_a_cursor() -> InvalidInput:
    return InvalidInput("not a cursor of this list: give it as the page before gave it", "cursor")
