"""One shard in memory; the behaviour stands in table.pyx, the plain twin in pure/table.py."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from taskforge_server.ext.attempts cimport Attempt, Attempts
from taskforge_server.ext.buf cimport Buf
from taskforge_server.ext.groups cimport Groups, Limits
from taskforge_server.ext.heap cimport Heap, Positions
from taskforge_server.ext.ids cimport IdSource
from taskforge_server.ext.rows cimport JobRow
from taskforge_server.ext.scan cimport Scan
from taskforge_server.ext.slots cimport Job, Slots

cdef struct NewJob:
    Py_ssize_t type_at, payload_at, options_at
    uint32_t type_size, payload_size, options_size
    int64_t due_us
    uint32_t timeout_ms
    uint16_t max_attempts
    uint8_t priority
    uint8_t has_options


cdef class SubmitBatch:
    cdef readonly Py_ssize_t count
    cdef readonly Py_ssize_t bytes_total
    cdef NewJob *jobs
    cdef Py_ssize_t room
    cdef Buf content

    cdef int add_raw(
        self, const void *type_name, Py_ssize_t type_size, const void *payload,
        Py_ssize_t payload_size, long long priority, int64_t due_us, int64_t timeout_ms,
        int64_t max_attempts, const void *options, Py_ssize_t options_size) except -1


cdef class Lane:
    cdef uint16_t type
    cdef str name
    cdef Heap heap
    # Jobs of the lane that are away, in the tables alone, stand behind this place: see `release`.
    cdef uint64_t frontier      # no job behind this key starts; none is away: the greatest
    cdef uint64_t place_hi, place_lo    # the id, and the priority, behind which they stand
    cdef int place_priority
    cdef Py_ssize_t read        # rows of the reading under way; -1: the lane is not read


cdef class QueueState:
    cdef uint64_t id_hi, id_lo, project_hi, project_lo
    cdef bytes name
    cdef uint32_t timeout_ms, soft_timeout_ms
    cdef uint8_t history
    cdef list lanes             # every Lane, in order of first use
    cdef list by_type           # type index -> Lane or None
    cdef readonly uint32_t pending, scheduled, processing
    cdef bint limited           # anything of the following matters
    cdef Limits limits
    cdef int64_t tat_ns         # of the queue's own bucket, see groups.pyx
    cdef int64_t clock_ns       # the latest time that a look was told
    cdef int64_t floor_ns       # the table's floor, as of the last look
    cdef bint stale             # its limits have changed since
    cdef bint roused            # stands in the table's list of such
    cdef Groups groups          # None where keys do not matter
    cdef int64_t away_pending, away_scheduled   # by their rows; negative until the rows are counted

    cdef Lane lane(self, uint16_t kind, str name, Positions positions)


cdef class Names:
    cdef int32_t *local_of      # table index -> index in the gathering body, -1 none
    cdef uint32_t room
    cdef uint32_t *used         # index in the body -> table index
    cdef uint32_t count
    cdef uint32_t used_room

    cdef int32_t index(self, uint32_t value) except -1
    cdef void reset(self) noexcept


cdef class Projection:
    cdef readonly int shard
    cdef readonly int64_t watermark
    cdef readonly bytes jobs_copy, jobs_merge, executions_copy, executions_merge
    cdef readonly bytes deletes                 # ids with the lsn of their end, 24 bytes each
    cdef readonly Py_ssize_t jobs_copy_rows, jobs_merge_rows
    cdef readonly Py_ssize_t executions_copy_rows, executions_merge_rows
    cdef readonly list keys
    cdef readonly list usage    # whoever counts submits puts rows here, for the same transaction
    cdef readonly list edges    # and whoever knows what waits for what
    cdef uint32_t *slots
    cdef int64_t *lsns
    cdef Py_ssize_t taken
    cdef Attempts attempts


cdef class ShardTable:
    cdef readonly int shard
    cdef readonly int64_t committed_lsn
    cdef readonly int64_t gathering_lsn
    cdef readonly Py_ssize_t gathered_events
    cdef Slots slots
    cdef Positions positions
    cdef Heap due_heap          # scheduled jobs by due time
    cdef Heap run_heap          # processing jobs by deadline; none: the greatest key
    cdef IdSource ids
    cdef uint64_t nonce_state
    cdef int64_t watermark
    cdef uint32_t away          # jobs in a projection under way that are not dirty
    cdef int64_t floor_us       # of what was started before, the limits know nothing
    cdef list roused            # queues in which the end of a job lets another one start
    cdef readonly bint reading  # rows of jobs are being read: nothing leaves memory meanwhile
    cdef list leaving           # slots to be freed when the reading is over
    cdef readonly Py_ssize_t departures     # how many open jobs were let go
    cdef int64_t due_place_us   # scheduled jobs that are away are due behind this time and id
    cdef bytes due_place_id
    cdef list queues            # QueueState
    cdef dict queue_index
    cdef list type_names, type_texts
    cdef dict type_index
    cdef list workers
    cdef dict worker_index
    cdef list reasons
    cdef dict reason_index
    cdef Buf events
    cdef int64_t base_us
    cdef uint64_t nonce
    cdef Names body_queues, body_types, body_workers
    cdef Attempts over
    cdef dict held              # slot -> Attempts that are kept only if the job ends badly
    cdef list keys              # (lsn, key tuple)
    cdef dict marked            # ids of jobs whose options were told and hold `more`; a set in order
    cdef list submitted         # by replayed events: (queue id, day, count), the last one apart
    cdef int submitted_queue
    cdef int64_t submitted_day
    cdef Py_ssize_t submitted_count
    cdef object under_way       # deque of Projection
    cdef int last_type
    cdef bytes last_type_name

    # configuration
    cdef int _queue_of(self, uint64_t hi, uint64_t lo, uint64_t project_hi, uint64_t project_lo) except -1
    cdef QueueState _queue_at(self, object index)
    cdef int _type_of(self, const void *name, Py_ssize_t size) except -1
    cdef int _reason_of(self, str reason) except -1
    # limits
    cdef int _limit(self, int index, QueueState q, object given) except -1
    cdef int _regroup(self, int index, QueueState q, Groups groups) except -1
    cdef int64_t _allowed(self, QueueState q, int64_t now_us) except -1
    cdef list _holders(self, int queue, uint32_t group)
    cdef int _rouse(self, int index, QueueState q) except -1
    # the gathering batch
    cdef int _gather(self, int64_t now_us) except -1
    cdef void _head(self, int fields, int kind, const Job *job) noexcept
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
    cdef int _attempt_over(self, uint32_t slot, Job *job, int status, int64_t at_us, int64_t lsn,
                           bint replayed) except -1
    cdef int _flush_held(self, uint32_t slot, int64_t lsn, bint keep) except -1
    cdef int _cancelled(self, uint32_t slot, Job *job, str reason, int64_t at_us, int64_t lsn,
                        bint replayed) except -1
    cdef bint _put_back(self, int kind, bytes token, bytes error, int64_t now_us, int64_t due_us) except -1
    cdef int _tell(self, Job *job, const void *options, Py_ssize_t size) except -1
    cdef int _tell_grouped(self, uint32_t slot, Job *job, const void *options, Py_ssize_t size) except -1
    cdef int _check_change(self, const Job *job, int64_t due_us, int priority, bint payload,
                           int64_t deadline_us) except -1
    cdef int _change(self, uint32_t slot, Job *job, int64_t due_us, int priority,
                     const void *payload, Py_ssize_t payload_size, const void *options,
                     Py_ssize_t options_size, int64_t deadline_us, int64_t at_us, int64_t lsn,
                     bint replayed) except -1
    cdef uint32_t _leased(self, bytes token) except? 0xffffffff
    cdef uint32_t _find(self, bytes job_id) except? 0xffffffff
    cdef int _check_worker(self, object worker) except -1
    cdef dict _view(self, uint32_t slot)
    cdef object _worker_id(self, uint32_t worker)
    # replay and the tables
    cdef int _count_submitted(self, int queue, int64_t at_us) except -1
    cdef int _end_submitted_run(self) except -1
    cdef int _event(self, Scan *s, int64_t lsn, int64_t base_us, list queues, list types,
                    list workers, bint apply) except -1
    cdef int _load_row(self, const unsigned char *p) except -1
    # jobs that are away
    cdef Lane _lane_of(self, QueueState q, int kind)
    cdef Lane _lane_named(self, object queue, str job_type)
    cdef int _read_on(self, Lane lane, int priority, uint64_t hi, uint64_t lo) except -1
    cdef Py_ssize_t _bring(self, bytes data, int ordered, int64_t counted_lsn) except -1
    cdef int _let_go(self, uint32_t slot, Job *job) except -1
    cdef int _running_attempt(self, Job *job, Attempt *run) except -1
