"""The live jobs of a shard and how events move them.

                submitted            started               succeeded, failed
    (nothing) ─────────────► pending ───────► processing ────────────────────► succeeded, failed
        │ submitted,         ▲  ▲ │              │   │ retried
        │ due later      due │  │ └─ cancelled   │   │         released,
        └──────────────► scheduled ◄─────────────────┘         returned: processing ──► pending
                             └──── cancelled ────► cancelled   requeued: failed, cancelled ──► pending
                                stopped: processing ──► cancelled

`changed` tells an open job something new; by it a waiting one may become scheduled or pending. A job
that is due at NEVER_US is held: it waits without a time until it is changed.

A live decision and a replayed log row move a job through the same functions, so that fold(log)
equals the live state.
Invariant: an open job stands in exactly one heap: pending in the lane of its queue and type,
scheduled in the due heap, processing in the run heap.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM
from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcmp

from taskforge_server.ext.attempts cimport RUN_RETRYING, RUN_STARTED, RUN_SUCCEEDED
from taskforge_server.ext.buf cimport tf_rd64
from taskforge_server.ext.groups cimport group_key
from taskforge_server.ext.slots cimport (
    F_DIRTY, F_KEEP, F_LOADED, F_MORE, F_ROW, F_RUN_ROW, NONE, SUCCEEDED, blob_new, job_at,
)
from taskforge_server.ext.tableevents cimport RELEASED_EVENT, RETURNS_MAX
from taskforge_server.ext.tableparts cimport (
    HISTORY_ALL, HISTORY_FAILED, HISTORY_NONE, I64_MAX, NO_DEADLINE, at, check, check_id, id_bytes,
    ready_key,
)
from taskforge_server.ext.tableparts import STATES, TransitionError
from taskforge_server.ext.told cimport Told, told_read

cdef enum:
    HELD_ATTEMPTS_MAX = 100
    NAMES_MAX = 65535            # queues, types and reasons of one shard


cdef inline int history_of(QueueState q, const Job *job) noexcept:
    """What is kept of the attempts of this job: of one whose row stays all, if any."""
    return HISTORY_ALL if job.flags & F_KEEP and q.history != HISTORY_NONE else q.history


cdef class Fold:
    """The jobs, and the code that alone changes their state. Not for several threads."""

    def __cinit__(self, int shard, seed):
        self.shard = shard
        self.gathering_lsn, self.owned_lsn = 1, I64_MAX
        self.slots = Slots()
        self.positions = Positions()
        self.due_heap = Heap(self.positions)
        self.run_heap = Heap(self.positions)
        self.ids = IdSource(shard, seed)
        self.queues, self.queue_index = [], {}
        self.type_names, self.type_texts, self.type_index = [], [], {}
        self.workers, self.worker_index = [], {}
        self.reasons, self.reason_index = [None], {}
        self.over = Attempts()
        self.held, self.marked, self.roused = {}, {}, []
        self.last_type = -1

    # --- what jobs name -----------------------------------------------------------------------------

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

    cdef uint32_t _find(self, bytes job_id) except? 0xffffffff:
        check_id("job_id", job_id)
        return self.slots.find(tf_rd64(at(job_id)), tf_rd64(at(job_id) + 8))

    cdef Lane _lane_of(self, QueueState q, int kind):
        if kind < len(q.by_type) and <object>PyList_GET_ITEM(q.by_type, kind) is not None:
            return <Lane>PyList_GET_ITEM(q.by_type, kind)
        return q.lane(<uint16_t>kind, self.type_texts[kind], self.positions)

    # --- one job's moves ----------------------------------------------------------------------------

    cdef int _check_move(self, const Job *job, int allowed, str move) except -1:
        if not (1 << job.state) & allowed:
            raise TransitionError(id_bytes(job.id_hi, job.id_lo), STATES[job.state], move)
        return 0

    cdef int _leave(self, uint32_t slot, Job *job) except -1:
        """Out of the heap of its state."""
        cdef QueueState q = <QueueState>PyList_GET_ITEM(self.queues, job.queue)
        if job.state == PENDING:
            if job.group:
                q.groups.unwait(job.group, slot, job.type)
            else:
                (<Lane>PyList_GET_ITEM(q.by_type, job.type)).heap.remove(slot)
            q.pending -= 1
        elif job.state == SCHEDULED:
            self.due_heap.remove(slot)
            q.scheduled -= 1
        elif job.state == PROCESSING:
            self.run_heap.remove(slot)
            if q.limits.running_max and q.processing >= q.limits.running_max and q.pending:
                self._rouse(job.queue, q)
            if job.group and q.groups.end(job.group):
                self._rouse(job.queue, q)
            q.processing -= 1
        if job.group:
            q.groups.part(job.group)
            job.group = 0
        return 0

    cdef int _rouse(self, int index, QueueState q) except -1:
        """The end of a job lets another one of this queue start."""
        if not q.roused and not q.moving:
            q.roused = True
            self.roused.append(index)
        return 0

    cdef int _enter(self, uint32_t slot, Job *job, int state) except -1:
        """Into a state and its heap, out of the one before."""
        cdef QueueState q = <QueueState>PyList_GET_ITEM(self.queues, job.queue)
        cdef uint32_t group = 0
        if state == PROCESSING and job.state == PROCESSING:
            self.run_heap.remove(slot)
            self.run_heap.push(<uint64_t>job.deadline_us if job.deadline_us else NO_DEADLINE, slot)
            return 0
        if q.grouped and (state == PENDING or state == PROCESSING):
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

    cdef uint32_t _requeued(
        self, uint32_t slot, uint64_t hi, uint64_t lo, int queue, int kind,
        int priority) except? 0xffffffff:
        """The slot of a job that begins anew: the one that it has still, or a fresh one."""
        cdef Job *job
        if slot == NONE:
            slot = self._new(hi, lo, queue, kind, priority)
            job = job_at(self.slots, slot)
            self.ids.see_halves(hi, lo)
        else:
            job = job_at(self.slots, slot)
            job.key = ready_key(priority, hi, lo)
            job.queue, job.type, job.worker = <uint16_t>queue, <uint16_t>kind, NONE
            job.due_us = job.started_us = job.deadline_us = 0
            job.reason = 0
            self.slots.drop_blob(&job.options)
            self.slots.drop_blob(&job.output)
        job.flags = (job.flags & F_DIRTY) | F_ROW
        return slot

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
