"""What the projector collects and what it hands to the tables.

A `Projection` is what the tables lack of one shard, as rows of binary COPY. A `Round` is the
projections of many shards that are written together. Of one shard it may hold several, in order; a
projection that deletes rows is the last of its shard in a round, because a round writes first and
deletes last.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from taskforge_server.engine.shard.edges import ShardEdges
from taskforge_server.engine.shard.usage import ShardUsage


class Projection(Protocol):
    """Durable changes of one shard that the tables do not have; as `ext.table` makes it."""

    @property
    def shard(self) -> int: ...
    @property
    def watermark(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def jobs_copy(self) -> tuple[bytes, ...]: ...
    @property
    def jobs_copy_rows(self) -> int: ...
    @property
    def jobs_merge(self) -> tuple[bytes, ...]: ...
    @property
    def jobs_merge_rows(self) -> int: ...
    @property
    def executions_copy(self) -> tuple[bytes, ...]: ...
    @property
    def executions_copy_rows(self) -> int: ...
    @property
    def executions_merge(self) -> tuple[bytes, ...]: ...
    @property
    def executions_merge_rows(self) -> int: ...
    @property
    def jobs_copy_ms(self) -> tuple[int, int]:
        """Milliseconds of the least and of the greatest id of `jobs_copy`."""
        ...

    @property
    def executions_copy_ms(self) -> tuple[int, int]: ...
    @property
    def deletes(self) -> bytes:
        """Jobs that leave no row, as `places`."""
        ...

    @property
    def overlaps(self) -> bool:
        """An earlier projection that is not in the tables yet may hold a job of it too."""
        ...

    @property
    def keys(self) -> list[tuple[bytes, str, bytes, bytes, int]]: ...
    @property
    def usage(self) -> list[tuple[bytes, int, int, int]]:
        """Submitted jobs as `UsageRow`s, put here by the source."""
        ...

    @property
    def edges(self) -> list[tuple[bytes, bytes, bytes | None, str]]:
        """Edges between jobs as `EdgeRow`s, put here by the source."""
        ...


class ProjectionSource(Protocol):
    """A shard as the projector sees it."""

    @property
    def number(self) -> int: ...
    @property
    def epoch(self) -> int:
        """The ownership under which it is collected."""
        ...

    @property
    def unprojected(self) -> int: ...
    @property
    def durable_lsn(self) -> int:
        """Up to here its log is durable."""
        ...

    def collect(self, rows_max: int, settled_us: int) -> Projection | None:
        """What is durable and not in the tables; None when there is nothing."""
        ...

    def fenced(self) -> None:
        """The tables belong to a later owner of the shard: nothing more of it is written."""
        ...

    def projected(self, projection: Projection, whole: bool) -> None:
        """It is in the tables; `whole`: they took every row. Called once for each projection, in
        order."""
        ...


Turn = Callable[[], Awaitable[object]]
"""Returns when all earlier rounds are in the tables."""


async def at_once() -> None:
    """The turn of a round that has none before it."""


class How(Enum):
    """How a round is written; each way stands for what the one before cannot."""

    FAST = "all by COPY: rows that are surely new, and the others in the place of older ones"
    MERGE = "all rows merged: some of them may be there already"
    CAREFUL = "in small portions: a row that the table refuses is put aside"


@dataclass(slots=True)
class Round:
    """Projections that are written together."""

    started_s: float
    collected_s: float
    """When its changes were asked for; later when a look after that found nothing more."""
    complete: bool = False
    """Nothing was left behind: with this round the tables know all that was durable then."""
    rows: int = 0
    taken: list[tuple[ProjectionSource, Projection]] = field(default_factory=list)
    flushes: list[asyncio.Future[None]] = field(default_factory=list)
    """Who waits for this round."""
    emptied: list[int] = field(default_factory=list)
    """Shards that had nothing more; all, where it is complete."""
    turn: Turn = at_once
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """It is in the tables, and its sources know: the turn of the next one."""

    @property
    def projections(self) -> list[Projection]:
        return [projection for _, projection in self.taken]

    @property
    def epochs(self) -> dict[int, int]:
        """The ownership of each shard. One round never holds two of one shard: a source is asked
        until it is lost, and its successor comes with a later round."""
        return {projection.shard: source.epoch for source, projection in self.taken}

    def drop(self, shards: set[int]) -> list[ProjectionSource]:
        """Take these shards out of the round; their sources."""
        dropped = {source: None for source, p in self.taken if p.shard in shards}
        self.taken = [(source, p) for source, p in self.taken if p.shard not in shards]
        return list(dropped)


class Fenced(Exception):  # noqa: N818 - says what happened
    """Later owners write these shards now; nothing was written."""

    def __init__(self, shards: set[int]) -> None:
        super().__init__(f"shards {sorted(shards)} belong to later owners")
        self.shards = shards


class RowExists(Exception):  # noqa: N818 - says what happened
    """A row that was to be new is there already; nothing was written."""


class RowsRefused(Exception):  # noqa: N818 - says what happened
    """A table refuses at least one of the rows; nothing was written."""


class InDoubt(Exception):  # noqa: N818 - says what happened
    """The database did not say what became of the write."""


class TableWriter(Protocol):
    """The tables that a round is written to. Writing the same again changes nothing.

    `epochs` says under which ownership each shard is written: once a takeover has fenced the tables
    no earlier one commits anything (`FencedTables.fence`).

    Raises Fenced, RowExists, RowsRefused (neither of these in the careful way) or InDoubt.
    """

    async def write_executions(
        self, projections: Sequence[Projection], how: How, epochs: Mapping[int, int]
    ) -> None:
        """Commit the executions. Before the jobs: a final job implies that its executions stand."""
        ...

    async def write_jobs(
        self,
        projections: Sequence[Projection],
        how: How,
        epochs: Mapping[int, int],
        turn: Turn = at_once,
    ) -> None:
        """Commit jobs, deletes, idempotency keys and watermarks in one transaction, and not before
        its turn. Of calls that are under way together each waits for the one before."""
        ...

    async def close(self) -> None:
        """Give the connections back."""
        ...


def watermarks(projections: Iterable[Projection]) -> dict[int, int]:
    """The newest watermark of each shard."""
    return {projection.shard: projection.watermark for projection in projections}


def places(joined: bytes) -> list[tuple[bytes, int]]:
    """Ids, each with the lsn up to which it is spoken of: a row with a greater one is not meant."""
    return [
        (
            joined[at : at + ID_BYTES],
            int.from_bytes(joined[at + ID_BYTES : at + PLACE_BYTES], "big"),
        )
        for at in range(0, len(joined), PLACE_BYTES)
    ]


def copy_chunks(parts: Iterable[bytes], chunk_bytes: int) -> Iterator[bytes | memoryview]:
    """Header, rows and trailer of a binary COPY, cut or joined to chunks of about this size."""
    small: list[bytes] = [COPY_HEADER]
    small_bytes = len(COPY_HEADER)
    for part in parts:
        if small_bytes + len(part) > chunk_bytes and small:
            yield b"".join(small)
            small, small_bytes = [], 0
        if len(part) <= chunk_bytes:
            small.append(part)
            small_bytes += len(part)
        else:
            view = memoryview(part)
            for start in range(0, len(part), chunk_bytes):
                yield view[start : start + chunk_bytes]
    small.append(COPY_TRAILER)
    yield b"".join(small)


ID_BYTES = 16
PLACE_BYTES = 24
COPY_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
COPY_TRAILER = b"\xff\xff"


class Table(Protocol):
    """The part of `ext.table.ShardTable` that the projector works with."""

    @property
    def shard(self) -> int: ...
    @property
    def unprojected(self) -> int: ...
    @property
    def committed_lsn(self) -> int: ...

    def collect(self, rows_max: int, settled_us: int) -> Projection | None: ...
    def projected(self, projection: Any, whole: bool = ...) -> None: ...


class TableSource:
    """A shard's table as a source; it stays bound to this table when the shard is lost."""

    __slots__ = ("_edges", "_table", "_usage", "epoch", "fenced", "number")

    def __init__(
        self,
        table: Table,
        epoch: int,
        usage: ShardUsage | None = None,
        fenced: Callable[[], None] = lambda: None,
        edges: ShardEdges | None = None,
    ) -> None:
        """`usage`: how many jobs were submitted to the shard, `edges`: what they wait for, if that
        is noted. `fenced` hears that the tables belong to a later owner."""
        self._table = table
        self._usage = usage
        self._edges = edges
        self.number = table.shard
        self.epoch = epoch
        self.fenced = fenced

    @property
    def unprojected(self) -> int:
        return self._table.unprojected

    @property
    def durable_lsn(self) -> int:
        return self._table.committed_lsn

    def collect(self, rows_max: int, settled_us: int) -> Projection | None:
        projection = self._table.collect(rows_max, settled_us)
        if projection is not None:
            self.count(projection)
        return projection

    def count(self, projection: Projection) -> None:
        """Let the projection say what was submitted up to its watermark, and which edges."""
        if self._usage is not None:
            projection.usage.extend(self._usage.collect(projection.watermark))
        if self._edges is not None:
            projection.edges.extend(self._edges.collect(projection.watermark))

    def projected(self, projection: Projection, whole: bool) -> None:
        self._table.projected(projection, whole)
        if self._edges is not None:
            self._edges.written()
