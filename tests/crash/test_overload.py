"""Ten times more than there is room for: callers are told to come back, memory keeps to its cap,
and nothing that was acknowledged is lost.

The flood is jobs without a worker, so that the cap is reached for certain, from more connections
than the node can serve. Then workers come, and every acknowledged job must end.
"""

import asyncio
import http.client
import json
import threading
import time
from dataclasses import dataclass, field

import msgspec
import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.store.pool import connect
from tests.support.arena import API_KEY, Arena, Ground
from tests.support.processes import Node, until

pytestmark = pytest.mark.timeout(600)

MIB = 1024 * 1024
QUEUE = "flood"
JOBS = 125
PAYLOAD_BYTES = 8_000
CONNECTIONS = 8
CAP_BYTES = limits.MEMORY_BYTES_MIN
GROWTH_BYTES_MAX = 4 * CAP_BYTES
"""Live jobs fill the cap; the log on its way, rows on their way and requests come on top, each with
a bound of its own."""
TIMES_CAPACITY = 10
SHORT_S, LONG_S = 6.0, 60.0
DRAIN_S = 240.0


@dataclass
class Flood:
    """What one connection met."""

    acknowledged: int = 0
    refused: int = 0
    without_retry_after: int = 0
    other: list[str] = field(default_factory=list)


def body() -> bytes:
    """A MessagePack batch of jobs that are quick to run and long to hold."""
    payload = json.dumps({"mark": "x" * PAYLOAD_BYTES}).encode()
    return msgspec.msgpack.encode({"jobs": [{"job_type": "quick", "payload": payload}] * JOBS})


def flood(port: int, stop: threading.Event, seen: Flood) -> None:
    """Submit without a pause, also when told to wait."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {
        "Authorization": f"Bearer {API_KEY}",
        "Content-Type": "application/msgpack",
        "Accept": "application/msgpack",
    }
    batch = body()
    while not stop.is_set():
        connection.request("POST", f"/v1/queues/{QUEUE}/jobs/batch", batch, headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status == 200:
            seen.acknowledged += len(msgspec.msgpack.decode(content)["ids"]) // 16
        elif answer.status in (429, 503):
            seen.refused += JOBS
            seen.without_retry_after += answer.headers["Retry-After"] is None
        else:
            seen.other.append(f"{answer.status}: {content[:200]!r}")
    connection.close()


def resident_bytes(node: Node) -> int:
    """What the node's process holds of memory."""
    with open(f"/proc/{node.pid}/statm") as sizes:
        return int(sizes.read().split()[1]) * 4096


async def succeeded(url: str) -> int:
    connection = await connect(url, application_name="overload test")
    try:
        return int(
            await connection.fetchval("SELECT count(*) FROM jobs WHERE status = 'succeeded'")
        )
    finally:
        await connection.close()


def drained(arena: Arena, node: Node, wanted: int) -> None:
    """Wait until all acknowledged jobs have ended and are in the tables."""
    until(
        lambda: node.metric("taskforge_jobs_succeeded_total") >= wanted,
        f"{wanted} jobs succeeded",
        DRAIN_S,
        arena.tails,
        every_s=0.1,
    )
    assert arena.quiet(DRAIN_S)


def test_ten_times_the_room(ground: Ground, request: pytest.FixtureRequest) -> None:
    least_s = LONG_S if request.config.getoption("--long") else SHORT_S
    with ground.arena() as arena:
        node = arena.node(TASKFORGE_MEMORY_BYTES_MAX=str(CAP_BYTES))
        arena.make_queues(node, [QUEUE])
        before = resident_bytes(node)
        seen = [Flood() for _ in range(CONNECTIONS)]
        stop = threading.Event()
        threads = [
            threading.Thread(target=flood, args=(node.port, stop, one), daemon=True) for one in seen
        ]
        for thread in threads:
            thread.start()
        most, until_s = 0, time.monotonic() + least_s
        room = CAP_BYTES // PAYLOAD_BYTES

        def flooded() -> bool:
            nonlocal most
            most = max(most, resident_bytes(node))
            asked = sum(one.acknowledged + one.refused for one in seen)
            return time.monotonic() > until_s and asked >= TIMES_CAPACITY * room

        until(flooded, "a flood", least_s + 120, arena.tails, every_s=0.02)
        stop.set()
        for thread in threads:
            thread.join()
        acknowledged = sum(one.acknowledged for one in seen)
        assert not [problem for one in seen for problem in one.other]
        assert acknowledged >= room // 2
        assert sum(one.refused for one in seen) > 0
        assert sum(one.without_retry_after for one in seen) == 0
        assert most - before < GROWTH_BYTES_MAX, f"{(most - before) / MIB:.0f} MiB more"
        arena.worker(node, "one")
        drained(arena, node, acknowledged)
        assert asyncio.run(succeeded(arena.url)) == acknowledged
