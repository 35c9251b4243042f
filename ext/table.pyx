"""One shard in memory: its live jobs, the events that wait for the log, and what the tables miss.

    decisions ──event──► gathering batch ──take_batch──► log ──committed──► collect ──► Projection
        │                                                                                  │
        └──────────► slots, lanes, finished attempts ◄──────────────projected──────────────┘

The table is one object in layers; each is a class in a module of its own that knows those above it:

    tablefold       the jobs, and how events move them
    tablewaiting    what waits in the queues, and the limits
    tablelog        events on their way to the log
    tablereplay     events that are read from it
    tablestored     rows to and from the tables
    tableaway       jobs that are in the tables alone
    tablequestions  what is asked of single jobs
    table           decisions: each moves jobs and gathers the event that says so

`pure/table.py` is the same in plain Python; tests/unit/ext/test_table_machine.py drives both.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from taskforge_server.ext.attempts cimport RUN_FAILED, RUN_RETRYING, RUN_SUCCEEDED
from taskforge_server.ext.buf cimport (
    Buf, buf_need, mp_bin, mp_int, mp_nil, mp_str, mp_uint, tf_be64, tf_rd64,
)
from taskforge_server.ext.groups cimport Kind, full_ns
from taskforge_server.ext.ids cimport shard_of_hi
from taskforge_server.ext.rows import split_rows
from taskforge_server.ext.slots cimport (
    CANCELLED, F_MORE, F_WATCHED, FAILED, NONE, PENDING, PROCESSING, SCHEDULED, SUCCEEDED, Job,
    blob_bytes, job_at, soon,
)
from taskforge_server.ext.tableevents cimport (
    CANCELLED_EVENT, CHANGED_EVENT, EVENT_BYTES, FAILED_EVENT, RELEASED_EVENT, REQUEUED_EVENT,
    RETRIED_EVENT, RETURNED_EVENT, RETURNED_FIELDS_DUE, STARTED_EVENT, STOPPED_EVENT, SUBMITTED_EVENT,
    SUCCEEDED_EVENT,
)
from taskforge_server.ext.tablefold cimport MAY_REQUEUE
from taskforge_server.ext.tableframe cimport jobs_frame
from taskforge_server.ext.tableparts cimport (
    AHEAD, ANY_WORKER, I32_MAX, NEVER, NO_DEADLINE, NO_FRONTIER, TOKEN_BYTES, Lane, NewJob, QueueState,
    SubmitBatch as Batch, at, check, id_bytes,
)
from taskforge_server.ext.tableparts import BodyError, SubmitBatch, TransitionError, split_tokens

cdef enum:
    FRAME_TYPES_MAX = 256

NEVER_US = NEVER               # the due time of a job that is held


cdef list payloads_of(Batch batch):
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


cdef class ShardTable(Questions):
    """The live jobs of one shard; see the module's text. Not for several threads."""

    def submit(self, queue, Batch batch not None, int64_t now_us, seal=None):
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
        if q.moving:
            return b"", 0
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
            names = [self.type_names[kind] for kind in kinds]
            return (jobs_frame(self.slots, q, names, picked, kind_of, n), n) if n else (b"", 0)
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

    def take_marked(self, Py_ssize_t most=I32_MAX):
        """(job id, options) of the unfinished jobs with `more` that were submitted, changed, replayed
        or loaded, each once: up to `most` of those that no call gave since; none: that was all."""
        cdef uint32_t slot
        cdef Job *job
        cdef list found = []
        while self.giving is not None or self.marked:
            if self.giving is None:
                marked, self.marked = self.marked, {}
                self.giving = iter(marked)
            for job_id in self.giving:
                self.marked.pop(job_id, None)
                slot = self._find(job_id)
                if slot != NONE:
                    job = job_at(self.slots, slot)
                    if job.state < SUCCEEDED and job.flags & F_MORE:
                        found.append((job_id, blob_bytes(job.options)))
                        if len(found) == most:
                            return found
            self.giving = None
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
        slot = self._requeued(
            slot, tf_rd64(at(job_id)), tf_rd64(at(job_id) + 8), queue,
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

    def watch(self, bytes job_id, bint on):
        """Have `succeed` report the end of this job. False: it is not here."""
        cdef uint32_t slot = self._find(job_id)
        cdef Job *job
        if slot == NONE:
            return False
        job = job_at(self.slots, slot)
        job.flags = (job.flags | F_WATCHED) if on else (job.flags & <uint8_t>~F_WATCHED)
        return True
