"""The events that wait for the log; see the text of tablelog.pyx."""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from taskforge_server.ext.buf cimport Buf
from taskforge_server.ext.slots cimport Job
from taskforge_server.ext.tablewaiting cimport Waiting


cdef class Names:
    cdef int32_t *local_of      # table index -> index in the gathering body, -1 none
    cdef uint32_t room
    cdef uint32_t *used         # index in the body -> table index
    cdef uint32_t count
    cdef uint32_t used_room

    cdef int32_t index(self, uint32_t value) except -1
    cdef void reset(self) noexcept


cdef class Log(Waiting):
    cdef readonly Py_ssize_t gathered_events
    cdef uint64_t nonce_state
    cdef Buf events
    cdef int64_t base_us
    cdef Names body_queues, body_types, body_workers
    cdef list keys              # (lsn, key tuple)

    cdef int _gather(self, int64_t now_us) except -1
    cdef void _head(self, int fields, int kind, const Job *job) noexcept
