"""The plain twin of `ext.ids`: the same interface, the same ids. See there for the layout."""

from __future__ import annotations

import re
from typing import final

SHARD_MAX = 4095
TIME_MS_MAX = (1 << 48) - 1
COUNTER_MAX = (1 << 20) - 1

GOLDEN = 0x9E3779B97F4A7C15
MASK64 = 0xFFFFFFFFFFFFFFFF
VARIANT = 1 << 63
UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}|[0-9a-fA-F]{32}", re.ASCII)


def mix64(value: int) -> int:
    """The finalizer of splitmix64."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & MASK64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & MASK64
    return value ^ (value >> 31)


@final
class IdSource:
    """Gives the ids of one shard, each greater than the one before."""

    def __init__(self, shard: int, seed: int) -> None:
        if not 0 <= shard <= SHARD_MAX:
            raise ValueError(f"shard {shard} is not in 0 … {SHARD_MAX}")
        self.shard = shard
        self._last = (-1, 0)  # milliseconds and counter of the last id given or seen
        self._state = seed & MASK64

    def next(self, now_us: int) -> bytes:
        """The next id, 16 bytes."""
        time_ms, counter = self._last
        now_ms = _time_ms(now_us)
        if now_ms > time_ms:
            time_ms, counter = now_ms, 0
        elif counter == COUNTER_MAX:
            time_ms, counter = time_ms + 1, 0
        else:
            counter += 1
        self._last = (time_ms, counter)
        self._state = (self._state + GOLDEN) & MASK64
        return _from_halves(
            _high_half(time_ms, self.shard), VARIANT | counter << 42 | mix64(self._state) >> 22
        )

    def see(self, id: bytes) -> None:
        """An id of this shard was met: stay above it. ValueError: it is of another shard."""
        if shard_of(id) != self.shard:
            raise ValueError(f"the id is of shard {shard_of(id)}, not of {self.shard}")
        counter = _halves(id)[1] >> 42 & COUNTER_MAX
        self._last = max(self._last, (_time_ms_of(id), counter))


def execution_id(job_id: bytes, attempt: int, started_us: int) -> bytes:
    """The id of an attempt of a job: the same for the same arguments."""
    hi, lo = _halves(job_id)
    mixed = mix64(mix64((hi + attempt * GOLDEN) & MASK64) ^ lo)
    order = (hi >> 16 & 0xFFFF) << 46 | (lo >> 42 & 0xFFFFF) << 26
    low = VARIANT | order | (attempt & 0xFF) << 18 | mixed >> 46
    return _from_halves(_high_half(_time_ms(started_us), shard_of(job_id)), low)


def shard_of(id: bytes) -> int:
    """The shard number in an id."""
    return _halves(id)[0] & SHARD_MAX


def _time_ms_of(id: bytes) -> int:
    """The milliseconds since the Unix epoch in an id."""
    return _halves(id)[0] >> 16


def uuid_text(id: bytes) -> str:
    """The canonical text: 36 characters in lower case."""
    _halves(id)
    digits = id.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def uuid_bytes(text: str) -> bytes:
    """The 16 bytes of a UUID: 36 characters with hyphens, or 32 hexadecimal digits."""
    if not UUID.fullmatch(text):
        raise ValueError("not a UUID")
    return bytes.fromhex(text.replace("-", ""))


def _time_ms(time_us: int) -> int:
    return min(max(time_us, 0) // 1000, TIME_MS_MAX)


def _high_half(time_ms: int, shard: int) -> int:
    return time_ms << 16 | 0x7000 | shard


def _halves(id: bytes) -> tuple[int, int]:
    if len(id) != 16:
        raise ValueError(f"an id has 16 bytes, not {len(id)}")
    return int.from_bytes(id[:8], "big"), int.from_bytes(id[8:], "big")


def _from_halves(hi: int, lo: int) -> bytes:
    return (hi & MASK64).to_bytes(8, "big") + lo.to_bytes(8, "big")
