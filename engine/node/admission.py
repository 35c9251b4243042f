"""Whether new jobs may come in. Completions always may: they are what makes room.

    draining                                   -> Unavailable (503): somebody else takes them
    the log cannot be written, or only slowly  -> Unavailable (503)
    live jobs take more than their memory      -> Overloaded (429)
    the tables are too far behind              -> Overloaded (429)

Memory is measured by the sweep; between two measurements each admitted batch is reckoned with. The
last tenth of both bounds is for those projects that submitted less than their part lately: whoever
fills a node closes the door on itself first.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Overloaded, Unavailable
from taskforge_server.engine.observe.counters import Counters
from taskforge_server.engine.shard.shard import Shard


class Incoming(Protocol):
    """New jobs."""

    @property
    def count(self) -> int: ...
    @property
    def bytes_total(self) -> int: ...


class Admission:
    """The door for new jobs."""

    def __init__(
        self,
        memory_bytes_max: int,
        unprojected_jobs_max: int,
        log_is_available: Callable[[], bool],
        counters: Counters,
    ) -> None:
        self._memory_bytes_max = memory_bytes_max
        self._unprojected_jobs_max = unprojected_jobs_max
        self._log_is_available = log_is_available
        self._counters = counters
        self.draining = False
        self.resident_bytes = 0
        self.resident_jobs = 0
        self.unprojected_jobs = 0
        self._lately: dict[bytes, float] = {}
        self._lately_jobs = 0.0
        self._sweeps = 0

    def measure(self, shards: Iterable[Shard]) -> None:
        """See how it really is."""
        resident_bytes = resident_jobs = unprojected_jobs = 0
        for shard in shards:
            table = shard.table
            resident_bytes += table.bytes_resident
            resident_jobs += table.jobs_resident
            unprojected_jobs += table.unprojected
        self.resident_bytes = resident_bytes
        self.resident_jobs = resident_jobs
        self.unprojected_jobs = unprojected_jobs
        self._sweeps += 1
        if self._sweeps % limits.LATELY_SWEEPS == 0:
            self._forget()

    def _forget(self) -> None:
        """What was submitted some time ago counts less and less."""
        kept = {project_id: jobs * limits.LATELY_KEPT for project_id, jobs in self._lately.items()}
        self._lately = {project_id: jobs for project_id, jobs in kept.items() if jobs >= 1.0}
        self._lately_jobs = sum(self._lately.values())

    def admit(self, batch: Incoming, project_id: bytes) -> None:
        """Let the batch of this project in, or say why not."""
        jobs = self._lately.get(project_id, 0.0)
        small = jobs * (len(self._lately) or 1) < self._lately_jobs
        try:
            self._check(1.0 if small or not jobs else limits.ADMIT_SHARED)
        except (Unavailable, Overloaded):
            self._counters.refused_submits += 1
            raise
        self._lately[project_id] = jobs + batch.count
        self._lately_jobs += batch.count
        self.resident_bytes += batch.bytes_total + batch.count * limits.SUBMIT_JOB_BYTES
        self.unprojected_jobs += batch.count

    def closed(self) -> list[str]:
        """Why nothing is let in at the moment."""
        try:
            self._check(1.0)
        except (Unavailable, Overloaded) as reason:
            return [reason.message]
        return []

    def check(self) -> None:
        """Raises where nothing is let in."""
        self._check(1.0)

    def _check(self, part: float) -> None:
        """Refuse what goes beyond this part of the bounds."""
        if self.draining:
            raise Unavailable(limits.UNAVAILABLE_RETRY_S, "this node is stopping")
        if not self._log_is_available():
            raise Unavailable(limits.UNAVAILABLE_RETRY_S, "the log cannot be written now")
        if self.resident_bytes > part * self._memory_bytes_max:
            raise Overloaded(limits.OVERLOAD_RETRY_S, "the live jobs fill this node's memory")
        if self.unprojected_jobs > part * self._unprojected_jobs_max:
            raise Overloaded(limits.OVERLOAD_RETRY_S, "the tables are too far behind the log")
