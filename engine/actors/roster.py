"""What people decided about workers: which are drained, which queues have workers of their own.

    a worker takes from a queue when it    is not drained,
                                           is of a type that the settings name, if they name any,
                                           is assigned to the queue, if anybody is

A copy of the rows, kept by the node; the dispatcher asks it when somebody comes or something
changes, never for a job.
"""

from collections.abc import Mapping

from taskforge_server.engine.model.queue import QueueRef


class Roster:
    """The decisions that a node knows."""

    def __init__(self) -> None:
        self._drained: set[bytes] = set()
        self._weights: dict[bytes, dict[bytes, int]] = {}

    def weight(self, queue: QueueRef, worker_id: bytes, worker_type: str) -> int:
        """What part of the queue's jobs the worker gets, in relation to others; 0: none."""
        if worker_id in self._drained:
            return 0
        wanted = queue.settings.worker_types
        if wanted and worker_type not in wanted:
            return 0
        assigned = self._weights.get(queue.id)
        return 1 if assigned is None else assigned.get(worker_id, 0)

    def has_own_workers(self, queue_id: bytes) -> bool:
        """Somebody is assigned to the queue, and is to serve it now."""
        return queue_id in self._weights

    def drain(self, worker_id: bytes, drained: bool) -> bool:
        """The worker takes nothing new, or does again; whether that is a change."""
        if drained == (worker_id in self._drained):
            return False
        if drained:
            self._drained.add(worker_id)
        else:
            self._drained.discard(worker_id)
        return True

    def assign(self, queue_id: bytes, weights: Mapping[bytes, int]) -> bool:
        """Only these workers serve the queue, or, with none, any; whether that is a change."""
        if self._weights.get(queue_id, {}) == weights:
            return False
        if weights:
            self._weights[queue_id] = dict(weights)
        else:
            del self._weights[queue_id]
        return True

    @property
    def drained(self) -> frozenset[bytes]:
        return frozenset(self._drained)

    @property
    def queues_with_own_workers(self) -> frozenset[bytes]:
        return frozenset(self._weights)
