"""One shard in memory: its live jobs, the events that wait for the log, and what the tables miss.

    decisions ──event──► gathering batch ──take_batch──► log ──committed──► collect ──► Projection
        │                                                                                  │
        └──────────► slots, lanes, finished attempts ◄──────────────projected──────────────┘

                submitted            started               succeeded, failed
    (nothing) ─────────────► pending ───────► processing ────────────────────► succeeded, failed
        │ submitted,         ▲  ▲ │              │   │ retried
        │ due later      due │  │ └─ cancelled   │   │         released,
        └──────────────► scheduled ◄─────────────────┘         returned: processing ──► pending
                             └──── cancelled ────► cancelled   requeued: failed, cancelled ──► pending
                                stopped: processing ──► cancelled

`changed` tells an open job something new; by it a waiting one may become scheduled or pending. A job
that is due at NEVER_US is held: it waits without a time until it is changed.

A job is dirty from its first event that no projection took, and freed when its final state is in the
tables. The watermark says up to which lsn the tables know all; it never passes a dirty job.
Invariant: an open job stands in exactly one heap: pending in the lane of its queue and type,
scheduled in the due heap, processing in the run heap. A live decision and a replayed log row move a
job through the same functions, so that fold(log) equals the live state.

`pure/table.py` is the same in plain Python; tests/unit/ext/test_table_machine.py drives both.
"""
import zlib
from collections import deque

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int16_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy

from taskforge_server.ext.attempts cimport (
    RUN_FAILED, RUN_RETRYING, RUN_STARTED, RUN_SUCCEEDED,
)
from taskforge_server.ext.buf cimport (
    buf_free, buf_init, buf_need, mp_array, mp_bin, mp_bin_head, mp_int, mp_map, mp_nil, mp_str,
    mp_uint, put_raw, tf_be32, tf_be64, tf_rd16, tf_rd32, tf_rd64, w8, w64, wmem,
)
from taskforge_server.ext.groups cimport (
    Groups, Kind, Limits, Rate, full_ns, group_key, limits_of, token_ns,
)
from taskforge_server.ext.heap cimport select_rank
from taskforge_server.ext.ids cimport execution_id_into, shard_of_hi, splitmix64
from taskforge_server.ext.rows cimport (
    options_of_row, put_attempt_row, put_job_row, read_job_row, row_end,
)
from taskforge_server.ext.scan cimport (
    scan_array, scan_bin, scan_bin_or_nil, scan_int, scan_range, scan_skip, scan_str,
)
from taskforge_server.ext.slots cimport (
    CANCELLED, CHUNK_BITS, F_DIRTY, F_KEEP, F_LOADED, F_MORE, F_ROW, F_ROW_DUE, F_RUN_ROW, F_WATCHED,
    FAILED, FREE, NONE,
    PENDING, PROCESSING, SCHEDULED, SUCCEEDED, Blob, __builtin_prefetch, blob_bytes, blob_new, job_at,
    soon,
)
from taskforge_server.ext.told cimport Told, told_read

cdef enum:
    SUBMITTED_EVENT = 1
    STARTED_EVENT = 2
    SUCCEEDED_EVENT = 3
    RETRIED_EVENT = 4
    FAILED_EVENT = 5
    RELEASED_EVENT = 6
    CANCELLED_EVENT = 7
    REQUEUED_EVENT = 8
    KEYED_EVENT = 9
    OWNED_EVENT = 10
    RETURNED_EVENT = 11
    CHANGED_EVENT = 12
    STOPPED_EVENT = 13

cdef enum:
    HISTORY_NONE = 0
    HISTORY_FAILED = 1
    HISTORY_ALL = 2

cdef enum:
    BODY_VERSION = 1
    BODY_HEAD_BYTES = 5
    TOKEN_BYTES = 24
    JOBS_FRAME = 11
    FRAME_TYPES_MAX = 256
    HELD_ATTEMPTS_MAX = 100
    NAMES_MAX = 65535            # queues, types and reasons of one shard
    RETURNS_MAX = 255            # what a slot can count; beyond, returns look like failures
    RETURNED_FIELDS_DUE = 5      # of `returned` with a due time
    REQUEUED_FIELDS_BEFORE = 13  # of `requeued` in logs that do not know returns
    ANY_WORKER = -1              # whoever runs the job
    AHEAD = 8                    # so many jobs before its turn, one is fetched into the cache
    HOLDERS_SHOWN = 10           # running jobs that are named as what a limit is used up by
    EVENT_BYTES = 160            # the most that an event takes besides its texts

cdef int64_t SLOT_BYTES = sizeof(Job) + 32     # with its position, heap entry and index
cdef uint64_t KEY_EPOCH_MS = 1577836800000     # 2020-01-01T00:00:00Z
cdef int64_t I64_MAX = 0x7fffffffffffffff
cdef int64_t I32_MAX = 0x7fffffff
cdef int64_t I16_MAX = 0x7fff
cdef int64_t DAY_US = 86_400_000_000
cdef int64_t NEVER = <int64_t>1 << 62
NEVER_US = NEVER               # the due time of a job that is held
cdef uint64_t NO_FRONTIER = <uint64_t>0xffffffffffffffff
LAST_ID = b"\xff" * 16
cdef uint64_t NO_DEADLINE = <uint64_t>0xffffffffffffffff

# The one transition table: the states, as bits, in which a job may make each move.
cdef enum:
    MAY_START = (1 << PENDING) | (1 << SCHEDULED)
    MAY_END = 1 << PROCESSING
    MAY_CANCEL = (1 << PENDING) | (1 << SCHEDULED)
    MAY_REQUEUE = (1 << FAILED) | (1 << CANCELLED)
    MAY_CHANGE = (1 << PENDING) | (1 << SCHEDULED) | (1 << PROCESSING)

STATES = ("free", "pending", "scheduled", "processing", "succeeded", "failed", "cancelled")
RUN_STATES = ("", "started", "succeeded", "retrying", "failed")
COPY_SIGNATURE = b"PGCOPY\n\xff\r\n\x00"


class BodyError(ValueError):
    """A log body that is damaged, of an unknown version, or out of its turn."""


class TransitionError(RuntimeError):
    """An illegal move: says the job, the state it is in, and the move that was tried."""

    def __init__(self, job_id: bytes, status: str, move: str) -> None:
        super().__init__(f"job {job_id.hex()} is {status}: it cannot be {move}")


cdef int check(str name, value, int64_t low, int64_t high) except -1:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}: not within {low} and {high}")
    return 0


cdef int check_id(str name, bytes value) except -1:
    if value is None or PyBytes_GET_SIZE(value) != 16:
        raise ValueError(f"{name} is not of 16 bytes")
    return 0


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


cdef inline int history_of(QueueState q, const Job *job) noexcept:
    """What is kept of the attempts of this job: of one whose row stays all, if any."""
    return HISTORY_ALL if job.flags & F_KEEP and q.history != HISTORY_NONE else q.history


cdef list payloads_of(SubmitBatch batch):
    cdef Py_ssize_t i
    return [
        PyBytes_FromStringAndSize(
            <char *>batch.content.data + batch.jobs[i].payload_at, batch.jobs[i].payload_size)
        for i in range(batch.count)
    ]


cdef list checked_payloads(list payloads, Py_ssize_t count):
    if payloads is None or len(payloads) != count:
        raise ValueError(f"{count} payloads are to be stored, not others")
    for payload in payloads:
        if type(payload) is not bytes:
            raise TypeError("a payload is stored as bytes")
        check("bytes of payload", len(payload), 1, I32_MAX)
    return payloads


cdef inline bint stays(const Job *job, int row_due) noexcept:
    """Whether a waiting job must stay in memory; `row_due`: what its row must say of its state."""
    return job.under or (
        job.flags & (F_DIRTY | F_ROW | F_WATCHED | F_MORE | F_ROW_DUE)) != (F_ROW | row_due)


cdef inline bint before(const Job *one, const Job *other) noexcept:
    """Whether it stands before the other in its lane."""
    return one.key < other.key or (one.key == other.key and (
        one.id_hi < other.id_hi or (one.id_hi == other.id_hi and one.id_lo < other.id_lo)))


cdef inline const unsigned char *at(bytes data) noexcept:
    return <const unsigned char *>PyBytes_AS_STRING(data)


# --- jobs past the door ---------------------------------------------------------------------------

cdef class SubmitBatch:
    """Jobs past the door, not yet with ids; it owns copies of its bytes."""

    def __cinit__(self):
        buf_init(&self.content)

    def __dealloc__(self):
        buf_free(&self.content)
        free(self.jobs)

    def add(self, str job_type not None, payload, priority=0, due_us=0, timeout_ms=0,
            max_attempts=0, bytes options=None):
        """One more job. That payload is JSON and options are in order is the caller's duty.

        Raises ValueError for a value out of its range, and then adds nothing.
        """
        cdef Py_buffer view
        cdef Py_ssize_t type_size
        cdef const char *name = PyUnicode_AsUTF8AndSize(job_type, &type_size)
        PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE)
        try:
            check("priority", priority, 0, 9)
            check("due_us", due_us, 0, NEVER)
            check("timeout_ms", timeout_ms, 0, I32_MAX)
            check("max_attempts", max_attempts, 0, I16_MAX)
            self.add_raw(
                name, type_size, view.buf, view.len, priority, due_us, timeout_ms, max_attempts,
                NULL if options is None else PyBytes_AS_STRING(options),
                0 if options is None else PyBytes_GET_SIZE(options),
            )
        finally:
            PyBuffer_Release(&view)

    cdef int add_raw(
        self, const void *type_name, Py_ssize_t type_size, const void *payload,
        Py_ssize_t payload_size, long long priority, int64_t due_us, int64_t timeout_ms,
        int64_t max_attempts, const void *options, Py_ssize_t options_size) except -1:
        cdef NewJob *jobs
        cdef NewJob *job
        cdef NewJob *last
        cdef Py_ssize_t room
        check("bytes of job_type", type_size, 1, 255)
        check("bytes of payload", payload_size, 1, I32_MAX)
        if self.count == self.room:
            room = max(1, self.room * 2)
            jobs = <NewJob *>realloc(self.jobs, room * sizeof(NewJob))
            if jobs == NULL:
                raise MemoryError()
            self.jobs = jobs
            self.room = room
        buf_need(&self.content, type_size + payload_size + options_size)
        job = &self.jobs[self.count]
        job.type_at = self.content.size
        job.type_size = <uint32_t>type_size
        last = job - 1
        if self.count and last.type_size == job.type_size and not memcmp(
                self.content.data + last.type_at, type_name, type_size):
            job.type_at = last.type_at
        else:
            wmem(&self.content, type_name, type_size)
        job.payload_at = self.content.size
        job.payload_size = <uint32_t>payload_size
        wmem(&self.content, payload, payload_size)
        job.options_at = self.content.size
        job.options_size = <uint32_t>options_size
        job.has_options = options != NULL
        if options_size:
            wmem(&self.content, options, options_size)
        job.due_us = due_us
        job.timeout_ms = <uint32_t>timeout_ms
        job.max_attempts = <uint16_t>max_attempts
        job.priority = <uint8_t>priority
        self.count += 1
        self.bytes_total += payload_size + options_size
        return 0


# --- parts ------------------------------------------------------------------------------------------

cdef class Lane:
    """The ready jobs of one type in one queue."""


cdef class QueueState:
    """A queue as its shard sees it."""

    cdef Lane lane(self, uint16_t kind, str name, Positions positions):
        cdef Lane lane
        while len(self.by_type) <= kind:
            self.by_type.append(None)
        lane = self.by_type[kind]
        if lane is None:
            lane = Lane()
            lane.type = kind
            lane.name = name
            lane.heap = Heap(positions)
            lane.frontier, lane.read = NO_FRONTIER, -1
            self.by_type[kind] = lane
            self.lanes.append(lane)
        return lane


cdef class Names:
    """The queues, types or workers that the gathering body names, in order of first use."""

    def __dealloc__(self):
        free(self.local_of)
        free(self.used)

    cdef int32_t index(self, uint32_t value) except -1:
        cdef uint32_t room, i
        cdef int32_t *local_of
        cdef uint32_t *used
        if value >= self.room:
            room = max(64, (value + 1) * 2)
            local_of = <int32_t *>realloc(self.local_of, room * sizeof(int32_t))
            if local_of == NULL:
                raise MemoryError()
            for i in range(self.room, room):
                local_of[i] = -1
            self.local_of = local_of
            self.room = room
        if self.local_of[value] < 0:
            if self.count == self.used_room:
                room = max(16, self.used_room * 2)
                used = <uint32_t *>realloc(self.used, room * sizeof(uint32_t))
                if used == NULL:
                    raise MemoryError()
                self.used = used
                self.used_room = room
            self.used[self.count] = value
            self.local_of[value] = self.count
            self.count += 1
        return self.local_of[value]

    cdef void reset(self) noexcept:
        cdef uint32_t i
        for i in range(self.count):
            self.local_of[self.used[i]] = -1
        self.count = 0


cdef class Projection:
    """What the tables do not have yet, as rows of binary COPY without header and trailer."""

    def __cinit__(self):
        self.attempts = Attempts()
        self.keys = []
        self.usage = []
        self.edges = []

    def __dealloc__(self):
        free(self.slots)
        free(self.lsns)

    @property
    def rows(self):
        jobs = self.jobs_copy_rows + self.jobs_merge_rows
        return jobs + self.executions_copy_rows + self.executions_merge_rows


# --- the table --------------------------------------------------------------------------------------

cdef class ShardTable:
    """The live jobs of one shard; see the module's text. Not for several threads."""

    def __cinit__(self, int shard, seed):
        self.shard = shard
        self.gathering_lsn = 1
        self.slots = Slots()
        self.positions = Positions()
        self.due_heap = Heap(self.positions)
        self.run_heap = Heap(self.positions)
        self.ids = IdSource(shard, seed)
        self.nonce_state = <uint64_t>((seed ^ 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF)
        self.queues, self.queue_index = [], {}
        self.type_names, self.type_texts, self.type_index = [], [], {}
        self.workers, self.worker_index = [], {}
        self.reasons, self.reason_index = [None], {}
        self.body_queues, self.body_types, self.body_workers = Names(), Names(), Names()
        self.over = Attempts()
        self.held, self.keys, self.under_way = {}, [], deque()
        self.marked = {}
        self.submitted, self.roused, self.leaving = [], [], []
        self.due_place_us, self.due_place_id = I64_MAX, LAST_ID
        self.last_type = -1
        buf_init(&self.events)

    def __dealloc__(self):
        buf_free(&self.events)

    @property
    def jobs_resident(self):
        return self.slots.used

    @property
    def bytes_resident(self):
        """Bytes of the jobs in memory: slots, index, heap entries, payloads, options, outputs; and
        of their groups."""
        cdef QueueState q
        cdef int64_t groups = 0
        for q in self.queues:
            if q.groups is not None:
                groups += q.groups.bytes_used()
        return self.slots.used * SLOT_BYTES + self.slots.blob_bytes_used + groups

    @property
    def unprojected(self):
        return self.slots.dirty + self.away

    def adopt(self, int64_t head_lsn):
        """The log's head is ours: all up to it is durable, the next batch goes above it."""
        if self.gathered_events or head_lsn < self.gathering_lsn - 1:
            raise ValueError(f"cannot adopt {head_lsn} at {self.gathering_lsn}")
        self.committed_lsn = head_lsn
        self.gathering_lsn = head_lsn + 1

    # --- configuration ------------------------------------------------------------------------------

    cdef int _queue_of(
        self, uint64_t hi, uint64_t lo, uint64_t project_hi, uint64_t project_lo) except -1:
        """The index of a queue; an unknown one is registered with defaults."""
        cdef QueueState q
        cdef bytes queue_id = id_bytes(hi, lo)
        index = self.queue_index.get(queue_id)
        if index is not None:
            return index
        check("number of queues", len(self.queues), 0, NAMES_MAX - 1)
        q = QueueState()
        q.id_hi, q.id_lo, q.project_hi, q.project_lo = hi, lo, project_hi, project_lo
        q.name, q.history, q.lanes, q.by_type = b"", HISTORY_ALL, [], []
        self.queues.append(q)
        self.queue_index[queue_id] = len(self.queues) - 1
        return len(self.queues) - 1

    cdef QueueState _queue_at(self, object index):
        check("queue index", index, 0, len(self.queues) - 1)
        return self.queues[index]

    def queue(self, bytes queue_id, bytes project_id, str name not None, timeout_ms, history,
              soft_timeout_ms=0, limits=None):
        """Define or update a queue; its index stays. What `limits` are, groups.pyx says."""
        cdef QueueState q
        cdef int index
        check_id("queue_id", queue_id)
        check_id("project_id", project_id)
        check("timeout_ms", timeout_ms, 0, I32_MAX)
        check("history", history, HISTORY_NONE, HISTORY_ALL)
        check("soft_timeout_ms", soft_timeout_ms, 0, I32_MAX)
        index = self._queue_of(tf_rd64(at(queue_id)), tf_rd64(at(queue_id) + 8), 0, 0)
        q = self.queues[index]
        q.project_hi, q.project_lo = tf_rd64(at(project_id)), tf_rd64(at(project_id) + 8)
        self._limit(index, q, limits)
        q.name, q.timeout_ms, q.history = name.encode(), timeout_ms, history
        q.soft_timeout_ms = soft_timeout_ms
        return index

    def worker(self, bytes worker_id):
        """The index of a worker, registered if it is new."""
        check_id("worker_id", worker_id)
        index = self.worker_index.get(worker_id)
        if index is None:
            index = self.worker_index[worker_id] = len(self.workers)
            self.workers.append(worker_id)
        return index

    cdef int _check_worker(self, object worker) except -1:
        return check("worker index", worker, 0, len(self.workers) - 1)

    cdef object _worker_id(self, uint32_t worker):
        return None if worker == NONE else self.workers[worker]

    cdef int _type_of(self, const void *name, Py_ssize_t size) except -1:
        cdef bytes key
        if self.last_type >= 0 and PyBytes_GET_SIZE(self.last_type_name) == size and not memcmp(
                PyBytes_AS_STRING(self.last_type_name), name, size):
            return self.last_type
        key = PyBytes_FromStringAndSize(<const char *>name, size)
        index = self.type_index.get(key)
        if index is None:
            check("number of job types", len(self.type_names), 0, NAMES_MAX - 1)
            text = key.decode()
            index = self.type_index[key] = len(self.type_names)
            self.type_names.append(key)
            self.type_texts.append(text)
        self.last_type = index
        self.last_type_name = key
        return index

    cdef int _reason_of(self, str reason) except -1:
        if reason is None:
            raise ValueError("no reason is given")
        index = self.reason_index.get(reason)
        if index is None:
            check("number of reasons", len(self.reasons), 0, NAMES_MAX - 1)
            index = self.reason_index[reason] = len(self.reasons)
            self.reasons.append(reason)
        return index

    # --- limits ---------------------------------------------------------------------------------

    cdef int _limit(self, int index, QueueState q, object given) except -1:
        """Other limits hold from now on; what runs goes on."""
        cdef Limits limits
        cdef bint keys_matter
        limits_of(given, &limits)
        if not memcmp(&limits, &q.limits, sizeof(Limits)):
            return 0
        keys_matter = limits.fair or limits.key_running_max or limits.key_rate.interval_ns
        if q.groups is not None and not keys_matter:
            self._regroup(index, q, None)
        if keys_matter and q.groups is None:
            groups = Groups(self.positions)
            (<Groups>groups).tune(&limits)
            (<Groups>groups).look(q.clock_ns, q.floor_ns)
            self._regroup(index, q, groups)
        elif keys_matter:
            q.groups.tune(&limits)
        if not limits.rate.interval_ns:
            q.tat_ns = 0
        q.limits = limits
        q.limited = keys_matter or limits.running_max or limits.rate.interval_ns
        q.stale = True
        return 0

    cdef int _regroup(self, int index, QueueState q, Groups groups) except -1:
        """Take all jobs of the queue that wait or run into other lanes."""
        cdef uint32_t slot
        cdef Job *job
        cdef list found = []
        q.limited = False     # no job ends here, whatever it may look like
        for slot in range(self.slots.chunks_used << CHUNK_BITS):
            job = job_at(self.slots, slot)
            if job.queue == index and (job.state == PENDING or job.state == PROCESSING):
                found.append((slot, job.state))
                self._leave(slot, job)
                job.state = SUCCEEDED     # in no heap, for this moment
        q.groups = groups
        for slot, state in found:
            self._enter(slot, job_at(self.slots, slot), state)
        return 0

    cdef int64_t _allowed(self, QueueState q, int64_t now_us) except -1:
        """How many jobs the limits of the queue itself let start now; its groups look too."""
        cdef Rate rate = q.limits.rate
        cdef int64_t most = I32_MAX
        q.clock_ns = max(q.clock_ns, now_us * 1000)
        q.floor_ns = self.floor_us * 1000
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

    cdef int _rouse(self, int index, QueueState q) except -1:
        """The end of a job lets another one of this queue start."""
        if not q.roused:
            q.roused = True
            self.roused.append(index)
        return 0

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
        if not q.limited:
            return q.pending
        most = self._allowed(q, now_us)
        return min(most, q.pending if q.groups is None else q.groups.eligible)

    def next_token_us(self, queue, int64_t now_us):
        """When a bucket has its next token that some job waits for; 0: none waits for that."""
        cdef QueueState q = self._queue_at(queue)
        cdef int64_t at_ns = 0
        if not q.limited or not q.pending:
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
        if not q.limited:
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

    # --- the gathering batch ------------------------------------------------------------------------

    cdef int _gather(self, int64_t now_us) except -1:
        """Room for one more event, whose texts the caller makes room for."""
        buf_need(&self.events, EVENT_BYTES)
        if not self.gathered_events:
            self.base_us = now_us
        self.gathered_events += 1
        return 0

    cdef void _head(self, int fields, int kind, const Job *job) noexcept:
        """Array header, kind and job id of an event."""
        cdef Buf *b = &self.events
        mp_array(b, fields)
        w8(b, <uint8_t>kind)
        mp_bin_head(b, 16)
        w64(b, job.id_hi)
        w64(b, job.id_lo)

    def owned(self, str node not None, epoch, int64_t now_us):
        """The first event of an ownership."""
        cdef bytes name = node.encode()
        self._gather(now_us)
        mp_array(&self.events, 4)
        w8(&self.events, OWNED_EVENT)
        mp_str(&self.events, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        buf_need(&self.events, EVENT_BYTES)
        mp_uint(&self.events, epoch)
        mp_int(&self.events, now_us - self.base_us)
        self.floor_us = max(self.floor_us, now_us)

    def keyed(self, bytes project_id, str key not None, bytes body_hash not None,
              bytes ids not None, int64_t now_us):
        """The request with this idempotency key made these jobs."""
        cdef bytes text = key.encode()
        check_id("project_id", project_id)
        if PyBytes_GET_SIZE(ids) % 16:
            raise ValueError(f"{PyBytes_GET_SIZE(ids)} bytes are no row of ids")
        self._gather(now_us)
        mp_array(&self.events, 6)
        w8(&self.events, KEYED_EVENT)
        mp_bin(&self.events, PyBytes_AS_STRING(project_id), 16)
        mp_str(&self.events, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
        mp_bin(&self.events, PyBytes_AS_STRING(body_hash), PyBytes_GET_SIZE(body_hash))
        buf_need(&self.events, EVENT_BYTES)
        mp_int(&self.events, now_us - self.base_us)
        mp_bin(&self.events, PyBytes_AS_STRING(ids), PyBytes_GET_SIZE(ids))
        self.keys.append((self.gathering_lsn, (project_id, key, body_hash, ids, now_us)))

    def take_batch(self):
        """(lsn, number of events, body) of what gathered, or None; the next lsn gathers from now."""
        cdef Buf head
        cdef Buf *b = &head
        cdef uint32_t i
        cdef bytes body, name
        cdef unsigned char *raw
        cdef QueueState q
        cdef Py_ssize_t size, count = self.gathered_events
        if not count:
            return None
        buf_init(b)
        try:
            buf_need(b, 64 + 18 * (self.body_queues.count + self.body_workers.count))
            mp_array(b, 6)
            mp_bin_head(b, 8)
            w64(b, splitmix64(&self.nonce_state))
            mp_int(b, self.base_us)
            mp_array(b, self.body_queues.count)
            for i in range(self.body_queues.count):
                q = self.queues[self.body_queues.used[i]]
                mp_bin_head(b, 16)
                w64(b, q.id_hi)
                w64(b, q.id_lo)
            mp_array(b, self.body_types.count)
            for i in range(self.body_types.count):
                name = self.type_names[self.body_types.used[i]]
                mp_str(b, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
            buf_need(b, 32 + 18 * self.body_workers.count)
            mp_array(b, self.body_workers.count)
            for i in range(self.body_workers.count):
                name = self.workers[self.body_workers.used[i]]
                mp_bin(b, PyBytes_AS_STRING(name), 16)
            buf_need(b, 16)
            mp_uint(b, count)
            size = BODY_HEAD_BYTES + b.size + self.events.size
            body = PyBytes_FromStringAndSize(NULL, size)
            raw = <unsigned char *>PyBytes_AS_STRING(body)
            memcpy(raw + BODY_HEAD_BYTES, b.data, b.size)
            memcpy(raw + BODY_HEAD_BYTES + b.size, self.events.data, self.events.size)
            raw[0] = BODY_VERSION
            tf_be32(raw + 1, zlib.crc32(memoryview(body)[BODY_HEAD_BYTES:]))
        finally:
            buf_free(b)
        lsn = self.gathering_lsn
        if self.events.room > 4 * self.events.size + 65536:
            buf_free(&self.events)     # after a burst
        self.events.size = 0
        self.gathered_events = 0
        self.body_queues.reset()
        self.body_types.reset()
        self.body_workers.reset()
        self.gathering_lsn += 1
        return lsn, count, body

    def committed(self, int64_t lsn):
        """All up to this lsn is durable."""
        if lsn >= self.gathering_lsn:
            raise ValueError(f"lsn {lsn} was not taken yet")
        self.committed_lsn = max(self.committed_lsn, lsn)

    # --- one job's moves, live and replayed ---------------------------------------------------------

    cdef int _check_move(self, const Job *job, int allowed, str move) except -1:
        if not (1 << job.state) & allowed:
            raise TransitionError(id_bytes(job.id_hi, job.id_lo), STATES[job.state], move)
        return 0

    cdef int _leave(self, uint32_t slot, Job *job) except -1:
        """Out of the heap of its state."""
        cdef QueueState q = <QueueState>PyList_GET_ITEM(self.queues, job.queue)
        if job.state == PENDING:
            if q.groups is not None:
                q.groups.unwait(job.group, slot, job.type)
            else:
                (<Lane>PyList_GET_ITEM(q.by_type, job.type)).heap.remove(slot)
            q.pending -= 1
        elif job.state == SCHEDULED:
            self.due_heap.remove(slot)
            q.scheduled -= 1
        elif job.state == PROCESSING:
            self.run_heap.remove(slot)
            if q.limited:
                if q.limits.running_max and q.processing >= q.limits.running_max and q.pending:
                    self._rouse(job.queue, q)
                if q.groups is not None and q.groups.end(job.group):
                    self._rouse(job.queue, q)
            q.processing -= 1
        if job.group:
            q.groups.part(job.group)
            job.group = 0
        return 0

    cdef int _enter(self, uint32_t slot, Job *job, int state) except -1:
        """Into a state and its heap, out of the one before."""
        cdef QueueState q = <QueueState>PyList_GET_ITEM(self.queues, job.queue)
        cdef uint32_t group = 0
        if state == PROCESSING and job.state == PROCESSING:
            self.run_heap.remove(slot)
            self.run_heap.push(<uint64_t>job.deadline_us if job.deadline_us else NO_DEADLINE, slot)
            return 0
        if q.groups is not None and (state == PENDING or state == PROCESSING):
            group = job.group
            if group:
                q.groups.again(group)
            else:
                group = q.groups.join(job.options)
        self._leave(slot, job)
        job.state = <uint8_t>state
        job.group = group
        if state == PENDING:
            if group:
                q.groups.wait(group, slot, job.key, job.type, self.type_texts[job.type])
                q.pending += 1
                return 0
            self._lane_of(q, job.type).heap.push(job.key, slot)
            q.pending += 1
        elif state == SCHEDULED:
            self.due_heap.push(<uint64_t>job.due_us, slot)
            q.scheduled += 1
        elif state == PROCESSING:
            self.run_heap.push(<uint64_t>job.deadline_us if job.deadline_us else NO_DEADLINE, slot)
            if group:
                q.groups.begin(group)
            q.processing += 1
        return 0

    cdef int _touch(
        self, uint32_t slot, Job *job, int64_t lsn, int64_t at_us, bint replayed) except -1:
        """An event changed the job."""
        job.lsn = lsn
        job.updated_us = at_us
        job.flags &= <uint8_t>~F_LOADED
        if replayed:
            job.flags |= F_ROW
        if not job.flags & F_DIRTY:
            if job.under:
                self.away -= 1
            self.slots.mark_dirty(slot, lsn, at_us)
        return 0

    cdef uint32_t _new(
        self, uint64_t hi, uint64_t lo, int queue, int kind, int priority) except? 0xffffffff:
        """A slot for a job, in no state yet."""
        cdef uint32_t slot = self.slots.new(hi, lo)
        cdef Job *job = job_at(self.slots, slot)
        job.key = ready_key(priority, hi, lo)
        job.queue = <uint16_t>queue
        job.type = <uint16_t>kind
        job.worker = NONE
        return slot

    cdef int _started(
        self, uint32_t slot, Job *job, uint32_t worker, int attempt, int64_t at_us,
        int64_t deadline_us, int64_t lsn, bint replayed) except -1:
        self._check_move(job, MAY_START, "started")
        job.deadline_us = deadline_us
        self._enter(slot, job, PROCESSING)
        job.attempts = <uint16_t>attempt
        job.started_us = at_us
        job.worker = worker
        job.lease_lsn = lsn
        if replayed:
            self.floor_us = max(self.floor_us, at_us)
            job.flags |= F_RUN_ROW
        else:
            job.flags &= <uint8_t>~F_RUN_ROW
        return self._touch(slot, job, lsn, at_us, replayed)

    cdef int _ended(
        self, uint32_t slot, Job *job, int state, int run_status, int64_t at_us,
        const void *output, Py_ssize_t size, int64_t lsn, bint replayed) except -1:
        """The running attempt is over, and the job goes to `state`."""
        cdef QueueState q = <QueueState>PyList_GET_ITEM(self.queues, job.queue)
        self.slots.set_blob(&job.output, output, size)
        self._attempt_over(slot, job, run_status, at_us, lsn, replayed)
        self._enter(slot, job, state)
        if state >= SUCCEEDED and self.held:
            self._flush_held(slot, lsn, history_of(q, job) == HISTORY_ALL or (
                q.history == HISTORY_FAILED and state != SUCCEEDED))
        return self._touch(slot, job, lsn, at_us, replayed)

    cdef int _back(
        self, uint32_t slot, Job *job, int kind, int64_t due_us, int64_t at_us, const void *error,
        Py_ssize_t size, int64_t lsn, bint replayed) except -1:
        """The running attempt is over without a verdict on the job, which waits again."""
        if kind == RELEASED_EVENT:
            job.crashes += 1
        elif job.returns < RETURNS_MAX:
            job.returns += 1
        if due_us:
            job.due_us = due_us
        return self._ended(
            slot, job, SCHEDULED if due_us else PENDING, RUN_RETRYING, at_us, error, size, lsn, replayed)

    cdef int _running_attempt(self, Job *job, Attempt *run) except -1:
        run.job_hi = job.id_hi
        run.job_lo = job.id_lo
        run.started_us = job.started_us
        run.finished_us = 0
        run.lsn = job.lease_lsn
        run.worker = job.worker
        run.number = job.attempts
        run.status = RUN_STARTED
        run.may_exist = (job.flags & F_RUN_ROW) != 0
        return 0

    cdef int _attempt_over(
        self, uint32_t slot, Job *job, int status, int64_t at_us, int64_t lsn,
        bint replayed) except -1:
        """Put the attempt on the way to the tables, as the queue's history says."""
        cdef QueueState q = <QueueState>PyList_GET_ITEM(self.queues, job.queue)
        cdef Attempts target = self.over
        cdef Attempt *run
        cdef int history = history_of(q, job)
        if history == HISTORY_NONE or (history == HISTORY_FAILED and status == RUN_SUCCEEDED):
            return 0
        if history == HISTORY_FAILED:
            target = self.held.setdefault(slot, Attempts())
        elif self.held:
            self._flush_held(slot, lsn, True)
        run = target.push()
        self._running_attempt(job, run)
        run.status = <uint8_t>status
        run.finished_us = at_us
        run.lsn = lsn
        run.since_lsn = lsn
        run.may_exist |= replayed
        if job.output != NULL:
            run.output = blob_new(job.output.data, job.output.size)
        if history == HISTORY_FAILED and target.end - target.head > HELD_ATTEMPTS_MAX:
            if target.data[target.head].may_exist:
                # A sweep may have written it as it ran: say how it ended.
                target.data[target.head].since_lsn = lsn
                self.over.move(target, 1)
            else:
                target.drop(1)
        return 0

    cdef int _flush_held(self, uint32_t slot, int64_t lsn, bint keep) except -1:
        """Attempts that waited for the job's end go to the tables, or nowhere."""
        cdef Attempts held = self.held.pop(slot, None)
        cdef Py_ssize_t i
        if held is not None and keep:
            for i in range(held.head, held.end):
                held.data[i].since_lsn = lsn
            self.over.move(held, held.end - held.head)
        return 0

    cdef int _cancelled(
        self, uint32_t slot, Job *job, str reason, int64_t at_us, int64_t lsn,
        bint replayed) except -1:
        cdef QueueState q = <QueueState>PyList_GET_ITEM(self.queues, job.queue)
        self._check_move(job, MAY_CANCEL, "cancelled")
        job.reason = <uint16_t>self._reason_of(reason)
        self._enter(slot, job, CANCELLED)
        if self.held:
            self._flush_held(slot, lsn, q.history != HISTORY_NONE)
        return self._touch(slot, job, lsn, at_us, replayed)

    cdef int _tell(self, Job *job, const void *options, Py_ssize_t size) except -1:
        """Give the job its options; NULL or nothing drops them."""
        cdef Told told
        job.flags &= <uint8_t>~(F_MORE | F_KEEP)
        if options == NULL or not size:
            self.slots.drop_blob(&job.options)
            return 0
        told_read(&told, options, size)
        if told.keep:
            job.flags |= F_KEEP
        if told.more != NULL:
            job.flags |= F_MORE
            self.marked[id_bytes(job.id_hi, job.id_lo)] = None
        return self.slots.set_blob(&job.options, options, size)

    cdef int _tell_grouped(self, uint32_t slot, Job *job, const void *options, Py_ssize_t size) except -1:
        """The same for a job in a group, which may become another's."""
        cdef QueueState q = <QueueState>PyList_GET_ITEM(self.queues, job.queue)
        cdef uint8_t state = job.state
        cdef bytes key = group_key(job.options)
        cdef Told told
        told_read(&told, options, size)
        if PyBytes_GET_SIZE(key) == told.group_size and not memcmp(
                PyBytes_AS_STRING(key), told.group, told.group_size):
            return self._tell(job, options, size)
        self._leave(slot, job)
        job.state = SUCCEEDED         # in no heap, for this moment
        self._tell(job, options, size)
        return self._enter(slot, job, state)

    cdef int _check_change(
        self, const Job *job, int64_t due_us, int priority, bint payload,
        int64_t deadline_us) except -1:
        """What is to change must matter to a job in that state."""
        cdef bint waiting = due_us >= 0 or priority >= 0 or payload
        self._check_move(job, MAY_CHANGE, "changed")
        if waiting if job.state == PROCESSING else deadline_us >= 0:
            self._check_move(job, 0, "changed")
        return 0

    cdef int _change(
        self, uint32_t slot, Job *job, int64_t due_us, int priority, const void *payload,
        Py_ssize_t payload_size, const void *options, Py_ssize_t options_size, int64_t deadline_us,
        int64_t at_us, int64_t lsn, bint replayed) except -1:
        """-1 and NULL: as it is."""
        cdef int state = job.state
        self._check_change(job, due_us, priority, payload != NULL, deadline_us)
        if options != NULL and job.group:
            self._tell_grouped(slot, job, options, options_size)
        elif options != NULL:
            self._tell(job, options, options_size)
        if payload != NULL:
            self.slots.set_blob(&job.payload, payload, payload_size)
        if priority >= 0 or due_us >= 0 or deadline_us >= 0:
            if priority >= 0:
                job.key = ready_key(priority, job.id_hi, job.id_lo)
            if deadline_us >= 0:
                job.deadline_us = deadline_us
            if due_us >= 0:
                job.due_us = due_us
                state = SCHEDULED if due_us > at_us else PENDING
            self._enter(slot, job, state)
        return self._touch(slot, job, lsn, at_us, replayed)

    # --- decisions ----------------------------------------------------------------------------------

    def submit(self, queue, SubmitBatch batch not None, int64_t now_us, seal=None):
        """Take the jobs in; their ids, 16 bytes each, in order.

        `seal(ids, payloads)`, if given, says what is stored instead of the payloads. It is asked once,
        before anything changes; what it raises leaves nothing but a gap in the ids.
        """
        cdef QueueState q = self._queue_at(queue)
        cdef int queue_index = queue
        cdef Py_ssize_t i
        cdef bytes ids = PyBytes_FromStringAndSize(NULL, 16 * batch.count)
        cdef unsigned char *out = <unsigned char *>PyBytes_AS_STRING(ids)
        cdef unsigned char *content = batch.content.data
        cdef unsigned char *payload
        cdef uint32_t payload_size
        cdef list sealed = None
        cdef Buf *b = &self.events
        cdef NewJob *new
        cdef Job *job
        cdef uint64_t hi, lo
        cdef uint32_t slot
        cdef int kind
        if seal is not None:
            for i in range(batch.count):
                self.ids.next_into(now_us, &hi, &lo)
                tf_be64(out + 16 * i, hi)
                tf_be64(out + 16 * i + 8, lo)
            sealed = checked_payloads(seal(ids, payloads_of(batch)), batch.count)
        for i in range(batch.count):
            new = &batch.jobs[i]
            kind = self._type_of(content + new.type_at, new.type_size)
            payload, payload_size = content + new.payload_at, new.payload_size
            if sealed is None:
                self.ids.next_into(now_us, &hi, &lo)
            else:
                hi, lo = tf_rd64(out + 16 * i), tf_rd64(out + 16 * i + 8)
                payload = <unsigned char *>PyBytes_AS_STRING(<object>PyList_GET_ITEM(sealed, i))
                payload_size = <uint32_t>PyBytes_GET_SIZE(<object>PyList_GET_ITEM(sealed, i))
            slot = self._new(hi, lo, queue_index, kind, new.priority)
            job = job_at(self.slots, slot)
            job.created_us = now_us
            job.due_us = new.due_us
            job.timeout_ms = new.timeout_ms
            job.max_attempts = new.max_attempts
            self.slots.set_blob(&job.payload, payload, payload_size)
            if new.has_options:
                self._tell(job, content + new.options_at, new.options_size)
            self._enter(slot, job, SCHEDULED if new.due_us > now_us else PENDING)
            self._touch(slot, job, self.gathering_lsn, now_us, False)
            tf_be64(out + 16 * i, hi)
            tf_be64(out + 16 * i + 8, lo)
            self._gather(now_us)
            buf_need(b, EVENT_BYTES + payload_size + new.options_size)
            self._head(11, SUBMITTED_EVENT, job)
            mp_uint(b, self.body_queues.index(queue_index))
            mp_uint(b, self.body_types.index(kind))
            mp_uint(b, new.priority)
            mp_int(b, now_us - self.base_us)
            mp_uint(b, new.due_us)
            mp_uint(b, new.timeout_ms)
            mp_uint(b, new.max_attempts)
            mp_bin(b, payload, payload_size)
            if new.has_options:
                mp_bin(b, content + new.options_at, new.options_size)
            else:
                buf_need(b, EVENT_BYTES)
                mp_nil(b)
        return ids

    def start(self, queue, types, worker, Py_ssize_t most, int64_t now_us):
        """Give up to `most` ready jobs to a worker: (one JOBS frame, count), (b"", 0) when none.

        A lease is named by the lsn of its start, so no job starts twice in one batch: the call stops
        before a job that did, and `rests` tells.
        """
        cdef QueueState q = self._queue_at(queue)
        cdef Lane lane, best = None
        cdef Kind grouped
        cdef list lanes = []
        cdef dict kinds = {}
        cdef uint32_t worker_index, slot, timeout_ms
        cdef uint32_t *picked
        cdef unsigned char *kind_of
        cdef Py_ssize_t n = 0, ready = 0
        cdef uint64_t key, best_key, frontier = NO_FRONTIER
        cdef int64_t deadline_us
        cdef int kind
        cdef Job *job
        cdef Buf *b = &self.events
        self._check_worker(worker)
        worker_index = worker
        if q.limited:
            most = min(most, self._allowed(q, now_us))
        if q.groups is not None:
            for grouped in q.groups.kinds:
                if grouped.waiting and (types is None or grouped.name in types):
                    lanes.append(grouped)
                    ready += grouped.waiting
        for lane in q.lanes:
            if types is None or lane.name in types:
                frontier = min(frontier, lane.frontier)
                if q.groups is None and lane.heap.size:
                    lanes.append(lane)
                    ready += lane.heap.size
        most = min(most, ready)
        if most <= 0:
            return b"", 0
        picked = <uint32_t *>malloc(most * sizeof(uint32_t))
        kind_of = <unsigned char *>malloc(most)
        if picked == NULL or kind_of == NULL:
            free(picked)
            free(kind_of)
            raise MemoryError()
        try:
            if q.groups is None:
                best = lanes[0]
            while n < most:
                if q.groups is not None:
                    if not q.groups.choose(lanes, &key, &slot):
                        break
                elif len(lanes) > 1:
                    best = None
                    best_key = NO_DEADLINE
                    for lane in lanes:
                        if lane.heap.size and lane.heap.keys[0] <= best_key:
                            best = lane
                            best_key = lane.heap.keys[0]
                if best is not None:
                    best.heap.peek_into(&key, &slot)
                job = job_at(self.slots, slot)
                if job.lease_lsn == self.gathering_lsn or key > frontier:
                    break
                kind = kinds.get(job.type, -1) if len(lanes) > 1 or not n else 0
                if kind < 0:
                    if len(kinds) == FRAME_TYPES_MAX:
                        break
                    kind = len(kinds)
                    kinds[job.type] = kind
                timeout_ms = job.timeout_ms if job.timeout_ms else q.timeout_ms
                deadline_us = now_us + <int64_t>timeout_ms * 1000 if timeout_ms else 0
                if q.groups is not None:
                    q.groups.charge(job.group)
                self._started(
                    slot, job, worker_index, job.attempts + 1, now_us, deadline_us,
                    self.gathering_lsn, False)
                self._gather(now_us)
                self._head(6, STARTED_EVENT, job)
                mp_uint(b, self.body_workers.index(worker_index))
                mp_uint(b, job.attempts)
                mp_int(b, now_us - self.base_us)
                mp_uint(b, deadline_us)
                picked[n] = slot
                kind_of[n] = <unsigned char>kind
                n += 1
            if n and q.limits.rate.interval_ns:
                q.tat_ns = n * q.limits.rate.interval_ns + max(
                    q.clock_ns, full_ns(q.tat_ns, q.floor_ns, q.limits.rate))
            return (jobs_frame(self, q, list(kinds), picked, kind_of, n), n) if n else (b"", 0)
        finally:
            free(picked)
            free(kind_of)

    def succeed(self, bytes tokens not None, int64_t now_us, int64_t worker=ANY_WORKER):
        """Jobs that succeeded without a result: (accepted, stale tokens, watched ids that ended).
        Given a worker, what others run is stale."""
        cdef Py_ssize_t i, n = PyBytes_GET_SIZE(tokens), accepted = 0
        cdef const unsigned char *p = at(tokens)
        cdef Buf *b = &self.events
        cdef uint32_t slot
        cdef Job *job
        cdef list watched = []
        cdef list stale = None
        if n % TOKEN_BYTES:
            raise ValueError(f"{n} bytes are no row of tokens")
        for i in range(0, n, TOKEN_BYTES):
            if i + AHEAD * TOKEN_BYTES < n:
                soon(self.slots, tf_rd64(p + i + AHEAD * TOKEN_BYTES),
                     tf_rd64(p + i + AHEAD * TOKEN_BYTES + 8))
            slot = self.slots.find(tf_rd64(p + i), tf_rd64(p + i + 8))
            job = NULL if slot == NONE else job_at(self.slots, slot)
            if (
                job == NULL or job.state != PROCESSING
                or job.lease_lsn != <int64_t>tf_rd64(p + i + 16)
                or (worker != ANY_WORKER and job.worker != worker)
            ):
                if stale is None:
                    stale = []
                stale.append(tokens[i:i + TOKEN_BYTES])
                continue
            self._ended(
                slot, job, SUCCEEDED, RUN_SUCCEEDED, now_us, NULL, 0, self.gathering_lsn, False)
            self._gather(now_us)
            self._head(4, SUCCEEDED_EVENT, job)
            mp_int(b, now_us - self.base_us)
            mp_nil(b)
            accepted += 1
            if job.flags & F_WATCHED:
                watched.append(id_bytes(job.id_hi, job.id_lo))
        return accepted, b"" if stale is None else b"".join(stale), watched

    def succeed_with(self, bytes token not None, bytes result, int64_t now_us):
        """One job that succeeded with a result, as JSON text. False: the lease is stale."""
        cdef uint32_t slot = self._leased(token)
        cdef Job *job
        if slot == NONE:
            return False
        job = job_at(self.slots, slot)
        self._ended(
            slot, job, SUCCEEDED, RUN_SUCCEEDED, now_us,
            NULL if result is None else PyBytes_AS_STRING(result),
            0 if result is None else PyBytes_GET_SIZE(result), self.gathering_lsn, False)
        self._gather(now_us)
        self._head(4, SUCCEEDED_EVENT, job)
        mp_int(&self.events, now_us - self.base_us)
        if result is None:
            mp_nil(&self.events)
        else:
            mp_bin(&self.events, PyBytes_AS_STRING(result), PyBytes_GET_SIZE(result))
        return True

    def retried(self, bytes token not None, due_us, bytes error not None, int64_t now_us):
        """The attempt failed and the job waits until due_us. False: the lease is stale."""
        cdef uint32_t slot = self._leased(token)
        cdef Job *job
        check("due_us", due_us, 1, NEVER)
        if slot == NONE:
            return False
        job = job_at(self.slots, slot)
        job.due_us = due_us
        self._ended(
            slot, job, SCHEDULED, RUN_RETRYING, now_us, PyBytes_AS_STRING(error),
            PyBytes_GET_SIZE(error), self.gathering_lsn, False)
        self._gather(now_us)
        self._head(5, RETRIED_EVENT, job)
        mp_int(&self.events, now_us - self.base_us)
        mp_uint(&self.events, due_us)
        mp_bin(&self.events, PyBytes_AS_STRING(error), PyBytes_GET_SIZE(error))
        return True

    def failed(self, bytes token not None, str reason not None, bytes error not None, int64_t now_us):
        """The job failed for good. False: the lease is stale."""
        cdef uint32_t slot = self._leased(token)
        cdef bytes why = reason.encode()
        cdef Job *job
        if slot == NONE:
            return False
        job = job_at(self.slots, slot)
        job.reason = <uint16_t>self._reason_of(reason)
        self._ended(
            slot, job, FAILED, RUN_FAILED, now_us, PyBytes_AS_STRING(error),
            PyBytes_GET_SIZE(error), self.gathering_lsn, False)
        self._gather(now_us)
        self._head(5, FAILED_EVENT, job)
        mp_int(&self.events, now_us - self.base_us)
        mp_str(&self.events, PyBytes_AS_STRING(why), PyBytes_GET_SIZE(why))
        mp_bin(&self.events, PyBytes_AS_STRING(error), PyBytes_GET_SIZE(error))
        return True

    def released(self, bytes token not None, bytes error not None, int64_t now_us):
        """The lease ended without an answer: back to its lane, with a crash counted. False: the lease
        is stale."""
        return self._put_back(RELEASED_EVENT, token, error, now_us, 0)

    def returned(self, bytes token not None, bytes error not None, int64_t now_us, due_us=0):
        """The worker gave it back: back to its lane or, given a time, scheduled until then, with a
        return counted. False: the lease is stale."""
        check("due_us", due_us, 0, NEVER)
        return self._put_back(RETURNED_EVENT, token, error, now_us, due_us)

    cdef bint _put_back(
        self, int kind, bytes token, bytes error, int64_t now_us, int64_t due_us) except -1:
        cdef uint32_t slot = self._leased(token)
        cdef Job *job
        if slot == NONE:
            return False
        job = job_at(self.slots, slot)
        self._back(slot, job, kind, due_us, now_us, PyBytes_AS_STRING(error),
                   PyBytes_GET_SIZE(error), self.gathering_lsn, False)
        self._gather(now_us)
        self._head(RETURNED_FIELDS_DUE if due_us else 4, kind, job)
        mp_int(&self.events, now_us - self.base_us)
        mp_bin(&self.events, PyBytes_AS_STRING(error), PyBytes_GET_SIZE(error))
        if due_us:
            buf_need(&self.events, EVENT_BYTES)
            mp_uint(&self.events, due_us)
        return True

    def stopped(self, bytes token not None, str reason not None, bytes error not None, int64_t now_us):
        """A running job is cancelled: its attempt is over. False: the lease is stale."""
        cdef uint32_t slot = self._leased(token)
        cdef bytes why = reason.encode()
        cdef Job *job
        if slot == NONE:
            return False
        job = job_at(self.slots, slot)
        job.reason = <uint16_t>self._reason_of(reason)
        self._ended(
            slot, job, CANCELLED, RUN_FAILED, now_us, PyBytes_AS_STRING(error),
            PyBytes_GET_SIZE(error), self.gathering_lsn, False)
        self._gather(now_us)
        self._head(5, STOPPED_EVENT, job)
        mp_int(&self.events, now_us - self.base_us)
        mp_str(&self.events, PyBytes_AS_STRING(why), PyBytes_GET_SIZE(why))
        mp_bin(&self.events, PyBytes_AS_STRING(error), PyBytes_GET_SIZE(error))
        return True

    def change(self, bytes job_id, int64_t now_us, *, due_us=-1, priority=-1, bytes payload=None,
               bytes options=None, deadline_us=-1):
        """Tell an open job something new; -1 and None leave it as it is. False: unknown here.

        While it waits: when it is due (not later than now: at once), its priority, its payload. While
        it runs: its deadline (0: none). Always: its options, b"" drops them. TransitionError: over,
        or what is told does not matter in its state.
        """
        cdef uint32_t slot = self._find(job_id)
        cdef Buf *b = &self.events
        cdef Job *job
        check("due_us", due_us, -1, NEVER)
        check("priority", priority, -1, 9)
        check("deadline_us", deadline_us, -1, NEVER)
        if payload is not None:
            check("bytes of payload", PyBytes_GET_SIZE(payload), 1, I32_MAX)
        if slot == NONE:
            return False
        job = job_at(self.slots, slot)
        self._change(
            slot, job, due_us, priority,
            NULL if payload is None else PyBytes_AS_STRING(payload),
            0 if payload is None else PyBytes_GET_SIZE(payload),
            NULL if options is None else PyBytes_AS_STRING(options),
            0 if options is None else PyBytes_GET_SIZE(options),
            deadline_us, now_us, self.gathering_lsn, False)
        self._gather(now_us)
        self._head(8, CHANGED_EVENT, job)
        mp_int(b, now_us - self.base_us)
        mp_int(b, due_us)
        mp_int(b, priority)
        for text in (payload, options):
            if text is None:
                mp_nil(b)
            else:
                mp_bin(b, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
            buf_need(b, EVENT_BYTES)
        mp_int(b, deadline_us)
        return True

    def take_marked(self):
        """(job id, options) of the unfinished jobs with `more` that were submitted, changed, replayed
        or loaded since the last call; each once."""
        cdef uint32_t slot
        cdef Job *job
        cdef list found = []
        if not self.marked:
            return found
        marked, self.marked = self.marked, {}
        for job_id in marked:
            slot = self._find(job_id)
            if slot != NONE:
                job = job_at(self.slots, slot)
                if job.state < SUCCEEDED and job.flags & F_MORE:
                    found.append((job_id, blob_bytes(job.options)))
        return found

    def cancelled(self, bytes job_id, str reason not None, int64_t now_us):
        """Cancel a waiting job. False: unknown here; TransitionError: it does not wait."""
        cdef uint32_t slot = self._find(job_id)
        cdef bytes why = reason.encode()
        cdef Job *job
        if slot == NONE:
            return False
        job = job_at(self.slots, slot)
        self._cancelled(slot, job, reason, now_us, self.gathering_lsn, False)
        self._gather(now_us)
        self._head(4, CANCELLED_EVENT, job)
        mp_int(&self.events, now_us - self.base_us)
        mp_str(&self.events, PyBytes_AS_STRING(why), PyBytes_GET_SIZE(why))
        return True

    def requeue(self, dict snapshot not None, int64_t now_us):
        """A failed or cancelled job waits again: by the state here, or else by its snapshot."""
        cdef bytes job_id = snapshot["id"]
        cdef bytes payload = snapshot["payload"]
        cdef bytes options = snapshot["options"]
        cdef bytes name = (<str>snapshot["job_type"]).encode()
        cdef Buf *b = &self.events
        cdef uint32_t slot = self._find(job_id)
        cdef int priority = snapshot["priority"]
        cdef Job *job
        queue = self.queue_index.get(snapshot["queue_id"])
        if shard_of_hi(tf_rd64(at(job_id))) != self.shard:
            raise ValueError(f"a job of another shard than {self.shard}")
        if queue is None:
            raise ValueError("the job's queue is not defined here")
        if slot != NONE:
            self._check_move(job_at(self.slots, slot), MAY_REQUEUE, "requeued")
        elif snapshot["status"] not in ("failed", "cancelled"):
            raise TransitionError(job_id, snapshot["status"], "requeued")
        slot = requeued(
            self, slot, tf_rd64(at(job_id)), tf_rd64(at(job_id) + 8), queue,
            self._type_of(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)), priority)
        job = job_at(self.slots, slot)
        job.created_us = snapshot["created_us"]
        job.timeout_ms = snapshot["timeout_ms"]
        job.max_attempts = snapshot["max_attempts"]
        job.attempts = snapshot["attempt"]
        job.crashes = snapshot["crashes"]
        job.returns = snapshot["returns"]
        self.slots.set_blob(&job.payload, PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
        if options is not None:
            self._tell(job, PyBytes_AS_STRING(options), PyBytes_GET_SIZE(options))
        self._enter(slot, job, PENDING)
        self._touch(slot, job, self.gathering_lsn, now_us, False)
        self._gather(now_us)
        self._head(14, REQUEUED_EVENT, job)
        mp_uint(b, self.body_queues.index(job.queue))
        mp_uint(b, self.body_types.index(job.type))
        mp_uint(b, priority)
        mp_int(b, now_us - self.base_us)
        mp_uint(b, job.created_us)
        mp_uint(b, job.timeout_ms)
        mp_uint(b, job.max_attempts)
        mp_uint(b, job.attempts)
        mp_uint(b, job.crashes)
        mp_uint(b, job.returns)
        mp_bin(b, PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
        if options is None:
            buf_need(b, EVENT_BYTES)
            mp_nil(b)
        else:
            mp_bin(b, PyBytes_AS_STRING(options), PyBytes_GET_SIZE(options))

    # --- time, leases, questions --------------------------------------------------------------------

    cdef uint32_t _leased(self, bytes token) except? 0xffffffff:
        """The slot of the job that runs under this lease, or NONE."""
        cdef uint32_t slot
        cdef Job *job
        if PyBytes_GET_SIZE(token) != TOKEN_BYTES:
            raise ValueError(f"a token of {PyBytes_GET_SIZE(token)} bytes")
        slot = self.slots.find(tf_rd64(at(token)), tf_rd64(at(token) + 8))
        if slot == NONE:
            return NONE
        job = job_at(self.slots, slot)
        if job.state != PROCESSING or job.lease_lsn != <int64_t>tf_rd64(at(token) + 16):
            return NONE
        return slot

    cdef uint32_t _find(self, bytes job_id) except? 0xffffffff:
        check_id("job_id", job_id)
        return self.slots.find(tf_rd64(at(job_id)), tf_rd64(at(job_id) + 8))

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

    def expired(self, int64_t now_us):
        """Tokens of the processing jobs whose deadline is not later than now."""
        cdef list tokens = []
        cdef list stack = [0]
        cdef uint32_t position, child
        while stack:
            position = stack.pop()
            if position >= self.run_heap.size or self.run_heap.keys[position] > <uint64_t>now_us:
                continue
            tokens.append(token_of(job_at(self.slots, self.run_heap.items[position])))
            for child in range(4 * position + 1, 4 * position + 5):
                stack.append(child)
        return tokens

    def running(self, worker):
        """Tokens of the jobs that this worker runs."""
        cdef list tokens = []
        cdef uint32_t position, wanted
        cdef Job *job
        self._check_worker(worker)
        wanted = worker
        for position in range(self.run_heap.size):
            job = job_at(self.slots, self.run_heap.items[position])
            if job.worker == wanted:
                tokens.append(token_of(job))
        return tokens

    def holds(self, bytes token not None, int64_t worker=ANY_WORKER):
        """Whether the lease is current and, given a worker, that one's."""
        cdef uint32_t slot = self._leased(token)
        return slot != NONE and (
            worker == ANY_WORKER or job_at(self.slots, slot).worker == worker)

    def hand_over(self, bytes token not None, worker):
        """Bind a running job to the index of its worker. False: the lease is stale."""
        cdef uint32_t slot
        self._check_worker(worker)
        slot = self._leased(token)
        if slot == NONE:
            return False
        job_at(self.slots, slot).worker = worker
        return True

    def watch(self, bytes job_id, bint on):
        """Have `succeed` report the end of this job. False: it is not here."""
        cdef uint32_t slot = self._find(job_id)
        cdef Job *job
        if slot == NONE:
            return False
        job = job_at(self.slots, slot)
        job.flags = (job.flags | F_WATCHED) if on else (job.flags & <uint8_t>~F_WATCHED)
        return True

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
            return n
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

    def project_of(self, bytes job_id):
        """The project of a job, or None when it is not here."""
        cdef uint32_t slot = self._find(job_id)
        cdef QueueState q
        if slot == NONE:
            return None
        q = self.queues[job_at(self.slots, slot).queue]
        return id_bytes(q.project_hi, q.project_lo)

    def peek(self, bytes job_id):
        """(status, attempts, job type, created_us, options) of a job, or None: what books and
        filters look at, without its texts."""
        cdef uint32_t slot = self._find(job_id)
        cdef Job *job
        if slot == NONE:
            return None
        job = job_at(self.slots, slot)
        return (STATES[job.state], job.attempts, self.type_texts[job.type], job.created_us,
                blob_bytes(job.options))

    def open_jobs(self, queue, Py_ssize_t start, Py_ssize_t most, Py_ssize_t looks_max):
        """(ids of up to `most` open jobs of the queue, the place to go on from; -1: no more). A walk
        from 0 on finds every job that is open all the while. It looks at `looks_max` places at most.
        """
        cdef Py_ssize_t end = <Py_ssize_t>self.slots.chunks_used << CHUNK_BITS
        cdef Py_ssize_t slot = max(0, start), last
        cdef int wanted
        cdef Job *job
        cdef list found = []
        self._queue_at(queue)
        wanted = queue
        last = min(end, slot + looks_max)
        while slot < last and len(found) < most:
            job = job_at(self.slots, <uint32_t>slot)
            if FREE < job.state < SUCCEEDED and job.queue == wanted:
                found.append(id_bytes(job.id_hi, job.id_lo))
            slot += 1
        return found, slot if slot < end else -1

    def get(self, bytes job_id):
        """All that is known of a job, or None."""
        cdef uint32_t slot = self._find(job_id)
        return None if slot == NONE else self._view(slot)

    def snapshot(self):
        """Every job, by id."""
        cdef uint32_t slot
        jobs = []
        for slot in range(self.slots.chunks_used << CHUNK_BITS):
            if job_at(self.slots, slot).state != FREE:
                jobs.append(self._view(slot))
        return sorted(jobs, key=lambda job: job["id"])

    cdef dict _view(self, uint32_t slot):
        cdef Job *job = job_at(self.slots, slot)
        cdef QueueState q = self.queues[job.queue]
        cdef bint running = job.state == PROCESSING
        return {
            "id": id_bytes(job.id_hi, job.id_lo),
            "queue_id": id_bytes(q.id_hi, q.id_lo),
            "project_id": id_bytes(q.project_hi, q.project_lo),
            "job_type": self.type_texts[job.type],
            "payload": blob_bytes(job.payload),
            "status": STATES[job.state],
            "priority": 9 - <int>(job.key >> 60),
            "due_us": job.due_us,
            "created_us": job.created_us,
            "updated_us": job.updated_us,
            "started_us": job.started_us,
            "finished_us": job.updated_us if job.state >= SUCCEEDED else 0,
            "attempt": job.attempts,
            "crashes": job.crashes,
            "returns": job.returns,
            "max_attempts": job.max_attempts,
            "timeout_ms": job.timeout_ms,
            "deadline_us": job.deadline_us if running else 0,
            "worker_id": self._worker_id(job.worker) if running else None,
            "lease_lsn": job.lease_lsn if running else 0,
            "lsn": job.lsn,
            "options": blob_bytes(job.options),
            "output": blob_bytes(job.output),
            "reason": self.reasons[job.reason],
        }

    def executions(self, bytes job_id):
        """The attempts that the tables may not have, and the running one, by their number."""
        cdef uint32_t slot = self._find(job_id)
        cdef uint64_t hi = tf_rd64(at(job_id)), lo = tf_rd64(at(job_id) + 8)
        cdef Projection p
        cdef Attempt run
        cdef Job *job
        cdef list found = []
        for p in self.under_way:
            attempts_of(self, p.attempts, hi, lo, False, found)
        attempts_of(self, self.over, hi, lo, False, found)
        if slot != NONE:
            if slot in self.held:
                attempts_of(self, self.held[slot], hi, lo, False, found)
            job = job_at(self.slots, slot)
            if job.state == PROCESSING:
                run.output = NULL
                self._running_attempt(job, &run)
                found.append(attempt_view(self, &run))
        return sorted(found, key=lambda run: run["attempt_number"])

    # --- replay -------------------------------------------------------------------------------------

    def replay(self, int64_t lsn, bytes body not None):
        """Fold one durable log row into the state; how many of its events said something new.

        Raises BodyError, with the table unchanged, for a body that is damaged or out of its turn;
        TransitionError when the log contradicts itself, and then the table is of no more use.
        """
        cdef int64_t head = self.gathering_lsn - 1, base_us
        cdef Scan s, again
        cdef Py_ssize_t count, i, applied = 0
        cdef uint32_t n
        cdef const unsigned char *p
        cdef list queue_ids = [], types = [], worker_ids = []
        if self.gathered_events or self.committed_lsn != head:
            raise ValueError("a table with decisions of its own cannot replay")
        if lsn < 1 or (head and lsn != head + 1):
            raise BodyError(f"lsn {lsn} does not follow {head}")
        if PyBytes_GET_SIZE(body) < BODY_HEAD_BYTES:
            raise BodyError(f"a body of {PyBytes_GET_SIZE(body)} bytes")
        if at(body)[0] != BODY_VERSION:
            raise BodyError(f"version {at(body)[0]}, this node reads {BODY_VERSION}")
        if zlib.crc32(memoryview(body)[BODY_HEAD_BYTES:]) != tf_rd32(at(body) + 1):
            raise BodyError("the checksum does not fit")
        s.p = at(body) + BODY_HEAD_BYTES
        s.end = at(body) + PyBytes_GET_SIZE(body)
        s.bad = False
        if scan_array(&s) != 6:
            raise BodyError("the header is no array of six")
        scan_bin(&s, &n)
        if n != 8:
            raise BodyError("the nonce is not of eight bytes")
        base_us = scan_range(&s, -I64_MAX, I64_MAX)
        for target, size in ((queue_ids, 16), (types, 0), (worker_ids, 16)):
            count = scan_array(&s)
            for i in range(count):
                p = scan_bin(&s, &n) if size else scan_str(&s, &n)
                if s.bad or (size and n != size):
                    raise BodyError("a damaged header")
                target.append(PyBytes_FromStringAndSize(<const char *>p, n))
        count = scan_range(&s, 0, I64_MAX)
        if s.bad:
            raise BodyError("a damaged header")
        try:
            for name in types:
                name.decode()
        except UnicodeDecodeError as problem:
            raise BodyError(f"a job type that is no UTF-8: {problem}") from problem
        again = s
        for i in range(count):
            self._event(&s, lsn, base_us, queue_ids, types, worker_ids, False)
        if s.p != s.end:
            raise BodyError("bytes after the last event")
        queues = [
            self._queue_of(tf_rd64(at(q)), tf_rd64(at(q) + 8), 0, 0) for q in queue_ids
        ]
        workers = [self.worker(worker_id) for worker_id in worker_ids]
        kinds = [self._type_of(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)) for name in types]
        for i in range(count):
            applied += self._event(&again, lsn, base_us, queues, kinds, workers, True)
        self.committed_lsn = lsn
        self.gathering_lsn = lsn + 1
        return applied

    cdef int _event(
        self, Scan *s, int64_t lsn, int64_t base_us, list queues, list types, list workers,
        bint apply) except -1:
        """Check one event, or apply one that was checked; 1 when it said something new."""
        cdef uint32_t fields = scan_array(s), n, size = 0, more = 0, slot = NONE
        cdef int64_t kind = scan_range(s, SUBMITTED_EVENT, STOPPED_EVENT)
        cdef int64_t a = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0, priority = 0, moment
        cdef int64_t queue = 0, name = 0
        cdef const unsigned char *p
        cdef const unsigned char *data = NULL
        cdef const unsigned char *options = NULL
        cdef uint64_t hi = 0, lo = 0
        cdef Job *job = NULL
        cdef str why
        if s.bad:
            raise BodyError("a damaged event")
        if fields != <uint32_t>EVENT_FIELDS[kind] and not (
                (kind == REQUEUED_EVENT and fields == REQUEUED_FIELDS_BEFORE)
                or (kind == RETURNED_EVENT and fields == RETURNED_FIELDS_DUE)):
            raise BodyError(f"an event of kind {kind} with {fields} fields")
        if kind == OWNED_EVENT:
            p = scan_str(s, &n)
            text_of(s, p, n)
            scan_range(s, 0, I64_MAX)
            moment = base_us + scan_range(s, -I64_MAX, I64_MAX)
            if apply and not s.bad:
                self.floor_us = max(self.floor_us, moment)
            return sound(s)
        p = scan_bin(s, &n)
        if s.bad or n != 16:
            raise BodyError("an id that is not of 16 bytes")
        hi, lo = tf_rd64(p), tf_rd64(p + 8)
        if kind == KEYED_EVENT:
            return keyed_event(self, s, p, base_us, lsn, apply)
        if shard_of_hi(hi) != self.shard:
            raise BodyError("a job of another shard")
        if apply:
            slot = self.slots.find(hi, lo)
            if slot != NONE:
                job = job_at(self.slots, slot)
        if kind == SUBMITTED_EVENT or kind == REQUEUED_EVENT:
            queue = scan_range(s, 0, len(queues) - 1)
            name = scan_range(s, 0, len(types) - 1)
            priority = scan_range(s, 0, 9)
            moment = base_us + scan_range(s, -I64_MAX, I64_MAX)
            c = scan_range(s, 0, I64_MAX)                       # due, or created
            d = scan_range(s, 0, I32_MAX)
            e = scan_range(s, 0, I16_MAX)
            if kind == REQUEUED_EVENT:
                f = scan_range(s, 0, I16_MAX)
                g = scan_range(s, 0, I16_MAX)
                if fields != REQUEUED_FIELDS_BEFORE:
                    h = scan_range(s, 0, RETURNS_MAX)
            data = scan_bin(s, &size)
            options = scan_bin_or_nil(s, &more)
            sound(s)
            if not apply:
                return 0
            if kind == SUBMITTED_EVENT:
                self._count_submitted(queues[queue], moment)
            if job != NULL and ((job.flags & F_LOADED and lsn <= job.lsn) or kind == SUBMITTED_EVENT):
                return 0
            if kind == SUBMITTED_EVENT:
                slot = self._new(hi, lo, queues[queue], types[name], priority)
            else:
                if job != NULL:
                    self._check_move(job, MAY_REQUEUE, "requeued")
                slot = requeued(self, slot, hi, lo, queues[queue], types[name], priority)
            job = job_at(self.slots, slot)
            job.created_us = moment if kind == SUBMITTED_EVENT else c
            job.due_us = c if kind == SUBMITTED_EVENT else 0
            job.timeout_ms, job.max_attempts = <uint32_t>d, <uint16_t>e
            job.attempts, job.crashes, job.returns = <uint16_t>f, <uint16_t>g, <uint8_t>h
            self.slots.set_blob(&job.payload, data, size)
            self._tell(job, options, more)
            self.ids.see_halves(hi, lo)
            self._enter(slot, job, SCHEDULED if job.due_us > moment else PENDING)
            self._touch(slot, job, lsn, moment, True)
            return 1
        if kind == STARTED_EVENT:
            a = scan_range(s, 0, len(workers) - 1)
            c = scan_range(s, 1, I16_MAX)
        moment = base_us + scan_range(s, -I64_MAX, I64_MAX)
        if kind == STARTED_EVENT or kind == RETRIED_EVENT:
            d = scan_range(s, 0, I64_MAX)
        why = None
        if kind == FAILED_EVENT or kind == CANCELLED_EVENT or kind == STOPPED_EVENT:
            p = scan_str(s, &n)
            why = text_of(s, p, n)
        if kind == CHANGED_EVENT:
            d = scan_range(s, -1, NEVER)
            priority = scan_range(s, -1, 9)
            data = scan_bin_or_nil(s, &size)
            if data != NULL and not size:
                raise BodyError("a payload of no bytes")
            options = scan_bin_or_nil(s, &more)
            f = scan_range(s, -1, I64_MAX)
        elif kind == SUCCEEDED_EVENT:
            data = scan_bin_or_nil(s, &size)
        elif kind in (RETRIED_EVENT, FAILED_EVENT, RELEASED_EVENT, RETURNED_EVENT, STOPPED_EVENT):
            data = scan_bin(s, &size)
        if fields == RETURNED_FIELDS_DUE and kind == RETURNED_EVENT:
            d = scan_range(s, 1, NEVER)
        sound(s)
        if not apply or job == NULL or (job.flags & F_LOADED and lsn <= job.lsn):
            return 0
        if kind == STARTED_EVENT:
            self._started(slot, job, workers[a], c, moment, d, lsn, True)
        elif kind == SUCCEEDED_EVENT:
            self._check_move(job, MAY_END, "succeeded")
            self._ended(slot, job, SUCCEEDED, RUN_SUCCEEDED, moment, data, size, lsn, True)
        elif kind == RETRIED_EVENT:
            self._check_move(job, MAY_END, "retried")
            job.due_us = d
            self._ended(slot, job, SCHEDULED, RUN_RETRYING, moment, data, size, lsn, True)
        elif kind == FAILED_EVENT:
            self._check_move(job, MAY_END, "failed")
            job.reason = <uint16_t>self._reason_of(why)
            self._ended(slot, job, FAILED, RUN_FAILED, moment, data, size, lsn, True)
        elif kind == RELEASED_EVENT or kind == RETURNED_EVENT:
            self._check_move(job, MAY_END, "released" if kind == RELEASED_EVENT else "returned")
            self._back(slot, job, kind, d, moment, data, size, lsn, True)
        elif kind == STOPPED_EVENT:
            self._check_move(job, MAY_END, "stopped")
            job.reason = <uint16_t>self._reason_of(why)
            self._ended(slot, job, CANCELLED, RUN_FAILED, moment, data, size, lsn, True)
        elif kind == CHANGED_EVENT:
            self._change(
                slot, job, d, <int>priority, data, size, options, more, f, moment, lsn, True)
        else:
            self._cancelled(slot, job, why, moment, lsn, True)
        return 1

    # --- the tables ---------------------------------------------------------------------------------

    def load(self, bytes data not None):
        """Rows of unfinished jobs, as COPY OUT gives them; how many. ValueError changes nothing."""
        cdef const unsigned char *p = at(data)
        cdef JobRow row
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data), first = first_row(data), start = first
        cdef Py_ssize_t end, count = 0, i
        cdef uint64_t key, last = 0
        cdef bint in_order = True
        while (end := next_row(p, start, size)):
            read_job_row(p + start, &row)
            if shard_of_hi(row.job.id_hi) != self.shard:
                raise ValueError(f"a job of another shard than {self.shard}")
            if self.slots.find(row.job.id_hi, row.job.id_lo) != NONE:
                raise ValueError("a job that is resident already")
            key = ready_key(row.priority, row.job.id_hi, row.job.id_lo)
            in_order = in_order and (key > last or not count)
            last = key
            count += 1
            start = end
        if not in_order and len({data[a + 6:a + 22] for a, _ in split_rows(data)}) != count:
            raise ValueError("a job stands there twice")
        start = first
        for i in range(count):
            self._load_row(p + start)
            start = row_end(p, start, size)
        return count

    cdef int _load_row(self, const unsigned char *p) except -1:
        cdef JobRow row
        cdef uint32_t slot
        cdef Job *job
        cdef Job *source = &row.job
        cdef bytes options = None
        cdef int queue, state
        read_job_row(p, &row)
        if row.told:
            options = options_of_row(&row)
        queue = self._queue_of(row.queue_hi, row.queue_lo, row.project_hi, row.project_lo)
        slot = self._new(
            source.id_hi, source.id_lo, queue, self._type_of(row.type, row.type_size), row.priority)
        job = job_at(self.slots, slot)
        job.created_us, job.updated_us = source.created_us, source.updated_us
        job.due_us, job.started_us = source.due_us, source.started_us
        self.floor_us = max(self.floor_us, job.started_us)
        job.deadline_us, job.lsn, job.lease_lsn = source.deadline_us, source.lsn, source.lease_lsn
        job.attempts, job.crashes = source.attempts, source.crashes
        job.returns = source.returns
        job.max_attempts, job.timeout_ms = source.max_attempts, source.timeout_ms
        if row.has_worker:
            job.worker = self.worker(id_bytes(row.worker_hi, row.worker_lo))
        job.flags = F_ROW | F_RUN_ROW | F_LOADED | (F_ROW_DUE if source.state == SCHEDULED else 0)
        self.slots.set_blob(&job.payload, row.payload, row.payload_size)
        self.slots.set_blob(&job.output, row.output, row.output_size)
        if options is not None:
            self._tell(job, PyBytes_AS_STRING(options), PyBytes_GET_SIZE(options))
        self.ids.see_halves(job.id_hi, job.id_lo)
        state = source.state
        self._enter(slot, job, state)
        return 0

    def take_submitted(self):
        """How many `submitted` events were replayed since the last call, those of jobs that are known
        already too: (queue id, day since the epoch, count)."""
        self._end_submitted_run()
        taken, self.submitted = self.submitted, []
        return taken

    cdef int _end_submitted_run(self) except -1:
        cdef QueueState q
        if self.submitted_count:
            q = self.queues[self.submitted_queue]
            self.submitted.append(
                (id_bytes(q.id_hi, q.id_lo), self.submitted_day, self.submitted_count))
            self.submitted_count = 0
        return 0

    cdef int _count_submitted(self, int queue, int64_t at_us) except -1:
        cdef int64_t day = at_us // DAY_US
        if queue != self.submitted_queue or day != self.submitted_day:
            self._end_submitted_run()
            self.submitted_queue = queue
            self.submitted_day = day
        self.submitted_count += 1
        return 0

    def collect(self, rows_max, int64_t settled_us):
        """Durable changes that no projection took, up to rows_max jobs; None when there are none.

        Finished jobs are taken, and open ones whose first such change is not younger than settled_us.
        Attempts go with their jobs or before them: when rows_max cuts the jobs off, those that ended
        after the newest change of a taken job wait too, so that both tables grow side by side.
        """
        cdef Projection p = Projection()
        cdef Collector c = Collector()
        cdef uint32_t slot, following
        cdef Py_ssize_t most, room = 0, i
        cdef int64_t watermark, newest = 0
        cdef Job *job
        check("rows_max", rows_max, 1, I32_MAX)
        most = rows_max
        c.table = self
        slot = self.slots.dirty_head
        while slot != NONE and p.taken < most:
            job = job_at(self.slots, slot)
            following = job.next
            if job.lsn <= self.committed_lsn and (job.state >= SUCCEEDED or job.dirty_us <= settled_us):
                if p.taken == room:
                    room = grow_taken(p, room)
                p.slots[p.taken] = slot
                p.lsns[p.taken] = job.lsn
                p.taken += 1
                newest = max(newest, job.lsn)
                c.take(p, slot, job)
                self.slots.mark_clean(slot)
                self.away += 1
                job.under += 1
            slot = following
        if p.taken < most:
            newest = self.committed_lsn
        i = self.over.head
        while i < self.over.end and self.over.data[i].since_lsn <= newest:
            c.attempt(&self.over.data[i])
            i += 1
        p.attempts.move(self.over, i - self.over.head)
        i = 0
        while i < len(self.keys) and self.keys[i][0] <= self.committed_lsn:
            i += 1
        p.keys = [key for _, key in self.keys[:i]]
        del self.keys[:i]
        watermark = self.committed_lsn
        if self.slots.dirty_head != NONE:
            watermark = min(watermark, job_at(self.slots, self.slots.dirty_head).dirty_lsn - 1)
        watermark = max(watermark, self.watermark)
        if not (p.taken or p.attempts.end or p.keys) and watermark == self.watermark:
            return None
        self.watermark = watermark
        p.shard = self.shard
        p.watermark = watermark
        c.finish(p)
        self.under_way.append(p)
        return p

    def projected(self, Projection p not None):
        """It is in the tables: jobs unchanged since then are clean, final ones are freed."""
        cdef Py_ssize_t i
        cdef uint32_t slot
        cdef Job *job
        if not self.under_way or self.under_way[0] is not p:
            raise ValueError("projections are confirmed once each, in order")
        self.under_way.popleft()
        for i in range(p.taken):
            if i + 2 * AHEAD < p.taken:
                __builtin_prefetch(job_at(self.slots, p.slots[i + 2 * AHEAD]))
                job = job_at(self.slots, p.slots[i + AHEAD])
                soon(self.slots, job.id_hi, job.id_lo)
            slot = p.slots[i]
            job = job_at(self.slots, slot)
            job.under -= 1
            if not job.under and not job.flags & F_DIRTY:
                self.away -= 1
            if job.lsn == p.lsns[i] and job.state >= SUCCEEDED and not job.under:
                if self.reading:
                    self.leaving.append(slot)
                else:
                    self.slots.free(slot)

    # --- jobs that are away -------------------------------------------------------------------------
    #
    # A waiting job of which the tables know all, that nobody watches and that was told nothing special
    # may be let go: then it is away, its row is all there is of it, and nobody changes the row. Per
    # lane all that are away stand behind a place; until rows were read up to there nothing behind it
    # starts, so nothing is overtaken. Rows are read while nothing leaves memory (`begin_reading`):
    # a row that comes is that of a job that is here, and is passed over, or it is the truth.

    cdef Lane _lane_of(self, QueueState q, int kind):
        if kind < len(q.by_type) and <object>PyList_GET_ITEM(q.by_type, kind) is not None:
            return <Lane>PyList_GET_ITEM(q.by_type, kind)
        return q.lane(<uint16_t>kind, self.type_texts[kind], self.positions)

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
        if not 0 <= keep < lane.heap.size or most <= 0:
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

    cdef int _let_go(self, uint32_t slot, Job *job) except -1:
        self._leave(slot, job)
        self.slots.free(slot)
        self.departures += 1
        return 1

    def begin_reading(self):
        """From now on nothing leaves memory. ValueError while another reading is under way."""
        if self.reading:
            raise ValueError("rows are being read already")
        self.reading = True

    def end_reading(self, Py_ssize_t rows_max=0):
        """The rows have come. With `rows_max`: of each lane that was read up to so many were asked
        for, so where fewer came no more are away."""
        cdef QueueState q
        cdef Lane lane
        cdef uint32_t slot
        cdef Job *job
        if not self.reading:
            raise ValueError("no rows are being read")
        self.reading = False
        for q in self.queues:
            for lane in q.lanes:
                if 0 <= lane.read < rows_max:
                    lane.frontier = NO_FRONTIER
                lane.read = -1
        leaving, self.leaving = self.leaving, []
        for slot in leaving:
            job = job_at(self.slots, slot)
            if job.state >= SUCCEEDED and not job.flags & F_DIRTY and not job.under:
                self.slots.free(slot)

    def place(self, queue, str job_type not None):
        """(priority, id) behind which jobs of the lane are away; rows from there on are read now."""
        cdef Lane lane = self._lane_named(queue, job_type)
        if not self.reading or lane.frontier == NO_FRONTIER:
            raise ValueError("nothing of this lane is to be read")
        lane.read = 0
        return lane.place_priority, id_bytes(lane.place_hi, lane.place_lo)

    def page_in(self, bytes data not None):
        """Rows of pending jobs, lane by lane in the order in which they start; how many. Those that
        are here are passed over. Nothing before the last row of a lane is away any more."""
        return self._bring(data, PENDING, I64_MAX)

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
        if not self.reading:
            raise ValueError("no rows are being read")
        while (end := next_row(p, start, size)):
            read_job_row(p + start, &row)
            if shard_of_hi(row.job.id_hi) != self.shard:
                raise ValueError(f"a job of another shard than {self.shard}")
            if row.job.state == PROCESSING or (ordered != FREE and row.job.state != ordered):
                raise ValueError("a job that does not wait")
            q = self.queues[
                self._queue_of(row.queue_hi, row.queue_lo, row.project_hi, row.project_lo)]
            if ordered == PENDING:
                self._read_on(
                    self._lane_of(q, self._type_of(row.type, row.type_size)), row.priority,
                    row.job.id_hi, row.job.id_lo)
            elif ordered == SCHEDULED:
                self.due_place_us = row.job.due_us
                self.due_place_id = id_bytes(row.job.id_hi, row.job.id_lo)
            if self.slots.find(row.job.id_hi, row.job.id_lo) == NONE:
                if row.job.lsn <= counted_lsn:
                    if row.job.state == PENDING:
                        q.away_pending -= 1
                    else:
                        q.away_scheduled -= 1
                self._load_row(p + start)
            count += 1
            start = end
        return count

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
                if lane.frontier != NO_FRONTIER and lane.heap.count_until(lane.frontier) < ahead:
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
            if q.pending > most:
                for lane in q.lanes:
                    if lane.heap.size > most:
                        found.append((index, lane.name, lane.heap.size))
        return found

    def due_at(self, Py_ssize_t rank):
        """When the scheduled job of this rank in memory is due, the earliest has 0; 0: none is."""
        if not 0 <= rank < self.due_heap.size:
            return 0
        return self.due_heap.key_at_rank(<uint32_t>rank)

    def missing(self, list bodies not None):
        """Ids, 16 bytes each, of jobs that these log rows change, that they do not submit, and that
        are not here. BodyError."""
        cdef Scan s
        cdef bytes body
        cdef set submitted = set()
        cdef dict found = {}
        for body in bodies:
            if PyBytes_GET_SIZE(body) < BODY_HEAD_BYTES:
                raise BodyError(f"a body of {PyBytes_GET_SIZE(body)} bytes")
            s.p = at(body) + BODY_HEAD_BYTES
            s.end = at(body) + PyBytes_GET_SIZE(body)
            s.bad = False
            named_in(self.slots, &s, submitted, found)
        return b"".join([job_id for job_id in found if job_id not in submitted])


cdef int named_in(Slots slots, Scan *s, set submitted, dict found) except -1:
    """The jobs that the events of one body name: those that it submits, and those not here."""
    cdef uint32_t n, fields, i
    cdef int64_t kind, count
    cdef const unsigned char *p
    if scan_array(s) != 6:
        raise BodyError("the header is no array of six")
    for i in range(5):
        scan_skip(s)
    for count in range(scan_range(s, 0, I64_MAX)):
        fields = scan_array(s)
        kind = scan_int(s)
        p = NULL
        if kind != KEYED_EVENT and kind != OWNED_EVENT and fields > 1:
            fields -= 1
            p = scan_bin(s, &n)
        for i in range(1, fields):
            scan_skip(s)
        if s.bad or (p != NULL and n != 16):
            raise BodyError("a damaged event")
        if kind == SUBMITTED_EVENT:
            submitted.add(p[:16])
        elif p != NULL and slots.find(tf_rd64(p), tf_rd64(p + 8)) == NONE:
            found[p[:16]] = None
    return sound(s)


cdef int *EVENT_FIELDS = [0, 11, 6, 4, 5, 5, 4, 4, 14, 6, 4, 4, 8, 5]


cdef inline int sound(Scan *s) except -1:
    if s.bad:
        raise BodyError("a damaged event")
    return 1


cdef str text_of(Scan *s, const unsigned char *p, uint32_t n):
    sound(s)
    try:
        return PyBytes_FromStringAndSize(<const char *>p, n).decode()
    except UnicodeDecodeError as problem:
        raise BodyError(f"a text that is no UTF-8: {problem}") from problem


cdef int keyed_event(
    ShardTable table, Scan *s, const unsigned char *project, int64_t base_us, int64_t lsn,
    bint apply) except -1:
    cdef uint32_t n
    cdef const unsigned char *p = scan_str(s, &n)
    cdef int64_t at_us
    key = text_of(s, p, n)
    p = scan_bin(s, &n)
    sound(s)
    body_hash = PyBytes_FromStringAndSize(<const char *>p, n)
    at_us = base_us + scan_range(s, -I64_MAX, I64_MAX)
    p = scan_bin(s, &n)
    sound(s)
    if n % 16:
        raise BodyError(f"{n} bytes are no row of ids")
    if apply:
        project_id = PyBytes_FromStringAndSize(<const char *>project, 16)
        ids = PyBytes_FromStringAndSize(<const char *>p, n)
        table.keys.append((lsn, (project_id, key, body_hash, ids, at_us)))
    return 1


cdef uint32_t requeued(
    ShardTable table, uint32_t slot, uint64_t hi, uint64_t lo, int queue, int kind,
    int priority) except? 0xffffffff:
    """The slot of a job that begins anew: the one that it has still, or a fresh one."""
    cdef Job *job
    if slot == NONE:
        slot = table._new(hi, lo, queue, kind, priority)
        job = job_at(table.slots, slot)
        table.ids.see_halves(hi, lo)
    else:
        job = job_at(table.slots, slot)
        job.key = ready_key(priority, hi, lo)
        job.queue, job.type, job.worker = <uint16_t>queue, <uint16_t>kind, NONE
        job.due_us = job.started_us = job.deadline_us = 0
        job.reason = 0
        table.slots.drop_blob(&job.options)
        table.slots.drop_blob(&job.output)
    job.flags = (job.flags & F_DIRTY) | F_ROW
    return slot


cdef dict blocking(str limit, most, running, list holders, int64_t at_ns):
    return {"limit": limit, "max": most, "running": running, "holders": holders,
            "refill_us": (at_ns + 999) // 1000}


cdef bytes token_of(const Job *job):
    cdef unsigned char raw[24]
    tf_be64(raw, job.id_hi)
    tf_be64(raw + 8, job.id_lo)
    tf_be64(raw + 16, <uint64_t>job.lease_lsn)
    return PyBytes_FromStringAndSize(<char *>raw, TOKEN_BYTES)


cdef bytes jobs_frame(
    ShardTable table, QueueState q, list kinds, const uint32_t *picked,
    const unsigned char *kind_of, Py_ssize_t n):
    """The JOBS message of the worker stream."""
    cdef Buf out
    cdef Buf *b = &out
    cdef Py_ssize_t i, details = 0, texts = 0
    cdef uint32_t timeout_ms
    cdef Told told
    cdef Job *job
    cdef bytes name
    buf_init(b)
    try:
        buf_need(b, 64 + n)
        mp_array(b, 7)
        w8(b, JOBS_FRAME)
        mp_str(b, PyBytes_AS_STRING(q.name), PyBytes_GET_SIZE(q.name))
        buf_need(b, 16)
        mp_array(b, <uint32_t>len(kinds))
        for kind in kinds:
            name = table.type_names[kind]
            mp_str(b, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        mp_bin(b, kind_of, n if len(kinds) > 1 else 0)
        buf_need(b, 16 + TOKEN_BYTES * n)
        mp_bin_head(b, <uint32_t>(TOKEN_BYTES * n))
        for i in range(n):
            job = job_at(table.slots, picked[i])
            w64(b, job.id_hi)
            w64(b, job.id_lo)
            w64(b, <uint64_t>job.lease_lsn)
            if job.flags & F_MORE:
                texts += job.options.size
                details += 1
            else:
                details += job.attempts != 1 or job.deadline_us != 0 or q.soft_timeout_ms != 0
        mp_array(b, <uint32_t>n)
        for i in range(n):
            job = job_at(table.slots, picked[i])
            mp_bin(b, job.payload.data, job.payload.size)
        buf_need(b, 16 + 120 * details + texts)
        mp_map(b, <uint32_t>details)
        for i in range(n):
            job = job_at(table.slots, picked[i])
            if job.attempts == 1 and not job.deadline_us and not q.soft_timeout_ms and (
                    not job.flags & F_MORE):
                continue
            timeout_ms = job.timeout_ms if job.timeout_ms else q.timeout_ms
            mp_uint(b, i)
            mp_map(b, 3 + (q.soft_timeout_ms != 0) + ((job.flags & F_MORE) != 0))
            mp_str(b, b"attempt", 7)
            mp_uint(b, job.attempts)
            mp_str(b, b"timeout_ms", 10)
            mp_uint(b, timeout_ms)
            mp_str(b, b"deadline_us", 11)
            mp_uint(b, job.deadline_us)
            if q.soft_timeout_ms:
                mp_str(b, b"soft_timeout_ms", 15)
                mp_uint(b, q.soft_timeout_ms)
            if job.flags & F_MORE:
                told_read(&told, job.options.data, job.options.size)
                mp_str(b, b"more", 4)
                mp_bin(b, told.more, told.more_size)
        return PyBytes_FromStringAndSize(<char *>b.data, b.size)
    finally:
        buf_free(b)


cdef dict attempt_view(ShardTable table, const Attempt *run):
    cdef uint64_t hi, lo
    cdef bytes output = blob_bytes(run.output)
    cdef bint good = run.status == RUN_SUCCEEDED
    execution_id_into(run.job_hi, run.job_lo, run.number, run.started_us, &hi, &lo)
    return {
        "id": id_bytes(hi, lo),
        "job_id": id_bytes(run.job_hi, run.job_lo),
        "worker_id": table._worker_id(run.worker),
        "status": RUN_STATES[run.status],
        "output": output if good else None,
        "error": None if good else output,
        "attempt_number": run.number,
        "started_us": run.started_us,
        "finished_us": run.finished_us,
    }


cdef int attempts_of(
    ShardTable table, Attempts attempts, uint64_t hi, uint64_t lo, bint running, list found) except -1:
    """Add the views of the finished attempts of one job."""
    cdef Py_ssize_t i
    for i in range(attempts.head, attempts.end):
        if attempts.data[i].job_lo == lo and attempts.data[i].job_hi == hi:
            if running or attempts.data[i].status != RUN_STARTED:
                found.append(attempt_view(table, &attempts.data[i]))
    return 0


cdef Py_ssize_t grow_taken(Projection p, Py_ssize_t room) except -1:
    cdef uint32_t *slots
    cdef int64_t *lsns
    room = max(256, room * 2)
    slots = <uint32_t *>realloc(p.slots, room * sizeof(uint32_t))
    if slots == NULL:
        raise MemoryError()
    p.slots = slots
    lsns = <int64_t *>realloc(p.lsns, room * sizeof(int64_t))
    if lsns == NULL:
        raise MemoryError()
    p.lsns = lsns
    return room


cdef class Collector:
    """The rows of a projection while they are written."""

    cdef ShardTable table
    cdef Buf jobs_copy, jobs_merge, runs_copy, runs_merge, deletes
    cdef Py_ssize_t jobs_copy_rows, jobs_merge_rows, runs_copy_rows, runs_merge_rows

    def __dealloc__(self):
        buf_free(&self.jobs_copy)
        buf_free(&self.jobs_merge)
        buf_free(&self.runs_copy)
        buf_free(&self.runs_merge)
        buf_free(&self.deletes)

    cdef int take(self, Projection p, uint32_t slot, Job *job) except -1:
        """Write the row of a job, as the history of its queue says, and its held attempts."""
        cdef ShardTable table = self.table
        cdef QueueState q = <QueueState>PyList_GET_ITEM(table.queues, job.queue)
        cdef Buf *out
        cdef Attempts held
        cdef Attempt *run
        cdef Py_ssize_t i
        if job.state >= SUCCEEDED and not (
                q.history == HISTORY_ALL or (q.history == HISTORY_FAILED and job.state != SUCCEEDED)
                or job.flags & F_KEEP):
            if job.flags & F_ROW:
                buf_need(&self.deletes, 24)
                w64(&self.deletes, job.id_hi)
                w64(&self.deletes, job.id_lo)
                w64(&self.deletes, <uint64_t>job.lsn)
            return 0
        if job.flags & F_ROW:
            out = &self.jobs_merge
            self.jobs_merge_rows += 1
        else:
            out = &self.jobs_copy
            self.jobs_copy_rows += 1
        put_job_row(
            out, job, table.shard, q.id_hi, q.id_lo, q.project_hi, q.project_lo,
            <bytes>PyList_GET_ITEM(table.type_names, job.type),
            table._worker_id(job.worker) if job.state == PROCESSING else None,
            table.reasons[job.reason])
        job.flags = (job.flags & <uint8_t>~F_ROW_DUE) | F_ROW | (
            F_ROW_DUE if job.state == SCHEDULED else 0)
        if job.state >= SUCCEEDED:
            return 0
        if table.held and slot in table.held:
            held = table.held.pop(slot)
            for i in range(held.head, held.end):
                self.attempt(&held.data[i])
            p.attempts.move(held, held.end - held.head)
        if job.state == PROCESSING and q.history != HISTORY_NONE:
            run = p.attempts.push()
            table._running_attempt(job, run)
            self.attempt(run)
            job.flags |= F_RUN_ROW
        return 0

    cdef int attempt(self, const Attempt *run) except -1:
        cdef Buf *out
        if run.may_exist:
            out = &self.runs_merge
            self.runs_merge_rows += 1
        else:
            out = &self.runs_copy
            self.runs_copy_rows += 1
        put_attempt_row(out, run, self.table.shard, self.table._worker_id(run.worker))
        return 0

    cdef int finish(self, Projection p) except -1:
        p.jobs_copy = taken_bytes(&self.jobs_copy)
        p.jobs_merge = taken_bytes(&self.jobs_merge)
        p.executions_copy = taken_bytes(&self.runs_copy)
        p.executions_merge = taken_bytes(&self.runs_merge)
        p.deletes = taken_bytes(&self.deletes)
        p.jobs_copy_rows, p.jobs_merge_rows = self.jobs_copy_rows, self.jobs_merge_rows
        p.executions_copy_rows = self.runs_copy_rows
        p.executions_merge_rows = self.runs_merge_rows
        return 0


cdef bytes taken_bytes(Buf *b):
    cdef bytes data = PyBytes_FromStringAndSize(<char *>b.data, b.size) if b.size else b""
    buf_free(b)
    return data


# --- bytes of others ----------------------------------------------------------------------------

def split_tokens(bytes tokens not None):
    """The tokens by the shard number in their job id, in their order."""
    cdef Py_ssize_t i, n = PyBytes_GET_SIZE(tokens), start = 0
    cdef int shard, current = -1
    cdef dict shards = {}
    if n % TOKEN_BYTES:
        raise ValueError(f"{n} bytes are no row of tokens")
    for i in range(0, n, TOKEN_BYTES):
        shard = shard_of_hi(tf_rd64(at(tokens) + i))
        if shard != current:
            if i > start:
                shards.setdefault(current, []).append(tokens[start:i])
            current, start = shard, i
    if n > start:
        shards.setdefault(current, []).append(tokens[start:n])
    return {shard: b"".join(parts) for shard, parts in shards.items()}


cdef Py_ssize_t first_row(bytes data) except -1:
    """Where the rows begin: behind the header, if there is one."""
    if not data.startswith(COPY_SIGNATURE):
        return 0
    if PyBytes_GET_SIZE(data) < 19:
        raise ValueError("the data end within the header")
    return 19 + <int>tf_rd32(at(data) + 15)


cdef Py_ssize_t next_row(const unsigned char *p, Py_ssize_t start, Py_ssize_t size) except -1:
    """Where the row that begins at `start` ends; 0 when there is none but the trailer."""
    cdef Py_ssize_t end
    if start >= size:
        return 0
    end = row_end(p, start, size)
    if end == -2 and <int16_t>tf_rd16(p + start) == -1:
        if start + 2 != size:
            raise ValueError(f"{size - start - 2} bytes after the trailer")
        return 0
    if end < 0:
        raise ValueError(f"the row at byte {start} is cut or damaged")
    return end


def split_rows(bytes data not None):
    """(start, end) of each row of binary COPY. A header and a trailer are allowed.

    Raises ValueError when the data are cut or damaged.
    """
    cdef Py_ssize_t start = first_row(data), end
    cdef list rows = []
    while (end := next_row(at(data), start, PyBytes_GET_SIZE(data))):
        rows.append((start, end))
        start = end
    return rows
