"""Idempotency keys: what a submit answered, remembered so that its repetition answers the same.

A key belongs to a project and is remembered for a day, with the shard and the lsn that hold the
record. The same key with the same body gives the first answer; with another body it is a conflict.
The book of a node holds the keys of all its shards, so that a key counts for all queues of a
project; a shard that goes takes its keys with it, and brings them back when it is taken over.

Bounded: beyond KEYS_MAX or KEYS_BYTES_MAX keys are forgotten as if their day were over, the oldest
of a tenant that has no less than the mean: so nobody's flood costs others their keys. Each key that
comes has one project looked at for keys whose day is over, in turn.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import islice, takewhile
from typing import NamedTuple

from taskforge_server.engine import limits
from taskforge_server.engine.errors import KeyConflict
from taskforge_server.engine.model.cron import SECOND_US
from taskforge_server.engine.model.schedule import KEY_PREFIX, key_prefix

INBOX_PREFIX = "inbox:"
OWN_PREFIX = "taskforge/"
"""What keys begin with that the server gives by itself."""
CALLERS_KEY = f"(?!{INBOX_PREFIX}|{OWN_PREFIX})[\\x21-\\x7e]{{1,255}}"
"""A pattern: what a caller may send."""

RETENTION_US = round(limits.IDEMPOTENCY_KEY_RETENTION_S * 1e6)
_LOOK_US = 1_000_000


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


class _Keys:
    """Those of one project, oldest first."""

    __slots__ = ("entries", "look_us", "tenant")

    def __init__(self, tenant: bytes) -> None:
        self.entries: dict[str, KeyEntry] = {}
        self.look_us = 0
        self.tenant = tenant


class KeyBook:
    """The keys of a node's shards."""

    def __init__(
        self,
        entries_max: int = limits.KEYS_MAX,
        bytes_max: int = limits.KEYS_BYTES_MAX,
        tenant: Callable[[bytes], bytes] = lambda project_id: project_id,
    ) -> None:
        """`tenant` says whose a project is."""
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._tenant = tenant
        # By project; the one that was looked at last stands last.
        self._of: OrderedDict[bytes, _Keys] = OrderedDict()
        self._weights: dict[bytes, int] = {}
        self._heavy = _Keys(b"")
        # By what the keys of a schedule's ticks begin with: the newest that is remembered.
        self._newest_ticks: dict[str, str] = {}
        self._count = 0
        self._ids_bytes = 0

    def __len__(self) -> int:
        return self._count

    def find(self, project_id: bytes, request: KeyedRequest, now_us: int) -> KeyEntry | None:
        """The first submit with this key, if it is remembered; KeyConflict if its body differs."""
        keys = self._of.get(project_id)
        entry = None if keys is None else keys.entries.get(request.key)
        if entry is None or entry.at_us + RETENTION_US < now_us:
            return None
        if entry.body_hash != request.body_hash:
            raise KeyConflict
        return entry

    def remember(self, project_id: bytes, key: str, entry: KeyEntry) -> None:
        """Note what a submit did; forget what is too old or too much."""
        keys = self._of.get(project_id)
        if keys is None:
            keys = self._of[project_id] = _Keys(self._tenant(project_id))
        self._drop(keys, (key,))
        keys.entries[key] = entry
        if key.startswith(KEY_PREFIX):
            schedule = _schedule_of(key)
            self._newest_ticks[schedule] = max(key, self._newest_ticks.get(schedule, ""))
        self._weigh(keys, entry, 1)
        self._look(entry.at_us)
        while self._count > self._entries_max or self._ids_bytes > self._bytes_max:
            self._make_room()

    def newest_tick(self, project_id: bytes, schedule_id: bytes) -> tuple[int, bytes] | None:
        """The newest tick of the schedule whose key is remembered, and its job."""
        key = self._newest_ticks.get(key_prefix(schedule_id))
        keys = self._of.get(project_id)
        if key is None or keys is None or key not in keys.entries:
            return None
        return int(key[key.rindex(" ") :]) * SECOND_US, keys.entries[key].ids

    def forget(self, project_id: bytes, key: str) -> None:
        """Something else remembers what came with this key."""
        if (keys := self._of.get(project_id)) is not None:
            self._drop(keys, (key,))

    def drop_shard(self, shard: int) -> None:
        """Forget the keys of a shard that this node no longer owns."""
        for keys in self._of.values():
            self._drop(keys, [key for key, entry in keys.entries.items() if entry.shard == shard])

    def _look(self, now_us: int) -> None:
        """Forget what is too old of one project. Each is looked at once a second at most: the
        front of a dict from which much was taken is slow to find."""
        project_id, keys = next(iter(self._of.items()))
        self._of.move_to_end(project_id)
        if now_us < keys.look_us:
            return
        first = islice(keys.entries.items(), limits.KEYS_LOOK)
        old = takewhile(lambda each: each[1].at_us + RETENTION_US < now_us, first)
        dropped = self._drop(keys, [key for key, _ in old])
        keys.look_us = now_us if dropped == limits.KEYS_LOOK else now_us + _LOOK_US
        if not keys.entries:
            del self._of[project_id]

    def _make_room(self) -> None:
        """A thousandth of all, one key at least."""
        total = self._count * limits.KEY_ENTRY_BYTES + self._ids_bytes
        mean = total / len(self._weights)
        heavy = self._heavy
        if not heavy.entries or self._weights[heavy.tenant] < mean:
            heavy = self._heavy = next(
                keys
                for keys in self._of.values()
                if keys.entries and self._weights[keys.tenant] >= mean
            )
        oldest, weight = [], 0
        for key, entry in heavy.entries.items():
            oldest.append(key)
            weight += _weight(entry)
            if weight >= total >> 10:
                break
        self._drop(heavy, oldest)

    def _drop(self, keys: _Keys, names: Iterable[str]) -> int:
        count = 0
        for name in names:
            entry = keys.entries.pop(name, None)
            if entry is not None:
                self._weigh(keys, entry, -1)
                count += 1
                if name.startswith(KEY_PREFIX):
                    schedule = _schedule_of(name)
                    if self._newest_ticks.get(schedule) == name:
                        del self._newest_ticks[schedule]
        return count

    def _weigh(self, keys: _Keys, entry: KeyEntry, sign: int) -> None:
        self._count += sign
        self._ids_bytes += sign * len(entry.ids)
        weight = self._weights.get(keys.tenant, 0) + sign * _weight(entry)
        if weight:
            self._weights[keys.tenant] = weight
        else:
            del self._weights[keys.tenant]


def _schedule_of(key: str) -> str:
    """What the keys of all its ticks begin with."""
    return key[: key.rindex(" ")]


def _weight(entry: KeyEntry) -> int:
    return limits.KEY_ENTRY_BYTES + len(entry.ids)
