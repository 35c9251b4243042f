"""What the tables have of the jobs, and what they miss; see the text of tablestored.pyx."""
from libc.stdint cimport int64_t, uint32_t

from taskforge_server.ext.attempts cimport Attempts
from taskforge_server.ext.rows cimport JobRow
from taskforge_server.ext.tablereplay cimport Replay


cdef class Projection:
    cdef readonly int shard
    cdef readonly int64_t watermark
    # each in parts with rows of one form (rows.pyx), of jobs either ended or open ones
    cdef readonly tuple jobs_copy, jobs_merge, executions_copy, executions_merge
    cdef readonly bytes deletes                 # ids with the lsn of their end, 24 bytes each
    cdef readonly bint overlaps # an earlier projection that is not confirmed may hold a job of it too
    cdef readonly Py_ssize_t jobs_copy_rows, jobs_merge_rows
    cdef readonly Py_ssize_t executions_copy_rows, executions_merge_rows
    # milliseconds of the least and of the greatest id of rows that are surely new
    cdef readonly tuple jobs_copy_ms, executions_copy_ms
    cdef readonly list keys
    cdef readonly list usage    # whoever counts submits puts rows here, for the same transaction
    cdef readonly list edges    # and whoever knows what waits for what
    cdef uint32_t *slots
    cdef int64_t *lsns
    cdef Py_ssize_t taken
    cdef Attempts attempts


cdef class Stored(Replay):
    cdef int64_t watermark
    cdef object under_way       # deque of Projection
    cdef bint confirmed         # a projection of this table is in the tables
    cdef readonly bint reading  # rows of jobs are being read: nothing leaves memory meanwhile
    cdef bint come              # they have: what stayed for them leaves, and then it is over
    cdef dict leaving           # slots to be freed then, in order; a set

    cdef int _load_row(self, const JobRow *row, int queue, int kind) except -1
