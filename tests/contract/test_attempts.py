"""Counted attempts: the same rules over Valkey and in one process."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from taskforge_server.engine.cluster.attempts import (
    Attempts,
    LocalAttempts,
    Window,
    redis_attempts,
)

ACCOUNT = Window("account/ada", 3, 60)
ADDRESS = Window("address/1", 5, 60)
BOTH = [ACCOUNT, ADDRESS]


@pytest.fixture(params=["redis", "local"])
async def attempts(request: pytest.FixtureRequest) -> AsyncIterator[Attempts]:
    if request.param == "redis":
        made = redis_attempts(request.getfixturevalue("redis_url"))
    else:
        made = Attempts(None)
    yield made
    await made.close()


async def test_so_many_then_none(attempts: Attempts) -> None:
    assert [await attempts.take(BOTH) for _ in range(3)] == [0, 0, 0]
    assert 0 < await attempts.take(BOTH) <= 60
    assert await attempts.take([ADDRESS]) == 0, "what was refused is counted nowhere"
    assert await attempts.take([ADDRESS]) == 0
    assert 0 < await attempts.take([ADDRESS]) <= 60


async def test_a_good_one_is_not_counted(attempts: Attempts) -> None:
    for _ in range(10):
        assert await attempts.take(BOTH) == 0
        await attempts.give_back(BOTH)
    assert [await attempts.take(BOTH) for _ in range(3)] == [0, 0, 0]
    assert await attempts.take(BOTH) > 0


async def test_many_at_one_time_do_not_pass_together(attempts: Attempts) -> None:
    waits = await asyncio.gather(*(attempts.take(BOTH) for _ in range(30)))
    assert waits.count(0) == 3


async def test_a_window_ends(attempts: Attempts) -> None:
    short = Window("short", 1, 0.1)
    assert await attempts.take([short]) == 0
    while await attempts.take([short]):
        pass  # the test's time limit bounds it


async def test_nodes_share_their_counts(redis_url: str) -> None:
    nodes = [redis_attempts(redis_url) for _ in range(3)]
    assert [await node.take([ACCOUNT]) for node in nodes] == [0, 0, 0]
    assert all([await node.take([ACCOUNT]) > 0 for node in nodes])
    for node in nodes:
        await node.close()


async def test_without_a_server_a_node_counts_for_itself(redis_url: str) -> None:
    away = redis_attempts("redis://127.0.0.1:1/0")
    async with asyncio.timeout(20):
        assert [await away.take([ACCOUNT]) for _ in range(3)] == [0, 0, 0]
        assert await away.take([ACCOUNT]) > 0
    await away.close()


def test_what_one_process_counts_is_bounded() -> None:
    local = LocalAttempts(entries_max=2)
    for name in ("a", "b", "c"):
        assert local.take([Window(name, 1, 60)]) == 0
    assert local.take([Window("c", 1, 60)]) > 0
    assert local.take([Window("a", 1, 60)]) == 0, "the oldest was forgotten"
