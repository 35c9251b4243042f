"""Edges of the jobs of one shard that the tables do not have yet.

    submit ──note(lsn)──► kept ──collect(watermark)──► under way ──written──► in `job_dependencies`

They are written in the transaction that moves the shard's watermark over the event that told of
them, so they are there when the row of the child is, and each is written once. Until then whoever
asks for the parents of a job finds them here. A takeover notes what the log says above the
watermark.
"""

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple


class EdgeRow(NamedTuple):
    """A row of `job_dependencies`."""

    parent_id: bytes
    child_id: bytes
    project_id: bytes | None
    """None: that of the child's row."""
    on_failure: str


class ShardEdges:
    """What one shard has told of under one ownership."""

    __slots__ = ("_kept", "_under_way")

    def __init__(self) -> None:
        self._kept: deque[tuple[int, list[EdgeRow]]] = deque()
        self._under_way: deque[list[EdgeRow]] = deque()

    def note(self, lsn: int, rows: list[EdgeRow]) -> None:
        """The event at this lsn told of these; lsns never fall."""
        if rows:
            self._kept.append((lsn, rows))

    def collect(self, watermark: int) -> list[EdgeRow]:
        """What the tables are to have with this watermark."""
        found: list[EdgeRow] = []
        while self._kept and self._kept[0][0] <= watermark:
            found += self._kept.popleft()[1]
        self._under_way.append(found)
        return found

    def written(self) -> None:
        """What was collected first is in the tables."""
        self._under_way.popleft()

    def all(self) -> Iterable[EdgeRow]:
        """All that the tables may not have."""
        for rows in self._under_way:
            yield from rows
        for _, rows in self._kept:
            yield from rows
