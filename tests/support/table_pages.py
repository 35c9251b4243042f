"""What the machine of the shard table does with jobs that are away, in the tables alone.

    release, release_scheduled   jobs leave memory
    begin_reading … end_reading  rows are asked for, anything happens, then rows as they were come
    read_due, bring              scheduled jobs in the order of their time; one job, by its id

The oracle is naive: `Model` knows all jobs, wherever they are. What starts must be what would start
if all were here, or the first of it; and nothing ever starts that has begun or ended.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from taskforge_server.ext.pure.tablejob import page_row
from tests.support.table_model import FINAL, PROJECT, TYPES, Model
from tests.support.table_pair import Pair, Projections, Row, Tables

NOTHING_AWAY = (2**63 - 1, b"\xff" * 16)
WAITING = ("pending", "scheduled")


@dataclass
class Reading:
    """Rows on their way to the table, as they were when they were asked for."""

    tables: Tables
    lane: tuple[int, str] | None = None
    place: tuple[int, bytes] = (9, bytes(16))

    def rows(self) -> list[Row]:
        """Those of the lane behind its place."""
        return [
            row
            for row in self.tables.open_rows("pending")
            if (row.values["queue_id"][0], row.values["job_type"]) == self.lane
            and (-row.values["priority"], row.values["id"]) > (-self.place[0], self.place[1])
        ]


class PageRules:
    """Mixed into the machine."""

    pair: Pair
    model: Model
    tables: Tables
    under_way: list[Projections]
    finished: dict[bytes, dict[str, Any]]
    now_us: int
    read: Reading | None
    ending = False
    """The rows have come, but not all have left that stayed for them."""

    @property
    def here(self) -> set[bytes]:
        return {job["id"] for job in self.pair.oracle.snapshot()}

    def bounded(self, queue: int, types: frozenset[str] | None) -> bool:
        """Whether jobs of these types may be away, so that not all that are here may start."""
        return any(
            index == queue and (types is None or job_type in types)
            for index, _, job_type in self.pair.oracle.short(1000)
        )

    def freed(self, before: dict[bytes, dict[str, Any]]) -> None:
        """Of these jobs some left memory: they have ended, or are away."""
        for job_id in before.keys() - self.here:
            if before[job_id]["status"] in FINAL:
                self.finished[job_id] = before[job_id]
                del self.model.jobs[job_id]
        self.left(0)

    # leaving

    def release(self, pick: int, keep: int, most: int, written: bool) -> None:
        """Mostly of a lane that has something."""
        if self.read is not None or self.ending:
            return
        if written:
            self.write(age_us=0)
        lanes = self.pair.call("crowded", 0) or [(pick % 4, TYPES[pick % 3], 0)]
        queue, job_type, _ = sorted(lanes)[pick % len(lanes)]
        count = self.pair.call("release", queue, job_type, keep, most)
        assert count <= most
        self.left(count)

    def release_scheduled(self, after_us: int) -> None:
        if self.read is None and not self.ending:
            self.left(self.pair.call("release_scheduled", self.now_us + after_us))

    def left(self, count: int) -> None:
        """All that is away stands in the tables as it is."""
        here = self.here
        gone = {job_id: job for job_id, job in self.model.jobs.items() if job_id not in here}
        assert len(gone) >= count
        for job_id, job in gone.items():
            row = self.tables.jobs[job_id].values
            assert (row["status"], row["priority"]) == (job.status, job.priority)

    # reading

    def begin_reading(self, pick: int, ahead: bool) -> None:
        """Ask for rows; a projection under way may have been written when they are read."""
        if self.read is not None or self.ending:
            return
        lanes = sorted(self.pair.call("short", 1000))
        self.pair.call("begin_reading")
        tables = copy.deepcopy(self.tables)
        if ahead and self.under_way:
            tables.apply(self.under_way[0].oracle)
        self.read = Reading(tables)
        if lanes:
            queue, queue_id, job_type = lanes[pick % len(lanes)]
            assert queue_id == bytes([queue]) * 16
            self.read.lane = queue, job_type
            self.read.place = self.pair.call("place", queue, job_type)

    def end_reading(self, rows_max: int, cut: bool, leave: int = 99) -> None:
        """What was asked for comes, or some of it and then the connection breaks. Then so many of
        those that stayed for it leave, and others at later calls."""
        if self.ending:
            self.leave(leave)
        if self.read is None:
            return
        read, self.read = self.read, None
        before = {job["id"]: job for job in self.pair.oracle.snapshot()}
        if read.lane is not None:
            rows = read.rows()[: 1 if cut else rows_max]
            data = b"".join(page_row(row.values) for row in rows)
            assert self.pair.call("next_in", *read.lane, data) == len(rows)
        done = self.pair.call("end_reading", 0 if cut or read.lane is None else rows_max, leave)
        self.ending = not done
        self.freed(before)

    def leave(self, most: int) -> None:
        before = {job["id"]: job for job in self.pair.oracle.snapshot()}
        self.ending = not self.pair.call("end_reading", 0, most)
        self.freed(before)
        assert len(before) - len(self.here) <= most

    def read_due(self, rows_max: int) -> None:
        place = self.pair.call("due_place")
        if self.read is not None or self.ending or place is None:
            return
        rows = [row for row in scheduled_rows(self.tables) if due_place_of(row) > place]
        self.pair.call("begin_reading")
        self.pair.call("due_in", joined(rows[:rows_max]))
        if len(rows) <= rows_max:
            self.pair.call("due_read", *NOTHING_AWAY)
        self.pair.call("end_reading")

    def bring(self, pick: int) -> None:
        """As a command does that speaks of one job."""
        self.fault_in(self.job_id(pick, *WAITING))

    def fault_in(self, *job_ids: bytes) -> None:
        rows = [row for row in self.tables.open_rows(*WAITING) if row.values["id"] in job_ids]
        if self.ending:
            self.leave(99)
        if self.read is None:
            self.pair.call("begin_reading")
        self.pair.call("fault_in", joined(rows))
        if self.read is None:
            self.pair.call("end_reading")

    def everything_here(self) -> None:
        """Nothing is away any more."""
        self.end_reading(1, cut=True)
        if self.ending:
            self.leave(99)
        self.fault_in(*self.tables.jobs)
        lanes = self.pair.call("short", 1000)
        self.pair.call("begin_reading")
        for queue, _, job_type in lanes:
            self.pair.call("place", queue, job_type)
        self.pair.call("end_reading", 1)
        self.pair.call("due_read", *NOTHING_AWAY)
        assert self.here >= self.model.jobs.keys()

    # what the machine has

    def write(self, age_us: int) -> None:
        raise NotImplementedError

    def job_id(self, pick: int, *statuses: str) -> bytes:
        raise NotImplementedError


def bring_named(pair: Pair, tables: Tables, bodies: list[bytes]) -> None:
    """Before log rows are replayed: the jobs that they name and that are not here."""
    named = pair.call("missing", bodies)
    ids = {named[at : at + 16] for at in range(0, len(named), 16)}
    rows = [row for row in tables.open_rows(*WAITING) if row.values["id"] in ids]
    pair.call("begin_reading")
    pair.call("fault_in", joined(rows), tables.watermark)
    pair.call("end_reading")


def bring_first(pair: Pair, tables: Tables, first: int) -> None:
    """What a new owner reads: the waiting jobs that must be here, and so many of each lane."""
    lanes: dict[tuple[bytes, str], list[Row]] = {}
    for row in tables.open_rows("pending"):
        lanes.setdefault((row.values["queue_id"], row.values["job_type"]), []).append(row)
    must = [
        row
        for row in tables.open_rows(*WAITING)
        if row.values["options"] is not None
        or (row.values["status"] == "scheduled" and row.values["scheduled_for"] is None)
    ]
    rows = scheduled_rows(tables)
    pair.call("begin_reading")
    pair.call("fault_in", joined(must))
    pair.call("page_in", b"".join(joined(lane[: first + 1]) for lane in lanes.values()))
    pair.call("due_read", 0, bytes(16))
    pair.call("due_in", joined(rows[:first]))
    pair.call("end_reading", first + 1)
    for index in range(4):
        counts = [
            len([row for row in rows if row.lsn <= tables.watermark])
            for status in WAITING
            for rows in [of_queue(tables.open_rows(status), index)]
        ]
        pair.call("count_away", bytes([index]) * 16, PROJECT, *counts)


def of_queue(rows: Iterable[Row], index: int) -> list[Row]:
    return [row for row in rows if row.values["queue_id"][0] == index]


def scheduled_rows(tables: Tables) -> list[Row]:
    """Those that wait for a time, the earliest first."""
    rows = [row for row in tables.open_rows("scheduled") if row.values["scheduled_for"] is not None]
    return sorted(rows, key=due_place_of)


def due_place_of(row: Row) -> tuple[int, bytes]:
    return row.values["scheduled_for"], row.values["id"]


def joined(rows: Iterable[Row]) -> bytes:
    return b"".join(row.data for row in rows)
