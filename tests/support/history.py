"""What clients, handlers, the log and the tables say about a run, and which promises it broke.

    clients     call -> acknowledged with ids | unknown: it may have happened
    handlers    start -> end -> completion acknowledged | refused as stale
    log         events of each shard, dense from 1 on (kept whole for the run)
    tables      jobs and executions, once the projection stands at the head of the log

Times are of CLOCK_MONOTONIC, which all processes of a machine share. Everything here is pure; who
gathers the evidence is in `evidence.py`.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple


class Rule(Enum):
    """The promises, by name."""

    LOST = "an acknowledged job is in the tables"
    UNFINISHED = "an acknowledged job ends as its handler says"
    RAN = "a job that ended so was run by a handler"
    COMPLETED_TWICE = "at most one completion of a job is accepted"
    STARTED_AFTER_END = "a job does not start after its completion was acknowledged"
    STALE_ACCEPTED = "a completion counts under the current lease alone"
    EFFECT_WITHOUT_CAUSE = "what was released stands in the log"
    LOG_BROKEN = "the log is dense, and each event is a legal move"
    TABLES_DIFFER = "the tables say what the log says"
    SUBMITTED_TWICE = "one submit makes one job, and a repeated key gives the same"
    PHANTOM = "every job was asked for by somebody"


class Violation(NamedTuple):
    """A promise that did not hold."""

    rule: Rule
    subject: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule.name} {self.subject}: {self.detail} (promised: {self.rule.value})"


# Clients


@dataclass(slots=True)
class Call:
    """One submit; a repetition with the same key is the same call."""

    name: str
    marks: tuple[str, ...]
    """One for each job, unique in the run; the job's payload carries it."""
    key: str | None
    answers: list[tuple[str, ...]] = field(default_factory=list)
    """The ids of each answer; none: nobody knows whether it was done."""


# Handlers


class Start(NamedTuple):
    """A handler began."""

    job: str
    lease: int
    at_ns: int


class End(NamedTuple):
    """A handler ended by itself: `ok`, `retry` or `fatal`."""

    job: str
    lease: int
    outcome: str
    at_ns: int


class Cancelled(NamedTuple):
    """A client was told that a job is cancelled (`cancelled`), or asked to end (`processing`)."""

    job: str
    status: str
    at_ns: int


class Acked(NamedTuple):
    """The server said that this completion is durable, and was not stale."""

    job: str
    lease: int
    succeeded: bool
    at_ns: int


# Log and tables


class Event(NamedTuple):
    """One event of the log that is about a job."""

    shard: int
    lsn: int
    kind: str
    job: str
    attempt: int = 0


class JobRow(NamedTuple):
    """A row of `jobs`."""

    job: str
    mark: str
    status: str
    attempts: int
    reason: str | None = None


class ExecutionRow(NamedTuple):
    """A row of `job_executions`."""

    job: str
    attempt: int
    status: str


@dataclass(slots=True)
class Run:
    """All the evidence of one run."""

    calls: dict[str, Call] = field(default_factory=dict)
    starts: list[Start] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    cut: list[End] = field(default_factory=list)
    """Attempts that died with their worker: up to the last word of that process they ran."""
    cancelled: list[Cancelled] = field(default_factory=list)
    acked: list[Acked] = field(default_factory=list)
    stale: int = 0
    lsns: dict[int, list[int]] = field(default_factory=dict)
    """Of each shard, in the order of the log."""
    events: list[Event] = field(default_factory=list)
    """By shard and lsn, in the order of the log."""
    jobs: list[JobRow] = field(default_factory=list)
    executions: list[ExecutionRow] = field(default_factory=list)

    @property
    def acknowledged(self) -> dict[str, str]:
        """Mark of every acknowledged job by its id."""
        return {
            job: mark
            for call in self.calls.values()
            for ids in call.answers
            for job, mark in zip(ids, call.marks, strict=True)
        }

    def summary(self) -> str:
        """The size of the run in one line."""
        unknown = sum(not call.answers for call in self.calls.values())
        released = sum(event.kind == "released" for event in self.events)
        return (
            f"{len(self.calls)} calls, {unknown} of them without an answer;"
            f" {len(self.acknowledged)} jobs acknowledged, {len(self.jobs)} in the tables;"
            f" {len(self.starts)} starts, {released} attempts released,"
            f" {len(self.acked)} completions acknowledged, {self.stale} refused as stale"
        )


FINAL_KINDS = {
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
    "stopped": "cancelled",
}
ENDS_ATTEMPT = frozenset({"succeeded", "retried", "failed", "released", "returned", "stopped"})
SUCCESSES = frozenset({"succeeded"})
FAILURES = frozenset({"retried", "failed", "returned", "stopped"})


@dataclass(slots=True)
class Folded:
    """One job by the log alone."""

    status: str
    attempts: int = 0
    finals: int = 0
    lease: int = 0
    """Of the attempt that runs; 0: none."""
    ended: dict[int, str] = field(default_factory=dict)
    """How each attempt ended, by its lease; empty while it runs."""


def wanted_end(mark: str) -> tuple[str, str | None]:
    """Status and reason with which a job of this mark must end: `<task>-<rest>`."""
    if mark.startswith("doomed-"):
        return "failed", "not_retryable"
    cancelled = mark.startswith(("never-", "endless-"))
    return ("cancelled", None) if cancelled else ("succeeded", None)


def check(run: Run) -> list[Violation]:
    """Every promise that this run broke."""
    jobs, found = fold(run.events)
    found += dense(run.lsns)
    for look in (_submits, _ends, _completions, _effects, _tables):
        found += look(run, jobs)
    return found


def fold(events: Iterable[Event]) -> tuple[dict[str, Folded], list[Violation]]:
    """Every job by the log, and the events that are no legal move."""
    jobs: dict[str, Folded] = {}
    found = []
    for event in events:
        problem = _apply(jobs, event)
        if problem:
            where = f"{event.kind} at {event.shard}/{event.lsn} {problem}"
            found.append(Violation(Rule.LOG_BROKEN, event.job, where))
    return jobs, found


def _apply(jobs: dict[str, Folded], event: Event) -> str:
    """Apply one event; what is wrong with it, or nothing."""
    job = jobs.get(event.job)
    if event.kind == "submitted":
        jobs[event.job] = Folded("open")
        return "" if job is None else "of a job that is there"
    if job is None:
        return "of a job that was never submitted"
    if event.kind == "changed":
        return ""
    if event.kind == "requeued":
        job.status, job.finals = "open", 0
        return ""
    if event.kind == "started":
        problem = "" if job.status == "open" and not job.lease else f"while it is {job.status}"
        if event.attempt != job.attempts + 1:
            problem = f"as attempt {event.attempt} after {job.attempts}"
        job.attempts, job.lease, job.status = event.attempt, event.lsn, "open"
        job.ended[event.lsn] = ""
        return problem
    problem = ""
    if event.kind in ENDS_ATTEMPT:
        if not job.lease:
            problem = "without an attempt that runs"
        job.ended[job.lease] = event.kind
        job.lease = 0
    if event.kind in FINAL_KINDS:
        job.finals += 1
        job.status = FINAL_KINDS[event.kind]
    return problem


def dense(lsns: dict[int, list[int]]) -> list[Violation]:
    """Each shard's log goes 1, 2, 3, …"""
    return [
        Violation(Rule.LOG_BROKEN, f"shard {shard}", f"{len(found)} rows up to lsn {found[-1]}")
        for shard, found in lsns.items()
        if found and found != list(range(1, len(found) + 1))
    ]


def _submits(run: Run, jobs: dict[str, Folded]) -> Iterator[Violation]:
    """Nothing acknowledged is lost, nothing is there twice, nothing came from nowhere."""
    rows = {row.job: row for row in run.jobs}
    by_mark: defaultdict[str, list[str]] = defaultdict(list)
    for row in run.jobs:
        by_mark[row.mark].append(row.job)
    asked = {mark for call in run.calls.values() for mark in call.marks}
    for mark, found in by_mark.items():
        if mark not in asked:
            yield Violation(Rule.PHANTOM, mark, f"nobody submitted {found}")
        if len(found) > 1:
            yield Violation(Rule.SUBMITTED_TWICE, mark, f"is the jobs {found}")
    for call in run.calls.values():
        if len(set(call.answers)) > 1:
            yield Violation(Rule.SUBMITTED_TWICE, call.name, f"was answered {set(call.answers)}")
    for job, mark in run.acknowledged.items():
        if job not in rows:
            yield Violation(Rule.LOST, job, f"{mark} was acknowledged and is not in `jobs`")
        elif rows[job].mark != mark:
            yield Violation(Rule.LOST, job, f"holds {rows[job].mark} instead of {mark}")
        if job not in jobs:
            yield Violation(Rule.EFFECT_WITHOUT_CAUSE, job, "was acknowledged, the log lacks it")


def _ends(run: Run, jobs: dict[str, Folded]) -> Iterator[Violation]:
    """Every acknowledged job, and every other that is there, ran and ended."""
    ran = {(end.job, end.outcome) for end in run.ends}
    for row in run.jobs:
        status, reason = wanted_end(row.mark)
        if (row.status, row.reason) != (status, reason):
            detail = f"{row.mark} is {row.status} ({row.reason}) after {row.attempts} attempts"
            yield Violation(Rule.UNFINISHED, row.job, detail)
        elif status != "cancelled" and (
            (row.job, "ok" if status == "succeeded" else "fatal") not in ran
        ):
            yield Violation(Rule.RAN, row.job, f"{row.mark} is {row.status}, no handler ended so")


def _completions(run: Run, jobs: dict[str, Folded]) -> Iterator[Violation]:
    """One accepted completion, under the current lease, and no start after it."""
    starts: defaultdict[str, list[Start]] = defaultdict(list)
    for start in run.starts:
        starts[start.job].append(start)
    accepted: defaultdict[str, set[int]] = defaultdict(set)
    for ack in run.acked:
        if not ack.succeeded:
            continue
        accepted[ack.job].add(ack.lease)
        for start in starts[ack.job]:
            if start.at_ns > ack.at_ns:
                detail = f"lease {start.lease} began after the ack of lease {ack.lease}"
                yield Violation(Rule.STARTED_AFTER_END, ack.job, detail)
            if start.lease > ack.lease:
                detail = f"lease {ack.lease} completed it, lease {start.lease} was given out"
                yield Violation(Rule.STALE_ACCEPTED, ack.job, detail)
    succeeded: defaultdict[str, int] = defaultdict(int)
    for execution in run.executions:
        succeeded[execution.job] += execution.status == "succeeded"
    for job, leases in accepted.items():
        if len(leases) > 1:
            yield Violation(Rule.COMPLETED_TWICE, job, f"accepted under the leases {leases}")
    for job, count in succeeded.items():
        if count > 1:
            yield Violation(Rule.COMPLETED_TWICE, job, f"{count} executions succeeded")
    for job, folded in jobs.items():
        if folded.finals > 1:
            yield Violation(Rule.COMPLETED_TWICE, job, f"the log ends it {folded.finals} times")


def _effects(run: Run, jobs: dict[str, Folded]) -> Iterator[Violation]:
    """What handlers were given and told stands in the log."""
    nothing = Folded("unknown")
    for start in run.starts:
        if start.lease not in jobs.get(start.job, nothing).ended:
            detail = f"lease {start.lease} began, the log has no such attempt"
            yield Violation(Rule.EFFECT_WITHOUT_CAUSE, start.job, detail)
    for ack in run.acked:
        ended = jobs.get(ack.job, nothing).ended.get(ack.lease)
        if ended not in (SUCCESSES if ack.succeeded else FAILURES):
            rule = Rule.STALE_ACCEPTED if ended == "released" else Rule.EFFECT_WITHOUT_CAUSE
            detail = f"end of lease {ack.lease} acknowledged, by the log it {ended or 'runs'}"
            yield Violation(rule, ack.job, detail)


def _tables(run: Run, jobs: dict[str, Folded]) -> Iterator[Violation]:
    """Rows and log agree; every ended attempt has its row."""
    rows = {row.job: row for row in run.jobs}
    for job in jobs.keys() - rows.keys():
        yield Violation(Rule.TABLES_DIFFER, job, f"{jobs[job].status} by the log, not in `jobs`")
    attempts: defaultdict[str, list[int]] = defaultdict(list)
    for execution in run.executions:
        attempts[execution.job].append(execution.attempt)
    for job, row in rows.items():
        folded = jobs.get(job)
        if folded is None:
            yield Violation(Rule.TABLES_DIFFER, job, f"{row.mark} is in `jobs`, not in the log")
            continue
        known = row.status if row.status in FINAL_KINDS.values() else "open"
        if (known, row.attempts) != (folded.status, folded.attempts):
            detail = f"{folded.status} #{folded.attempts} by the log, {row.status} #{row.attempts}"
            yield Violation(Rule.TABLES_DIFFER, job, detail)
        if sorted(attempts[job]) != list(range(1, folded.attempts + 1)):
            detail = f"{folded.attempts} attempts by the log, executions {sorted(attempts[job])}"
            yield Violation(Rule.TABLES_DIFFER, job, detail)


# Reading histories


def read_client(run: Run, lines: Iterable[str]) -> None:
    """Add what clients wrote."""
    for entry in entries(lines):
        name = entry["call"]
        if entry["e"] == "call":
            run.calls.setdefault(name, Call(name, tuple(entry["marks"]), entry["key"]))
        elif entry["e"] == "cancelled":
            run.cancelled.append(Cancelled(entry["job"], entry["status"], entry["at"]))
        elif entry["e"] == "acked":
            run.calls[name].answers.append(tuple(entry["ids"]))


def read_handlers(run: Run, lines: Iterable[str]) -> None:
    """Add what the handlers of one worker process wrote."""
    under_way: dict[tuple[str, int], None] = {}
    at_ns = 0
    for entry in entries(lines):
        kind, job, lease, at_ns = entry["e"], entry["job"], entry["lease"], entry["at"]
        if kind == "start":
            run.starts.append(Start(job, lease, at_ns))
            under_way[job, lease] = None
        elif kind == "end":
            run.ends.append(End(job, lease, entry["outcome"], at_ns))
            under_way.pop((job, lease), None)
        elif kind == "acked":
            run.acked.append(Acked(job, lease, entry["ok"], at_ns))
        elif kind == "stale":
            run.stale += 1
    run.cut += [End(job, lease, "dead", at_ns) for job, lease in under_way]


def entries(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The lines of a history; one that a SIGKILL cut off at the end never happened."""
    for line in lines:
        if line.endswith("\n"):
            yield json.loads(line)
