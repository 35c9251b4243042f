"""Processes under one worker id: one at a time, and what the one before ran died with it."""

import pytest

from taskforge_server.engine.errors import Unavailable
from taskforge_server.engine.journal.memory import MemoryShardLog
from tests.support.engine_node import MemoryNode, jobs
from tests.support.engine_parts import done
from tests.unit.node.test_doors import MAIL, SLOW, until


async def test_a_process_that_starts_again_lost_what_it_ran() -> None:
    async with MemoryNode(MemoryShardLog(), (1, 2), (MAIL, SLOW)) as node:
        first, outlet = await node.worker(MAIL, SLOW, instance=b"first")
        await node.doors.submit(MAIL, jobs())
        poison = await node.doors.submit(SLOW, jobs())  # a queue that allows one crash
        await until(lambda: len(outlet.tokens()) == 2)
        old = outlet.tokens()
        first.detach()
        second, again = await node.worker(MAIL, SLOW, instance=b"second")
        await until(again.tokens)
        assert node.core.counters.crashed_attempts == 2
        found = await node.doors.job(poison)
        assert found is not None
        assert found[0]["reason"] == "quarantined"
        await second.receive([done(1, b"".join(old)), done(2, again.tokens()[0])])
        await until(lambda: len(again.of(12)) == 2)
        assert again.of(12) == [[12, 1, b"".join(old)], [12, 2, b""]]


async def test_a_process_that_connects_again_did_not() -> None:
    async with MemoryNode(MemoryShardLog(), (1, 2), (MAIL, SLOW)) as node:
        first, outlet = await node.worker(SLOW, instance=b"first")
        await node.doors.submit(SLOW, jobs())
        await until(outlet.tokens)
        first.detach()
        _, again = await node.worker(SLOW, instance=b"first")
        await until(again.tokens)
        assert node.core.counters.crashed_attempts == 0


async def test_two_processes_do_not_share_an_id() -> None:
    async with MemoryNode(MemoryShardLog(), refs=(MAIL,)) as node:
        first, outlet = await node.worker(MAIL, instance=b"first")
        with pytest.raises(Unavailable, match="another process"):
            await node.worker(MAIL, instance=b"second")
        assert outlet.closed is None
        await node.doors.submit(MAIL, jobs())
        await until(outlet.tokens)
        first.detach()
        await node.worker(MAIL, instance=b"second")
