"""The engine port of a node: the doors to its actors, and what news of a door the rest must hear.

queue, roster, schedule changed ──► here at once ──► told to the other nodes
dead letter requeued ─────────────► its hook is told of it first
worker attached ──────────────────► room in the plan? ──► its row is kept
"""

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from taskforge_server.engine.actors.ports import Hello, Outlet
from taskforge_server.engine.actors.worker import WorkerActor
from taskforge_server.engine.errors import LimitReached, NotFound
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.engine.model.why import Explanation
from taskforge_server.engine.node.doors import Doors
from taskforge_server.engine.shard.keys import KeyedRequest
from taskforge_server.ext.ids import shard_of

if TYPE_CHECKING:
    from taskforge_server.engine.node.node import Node


class NodeDoors(Doors):
    """The engine port of a node, which also keeps the rows of workers."""

    def __init__(self, node: "Node") -> None:
        config = node.config
        super().__init__(
            node.core,
            node.admission,
            node.find_queue,
            config.lease_ttl_s,
            config.heartbeat_s,
            node.pager,
        )
        self._node = node

    async def _waiting(self, job_id: bytes, project_id: bytes) -> dict[str, Any]:
        """As in `Doors`; an id of a shard that there is not is nobody's, here or elsewhere."""
        if shard_of(job_id) >= self._node.config.shards:
            raise NotFound("no such job is waiting", "job_id")
        return await super()._waiting(job_id, project_id)

    async def requeue_once(
        self, job: dict[str, Any], key: KeyedRequest | None
    ) -> tuple[dict[str, Any], bool]:
        """As in `Doors`; a dead letter is told of before it goes."""
        await self._told([job])
        return await super().requeue_once(job, key)

    async def requeue_many(
        self,
        queue: QueueRef,
        jobs: list[dict[str, Any]],
        first_us: int,
        interval_us: int,
        tail: bytes,
        key: KeyedRequest | None,
    ) -> tuple[bytes, bool]:
        """As in `Doors`; dead letters are told of before they go."""
        await self._told(jobs)
        return await super().requeue_many(queue, jobs, first_us, interval_us, tail, key)

    async def _told(self, jobs: list[dict[str, Any]]) -> None:
        ref = self._core.find(jobs[0]["queue_id"]) if jobs else None
        if ref is not None:
            await self._node.dead_letter_upkeep.ensure(ref, jobs)

    def queue_changed(self, queue: QueueRef) -> None:
        """The queue was made, or its row changed; other nodes are told."""
        super().queue_changed(queue)
        self._node.queue_news.tell(queue)

    async def roster_changed(
        self, *, workers: Collection[bytes] = (), queues: Collection[bytes] = ()
    ) -> None:
        """What is wanted of these workers, or who is assigned to these queues, was changed: when
        this returns it holds here; other nodes are told."""
        await self._node.roster_news.changed(workers=workers, queues=queues)

    async def schedule_changed(self, schedule_id: bytes) -> None:
        """The schedule was made, changed or deleted: when this returns it holds here; other nodes
        are told."""
        await self._node.scheduler.changed(schedule_id)

    async def organization_workers(self, organization_id: bytes) -> int:
        """How many workers of the organisation are connected, here and elsewhere."""
        return len(await self._node.worker_count.connected(organization_id))

    async def why(
        self,
        queue: QueueRef,
        job: dict[str, Any],
        executions: Sequence[dict[str, Any]],
        ahead: int | None = None,
    ) -> Explanation:
        """As in `Doors`; a plan that allows no more workers is a reason, too."""
        found = await super().why(queue, job, executions, ahead)
        if "no_worker" in found.codes:
            try:
                await self._node.worker_count.require_room(queue.project_id, b"")
            except LimitReached as reached:
                found.add("worker_limit", reached.message)
        return found

    async def attach_worker(
        self, hello: Hello, project_id: bytes, queues: Iterable[QueueRef], outlet: Outlet
    ) -> WorkerActor:
        session = await super().attach_worker(hello, project_id, list(queues), outlet)
        self._node.worker_rows.attached(hello, project_id, self.now_us())
        return session

    async def _require_room(self, hello: Hello, project_id: bytes) -> None:
        await self._node.worker_count.require_room(project_id, hello.worker_id)
