"""Finished attempts on their way to the tables, in a list that owns their outputs."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from taskforge_server.ext.slots cimport Blob

cdef enum:
    RUN_STARTED = 1
    RUN_SUCCEEDED = 2
    RUN_RETRYING = 3
    RUN_FAILED = 4

cdef struct Attempt:
    uint64_t job_hi
    uint64_t job_lo
    int64_t started_us
    int64_t finished_us
    int64_t lsn         # of the event that made it so
    int64_t since_lsn   # of the event that put it on the way to the tables
    Blob *output        # result or error
    uint32_t worker
    uint16_t number
    uint8_t status
    uint8_t may_exist   # a row of it may stand in the table


cdef class Attempts:
    cdef Attempt *data
    cdef readonly Py_ssize_t head
    cdef readonly Py_ssize_t end
    cdef Py_ssize_t room

    cdef int _need(self, Py_ssize_t more) except -1
    cdef Attempt *push(self) except NULL
    cdef int move(self, Attempts source, Py_ssize_t count) except -1
    cdef void drop(self, Py_ssize_t count) noexcept
