"""Jobs that are away; see the text of tableaway.pyx."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from taskforge_server.ext.rows cimport JobRow
from taskforge_server.ext.slots cimport Job
from taskforge_server.ext.tableparts cimport Lane
from taskforge_server.ext.tablestored cimport Projection, Stored


cdef class Pages(Stored):
    cdef readonly Py_ssize_t departures     # how many open jobs were let go
    cdef int64_t due_place_us   # scheduled jobs that are away are due behind this time and id
    cdef bytes due_place_id

    cdef Lane _lane_named(self, object queue, str job_type)
    cdef int _read_on(self, Lane lane, int priority, uint64_t hi, uint64_t lo) except -1
    cdef int _own_shard(self, const JobRow *row) except -1
    cdef Py_ssize_t _bring(self, bytes data, int ordered, int64_t counted_lsn) except -1
    cdef int _bounded(self) except -1
    cdef int _may_leave(self, const Job *job) except -1
    cdef int _let_go_behind(self, uint32_t slot, Job *job) except -1
    cdef int _let_go(self, uint32_t slot, Job *job) except -1
