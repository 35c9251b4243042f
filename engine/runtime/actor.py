"""Actors: a mailbox, a turn, nothing shared; and the supervisor that keeps them running.

    started --mailbox closed--> ended
       |  ^
       |  | restarted, at most RESTARTS_MAX times in RESTART_WINDOW_S
       v  |
     failed --too often--> given up: the owner is told, and drops what the actor worked on

An actor drains its mailbox in one go and handles the whole batch in one synchronous turn: between
two awaits nobody sees half a decision. The mailbox outlives a restart, so waiting messages are
handled by the next run; the batch that raised is the actor's own business (each command of it that
failed is answered before the error goes on).
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from taskforge_server.engine import limits
from taskforge_server.ext.channel import Channel, ChannelClosed

log = logging.getLogger(__name__)

M = TypeVar("M")


class Actor(Generic[M]):
    """Something with a mailbox of `M`."""

    def __init__(self, name: str, mailbox_max: int) -> None:
        self.name = name
        self.mailbox: Channel[M] = Channel(mailbox_max)

    async def run(self) -> None:
        """Handle batches until the mailbox is closed and empty."""
        try:
            while True:
                self.handle(await self.mailbox.recv_many(limits.TURN_MESSAGES_MAX))
        except ChannelClosed:
            return

    def handle(self, batch: list[M]) -> None:
        """Decide about all messages of this turn."""
        raise NotImplementedError


class Supervisor:
    """Runs actors, restarts those that raise, and gives up on those that raise too often."""

    def __init__(
        self,
        given_up: Callable[[Actor[Any], Exception], None],
        monotonic_us: Callable[[], int],
    ) -> None:
        self._given_up = given_up
        self._monotonic_us = monotonic_us
        self._tasks: dict[Actor[Any], asyncio.Task[None]] = {}

    def start(self, actor: Actor[Any]) -> None:
        """Run the actor in a task of its own."""
        assert actor not in self._tasks, actor.name
        task = asyncio.create_task(self._supervise(actor), name=actor.name)
        self._tasks[actor] = task
        task.add_done_callback(lambda _: self._tasks.pop(actor, None))

    def stop(self, actor: Actor[Any]) -> None:
        """End the actor where it waits; what is in its mailbox stays there."""
        if (task := self._tasks.get(actor)) is not None:
            task.cancel()

    async def stop_all(self) -> None:
        """End all actors and wait for them."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _supervise(self, actor: Actor[Any]) -> None:
        failures: deque[int] = deque(maxlen=limits.RESTARTS_MAX + 1)
        while True:
            try:
                await actor.run()
                return
            except Exception as error:
                log.exception("%s failed", actor.name)
                now_us = self._monotonic_us()
                failures.append(now_us)
                window_us = round(limits.RESTART_WINDOW_S * 1e6)
                if len(failures) > limits.RESTARTS_MAX and now_us - failures[0] < window_us:
                    self._given_up(actor, error)
                    return
