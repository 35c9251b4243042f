"""Graphs on a node over a log in memory: their size, and what is refused."""

import asyncio
import logging
import time
from collections import Counter

import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.actors.graphs import Graph, GraphJob
from taskforge_server.engine.errors import InternalError, ShareUsedUp
from taskforge_server.engine.journal.memory import MemoryShardLog
from taskforge_server.engine.model.graph import OnFailure
from taskforge_server.engine.model.job import JobStatus
from taskforge_server.engine.model.queue import QueueRef, QueueSettings
from taskforge_server.engine.node.graphdoors import GraphDoors
from taskforge_server.ext.pure import tablelog
from tests.support.engine_node import MemoryNode
from tests.support.engine_parts import PROJECT, done

log_ = logging.getLogger(__name__)

FAN = 10_000
ONE = QueueRef(b"1" * 16, PROJECT, "one", 0, QueueSettings(), 0)
TWO = QueueRef(b"2" * 16, PROJECT, "two", 0, QueueSettings(), 1)


class NoRows:
    async def statuses(
        self, job_ids: object, project_id: bytes | None = None
    ) -> dict[bytes, JobStatus]:
        return {}


def doors(node: MemoryNode) -> GraphDoors:
    return GraphDoors(node.core, node.doors, node.admission, NoRows(), 2)


def job(queue: QueueRef, *parents: int, on_failure: OnFailure = "block") -> GraphJob:
    wanted = [(parent, on_failure) for parent in parents]
    return GraphJob(queue, "send", b"{}", 0, 0, 0, 0, None, wanted)


async def test_ten_thousand_out_and_in_again() -> None:
    """A root, ten thousand behind it on two shards, and one behind them all."""
    log = MemoryShardLog()
    one, two = ONE, TWO
    async with MemoryNode(log, shards=(0, 1), refs=(one, two)) as node:
        worker, outlet = await node.worker(one, two, credit=2 * FAN)
        middle = [job((one, two)[n % 2], 0) for n in range(FAN)]
        jobs = [job(one), *middle, job(two, *range(1, FAN + 1))]
        began_s = time.monotonic()
        ids, _ = await doors(node).submit(Graph(jobs, [[0], range(1, FAN + 1), [FAN + 1]]), None)
        taken_s = time.monotonic() - began_s
        sink = ids[-16:]
        assert len(doors(node).missing(sink)) == FAN

        async def some(count: int) -> list[bytes]:
            while len(outlet.tokens()) < count:
                outlet.arrived.clear()
                await asyncio.wait_for(outlet.arrived.wait(), 30)
            return outlet.tokens()

        await worker.receive([done(1, b"".join(await some(1)))])
        tokens = (await some(FAN + 1))[1:]
        assert sink not in {token[:16] for token in tokens}
        for seq in range(10):
            part = tokens[seq * FAN // 10 : (seq + 1) * FAN // 10]
            await worker.receive([done(2 + seq, b"".join(part))])
        last = (await some(FAN + 2))[-1]
        assert last[:16] == sink
        log_.info("submitted in %.2f s, all in %.2f s", taken_s, time.monotonic() - began_s)
    told: Counter[bytes] = Counter()
    sizes: Counter[bytes] = Counter()
    for shard in (0, 1):
        async for row in log.read(shard, 0):
            for event in tablelog.decode(row.body).events:
                if isinstance(event, tablelog.Changed | tablelog.Submitted):
                    told[event.job_id] += 1
                    sizes[event.job_id] += len(event.options or b"")
    assert set(told.values()) - {told[sink]} == {1, 2}, "submitted, and let go if it had waited"
    assert told[sink] <= 12
    assert sizes[sink] < 3 * 24 * FAN


async def test_open_edges_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = TWO
    monkeypatch.setattr(limits, "EDGES_MAX", 1)
    async with MemoryNode(MemoryShardLog(), refs=(queue,)) as node:
        with pytest.raises(ShareUsedUp, match="open edges"):
            await doors(node).submit(Graph([job(queue), job(queue), job(queue, 0, 1)], []), None)


async def test_a_graph_that_fails_half_way_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shards are given up, and taken again from the log, which knows nothing of it."""
    log = MemoryShardLog()
    one, two = ONE, TWO
    async with MemoryNode(log, shards=(0, 1), refs=(one, two)) as node:
        actor = node.core.queue(two)
        monkeypatch.setattr(actor, "submit_now", lambda batch, now_us: 1 / 0)
        with pytest.raises(InternalError):
            await doors(node).submit(Graph([job(one), job(two, 0)], [[0], [1]]), None)
        await asyncio.wait_for(node.core.arrival(0), 10)
        await asyncio.wait_for(node.core.arrival(1), 10)
        assert [shard.table.jobs_resident for shard in node.core.shards.values()] == [0, 0]
