"""What a committed log row says to those who follow its jobs.

    body ──► event of a job that is here? ──► its queue is followed, and has room left ──► told
                                         │                  └── no room ──► counted
                                         └──► the job itself is followed ──► told, always

Events of other jobs and queues cost a walk over their bytes and one look-up; no object stands for
them. What users wrote (payloads, results, errors) is left out. The plain twin is `pure/followed.py`.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp

from taskforge_server.ext.buf cimport tf_be64, tf_rd64
from taskforge_server.ext.scan cimport Scan, scan_array, scan_bin, scan_int, scan_str
from taskforge_server.ext.slots cimport NONE, Job, job_at
from taskforge_server.ext.table cimport ShardTable
from taskforge_server.ext.tableparts cimport QueueState

cdef enum:
    BODY_HEAD_BYTES = 5
    ID_BYTES = 16
    TEXT_BYTES_MAX = 255         # of what is told: reasons are short, what is longer was written by users

cdef int64_t UNKNOWN = -2
cdef int64_t UNFOLLOWED = -1


cdef int skip(Scan *s) noexcept:
    """Pass over one value that stands in an event."""
    cdef uint32_t n
    cdef uint8_t c
    if s.p >= s.end:
        s.bad = True
        return 0
    c = s.p[0]
    if c == 0xc0 or c == 0xc2 or c == 0xc3:
        s.p += 1
    elif 0xc4 <= c <= 0xc6:
        scan_bin(s, &n)
    elif 0xa0 <= c <= 0xbf or 0xd9 <= c <= 0xdb:
        scan_str(s, &n)
    else:
        scan_int(s)
    return 0


cdef object value(Scan *s):
    """A number or a short text; None for anything else."""
    cdef uint32_t n
    cdef uint8_t c = s.p[0] if s.p < s.end else 0xc1
    cdef const unsigned char *p
    if c == 0xc0 or 0xc4 <= c <= 0xc6:
        skip(s)
        return None
    if 0xa0 <= c <= 0xbf or 0xd9 <= c <= 0xdb:
        p = scan_str(s, &n)
        if s.bad or n > TEXT_BYTES_MAX:
            return None
        return PyBytes_FromStringAndSize(<const char *>p, n).decode(errors="replace")
    if c == 0xc2 or c == 0xc3:
        s.p += 1
        return c == 0xc3
    return scan_int(s)


cdef bint among(const unsigned char *job, const unsigned char *ids, Py_ssize_t count) noexcept:
    """Whether the id stands in the row, which is in order."""
    cdef Py_ssize_t low = 0, high = count, middle
    cdef int order
    while low < high:
        middle = (low + high) // 2
        order = memcmp(ids + middle * ID_BYTES, job, ID_BYTES)
        if order == 0:
            return True
        if order < 0:
            low = middle + 1
        else:
            high = middle
    return False


cdef bytes id_of(uint64_t hi, uint64_t lo):
    cdef unsigned char raw[16]
    tf_be64(raw, hi)
    tf_be64(raw + 8, lo)
    return PyBytes_FromStringAndSize(<char *>raw, ID_BYTES)


cdef class Queues:
    """What is known of the queues of one table during a walk, each looked up when it is met."""

    cdef ShardTable table
    cdef dict rooms
    cdef int64_t *left
    cdef list ids
    cdef dict over

    def __cinit__(self, ShardTable table, dict rooms):
        cdef Py_ssize_t i, count = len(table.queues)
        self.table, self.rooms, self.over = table, rooms, {}
        self.ids = [None] * count
        self.left = <int64_t *>malloc((count + 1) * sizeof(int64_t))
        if self.left == NULL:
            raise MemoryError()
        for i in range(count):
            self.left[i] = UNKNOWN

    def __dealloc__(self):
        free(self.left)

    cdef bytes id(self, uint32_t queue):
        cdef QueueState q = self.table.queues[queue]
        if self.ids[queue] is None:
            self.ids[queue] = id_of(q.id_hi, q.id_lo)
        return self.ids[queue]

    cdef bint take(self, uint32_t queue) except -1:
        """Whether an event of the queue is to be told."""
        cdef QueueState q
        if self.left[queue] == UNKNOWN:
            q = self.table.queues[queue]
            room = self.rooms.get(self.id(queue))
            if room is None:
                room = self.rooms.get(id_of(q.project_hi, q.project_lo))
            self.left[queue] = UNFOLLOWED if room is None else max(0, room)
        if self.left[queue] == UNFOLLOWED:
            return False
        if self.left[queue] == 0:
            name = self.id(queue)
            self.over[name] = self.over.get(name, 0) + 1
            return False
        self.left[queue] -= 1
        return True


def followed(ShardTable table not None, bytes body not None, dict rooms not None, bytes jobs not None):
    """(time that the events count from, what is told, how much there was no room for by queue).

    `rooms`: how many events to tell of a followed queue, by the id of the queue or of its project;
    `jobs`: the ids of followed jobs, in order. What is told of an event: the id of its queue, its job
    type, and its fields, None for all but numbers and short texts, but for the id of the job. The
    body is one that the table has given, and is committed just now: its jobs are here.
    """
    cdef Scan s
    cdef uint32_t n, i, fields, slot, queue
    cdef Py_ssize_t count, k, job_count = PyBytes_GET_SIZE(jobs) // ID_BYTES
    cdef const unsigned char *id_at
    cdef const unsigned char *job_ids = <const unsigned char *>PyBytes_AS_STRING(jobs)
    cdef int64_t base_us, kind
    cdef Job *job
    cdef Queues queues = Queues(table, rooms)
    cdef list told = []
    cdef bint is_job
    s.p = <const unsigned char *>PyBytes_AS_STRING(body) + BODY_HEAD_BYTES
    s.end = <const unsigned char *>PyBytes_AS_STRING(body) + PyBytes_GET_SIZE(body)
    s.bad = False
    scan_array(&s)
    skip(&s)
    base_us = scan_int(&s)
    for k in range(3):
        n = scan_array(&s)
        for i in range(n):
            skip(&s)
    count = scan_int(&s)
    for k in range(count):
        fields = scan_array(&s)
        kind = scan_int(&s)
        if s.bad or fields < 2:
            raise ValueError("not a body of a log row")
        id_at, is_job = NULL, False
        if s.p < s.end and s.p[0] == 0xc4:
            id_at = scan_bin(&s, &n)
            is_job = not s.bad and n == ID_BYTES
        else:
            skip(&s)
        slot = table.slots.find(tf_rd64(id_at), tf_rd64(id_at + 8)) if is_job else NONE
        if slot != NONE:
            job = job_at(table.slots, slot)
            queue = job.queue
            if (job_count and among(id_at, job_ids, job_count)) or queues.take(queue):
                event = [kind, PyBytes_FromStringAndSize(<const char *>id_at, ID_BYTES)]
                for i in range(fields - 2):
                    event.append(value(&s))
                told.append((queues.id(queue), table.type_texts[job.type], event))
                continue
        for i in range(fields - 2):
            skip(&s)
    if s.bad:
        raise ValueError("not a body of a log row")
    return base_us, told, queues.over
