"""Edges of the jobs of one shard that the tables do not have yet.

    submit ──note(lsn)──► kept ──collect(watermark)──► under way ──written──► in `job_dependencies`

They are written in the transaction that moves the shard's watermark over the event that told of
them, so they are there when the row of the child is, and each is written once. Until then whoever
asks for the parents of a job finds them here. A takeover notes what the log says above the
watermark.
"""

from collections import Counter, deque
from collections.abc import Sequence
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

    __slots__ = ("_fresh", "_indexed", "_kept", "_of", "_under_way")

    def __init__(self) -> None:
        # By parent and by child, in the order in which they were told: of so many of the first
        # rows. The others are there once somebody asks; most are written before.
        self._of: dict[bytes, list[EdgeRow]] = {}
        self._indexed = 0
        self._fresh: deque[list[EdgeRow]] = deque()
        self._kept: deque[tuple[int, list[EdgeRow]]] = deque()
        self._under_way: deque[list[EdgeRow]] = deque()

    def note(self, lsn: int, rows: list[EdgeRow]) -> None:
        """The event at this lsn told of these; lsns never fall."""
        if rows:
            self._kept.append((lsn, rows))
            self._fresh.append(rows)

    def collect(self, watermark: int) -> list[EdgeRow]:
        """What the tables are to have with this watermark."""
        found: list[EdgeRow] = []
        while self._kept and self._kept[0][0] <= watermark:
            found += self._kept.popleft()[1]
        self._under_way.append(found)
        return found

    def written(self) -> None:
        """What was collected first is in the tables."""
        rows = self._under_way.popleft()
        known = rows[: self._indexed]
        self._indexed -= len(known)
        unknown = len(rows) - len(known)
        while unknown:
            unknown -= len(self._fresh.popleft())
        counts: Counter[bytes] = Counter()
        for row in known:
            counts[row.parent_id] += 1
            counts[row.child_id] += 1
        for job_id, count in counts.items():
            left = self._of[job_id]
            # What is written was told first.
            if count < len(left):
                del left[:count]
            else:
                del self._of[job_id]

    def __bool__(self) -> bool:
        """There are some that the tables may not have."""
        return bool(self._of or self._fresh)

    def of(self, job_id: bytes) -> Sequence[EdgeRow]:
        """Edges of this parent or child that the tables may not have."""
        while self._fresh:
            rows = self._fresh.popleft()
            self._indexed += len(rows)
            for row in rows:
                self._of.setdefault(row.parent_id, []).append(row)
                self._of.setdefault(row.child_id, []).append(row)
        return self._of.get(job_id, ())
