"""The live jobs of a shard and how events change them: the only code that changes a job's state.

A live decision and a replayed log row take the same way through `Fold._fold`, so that
`fold(log) == live` holds by construction. Invariant: a job stands in the lane of its queue and
state exactly while it is open, and in `_dirty` while it has an event that no projection took.
"""

from collections import defaultdict

from taskforge_server.ext.pure import ids
from taskforge_server.ext.pure.groups import QueueLimits, key_in, key_of
from taskforge_server.ext.pure.tablejob import (
    CANCELLED,
    FAILED,
    FINAL,
    HISTORY_ALL,
    HISTORY_NONE,
    MOVES,
    NO_WORKER,
    PENDING,
    PROCESSING,
    RETRYING,
    SCHEDULED,
    STARTED,
    SUCCEEDED,
    Attempt,
    Job,
    Queue,
    TransitionError,
)
from taskforge_server.ext.pure.tablelog import (
    I64_MAX,
    RETURNS_MAX,
    Cancelled,
    Changed,
    Event,
    Failed,
    JobEvent,
    Keyed,
    Owned,
    Released,
    Requeued,
    Retried,
    Returned,
    Started,
    Stopped,
    Submitted,
    Succeeded,
)
from taskforge_server.ext.pure.tableparts import ID_BYTES, check_id

HELD_ATTEMPTS_MAX = 100
NO_PROJECT = bytes(ID_BYTES)


class Fold:
    """Jobs, their lanes, finished attempts and keys that no projection took."""

    def __init__(self, shard: int, seed: int) -> None:
        self._ids = ids.IdSource(shard, seed)
        self._queues: list[Queue] = []
        self._workers: list[bytes] = []
        self._jobs: dict[bytes, Job] = {}
        self._in: defaultdict[tuple[int, str], dict[bytes, Job]] = defaultdict(dict)
        # By the index of their queue; those in which a limit was relieved by the end of a job; and
        # up to when the limits take everything for used.
        self._limits: dict[int, QueueLimits] = {}
        self._roused: list[int] = []
        # Queues whose jobs change their lanes: how many places were looked at.
        self._walked: dict[int, int] = {}
        self._floor_us = 0
        self._owned_lsn = I64_MAX
        # id -> (time, lsn) of the first event that no projection took, oldest first.
        self._dirty: dict[bytes, tuple[int, int]] = {}
        # Attempts and keys that no projection took, with the lsn of the event that put them here.
        self._over: list[tuple[int, Attempt]] = []
        self._keys: list[tuple[int, Keyed]] = []
        # Jobs whose options were told and hold `more`, in order; a set.
        self._marked: dict[bytes, None] = {}

    def _queue_of(self, queue_id: bytes, project_id: bytes) -> int:
        for index, queue in enumerate(self._queues):
            if queue.id == queue_id:
                return index
        self._queues.append(Queue(queue_id, project_id, "", 0, HISTORY_ALL))
        return len(self._queues) - 1

    def worker(self, worker_id: bytes) -> int:
        check_id("worker_id", worker_id)
        if worker_id not in self._workers:
            self._workers.append(worker_id)
        return self._workers.index(worker_id)

    def _worker_id(self, job: Job) -> bytes | None:
        return None if job.worker == NO_WORKER else self._workers[job.worker]

    def _started_before(self, job: Job) -> None:
        """A stored job: who started it may have been an earlier owner."""
        if job.lsn < self._owned_lsn:
            self._floor_us = max(self._floor_us, job.started_us)

    def _fold(self, lsn: int, event: Event, replayed: bool) -> bool:
        """Apply an event; False when a replayed one says nothing new."""
        if isinstance(event, Owned) or (replayed and isinstance(event, Started)):
            self._floor_us = max(self._floor_us, event.at_us)
        if isinstance(event, Owned):
            if not replayed:
                self._owned_lsn = lsn
            return True
        if isinstance(event, Keyed):
            self._keys.append((lsn, event))
            return True
        job = self._jobs.get(event.job_id)
        if replayed and job is not None and lsn <= job.row_lsn:
            return False
        if isinstance(event, Submitted):
            if job is not None:
                return False
            job = self._submitted(event)
        elif isinstance(event, Requeued):
            job = self._requeued(event, job)
        elif job is None:
            return False  # its final state was projected before the log was cut
        else:
            self._move(lsn, job, event, replayed)
        job.lsn = lsn
        job.updated_us = event.at_us
        job.may_exist |= replayed
        self._dirty.setdefault(job.id, (event.at_us, lsn))
        return True

    def _submitted(self, e: Submitted) -> Job:
        job = Job(
            id=e.job_id,
            queue=self._queue_of(e.queue_id, NO_PROJECT),
            job_type=e.job_type,
            priority=e.priority,
            payload=e.payload,
            options=e.options,
            max_attempts=e.max_attempts,
            timeout_ms=e.timeout_ms,
            created_us=e.at_us,
            due_us=e.due_us,
        )
        self._add(job, SCHEDULED if e.due_us > e.at_us else PENDING)
        return job

    def _requeued(self, e: Requeued, old: Job | None) -> Job:
        if old is not None:
            check_move(old, "requeued")
        job = Job(
            id=e.job_id,
            queue=self._queue_of(e.queue_id, NO_PROJECT),
            job_type=e.job_type,
            priority=e.priority,
            payload=e.payload,
            options=e.options,
            max_attempts=e.max_attempts,
            timeout_ms=e.timeout_ms,
            created_us=e.created_us,
            attempt=e.attempt,
            crashes=e.crashes,
            returns=e.returns,
            lease_lsn=old.lease_lsn if old is not None else 0,
            may_exist=True,
        )
        self._add(job, PENDING)
        return job

    def _add(self, job: Job, status: str) -> None:
        self._ids.see(job.id)
        self._jobs[job.id] = job
        self._mark(job)
        self._enter(job, status)

    def _mark(self, job: Job) -> None:
        """The job was told its options."""
        if "more" in job.told:
            self._marked[job.id] = None

    def _enter(self, job: Job, status: str) -> None:
        """Put the job into the lane of that state; final ones stand in none."""
        lane = self._in[job.queue, job.status]
        limited = self._limits.get(job.queue)
        waits = status in (PENDING, PROCESSING)
        if limited is not None and waits:
            limited.came(job, self._members(job))
        if lane.pop(job.id, None) is not None and limited is not None:
            self._left(job, limited, waits)
        job.status = status
        if status not in FINAL:
            self._in[job.queue, status][job.id] = job

    def _left(self, job: Job, limited: QueueLimits, waits: bool) -> None:
        """Out of the lane of its state: another job may start, or its group has no member."""
        moving = job.queue in self._walked
        if job.status == PROCESSING and job.queue not in self._roused and not moving:
            running, pending = self._in[job.queue, PROCESSING], self._in[job.queue, PENDING]
            if limited.frees(job, list(running.values()), list(pending.values())):
                self._roused.append(job.queue)
        if job.status in (PENDING, PROCESSING) and not waits and not self._members(job):
            limited.went(job, lambda key: bool(self._members_of(job.queue, key)))

    def _members(self, job: Job) -> list[Job]:
        """The jobs of its group that wait or run."""
        return self._members_of(job.queue, key_of(job))

    def _members_of(self, queue: int, key: str) -> list[Job]:
        lanes = (self._in[queue, PENDING], self._in[queue, PROCESSING])
        return [job for lane in lanes for job in lane.values() if key_of(job) == key]

    def _move(self, lsn: int, job: Job, event: JobEvent, replayed: bool) -> None:
        check_move(job, type(event).__name__.lower())
        match event:
            case Started() as e:
                job.attempt = e.attempt
                job.started_us = e.at_us
                job.deadline_us = e.deadline_us
                job.worker = self.worker(e.worker_id)
                job.lease_lsn = lsn
                job.attempt_may_exist = replayed
                self._enter(job, PROCESSING)
            case Succeeded() as e:
                job.output = e.result
                self._end_attempt(lsn, job, e.at_us, SUCCEEDED, replayed)
                self._end(lsn, job, e.at_us, SUCCEEDED)
            case Retried() as e:
                job.output = e.error
                job.due_us = e.due_us
                self._end_attempt(lsn, job, e.at_us, RETRYING, replayed)
                self._enter(job, SCHEDULED)
            case Failed() as e:
                job.output = e.error
                job.reason = e.reason
                self._end_attempt(lsn, job, e.at_us, FAILED, replayed)
                self._end(lsn, job, e.at_us, FAILED)
            case Released() as e:
                job.output = e.error
                job.crashes += 1
                self._end_attempt(lsn, job, e.at_us, RETRYING, replayed)
                self._enter(job, PENDING)
            case Returned() as e:
                job.output = e.error
                job.returns = min(job.returns + 1, RETURNS_MAX)
                job.due_us = e.due_us or job.due_us
                self._end_attempt(lsn, job, e.at_us, RETRYING, replayed)
                self._enter(job, SCHEDULED if e.due_us else PENDING)
            case Changed() as e:
                self._change(job, e)
            case Stopped() as e:
                job.output = e.error
                job.reason = e.reason
                self._end_attempt(lsn, job, e.at_us, FAILED, replayed)
                self._end(lsn, job, e.at_us, CANCELLED)
            case Cancelled() as e:
                job.reason = e.reason
                self._end(lsn, job, e.at_us, CANCELLED)

    def _change(self, job: Job, e: Changed) -> None:
        check_change(job, e)
        if e.options is not None:
            self._change_options(job, e.options or None)
            self._mark(job)
        if e.payload is not None:
            job.payload = e.payload
        if e.priority >= 0:
            job.priority = e.priority
        if e.deadline_us >= 0:
            job.deadline_us = e.deadline_us
        if e.due_us >= 0:
            job.due_us = e.due_us
            self._enter(job, SCHEDULED if e.due_us > e.at_us else PENDING)

    def _change_options(self, job: Job, options: bytes | None) -> None:
        """A job that waits or runs may become one of another group."""
        limited = self._limits.get(job.queue)
        before, after = key_in(job.options), key_in(options)
        groups = limited is not None and limited.limits.keys_matter
        if limited is None or not groups or before == after or job.status == SCHEDULED:
            job.options = options
            return
        lane = self._in[job.queue, job.status]
        del lane[job.id]
        self._left(job, limited, False)
        job.options = options
        limited.came(job, self._members(job))
        lane[job.id] = job

    def _end(self, lsn: int, job: Job, at_us: int, status: str) -> None:
        """The job is over: attempts that were held are kept or dropped."""
        job.finished_us = at_us
        self._enter(job, status)
        if self._queues[job.queue].keeps_attempts(job, status):
            self._over += [(lsn, attempt) for attempt in job.held]
        job.held.clear()

    def _end_attempt(self, lsn: int, job: Job, at_us: int, status: str, replayed: bool) -> None:
        """The running attempt is over; the job's output is its result or error already."""
        attempt = self._running_attempt(job)
        attempt.status = status
        attempt.finished_us = at_us
        attempt.lsn = lsn
        attempt.may_exist |= replayed
        if status == SUCCEEDED:
            attempt.output = job.output
        else:
            attempt.error = job.output
        history = self._queues[job.queue].history_of(job)
        if history == HISTORY_NONE:
            return
        job.held.append(attempt)
        if history == HISTORY_ALL:
            self._over += [(lsn, attempt) for attempt in job.held]
            job.held.clear()
        elif len(job.held) > HELD_ATTEMPTS_MAX:
            oldest = job.held.pop(0)
            if oldest.may_exist:  # a sweep may have written it as it ran: say how it ended
                self._over.append((lsn, oldest))

    def _running_attempt(self, job: Job) -> Attempt:
        return Attempt(
            job_id=job.id,
            worker_id=self._worker_id(job),
            number=job.attempt,
            status=STARTED,
            output=None,
            error=None,
            started_us=job.started_us,
            finished_us=0,
            lsn=job.lease_lsn,
            may_exist=job.attempt_may_exist,
        )


def check_change(job: Job, e: Changed) -> None:
    """What is to change must matter to a job in that state."""
    check_move(job, "changed")
    waiting = e.due_us >= 0 or e.priority >= 0 or e.payload is not None
    running = e.deadline_us >= 0
    if waiting if job.status == PROCESSING else running:
        raise TransitionError(job.id, job.status, "changed")


def check_move(job: Job, move: str) -> None:
    if job.status not in MOVES[move]:
        raise TransitionError(job.id, job.status, move)
