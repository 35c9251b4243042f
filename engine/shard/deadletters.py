"""Queues in which jobs have failed for good, for whoever submits what their hooks ask for.

    heard(queue, lsn) ──► waiting ──the tables know it, its hooks are submitted──► done(queue, lsn)

Only queues with a hook are told of. What is noted here says where to look, nothing depends on it:
a node that takes a shard over looks at all queues with hooks in it.
"""

from collections.abc import Callable


class DeadLetterNews:
    """Where to look, and up to which place of the log."""

    def __init__(self) -> None:
        self.waiting: dict[bytes, int] = {}
        """Queue -> the newest lsn at which a job of it failed."""
        self.wake: Callable[[], None] = lambda: None
        """Called when there is something to look at."""

    def heard(self, queue_id: bytes, lsn: int) -> None:
        """A job of this queue failed at this lsn, or may have before."""
        self.waiting[queue_id] = max(lsn, self.waiting.get(queue_id, 0))
        self.wake()

    def done(self, queue_id: bytes, lsn: int) -> None:
        """All up to this lsn is seen to."""
        if self.waiting.get(queue_id, lsn + 1) <= lsn:
            del self.waiting[queue_id]
