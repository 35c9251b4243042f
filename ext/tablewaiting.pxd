"""What waits in the queues of a shard; see the text of tablewaiting.pyx."""
from libc.stdint cimport int64_t, uint32_t

from taskforge_server.ext.slots cimport Job
from taskforge_server.ext.tablefold cimport Fold
from taskforge_server.ext.tableparts cimport QueueState


cdef class Waiting(Fold):
    cdef int _rows_may_stand(self, int queue) except -1
    cdef int _limit(self, QueueState q, object given) except -1
    cdef int _move(self, QueueState q, uint32_t slot, Job *job) except -1
    cdef int64_t _allowed(self, QueueState q, int64_t now_us) except -1
    cdef list _holders(self, int queue, uint32_t group)
