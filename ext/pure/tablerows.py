"""Rows of binary COPY, written and read by a list of columns: each a name and a type.

    row   = number of columns (int16), then per column: length (int32, -1 for NULL) and the value
    file  = signature, flags (int32), extension length (int32) and bytes | row … | -1 (int16)

All words are big endian. Times are microseconds since the Unix epoch here, since 2000 in the row.
A column that a row does not name is NULL.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

PG_EPOCH_US = 946_684_800_000_000  # 2000-01-01T00:00:00Z
SIGNATURE = b"PGCOPY\n\xff\r\n\x00"
TEXT_OID = 25
JSONB_VERSION = b"\x01"


@dataclass(frozen=True, slots=True)
class Codec:
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def _word(layout: str) -> Codec:
    packer = struct.Struct(layout)
    return Codec(packer.pack, lambda data: packer.unpack(data)[0])


def _encode_texts(texts: list[str]) -> bytes:
    """A one-dimensional text[]: dimensions, no NULLs, type, length, lower bound, elements."""
    parts = [struct.pack(">iiiii", 1, 0, TEXT_OID, len(texts), 1)]
    for text in texts:
        data = text.encode()
        parts.append(struct.pack(">i", len(data)) + data)
    return b"".join(parts)


def _decode_texts(data: bytes) -> list[str]:
    dimensions, nulls, oid = struct.unpack_from(">iii", data)
    if oid != TEXT_OID or nulls or dimensions not in (0, 1):
        raise ValueError("no one-dimensional text[]")
    texts: list[str] = []
    if dimensions:
        (count,) = struct.unpack_from(">i", data, 12)
        at = 20
        for _ in range(count):
            (size,) = struct.unpack_from(">i", data, at)
            texts.append(data[at + 4 : at + 4 + size].decode())
            at += 4 + size
    return texts


def _decode_jsonb(data: bytes) -> bytes:
    if data[:1] != JSONB_VERSION:
        raise ValueError(f"jsonb of version {data[:1].hex()}")
    return data[1:]


_TIME = struct.Struct(">q")

UUID = Codec(bytes, bytes)
TEXT = Codec(str.encode, bytes.decode)
JSONB = Codec(lambda text: JSONB_VERSION + text, _decode_jsonb)
BYTES_AS_TEXT = Codec(bytes, bytes)  # text that is UTF-8 bytes on our side
INT2 = _word(">h")
INT4 = _word(">i")
INT8 = _word(">q")
FLOAT8 = _word(">d")
BOOL = _word(">?")
TIME = Codec(
    lambda us: _TIME.pack(us - PG_EPOCH_US), lambda data: _TIME.unpack(data)[0] + PG_EPOCH_US
)
TEXTS = Codec(_encode_texts, _decode_texts)

Columns = tuple[tuple[str, Codec], ...]

JOB_COLUMNS: Columns = (
    ("id", UUID),
    ("queue_id", UUID),
    ("project_id", UUID),
    ("job_type", TEXT),
    ("payload", JSONB),
    ("status", TEXT),
    ("priority", INT4),
    ("scheduled_for", TIME),
    ("created_at", TIME),
    ("updated_at", TIME),
    ("started_at", TIME),
    ("finished_at", TIME),
    ("shard", INT2),
    ("lsn", INT8),
    ("lease_lsn", INT8),
    ("worker_id", UUID),
    ("attempts", INT2),
    ("crashes", INT2),
    ("max_attempts", INT2),
    ("timeout_s", FLOAT8),
    ("deadline_at", TIME),
    ("result", JSONB),
    ("last_error", JSONB),
    ("failed_reason", TEXT),
    ("idempotency_key", TEXT),
    ("unique_key", TEXT),
    ("group_key", TEXT),
    ("tags", TEXTS),
    ("waiting_on", INT4),
    ("cancel_reason", TEXT),
    ("history_until", TIME),
    ("returns", INT2),
    ("options", JSONB),
    ("keep", BOOL),
)

PAGE_COLUMNS: Columns = (
    ("id", UUID),
    ("payload", JSONB),
    ("lsn", INT8),
    ("created_at", TIME),
    ("updated_at", TIME),
    ("priority", INT4),
    ("attempts", INT2),
    ("crashes", INT2),
    ("max_attempts", INT2),
    ("scheduled_for", TIME),
    ("started_at", TIME),
    ("timeout_s", FLOAT8),
    ("last_error", JSONB),
    ("returns", INT2),
    ("idempotency_key", TEXT),
    ("unique_key", TEXT),
    ("group_key", TEXT),
    ("tags", TEXTS),
    ("waiting_on", INT4),
    ("options", JSONB),
    ("keep", BOOL),
)
"""What a page has of a pending job, for a reader that knows its lane. What most jobs have is NULL:
a value costs the server ten times as much."""

PAGE_ZEROS = ("priority", "attempts", "crashes", "max_attempts")
"""NULL stands for 0; in `updated_at` for `created_at`."""

EXECUTION_COLUMNS: Columns = (
    ("id", UUID),
    ("job_id", UUID),
    ("worker_id", UUID),
    ("status", TEXT),
    ("output", BYTES_AS_TEXT),
    ("attempt_number", INT4),
    ("started_at", TIME),
    ("finished_at", TIME),
    ("created_at", TIME),
    ("error", JSONB),
    ("shard", INT2),
    ("lsn", INT8),
)


def encode_row(columns: Columns, values: Mapping[str, Any]) -> bytes:
    """One row; a name that is no column is a mistake of the caller."""
    unknown = values.keys() - {name for name, _ in columns}
    if unknown:
        raise ValueError(f"no such columns: {sorted(unknown)}")
    parts = [struct.pack(">h", len(columns))]
    for name, codec in columns:
        value = values.get(name)
        if value is None:
            parts.append(struct.pack(">i", -1))
        else:
            data = codec.encode(value)
            parts.append(struct.pack(">i", len(data)) + data)
    return b"".join(parts)


def decode_row(columns: Columns, row: bytes) -> dict[str, Any]:
    """The values of one whole row, NULLs as None; ValueError when it is another kind of row."""
    try:
        (count,) = struct.unpack_from(">h", row)
        if count != len(columns):
            raise ValueError(f"a row of {count} columns, not {len(columns)}")
        values: dict[str, Any] = {}
        at = 2
        for name, codec in columns:
            (size,) = struct.unpack_from(">i", row, at)
            at += 4
            values[name] = None if size < 0 else codec.decode(row[at : at + size])
            at += max(size, 0)
    except struct.error as problem:
        raise ValueError(f"a damaged row: {problem}") from problem
    return values


def split_rows(data: bytes) -> list[tuple[int, int]]:
    """(start, end) of each row. A file header and a trailer are allowed; ValueError when cut."""
    rows, taken = whole_rows(data)
    if taken != len(data):
        raise ValueError(f"the data end within the row at byte {taken}")
    return rows


def whole_rows(data: bytes) -> tuple[list[tuple[int, int]], int]:
    """(start, end) of each row that is there to its end, and where the last one ends.

    A header before and a trailer after the rows are passed over. ValueError: damaged.
    """
    at = 0
    rows: list[tuple[int, int]] = []
    try:
        if data.startswith(SIGNATURE):
            at = len(SIGNATURE) + 8 + _int(data, len(SIGNATURE) + 4, 4)
        while at < len(data):
            end = at + 2
            columns = _int(data, at, 2)
            if columns == -1:
                if end != len(data):
                    raise ValueError(f"{len(data) - end} bytes after the trailer")
                return rows, end
            if columns < 0:
                raise ValueError(f"the row at byte {at} is damaged")
            for _ in range(columns):
                size = _int(data, end, 4)
                if size < -1:
                    raise ValueError(f"the row at byte {at} is damaged")
                end += 4 + max(size, 0)
            if end > len(data):
                return rows, at
            rows.append((at, end))
            at = end
    except _CutError:
        pass
    return rows, at


class _CutError(Exception):
    """The data end within a word."""


def _int(data: bytes, at: int, size: int) -> int:
    if at + size > len(data):
        raise _CutError
    return int.from_bytes(data[at : at + size], "big", signed=True)
