"""Children wait, parents end: what brings the two together, over all shards of a node.

    marks of a shard ──see──► waiting ──► looked at: memory of the owner, else the tables
                                 │             │ unfinished        │ ended, durably
                                 │             ▼                   ▼
                                 │          watched ──end──► edge satisfied ──the last──► child free
                                 └── the shard is lost: forgotten, whoever takes it sees them again

The child's own shard holds the truth about its edges, in its options; all that is here follows
from the live jobs and from what the parents are, and may be lost at any time. A watch is only a
hint: a shard that comes, a parent that is retried, and a slow sweep have parents looked at again.
Nothing is believed but an end that is durable: one of memory at or below the commit, or a row of
the tables.

Invariant: a child is let go only when each of its edges is satisfied by such an end; and whatever
dies, it is let go once they are.

A child becomes free by one event, `changed`: due now, its edges gone from its options. While it
waits its options are written anew when half of its edges are satisfied, and by the sweep; so the
parents of ten thousand cost some twenty of their lists, not ten thousand.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from math import inf
from typing import Protocol

from taskforge_server.engine import limits
from taskforge_server.engine.actors.ports import Journal
from taskforge_server.engine.errors import TaskForgeError
from taskforge_server.engine.model.graph import (
    PARENT_FAILED,
    PARENT_GONE,
    Edge,
    Parents,
    Verdict,
    unpacked,
)
from taskforge_server.engine.model.job import FINAL, JobStatus
from taskforge_server.engine.model.joboptions import Told
from taskforge_server.engine.observe.counters import Counters
from taskforge_server.engine.runtime.clock import Clock
from taskforge_server.engine.shard.edges import EdgeRow
from taskforge_server.engine.shard.family import with_parents, without_parents
from taskforge_server.engine.shard.shard import Shard
from taskforge_server.engine.shard.waiting import Child, Waiting
from taskforge_server.ext.ids import shard_of
from taskforge_server.ext.table import TransitionError

log = logging.getLogger(__name__)


class ParentRows(Protocol):
    """Jobs as the tables have them."""

    async def statuses(self, job_ids: Sequence[bytes]) -> dict[bytes, JobStatus]:
        """Of those that have a row."""
        ...


class NoRows:
    """Tables that nobody wrote."""

    async def statuses(self, job_ids: Sequence[bytes]) -> dict[bytes, JobStatus]:
        return {}


class Dependencies:
    """One per node. `run` in a task; everything else from the same loop, without waiting."""

    def __init__(
        self,
        clock: Clock,
        journal: Journal,
        shard: Callable[[int], Shard | None],
        changed: Callable[[Shard, bytes], None],
        counters: Counters,
        tenant: Callable[[bytes], bytes] = lambda project_id: project_id,
    ) -> None:
        """`changed` hears of a queue of the shard whose jobs may start; `tenant` says who shares
        bounds with others."""
        self.rows: ParentRows = NoRows()
        self.waiting = Waiting()
        self._clock = clock
        self._journal = journal
        self._shard = shard
        self._changed = changed
        self._counters = counters
        self._tenant = tenant
        self._watched: dict[bytes, _End] = {}
        self._looks: dict[bytes, None] = {}
        self._later: set[bytes] = set()
        """Unfinished, and not where they can be watched; or not to be found at the last look."""
        self._missed: set[bytes] = set()
        self._verdicts: deque[tuple[bytes, Verdict]] = deque()
        self._rounds: list[bytes] = []
        self._child_rounds: list[bytes] = []
        self._sweep_s = inf
        self._wake = asyncio.Event()
        self._working = False

    @property
    def busy(self) -> bool:
        """There is something to look at or to decide."""
        return bool(self._working or self._looks or self._verdicts or self.waiting.halved)

    # what a shard's jobs say

    def see(self, shard: Shard, job_id: bytes, parents: Parents | None) -> None:
        """A live job of the shard waits for these, now or again."""
        if parents is None:
            if job_id in self.waiting.children:
                self._forget(job_id)
            return
        edges = unpacked(parents.edges)
        self._note(shard, job_id, edges)
        tenant = self._tenant(shard.table.project_of(job_id) or b"")
        new = self.waiting.wait(job_id, shard, tenant, edges, parents.not_before_us)
        if job_id in self.waiting.children:
            self.look(new)

    def _note(self, shard: Shard, job_id: bytes, edges: Sequence[Edge]) -> None:
        """What was decided just now is for the tables; what was loaded stands there."""
        table = shard.table
        job = table.get(job_id)
        if job is None or job["lsn"] != table.gathering_lsn:
            return
        child = self.waiting.children.get(job_id)
        known = child.missing if child is not None else {}
        project_id = job["project_id"]
        rows = [
            EdgeRow(edge.parent_id, job_id, project_id, edge.on_failure)
            for edge in edges
            if edge.parent_id not in known
        ]
        shard.edges.note(table.gathering_lsn, rows)

    def look(self, parents: Sequence[bytes]) -> None:
        """Look at these again, soon."""
        if parents:
            self._looks.update(dict.fromkeys(parents))
            self._wake.set()

    def revived(self, job_id: bytes) -> bool:
        """The job runs again: whoever waited for it when it failed goes on waiting for it. Whether
        there is anybody: then its row is to stay."""
        waited_for = job_id in self.waiting.parents
        if waited_for:
            self.look((job_id,))
        return waited_for

    def adopt(self, number: int) -> None:
        """A shard came, or more of its jobs: parents in it can be watched."""
        self.look(
            [parent_id for parent_id in self.waiting.parents if shard_of(parent_id) == number]
        )

    def drop(self, shard: Shard) -> None:
        """The shard is gone, and what its jobs wait for is another owner's to know."""
        self._let_go(self.waiting.forget_shard(shard))

    def _forget(self, child_id: bytes) -> None:
        self._let_go(self.waiting.forget(child_id))

    def _let_go(self, parents: Sequence[bytes]) -> None:
        """Nobody waits for these any more."""
        for parent_id in parents:
            self._later.discard(parent_id)
            self._missed.discard(parent_id)
            end = self._watched.pop(parent_id, None)
            if end is not None and (shard := self._shard(shard_of(parent_id))) is not None:
                shard.unwatch(parent_id, end)

    # the work

    async def run(self) -> None:
        """Look and decide until cancelled."""
        self._sweep_s = asyncio.get_running_loop().time() + limits.PARENTS_SWEEP_S
        while True:
            try:
                async with asyncio.timeout_at(self._sweep_s):
                    await self._wake.wait()
            except TimeoutError:
                pass  # time for a sweep
            self._wake.clear()
            try:
                self._sweep_in_time()
                await self.work()
            except TaskForgeError as error:
                log.warning("parents cannot be looked at now: %s", error)
            except Exception:
                log.exception("a look at parents failed; the sweep looks again")

    async def work(self) -> None:
        """Until there is nothing to look at and nothing to decide."""
        self._working = True
        try:
            await self._work()
        finally:
            self._working = False

    async def _work(self) -> None:
        while self._looks or self._verdicts or self.waiting.halved:
            batch = list(islice(self._looks, limits.PARENTS_LOOK_MAX))
            for parent_id in batch:
                del self._looks[parent_id]
            asked = [parent_id for parent_id in batch if not self._look(parent_id)]
            if asked:
                self._later.update(asked)
                statuses = await self.rows.statuses(asked)
                for parent_id in asked:
                    self._found(parent_id, statuses.get(parent_id))
            self._decide()
            await asyncio.sleep(0)
            self._sweep_in_time()

    def _sweep_in_time(self) -> None:
        """A sweep when it is time, however much is heard in between."""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._sweep_s:
            self._sweep_s = now_s + limits.PARENTS_SWEEP_S
            self.sweep()

    def sweep(self) -> None:
        """Parents that could not be watched, some of all others in turn, and what children know;
        children that were cancelled or expired while they waited are forgotten."""
        self.look(list(self._later))
        if not self._rounds:
            self._rounds = list(self.waiting.parents)
        self.look(self._rounds[-limits.PARENTS_SWEEP_MAX :])
        del self._rounds[-limits.PARENTS_SWEEP_MAX :]
        if not self._child_rounds:
            self._child_rounds = list(self.waiting.children)
        for child_id in self._child_rounds[-limits.PARENTS_SWEEP_MAX :]:
            child = self.waiting.children.get(child_id)
            if child is not None and not _waits(child):
                self._forget(child_id)
        del self._child_rounds[-limits.PARENTS_SWEEP_MAX :]
        for child_id in list(islice(self.waiting.changed, limits.PARENTS_LOOK_MAX)):
            self._write(self.waiting.children[child_id])

    def _look(self, parent_id: bytes) -> bool:
        """What memory says. False: nothing."""
        if parent_id not in self.waiting.parents:
            return True
        shard = self._shard(shard_of(parent_id))
        job = None if shard is None else shard.table.get(parent_id)
        if shard is None or job is None:
            return False
        self._later.discard(parent_id)
        if job["status"] in FINAL:
            if job["lsn"] <= shard.table.committed_lsn:
                self._ended(parent_id, job["status"])
            else:
                shard.effect_at(job["lsn"], _Again(self, parent_id))
        elif parent_id not in self._watched:
            end = _End(self, parent_id)
            if shard.watch(parent_id, end):
                self._watched[parent_id] = end
        return True

    def _found(self, parent_id: bytes, status: JobStatus | None) -> None:
        """What the tables say; memory knows better, if it has the job by now."""
        if self._look(parent_id):
            return
        shard = self._shard(shard_of(parent_id))
        gone = status is None and shard is not None
        if status in FINAL or (gone and parent_id in self._missed):
            self._later.discard(parent_id)
            self._missed.discard(parent_id)
            self._ended(parent_id, status)
        elif gone:
            self._missed.add(parent_id)  # once more, at the next sweep

    def _ended(self, parent_id: bytes, status: JobStatus | None) -> None:
        self._verdicts.extend(self.waiting.ended(parent_id, status))
        if parent_id not in self.waiting.parents:
            self._watched.pop(parent_id, None)

    def heard(self, parent_id: bytes) -> None:
        """The watch is over: the parent ended, or its shard is gone."""
        self._watched.pop(parent_id, None)
        self.look((parent_id,))

    # decisions

    def _decide(self) -> None:
        """Some of the verdicts; and what has half of its parents."""
        for _ in range(min(len(self._verdicts), limits.PARENTS_LOOK_MAX)):
            child_id, said = self._verdicts.popleft()
            child = self.waiting.children.get(child_id)
            if child is None or child.shard.lost:
                continue
            if said == "cancel":
                self._cancel(child, PARENT_FAILED)
            elif said == "gone":
                self._cancel(child, PARENT_GONE)
            elif not child.missing:  # it may have been given others meanwhile
                self._free(child)
        for child_id in list(islice(self.waiting.halved, limits.PARENTS_LOOK_MAX)):
            self._write(self.waiting.children[child_id])

    def _free(self, child: Child) -> None:
        """All its edges are satisfied: it may start, if its time has come."""
        job = child.shard.table.get(child.id)
        self._forget(child.id)
        if job is None or job["status"] not in ("pending", "scheduled"):
            return
        now_us = self._clock.now_us()
        self._change(
            child, due_us=max(now_us, child.not_before_us), options=without_parents(job["options"])
        )
        self._changed(child.shard, job["queue_id"])

    def _write(self, child: Child) -> None:
        """Let its options name what is still missing."""
        job = child.shard.table.get(child.id)
        if job is None or job["status"] not in ("pending", "scheduled"):
            self._forget(child.id)
            return
        edges = [Edge(parent_id, policy) for parent_id, policy in child.missing.items()]
        child.written = len(edges)
        self.waiting.changed.pop(child.id, None)
        self.waiting.halved.pop(child.id, None)
        self._change(child, options=with_parents(job["options"], edges, child.not_before_us))

    def _change(self, child: Child, *, options: bytes, due_us: int = -1) -> None:
        shard: Shard = child.shard
        shard.table.change(child.id, self._clock.now_us(), due_us=due_us, options=options)
        self._journal.dirty(shard)

    def _cancel(self, child: Child, reason: str) -> None:
        """A parent failed, and the child was not to run then; or it can never succeed any more."""
        shard: Shard = child.shard
        self._forget(child.id)
        try:
            if not shard.table.cancelled(child.id, reason, self._clock.now_us()):
                return
        except TransitionError:
            return  # it is over, or was let run by somebody
        self._counters.cancelled_jobs += 1
        shard.ended((child.id,))
        self._journal.dirty(shard)


def _waits(child: Child) -> bool:
    peeked = child.shard.table.peek(child.id)
    return peeked is not None and peeked[0] in ("pending", "scheduled")


class SeenParents:
    """The book of a shard: hands on what its live jobs say."""

    def __init__(self, dependencies: Dependencies, shard: Shard) -> None:
        self._dependencies = dependencies
        self._shard = shard

    def see(self, job_id: bytes, told: Told) -> None:
        self._dependencies.see(self._shard, job_id, told.more.parents)


class _End:
    """Waits for the end of a parent, as a promise does."""

    __slots__ = ("_dependencies", "_parent_id")

    def __init__(self, dependencies: Dependencies, parent_id: bytes) -> None:
        self._dependencies = dependencies
        self._parent_id = parent_id

    def done(self) -> bool:
        return False

    def set_result(self, result: None, /) -> None:
        self._dependencies.heard(self._parent_id)

    def set_exception(self, exception: Exception, /) -> None:
        self._dependencies.heard(self._parent_id)


class _Again:
    """A look once an end is durable."""

    __slots__ = ("_dependencies", "_parent_id")

    def __init__(self, dependencies: Dependencies, parent_id: bytes) -> None:
        self._dependencies = dependencies
        self._parent_id = parent_id

    def release(self) -> None:
        self._dependencies.look((self._parent_id,))

    def refuse(self, error: Exception) -> None:
        self._dependencies.look((self._parent_id,))
