"""The live jobs of a shard and how events move them; see the text of tablefold.pyx."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from taskforge_server.ext.attempts cimport Attempt, Attempts
from taskforge_server.ext.heap cimport Heap, Positions
from taskforge_server.ext.ids cimport IdSource
from taskforge_server.ext.slots cimport (
    CANCELLED, FAILED, PENDING, PROCESSING, SCHEDULED, Job, Slots,
)
from taskforge_server.ext.tableparts cimport Lane, QueueState

# The one transition table: the states, as bits, in which a job may make each move.
cdef enum:
    MAY_START = (1 << PENDING) | (1 << SCHEDULED)
    MAY_END = 1 << PROCESSING
    MAY_CANCEL = (1 << PENDING) | (1 << SCHEDULED)
    MAY_REQUEUE = (1 << FAILED) | (1 << CANCELLED)
    MAY_CHANGE = (1 << PENDING) | (1 << SCHEDULED) | (1 << PROCESSING)


cdef class Fold:
    cdef readonly int shard
    cdef readonly int64_t committed_lsn
    cdef readonly int64_t gathering_lsn
    cdef Slots slots
    cdef Positions positions
    cdef Heap due_heap          # scheduled jobs by due time
    cdef Heap run_heap          # processing jobs by deadline; none: the greatest key
    cdef IdSource ids
    cdef uint32_t away          # jobs in a projection under way that are not dirty
    cdef int64_t floor_us       # of what was started before, the limits know nothing
    cdef int64_t owned_lsn      # from here on the log is this owner's
    cdef list roused            # queues in which the end of a job lets another one start
    cdef list queues            # QueueState
    cdef dict queue_index
    cdef list type_names, type_texts
    cdef dict type_index
    cdef list workers
    cdef dict worker_index
    cdef list reasons
    cdef dict reason_index
    cdef Attempts over
    cdef dict held              # slot -> Attempts that are kept only if the job ends badly
    cdef dict marked            # ids of jobs whose options were told and hold `more`; a set in order
    cdef object giving          # of those marked before, the ids that are to be given next; or None
    cdef int last_type
    cdef bytes last_type_name

    # what jobs name
    cdef int _queue_of(self, uint64_t hi, uint64_t lo, uint64_t project_hi, uint64_t project_lo) except -1
    cdef QueueState _queue_at(self, object index)
    cdef int _type_of(self, const void *name, Py_ssize_t size) except -1
    cdef int _reason_of(self, str reason) except -1
    cdef int _check_worker(self, object worker) except -1
    cdef object _worker_id(self, uint32_t worker)
    cdef uint32_t _find(self, bytes job_id) except? 0xffffffff
    cdef Lane _lane_of(self, QueueState q, int kind)
    cdef int _rouse(self, int index, QueueState q) except -1
    # one job's moves
    cdef int _check_move(self, const Job *job, int allowed, str move) except -1
    cdef int _leave(self, uint32_t slot, Job *job) except -1
    cdef int _enter(self, uint32_t slot, Job *job, int state) except -1
    cdef int _touch(self, uint32_t slot, Job *job, int64_t lsn, int64_t at_us, bint replayed) except -1
    cdef uint32_t _new(self, uint64_t hi, uint64_t lo, int queue, int kind, int priority) except? 0xffffffff
    cdef int _started(self, uint32_t slot, Job *job, uint32_t worker, int attempt, int64_t at_us,
                      int64_t deadline_us, int64_t lsn, bint replayed) except -1
    cdef int _back(self, uint32_t slot, Job *job, int kind, int64_t due_us, int64_t at_us,
                   const void *error, Py_ssize_t size, int64_t lsn, bint replayed) except -1
    cdef int _ended(self, uint32_t slot, Job *job, int state, int run_status, int64_t at_us,
                    const void *output, Py_ssize_t size, int64_t lsn, bint replayed) except -1
    cdef int _running_attempt(self, Job *job, Attempt *run) except -1
    cdef int _attempt_over(self, uint32_t slot, Job *job, int status, int64_t at_us, int64_t lsn,
                           bint replayed) except -1
    cdef int _flush_held(self, uint32_t slot, int64_t lsn, bint keep) except -1
    cdef int _cancelled(self, uint32_t slot, Job *job, str reason, int64_t at_us, int64_t lsn,
                        bint replayed) except -1
    cdef int _tell(self, Job *job, const void *options, Py_ssize_t size) except -1
    cdef int _tell_grouped(self, uint32_t slot, Job *job, const void *options, Py_ssize_t size) except -1
    cdef int _check_change(self, const Job *job, int64_t due_us, int priority, bint payload,
                           int64_t deadline_us) except -1
    cdef int _change(self, uint32_t slot, Job *job, int64_t due_us, int priority,
                     const void *payload, Py_ssize_t payload_size, const void *options,
                     Py_ssize_t options_size, int64_t deadline_us, int64_t at_us, int64_t lsn,
                     bint replayed) except -1
    cdef uint32_t _requeued(self, uint32_t slot, uint64_t hi, uint64_t lo, int queue, int kind,
                            int priority) except? 0xffffffff
