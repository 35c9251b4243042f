"""Jobs that are away: waiting ones that memory let go, because their row says all of them.

                     release, release_scheduled
          resident ─────────────────────────────► away: the row in `jobs` is all there is of the job
             ▲                                       │
             └──────── page_in, fault_in ────────────┘

Only a job may leave that waits, of which the tables know all (it is not dirty and in no projection
under way), whose row says the same state (that a job came due is no event), that nobody watches and
that was told nothing special (`more`).

- Of each lane, the jobs of one type in one queue, all that are away stand behind a *place*. Who
  waits there too leaves as soon as the tables know it (`projected`). Nothing
  behind it starts, nor does anything behind it in other lanes that the same worker takes: who
  starts a job has seen all that comes before it. Reading the next rows moves the place on.
- All scheduled jobs that are away are due behind another place, a time and an id.
- Rows are read while nothing leaves memory (`begin_reading`, `end_reading`): what ended meanwhile
  is freed afterwards, some at each call, and until all have gone nobody reads anew. So a row that
  comes is of a job that is here, and is passed over, or true.
- A queue in which group keys matter lets nobody go: who starts next rests on all of its keys.
- Nobody changes a job that is away: a command brings it here first (`fault_in`).
- A new owner knows nothing of what is away but its lanes; how many there are is counted while the
  shard works already (`count_away`), so the numbers may be below zero until then.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from taskforge_server.ext.pure import ids
from taskforge_server.ext.pure.tablefold import Fold
from taskforge_server.ext.pure.tablejob import (
    FINAL,
    NO_WORKER,
    PENDING,
    PROCESSING,
    SCHEDULED,
    Job,
    job_of_row,
    read_job_rows,
    read_page_rows,
)
from taskforge_server.ext.pure.tablelog import (
    I32_MAX,
    I64_MAX,
    NEVER_US,
    PRIORITY_MAX,
    JobEvent,
    Submitted,
    decode,
)
from taskforge_server.ext.pure.tableparts import Projection, check_id, check_range

Lane = tuple[int, str]
Place = tuple[int, bytes]
"""In the order of starts: what is left of the greatest priority, and an id."""

BEGINNING: Place = (0, bytes(16))
LAST_ID = b"\xff" * 16


@dataclass(slots=True)
class Away:
    """Of one lane: behind which place jobs are away, and how far the reading under way is."""

    place: Place | None = None
    read: int = -1


class Pages(Fold):
    """What the table adds to its jobs so that not all of them must be here."""

    def __init__(self, shard: int, seed: int) -> None:
        super().__init__(shard, seed)
        self.shard = shard
        self.reading = False
        self.departures = 0
        self._lanes: dict[Lane, Away] = {}
        self._away: dict[tuple[int, str], int] = {}
        self._come = False  # what was read; those that stayed for it leave
        self._leaving: dict[bytes, None] = {}
        self._due_place: tuple[int, bytes] | None = None
        self._under_way: deque[Projection] = deque()
        self._confirmed = False  # no projection of this table is in the tables yet

    def _away_in(self, queue: int, status: str) -> int:
        return self._away.get((queue, status), 0)

    def _count(self, queue: int, status: str, number: int) -> None:
        self._away[queue, status] = self._away_in(queue, status) + number

    def _frontier(self, queue: int, types: frozenset[str] | None) -> Place | None:
        """Behind this place no job of these types starts; None: nothing is away."""
        places = [
            away.place
            for (index, job_type), away in self._lanes.items()
            if index == queue and away.place is not None and (types is None or job_type in types)
        ]
        return min(places, default=None)

    def _lane(self, queue: int, job_type: str) -> Away:
        check_range("queue index", queue, 0, len(self._queues) - 1)
        return self._lanes.setdefault((queue, job_type), Away())

    def _in_lanes(self, queue: int) -> list[Job]:
        """The queue's pending jobs; none where they wait by their group keys instead, or change
        their lanes."""
        limited = self._limits.get(queue)
        grouped = limited is not None and limited.limits.keys_matter
        return [] if grouped or queue in self._walked else list(self._in[queue, PENDING].values())

    def _waiting(self, queue: int, job_type: str) -> list[Job]:
        jobs = self._in_lanes(queue)
        return sorted((j for j in jobs if j.job_type == job_type), key=lambda job: job.order)

    # --- leaving --------------------------------------------------------------------------------

    @property
    def away_jobs(self) -> int:
        return sum(self._away.values())

    def release(self, queue: int, job_type: str, keep: int, most: int) -> int:
        lane = self._lane(queue, job_type)
        self._check_leave()
        waiting = self._waiting(queue, job_type)
        leaving = [job for job in waiting[keep:] if not self._stays(job)] if keep >= 0 else []
        leaving = leaving[max(0, len(leaving) - most) :] if most > 0 else []
        if leaving:
            first = leaving[0]
            before = (first.order[0], (int.from_bytes(first.id) - 1).to_bytes(16))
            lane.place = before if lane.place is None else min(lane.place, before)
        self._let_go(leaving)
        return len(leaving)

    def release_scheduled(self, after_us: int) -> int:
        self._check_leave()
        leaving = [
            job
            for queue in range(len(self._queues))
            for job in self._in[queue, SCHEDULED].values()
            if after_us < job.due_us < NEVER_US and not self._stays(job)
        ]
        if leaving and (self._due_place is None or after_us < self._due_place[0]):
            self._due_place = (after_us, LAST_ID)
        self._let_go(leaving)
        return len(leaving)

    def projected(self, p: Projection, whole: bool = False) -> None:
        """It is in the tables: jobs unchanged since then are clean, final ones are freed. `whole`:
        the tables took every row, so those that wait behind others that are away leave as well."""
        if not self._under_way or self._under_way[0] is not p:
            raise ValueError("projections are confirmed once each, in order")
        self._under_way.popleft()
        self._confirmed = True
        known = [self._jobs[job_id] for job_id, lsn in p._jobs if self._is_at(job_id, lsn)]
        for job in [job for job in known if job.status in FINAL]:
            if self.reading:
                self._leaving[job.id] = None
            else:
                del self._jobs[job.id]
        for job in [job for job in known if whole and self._may_leave(job)]:
            if self.reading:
                self._leaving[job.id] = None
            else:
                self._let_go([job])

    def _is_at(self, job_id: bytes, lsn: int) -> bool:
        """Whether this is the newest that is known of the job."""
        job = self._jobs.get(job_id)
        return job is not None and job.lsn == lsn

    def _check_leave(self) -> None:
        if self.reading:
            raise ValueError("nothing leaves while rows are read")

    def _stays(self, job: Job) -> bool:
        known = job.id not in self._dirty and job.id not in self._projecting()
        return not known or job.row_status != job.status or job.watched or "more" in job.told

    def _may_leave(self, job: Job) -> bool:
        """Whether it waits behind others that are away, and its row says all of it."""
        if job.status != PENDING or self._stays(job) or job not in self._in_lanes(job.queue):
            return False
        place = self._lane(job.queue, job.job_type).place
        return place is not None and job.order > place

    def _projecting(self) -> dict[bytes, None]:
        """The jobs of which a projection is under way."""
        return dict.fromkeys(job_id for p in self._under_way for job_id, _ in p._jobs)

    def _let_go(self, leaving: Iterable[Job]) -> None:
        for job in leaving:
            del self._jobs[job.id]
            del self._in[job.queue, job.status][job.id]
            self._count(job.queue, job.status, 1)
            self.departures += 1

    # --- reading --------------------------------------------------------------------------------

    def begin_reading(self) -> None:
        if self.reading:
            raise ValueError("rows are being read already")
        self.reading, self._come = True, False

    def end_reading(self, rows_max: int = 0, most: int = I32_MAX) -> bool:
        if not self.reading:
            raise ValueError("no rows are being read")
        self._come = True
        for lane in self._lanes.values():
            if 0 <= lane.read < rows_max:
                lane.place = None
            lane.read = -1
        under_way = self._projecting()
        for job_id in list(self._leaving)[:most]:
            del self._leaving[job_id]
            job = self._jobs[job_id]
            if job.status not in FINAL:
                self._let_go([job] if self._may_leave(job) else [])
            elif job_id not in self._dirty and job_id not in under_way:
                del self._jobs[job_id]
        self.reading = bool(self._leaving)
        return not self.reading

    def _check_reading(self) -> None:
        if not self.reading or self._come:
            raise ValueError("no rows are being read")

    def place(self, queue: int, job_type: str) -> tuple[int, bytes]:
        lane = self._lane(queue, job_type)
        if not self.reading or self._come or lane.place is None:
            raise ValueError("nothing of this lane is to be read")
        lane.read = 0
        return PRIORITY_MAX - lane.place[0], lane.place[1]

    def page_in(self, data: bytes) -> int:
        return self._bring(read_job_rows(data), PENDING, I64_MAX)

    def next_in(self, queue: int, job_type: str, data: bytes) -> int:
        known = self._queues[queue]
        lane = {"queue_id": known.id, "project_id": known.project_id, "job_type": job_type}
        return self._bring([row | lane for row in read_page_rows(data)], PENDING, I64_MAX)

    def due_in(self, data: bytes) -> int:
        return self._bring(read_job_rows(data), SCHEDULED, I64_MAX)

    def fault_in(self, data: bytes, counted_lsn: int = I64_MAX) -> int:
        return self._bring(read_job_rows(data), None, counted_lsn)

    def _bring(self, rows: list[dict[str, Any]], ordered: str | None, counted_lsn: int) -> int:
        """`ordered`: the state in whose order the rows come."""
        self._check_reading()
        for row in rows:
            check_id("job id", row["id"])
            if ids.shard_of(row["id"]) != self.shard:
                raise ValueError(f"a job of shard {ids.shard_of(row['id'])}, not {self.shard}")
            if row["status"] == PROCESSING or ordered not in (None, row["status"]):
                raise ValueError("a job that does not wait")
            queue = self._queue_of(row["queue_id"], row["project_id"])
            if ordered == PENDING:
                self._read_on(queue, row)
            elif ordered == SCHEDULED:
                self._due_place = (row["scheduled_for"], row["id"])
            if row["id"] not in self._jobs:
                if row["lsn"] <= counted_lsn:
                    self._count(queue, row["status"], -1)
                job = job_of_row(row, queue, NO_WORKER)
                self._started_before(job)
                self._add(job, job.status)
        return len(rows)

    def _read_on(self, queue: int, row: dict[str, Any]) -> None:
        """The reading of a lane has come to this row."""
        lane = self._lane(queue, row["job_type"])
        place = (PRIORITY_MAX - row["priority"], row["id"])
        if place <= (BEGINNING if lane.place is None else lane.place):
            raise ValueError("rows out of order")
        lane.place = place
        lane.read = max(lane.read, 0) + 1

    # --- what is away ---------------------------------------------------------------------------

    def due_place(self) -> tuple[int, bytes] | None:
        return self._due_place

    def due_read(self, until_us: int, job_id: bytes) -> None:
        check_id("job_id", job_id)
        check_range("until_us", until_us, 0, I64_MAX)
        self._due_place = None if until_us == I64_MAX else (until_us, job_id)

    def count_away(self, queue_id: bytes, project_id: bytes, pending: int, scheduled: int) -> None:
        check_id("queue_id", queue_id)
        check_id("project_id", project_id)
        queue = self._queue_of(queue_id, project_id)
        self._count(queue, PENDING, pending)
        self._count(queue, SCHEDULED, scheduled)

    def short(self, ahead: int) -> list[tuple[int, bytes, str]]:
        return sorted(
            (lane[0], self._queues[lane[0]].id, lane[1])
            for lane, away in self._lanes.items()
            if away.place is not None
            and sum(job.order <= away.place for job in self._waiting(*lane)) < ahead
        )

    def crowded(self, most: int) -> list[tuple[int, str, int]]:
        sizes: dict[Lane, int] = {}
        for queue in range(len(self._queues)):
            for job in self._in_lanes(queue):
                sizes[queue, job.job_type] = sizes.get((queue, job.job_type), 0) + 1
        return sorted((*lane, size) for lane, size in sizes.items() if size > most)

    def due_at(self, rank: int) -> int:
        lanes = (self._in[queue, SCHEDULED] for queue in range(len(self._queues)))
        times = sorted(job.due_us for lane in lanes for job in lane.values())
        return times[rank] if 0 <= rank < len(times) else 0

    def missing(self, bodies: list[bytes]) -> bytes:
        """Ids of jobs that these log rows change, do not submit, and that are not here."""
        named_in = [event for body in bodies for event in decode(body).events]
        events = [event for event in named_in if isinstance(event, JobEvent)]
        submitted = {event.job_id for event in events if isinstance(event, Submitted)}
        named = dict.fromkeys(event.job_id for event in events)
        return b"".join(i for i in named if i not in submitted and i not in self._jobs)
