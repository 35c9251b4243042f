"""Fold log rows into a fresh table, and read what the table does not keep: idempotency keys.

    fold(rows) == the state of the owner that wrote them, up to the last row

The table folds the jobs. Keys are rare, so a body is decoded in Python only if it holds the bytes
with which such an event begins.
"""

from collections.abc import Iterator

import msgpack

from taskforge_server.engine.shard.keys import KeyBook, KeyEntry
from taskforge_server.ext.pure.table import ShardTable

KEYED = 9
# An array of six whose first is 9 and whose second is a project id (bin, 16 bytes).
KEYED_START = b"\x96\x09\xc4\x10"
VERSION_AND_CHECKSUM_BYTES = 5


def fold_row(table: ShardTable, lsn: int, body: bytes, keys: KeyBook) -> int:
    """Apply one committed row; how many events it had. BodyError: the row is damaged."""
    events = table.replay(lsn, body)  # checks version, checksum and shape
    if KEYED_START in body:
        for project_id, key, entry in keyed(table.shard, lsn, body):
            keys.remember(project_id, key, entry)
    return events


def keyed(shard: int, lsn: int, body: bytes) -> Iterator[tuple[bytes, str, KeyEntry]]:
    """The idempotency keys that a sound body records: project, key, and what it answered."""
    content = memoryview(body)[VERSION_AND_CHECKSUM_BYTES:]
    unpacker = msgpack.Unpacker(max_buffer_size=len(content))
    unpacker.feed(content)
    base_us = unpacker.unpack()[1]
    for event in unpacker:
        if event[0] == KEYED:
            _, project_id, key, body_hash, at, ids = event
            yield project_id, key, KeyEntry(shard, lsn, body_hash, ids, base_us + at)
