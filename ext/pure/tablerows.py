"""Rows of binary COPY, written and read by a list of columns: each a name and a type.

    row   = number of columns (int16), then per column: length (int32, -1 for NULL) and the value
    file  = signature, flags (int32), extension length (int32) and bytes | row … | -1 (int16)

All words are big endian. Times are microseconds since the Unix epoch here, since 2000 in the row.
A column that a row does not name is NULL. A row has one of two forms: all columns of its table, or
the `plain` ones, where the others are all NULL.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

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

RARE = True


class Column(NamedTuple):
    name: str
    codec: Codec
    rare: bool = False
    """NULL for a job that waits or simply succeeded."""


Columns = tuple[Column, ...]

JOB_COLUMNS: Columns = (
    Column("id", UUID),
    Column("queue_id", UUID),
    Column("project_id", UUID),
    Column("job_type", TEXT),
    Column("payload", JSONB),
    Column("status", TEXT),
    Column("priority", INT4),
    Column("scheduled_for", TIME),
    Column("created_at", TIME),
    Column("updated_at", TIME),
    Column("started_at", TIME),
    Column("finished_at", TIME),
    Column("shard", INT2),
    Column("lsn", INT8),
    Column("lease_lsn", INT8, RARE),
    Column("worker_id", UUID, RARE),
    Column("attempts", INT2),
    Column("crashes", INT2),
    Column("max_attempts", INT2),
    Column("timeout_s", FLOAT8),
    Column("deadline_at", TIME, RARE),
    Column("result", JSONB),
    Column("last_error", JSONB, RARE),
    Column("failed_reason", TEXT, RARE),
    Column("idempotency_key", TEXT, RARE),
    Column("unique_key", TEXT, RARE),
    Column("group_key", TEXT, RARE),
    Column("tags", TEXTS, RARE),
    Column("waiting_on", INT4, RARE),
    Column("cancel_reason", TEXT, RARE),
    Column("history_until", TIME, RARE),
    Column("returns", INT2, RARE),
    Column("options", JSONB, RARE),
    Column("keep", BOOL, RARE),
)

_BY_NAME = {column.name: column for column in JOB_COLUMNS}

PAGE_COLUMNS: Columns = tuple(
    _BY_NAME[name]._replace(rare=False)
    for name in (
        "id",
        "payload",
        "lsn",
        "created_at",
        "updated_at",
        "priority",
        "attempts",
        "crashes",
        "max_attempts",
        "scheduled_for",
        "started_at",
        "timeout_s",
        "last_error",
        "returns",
        "idempotency_key",
        "unique_key",
        "group_key",
        "tags",
        "waiting_on",
        "options",
        "keep",
    )
)
"""What a page has of a pending job, for a reader that knows its lane. What most jobs have is NULL:
a value costs the server more."""

PAGE_ZEROS = ("priority", "attempts", "crashes", "max_attempts")
"""NULL stands for 0; in `updated_at` for `created_at`."""

# Not in the order of the table, so that the lsn stands at one place in both forms.
EXECUTION_COLUMNS: Columns = (
    Column("id", UUID),
    Column("job_id", UUID),
    Column("worker_id", UUID),
    Column("status", TEXT),
    Column("attempt_number", INT4),
    Column("started_at", TIME),
    Column("finished_at", TIME),
    Column("created_at", TIME),
    Column("shard", INT2),
    Column("lsn", INT8),
    Column("output", BYTES_AS_TEXT, RARE),
    Column("error", JSONB, RARE),
)


def plain(columns: Columns) -> Columns:
    """Without the rare ones."""
    return tuple(column for column in columns if not column.rare)


def encode_row(columns: Columns, values: Mapping[str, Any]) -> bytes:
    """One row; a name that is no column is a mistake of the caller."""
    unknown = values.keys() - {column.name for column in columns}
    if unknown:
        raise ValueError(f"no such columns: {sorted(unknown)}")
    parts = [struct.pack(">h", len(columns))]
    for name, codec, _ in columns:
        value = values.get(name)
        if value is None:
            parts.append(struct.pack(">i", -1))
        else:
            data = codec.encode(value)
            parts.append(struct.pack(">i", len(data)) + data)
    return b"".join(parts)


def decode_row(columns: Columns, row: bytes) -> dict[str, Any]:
    """The values of one whole row of either form, NULLs as None; ValueError when it is another kind
    of row."""
    try:
        (count,) = struct.unpack_from(">h", row)
        written = columns if count == len(columns) else plain(columns)
        if count != len(written):
            raise ValueError(f"a row of {count} columns, not {len(columns)} or {len(written)}")
        values: dict[str, Any] = {column.name: None for column in columns}
        at = 2
        for name, codec, _ in written:
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
