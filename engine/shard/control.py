"""Books of what people said of jobs: which ones expire, which running ones shall end.

ExpiryBook   jobs that must not start after a time, by that time
CancelBook   jobs whose cancellation was asked for while they ran
RequeueBook  jobs that were put back lately
"""

from collections import OrderedDict
from heapq import heapify, heappop, heappush

from taskforge_server.engine import limits
from taskforge_server.engine.model.joboptions import Told
from taskforge_server.ext.table import ShardTable

CROWDED_MIN = 1_000


class ExpiryBook:
    """Jobs by the time at which they expire. One that started, ended or was told another time since
    is found out when its time comes."""

    __slots__ = ("_heap", "_times", "crowded")

    def __init__(self) -> None:
        self.crowded = CROWDED_MIN
        self._heap: list[tuple[int, bytes]] = []
        self._times: dict[bytes, int] = {}

    def __len__(self) -> int:
        """Entries, those of jobs that were told another time since among them."""
        return len(self._heap)

    def see(self, job_id: bytes, told: Told) -> None:
        expires_us = told.more.expires_us
        if self._times.get(job_id, 0) == expires_us:
            return
        if expires_us:
            self._times[job_id] = expires_us
            heappush(self._heap, (expires_us, job_id))
        else:
            del self._times[job_id]

    @property
    def next_us(self) -> int:
        """When the next one may expire; 0: none does."""
        return self._heap[0][0] if self._heap else 0

    def take(self, now_us: int, most: int) -> list[bytes]:
        """Up to `most` jobs whose time has come; they are in the book no more."""
        found: list[bytes] = []
        while self._heap and self._heap[0][0] <= now_us and len(found) < most:
            expires_us, job_id = heappop(self._heap)
            if self._times.get(job_id) == expires_us:
                del self._times[job_id]
                found.append(job_id)
        return found

    def prune(self, table: ShardTable) -> None:
        """Forget the jobs that were started or have ended."""
        for job_id in list(self._times):
            peeked = table.peek(job_id)
            if peeked is None or peeked[0] not in ("pending", "scheduled") or peeked[1]:
                del self._times[job_id]
        self._heap = [(expires_us, job_id) for job_id, expires_us in self._times.items()]
        heapify(self._heap)
        self.crowded = max(CROWDED_MIN, 2 * len(self._heap))


class CancelBook:
    """Jobs that run although their end is wanted; few at a time."""

    __slots__ = ("_jobs", "crowded")

    def __init__(self) -> None:
        self.crowded = CROWDED_MIN
        self._jobs: set[bytes] = set()

    def see(self, job_id: bytes, told: Told) -> None:
        if told.more.cancel_us:
            self._jobs.add(job_id)
        else:
            self._jobs.discard(job_id)

    def __len__(self) -> int:
        return len(self._jobs)

    def prune(self, table: ShardTable) -> None:
        """Forget the jobs that run no more."""
        for job_id in list(self._jobs):
            peeked = table.peek(job_id)
            if peeked is None or peeked[0] != "processing":
                self._jobs.discard(job_id)
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
