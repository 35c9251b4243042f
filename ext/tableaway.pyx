"""Jobs that are away: waiting ones that memory let go, because their row says all of them.

A waiting job of which the tables know all, that nobody watches and that was told nothing special
may be let go: then it is away, its row is all there is of it, and nobody changes the row. Per
lane all that are away stand behind a place; until rows were read up to there nothing behind it
starts, so nothing is overtaken, and who waits there too leaves as soon as the tables know it. Rows are read while nothing leaves memory (`begin_reading`):
a row that comes is that of a job that is here, and is passed over, or it is the truth.
"""
from itertools import islice

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM
from libc.stdlib cimport free, malloc

from taskforge_server.ext.buf cimport tf_rd64
from taskforge_server.ext.heap cimport select_rank
from taskforge_server.ext.ids cimport shard_of_hi
from taskforge_server.ext.rows cimport JobRow, first_row, next_row, read_job_row, read_page_row
from taskforge_server.ext.slots cimport (
    F_DIRTY, F_MORE, F_ROW, F_ROW_DUE, F_WATCHED, FREE, NONE, PENDING, PROCESSING, SCHEDULED,
    SUCCEEDED, job_at,
)
from taskforge_server.ext.tableparts cimport (
    I32_MAX, I64_MAX, NEVER, NO_FRONTIER, QueueState, at, check, check_id, id_bytes, ready_key,
)

LAST_ID = b"\xff" * 16

cdef inline bint stays(const Job *job, int row_due) noexcept:
    """Whether a waiting job must stay in memory; `row_due`: what its row must say of its state."""
    return job.under or (
        job.flags & (F_DIRTY | F_ROW | F_WATCHED | F_MORE | F_ROW_DUE)) != (F_ROW | row_due)


cdef inline bint before(const Job *one, const Job *other) noexcept:
    """Whether it stands before the other in its lane."""
    return one.key < other.key or (one.key == other.key and (
        one.id_hi < other.id_hi or (one.id_hi == other.id_hi and one.id_lo < other.id_lo)))


cdef class Pages(Stored):
    """What the table adds to its jobs so that not all of them must be here."""

    def __cinit__(self):
        self.due_place_us, self.due_place_id = I64_MAX, LAST_ID

    cdef Lane _lane_named(self, object queue, str job_type):
        cdef bytes name = job_type.encode()
        cdef QueueState q = self._queue_at(queue)
        return self._lane_of(q, self._type_of(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)))

    def release(self, queue, str job_type not None, Py_ssize_t keep, Py_ssize_t most):
        """Let go of the last jobs that wait in a lane, up to `most`, but for its first `keep` and those
        that must stay; how many went. ValueError while rows are read."""
        cdef QueueState q = self._queue_at(queue)
        cdef Lane lane = self._lane_named(queue, job_type)
        cdef uint32_t position
        cdef uint64_t least
        cdef Py_ssize_t found = 0, released = 0, i
        cdef Job *job
        cdef Job *first = NULL
        cdef uint32_t *slots
        cdef uint64_t *keys
        if self.reading:
            raise ValueError("nothing leaves while rows are read")
        if not 0 <= keep < lane.heap.size or most <= 0 or q.moving:
            return 0
        least = lane.heap.key_at_rank(<uint32_t>keep)
        slots = <uint32_t *>malloc(lane.heap.size * sizeof(uint32_t))
        keys = <uint64_t *>malloc(lane.heap.size * sizeof(uint64_t))
        try:
            if slots == NULL or keys == NULL:
                raise MemoryError()
            for position in range(lane.heap.size):
                if lane.heap.keys[position] >= least:
                    job = job_at(self.slots, lane.heap.items[position])
                    if not stays(job, 0):
                        slots[found], keys[found] = lane.heap.items[position], job.key
                        found += 1
            if found > most:
                least = select_rank(keys, <uint32_t>found, <uint32_t>(found - most))
            for i in range(found):
                job = job_at(self.slots, slots[i])
                if job.key >= least and (first == NULL or before(job, first)):
                    first = job
            if first != NULL and first.key - 1 < lane.frontier:
                lane.frontier = first.key - 1
                lane.place_priority = 9 - <int>(first.key >> 60)
                lane.place_hi, lane.place_lo = first.id_hi - (not first.id_lo), first.id_lo - 1
            for i in range(found):
                job = job_at(self.slots, slots[i])
                if job.key >= least:
                    q.away_pending += 1
                    released += self._let_go(slots[i], job)
            return released
        finally:
            free(slots)
            free(keys)

    def release_scheduled(self, int64_t after_us):
        """Let go of scheduled jobs that are due later than that, but for those that must stay; how
        many went. ValueError while rows are read."""
        cdef uint32_t slot
        cdef Py_ssize_t released = 0
        cdef Job *job
        if self.reading:
            raise ValueError("nothing leaves while rows are read")
        for slot in self.due_heap.items_from(<uint64_t>after_us + 1):
            job = job_at(self.slots, slot)
            if job.due_us < NEVER and not stays(job, F_ROW_DUE):
                (<QueueState>PyList_GET_ITEM(self.queues, job.queue)).away_scheduled += 1
                released += self._let_go(slot, job)
        if released and after_us < self.due_place_us:
            self.due_place_us, self.due_place_id = after_us, LAST_ID
        return released

    def projected(self, Projection p not None, bint whole=False):
        """It is in the tables: jobs unchanged since then are clean, final ones are freed. `whole`: the
        tables took every row, so those that wait behind others that are away leave as well."""
        cdef Py_ssize_t i
        cdef uint32_t slot
        cdef Job *job
        Stored.projected(self, p)
        if not whole or not self._bounded():
            return
        for i in range(p.taken):
            slot = p.slots[i]
            job = job_at(self.slots, slot)
            if job.lsn == p.lsns[i] and self._may_leave(job):
                if self.reading:
                    self.leaving[slot] = None
                else:
                    self._let_go_behind(slot, job)

    cdef int _bounded(self) except -1:
        """Whether jobs of any lane are away."""
        cdef QueueState q
        cdef Lane lane
        for q in self.queues:
            for lane in q.lanes:
                if lane.frontier != NO_FRONTIER:
                    return True
        return False

    cdef int _may_leave(self, const Job *job) except -1:
        """Whether it waits behind others that are away, and its row says all of it."""
        cdef QueueState q
        if job.state != PENDING or stays(job, 0):
            return False
        q = <QueueState>PyList_GET_ITEM(self.queues, job.queue)
        return not q.grouped and not q.moving and (
            job.key > (<Lane>PyList_GET_ITEM(q.by_type, job.type)).frontier)

    cdef int _let_go_behind(self, uint32_t slot, Job *job) except -1:
        (<QueueState>PyList_GET_ITEM(self.queues, job.queue)).away_pending += 1
        return self._let_go(slot, job)

    cdef int _let_go(self, uint32_t slot, Job *job) except -1:
        self._leave(slot, job)
        self.slots.free(slot)
        self.departures += 1
        return 1

    def begin_reading(self):
        """From now on nothing leaves memory. ValueError while another reading is under way."""
        if self.reading:
            raise ValueError("rows are being read already")
        self.reading, self.come = True, False

    def end_reading(self, Py_ssize_t rows_max=0, Py_ssize_t most=I32_MAX):
        """The rows have come. With `rows_max`: of each lane that was read up to so many were asked
        for, so where fewer came no more are away. Up to `most` of those that stayed for the reading
        leave. False: there are more, and the reading lasts until a later call has let them go."""
        cdef QueueState q
        cdef Lane lane
        cdef uint32_t slot
        cdef Job *job
        if not self.reading:
            raise ValueError("no rows are being read")
        self.come = True
        for q in self.queues:
            for lane in q.lanes:
                if 0 <= lane.read < rows_max:
                    lane.frontier = NO_FRONTIER
                lane.read = -1
        for slot in list(islice(self.leaving, most)):
            del self.leaving[slot]
            job = job_at(self.slots, slot)
            if job.state >= SUCCEEDED and not job.flags & F_DIRTY and not job.under:
                self.slots.free(slot)
            elif self._may_leave(job):
                self._let_go_behind(slot, job)
        self.reading = len(self.leaving) > 0
        return not self.reading

    def place(self, queue, str job_type not None):
        """(priority, id) behind which jobs of the lane are away; rows from there on are read now."""
        cdef Lane lane = self._lane_named(queue, job_type)
        if not self.reading or self.come or lane.frontier == NO_FRONTIER:
            raise ValueError("nothing of this lane is to be read")
        lane.read = 0
        return lane.place_priority, id_bytes(lane.place_hi, lane.place_lo)

    def page_in(self, bytes data not None):
        """Rows of pending jobs, lane by lane in the order in which they start; how many. Those that
        are here are passed over. Nothing before the last row of a lane is away any more."""
        return self._bring(data, PENDING, I64_MAX)

    def next_in(self, queue, str job_type not None, bytes data not None):
        """Rows of the next pending jobs of one lane, as pages have them, in the order in which they
        start; how many. Otherwise as `page_in`."""
        cdef const unsigned char *p = at(data)
        cdef JobRow row
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data), start = first_row(data), end, count = 0
        cdef Lane lane = self._lane_named(queue, job_type)
        cdef QueueState q = self._queue_at(queue)
        cdef int index = queue
        if not self.reading or self.come:
            raise ValueError("no rows are being read")
        while (end := next_row(p, start, size)):
            read_page_row(p + start, &row)
            self._own_shard(&row)
            self._read_on(lane, row.priority, row.job.id_hi, row.job.id_lo)
            if self.slots.find(row.job.id_hi, row.job.id_lo) == NONE:
                q.away_pending -= 1
                self._load_row(&row, index, lane.type)
            count += 1
            start = end
        return count

    def due_in(self, bytes data not None):
        """Rows of scheduled jobs by due time and id, from the place on; how many. Those that are here
        are passed over. Nothing that is due before the last row is away any more."""
        return self._bring(data, SCHEDULED, I64_MAX)

    def fault_in(self, bytes data not None, int64_t counted_lsn=I64_MAX):
        """Rows of waiting jobs, whichever; how many. Those that are here are passed over. A row with
        a greater lsn than `counted_lsn` is not among those that are counted as away."""
        return self._bring(data, FREE, counted_lsn)

    cdef Py_ssize_t _bring(self, bytes data, int ordered, int64_t counted_lsn) except -1:
        """`ordered`: the state in whose order the rows come; FREE: in none."""
        cdef const unsigned char *p = at(data)
        cdef JobRow row
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data), start = first_row(data), end, count = 0
        cdef QueueState q
        cdef int queue, kind
        if not self.reading or self.come:
            raise ValueError("no rows are being read")
        while (end := next_row(p, start, size)):
            read_job_row(p + start, &row)
            self._own_shard(&row)
            if row.job.state == PROCESSING or (ordered != FREE and row.job.state != ordered):
                raise ValueError("a job that does not wait")
            queue = self._queue_of(row.queue_hi, row.queue_lo, row.project_hi, row.project_lo)
            kind = self._type_of(row.type, row.type_size)
            q = <QueueState>PyList_GET_ITEM(self.queues, queue)
            if ordered == PENDING:
                self._read_on(
                    self._lane_of(q, kind), row.priority, row.job.id_hi, row.job.id_lo)
            elif ordered == SCHEDULED:
                self.due_place_us = row.job.due_us
                self.due_place_id = id_bytes(row.job.id_hi, row.job.id_lo)
            if self.slots.find(row.job.id_hi, row.job.id_lo) == NONE:
                if row.job.lsn <= counted_lsn:
                    if row.job.state == PENDING:
                        q.away_pending -= 1
                    else:
                        q.away_scheduled -= 1
                self._load_row(&row, queue, kind)
            count += 1
            start = end
        return count

    cdef int _own_shard(self, const JobRow *row) except -1:
        if shard_of_hi(row.job.id_hi) != self.shard:
            raise ValueError(f"a job of another shard than {self.shard}")
        return 0

    cdef int _read_on(self, Lane lane, int priority, uint64_t hi, uint64_t lo) except -1:
        """The reading of the lane has come to this row."""
        if lane.read < 0 and lane.frontier == NO_FRONTIER:
            lane.place_priority, lane.place_hi, lane.place_lo = 9, 0, 0
        lane.read = max(lane.read, 0)
        if priority > lane.place_priority or (priority == lane.place_priority and not (
                hi > lane.place_hi or (hi == lane.place_hi and lo > lane.place_lo))):
            raise ValueError("rows out of order")
        lane.frontier = ready_key(priority, hi, lo)
        lane.place_priority, lane.place_hi, lane.place_lo = priority, hi, lo
        lane.read += 1
        return 0

    def due_place(self):
        """(due time, id) behind which scheduled jobs are away; None: none is."""
        if self.due_place_us == I64_MAX:
            return None
        return self.due_place_us, self.due_place_id

    def due_read(self, int64_t until_us, bytes job_id):
        """Scheduled jobs due before that time, or at it with an id up to this one, are here."""
        check_id("job_id", job_id)
        check("until_us", until_us, 0, I64_MAX)
        self.due_place_us, self.due_place_id = until_us, job_id

    def count_away(self, bytes queue_id, bytes project_id, int64_t pending, int64_t scheduled):
        """So many of the queue's jobs were away before any was read."""
        cdef QueueState q
        check_id("queue_id", queue_id)
        check_id("project_id", project_id)
        q = self.queues[self._queue_of(
            tf_rd64(at(queue_id)), tf_rd64(at(queue_id) + 8), tf_rd64(at(project_id)),
            tf_rd64(at(project_id) + 8))]
        q.away_pending += pending
        q.away_scheduled += scheduled

    def short(self, Py_ssize_t ahead):
        """(queue, its id, type) of lanes of which jobs are away and fewer than `ahead` could start."""
        cdef QueueState q
        cdef Lane lane
        cdef int index
        cdef list found = []
        for index in range(len(self.queues)):
            q = self.queues[index]
            for lane in q.lanes:
                if lane.frontier != NO_FRONTIER and (
                        q.moving or lane.heap.count_until(lane.frontier, ahead) < ahead):
                    found.append((index, id_bytes(q.id_hi, q.id_lo), lane.name))
        return found

    @property
    def away_jobs(self):
        """How many open jobs are away, by what was counted."""
        cdef QueueState q
        cdef int64_t count = 0
        for q in self.queues:
            count += q.away_pending + q.away_scheduled
        return count

    def crowded(self, Py_ssize_t most):
        """(queue, type, jobs that wait here) of lanes with more than `most`."""
        cdef QueueState q
        cdef Lane lane
        cdef int index
        cdef list found = []
        for index in range(len(self.queues)):
            q = self.queues[index]
            if q.pending > most and not q.moving:
                for lane in q.lanes:
                    if lane.heap.size > most:
                        found.append((index, lane.name, lane.heap.size))
        return found

    def due_at(self, Py_ssize_t rank):
        """When the scheduled job of this rank in memory is due, the earliest has 0; 0: none is."""
        if not 0 <= rank < self.due_heap.size:
            return 0
        return self.due_heap.key_at_rank(<uint32_t>rank)
