"""The limits of a queue, and the groups of its jobs; the behaviour stands in groups.pyx."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from taskforge_server.ext.heap cimport Heap, Positions
from taskforge_server.ext.slots cimport Blob

cdef struct Rate:
    int64_t interval_ns   # between two starts in the long run; 0: no rate
    int64_t room_ns       # burst * interval: what a full bucket holds


cdef struct Limits:
    uint32_t running_max  # 0: none
    uint32_t key_running_max
    Rate rate
    Rate key_rate
    uint32_t idle_max     # groups that are remembered for their debt alone
    bint fair


cdef struct Group:
    uint64_t round        # when it is its turn, in a fair queue
    int64_t tat_ns        # of its bucket
    uint32_t members      # jobs that wait or run
    uint32_t running
    uint32_t waiting      # jobs in its lanes
    uint32_t counted      # of them those that count as eligible
    uint32_t lane         # the first of its lanes; of a free group, the next free one
    bint keyless          # of the jobs without a key: limits of keys do not bind it


cdef struct Lane:
    uint64_t *keys        # a heap of the jobs of one type, as in heap.pyx
    uint32_t *items
    uint32_t size
    uint32_t room
    uint32_t group
    uint32_t sibling      # the next lane of the group; of a free lane, the next free one
    uint32_t place        # its position in the heap of its kind + 1; 0: it is not listed
    uint16_t type


cdef class Kind:
    cdef readonly uint16_t type
    cdef readonly str name
    cdef readonly uint32_t waiting
    cdef uint32_t *lanes
    cdef uint32_t size
    cdef uint32_t room


cdef class Groups:
    cdef Limits limits
    cdef Positions positions      # of the jobs
    cdef Positions marks          # of the groups, in the two heaps below
    cdef Heap refills             # drained groups with jobs, by the time of their next token
    cdef Heap idle                # groups without jobs, by the time when their bucket is full
    cdef Group *groups
    cdef Lane *lanes
    cdef uint32_t groups_used, groups_room, groups_free
    cdef uint32_t lanes_used, lanes_room, lanes_free
    cdef list keys
    cdef dict index
    cdef list by_type
    cdef readonly list kinds
    cdef uint64_t round
    cdef int64_t clock_ns
    cdef int64_t floor_ns
    cdef int64_t forgotten_ns     # what groups that nobody remembers may owe
    cdef readonly uint32_t eligible
    cdef bint stale

    cdef int tune(self, Limits *limits) except -1
    cdef int look(self, int64_t clock_ns, int64_t floor_ns) except -1
    cdef uint32_t join(self, Blob *options) except? 0
    cdef int again(self, uint32_t member) except -1
    cdef int part(self, uint32_t member) except -1
    cdef int wait(self, uint32_t member, uint32_t slot, uint64_t key, uint16_t type, str name) except -1
    cdef int unwait(self, uint32_t member, uint32_t slot, uint16_t type) except -1
    cdef int begin(self, uint32_t member) except -1
    cdef bint end(self, uint32_t member) except -1
    cdef bint choose(self, list kinds, uint64_t *key, uint32_t *slot) noexcept
    cdef bint next_of(self, Kind kind, uint32_t *slot) noexcept
    cdef void charge(self, uint32_t member) noexcept
    cdef int64_t refill_ns(self) noexcept
    cdef bint full(self, uint32_t member) noexcept
    cdef uint32_t running(self, uint32_t member) noexcept
    cdef int64_t token_of(self, uint32_t member) noexcept
    cdef int64_t bytes_used(self) noexcept

    cdef int64_t _token_ns(self, const Group *group) noexcept
    cdef int _rebuild(self) except -1
    cdef void _clamp(self) noexcept
    cdef uint32_t _new(self, bytes key) except? 0xffffffff
    cdef void _free(self, uint32_t g) noexcept
    cdef int _crowded(self) except -1
    cdef uint32_t _lane(self, uint32_t g, uint16_t type, str name) except? 0xffffffff
    cdef bint _relist(self, uint32_t g) except -1
    cdef bint _before(self, uint32_t a, uint32_t b) noexcept
    cdef int _list(self, Kind kind, uint32_t lane) except -1
    cdef void _unlist(self, Kind kind, uint32_t lane) noexcept
    cdef void _settle(self, Kind kind, uint32_t lane) noexcept
    cdef void _up(self, Kind kind, uint32_t position, uint32_t lane) noexcept
    cdef void _down(self, Kind kind, uint32_t position, uint32_t lane) noexcept


cdef inline int64_t full_ns(int64_t tat_ns, int64_t floor_ns, Rate rate) noexcept:
    """When the bucket is full, with one that was empty when its history began."""
    return max(tat_ns, floor_ns + rate.room_ns)


cdef inline int64_t token_ns(int64_t tat_ns, int64_t floor_ns, Rate rate) noexcept:
    """When the next token is there."""
    return full_ns(tat_ns, floor_ns, rate) - rate.room_ns + rate.interval_ns


cdef int limits_of(object given, Limits *limits) except -1
cdef bytes group_key(Blob *options)
