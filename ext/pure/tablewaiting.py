"""What waits in the queues of a shard, and what of it may start now."""

from typing import Any

from taskforge_server.ext.pure.groups import QueueLimits
from taskforge_server.ext.pure.tablefold import Fold
from taskforge_server.ext.pure.tablejob import PENDING, PROCESSING, Job
from taskforge_server.ext.pure.tableparts import check_range

PLACES = 1_024


class Waiting(Fold):
    """Questions about queues; how late it is, limits learn by being asked."""

    gathering_lsn: int

    def regroup(self, queue: int, looks_max: int) -> bool:
        self._check_queue(queue)
        if queue in self._walked:
            self._walked[queue] += looks_max
            if self._walked[queue] >= PLACES:
                del self._walked[queue]
        return queue not in self._walked

    def ready(self, queue: int, types: frozenset[str] | None) -> int:
        self._check_queue(queue)
        return len(self._ready(queue, types))

    def _ready(self, queue: int, types: frozenset[str] | None) -> list[Job]:
        lane = self._in[queue, PENDING].values()
        return [job for job in lane if types is None or job.job_type in types]

    def rests(self, queue: int) -> bool:
        self._check_queue(queue)
        if queue in self._walked:
            return False
        first: dict[str, Job] = {}
        for job in self._startable(queue, None):
            first.setdefault(job.job_type, job)
        return any(job.lease_lsn == self.gathering_lsn for job in first.values())

    def _look(self, queue: int, now_us: int) -> QueueLimits | None:
        """The limits of the queue, if it has any, told how late it is."""
        limited = self._limits.get(queue)
        if limited is None or not limited.limits.any:
            return None
        limited.look(now_us, self._floor_us)
        return limited

    def _startable(self, queue: int, types: frozenset[str] | None) -> list[Job]:
        """The ready jobs whose groups may start one, in the order in which they would."""
        ready = self._ready(queue, types)
        limited = self._limits.get(queue)
        if limited is None:
            return sorted(ready, key=lambda job: job.order)
        return limited.may_start(ready, list(self._in[queue, PROCESSING].values()))

    def startable(self, queue: int, now_us: int) -> int:
        self._check_queue(queue)
        limited = self._look(queue, now_us)
        most = 0 if queue in self._walked else len(self._startable(queue, None))
        running = len(self._in[queue, PROCESSING])
        return most if limited is None else min(most, limited.allowed(running))

    def next_token_us(self, queue: int, now_us: int) -> int:
        self._check_queue(queue)
        pending = self._in[queue, PENDING].values()
        asked = pending and queue not in self._walked
        limited = self._look(queue, now_us) if asked else None
        return 0 if limited is None else limited.next_token_us(pending)

    @property
    def rousing(self) -> bool:
        return bool(self._roused)

    def take_roused(self) -> list[int]:
        taken, self._roused = self._roused, []
        return taken

    def blocked(self, queue: int, now_us: int, job_id: bytes | None = None) -> list[dict[str, Any]]:
        self._check_queue(queue)
        job = None if job_id is None else self._in[queue, PENDING].get(job_id)
        limited = None if queue in self._walked else self._look(queue, now_us)
        running = list(self._in[queue, PROCESSING].values())
        return [] if limited is None else limited.blocking(running, job)

    def _check_queue(self, queue: int) -> None:
        check_range("queue index", queue, 0, len(self._queues) - 1)
