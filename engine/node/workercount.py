"""How many workers an organisation has connected, and whether one more may come.

    connected = those with a session here, and those whose row says so and that did not leave here

Sessions here are known exactly, those of other nodes by their rows, which are written when a worker
connects. So of workers that connect to several nodes in the same moment a few may be too many; the
next one is refused. A worker that comes back to its session is never one more.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from taskforge_server.engine import limits
from taskforge_server.engine.errors import LimitReached
from taskforge_server.engine.node.core import Core
from taskforge_server.engine.node.plans import Plans
from taskforge_server.engine.node.workerrows import WorkerRows, moment


class ConnectedRows(Protocol):
    """The rows of workers, by organisation."""

    async def workers(
        self, organization_id: bytes, now: datetime, silent_s: float, most: int
    ) -> set[bytes]:
        """Ids of those that were heard of lately."""
        ...


class WorkerCount:
    """The connected workers of organisations."""

    def __init__(
        self,
        core: Core,
        plans: Plans,
        rows: WorkerRows,
        stored: ConnectedRows,
        lease_ttl_s: float,
        now_us: Callable[[], int],
    ) -> None:
        self._core = core
        self._plans = plans
        self._rows = rows
        self._stored = stored
        self._lease_ttl_s = lease_ttl_s
        self._now_us = now_us

    async def require_room(self, project_id: bytes, worker_id: bytes) -> None:
        """LimitReached when the organisation has as many workers as it may, this one left aside."""
        plan = await self._plans.find(project_id, b"")
        workers_max = plan.limits.max_workers
        if workers_max is None or workers_max >= limits.WORKERS_MAX:
            return
        others = await self.connected(plan.organization_id) - {worker_id}
        if len(others) >= workers_max:
            raise LimitReached(
                f"this organisation may have {workers_max} workers at one time",
                "too_many_workers",
            )

    async def connected(self, organization_id: bytes) -> set[bytes]:
        """Ids of the workers of the organisation that are there."""
        stored = await self._stored.workers(
            organization_id, moment(self._now_us()), self._lease_ttl_s, limits.WORKERS_MAX
        )
        owner = self._core.usage.owner
        here = {
            session.hello.worker_id
            for session in self._core.sessions
            if owner(session.project_id) == organization_id
        }
        return (stored - self._rows.left()) | here
