"""The groups of a queue's jobs where keys matter: who may start, and whose turn it is.

    members: jobs that wait or run     waiting ⊂ members     running ⊂ members

    listed ── as many of its key run as may ──► unlisted ── one of them ends ──► listed
      └────── its bucket is empty ──► in `refills` ── its next token is there ──► listed
      └────── no job of it waits ──► unlisted; without a member ──► free, or idle while it owes

A group is what has the same key in one queue; jobs without a key are one group too, which limits of
keys do not bind. It has a lane for each type of job; the lanes of a type that may start stand in the
heap of their kind, so that whoever takes some types finds the next job in O(types + log groups). The
order of that heap is that of the jobs, and in a fair queue the round before it: who is served goes
behind all who were not served in this round. A group that comes anew joins the round that is under
way; who was kept from its turn has it as soon as it may.

Buckets are GCRA in whole nanoseconds: `tat` is when the bucket is full again, a start moves it to
max(tat, now) + interval, and it may be made while max(tat, now) + interval <= now + burst * interval.
So in any window of length w there are at most burst + w / interval starts. What the memory does not
know, it takes for used: before `floor`, the moment when this table's history began, a bucket was empty;
it is 0 for a queue that was created later.
The clock is the highest reading so far.

Invariant: what `running` says follows from the jobs that are processing, for `begin` and `end` are
called by nobody but the moves of the table. A group is listed exactly while its jobs may start, as
of the last look at the clock.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.list cimport PyList_GET_ITEM
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from taskforge_server.ext.heap cimport rise, take_out
from taskforge_server.ext.told cimport Told, told_read

cdef enum:
    NONE = 0xffffffff
    LANE_ROOM_MIN = 4
    GROUP_BYTES = 320        # a group with its key, its entry in the index and one lane

cdef int64_t INTERVAL_NS_MAX = <int64_t>1 << 52
cdef int64_t I32_MAX = 0x7fffffff


cdef int limits_of(object given, Limits *limits) except -1:
    """(running_max, key_running_max, interval_ns, burst, key_interval_ns, key_burst, fair, idle_max),
    0 where there is no such limit; None: none at all."""
    cdef int64_t numbers[8]
    memset(limits, 0, sizeof(Limits))
    if given is None:
        return 0
    if len(given) != 8:
        raise ValueError(f"{len(given)} numbers are no limits of a queue")
    for i, value in enumerate(given):
        if not 0 <= value <= (INTERVAL_NS_MAX if i in (2, 4) else I32_MAX):
            raise ValueError(f"limit {i} of a queue is {value}")
        numbers[i] = value
    for i in (2, 4):
        if bool(numbers[i]) != bool(numbers[i + 1]) or numbers[i] * <object>numbers[i + 1] > INTERVAL_NS_MAX:
            raise ValueError(f"no rate: {numbers[i + 1]} starts, one every {numbers[i]} ns")
    limits.running_max, limits.key_running_max = <uint32_t>numbers[0], <uint32_t>numbers[1]
    limits.rate.interval_ns, limits.rate.room_ns = numbers[2], numbers[2] * numbers[3]
    limits.key_rate.interval_ns, limits.key_rate.room_ns = numbers[4], numbers[4] * numbers[5]
    limits.fair, limits.idle_max = numbers[6] != 0, <uint32_t>numbers[7]
    return 0


cdef bytes group_key(Blob *options):
    """What the options of a job say; b"" where they say nothing."""
    cdef Told told
    if options == NULL:
        return b""
    told_read(&told, options.data, options.size)
    return PyBytes_FromStringAndSize(<const char *>told.group, told.group_size)


# --- the groups ------------------------------------------------------------------------------------

cdef class Kind:
    """The lanes of one type whose groups may start something, the next one first."""

    def __dealloc__(self):
        free(self.lanes)


cdef class Groups:
    """The groups of one queue. A member's number is that of its group plus one; 0 is in none."""

    def __cinit__(self, Positions positions not None):
        self.positions = positions
        self.marks = Positions()
        self.refills, self.idle = Heap(self.marks), Heap(self.marks)
        self.groups_free = self.lanes_free = NONE
        self.keys, self.index, self.by_type, self.kinds = [], {}, [], []

    def __dealloc__(self):
        cdef uint32_t lane
        for lane in range(self.lanes_used):
            free(self.lanes[lane].keys)
            free(self.lanes[lane].items)
        free(self.lanes)
        free(self.groups)

    cdef int tune(self, Limits *limits) except -1:
        """Other limits hold from now on; from the next look on no bucket owes more than it can. The
        rounds of a queue begin when it becomes a fair one."""
        cdef uint32_t g
        for g in range(self.groups_used):
            if limits.fair != self.limits.fair:
                self.groups[g].round = 0
            if not limits.key_rate.interval_ns:
                self.groups[g].tat_ns = 0
        if limits.fair != self.limits.fair:
            self.round = 0
        if not limits.key_rate.interval_ns:
            self.forgotten_ns = 0
        self.limits = limits[0]
        self.stale = True
        return self._rebuild()

    cdef int look(self, int64_t clock_ns, int64_t floor_ns) except -1:
        """It is this late: groups whose bucket was empty until now may start again."""
        cdef uint64_t moment
        cdef uint32_t g
        cdef bint anew = self.stale or floor_ns != self.floor_ns
        self.clock_ns, self.floor_ns = clock_ns, floor_ns
        if self.stale:
            self._clamp()
        if anew:
            self._rebuild()
        while self.refills.peek_into(&moment, &g) and <int64_t>moment <= clock_ns:
            self._relist(g)
        while self.idle.peek_into(&moment, &g) and <int64_t>moment <= clock_ns:
            self._free(g)
        return 0

    cdef void _clamp(self) noexcept:
        """No bucket owes more than one of the present size can."""
        cdef int64_t most_ns = self.clock_ns + self.limits.key_rate.room_ns
        cdef uint32_t g
        self.stale = False
        self.forgotten_ns = min(self.forgotten_ns, most_ns)
        for g in range(self.groups_used):
            self.groups[g].tat_ns = min(self.groups[g].tat_ns, most_ns)

    cdef int _rebuild(self) except -1:
        """All heaps anew: the limits have changed, or what is known of the past."""
        cdef Group *group
        cdef Kind kind
        cdef uint32_t g, lane
        for kind in self.kinds:
            for lane in range(kind.size):
                self.lanes[kind.lanes[lane]].place = 0
            kind.size = 0
        self.refills.clear()
        self.idle.clear()
        self.eligible = 0
        for g in range(self.groups_used):
            group = &self.groups[g]
            if <object>PyList_GET_ITEM(self.keys, g) is None:
                continue
            group.counted = 0
            if group.members:
                self._relist(g)
            elif self.limits.key_rate.interval_ns and group.tat_ns > self.clock_ns:
                self.idle.push(<uint64_t>group.tat_ns, g)
            else:
                self._free(g)
        return 0

    # --- members --------------------------------------------------------------------------------

    cdef uint32_t join(self, Blob *options) except? 0:
        """One job more waits or runs; its number in this queue."""
        cdef bytes key = group_key(options)
        cdef uint32_t g
        cdef Group *group
        known = self.index.get(key)
        g = self._new(key) if known is None else known
        group = &self.groups[g]
        if not group.members:
            if known is not None:
                self.idle.remove(g)
            if group.tat_ns <= self.clock_ns and not group.keyless:
                group.tat_ns = max(group.tat_ns, self.forgotten_ns)
            group.round = self.round
        group.members += 1
        return g + 1

    cdef int again(self, uint32_t member) except -1:
        """The same job goes on in another state."""
        self.groups[member - 1].members += 1
        return 0

    cdef int part(self, uint32_t member) except -1:
        """One job less waits or runs."""
        cdef uint32_t g = member - 1
        cdef Group *group = &self.groups[g]
        group.members -= 1
        if group.members:
            return 0
        if not self.limits.key_rate.interval_ns or group.tat_ns <= self.clock_ns:
            self._free(g)
            return 0
        self.idle.push(<uint64_t>group.tat_ns, g)
        if self.idle.size > self.limits.idle_max:
            self._crowded()
        return 0

    cdef int _crowded(self) except -1:
        """Forget those who owe least; whoever nobody remembers owes as much from now on."""
        cdef int64_t least = <int64_t>self.idle.keys[0]
        self.forgotten_ns = max(self.forgotten_ns, least)
        while self.idle.size and <int64_t>self.idle.keys[0] <= least:
            self._free(self.idle.items[0])
        return 0

    cdef uint32_t _new(self, bytes key) except? 0xffffffff:
        cdef Group *groups
        cdef uint32_t g = self.groups_free, room
        if g != NONE:
            self.groups_free = self.groups[g].lane
        else:
            if self.groups_used == self.groups_room:
                room = max(<uint32_t>8, self.groups_room * 2)
                groups = <Group *>realloc(self.groups, room * sizeof(Group))
                if groups == NULL:
                    raise MemoryError()
                self.groups, self.groups_room = groups, room
            g = self.groups_used
            self.groups_used += 1
            self.keys.append(None)
        memset(&self.groups[g], 0, sizeof(Group))
        self.groups[g].lane = NONE
        self.groups[g].keyless = not key
        self.keys[g] = key
        self.index[key] = g
        return g

    cdef void _free(self, uint32_t g) noexcept:
        cdef uint32_t lane = self.groups[g].lane, following
        self.idle.remove(g)
        while lane != NONE:
            following = self.lanes[lane].sibling
            free(self.lanes[lane].keys)
            free(self.lanes[lane].items)
            memset(&self.lanes[lane], 0, sizeof(Lane))
            self.lanes[lane].sibling = self.lanes_free
            self.lanes_free = lane
            lane = following
        del self.index[self.keys[g]]
        self.keys[g] = None
        self.groups[g].lane = self.groups_free
        self.groups_free = g

    cdef int64_t bytes_used(self) noexcept:
        return <int64_t>len(self.index) * GROUP_BYTES

    # --- what its jobs do -----------------------------------------------------------------------

    cdef uint32_t _lane(self, uint32_t g, uint16_t type, str name) except? 0xffffffff:
        """The lane of a group for a type, a new one if need be."""
        cdef uint32_t lane = self.groups[g].lane, room
        cdef Lane *lanes
        cdef Kind kind
        while lane != NONE:
            if self.lanes[lane].type == type:
                return lane
            lane = self.lanes[lane].sibling
        while len(self.by_type) <= type:
            self.by_type.append(None)
        if self.by_type[type] is None:
            kind = Kind()
            kind.type, kind.name = type, name
            self.by_type[type] = kind
            self.kinds.append(kind)
        lane = self.lanes_free
        if lane != NONE:
            self.lanes_free = self.lanes[lane].sibling
        else:
            if self.lanes_used == self.lanes_room:
                room = max(<uint32_t>8, self.lanes_room * 2)
                lanes = <Lane *>realloc(self.lanes, room * sizeof(Lane))
                if lanes == NULL:
                    raise MemoryError()
                self.lanes, self.lanes_room = lanes, room
            lane = self.lanes_used
            self.lanes_used += 1
        memset(&self.lanes[lane], 0, sizeof(Lane))
        self.lanes[lane].group, self.lanes[lane].type = g, type
        self.lanes[lane].sibling = self.groups[g].lane
        self.groups[g].lane = lane
        return lane

    cdef int wait(self, uint32_t member, uint32_t slot, uint64_t key, uint16_t type, str name) except -1:
        """The job waits in its lane."""
        cdef uint32_t g = member - 1, place = self._lane(g, type, name), room
        cdef Lane *lane = &self.lanes[place]
        cdef uint64_t *keys
        cdef uint32_t *items
        self.positions.reserve(slot)
        if lane.size == lane.room:
            room = max(<uint32_t>LANE_ROOM_MIN, lane.room * 2)
            keys = <uint64_t *>realloc(lane.keys, room * sizeof(uint64_t))
            if keys == NULL:
                raise MemoryError()
            lane.keys = keys
            items = <uint32_t *>realloc(lane.items, room * sizeof(uint32_t))
            if items == NULL:
                raise MemoryError()
            lane.items, lane.room = items, room
        lane.size += 1
        rise(lane.keys, lane.items, self.positions.at, lane.size - 1, key, slot)
        (<Kind>PyList_GET_ITEM(self.by_type, type)).waiting += 1
        self.groups[g].waiting += 1
        self._relist(g)
        return 0

    cdef int unwait(self, uint32_t member, uint32_t slot, uint16_t type) except -1:
        """The job leaves its lane."""
        cdef uint32_t g = member - 1, place = self._lane(g, type, None), room
        cdef Lane *lane = &self.lanes[place]
        cdef void *keys
        cdef void *items
        lane.size -= 1
        take_out(lane.keys, lane.items, self.positions.at, lane.size, self.positions.at[slot] - 1)
        if lane.room > LANE_ROOM_MIN and lane.size < lane.room // 4:
            # A smaller room always fits; where it is not to be had, the greater one stays.
            room = lane.room // 2
            keys = realloc(lane.keys, room * sizeof(uint64_t))
            if keys != NULL:
                lane.keys, lane.room = <uint64_t *>keys, room
                items = realloc(lane.items, room * sizeof(uint32_t))
                if items != NULL:
                    lane.items = <uint32_t *>items
        (<Kind>PyList_GET_ITEM(self.by_type, type)).waiting -= 1
        self.groups[g].waiting -= 1
        self._relist(g)
        return 0

    cdef int begin(self, uint32_t member) except -1:
        """The job runs."""
        self.groups[member - 1].running += 1
        self._relist(member - 1)
        return 0

    cdef bint end(self, uint32_t member) except -1:
        """The job runs no more; whether that lets another one of its group start."""
        self.groups[member - 1].running -= 1
        return self._relist(member - 1)

    # --- whose turn it is -----------------------------------------------------------------------

    cdef bint choose(self, list kinds, uint64_t *key, uint32_t *slot) noexcept:
        """The next job of these types. False: none may start."""
        cdef uint32_t best = NONE
        cdef Kind kind
        for kind in kinds:
            if kind.size and (best == NONE or self._before(kind.lanes[0], best)):
                best = kind.lanes[0]
        if best == NONE:
            return False
        key[0], slot[0] = self.lanes[best].keys[0], self.lanes[best].items[0]
        return True

    cdef bint next_of(self, Kind kind, uint32_t *slot) noexcept:
        """The next job of one type."""
        if not kind.size:
            return False
        slot[0] = self.lanes[kind.lanes[0]].items[0]
        return True

    cdef void charge(self, uint32_t member) noexcept:
        """The job is about to start: what this costs its group. Its moves bring the heaps in order."""
        cdef Group *group = &self.groups[member - 1]
        cdef Rate rate = self.limits.key_rate
        if rate.interval_ns and not group.keyless:
            group.tat_ns = rate.interval_ns + max(
                full_ns(group.tat_ns, self.floor_ns, rate), self.clock_ns)
        if self.limits.fair:
            self.round = max(self.round, group.round)
            group.round = self.round + 1

    cdef int64_t _token_ns(self, const Group *group) noexcept:
        """When the group has a token; 0: always."""
        if not self.limits.key_rate.interval_ns or group.keyless:
            return 0
        return token_ns(group.tat_ns, self.floor_ns, self.limits.key_rate)

    cdef int64_t refill_ns(self) noexcept:
        """When the next drained group may start again; 0: none waits for that."""
        return <int64_t>self.refills.keys[0] if self.refills.size else 0

    cdef bint full(self, uint32_t member) noexcept:
        """Whether as many jobs of its key run as may."""
        cdef Group *group = &self.groups[member - 1]
        return 0 < self.limits.key_running_max <= group.running and not group.keyless

    cdef uint32_t running(self, uint32_t member) noexcept:
        return self.groups[member - 1].running

    cdef int64_t token_of(self, uint32_t member) noexcept:
        """When its bucket has a token."""
        return self._token_ns(&self.groups[member - 1])

    cdef bint _relist(self, uint32_t g) except -1:
        """After a change of the group: its lanes are listed as far as they may start, in their
        places. Whether it may start something that it might not before."""
        cdef Group *group = &self.groups[g]
        cdef Lane *lane
        cdef Kind kind
        cdef uint32_t at = group.lane, before = group.counted
        cdef bint drained = self._token_ns(group) > self.clock_ns
        cdef bint may = not drained and not self.full(g + 1)
        group.counted = group.waiting if may else 0
        self.eligible += group.counted - before
        while at != NONE:
            lane = &self.lanes[at]
            kind = <Kind>PyList_GET_ITEM(self.by_type, lane.type)
            if not (may and lane.size):
                if lane.place:
                    self._unlist(kind, at)
            elif lane.place:
                self._settle(kind, at)
            else:
                self._list(kind, at)
            at = lane.sibling
        if drained and group.waiting:
            if g >= self.marks.capacity or not self.marks.at[g]:
                self.refills.push(<uint64_t>self._token_ns(group), g)
        else:
            self.refills.remove(g)
        return group.counted != 0 and not before

    # --- the heap of a kind: binary, ordered by `_before` -----------------------------------------

    cdef bint _before(self, uint32_t a, uint32_t b) noexcept:
        cdef uint64_t of_a, of_b
        if self.limits.fair:
            of_a, of_b = self.groups[self.lanes[a].group].round, self.groups[self.lanes[b].group].round
            if of_a != of_b:
                return of_a < of_b
        return self.lanes[a].keys[0] < self.lanes[b].keys[0]

    cdef int _list(self, Kind kind, uint32_t lane) except -1:
        cdef uint32_t *lanes
        cdef uint32_t room
        if kind.size == kind.room:
            room = max(<uint32_t>8, kind.room * 2)
            lanes = <uint32_t *>realloc(kind.lanes, room * sizeof(uint32_t))
            if lanes == NULL:
                raise MemoryError()
            kind.lanes, kind.room = lanes, room
        kind.size += 1
        self._up(kind, kind.size - 1, lane)
        return 0

    cdef void _unlist(self, Kind kind, uint32_t lane) noexcept:
        cdef uint32_t position = self.lanes[lane].place - 1, last
        self.lanes[lane].place = 0
        kind.size -= 1
        if position != kind.size:
            last = kind.lanes[kind.size]
            self._down(kind, position, last)
            self._settle(kind, last)

    cdef void _settle(self, Kind kind, uint32_t lane) noexcept:
        """To where it belongs, after its own key has changed and no other's."""
        cdef uint32_t position = self.lanes[lane].place - 1
        if position and self._before(lane, kind.lanes[(position - 1) >> 1]):
            self._up(kind, position, lane)
        else:
            self._down(kind, position, lane)

    cdef void _up(self, Kind kind, uint32_t position, uint32_t lane) noexcept:
        cdef uint32_t parent
        while position:
            parent = (position - 1) >> 1
            if not self._before(lane, kind.lanes[parent]):
                break
            kind.lanes[position] = kind.lanes[parent]
            self.lanes[kind.lanes[position]].place = position + 1
            position = parent
        kind.lanes[position] = lane
        self.lanes[lane].place = position + 1

    cdef void _down(self, Kind kind, uint32_t position, uint32_t lane) noexcept:
        cdef uint32_t child
        while (child := 2 * position + 1) < kind.size:
            if child + 1 < kind.size and self._before(kind.lanes[child + 1], kind.lanes[child]):
                child += 1
            if not self._before(kind.lanes[child], lane):
                break
            kind.lanes[position] = kind.lanes[child]
            self.lanes[kind.lanes[position]].place = position + 1
            position = child
        kind.lanes[position] = lane
        self.lanes[lane].place = position + 1
