cdef class Channel:
    cdef readonly Py_ssize_t capacity
    cdef readonly bint closed
    cdef list items  # those at `head` and behind are waiting; the places before are None
    cdef Py_ssize_t head
    cdef object senders  # deque of futures: send() calls that wait for room, in their order
    cdef Py_ssize_t granted  # room promised to send() calls that have not resumed yet
    cdef object receiver  # the future that recv_many() waits on, or None
    cdef Py_ssize_t high_watermark
    cdef Py_ssize_t sent
    cdef Py_ssize_t received
    cdef Py_ssize_t send_waits
    cdef Py_ssize_t recv_waits

    cdef Py_ssize_t size(self)
    cdef bint has_room(self)
    cdef int append(self, item) except -1
    cdef list take(self, Py_ssize_t most)
    cdef int grant(self) except -1
    cdef int withdraw(self, sender) except -1
