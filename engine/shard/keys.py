"""Idempotency keys: what a submit answered, remembered so that its repetition answers the same.

A key belongs to a project and is remembered for a day, with the shard and the lsn that hold the
record. The same key with the same body gives the first answer; with another body it is a conflict.
The book of a node holds the keys of all its shards, so that a key counts for all queues of a
project; a shard that goes takes its keys with it, and brings them back when it is taken over.

Bounded: beyond KEYS_MAX or KEYS_BYTES_MAX the oldest are forgotten, as if their day were over.
"""

from typing import NamedTuple

from taskforge_server.engine import limits
from taskforge_server.engine.errors import KeyConflict

RETENTION_US = round(limits.IDEMPOTENCY_KEY_RETENTION_S * 1e6)


class KeyedRequest(NamedTuple):
    """A submit that its caller may repeat."""

    key: str
    body_hash: bytes


class KeyEntry(NamedTuple):
    """What the first such submit did."""

    shard: int
    lsn: int
    body_hash: bytes
    ids: bytes
    at_us: int


class KeyBook:
    """The keys of a node's shards, oldest first."""

    def __init__(
        self, entries_max: int = limits.KEYS_MAX, bytes_max: int = limits.KEYS_BYTES_MAX
    ) -> None:
        self._entries: dict[tuple[bytes, str], KeyEntry] = {}
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._ids_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, project_id: bytes, request: KeyedRequest, now_us: int) -> KeyEntry | None:
        """The first submit with this key, if it is remembered; KeyConflict if its body differs."""
        entry = self._entries.get((project_id, request.key))
        if entry is None or entry.at_us + RETENTION_US < now_us:
            return None
        if entry.body_hash != request.body_hash:
            raise KeyConflict
        return entry

    def remember(self, project_id: bytes, key: str, entry: KeyEntry) -> None:
        """Note what a submit did; forget what is too old or too much."""
        self._forget((project_id, key))
        self._entries[project_id, key] = entry
        self._ids_bytes += len(entry.ids)
        self.expire(entry.at_us)

    def forget(self, project_id: bytes, key: str) -> None:
        """Something else remembers what came with this key."""
        self._forget((project_id, key))

    def expire(self, now_us: int) -> None:
        """Forget what is too old or too much."""
        entries = self._entries
        while entries:
            oldest = next(iter(entries))
            crowded = len(entries) > self._entries_max or self._ids_bytes > self._bytes_max
            if not crowded and entries[oldest].at_us + RETENTION_US >= now_us:
                return
            self._forget(oldest)

    def drop_shard(self, shard: int) -> None:
        """Forget the keys of a shard that this node no longer owns."""
        for key in [key for key, entry in self._entries.items() if entry.shard == shard]:
            self._forget(key)

    def _forget(self, key: tuple[bytes, str]) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._ids_bytes -= len(entry.ids)
