"""One shard in memory, in plain Python: the oracle of the compiled table, clear rather than fast.

Every decision is an event. It is gathered for the log and folded into the state by the same code
that replays a log (`tablefold`).

    decisions ──event──► gathered batch ──take_batch──► log ──committed──► collect ──► Projection
        │                                                                                  │
        └──────────► jobs, lanes, finished attempts ◄──────────────projected───────────────┘

A job is dirty from its first event that no projection took. It is freed when its final state is in
the tables. The watermark says up to which lsn the tables know all; it never passes a dirty job.

Choices that the interface leaves open:
- `due` gives queue indexes in ascending order; which of several jobs of one time it moves first is
  open; `expired` and `running` promise no order; a job is
  expired when its deadline is not later than now. `executions` are in order of their number.
- `start` stops before a job whose type would be the 257th in the frame, and before one that was
  started in the batch that gathers: its lease would have the same name. A frame gives attempt,
  timeout and deadline of jobs whose attempt is not the first or that have a deadline.
- `watch` says whether the job is resident, also when it is final. Requeueing ends a watch.
- `requeue` wants a queue that is defined here. A resident job's state counts, not that of the dict.
- The history setting decides about attempts when they end, about rows when they are collected; when
  less is to be kept from now on, jobs without a row take along what was written of them. Held
  attempts are also written when the open job is swept, since the watermark passes them then. Under
  history `none` there are no attempts at all, running ones neither.
- `change` says nothing of what does not matter in the job's state: a time, priority or payload only
  while it waits, a deadline only while it runs. Anything else is a TransitionError.
- `take_marked` gives a job once, however often it was marked, in the order of the first time.
- `regroup` is said to be over when so many places were looked at as the first jobs of a compiled
  table stand in; until then nothing of the queue starts. Where a job stands does not show.
- `next_due_us` passes over jobs that are held.
- An event that does not fit the state of its job makes `replay` raise TransitionError; the log
  contradicts itself and the table is of no more use. `replay` counts all events but ignored ones.
- A projection without rows is given when jobs were taken that keep none. `rows` counts all rows.
- In a projection, executions of swept jobs stand before the finished attempts.
- `committed` below the known lsn is ignored, beyond the taken one an error; `projected` out of turn
  is an error. `load` registers an unknown queue with the row's project.
- `SubmitBatch.bytes_total` counts payloads and options; an empty list of tags is a NULL column.
"""

from collections.abc import Callable, Iterable
from typing import Any

import msgpack

from taskforge_server.ext.pure import ids
from taskforge_server.ext.pure.groups import Limits, QueueLimits
from taskforge_server.ext.pure.tableaway import Pages
from taskforge_server.ext.pure.tablefold import NO_PROJECT, check_change, check_move
from taskforge_server.ext.pure.tablejob import (
    FINAL,
    HISTORY_ALL,
    HISTORY_FAILED,
    HISTORY_NONE,
    MOVES,
    NO_WORKER,
    PENDING,
    PROCESSING,
    SCHEDULED,
    STARTED,
    Attempt,
    Job,
    Queue,
    TransitionError,
    job_of_row,
    read_job_rows,
)
from taskforge_server.ext.pure.tablelog import (
    I32_MAX,
    NEVER_US,
    PRIORITY_MAX,
    BodyError,
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
    decode,
    encode,
)
from taskforge_server.ext.pure.tableparts import (
    ANY_WORKER,
    GOLDEN,
    ID_BYTES,
    TOKEN_BYTES,
    Nonces,
    Projection,
    Rows,
    SubmitBatch,
    check_id,
    check_payloads,
    check_range,
    each_token,
    split_tokens,
)
from taskforge_server.ext.pure.tablerows import split_rows
from taskforge_server.ext.pure.tablewaiting import Waiting

__all__ = [
    "NEVER_US",
    "BodyError",
    "Projection",
    "ShardTable",
    "SubmitBatch",
    "TransitionError",
    "split_rows",
    "split_tokens",
]

FRAME_TYPES_MAX = 256
DAY_US = 86_400_000_000
SLOT_BYTES = 160  # what a slot counts in bytes_resident
JOBS_FRAME = 11


class ShardTable(Pages, Waiting):
    """The live jobs of one shard, the events that wait for the log, and what the tables miss."""

    def __init__(self, shard: int, seed: int) -> None:
        super().__init__(shard, seed)
        self.committed_lsn = 0
        self.gathering_lsn = 1
        self._nonces = Nonces(seed ^ GOLDEN)
        self._gathered: list[Event] = []
        self._counted: list[tuple[bytes, int, int]] = []
        self._watermark = 0

    @property
    def jobs_resident(self) -> int:
        return len(self._jobs)

    @property
    def bytes_resident(self) -> int:
        return sum(SLOT_BYTES + job.content_bytes for job in self._jobs.values())

    @property
    def unprojected(self) -> int:
        under_way = {job_id for p in self._under_way for job_id, _ in p._jobs}
        return len(under_way | self._dirty.keys())

    @property
    def ended(self) -> int:
        return sum(job.status in FINAL for job in self._jobs.values())

    @property
    def gathered_events(self) -> int:
        return len(self._gathered)

    def adopt(self, head_lsn: int) -> None:
        """The log's head is ours: all up to it is durable, the next batch goes above it."""
        if self._gathered or head_lsn < self.gathering_lsn - 1:
            raise ValueError(f"cannot adopt {head_lsn} at {self.gathering_lsn}")
        self.committed_lsn = head_lsn
        self.gathering_lsn = head_lsn + 1

    # --- configuration --------------------------------------------------------------------------

    def queue(
        self,
        queue_id: bytes,
        project_id: bytes,
        name: str,
        timeout_ms: int,
        history: int,
        soft_timeout_ms: int = 0,
        limits: tuple[int, ...] | None = None,
        born_us: int = 0,
        looks_max: int = I32_MAX,
    ) -> int:
        """Define or update a queue; its index stays."""
        check_id("queue_id", queue_id)
        check_id("project_id", project_id)
        check_range("timeout_ms", timeout_ms, 0, I32_MAX)
        check_range("history", history, HISTORY_NONE, HISTORY_ALL)
        check_range("soft_timeout_ms", soft_timeout_ms, 0, I32_MAX)
        wanted = Limits.read(limits)
        index = self._queue_of(queue_id, project_id)
        if index in self._limits or wanted.any:
            limited = self._limits.setdefault(index, QueueLimits())
            limited.born_us = born_us
            if wanted.keys_matter != limited.limits.keys_matter:
                self._walked[index] = 0
            limited.tune(wanted)
            self.regroup(index, looks_max)
        if history < self._queues[index].history:
            # Attempts may be in the tables before their job: one that is not kept takes them along.
            for job in self._jobs.values():
                job.may_exist |= job.queue == index
        self._queues[index] = Queue(
            queue_id, project_id, name, timeout_ms, history, soft_timeout_ms
        )
        return index

    def _check_worker(self, worker: int) -> None:
        check_range("worker index", worker, 0, len(self._workers) - 1)

    def owned(self, node: str, epoch: int, now_us: int) -> None:
        self._decide(Owned(node, epoch, now_us))

    # --- decisions ------------------------------------------------------------------------------

    def _decide(self, event: Event) -> None:
        self._gathered.append(event)
        self._fold(self.gathering_lsn, event, replayed=False)

    def submit(
        self,
        queue: int,
        batch: SubmitBatch,
        now_us: int,
        seal: Callable[[bytes, list[bytes]], list[bytes]] | None = None,
    ) -> bytes:
        self._check_queue(queue)
        job_ids = [self._ids.next(now_us) for _ in batch._jobs]
        payloads = [new.payload for new in batch._jobs]
        if seal is not None:
            payloads = seal(b"".join(job_ids), payloads)
            check_payloads(payloads, batch.count)
        for job_id, new, payload in zip(job_ids, batch._jobs, payloads, strict=True):
            self._decide(
                Submitted(
                    job_id=job_id,
                    queue_id=self._queues[queue].id,
                    job_type=new.job_type,
                    priority=new.priority,
                    at_us=now_us,
                    due_us=new.due_us,
                    timeout_ms=new.timeout_ms,
                    max_attempts=new.max_attempts,
                    payload=payload,
                    options=new.options,
                )
            )
        return b"".join(job_ids)

    def keyed(self, project_id: bytes, key: str, body_hash: bytes, ids: bytes, now_us: int) -> None:
        check_id("project_id", project_id)
        if len(ids) % ID_BYTES:
            raise ValueError(f"{len(ids)} bytes are no row of ids")
        self._decide(Keyed(project_id, key, body_hash, now_us, ids))

    def start(
        self, queue: int, types: frozenset[str] | None, worker: int, most: int, now_us: int
    ) -> tuple[bytes, int]:
        self._check_queue(queue)
        self._check_worker(worker)
        chosen: list[Job] = []
        names: list[str] = []
        limited = self._look(queue, now_us)
        if limited is not None:
            most = min(most, limited.allowed(len(self._in[queue, PROCESSING])))
        if queue in self._walked:
            return b"", 0
        frontier = self._frontier(queue, types)
        while len(chosen) < most and (ready := self._startable(queue, types)):
            job = ready[0]
            if job.lease_lsn == self.gathering_lsn:
                break
            if frontier is not None and job.order > frontier:
                break
            if job.job_type not in names:
                if len(names) == FRAME_TYPES_MAX:
                    break
                names.append(job.job_type)
            chosen.append(job)
            if limited is not None:
                limited.charge(job)
            timeout_ms = self._timeout_ms(job)
            deadline_us = now_us + timeout_ms * 1000 if timeout_ms else 0
            self._decide(
                Started(job.id, self._workers[worker], job.attempt + 1, now_us, deadline_us)
            )
        return (self._jobs_frame(queue, chosen), len(chosen)) if chosen else (b"", 0)

    def _timeout_ms(self, job: Job) -> int:
        return job.timeout_ms or self._queues[job.queue].timeout_ms

    def _jobs_frame(self, queue: int, jobs: list[Job]) -> bytes:
        """The JOBS message of the worker stream."""
        names = list(dict.fromkeys(job.job_type for job in jobs))
        kinds = bytes(names.index(job.job_type) for job in jobs) if len(names) > 1 else b""
        soft_timeout_ms = self._queues[queue].soft_timeout_ms
        details = {}
        for index, job in enumerate(jobs):
            more = job.told.get("more")
            if job.attempt != 1 or job.deadline_us or soft_timeout_ms or more is not None:
                details[index] = {
                    "attempt": job.attempt,
                    "timeout_ms": self._timeout_ms(job),
                    "deadline_us": job.deadline_us,
                }
                if soft_timeout_ms:
                    details[index]["soft_timeout_ms"] = soft_timeout_ms
                if more is not None:
                    details[index]["more"] = more
        tokens = b"".join(job.token for job in jobs)
        payloads = [job.payload for job in jobs]
        frame: bytes = msgpack.packb(
            [JOBS_FRAME, self._queues[queue].name, names, kinds, tokens, payloads, details]
        )
        return frame

    def succeed(
        self, tokens: bytes, now_us: int, worker: int = ANY_WORKER
    ) -> tuple[int, bytes, list[bytes]]:
        accepted = 0
        stale = []
        watched = []
        for token in each_token(tokens):
            job = self._leased(token)
            if job is None or worker not in (ANY_WORKER, job.worker):
                stale.append(token)
                continue
            self._decide(Succeeded(job.id, now_us, None))
            accepted += 1
            if job.watched:
                watched.append(job.id)
        return accepted, b"".join(stale), watched

    def succeed_with(self, token: bytes, result: bytes | None, now_us: int) -> bool:
        return self._finish(token, lambda job: Succeeded(job.id, now_us, result))

    def retried(self, token: bytes, due_us: int, error: bytes, now_us: int) -> bool:
        check_range("due_us", due_us, 1, NEVER_US)
        return self._finish(token, lambda job: Retried(job.id, now_us, due_us, error))

    def failed(self, token: bytes, reason: str, error: bytes, now_us: int) -> bool:
        return self._finish(token, lambda job: Failed(job.id, now_us, reason, error))

    def released(self, token: bytes, error: bytes, now_us: int) -> bool:
        return self._finish(token, lambda job: Released(job.id, now_us, error))

    def returned(self, token: bytes, error: bytes, now_us: int, due_us: int = 0) -> bool:
        check_range("due_us", due_us, 0, NEVER_US)
        return self._finish(token, lambda job: Returned(job.id, now_us, error, due_us))

    def stopped(self, token: bytes, reason: str, error: bytes, now_us: int) -> bool:
        return self._finish(token, lambda job: Stopped(job.id, now_us, reason, error))

    def _finish(self, token: bytes, event: Callable[[Job], JobEvent]) -> bool:
        job = self._leased(token)
        if job is None:
            return False
        self._decide(event(job))
        return True

    def _leased(self, token: bytes) -> Job | None:
        """The job that runs under this lease."""
        if len(token) != TOKEN_BYTES:
            raise ValueError(f"a token of {len(token)} bytes")
        job = self._jobs.get(token[:ID_BYTES])
        if job is None or job.status != PROCESSING or job.token != token:
            return None
        return job

    def cancelled(self, job_id: bytes, reason: str, now_us: int) -> bool:
        check_id("job_id", job_id)
        job = self._jobs.get(job_id)
        if job is None:
            return False
        check_move(job, "cancelled")
        self._decide(Cancelled(job_id, now_us, reason))
        return True

    def change(
        self,
        job_id: bytes,
        now_us: int,
        *,
        due_us: int = -1,
        priority: int = -1,
        payload: bytes | None = None,
        options: bytes | None = None,
        deadline_us: int = -1,
    ) -> bool:
        check_id("job_id", job_id)
        check_range("due_us", due_us, -1, NEVER_US)
        check_range("priority", priority, -1, PRIORITY_MAX)
        check_range("deadline_us", deadline_us, -1, NEVER_US)
        if payload is not None:
            check_range("bytes of payload", len(payload), 1, I32_MAX)
        job = self._jobs.get(job_id)
        if job is None:
            return False
        event = Changed(job_id, now_us, due_us, priority, payload, options, deadline_us)
        check_change(job, event)
        self._decide(event)
        return True

    def take_marked(self, most: int = I32_MAX) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        for job_id in list(self._marked):
            if len(found) == most:
                break
            del self._marked[job_id]
            job = self._jobs.get(job_id)
            if job and job.status not in FINAL and job.options and "more" in job.told:
                found.append((job.id, job.options))
        return found

    def requeue(self, job: dict[str, Any], now_us: int) -> None:
        self._check_own(job["id"])
        index = next((i for i, q in enumerate(self._queues) if q.id == job["queue_id"]), None)
        if index is None:
            raise ValueError("the job's queue is not defined here")
        resident = self._jobs.get(job["id"])
        if resident is not None:
            check_move(resident, "requeued")
        elif job["status"] not in MOVES["requeued"]:
            raise TransitionError(job["id"], job["status"], "requeued")
        self._decide(
            Requeued(
                job_id=job["id"],
                queue_id=job["queue_id"],
                job_type=job["job_type"],
                priority=job["priority"],
                at_us=now_us,
                created_us=job["created_us"],
                timeout_ms=job["timeout_ms"],
                max_attempts=job["max_attempts"],
                attempt=job["attempt"],
                crashes=job["crashes"],
                returns=job["returns"],
                payload=job["payload"],
                options=job["options"],
            )
        )

    # --- time, leases, questions ----------------------------------------------------------------

    def _check_own(self, job_id: bytes) -> None:
        check_id("job id", job_id)
        if ids.shard_of(job_id) != self.shard:
            raise ValueError(f"a job of shard {ids.shard_of(job_id)}, this is {self.shard}")

    def due(self, now_us: int, most: int) -> tuple[int, list[int]]:
        """Up to `most` scheduled jobs whose time has come go to their lanes, the earliest first;
        how many did, and the queues touched."""
        due = [job for job in self._all_in(SCHEDULED) if job.due_us <= now_us]
        due = sorted(due, key=lambda job: job.due_us)[:most]
        for job in due:
            self._enter(job, PENDING)
        return len(due), sorted({job.queue for job in due})

    def next_due_us(self) -> int:
        times = (job.due_us for job in self._all_in(SCHEDULED))
        return min((due_us for due_us in times if due_us < NEVER_US), default=0)

    def expired(self, now_us: int) -> list[bytes]:
        return [job.token for job in self._all_in(PROCESSING) if 0 < job.deadline_us <= now_us]

    def running(self, worker: int) -> list[bytes]:
        self._check_worker(worker)
        return [job.token for job in self._all_in(PROCESSING) if job.worker == worker]

    def holds(self, token: bytes, worker: int = ANY_WORKER) -> bool:
        job = self._leased(token)
        return job is not None and worker in (ANY_WORKER, job.worker)

    def watch(self, job_id: bytes, on: bool) -> bool:
        check_id("job_id", job_id)
        job = self._jobs.get(job_id)
        if job is None:
            return False
        job.watched = on
        return True

    def _all_in(self, status: str) -> list[Job]:
        lanes = (self._in[queue, status] for queue in range(len(self._queues)))
        return [job for lane in lanes for job in lane.values()]

    def counts(self, queue: int) -> tuple[int, int, int]:
        self._check_queue(queue)
        pending, scheduled, processing = (
            max(0, len(self._in[queue, status]) + self._away_in(queue, status))
            for status in (PENDING, SCHEDULED, PROCESSING)
        )
        return pending, scheduled, processing

    def project_of(self, job_id: bytes) -> bytes | None:
        check_id("job_id", job_id)
        job = self._jobs.get(job_id)
        return None if job is None else self._queues[job.queue].project_id

    def peek(self, job_id: bytes) -> tuple[str, int, str, int, bytes | None] | None:
        check_id("job_id", job_id)
        job = self._jobs.get(job_id)
        if job is None:
            return None
        return job.status, job.attempt, job.job_type, job.created_us, job.options

    def open_jobs(
        self, queue: int, start: int, most: int, looks_max: int
    ) -> tuple[list[bytes], int]:
        """Places are those in the order of ids: good for a table that stands still."""
        self._check_queue(queue)
        everyone = sorted(self._jobs)
        found: list[bytes] = []
        place = max(0, start)
        last = min(len(everyone), place + looks_max)
        while place < last and len(found) < most:
            job = self._jobs[everyone[place]]
            if job.status not in FINAL and job.queue == queue:
                found.append(job.id)
            place += 1
        return found, place if place < len(everyone) else -1

    def get(self, job_id: bytes) -> dict[str, Any] | None:
        check_id("job_id", job_id)
        job = self._jobs.get(job_id)
        return None if job is None else self._view(job)

    def snapshot(self) -> list[dict[str, Any]]:
        return [self._view(self._jobs[job_id]) for job_id in sorted(self._jobs)]

    def _view(self, job: Job) -> dict[str, Any]:
        return job.view(self._queues[job.queue], self._worker_id(job))

    def executions(self, job_id: bytes) -> list[dict[str, Any]]:
        check_id("job_id", job_id)
        attempts = [a for p in self._under_way for a in p._attempts if a.status != STARTED]
        attempts += [attempt for _, attempt in self._over]
        job = self._jobs.get(job_id)
        if job is not None:
            attempts += job.held
            if job.status == PROCESSING:
                attempts.append(self._running_attempt(job))
        mine = [attempt for attempt in attempts if attempt.job_id == job_id]
        return [attempt.view() for attempt in sorted(mine, key=lambda attempt: attempt.number)]

    # --- the log --------------------------------------------------------------------------------

    def take_batch(self) -> tuple[int, int, bytes] | None:
        if not self._gathered:
            return None
        lsn, events = self.gathering_lsn, self._gathered
        self._gathered = []
        self.gathering_lsn += 1
        return lsn, len(events), encode(self._nonces.next(), events)

    def committed(self, lsn: int) -> None:
        if lsn >= self.gathering_lsn:
            raise ValueError(f"lsn {lsn} was not taken yet")
        self.committed_lsn = max(self.committed_lsn, lsn)

    def replay(self, lsn: int, body: bytes) -> int:
        head = self.gathering_lsn - 1
        if self._gathered or self.committed_lsn != head:
            raise ValueError("a table with decisions of its own cannot replay")
        if lsn < 1 or (head and lsn != head + 1):
            raise BodyError(f"lsn {lsn} does not follow {head}")
        batch = decode(body)
        for event in batch.events:
            if isinstance(event, JobEvent) and ids.shard_of(event.job_id) != self.shard:
                raise BodyError("a job of another shard")
        for queue_id in batch.queues:
            self._queue_of(queue_id, NO_PROJECT)
        for worker_id in batch.workers:
            self.worker(worker_id)
        applied = sum(self._fold(lsn, event, replayed=True) for event in batch.events)
        self._count_submitted(batch.events)
        self.committed_lsn = lsn
        self.gathering_lsn = lsn + 1
        return applied

    def take_submitted(self) -> list[tuple[bytes, int, int]]:
        taken, self._counted = self._counted, []
        return taken

    def _count_submitted(self, events: Iterable[Event]) -> None:
        """One entry for each run of events with the same queue and day."""
        for event in events:
            if isinstance(event, Submitted):
                queue_id, day = event.queue_id, event.at_us // DAY_US
                count = 1
                if self._counted and self._counted[-1][:2] == (queue_id, day):
                    count += self._counted.pop()[2]
                self._counted.append((queue_id, day, count))

    # --- the tables -----------------------------------------------------------------------------

    def load(self, data: bytes) -> int:
        rows = read_job_rows(data)
        known = self._jobs.keys() & {row["id"] for row in rows}
        if known or len({row["id"] for row in rows}) != len(rows):
            raise ValueError("a job that is resident already, or stands there twice")
        for row in rows:
            self._check_own(row["id"])
        for row in rows:
            queue = self._queue_of(row["queue_id"], row["project_id"])
            worker = NO_WORKER if row["worker_id"] is None else self.worker(row["worker_id"])
            job = job_of_row(row, queue, worker)
            self._started_before(job)
            self._add(job, job.status)
        return len(rows)

    def collect(self, rows_max: int, settled_us: int) -> Projection | None:
        check_range("rows_max", rows_max, 1, I32_MAX)
        taken = self._take_dirty(rows_max, settled_us)
        under_way = {job_id for p in self._under_way for job_id, _ in p._jobs}
        jobs, attempts, deletes = self._take_rows(taken)
        # Attempts go with their jobs or before them; those that ended later wait with theirs.
        cut_off = len(taken) == rows_max
        newest = max(job.lsn for job in taken) if cut_off else self.committed_lsn
        attempts += _take_committed(self._over, newest)
        keys = _take_committed(self._keys, self.committed_lsn)
        oldest = min((lsn for _, lsn in self._dirty.values()), default=self.committed_lsn + 1)
        watermark = max(self._watermark, min(oldest - 1, self.committed_lsn))
        if not (taken or attempts or keys) and watermark == self._watermark:
            return None
        self._watermark = watermark
        executions = Rows()
        for attempt in attempts:
            executions.add(attempt.row(self.shard), attempt.may_exist)
        projection = Projection(
            shard=self.shard,
            watermark=watermark,
            jobs_copy=jobs.copy_parts,
            jobs_copy_rows=len(jobs.copy),
            jobs_merge=jobs.merge_parts,
            jobs_merge_rows=len(jobs.merge),
            executions_copy=executions.copy_parts,
            executions_copy_rows=len(executions.copy),
            executions_merge=executions.merge_parts,
            executions_merge_rows=len(executions.merge),
            jobs_copy_ms=jobs.copy_ms,
            executions_copy_ms=executions.copy_ms,
            deletes=b"".join(deletes),
            overlaps=not self._confirmed or any(job.id in under_way for job in taken),
            keys=[(k.project_id, k.key, k.body_hash, k.job_ids, k.at_us) for k in keys],
            _jobs=[(job.id, job.lsn) for job in taken],
            _attempts=attempts,
        )
        self._under_way.append(projection)
        return projection

    def _take_dirty(self, rows_max: int, settled_us: int) -> list[Job]:
        """Jobs to write now, oldest change first; they are dirty no more."""
        taken = []
        for job_id, (dirty_us, _) in self._dirty.items():
            job = self._jobs[job_id]
            durable = job.lsn <= self.committed_lsn
            if durable and (job.status in FINAL or dirty_us <= settled_us):
                taken.append(job)
            if len(taken) == rows_max:
                break
        for job in taken:
            del self._dirty[job.id]
        return taken

    def _take_rows(self, taken: Iterable[Job]) -> tuple[Rows, list[Attempt], list[bytes]]:
        """Rows and deletes of these jobs, and the attempts that go with the open ones."""
        jobs = Rows()
        attempts: list[Attempt] = []
        deletes = []
        for job in taken:
            queue = self._queues[job.queue]
            if job.status in FINAL and not queue.keeps_row(job):
                if job.may_exist:
                    deletes.append(job.id + job.lsn.to_bytes(8, "big"))
                continue
            row = job.row(queue, self._worker_id(job), self.shard)
            jobs.add(row, job.may_exist, job.status not in FINAL)
            job.may_exist = True
            job.row_status = job.status
            attempts += job.held
            job.held.clear()
            if job.status == PROCESSING and queue.history >= HISTORY_FAILED:
                attempts.append(self._running_attempt(job))
                job.attempt_may_exist = True
        return jobs, attempts, deletes


def _take_committed(waiting: list[tuple[int, Any]], committed_lsn: int) -> list[Any]:
    """Remove and give what is durable."""
    taken = [item for lsn, item in waiting if lsn <= committed_lsn]
    waiting[:] = [(lsn, item) for lsn, item in waiting if lsn > committed_lsn]
    return taken
