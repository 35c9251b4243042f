"""Log rows that are folded into the state; see the text of tablereplay.pyx."""
from libc.stdint cimport int64_t

from taskforge_server.ext.scan cimport Scan
from taskforge_server.ext.tablelog cimport Log


cdef class Replay(Log):
    cdef list submitted         # by replayed events: (queue id, day, count), the last one apart
    cdef int submitted_queue
    cdef int64_t submitted_day
    cdef Py_ssize_t submitted_count

    cdef int _count_submitted(self, int queue, int64_t at_us) except -1
    cdef int _end_submitted_run(self) except -1
    cdef int _event(self, Scan *s, int64_t lsn, int64_t base_us, list queues, list types,
                    list workers, bint apply) except -1
