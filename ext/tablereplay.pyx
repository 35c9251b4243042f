"""Log rows that are folded into the state, when a node takes the shard over or checks its log.

A body is checked to its end before the first of its events is applied. Events of jobs that are not
here, and those that the row of a job had in it when it was loaded, say nothing new.
"""
import zlib

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from taskforge_server.ext.attempts cimport RUN_FAILED, RUN_RETRYING, RUN_SUCCEEDED
from taskforge_server.ext.buf cimport tf_rd32, tf_rd64
from taskforge_server.ext.ids cimport shard_of_hi
from taskforge_server.ext.scan cimport (
    scan_array, scan_bin, scan_bin_or_nil, scan_int, scan_range, scan_skip, scan_str,
)
from taskforge_server.ext.slots cimport (
    CANCELLED, F_LOADED, FAILED, NONE, PENDING, SCHEDULED, SUCCEEDED, Job, Slots, job_at,
)
from taskforge_server.ext.tableevents cimport (
    BODY_HEAD_BYTES, BODY_VERSION, CANCELLED_EVENT, CHANGED_EVENT, FAILED_EVENT, KEYED_EVENT,
    OWNED_EVENT, RELEASED_EVENT, REQUEUED_EVENT, REQUEUED_FIELDS_BEFORE, RETRIED_EVENT,
    RETURNED_EVENT, RETURNED_FIELDS_DUE, RETURNS_MAX, STARTED_EVENT, STOPPED_EVENT, SUBMITTED_EVENT,
    SUCCEEDED_EVENT,
)
from taskforge_server.ext.tablefold cimport MAY_END, MAY_REQUEUE
from taskforge_server.ext.tableparts cimport (
    I16_MAX, I32_MAX, I64_MAX, NEVER, QueueState, at, id_bytes,
)
from taskforge_server.ext.tableparts import BodyError

cdef int64_t DAY_US = 86_400_000_000
cdef int *EVENT_FIELDS = [0, 11, 6, 4, 5, 5, 4, 4, 14, 6, 4, 4, 8, 5]    # by kind

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
    Replay table, Scan *s, const unsigned char *project, int64_t base_us, int64_t lsn,
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


cdef class Replay(Log):
    """The log as it is read."""

    def __cinit__(self):
        self.submitted = []

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
                slot = self._requeued(slot, hi, lo, queues[queue], types[name], priority)
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
