"""The database's clock is followed, and never backwards."""

import asyncio

from taskforge_server.engine.runtime.clock import DatabaseClock, VirtualClock


async def test_the_shortest_round_trip_counts_and_time_never_goes_back() -> None:
    offsets = iter([3_600_000_000] * 5 + [-3_600_000_000] * 5)
    clock: DatabaseClock

    async def measure() -> int:
        await asyncio.sleep(0)
        return clock.monotonic_us() + next(offsets)

    clock = DatabaseClock(measure)
    await clock.refresh()
    ahead_us = clock.now_us()
    assert abs(ahead_us - clock.monotonic_us() - 3_600_000_000) < 1_000_000
    await clock.refresh()
    assert clock.now_us() == ahead_us


async def test_a_clock_that_was_started_can_be_stopped() -> None:
    async def measure() -> int:
        return 1_700_000_000_000_000

    clock = DatabaseClock(measure)
    await clock.start()
    assert clock.now_us() >= 1_700_000_000_000_000 - 1_000_000
    await clock.stop()


def test_virtual_time_moves_when_told() -> None:
    clock = VirtualClock(5)
    clock.advance(1.5)
    assert clock.now_us() == 1_500_005
    assert clock.monotonic_us() == 1_500_000
