"""The port of the log: one dense sequence of rows per shard, each row written once.

    lsn        1, 2, 3, … per shard, no gaps
    append     takes a row only at head + 1 of its shard
    the fence  two writers cannot both write one lsn: the later one gets no row, and must stop
    trim       drops rows from the low end; the head always stays, so that the next lsn is known

A row names the ownership (`epoch`) under which it was written. Its first bytes carry a checksum and
a nonce, which make it different from whatever another writer would put there (`PREFIX_BYTES`).
"""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

PREFIX_BYTES: Final = 16
"""version (1), crc32 (4), array mark (1), bin mark and length (2), nonce (8)."""


class LogRow(NamedTuple):
    """What one commit says about one shard."""

    shard: int
    lsn: int
    epoch: int
    events: int
    body: bytes

    @property
    def prefix(self) -> bytes:
        """What tells this row from any other at its place."""
        return self.body[:PREFIX_BYTES]


class ShardLog(Protocol):
    """Where the shards' decisions become durable."""

    async def heads(self, shards: Iterable[int]) -> dict[int, tuple[int, int]]:
        """(lsn, epoch) of the newest row of each shard; (0, 0) for an empty log."""
        ...

    async def append(self, rows: Sequence[LogRow], whole: frozenset[int] = frozenset()) -> set[int]:
        """Write all rows in one commit, at most one a shard; the shards whose row is durable.

        The others are fenced. Of the shards in `whole` either all rows are written or none: where
        one of them is fenced the others count as fenced, too. Raises Unavailable when it cannot be
        known which rows are durable; repeating the call with the same rows finds out. After a
        cancellation nothing is known.
        """
        ...

    def read(self, shard: int, after_lsn: int) -> AsyncGenerator[LogRow, None]:
        """The rows of one shard above this lsn, in order."""
        ...

    def read_all(self, after: Mapping[int, int]) -> AsyncGenerator[LogRow, None]:
        """The rows of these shards above the lsn given for each: shard by shard, in order."""
        ...

    async def trim(self, below: Mapping[int, int]) -> int:
        """Drop the rows of each shard whose lsn is less than the given one; how many."""
        ...

    async def close(self) -> None:
        """Give the connections back."""
        ...


def check_rows(rows: Sequence[LogRow]) -> None:
    """At most one row of a shard in one append: its order would not be defined otherwise."""
    if len({row.shard for row in rows}) != len(rows):
        raise ValueError("two rows of one shard in one append")
