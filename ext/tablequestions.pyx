"""What is asked of single jobs: where they are, who runs them, all that is known of them."""
from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t

from taskforge_server.ext.attempts cimport (
    RUN_STARTED, RUN_SUCCEEDED, Attempt, Attempts,
)
from taskforge_server.ext.buf cimport tf_be64, tf_rd64
from taskforge_server.ext.ids cimport execution_id_into
from taskforge_server.ext.slots cimport (
    CHUNK_BITS, FREE, NONE, PROCESSING, SUCCEEDED, Job, blob_bytes, job_at,
)
from taskforge_server.ext.tablefold cimport Fold
from taskforge_server.ext.tableparts cimport ANY_WORKER, TOKEN_BYTES, QueueState, at, id_bytes
from taskforge_server.ext.tableparts import STATES
from taskforge_server.ext.tablestored cimport Projection

cdef int64_t SLOT_BYTES = sizeof(Job) + 32     # with its position, heap entry and index
RUN_STATES = ("", "started", "succeeded", "retrying", "failed")

cdef dict attempt_view(Fold table, const Attempt *run):
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
    Fold table, Attempts attempts, uint64_t hi, uint64_t lo, bint running, list found) except -1:
    """Add the views of the finished attempts of one job."""
    cdef Py_ssize_t i
    for i in range(attempts.head, attempts.end):
        if attempts.data[i].job_lo == lo and attempts.data[i].job_hi == hi:
            if running or attempts.data[i].status != RUN_STARTED:
                found.append(attempt_view(table, &attempts.data[i]))
    return 0


cdef bytes token_of(const Job *job):
    cdef unsigned char raw[24]
    tf_be64(raw, job.id_hi)
    tf_be64(raw + 8, job.id_lo)
    tf_be64(raw + 16, <uint64_t>job.lease_lsn)
    return PyBytes_FromStringAndSize(<char *>raw, TOKEN_BYTES)


cdef class Questions(Pages):
    """Nothing here changes a job."""

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
