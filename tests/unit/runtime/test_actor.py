"""Actors survive their errors, within bounds; parts stop in the reverse order of their start."""

import asyncio
from typing import Any

import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.runtime.actor import Actor, Supervisor
from taskforge_server.engine.runtime.clock import VirtualClock
from taskforge_server.engine.runtime.service import Part, Services


class Adder(Actor[int]):
    """Adds up what it gets; fails on zero."""

    def __init__(self) -> None:
        super().__init__("adder", 8)
        self.total = 0
        self.turns = 0

    def handle(self, batch: list[int]) -> None:
        self.turns += 1
        self.total += sum(batch)
        if 0 in batch:
            raise RuntimeError("zero")


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_an_actor_handles_all_that_waits_in_one_turn() -> None:
    adder = Adder()
    supervisor = Supervisor(lambda actor, error: None, VirtualClock().monotonic_us)
    for number in (1, 2, 3):
        adder.mailbox.try_send(number)
    supervisor.start(adder)
    await turns()
    assert (adder.total, adder.turns) == (6, 1)
    adder.mailbox.try_send(4)
    await turns()
    assert adder.total == 10
    adder.mailbox.close()
    await turns()
    await supervisor.stop_all()


async def test_an_actor_is_restarted_but_not_for_ever() -> None:
    clock = VirtualClock()
    given_up: list[tuple[Actor[Any], Exception]] = []
    supervisor = Supervisor(
        lambda actor, error: given_up.append((actor, error)), clock.monotonic_us
    )
    adder = Adder()
    supervisor.start(adder)
    for _ in range(limits.RESTARTS_MAX):
        adder.mailbox.try_send(0)
        await turns()
    adder.mailbox.try_send(5)
    await turns()
    assert adder.total == 5
    clock.advance(limits.RESTART_WINDOW_S)  # old failures are forgiven
    for _ in range(limits.RESTARTS_MAX):
        adder.mailbox.try_send(0)
        await turns()
    assert given_up == []
    adder.mailbox.try_send(0)
    await turns()
    assert [actor for actor, _ in given_up] == [adder]
    assert str(given_up[0][1]) == "zero"


async def test_a_stopped_actor_leaves_its_mail() -> None:
    supervisor = Supervisor(lambda actor, error: None, VirtualClock().monotonic_us)
    adder = Adder()
    supervisor.start(adder)
    await turns()
    supervisor.stop(adder)
    await turns()
    adder.mailbox.try_send(7)
    await turns()
    assert adder.mailbox.recv_nowait(8) == [7]


class Life:
    """Parts that note what happens to them."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def part(self, name: str, fails: str = "") -> Part:
        async def start() -> None:
            self.notes.append(f"{name} starts")
            if fails == "start":
                raise RuntimeError(name)

        async def stop() -> None:
            self.notes.append(f"{name} stops")
            if fails == "stop":
                raise RuntimeError(name)

        return Part(name, start, stop)


async def test_parts_stop_last_first_and_one_that_fails_keeps_no_other_from_stopping() -> None:
    life, services = Life(), Services()
    for part in (life.part("a"), life.part("b", "stop"), Part("plain"), life.part("c")):
        await services.start(part)
    await services.stop()
    await services.stop()
    assert life.notes[3:] == ["c stops", "b stops", "a stops"]


async def test_a_part_that_does_not_start_takes_back_those_before_it() -> None:
    life, services = Life(), Services()
    await services.start(life.part("a"))
    with pytest.raises(RuntimeError, match="b"):
        await services.start(life.part("b", "start"))
    assert life.notes == ["a starts", "b starts", "a stops"]
