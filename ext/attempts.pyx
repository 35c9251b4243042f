"""Finished attempts on their way to the tables, in a list that owns their outputs.

    data  [ . . head ──── attempts ──── end . . ]     taken from the front, pushed at the end
"""
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove, memset


cdef class Attempts:
    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.head, self.end):
            free(self.data[i].output)
        free(self.data)

    cdef int _need(self, Py_ssize_t more) except -1:
        cdef Py_ssize_t room
        cdef Attempt *data
        if self.head and (self.head == self.end or self.end + more > self.room):
            memmove(self.data, self.data + self.head, (self.end - self.head) * sizeof(Attempt))
            self.end -= self.head
            self.head = 0
        if self.end + more > self.room:
            room = max(self.end + more, self.room * 2, 16)
            data = <Attempt *>realloc(self.data, room * sizeof(Attempt))
            if data == NULL:
                raise MemoryError()
            self.data = data
            self.room = room
        return 0

    cdef Attempt *push(self) except NULL:
        """A zeroed attempt at the end; good until the next push."""
        self._need(1)
        self.end += 1
        memset(&self.data[self.end - 1], 0, sizeof(Attempt))
        return &self.data[self.end - 1]

    cdef int move(self, Attempts source, Py_ssize_t count) except -1:
        """Take the first `count` of another list, outputs and all."""
        if not count:
            return 0
        self._need(count)
        memcpy(self.data + self.end, source.data + source.head, count * sizeof(Attempt))
        self.end += count
        source.head += count
        return 0

    cdef void drop(self, Py_ssize_t count) noexcept:
        """Forget the first `count`."""
        cdef Py_ssize_t i
        for i in range(self.head, self.head + count):
            free(self.data[i].output)
        self.head += count
