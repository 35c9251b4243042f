"""That a running job shall end holds over its node and over its worker's connection."""

import asyncio

import pytest

from taskforge_server.engine.journal.memory import MemoryShardLog
from taskforge_server.engine.journal.memory_tables import MemoryTables
from taskforge_server.engine.model.joboptions import JobOptions, pack_told
from taskforge_server.engine.model.queue import QueueRef, QueueSettings
from taskforge_server.engine.runtime.clock import VirtualClock
from taskforge_server.ext.table import SubmitBatch
from tests.support.engine_node import MemoryNode, jobs
from tests.support.engine_parts import PROJECT
from tests.unit.node.test_doors import until

MAIL = QueueRef(b"m" * 16, PROJECT, "mail", 0, QueueSettings(), 1)


@pytest.mark.parametrize("projected", [False, True])
async def test_a_wish_outlives_the_node(projected: bool) -> None:
    log, tables, clock = MemoryShardLog(), MemoryTables(), VirtualClock()
    async with MemoryNode(log, refs=(MAIL,), clock=clock, tables=tables) as node:
        _, outlet = await node.worker(MAIL, features=frozenset({"cancel"}))
        await node.doors.submit(MAIL, jobs())
        await until(outlet.tokens)
        (token,) = outlet.tokens()
        asked = await node.doors.cancel(token[:16], PROJECT, grace_s=5.0)
        assert asked["status"] == "processing"
        await until(lambda: outlet.of(17))
        clock.advance(3.0)
        if projected:
            projector = asyncio.create_task(node.projector.run())
            await node.projector.flush()
            projector.cancel()
            await asyncio.gather(projector, return_exceptions=True)
    async with MemoryNode(log, refs=(MAIL,), clock=clock, tables=tables) as node:
        _, again = await node.worker(MAIL, running=token, features=frozenset({"cancel"}))
        assert again.frames[0][1]["kept"] == token
        await until(lambda: again.of(17))
        assert again.of(17) == [[17, token, 2_000]]
        ended = asyncio.create_task(node.doors.wait_finished(token[:16], 60.0))
        await until(lambda: node.core.shards[1].table.watch(token[:16], True))
        clock.advance(2.0)
        node.core.sweep()
        await ended
        found = await node.doors.job(token[:16])
        assert found is not None
        assert (found[0]["status"], found[0]["reason"]) == ("cancelled", "cancelled")
        await until(lambda: again.of(14))


async def test_what_expired_while_no_node_was_there_never_starts() -> None:
    log, clock = MemoryShardLog(), VirtualClock()
    async with MemoryNode(log, refs=(MAIL,), clock=clock) as node:
        batch = SubmitBatch()
        more = JobOptions(expires_us=clock.now_us() + 1_000_000)
        batch.add("send", b"{}", options=pack_told({"more": more}))
        late = await node.doors.submit(MAIL, batch)
    clock.advance(2.0)
    async with MemoryNode(log, refs=(MAIL,), clock=clock) as node:
        _, outlet = await node.worker(MAIL)
        in_time = await node.doors.submit(MAIL, jobs())
        await until(outlet.tokens)
        assert [token[:16] for token in outlet.tokens()] == [in_time]
        found = await node.doors.job(late)
        assert found is not None
        assert (found[0]["status"], found[0]["reason"]) == ("cancelled", "expired")
