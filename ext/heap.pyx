"""A 4-ary min-heap of (key, item), from which any item can be removed.

    position 0 is the least entry; the children of position p stand at 4p + 1 … 4p + 4
    keys[p], items[p]                 one entry, 12 bytes, in two arrays
    positions.at[items[p]] == p + 1   for every position p of every heap

Many heaps share one `Positions`, since an item is in at most one of them at a time; 0 says that
it is in none. Entries are ordered by key, and by item among equal keys, so that the order of
leaving depends on nothing but the entries. A key greater than all others is appended in O(1).

The arrays double when full and halve when less than a quarter is used, down to CAPACITY_MIN.
"""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

ITEMS_MAX = 1 << 28

cdef enum:
    C_ITEMS_MAX = 1 << 28  # 1 GiB of positions: far beyond what a node holds
    CAPACITY_MIN = 64


@cython.final
cdef class Positions:
    """Where each item stands in whichever heap holds it. Grows by doubling, never shrinks."""

    def __cinit__(self):
        self.at = NULL
        self.capacity = 0

    def __dealloc__(self):
        free(self.at)

    cdef int reserve(self, uint32_t item) except -1:
        """Make room for this item. Raises ValueError or MemoryError, and then changes nothing."""
        cdef uint64_t capacity = self.capacity
        cdef uint32_t* at
        if item < capacity:
            return 0
        if item >= C_ITEMS_MAX:
            raise ValueError(f"item {item} is not below {ITEMS_MAX}")
        capacity = max(capacity, <uint64_t>CAPACITY_MIN)
        while capacity <= item:
            capacity *= 2
        at = <uint32_t*>realloc(self.at, capacity * sizeof(uint32_t))
        if at == NULL:
            raise MemoryError("heap positions")
        memset(at + self.capacity, 0, (capacity - self.capacity) * sizeof(uint32_t))
        self.at = at
        self.capacity = <uint32_t>capacity
        return 0

    def holds(self, uint32_t item) -> bool:
        """Whether a heap holds the item."""
        return item < self.capacity and self.at[item] != 0


cdef uint64_t select_rank(uint64_t* keys, uint32_t count, uint32_t rank) noexcept nogil:
    """The key of this rank; the keys are put in another order. Halves what is left each time, but
    for keys that are chosen to prevent it."""
    cdef int64_t low = 0, high = <int64_t>count - 1, i, j
    cdef uint64_t pivot
    while low < high:
        pivot = keys[(low + high) >> 1]
        i = low - 1
        j = high + 1
        while True:
            i += 1
            while keys[i] < pivot:
                i += 1
            j -= 1
            while keys[j] > pivot:
                j -= 1
            if i >= j:
                break
            keys[i], keys[j] = keys[j], keys[i]
        if <int64_t>rank <= j:
            high = j
        else:
            low = j + 1
    return keys[rank]


@cython.final
cdef class Heap:
    """A min-heap over shared positions.

    Empty it with `clear` before dropping it, unless its positions are dropped with it.
    """

    def __cinit__(self, Positions positions not None):
        self.size = 0
        self.capacity = 0
        self.keys = NULL
        self.items = NULL
        self.positions = positions

    def __dealloc__(self):
        free(self.keys)
        free(self.items)

    def __len__(self) -> int:
        return self.size

    def __contains__(self, uint32_t item) -> bool:
        cdef uint32_t mark = self.positions.at[item] if item < self.positions.capacity else 0
        return mark != 0 and mark <= self.size and self.items[mark - 1] == item

    cpdef int push(self, uint64_t key, uint32_t item) except -1:
        """Add an item. ValueError: a heap holds it already. On an error nothing has changed."""
        if item >= self.positions.capacity:
            self.positions.reserve(item)
        if self.positions.at[item] != 0:
            raise ValueError(f"item {item} is in a heap already")
        if self.size == self.capacity:
            if self.resize(max(<uint32_t>CAPACITY_MIN, self.capacity * 2)) != 0:
                raise MemoryError("heap")
        self.size += 1
        rise(self.keys, self.items, self.positions.at, self.size - 1, key, item)
        return 0

    cdef bint pop_into(self, uint64_t* key, uint32_t* item) noexcept:
        """Take the least entry out. False: there is none."""
        cdef uint32_t last
        if self.size == 0:
            return False
        key[0] = self.keys[0]
        item[0] = self.items[0]
        self.positions.at[item[0]] = 0
        self.size -= 1
        last = self.size
        if last != 0:
            sink(self.keys, self.items, self.positions.at, last, 0, self.keys[last], self.items[last])
        self.shrink()
        return True

    cdef bint peek_into(self, uint64_t* key, uint32_t* item) noexcept:
        """Read the least entry. False: there is none."""
        if self.size == 0:
            return False
        key[0] = self.keys[0]
        item[0] = self.items[0]
        return True

    cpdef bint remove(self, uint32_t item) noexcept:
        """Take an item out, wherever it stands. False: it is not in this heap."""
        cdef uint32_t mark
        mark = self.positions.at[item] if item < self.positions.capacity else 0
        if mark == 0 or mark > self.size or self.items[mark - 1] != item:
            return False
        self.size -= 1
        take_out(self.keys, self.items, self.positions.at, self.size, mark - 1)
        self.shrink()
        return True

    cpdef void clear(self) noexcept:
        """Take every item out, and give the memory back."""
        cdef uint32_t position
        for position in range(self.size):
            self.positions.at[self.items[position]] = 0
        self.size = 0
        free(self.keys)
        free(self.items)
        self.keys = NULL
        self.items = NULL
        self.capacity = 0

    def pop(self):
        """The least (key, item), taken out; None when empty."""
        cdef uint64_t key
        cdef uint32_t item
        return (key, item) if self.pop_into(&key, &item) else None

    def peek(self):
        """The least (key, item); None when empty."""
        cdef uint64_t key
        cdef uint32_t item
        return (key, item) if self.peek_into(&key, &item) else None

    cdef uint64_t key_at_rank(self, uint32_t rank) except? 0:
        """The key of the entry before which so many stand. Takes time in the order of the size."""
        cdef uint64_t* keys
        if rank >= self.size:
            raise ValueError(f"rank {rank} of {self.size} entries")
        keys = <uint64_t*>malloc(self.size * sizeof(uint64_t))
        if keys == NULL:
            raise MemoryError("ranks of a heap")
        memcpy(keys, self.keys, self.size * sizeof(uint64_t))
        cdef uint64_t key = select_rank(keys, self.size, rank)
        free(keys)
        return key

    cdef list items_from(self, uint64_t key):
        """The items of all entries whose key is not less, in no order."""
        cdef uint32_t position
        return [self.items[position] for position in range(self.size) if self.keys[position] >= key]

    cdef uint32_t count_until(self, uint64_t key, uint32_t most) noexcept:
        """How many entries have a key that is not greater; `most` or more when there are so many."""
        cdef uint32_t position, count = 0
        for position in range(self.size):
            count += self.keys[position] <= key
            if count >= most:
                break
        return count

    cdef int resize(self, uint32_t capacity) noexcept:
        """Give both arrays this capacity. -1: no memory; then both still hold the entries."""
        cdef uint64_t* keys = <uint64_t*>realloc(self.keys, capacity * sizeof(uint64_t))
        if keys == NULL:
            return -1
        self.keys = keys
        cdef uint32_t* items = <uint32_t*>realloc(self.items, capacity * sizeof(uint32_t))
        if items == NULL:
            # A grown `keys` is harmless; a shrunk one bounds what may be used.
            self.capacity = min(self.capacity, capacity)
            return -1
        self.items = items
        self.capacity = capacity
        return 0

    cdef void shrink(self) noexcept:
        """Halve the arrays when less than a quarter is used. Without memory they stay."""
        if self.capacity > CAPACITY_MIN and self.size < self.capacity // 4:
            self.resize(self.capacity // 2)
