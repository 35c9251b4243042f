"""The log in memory: the twin of the real one for tests and simulations, with faults to order.

lose_replies     so many appends are written, and their caller is told Unavailable
refusals         so many appends are not written, and their caller is told Unavailable
gate             an append waits until the event is set
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

from taskforge_server.engine.errors import Unavailable
from taskforge_server.engine.journal.log import LogRow, check_rows


class MemoryShardLog:
    """Rows by shard and lsn. Several writers may share one instance."""

    def __init__(self) -> None:
        self._rows: dict[int, dict[int, LogRow]] = {}
        self.lose_replies = 0
        self.refusals = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = asyncio.Event()
        """Set while an append waits at the gate."""
        self.refused = asyncio.Event()
        """Set when an append was refused."""
        self.appends = 0

    async def heads(self, shards: Iterable[int]) -> dict[int, tuple[int, int]]:
        return {shard: self._head(shard) for shard in shards}

    def _head(self, shard: int) -> tuple[int, int]:
        rows = self._rows.get(shard)
        if not rows:
            return (0, 0)
        newest = rows[max(rows)]
        return (newest.lsn, newest.epoch)

    async def append(self, rows: Sequence[LogRow], whole: frozenset[int] = frozenset()) -> set[int]:
        check_rows(rows)
        self.appends += 1
        # A turn of the loop always passes: what a caller does at once after the call is gathered.
        await asyncio.sleep(0)
        if not self.gate.is_set():
            self.waiting.set()
            await self.gate.wait()
            self.waiting.clear()
        if self.refusals > 0:
            self.refusals -= 1
            self.refused.set()
            raise Unavailable(retry_after_s=0.0)
        torn = any(row.shard in whole and not self._fits(row) for row in rows)
        mine = {row.shard for row in rows if not (torn and row.shard in whole) and self._write(row)}
        if self.lose_replies > 0:
            self.lose_replies -= 1
            raise Unavailable(retry_after_s=0.0)
        return mine

    def _fits(self, row: LogRow) -> bool:
        """Whether the row is there, or may be written."""
        known = self._rows.get(row.shard, {}).get(row.lsn)
        if known is not None:
            return known.prefix == row.prefix
        return row.lsn == self._head(row.shard)[0] + 1

    def _write(self, row: LogRow) -> bool:
        fits = self._fits(row)
        if fits:
            self._rows.setdefault(row.shard, {}).setdefault(row.lsn, row)
        return fits

    async def read(self, shard: int, after_lsn: int) -> AsyncGenerator[LogRow, None]:
        rows = self._rows.get(shard, {})
        for lsn in sorted(rows):
            if lsn > after_lsn:
                yield rows[lsn]

    async def read_all(self, after: Mapping[int, int]) -> AsyncGenerator[LogRow, None]:
        for shard in sorted(after):
            async for row in self.read(shard, after[shard]):
                yield row

    async def trim(self, below: Mapping[int, int]) -> int:
        trimmed = 0
        for shard, limit in below.items():
            rows = self._rows.get(shard, {})
            head = max(rows, default=0)
            for lsn in [lsn for lsn in rows if lsn < limit and lsn != head]:
                del rows[lsn]
                trimmed += 1
        return trimmed

    async def close(self) -> None:
        """Nothing to give back."""
