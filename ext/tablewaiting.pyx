"""What waits in the queues of a shard, and what of it may start now.

Limits learn how late it is by being asked. What they are, groups.pyx says.
"""
from cpython.list cimport PyList_GET_ITEM
from libc.stdint cimport uint64_t
from libc.string cimport memcmp

from taskforge_server.ext.buf cimport tf_rd64
from taskforge_server.ext.groups cimport Groups, Kind, Limits, Rate, full_ns, limits_of, token_ns
from taskforge_server.ext.slots cimport (
    CHUNK_BITS, F_ROW, FREE, NONE, PENDING, PROCESSING, SUCCEEDED, Job, job_at,
)
from taskforge_server.ext.tableparts cimport (
    HISTORY_ALL, HISTORY_NONE, I32_MAX, NEVER, Lane, at, check, check_id, id_bytes,
)

cdef enum:
    HOLDERS_SHOWN = 10           # running jobs that are named as what a limit is used up by


cdef dict blocking(str limit, most, running, list holders, int64_t at_ns):
    return {"limit": limit, "max": most, "running": running, "holders": holders,
            "refill_us": (at_ns + 999) // 1000}


cdef class Waiting(Fold):
    """Queues, their limits, and questions about them."""

    def queue(self, bytes queue_id, bytes project_id, str name not None, timeout_ms, history,
              soft_timeout_ms=0, limits=None, int64_t born_us=0, int64_t looks_max=I32_MAX):
        """Define or update a queue; its index stays. What `limits` are, groups.pyx says. No job of it
        was started before `born_us`; 0: nobody knows. With `looks_max` what `regroup` does begins."""
        cdef QueueState q
        cdef int index
        cdef Py_ssize_t known = len(self.queues)
        check_id("queue_id", queue_id)
        check_id("project_id", project_id)
        check("timeout_ms", timeout_ms, 0, I32_MAX)
        check("history", history, HISTORY_NONE, HISTORY_ALL)
        check("soft_timeout_ms", soft_timeout_ms, 0, I32_MAX)
        index = self._queue_of(tf_rd64(at(queue_id)), tf_rd64(at(queue_id) + 8), 0, 0)
        q = self.queues[index]
        q.project_hi, q.project_lo = tf_rd64(at(project_id)), tf_rd64(at(project_id) + 8)
        q.born_us = born_us
        self._limit(q, limits)
        self.regroup(index, looks_max)
        if index < known and history < q.history:
            self._rows_may_stand(index)
        q.name, q.timeout_ms, q.history = name.encode(), timeout_ms, history
        q.soft_timeout_ms = soft_timeout_ms
        return index

    cdef int _rows_may_stand(self, int queue) except -1:
        """Attempts of these jobs may be in the tables before their job is: one that is not kept in
        the end has to be deleted with them."""
        cdef uint32_t slot
        cdef Job *job
        for slot in range(self.slots.chunks_used << CHUNK_BITS):
            job = job_at(self.slots, slot)
            if job.state != FREE and job.queue == queue:
                job.flags |= F_ROW
        return 0

    cdef int _limit(self, QueueState q, object given) except -1:
        """Other limits hold from now on; what runs goes on."""
        cdef Limits limits
        cdef bint keys_matter
        limits_of(given, &limits)
        if not memcmp(&limits, &q.limits, sizeof(Limits)):
            return 0
        keys_matter = limits.fair or limits.key_running_max or limits.key_rate.interval_ns
        if keys_matter and q.groups is None:
            q.groups = Groups(self.positions)
            q.groups.tune(&limits)
            q.groups.look(q.clock_ns, q.floor_ns)
        elif q.groups is not None:
            q.groups.tune(&limits)
        if keys_matter != q.grouped:
            q.grouped, q.moving, q.walked = keys_matter, True, 0
        if not limits.rate.interval_ns:
            q.tat_ns = 0
        q.limits = limits
        q.limited = keys_matter or limits.running_max or limits.rate.interval_ns
        q.stale = True
        return 0

    def regroup(self, queue, int64_t looks_max):
        """After keys have begun or ceased to matter the jobs of the queue that wait or run change
        their lanes: those that stand in the next `looks_max` places. Whether all have; until then
        none of the queue starts. Who comes meanwhile is where he shall be."""
        cdef QueueState q = self._queue_at(queue)
        cdef uint32_t end = max(<uint32_t>1, self.slots.chunks_used) << CHUNK_BITS
        cdef uint32_t last = <uint32_t>min(<int64_t>end, q.walked + looks_max), slot
        cdef int index = queue
        cdef Job *job
        if not q.moving:
            return True
        for slot in range(q.walked, min(last, self.slots.chunks_used << CHUNK_BITS)):
            job = job_at(self.slots, slot)
            if job.queue == index and (job.state == PENDING or job.state == PROCESSING):
                self._move(q, slot, job)
        q.walked = last
        if last < end:
            return False
        q.moving = False
        if not q.grouped:
            q.groups = None
        return True

    cdef int _move(self, QueueState q, uint32_t slot, Job *job) except -1:
        """To where it waits or runs from now on, if it is not there."""
        if q.grouped == (job.group != 0):
            return 0
        if q.grouped:
            if job.state == PENDING:
                (<Lane>PyList_GET_ITEM(q.by_type, job.type)).heap.remove(slot)
            job.group = q.groups.join(job.options)
            if job.state == PENDING:
                q.groups.wait(job.group, slot, job.key, job.type, self.type_texts[job.type])
            else:
                q.groups.begin(job.group)
            return 0
        if job.state == PENDING:
            q.groups.unwait(job.group, slot, job.type)
            self._lane_of(q, job.type).heap.push(job.key, slot)
        else:
            q.groups.end(job.group)
        q.groups.part(job.group)
        job.group = 0
        return 0

    cdef int64_t _allowed(self, QueueState q, int64_t now_us) except -1:
        """How many jobs the limits of the queue itself let start now; its groups look too."""
        cdef Rate rate = q.limits.rate
        cdef int64_t most = I32_MAX
        q.clock_ns = max(q.clock_ns, now_us * 1000)
        # Of a queue that is younger than our history nothing is unknown.
        q.floor_ns = 0 if q.born_us > self.floor_us else self.floor_us * 1000
        if q.stale:
            q.tat_ns = min(q.tat_ns, q.clock_ns + rate.room_ns)
            q.stale = False
        if q.groups is not None:
            q.groups.look(q.clock_ns, q.floor_ns)
        if q.limits.running_max:
            most = max(0, <int64_t>q.limits.running_max - q.processing)
        if rate.interval_ns:
            most = min(most, max(0, q.clock_ns + rate.room_ns - max(
                q.clock_ns, full_ns(q.tat_ns, q.floor_ns, rate))) // rate.interval_ns)
        return most

    def due(self, int64_t now_us, Py_ssize_t most):
        """Up to `most` scheduled jobs whose time has come go to their lanes, the earliest first; how
        many did, and the queues touched, ascending."""
        cdef uint64_t key
        cdef uint32_t slot
        cdef Py_ssize_t moved = 0
        cdef Job *job
        touched = set()
        while moved < most and self.due_heap.peek_into(&key, &slot) and key <= <uint64_t>now_us:
            job = job_at(self.slots, slot)
            self._enter(slot, job, PENDING)
            touched.add(job.queue)
            moved += 1
        return moved, sorted(touched)

    def next_due_us(self):
        """When the next scheduled job is due; 0: none is scheduled for a time."""
        if not self.due_heap.size or self.due_heap.keys[0] >= <uint64_t>NEVER:
            return 0
        return self.due_heap.keys[0]

    def ready(self, queue, types):
        """How many jobs of the queue wait for a worker that takes these types, limits apart."""
        cdef QueueState q = self._queue_at(queue)
        cdef Lane lane
        cdef Kind kind
        cdef Py_ssize_t n = 0
        if q.groups is not None:
            for kind in q.groups.kinds:
                if types is None or kind.name in types:
                    n += kind.waiting
        for lane in q.lanes:
            if lane.heap.size and (types is None or lane.name in types):
                n += lane.heap.size
        return n

    def rests(self, queue):
        """Whether a job that is next in its lane can start only in the batch after this one."""
        cdef QueueState q = self._queue_at(queue)
        cdef Lane lane
        cdef Kind kind
        cdef uint32_t slot
        if q.moving:
            return False
        if q.groups is not None:
            for kind in q.groups.kinds:
                if q.groups.next_of(kind, &slot) and (
                        job_at(self.slots, slot).lease_lsn == self.gathering_lsn):
                    return True
            return False
        for lane in q.lanes:
            if lane.heap.size and (
                    job_at(self.slots, lane.heap.items[0]).lease_lsn == self.gathering_lsn):
                return True
        return False

    def counts(self, queue):
        """(pending, scheduled, processing) of a queue, with those that are away."""
        cdef QueueState q = self._queue_at(queue)
        return (max(0, q.pending + q.away_pending), max(0, q.scheduled + q.away_scheduled),
                q.processing)

    @property
    def rousing(self):
        """Whether `take_roused` has something to say."""
        return len(self.roused) > 0

    def take_roused(self):
        """The queues in which a limit held jobs back until one ended, since the last call."""
        cdef QueueState q
        taken, self.roused = self.roused, []
        for index in taken:
            q = self.queues[index]
            q.roused = False
        return taken

    def startable(self, queue, int64_t now_us):
        """How many jobs of the queue wait, and no limit keeps them from starting now; where keys
        matter it may be too many, but 0 is exact."""
        cdef QueueState q = self._queue_at(queue)
        cdef int64_t most
        if q.limited:
            most = self._allowed(q, now_us)
        if q.moving:
            return 0
        if not q.limited:
            return q.pending
        return min(most, q.pending if q.groups is None else q.groups.eligible)

    def next_token_us(self, queue, int64_t now_us):
        """When a bucket has its next token that some job waits for; 0: none waits for that."""
        cdef QueueState q = self._queue_at(queue)
        cdef int64_t at_ns = 0
        if not q.limited or not q.pending or q.moving:
            return 0
        self._allowed(q, now_us)
        if q.limits.rate.interval_ns:
            at_ns = token_ns(q.tat_ns, q.floor_ns, q.limits.rate)
        if at_ns <= q.clock_ns:
            at_ns = 0 if q.groups is None else q.groups.refill_ns()
        return (at_ns + 999) // 1000

    def blocked(self, queue, int64_t now_us, bytes job_id=None):
        """The limits that keep jobs of the queue from starting now, or the given one: what they
        allow, how many run, the ids of those (not all, if many), and when a bucket has a token."""
        cdef QueueState q = self._queue_at(queue)
        cdef uint32_t slot = NONE if job_id is None else self._find(job_id)
        cdef Job *job = NULL if slot == NONE else job_at(self.slots, slot)
        cdef uint32_t group = 0
        cdef int64_t at_ns
        cdef list found = []
        if not q.limited or q.moving:
            return found
        if job != NULL and job.queue == queue and job.state == PENDING:
            group = job.group
        self._allowed(q, now_us)
        if q.limits.running_max and q.processing >= q.limits.running_max:
            found.append(blocking(
                "max_concurrency", q.limits.running_max, q.processing, self._holders(queue, 0), 0))
        if q.limits.rate.interval_ns:
            at_ns = token_ns(q.tat_ns, q.floor_ns, q.limits.rate)
            if at_ns > q.clock_ns:
                found.append(blocking("rate", 0, q.processing, [], at_ns))
        if group and q.groups.full(group):
            found.append(blocking(
                "max_concurrency_per_key", q.limits.key_running_max, q.groups.running(group),
                self._holders(queue, group), 0))
        if group and q.groups.token_of(group) > q.clock_ns:
            found.append(blocking(
                "rate_per_key", 0, q.groups.running(group), [], q.groups.token_of(group)))
        return found

    cdef list _holders(self, int queue, uint32_t group):
        """Some of the jobs that run, by id: of the queue, or of one group of it."""
        cdef uint32_t position
        cdef Job *job
        cdef list ids = []
        for position in range(self.run_heap.size):
            job = job_at(self.slots, self.run_heap.items[position])
            if job.queue == queue and (not group or job.group == group):
                ids.append(id_bytes(job.id_hi, job.id_lo))
        return sorted(ids)[:HOLDERS_SHOWN]
