"""The plans of projects, as this node knows them: read when they are needed, renewed beside that.

    unknown --find--> fresh --PLAN_TTL_S / 2--> renewed in the background
                        |--news of the organisation, PLAN_TTL_S--> read at the next use

`cached` makes no query and never waits: it is asked for every request. `known` gives the newest
word even when it is old: a limit must not vanish because the database is away.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from taskforge_server.engine import limits
from taskforge_server.engine.cluster.port import SUBSCRIPTION_CHANGED, Cluster
from taskforge_server.engine.errors import Unavailable
from taskforge_server.engine.model.subscription import Plan

log = logging.getLogger(__name__)


class PlanReader(Protocol):
    """Where plans are read."""

    async def plan_of_project(self, project_id: bytes) -> Plan: ...
    async def plan_of_organization(self, organization_id: bytes) -> Plan: ...


class _Entry:
    __slots__ = ("expires_s", "plan", "renew_s")

    def __init__(self, plan: Plan, now_s: float) -> None:
        self.plan = plan
        self.renew_s = now_s + limits.PLAN_TTL_S / 2
        self.expires_s = now_s + limits.PLAN_TTL_S


class Plans:
    """What projects and organisations may use."""

    def __init__(
        self,
        reader: PlanReader,
        cluster: Cluster,
        *,
        learned: Callable[[bytes, Plan], None] = lambda project_id, plan: None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`learned` hears of each project and its plan."""
        self._reader = reader
        self._learned = learned
        self._monotonic_s = monotonic_s
        # By project, and by organisation for people who work in none.
        self._entries: dict[bytes, _Entry] = {}
        self._lookups: dict[bytes, asyncio.Task[Plan]] = {}
        self.changes = 0
        """How often something that `cached` said before ceased to hold."""
        cluster.subscribe(SUBSCRIPTION_CHANGED, self.forget, self._forget_all)

    def cached(self, project_id: bytes) -> Plan | None:
        """The plan of the project, if it is known and fresh."""
        entry = self._entries.get(project_id)
        if entry is None:
            return None
        now_s = self._monotonic_s()
        if now_s >= entry.renew_s:
            if now_s >= entry.expires_s:
                return None
            if project_id not in self._lookups and len(self._lookups) < limits.LOOKUPS_AT_ONCE_MAX:
                self._begin(project_id, entry.plan.organization_id)
        return entry.plan

    def known(self, project_id: bytes) -> Plan | None:
        """The newest word about the project, however old."""
        entry = self._entries.get(project_id)
        return None if entry is None else entry.plan

    async def find(self, project_id: bytes, organization_id: bytes) -> Plan:
        """The plan of the project, or of the organisation where there is no project."""
        key = project_id or organization_id
        plan = self.cached(key)
        if plan is not None:
            return plan
        lookup = self._lookups.get(key)
        if lookup is None:
            if len(self._lookups) >= limits.LOOKUPS_AT_ONCE_MAX:
                raise Unavailable(limits.UNAVAILABLE_RETRY_S)
            lookup = self._begin(key, organization_id)
        try:
            # A caller that gives up must not take the look-up from the others.
            return await asyncio.shield(lookup)
        except Unavailable:
            if (known := self.known(key)) is not None:
                return known
            raise

    def forget(self, organization_id: bytes) -> None:
        """The subscription of the organisation has changed: read it at the next use."""
        self.changes += 1
        for entry in self._entries.values():
            if entry.plan.organization_id == organization_id:
                entry.expires_s = entry.renew_s = 0.0

    def _forget_all(self) -> None:
        self.changes += 1
        for entry in self._entries.values():
            entry.expires_s = entry.renew_s = 0.0

    def _begin(self, key: bytes, organization_id: bytes) -> asyncio.Task[Plan]:
        lookup = asyncio.create_task(self._look_up(key, organization_id))
        self._lookups[key] = lookup
        lookup.add_done_callback(lambda task: self._ended(key, task))
        return lookup

    def _ended(self, key: bytes, lookup: asyncio.Task[Plan]) -> None:
        self._lookups.pop(key, None)
        if not lookup.cancelled() and (error := lookup.exception()) is not None:
            log.debug("look-up of a plan: %s", error)

    async def _look_up(self, key: bytes, organization_id: bytes) -> Plan:
        begun_s, changes = self._monotonic_s(), self.changes
        if key == organization_id:
            plan = await self._reader.plan_of_organization(organization_id)
        else:
            plan = await self._reader.plan_of_project(key)
            self._learned(key, plan)
        entry = self._entries.pop(key, None)
        if entry is not None and entry.plan == plan:
            plan = entry.plan  # one object while nothing changes
        elif entry is not None:
            self.changes += 1
            changes += 1
        if len(self._entries) >= limits.PLANS_MAX:
            del self._entries[next(iter(self._entries))]
        if changes != self.changes:
            begun_s = -limits.PLAN_TTL_S  # perhaps read before the change: good for this once
        self._entries[key] = _Entry(plan, begun_s)
        return plan
