"""The plain twin of `ext.heap`: the same interface over a sorted list."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import final

ITEMS_MAX = 1 << 28
KEY_MAX = (1 << 64) - 1
CAPACITY_MIN = 64


@final
class Positions:
    """Which heap holds each item, and with which key."""

    def __init__(self) -> None:
        self.capacity = 0
        self.entries: dict[int, tuple[Heap, int]] = {}

    def reserve(self, item: int) -> None:
        """Make room for this item. ValueError: it is beyond ITEMS_MAX."""
        if item < self.capacity:
            return
        if item >= ITEMS_MAX:
            raise ValueError(f"item {item} is not below {ITEMS_MAX}")
        self.capacity = max(self.capacity, CAPACITY_MIN)
        while self.capacity <= item:
            self.capacity *= 2

    def holds(self, item: int) -> bool:
        """Whether a heap holds the item."""
        return item in self.entries


@final
class Heap:
    """A min-heap over shared positions."""

    def __init__(self, positions: Positions) -> None:
        self.positions = positions
        self.capacity = 0
        self._entries: list[tuple[int, int]] = []

    @property
    def size(self) -> int:
        """How many entries there are."""
        return len(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, item: int) -> bool:
        return item in self.positions.entries and self.positions.entries[item][0] is self

    def push(self, key: int, item: int) -> int:
        """Add an item. ValueError: a heap holds it already. On an error nothing has changed."""
        if not 0 <= key <= KEY_MAX:
            raise OverflowError("a key has 64 bits")
        self.positions.reserve(item)
        if item in self.positions.entries:
            raise ValueError(f"item {item} is in a heap already")
        if self.size == self.capacity:
            self.capacity = max(CAPACITY_MIN, self.capacity * 2)
        insort(self._entries, (key, item))
        self.positions.entries[item] = (self, key)
        return 0

    def pop(self) -> tuple[int, int] | None:
        """The least (key, item), taken out; None when empty."""
        if not self._entries:
            return None
        entry = self._entries[0]
        self.remove(entry[1])
        return entry

    def peek(self) -> tuple[int, int] | None:
        """The least (key, item); None when empty."""
        return self._entries[0] if self._entries else None

    def remove(self, item: int) -> bool:
        """Take an item out, wherever it stands. False: it is not in this heap."""
        if item not in self:
            return False
        _, key = self.positions.entries.pop(item)
        del self._entries[bisect_left(self._entries, (key, item))]
        if self.capacity > CAPACITY_MIN and self.size < self.capacity // 4:
            self.capacity //= 2
        return True

    def clear(self) -> None:
        """Take every item out, and give the memory back."""
        for _, item in self._entries:
            del self.positions.entries[item]
        self._entries.clear()
        self.capacity = 0
