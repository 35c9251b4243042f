"""Whether new jobs may come in. Completions always may: they are what makes room.

    draining                                   -> Unavailable (503): somebody else takes them
    the log cannot be written, or only slowly  -> Unavailable (503)
    live jobs take more than their memory      -> Overloaded (429)
    the tables are too far behind              -> Overloaded (429)

Memory is measured by the sweep; between two measurements each admitted batch is reckoned with.
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

    def admit(self, batch: Incoming) -> None:
        """Let the batch in, or say why not."""
        try:
            self._check()
        except (Unavailable, Overloaded):
            self._counters.refused_submits += 1
            raise
        self.resident_bytes += batch.bytes_total + batch.count * limits.SUBMIT_JOB_BYTES
        self.unprojected_jobs += batch.count

    def closed(self) -> list[str]:
        """Why nothing is let in at the moment."""
        try:
            self._check()
        except (Unavailable, Overloaded) as reason:
            return [reason.message]
        return []

    def _check(self) -> None:
        if self.draining:
            raise Unavailable(limits.UNAVAILABLE_RETRY_S, "this node is stopping")
        if not self._log_is_available():
            raise Unavailable(limits.UNAVAILABLE_RETRY_S, "the log cannot be written now")
        if self.resident_bytes > self._memory_bytes_max:
            raise Overloaded(limits.OVERLOAD_RETRY_S, "the live jobs fill this node's memory")
        if self.unprojected_jobs > self._unprojected_jobs_max:
            raise Overloaded(limits.OVERLOAD_RETRY_S, "the tables are too far behind the log")
