"""A bounded channel of one event loop: many producers, one consumer.

    open ──close()──► closed     senders get ChannelClosed; the receiver drains what is there,
                                 and then gets it too

    len(channel) + granted ≤ capacity
    a sender waits  ⇒  len(channel) + granted = capacity

A `send` that finds no room waits in line. When items are taken, the first in line are granted
the room, resume in that order and append their items themselves. So a cancelled `send` has not
sent its item, a finished one has, and room that was granted to a cancelled one goes to the next.
A cancelled `recv_many` has taken nothing.

Received items are handed over as the list that held them where that is possible; nothing is
scheduled per item. Not for use from several threads.
"""

cimport cython
from asyncio import get_running_loop
from collections import deque, namedtuple
from types import GenericAlias

ChannelStatistics = namedtuple(
    "ChannelStatistics",
    ("length", "capacity", "high_watermark", "sent", "received", "send_waits", "recv_waits"),
)


class ChannelClosed(Exception):
    """The channel is closed, and for its receiver: drained."""


@cython.final
cdef class Channel:
    """A bounded channel with room for `capacity` items."""

    def __cinit__(self, Py_ssize_t capacity):
        if capacity < 1:
            raise ValueError(f"a channel holds at least one item, not {capacity}")
        self.capacity = capacity
        self.closed = False
        self.items = []
        self.head = 0
        self.senders = deque()
        self.granted = 0
        self.receiver = None

    def __class_getitem__(cls, item):
        return GenericAlias(cls, item)

    def __len__(self) -> int:
        return self.size()

    def try_send(self, item) -> bool:
        """Send if there is room now. ChannelClosed: never again."""
        if self.closed:
            raise ChannelClosed
        if not self.has_room():
            return False
        self.append(item)
        return True

    async def send(self, item) -> None:
        """Send, waiting for room in line. Cancelled or ChannelClosed: the item is not sent."""
        if self.closed:
            raise ChannelClosed
        if not self.has_room():
            sender = get_running_loop().create_future()
            self.senders.append(sender)
            self.send_waits += 1
            try:
                await sender
            except BaseException:
                self.withdraw(sender)
                raise
            if self.closed:
                raise ChannelClosed
            self.granted -= 1
        self.append(item)

    async def recv_many(self, Py_ssize_t most) -> list:
        """Up to `most` items, at least one: waits for it. Cancelled: nothing is taken."""
        if self.receiver is not None and not self.receiver.done():
            raise RuntimeError("another task is receiving from this channel")
        while self.size() == 0 and not self.closed:
            receiver = get_running_loop().create_future()
            self.receiver = receiver
            self.recv_waits += 1
            try:
                await receiver
            finally:
                if self.receiver is receiver:
                    self.receiver = None
        return self.recv_nowait(most)

    def recv_nowait(self, Py_ssize_t most) -> list:
        """Up to `most` items of those that are there, perhaps none. ChannelClosed: none will be."""
        if most < 1:
            raise ValueError(f"at least one item is received, not {most}")
        if self.size() == 0:
            if self.closed:
                raise ChannelClosed
            return []
        cdef list taken = self.take(most)
        self.received += len(taken)
        self.grant()
        return taken

    def close(self) -> None:
        """No more is sent; who waits to send or to receive is woken. Closing twice is once."""
        if self.closed:
            return
        self.closed = True
        self.granted = 0
        for waiter in (*self.senders, self.receiver):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        self.senders.clear()

    def statistics(self):
        """Counts since the channel was made, and what it holds now."""
        return ChannelStatistics(
            self.size(),
            self.capacity,
            self.high_watermark,
            self.sent,
            self.received,
            self.send_waits,
            self.recv_waits,
        )

    cdef Py_ssize_t size(self):
        return len(self.items) - self.head

    cdef bint has_room(self):
        return self.size() + self.granted < self.capacity

    cdef int append(self, item) except -1:
        """Put an item behind the others, where there is room, and wake the receiver."""
        self.items.append(item)
        self.sent += 1
        self.high_watermark = max(self.high_watermark, self.size())
        if self.receiver is not None and not self.receiver.done():
            self.receiver.set_result(None)
        return 0

    cdef list take(self, Py_ssize_t most):
        """Take up to `most` items out. Drops places before the head once they are the half."""
        cdef list taken
        cdef Py_ssize_t index, end
        if self.size() <= most:
            taken = self.items[self.head:] if self.head else self.items
            self.items = []
            self.head = 0
            return taken
        end = self.head + most
        taken = self.items[self.head:end]
        for index in range(self.head, end):
            self.items[index] = None
        self.head = end
        if self.head * 2 > len(self.items):
            del self.items[:self.head]
            self.head = 0
        return taken

    cdef int grant(self) except -1:
        """Promise free room to those who wait first."""
        while self.senders and self.has_room():
            sender = self.senders.popleft()
            if not sender.done():
                self.granted += 1
                sender.set_result(None)
        return 0

    cdef int withdraw(self, sender) except -1:
        """A waiting send is cancelled: leave the line, or pass granted room on."""
        if self.closed:
            return 0
        if sender.done() and not sender.cancelled():
            self.granted -= 1
            self.grant()
        elif sender in self.senders:
            self.senders.remove(sender)
        return 0
