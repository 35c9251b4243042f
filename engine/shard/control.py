"""Books of what people said of jobs: which ones expire, which running ones shall end.

ExpiryBook   jobs that must not start after a time, by that time
CancelBook   jobs whose cancellation was asked for while they ran
RequeueBook  jobs that were put back lately
"""

from collections import OrderedDict
from heapq import heappop, heappush

from taskforge_server.engine import limits
from taskforge_server.engine.model.joboptions import Told
from taskforge_server.ext.table import ShardTable

CROWDED_MIN = 1_000
LOOKS_MIN = 64
LOOKS = 2
"""Entries of a crowded book that are looked at for each job that it saw, and for none: more than
come anew, so that a look through it ends, and a turn costs by what it decided."""

Entry = tuple[int, bytes]


class ExpiryBook:
    """Jobs by the time at which they expire. One that started, ended or was told another time since
    is found out when its time comes, or when the book is looked through.

        crowded ──► the heap becomes the old one ──some each turn──► what still counts: a new heap

    The old heap stays one: it is taken from its end.
    """

    __slots__ = ("_heap", "_newest", "_old", "crowded")

    def __init__(self) -> None:
        self.crowded = CROWDED_MIN
        self._heap: list[Entry] = []
        self._old: list[Entry] = []
        # Of each job the entry that counts.
        self._newest: dict[bytes, Entry] = {}

    def __len__(self) -> int:
        """Entries, those of jobs that were told another time since among them."""
        return len(self._heap) + len(self._old)

    def see(self, job_id: bytes, told: Told) -> None:
        expires_us = told.more.expires_us
        newest = self._newest.get(job_id)
        if expires_us == (0 if newest is None else newest[0]):
            return
        if expires_us:
            self._newest[job_id] = entry = (expires_us, job_id)
            heappush(self._heap, entry)
        else:
            del self._newest[job_id]

    @property
    def next_us(self) -> int:
        """When the next one may expire; 0: none does."""
        heap = self._next_heap()
        return heap[0][0] if heap else 0

    def _next_heap(self) -> list[Entry]:
        if self._old and (not self._heap or self._old[0] < self._heap[0]):
            return self._old
        return self._heap

    def take(self, now_us: int, most: int) -> list[bytes]:
        """Up to `most` jobs whose time has come; they are in the book no more."""
        found: list[bytes] = []
        while (heap := self._next_heap()) and heap[0][0] <= now_us and len(found) < most:
            entry = heappop(heap)
            if self._newest.get(entry[1]) is entry:
                del self._newest[entry[1]]
                found.append(entry[1])
        return found

    def prune(self, table: ShardTable, seen: int) -> None:
        """Forget jobs that were started or have ended."""
        if not self._old:
            if len(self._heap) <= self.crowded:
                return
            self._old, self._heap = self._heap, []
        for _ in range(min(len(self._old), LOOKS_MIN + LOOKS * seen)):
            entry = self._old.pop()
            job_id = entry[1]
            if self._newest.get(job_id) is not entry:
                continue
            peeked = table.peek(job_id)
            if peeked is None or peeked[0] not in ("pending", "scheduled") or peeked[1]:
                del self._newest[job_id]
            else:
                heappush(self._heap, entry)
        if not self._old:
            self.crowded = max(CROWDED_MIN, 2 * len(self._heap))


class CancelBook:
    """Jobs that run although their end is wanted; few at a time."""

    __slots__ = ("_jobs", "_unseen", "crowded")

    def __init__(self) -> None:
        self.crowded = CROWDED_MIN
        self._jobs: set[bytes] = set()
        self._unseen: list[bytes] = []

    def see(self, job_id: bytes, told: Told) -> None:
        if told.more.cancel_us:
            self._jobs.add(job_id)
        else:
            self._jobs.discard(job_id)

    def __len__(self) -> int:
        return len(self._jobs)

    def prune(self, table: ShardTable, seen: int) -> None:
        """Forget jobs that run no more."""
        if not self._unseen:
            if len(self._jobs) <= self.crowded:
                return
            self._unseen = list(self._jobs)
        for _ in range(min(len(self._unseen), LOOKS_MIN + LOOKS * seen)):
            job_id = self._unseen.pop()
            peeked = table.peek(job_id)
            if peeked is None or peeked[0] != "processing":
                self._jobs.discard(job_id)
        if not self._unseen:
            self.crowded = max(CROWDED_MIN, 2 * len(self._jobs))

    def jobs(self) -> list[bytes]:
        """All of them."""
        return sorted(self._jobs)

    def forget(self, job_id: bytes) -> None:
        """It runs no more."""
        self._jobs.discard(job_id)


class RequeueBook:
    """When jobs were put back, the newest. A row that was read before is out of date, though
    the job may have ended and left memory since: it must not run again by what the row says."""

    __slots__ = ("_lsns",)

    def __init__(self) -> None:
        self._lsns: OrderedDict[bytes, int] = OrderedDict()

    def note(self, job_id: bytes, lsn: int) -> None:
        """It was put back by the event at this lsn."""
        self._lsns[job_id] = lsn
        self._lsns.move_to_end(job_id)
        if len(self._lsns) > limits.REQUEUES_KEPT:
            self._lsns.popitem(last=False)

    def outdates(self, job_id: bytes, lsn: int) -> bool:
        """Whether a row with this lsn is from before that."""
        return lsn < self._lsns.get(job_id, 0)
