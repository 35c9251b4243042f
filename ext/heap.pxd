from libc.stdint cimport uint32_t, uint64_t


cdef class Positions:
    cdef uint32_t* at  # item -> its position + 1; 0: in no heap
    cdef readonly uint32_t capacity

    cdef int reserve(self, uint32_t item) except -1


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
    cdef int resize(self, uint32_t capacity) noexcept
    cdef void shrink(self) noexcept
    cdef void rise(self, uint32_t position, uint64_t key, uint32_t item) noexcept
    cdef void sink(self, uint32_t position, uint64_t key, uint32_t item) noexcept
