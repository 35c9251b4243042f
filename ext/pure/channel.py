"""The plain twin of `ext.channel`: the same interface over a deque. See there for the states."""

from __future__ import annotations

from asyncio import Future, get_running_loop
from collections import deque
from typing import Generic, NamedTuple, TypeVar, final

T = TypeVar("T")


class ChannelStatistics(NamedTuple):
    """Counts since the channel was made, and what it holds now."""

    length: int
    capacity: int
    high_watermark: int
    sent: int
    received: int
    send_waits: int
    recv_waits: int


class ChannelClosed(Exception):  # noqa: N818 - says what the channel is
    """The channel is closed, and for its receiver: drained."""


@final
class Channel(Generic[T]):
    """A bounded channel with room for `capacity` items."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a channel holds at least one item, not {capacity}")
        self.capacity = capacity
        self.closed = False
        self._items: deque[T] = deque()
        self._senders: deque[Future[None]] = deque()
        self._granted = 0
        self._receiver: Future[None] | None = None
        self._high_watermark = 0
        self._sent = 0
        self._received = 0
        self._send_waits = 0
        self._recv_waits = 0

    def __len__(self) -> int:
        return len(self._items)

    def try_send(self, item: T) -> bool:
        """Send if there is room now. ChannelClosed: never again."""
        self._check_open()
        if not self._has_room():
            return False
        self._append(item)
        return True

    async def send(self, item: T) -> None:
        """Send, waiting for room in line. Cancelled or ChannelClosed: the item is not sent."""
        self._check_open()
        if not self._has_room():
            sender: Future[None] = get_running_loop().create_future()
            self._senders.append(sender)
            self._send_waits += 1
            try:
                await sender
            except BaseException:
                self._withdraw(sender)
                raise
            self._check_open()
            self._granted -= 1
        self._append(item)

    async def recv_many(self, most: int) -> list[T]:
        """Up to `most` items, at least one: waits for it. Cancelled: nothing is taken."""
        if self._receiver is not None and not self._receiver.done():
            raise RuntimeError("another task is receiving from this channel")
        while not self._items and not self.closed:
            receiver: Future[None] = get_running_loop().create_future()
            self._receiver = receiver
            self._recv_waits += 1
            try:
                await receiver
            finally:
                if self._receiver is receiver:
                    self._receiver = None
        return self.recv_nowait(most)

    def recv_nowait(self, most: int) -> list[T]:
        """Up to `most` items of those that are there, perhaps none. ChannelClosed: none will be."""
        if most < 1:
            raise ValueError(f"at least one item is received, not {most}")
        if not self._items:
            self._check_open()
            return []
        taken = [self._items.popleft() for _ in range(min(most, len(self._items)))]
        self._received += len(taken)
        self._grant()
        return taken

    def close(self) -> None:
        """No more is sent; who waits to send or to receive is woken. Closing twice is once."""
        if self.closed:
            return
        self.closed = True
        self._granted = 0
        for waiter in (*self._senders, self._receiver):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        self._senders.clear()

    def statistics(self) -> ChannelStatistics:
        """Counts since the channel was made, and what it holds now."""
        return ChannelStatistics(
            len(self._items),
            self.capacity,
            self._high_watermark,
            self._sent,
            self._received,
            self._send_waits,
            self._recv_waits,
        )

    def _check_open(self) -> None:
        if self.closed:
            raise ChannelClosed

    def _has_room(self) -> bool:
        return len(self._items) + self._granted < self.capacity

    def _append(self, item: T) -> None:
        self._items.append(item)
        self._sent += 1
        self._high_watermark = max(self._high_watermark, len(self._items))
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)

    def _grant(self) -> None:
        while self._senders and self._has_room():
            sender = self._senders.popleft()
            if not sender.done():
                self._granted += 1
                sender.set_result(None)

    def _withdraw(self, sender: Future[None]) -> None:
        if self.closed:
            return
        if sender.done() and not sender.cancelled():
            self._granted -= 1
            self._grant()
        elif sender in self._senders:
            self._senders.remove(sender)
