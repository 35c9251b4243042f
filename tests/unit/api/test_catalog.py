"""The cache of queues: look-ups are shared, bounded and forgotten."""

import asyncio

import pytest

from taskforge_server.api.service.catalog import QueueCatalog, queue_key
from taskforge_server.engine import limits
from taskforge_server.engine.errors import NotFound, Unavailable
from taskforge_server.engine.model.queue import JobQueue, QueueSettings
from tests.support.stub_engine import StubQueues

PROJECT = b"p" * 16
OTHER = b"o" * 16


class SlowQueues(StubQueues):
    """Look-ups wait for `gate`."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def get(self, project_id: bytes, queue: bytes | str) -> JobQueue:
        await self.gate.wait()
        return await super().get(project_id, queue)


async def test_one_look_up_for_all_that_miss_at_once() -> None:
    queues = SlowQueues()
    row = await queues.create(PROJECT, "q", 0, QueueSettings())
    catalog = QueueCatalog(queues)
    calls = [asyncio.create_task(catalog.find(PROJECT, "q")) for _ in range(20)]
    await asyncio.sleep(0)
    calls[0].cancel()
    queues.gate.set()
    found = await asyncio.gather(*calls[1:])
    assert queues.reads == 1
    assert {id(ref) for ref in found} == {id(found[0])}
    assert catalog.cached(PROJECT, row.id) is found[0], "known by its id too"
    assert catalog.cached(OTHER, "q") is None


async def test_look_ups_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOOKUPS_AT_ONCE_MAX", 2)
    queues = SlowQueues()
    catalog = QueueCatalog(queues)
    calls = [asyncio.create_task(catalog.find(PROJECT, name)) for name in "ab"]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await catalog.find(PROJECT, "c")
    queues.gate.set()
    assert [type(error) for error in await asyncio.gather(*calls, return_exceptions=True)] == [
        NotFound,
        NotFound,
    ]


async def test_entries_end_and_are_forgotten() -> None:
    now_s = 0.0
    queues = StubQueues()
    row = await queues.create(PROJECT, "q", 0, QueueSettings())
    catalog = QueueCatalog(queues, monotonic_s=lambda: now_s)
    first = await catalog.find(PROJECT, "q")
    now_s += limits.QUEUE_TTL_S + 1
    assert catalog.cached(PROJECT, "q") is None
    assert await catalog.find(PROJECT, "q") is first, "one object while nothing changes"
    await queues.update(PROJECT, row.id, priority=5)
    catalog.forget(first)
    assert catalog.cached(PROJECT, row.id) is None
    assert (await catalog.find(PROJECT, row.id)).priority == 5


async def test_the_cache_is_bounded() -> None:
    queues = StubQueues()
    catalog = QueueCatalog(queues, entries_max=10)
    for number in range(20):
        await queues.create(PROJECT, f"q{number}", 0, QueueSettings())
        await catalog.find(PROJECT, f"q{number}")
    known = [number for number in range(20) if catalog.cached(PROJECT, f"q{number}")]
    assert known == [15, 16, 17, 18, 19], "a queue takes two entries"


async def test_ids_of_a_project_grow_with_it() -> None:
    queues = StubQueues()
    catalog = QueueCatalog(queues)
    assert await catalog.ids(PROJECT) == []
    row = await queues.create(PROJECT, "q", 0, QueueSettings())
    catalog.forget(row.ref())
    assert await catalog.ids(PROJECT) == [row.id]


def test_what_reads_like_an_id_is_one() -> None:
    assert queue_key("01997b5c-6c00-7001-8000-5f3a9c2d4e6f") == bytes.fromhex(
        "01997b5c6c00700180005f3a9c2d4e6f"
    )
    assert queue_key("emails") == "emails"
