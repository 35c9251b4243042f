"""Job ids with a counter, for the table alone."""

import random
import uuid


class IdSource:
    def __init__(self, shard: int, seed: int) -> None:
        self._shard, self._last = shard, (0, 0)
        self._random = random.Random(seed)  # noqa: S311

    def next(self, now_us: int) -> bytes:
        ms, n = max(self._last, (now_us // 1000, 0))
        n += 1
        self._last = (ms, n)
        v = (
            ms << 80
            | 7 << 76
            | self._shard << 64
            | 2 << 62
            | n << 42
            | self._random.getrandbits(42)
        )
        return v.to_bytes(16, "big")

    def see(self, id: bytes) -> None:
        v = int.from_bytes(id, "big")
        self._last = max(self._last, (v >> 80, v >> 42 & 0xFFFFF))


def uuid_text(raw: bytes) -> str:
    return str(uuid.UUID(bytes=raw))


def shard_of(raw: bytes) -> int:
    return int.from_bytes(raw[6:8], "big") & 0xFFF


def execution_id(job_id: bytes, attempt: int, started_us: int) -> bytes:
    import hashlib

    h = int.from_bytes(hashlib.sha256(job_id + bytes([attempt & 255])).digest()[:8], "big") & (
        2**62 - 1
    )
    return (started_us // 1000 << 80 | 7 << 76 | shard_of(job_id) << 64 | 2 << 62 | h).to_bytes(
        16, "big"
    )
