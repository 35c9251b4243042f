"""Which shards this node owns: taken at the start, dropped when they are lost, taken again.

    absent --take--> owned --fenced, or its state in doubt--> lost
                       ^                                       |
                       |     its owner by the log is us, or nobody alive
                       '---------------------------------------'
                             otherwise: left to its owner, looked at again every RETAKE_LOOK_S

Who owns a shard is what its log says: the newest `owned` event. A node that lost a shard to a
living one does not fight for it. Tries are bounded: a shard that cannot be taken RETAKE_TRIES_MAX
times in a row stops the node, for then something is wrong that no further try mends.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Protocol

import msgpack

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Unavailable
from taskforge_server.engine.journal.journal import Journal
from taskforge_server.engine.journal.log import ShardLog
from taskforge_server.engine.journal.projector import Projector
from taskforge_server.engine.journal.rounds import TableSource
from taskforge_server.engine.journal.takeover import Taken, Taker, Waiting
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.engine.model.subscription import DAY_US, month_of
from taskforge_server.engine.node.core import Core
from taskforge_server.engine.shard.edges import EdgeRow
from taskforge_server.engine.shard.keys import KeyEntry
from taskforge_server.engine.shard.shard import Shard
from taskforge_server.engine.shard.unique import MARK_PREFIX
from taskforge_server.engine.shard.usage import StoredUsage
from taskforge_server.ext.table import ShardTable

log = logging.getLogger(__name__)

OWNED = 10
VERSION_AND_CHECKSUM_BYTES = 5

ReadUsage = Callable[[int], Awaitable[Iterable[StoredUsage]]]
"""What the tables have counted of a shard, read after its watermark."""


class Presence(Protocol):
    """Who is there; hints."""

    async def is_alive(self, node_id: str) -> bool:
        """Whether this node has lately been seen; True when that cannot be known."""
        ...

    def hint(self, shards: Iterable[int]) -> None:
        """These are the shards that this node owns now."""
        ...


class Ownership:
    """Takes shards, and lets them go."""

    def __init__(
        self,
        node_id: str,
        core: Core,
        journal: Journal,
        projector: Projector,
        shard_log: ShardLog,
        taker: Taker[ShardTable],
        presence: Presence,
        read_queues: Callable[[], Awaitable[Iterable[QueueRef]]],
        failed: Callable[[Exception], None],
        read_usage: ReadUsage,
        at_once_max: int = limits.TAKEOVERS_AT_ONCE_MAX,
    ) -> None:
        self._node_id = node_id
        self._core = core
        self._journal = journal
        self._projector = projector
        self._log = shard_log
        self._taker = taker
        self._presence = presence
        self._read_queues = read_queues
        self._failed = failed
        self._read_usage = read_usage
        self._at_once_max = min(at_once_max, limits.TAKEOVERS_AT_ONCE_MAX)
        # Each holds a connection while it asks for another: too many would wait for each other.
        self._turns = asyncio.Semaphore(self._at_once_max)
        self._stopped = False
        self._sources: dict[Shard, TableSource] = {}
        self._retaking: dict[int, asyncio.Task[None]] = {}
        self._counting: dict[asyncio.Task[None], asyncio.Future[Sequence[Waiting]]] = {}
        self.wanted: frozenset[int] = frozenset()
        """The shards that should be ours."""

    @property
    def missing(self) -> list[int]:
        """Shards that should be ours and are not."""
        return sorted(self.wanted - self._core.shards.keys())

    @property
    def counting(self) -> list[int]:
        """Shards that work already, while their jobs in the tables are counted."""
        return [number for number, shard in self._core.shards.items() if not shard.counted]

    async def take_all(self, shards: Iterable[int]) -> None:
        """Take these shards over, some at once; queues of a shard are served when it is there."""
        self.wanted = frozenset(shards)
        try:
            await self._refresh()
            await self._take_groups()
        except BaseException:
            await self.stop()  # nobody else will
            raise

    async def _take_groups(self) -> None:
        ordered = sorted(self.wanted)
        groups = [
            ordered[start :: self._at_once_max]
            for start in range(min(self._at_once_max, len(ordered)))
        ]
        try:
            async with asyncio.TaskGroup() as tasks:
                for group in groups:
                    tasks.create_task(self._take(group))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def stop(self) -> None:
        """Take nothing any more."""
        self._stopped = True
        tasks: list[asyncio.Future[Any]] = [*self._retaking.values(), *self._counting]
        tasks += self._counting.values()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _refresh(self) -> None:
        for ref in await self._read_queues():
            self._core.refs[ref.id] = ref

    async def _take(self, shards: Iterable[int]) -> None:
        async with self._turns, aclosing(self._taker.each(shards)) as takes:
            async for taken in takes:
                known = self._core.refs.keys()
                if any(queue_id not in known for _, queue_id, _, _ in taken.submitted):
                    await self._refresh()  # queues that were made while we came
                shard = Shard(taken.table.shard, taken.table, taken.epoch, self._on_lost)
                for _ in shard.marks.read(shard.table):
                    await asyncio.sleep(0)
                self._adopt(shard, taken, await self._read_usage(shard.number))
                counting = asyncio.create_task(self._count(shard, taken.counted))
                self._counting[counting] = taken.counted
                counting.add_done_callback(self._counting.pop)

    async def _count(self, shard: Shard, counted: "asyncio.Future[Sequence[Waiting]]") -> None:
        """Tell the table how many jobs wait elsewhere."""
        try:
            counts = await asyncio.shield(counted)
        except Exception as error:  # noqa: BLE001 - whatever it was, the number is not known
            log.warning("the waiting jobs of shard %d were not counted: %s", shard.number, error)
            shard.give_up()
            return
        for waiting in counts:
            if waiting.shard == shard.number:
                shard.table.count_away(
                    waiting.queue_id, waiting.project_id, waiting.pending, waiting.scheduled
                )
        shard.counted = True

    def _adopt(self, shard: Shard, taken: Taken[ShardTable], stored: Iterable[StoredUsage]) -> None:
        shard.counted = False
        self._restore_usage(shard, taken, stored)
        for project_id, key, body_hash, ids, at_us in taken.keys:
            if key.startswith(MARK_PREFIX):
                shard.unique.restore(key, body_hash, ids, self._core.usage.tenant(project_id))
                continue
            entry = KeyEntry(shard.number, taken.head_lsn, body_hash, ids, at_us)
            self._core.keys.remember(project_id, key, entry)
        source = self._sources[shard] = TableSource(
            taken.table, taken.epoch, shard.usage, shard.give_up, shard.edges
        )
        self._restore_edges(shard, taken)
        if taken.early is not None:
            source.count(taken.early)
        self._projector.add(source, taken.early)
        self._core.adopt(shard, self._core.refs.values())
        self._presence.hint(self._core.shards)
        log.debug(
            "shard %d is ours in epoch %d: %d jobs loaded, %d events replayed",
            shard.number,
            taken.epoch,
            taken.jobs_loaded,
            taken.events_replayed,
        )

    def _restore_usage(
        self, shard: Shard, taken: Taken[ShardTable], stored: Iterable[StoredUsage]
    ) -> None:
        refs = self._core.refs
        submitted = (
            (lsn, (refs[queue_id].project_id, month_of(day * DAY_US)), count)
            for lsn, queue_id, day, count in taken.submitted
            if queue_id in refs
        )
        self._core.usage.restore(shard.usage, stored, submitted, self._core.clock.now_us())

    def _restore_edges(self, shard: Shard, taken: Taken[ShardTable]) -> None:
        """What the log says above the watermark is for the tables."""
        for lsn, child_id, parent_id, on_failure in taken.told:
            project_id = taken.table.project_of(child_id)
            shard.edges.note(lsn, [EdgeRow(parent_id, child_id, project_id, on_failure)])

    def _on_lost(self, shard: Shard) -> None:
        log.warning("shard %d is lost", shard.number)
        self._journal.forget(shard)
        self._core.drop(shard)
        self._presence.hint(self._core.shards)
        source = self._sources.pop(shard, None)
        if source is not None:
            self._projector.remove(source)
        # Lost while it is being taken again: who takes it sees that it is not here.
        if self._stopped or shard.number not in self.wanted:
            return
        retaking = self._retaking.get(shard.number)
        if retaking is None or retaking.done():
            task = asyncio.create_task(self._retake(shard), name=f"retake {shard.number}")
            self._retaking[shard.number] = task

    async def _retake(self, lost: Shard) -> None:
        number, tries, owner = lost.number, 0, ""
        while tries < limits.RETAKE_TRIES_MAX:
            try:
                owner = await self._owner(number, lost.lost_lsn) or owner
                if owner not in ("", self._node_id) and await self._presence.is_alive(owner):
                    await asyncio.sleep(limits.RETAKE_LOOK_S)
                    continue
                await self._refresh()
                await self._take([number])
                if number in self._core.shards:
                    log.info("shard %d is ours again", number)
                    return
                await asyncio.sleep(limits.RETAKE_PAUSE_S)  # lost again while it was loaded
            except Unavailable as error:
                log.warning("shard %d cannot be taken now: %s", number, error)
                await asyncio.sleep(limits.RETAKE_PAUSE_S)
            except Exception as error:
                tries += 1
                log.exception("shard %d cannot be taken", number)
                if tries == limits.RETAKE_TRIES_MAX:
                    self._failed(error)
                    return
                await asyncio.sleep(limits.RETAKE_PAUSE_S)

    async def _owner(self, number: int, after_lsn: int) -> str:
        """Who took the shard after this lsn; empty when nobody did, or the row is gone."""
        owner = ""
        async for row in self._log.read(number, after_lsn):
            owner = owner_in(row.body) or owner
        return owner


def owner_in(body: bytes) -> str:
    """The node that an `owned` event of this sound body names; empty when it has none."""
    unpacker = msgpack.Unpacker(max_buffer_size=len(body))
    unpacker.feed(memoryview(body)[VERSION_AND_CHECKSUM_BYTES:])
    unpacker.unpack()
    first = unpacker.unpack()  # an owner's first event stands alone in its row
    return str(first[1]) if first[0] == OWNED else ""
