"""What the tables have of the jobs, and what they miss.

    durable changes ──collect──► Projection ──► the tables ──projected──► clean jobs, free slots
    rows of jobs    ──load─────► jobs

A job is dirty from its first event that no projection took, and freed when its final state is in the
tables. The watermark says up to which lsn the tables know all; it never passes a dirty job.

Projections of different jobs may be written side by side. One that `overlaps` must wait for those
before it: it has a job of one that is not confirmed, or is of a table of which none was confirmed
yet, for those of a table that the shard had before, under an earlier ownership, may be under way.
"""
from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, realloc

from taskforge_server.ext.attempts cimport Attempt
from taskforge_server.ext.buf cimport Buf, buf_free, buf_need, tf_rd64, w64
from taskforge_server.ext.ids cimport shard_of_hi
from taskforge_server.ext.rows cimport (
    FORMS, JobRow, attempt_form, first_row, job_form, next_row, options_of_row, put_attempt_row,
    put_job_row, read_job_row, row_end,
)
from taskforge_server.ext.rows import split_rows
from taskforge_server.ext.slots cimport (
    F_DIRTY, F_KEEP, F_LOADED, F_ROW, F_ROW_DUE, F_RUN_ROW, NONE, PROCESSING, SCHEDULED, SUCCEEDED,
    Job, __builtin_prefetch, job_at, soon,
)
from taskforge_server.ext.tableparts cimport (
    AHEAD, HISTORY_ALL, HISTORY_FAILED, HISTORY_NONE, I32_MAX, QueueState, at, check, id_bytes,
    ready_key,
)


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


cdef bytes taken_bytes(Buf *b):
    cdef bytes data = PyBytes_FromStringAndSize(<char *>b.data, b.size) if b.size else b""
    buf_free(b)
    return data


cdef tuple taken_parts(Buf *parts, int count):
    """What was written into each."""
    return tuple([taken_bytes(&parts[i]) for i in range(count) if parts[i].size])


cdef enum:
    ROW_ID_AT = 6       # number of columns (2), length of the id (4)
    JOB_PARTS = 2 * FORMS   # of jobs that ended in each form, then of open ones


cdef struct Span:
    uint64_t least, greatest    # first halves of ids


cdef inline void reach(Span *span, uint64_t id_hi, bint first) noexcept:
    if first:
        span.least = span.greatest = id_hi
    elif id_hi < span.least:
        span.least = id_hi
    elif id_hi > span.greatest:
        span.greatest = id_hi


cdef tuple span_ms(Span *span):
    return span.least >> 16, span.greatest >> 16


cdef class Collector:
    """The rows of a projection while they are written: those of each form by themselves, and those
    of open jobs, for they stand in another partition."""

    cdef Stored table
    cdef Buf jobs_copy[JOB_PARTS]
    cdef Buf jobs_merge[JOB_PARTS]
    cdef Buf runs_copy[FORMS]
    cdef Buf runs_merge[FORMS]
    cdef Buf deletes
    cdef Py_ssize_t jobs_copy_rows, jobs_merge_rows, runs_copy_rows, runs_merge_rows
    cdef Span jobs_copy_span, runs_copy_span

    def __dealloc__(self):
        cdef int i
        for i in range(JOB_PARTS):
            buf_free(&self.jobs_copy[i])
            buf_free(&self.jobs_merge[i])
        for i in range(FORMS):
            buf_free(&self.runs_copy[i])
            buf_free(&self.runs_merge[i])
        buf_free(&self.deletes)

    cdef int take(self, Projection p, uint32_t slot, Job *job) except -1:
        """Write the row of a job, as the history of its queue says, and its held attempts."""
        cdef Stored table = self.table
        cdef QueueState q = <QueueState>PyList_GET_ITEM(table.queues, job.queue)
        cdef Buf *out
        cdef Attempts held
        cdef Attempt *run
        cdef Py_ssize_t i
        cdef int part
        if job.state >= SUCCEEDED and not (
                q.history == HISTORY_ALL or (q.history == HISTORY_FAILED and job.state != SUCCEEDED)
                or job.flags & F_KEEP):
            if job.flags & F_ROW:
                buf_need(&self.deletes, 24)
                w64(&self.deletes, job.id_hi)
                w64(&self.deletes, job.id_lo)
                w64(&self.deletes, <uint64_t>job.lsn)
            return 0
        part = job_form(job) + (0 if job.state >= SUCCEEDED else FORMS)
        if job.flags & F_ROW:
            out = &self.jobs_merge[part]
            self.jobs_merge_rows += 1
        else:
            out = &self.jobs_copy[part]
            reach(&self.jobs_copy_span, job.id_hi, not self.jobs_copy_rows)
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
        cdef bytes worker_id = self.table._worker_id(run.worker)
        cdef int form = attempt_form(run)
        cdef Buf *out = &self.runs_merge[form] if run.may_exist else &self.runs_copy[form]
        cdef Py_ssize_t start = out.size
        cdef uint64_t id_hi
        put_attempt_row(out, run, self.table.shard, worker_id)
        if run.may_exist:
            self.runs_merge_rows += 1
        else:
            id_hi = tf_rd64(out.data + start + ROW_ID_AT)
            reach(&self.runs_copy_span, id_hi, not self.runs_copy_rows)
            self.runs_copy_rows += 1
        return 0

    cdef int finish(self, Projection p) except -1:
        p.jobs_copy = taken_parts(self.jobs_copy, JOB_PARTS)
        p.jobs_merge = taken_parts(self.jobs_merge, JOB_PARTS)
        p.executions_copy = taken_parts(self.runs_copy, FORMS)
        p.executions_merge = taken_parts(self.runs_merge, FORMS)
        p.deletes = taken_bytes(&self.deletes)
        p.jobs_copy_rows, p.jobs_merge_rows = self.jobs_copy_rows, self.jobs_merge_rows
        p.executions_copy_rows = self.runs_copy_rows
        p.executions_merge_rows = self.runs_merge_rows
        p.jobs_copy_ms = span_ms(&self.jobs_copy_span)
        p.executions_copy_ms = span_ms(&self.runs_copy_span)
        return 0


cdef class Stored(Replay):
    """Rows that come, and rows that go."""

    def __cinit__(self):
        self.under_way, self.leaving = deque(), {}

    @property
    def unprojected(self):
        return self.slots.dirty + self.away

    @property
    def ended(self):
        """Jobs in memory that are over."""
        cdef QueueState q
        cdef int64_t unfinished = 0
        for q in self.queues:
            unfinished += q.pending + q.scheduled + q.processing
        return self.slots.used - unfinished

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
            read_job_row(p + start, &row)
            self._load_row(
                &row, self._queue_of(row.queue_hi, row.queue_lo, row.project_hi, row.project_lo),
                self._type_of(row.type, row.type_size))
            start = row_end(p, start, size)
        return count

    cdef int _load_row(self, const JobRow *row, int queue, int kind) except -1:
        """A job that is not here; `kind`: the index of its type."""
        cdef uint32_t slot
        cdef Job *job
        cdef const Job *source = &row.job
        cdef bytes options = None
        cdef int state
        if row.told:
            options = options_of_row(row)
        slot = self._new(source.id_hi, source.id_lo, queue, kind, row.priority)
        job = job_at(self.slots, slot)
        job.created_us, job.updated_us = source.created_us, source.updated_us
        job.due_us, job.started_us = source.due_us, source.started_us
        job.deadline_us, job.lsn, job.lease_lsn = source.deadline_us, source.lsn, source.lease_lsn
        if job.lsn < self.owned_lsn:  # who started it may have been an earlier owner
            self.floor_us = max(self.floor_us, job.started_us)
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
        p.overlaps = not self.confirmed
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
                p.overlaps |= job.under > 0
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
        self.confirmed = True
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
                    self.leaving[slot] = None
                else:
                    self.slots.free(slot)
