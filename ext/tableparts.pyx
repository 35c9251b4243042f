"""The small parts of the table: new jobs, queues and their lanes, numbers, checks of arguments."""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp

from taskforge_server.ext.buf cimport buf_free, buf_init, buf_need, tf_rd64, wmem
from taskforge_server.ext.ids cimport shard_of_hi

STATES = ("free", "pending", "scheduled", "processing", "succeeded", "failed", "cancelled")


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
