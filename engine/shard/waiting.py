"""Jobs that wait for others, of all shards of a node: who waits for whom. Pure.

    wait ──► open edges ──parent ended──► satisfied ──the last one──► the child may start
                │                 └── it failed: stays open, or the child is cancelled
                └── forget: the child started, ended, or its shard is gone

Costs: one step for each edge that comes or goes. Whoever ends takes its edges out for good when it
succeeded; a parent that failed keeps those that `block`, for it may be retried.

Invariant: a child is given as free only when each of its edges was satisfied by an end that was
told; whoever tells of an end knows that it is durable.
"""

from collections.abc import Iterable
from typing import Any

from taskforge_server.engine import limits
from taskforge_server.engine.model.graph import Edge, OnFailure, Verdict, verdict
from taskforge_server.engine.model.job import JobStatus
from taskforge_server.engine.shard.shared import SharedBound


class Child:
    """A job that waits."""

    __slots__ = ("id", "missing", "not_before_us", "shard", "tenant", "written")

    def __init__(self, child_id: bytes, shard: Any, tenant: bytes, not_before_us: int) -> None:
        self.id = child_id
        self.shard = shard
        self.tenant = tenant
        self.not_before_us = not_before_us
        self.missing: dict[bytes, OnFailure] = {}
        """The open edges."""
        self.written = 0
        """How many of them its options name."""


class Waiting:
    """The children and their parents."""

    def __init__(self) -> None:
        self.children: dict[bytes, Child] = {}
        self.parents: dict[bytes, set[bytes]] = {}
        """Parent -> who waits for it."""
        self.edges = SharedBound("open edges between jobs", limits.EDGES_MAX)
        self.changed: dict[bytes, None] = {}
        """Children that wait for fewer parents than their options name."""
        self.halved: dict[bytes, None] = {}
        """Those of them that wait for half of many or less."""

    def wait(
        self,
        child_id: bytes,
        shard: Any,
        tenant: bytes,
        edges: Iterable[Edge],
        not_before_us: int = 0,
    ) -> list[bytes]:
        """The child waits for these, whatever was known of it; the parents that are new."""
        known = self.children.get(child_id)
        if known is not None and known.shard is not shard:
            self.forget(child_id)
            known = None
        child = known or Child(child_id, shard, tenant, not_before_us)
        child.not_before_us = not_before_us
        wanted = {edge.parent_id: edge.on_failure for edge in edges if not edge.done}
        for parent_id in [parent_id for parent_id in child.missing if parent_id not in wanted]:
            self._unlink(child, parent_id)
        new = [parent_id for parent_id in wanted if parent_id not in child.missing]
        for parent_id in new:
            self.parents.setdefault(parent_id, set()).add(child_id)
        self.edges.add(child.tenant, len(new))
        child.missing = wanted
        child.written = len(wanted)
        self.changed.pop(child_id, None)
        self.halved.pop(child_id, None)
        if wanted:
            self.children[child_id] = child
        else:
            self.children.pop(child_id, None)
        return new

    def ended(self, parent_id: bytes, status: JobStatus | None) -> list[tuple[bytes, Verdict]]:
        """The parent has ended so, durably; None: and its row was deleted. Whoever is free now, or
        is to be cancelled."""
        found: list[tuple[bytes, Verdict]] = []
        for child_id in list(self.parents.get(parent_id, ())):
            child = self.children[child_id]
            said = verdict(child.missing[parent_id], status)
            if said in ("cancel", "gone"):
                found.append((child_id, said))
            elif said == "satisfied":
                self._unlink(child, parent_id)
                if child.missing:
                    self.changed[child_id] = None
                    if 2 * len(child.missing) <= child.written >= limits.PARENTS_WRITTEN_MIN:
                        self.halved[child_id] = None
                else:
                    found.append((child_id, said))
        return found

    def forget(self, child_id: bytes) -> list[bytes]:
        """It waits no more; the parents that nobody waits for now."""
        child = self.children.pop(child_id, None)
        self.changed.pop(child_id, None)
        self.halved.pop(child_id, None)
        if child is None:
            return []
        parents = list(child.missing)
        for parent_id in parents:
            self._unlink(child, parent_id)
        return [parent_id for parent_id in parents if parent_id not in self.parents]

    def forget_shard(self, shard: object) -> list[bytes]:
        """The same for all children of a shard."""
        gone = [child.id for child in self.children.values() if child.shard is shard]
        return [parent_id for child_id in gone for parent_id in self.forget(child_id)]

    def _unlink(self, child: Child, parent_id: bytes) -> None:
        del child.missing[parent_id]
        self.edges.remove(child.tenant)
        children = self.parents[parent_id]
        children.discard(child.id)
        if not children:
            del self.parents[parent_id]
