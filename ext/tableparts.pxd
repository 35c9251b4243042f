"""The small parts of the table: new jobs, queues and their lanes, numbers, checks of arguments."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from taskforge_server.ext.buf cimport Buf, tf_be64
from taskforge_server.ext.groups cimport Groups, Limits
from taskforge_server.ext.heap cimport Heap, Positions

cdef extern from *:
    """
    #define TF_NEVER (INT64_C(1) << 62)
    #define TF_KEY_EPOCH_MS UINT64_C(1577836800000)
    """
    const int64_t I64_MAX "INT64_MAX"
    const int64_t I32_MAX "INT32_MAX"
    const int64_t I16_MAX "INT16_MAX"
    const int64_t NEVER "TF_NEVER"                  # the due time of a job that is held
    const uint64_t NO_FRONTIER "UINT64_MAX"
    const uint64_t NO_DEADLINE "UINT64_MAX"
    const uint64_t KEY_EPOCH_MS "TF_KEY_EPOCH_MS"   # 2020-01-01T00:00:00Z

cdef enum:
    HISTORY_NONE = 0
    HISTORY_FAILED = 1
    HISTORY_ALL = 2

cdef enum:
    TOKEN_BYTES = 24
    ANY_WORKER = -1              # whoever runs the job
    AHEAD = 8                    # so many jobs before its turn, one is fetched into the cache

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
    cdef int64_t born_us        # no job of it was started before; 0: nobody knows
    cdef int64_t floor_ns       # up to when its buckets were empty, as of the last look
    cdef bint stale             # its limits have changed since
    cdef bint roused            # stands in the table's list of such
    cdef Groups groups          # None where no job is in one
    cdef bint grouped           # keys matter: who comes to wait or run does so in a group
    cdef bint moving            # some jobs are not yet where `grouped` says; until then none starts
    cdef uint32_t walked        # places in memory that were looked at for such
    cdef int64_t away_pending, away_scheduled   # by their rows; negative until the rows are counted

    cdef Lane lane(self, uint16_t kind, str name, Positions positions)


cdef int check(str name, value, int64_t low, int64_t high) except -1
cdef int check_id(str name, bytes value) except -1


cdef inline bytes id_bytes(uint64_t hi, uint64_t lo):
    cdef unsigned char raw[16]
    tf_be64(raw, hi)
    tf_be64(raw + 8, lo)
    return PyBytes_FromStringAndSize(<char *>raw, 16)


cdef inline uint64_t ready_key(int priority, uint64_t hi, uint64_t lo) noexcept nogil:
    """The ready order: priority 9 first, then submission, which is the order of the ids of a shard.

    4 bits of priority, 40 of milliseconds (until 2054), 20 of the counter within one.
    """
    cdef uint64_t ms = ((hi >> 16) - KEY_EPOCH_MS) & ((<uint64_t>1 << 40) - 1)
    return (<uint64_t>(9 - priority) << 60) | (ms << 20) | ((lo >> 42) & 0xfffff)


cdef inline const unsigned char *at(bytes data) noexcept:
    return <const unsigned char *>PyBytes_AS_STRING(data)
