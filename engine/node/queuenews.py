"""Changes of queues, told from node to node: a message says which queue, the row says what.

    changed here ──tell──► other nodes ──► read the row ──► listeners (actors, the catalog)

Messages may be lost: after a gap, and at an interval, the rows of all queues are read.
"""

import asyncio
import logging
from collections.abc import Callable

from taskforge_server.engine import limits
from taskforge_server.engine.cluster.port import QUEUE_CHANGED, Cluster
from taskforge_server.engine.errors import TaskForgeError
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.engine.store.queues import Queues

log = logging.getLogger(__name__)


class QueueNews:
    """Keeps what this node knows of queues up to date."""

    def __init__(self, cluster: Cluster, queues: Queues) -> None:
        self.listeners: list[Callable[[QueueRef], None]] = []
        """Told of every queue that is new or has changed."""
        self._cluster = cluster
        self._queues = queues
        self._known: dict[bytes, QueueRef] = {}
        self._told: set[bytes] = set()
        self._wake = asyncio.Event()
        cluster.subscribe(QUEUE_CHANGED, self._heard, self._wake.set)

    def tell(self, queue: QueueRef) -> None:
        """This node has changed the queue."""
        self._known[queue.id] = queue
        self._told.add(queue.id)
        self._cluster.publish(QUEUE_CHANGED, queue.id)

    def _heard(self, message: bytes) -> None:
        if message in self._told:
            self._told.discard(message)  # our own words
        else:
            self._wake.set()

    async def run(self) -> None:
        """Read the queues when there is news, and now and then."""
        while True:
            try:
                async with asyncio.timeout(limits.QUEUES_READ_S):
                    await self._wake.wait()
            except TimeoutError:
                pass  # a message may have been lost
            # What is told in quick succession is read once.
            await asyncio.sleep(limits.QUEUES_READ_PAUSE_S)
            self._wake.clear()
            try:
                await self.read()
            except TaskForgeError as error:
                log.warning("queues not read: %s", error)

    async def read(self) -> None:
        """Read all rows and tell the listeners what is different."""
        for queue in await self._queues.all():
            ref = queue.ref()
            if self._known.get(ref.id) != ref:
                self._known[ref.id] = ref
                for listener in self.listeners:
                    listener(ref)
