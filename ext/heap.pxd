"""The heap of heap.pyx, and its steps for whoever keeps such arrays himself."""
from libc.stdint cimport uint32_t, uint64_t


cdef class Positions:
    cdef uint32_t* at  # item -> its position + 1; 0: in no heap
    cdef readonly uint32_t capacity

    cdef int reserve(self, uint32_t item) except -1


cdef uint64_t select_rank(uint64_t* keys, uint32_t count, uint32_t rank) noexcept nogil


cdef class Heap:
    cdef readonly uint32_t size
    cdef readonly uint32_t capacity
    cdef readonly Positions positions
    cdef uint64_t* keys
    cdef uint32_t* items

    cpdef int push(self, uint64_t key, uint32_t item) except -1
    cdef bint pop_into(self, uint64_t* key, uint32_t* item) noexcept
    cdef bint peek_into(self, uint64_t* key, uint32_t* item) noexcept
    cpdef bint remove(self, uint32_t item) noexcept
    cpdef void clear(self) noexcept
    cdef uint64_t key_at_rank(self, uint32_t rank) except? 0
    cdef list items_from(self, uint64_t key)
    cdef uint32_t count_until(self, uint64_t key, uint32_t most) noexcept
    cdef int resize(self, uint32_t capacity) noexcept
    cdef void shrink(self) noexcept


cdef inline bint before(uint64_t key, uint32_t item, uint64_t key2, uint32_t item2) noexcept nogil:
    return key < key2 or (key == key2 and item < item2)


cdef inline void rise(
    uint64_t *keys, uint32_t *items, uint32_t *at, uint32_t position, uint64_t key,
    uint32_t item) noexcept nogil:
    """Put an entry at this position or above it; what was at the position is overwritten."""
    cdef uint32_t parent
    while position != 0:
        parent = (position - 1) >> 2
        if not before(key, item, keys[parent], items[parent]):
            break
        keys[position] = keys[parent]
        items[position] = items[parent]
        at[items[position]] = position + 1
        position = parent
    keys[position] = key
    items[position] = item
    at[item] = position + 1


cdef inline void sink(
    uint64_t *keys, uint32_t *items, uint32_t *at, uint32_t size, uint32_t position, uint64_t key,
    uint32_t item) noexcept nogil:
    """Put an entry at this position or below it; what was at the position is overwritten."""
    cdef uint32_t child, other, end
    while True:
        child = 4 * position + 1
        if child >= size:
            break
        end = min(child + 4, size)
        for other in range(child + 1, end):
            if before(keys[other], items[other], keys[child], items[child]):
                child = other
        if not before(keys[child], items[child], key, item):
            break
        keys[position] = keys[child]
        items[position] = items[child]
        at[items[position]] = position + 1
        position = child
    keys[position] = key
    items[position] = item
    at[item] = position + 1


cdef inline void take_out(
    uint64_t *keys, uint32_t *items, uint32_t *at, uint32_t last, uint32_t position) noexcept nogil:
    """Close the gap that the entry at this position leaves; `last` is the new size."""
    cdef uint64_t key = keys[position]
    cdef uint32_t item = items[position]
    at[item] = 0
    if position == last:
        return
    if before(keys[last], items[last], key, item):
        rise(keys, items, at, position, keys[last], items[last])
    else:
        sink(keys, items, at, last, position, keys[last], items[last])
