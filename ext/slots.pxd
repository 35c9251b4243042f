"""The storage of one shard's live jobs: structs in chunks, found by id, listed by first unsaved change."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    FREE = 0
    PENDING = 1
    SCHEDULED = 2
    PROCESSING = 3
    SUCCEEDED = 4
    FAILED = 5
    CANCELLED = 6

cdef enum:
    F_DIRTY = 1       # has a change that no projection took yet; stands on the dirty list
    F_ROW = 2         # a row of it may stand in `jobs`
    F_RUN_ROW = 4     # a row of its running attempt may stand in `job_executions`
    F_WATCHED = 8     # somebody waits for its end
    F_LOADED = 16     # as its row says; events up to its lsn are in it already
    F_MORE = 32       # its options hold `more`
    F_KEEP = 64       # its row stays, whatever the history of its queue says
    F_ROW_DUE = 128   # its row, as it was last written or read, says `scheduled`

cdef enum:
    NONE = 0xffffffff
    CHUNK_BITS = 10
    CHUNK = 1 << CHUNK_BITS

cdef struct Blob:
    uint32_t size
    char data[4]

cdef struct Job:
    uint64_t id_hi
    uint64_t id_lo
    uint64_t key          # the ready order: priority, then submission
    int64_t created_us
    int64_t updated_us
    int64_t due_us
    int64_t started_us
    int64_t deadline_us
    int64_t lsn           # of its newest event
    int64_t lease_lsn     # of the newest `started` event: the lease, while it runs
    int64_t dirty_lsn     # of its oldest event that no projection took
    int64_t dirty_us
    Blob *payload
    Blob *options
    Blob *output          # the result, or the newest error
    uint32_t worker
    uint32_t timeout_ms
    uint32_t prev         # dirty list
    uint32_t next
    uint32_t group        # in its queue, while it waits or runs and keys matter there; 0: none
    uint16_t queue
    uint16_t type
    uint16_t attempts
    uint16_t crashes
    uint16_t max_attempts
    uint16_t reason
    uint8_t state
    uint8_t flags
    uint8_t under         # projections under way that hold it
    uint8_t returns       # attempts that their workers gave back


cdef Blob *blob_new(const void *data, Py_ssize_t size) except NULL
cdef bytes blob_bytes(Blob *blob)


cdef class Slots:
    cdef Job **chunks
    cdef uint32_t chunks_used
    cdef uint32_t chunks_room
    cdef uint32_t free_head       # chain through Job.next
    cdef uint64_t *index          # open addressing: hash << 32 | slot + 1, 0 empty
    cdef uint32_t index_bits
    cdef readonly uint32_t used
    cdef readonly int64_t blob_bytes_used
    cdef uint32_t dirty_head
    cdef uint32_t dirty_tail
    cdef readonly uint32_t dirty

    cdef uint32_t new(self, uint64_t id_hi, uint64_t id_lo) except? NONE
    cdef void free(self, uint32_t slot) noexcept
    cdef uint32_t find(self, uint64_t id_hi, uint64_t id_lo) noexcept
    cdef int set_blob(self, Blob **where, const void *data, Py_ssize_t size) except -1
    cdef void drop_blob(self, Blob **where) noexcept
    cdef void mark_dirty(self, uint32_t slot, int64_t lsn, int64_t now_us) noexcept
    cdef void mark_clean(self, uint32_t slot) noexcept
    cdef int _grow(self) except -1
    cdef int _rehash(self, uint32_t bits) except -1
    cdef void _index_put(self, uint64_t entry) noexcept
    cdef uint64_t _position(self, uint64_t id_hi, uint64_t id_lo) noexcept
    cdef void _index_drop(self, uint64_t id_hi, uint64_t id_lo) noexcept


cdef extern from *:
    void __builtin_prefetch(const void *address) noexcept nogil


cdef inline uint64_t hash32(uint64_t id_hi, uint64_t id_lo) noexcept nogil:
    """32 bits of an id; their uppermost ones say where its entry would best stand."""
    return ((id_lo ^ id_hi * <uint64_t>0x9E3779B97F4A7C15) * <uint64_t>0xD6E8FEB86659FD93) >> 32


cdef inline void soon(Slots slots, uint64_t id_hi, uint64_t id_lo) noexcept:
    """That id will be looked up in a moment: have its place in the index come to the cache."""
    __builtin_prefetch(&slots.index[hash32(id_hi, id_lo) >> (32 - slots.index_bits)])


cdef inline Job *job_at(Slots slots, uint32_t slot) noexcept:
    return &slots.chunks[slot >> CHUNK_BITS][slot & (CHUNK - 1)]
