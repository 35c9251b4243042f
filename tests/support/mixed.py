"""Jobs that are told more than to run, under fire: graphs, limits, cancels, and what they promise.

    graph      first ──► left, right ──► last      a child starts after its parents have ended
               fails ──► heir, anyway              cancelled; starts after the failure
    narrow     `NARROW` at once in the queue       never more handlers at one time
    keyed      one at once for each key            never two handlers of a key at one time
    paced      `PER_S` starts a second             never more in any window
    never      due in an hour, and cancelled       ends cancelled, and no handler sees it
    endless    runs until it is cancelled          ends cancelled, and does not start again
    ticks      a schedule, a tick each second      one job a tick, and none left out

`right` fails at first and is tried again. Who ran what when is read from the handlers' own
histories. An attempt without an end was cut off with its worker: it ran up to the last word of that
process at least.
"""

import random
import threading
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from taskforge.client import calls
from taskforge.client.models import QueueSettings, Rate
from taskforge.errors import Conflict
from taskforge.task import JobSpec
from tests.support.arena import RETRIES, Arena
from tests.support.history import Rule as Base
from tests.support.history import Run, Violation, entries
from tests.support.load import NO_ANSWER, REPEAT_PAUSE_S, Submitter
from tests.support.processes import until

NARROW_QUEUE, KEYED_QUEUE, PACED_QUEUE = "narrow", "keyed", "paced"
GRAPH_QUEUE, TICK_QUEUE = "graph", "ticks"
NARROW = 3
KEYS = ("ada", "bob", "eve")
PER_S, BURST = 40, 4
LATE_S = 1.5
"""Starts are counted where jobs arrive: so long one may be on its way when the next is not."""
HERD = 200
"""Paced jobs at once: many more than may start in LATE_S."""
MEMBERS = {
    "first": "quick",
    "left": "slow",
    "right": "flaky",
    "last": "slow",
    "fails": "doomed",
    "heir": "quick",
    "anyway": "quick",
}
"""The jobs of a graph, and their tasks."""
PARENTS = {
    "left": ("first",),
    "right": ("first",),
    "last": ("left", "right"),
    "heir": ("fails",),
    "anyway": ("fails",),
}
EDGES = {"heir": "cancel", "anyway": "run_anyway"}
ENDS = {"fails": "doomed", "heir": "never"}
"""How the marks of those begin that do not succeed; the others are `slow`."""
HOUR_S = 3_600.0
PAUSE_S = 0.1
GRACE_S = 1.0
ENDLESS_MAX = 2
"""So many of them run, or wait to, until the first is cancelled."""

SETTINGS = {
    NARROW_QUEUE: QueueSettings(retry_policy=RETRIES, crashes_max=100, max_concurrency=NARROW),
    KEYED_QUEUE: QueueSettings(retry_policy=RETRIES, crashes_max=100, max_concurrency_per_key=1),
    PACED_QUEUE: QueueSettings(
        retry_policy=RETRIES, crashes_max=100, rate=Rate(per_s=PER_S, burst=BURST)
    ),
    GRAPH_QUEUE: QueueSettings(retry_policy=RETRIES, crashes_max=100),
    TICK_QUEUE: QueueSettings(retry_policy=RETRIES, crashes_max=100),
}


def mark_of(ref: str, call: str) -> str:
    """Of a job of the graph of that call."""
    return f"{ENDS.get(ref, 'slow')}-{ref}-{call}"


class MixedSubmitter(Submitter):
    """One client; every call is repeated until it is answered."""

    def __init__(self, name: str, url: str, api_key: str, folder: Path) -> None:
        super().__init__(name, url, api_key, folder)
        self._endless: deque[tuple[str, str]] = deque()

    def post(self, path: str, body: Any, key: str | None = None) -> Any:
        """One POST, once; NO_ANSWER."""

        def read(response: Any) -> Any:
            return msgspec.json.decode(calls.checked(response).body)

        return self.client.execute(
            calls.Call("POST", path, read, msgspec.json.encode(body), key=key)
        )

    def schedule(self, name: str) -> None:
        """A tick each second; those that a dead node missed are caught up."""
        self.post(
            "/v1/schedules",
            {
                "name": name,
                "queue": TICK_QUEUE,
                "cron": "* * * * * *",
                "job": {"job_type": "quick", "payload": {"mark": f"quick-{name}"}},
                "catch_up": "all",
                "window_s": 600,
            },
        )

    def pause(self, name: str) -> None:
        """No more ticks."""
        found = self.client.execute(
            calls.Call("GET", "/v1/schedules", lambda r: msgspec.json.decode(r.body))
        )
        [schedule] = [item for item in found["items"] if item["name"] == name]
        self.post(f"/v1/schedules/{schedule['id']}/pause", {})

    def graph(self) -> None:
        """Jobs that wait for each other, in two queues."""
        self._calls += 1
        call = f"{self.name}-{self._calls}"
        marks = {ref: mark_of(ref, call) for ref in MEMBERS}
        jobs = [
            {
                "ref": ref,
                "queue": NARROW_QUEUE if ref == "left" else GRAPH_QUEUE,
                "job_type": task,
                "payload": {"mark": marks[ref]},
                "parents": [
                    {"ref": parent, "on_failure": EDGES.get(ref, "block")}
                    for parent in PARENTS.get(ref, ())
                ],
            }
            for ref, task in MEMBERS.items()
        ]
        self.history.say("call", call=call, marks=list(marks.values()), key=call)
        while not self.given_up.is_set():
            try:
                answer = self.post("/v1/graphs", {"jobs": jobs}, key=f"key-{call}")
            except NO_ANSWER:
                self.given_up.wait(REPEAT_PAUSE_S)
                continue
            ids = [job["id"] for job in answer["jobs"]]
            self.history.say("acked", call=call, ids=ids)
            self.acknowledged += len(ids)
            return

    def never(self) -> None:
        """A job for later that is cancelled before."""
        call, ids = self._put("never", "quick", GRAPH_QUEUE, delay_s=HOUR_S)
        for job_id in ids:
            self._cancel(call, job_id)

    def endless(self) -> None:
        """A job that runs, or may, when it is cancelled; and the cancellation of an earlier one."""
        call, ids = self._put("endless", "endless", GRAPH_QUEUE)
        self._endless += [(call, job_id) for job_id in ids]
        self.end_endless(ENDLESS_MAX)

    def end_endless(self, left: int = 0) -> None:
        while len(self._endless) > left:
            self._cancel(*self._endless.popleft())

    def _cancel(self, call: str, job_id: str) -> None:
        while not self.given_up.is_set():
            try:
                job = self.client.cancel(job_id, GRACE_S)
            except (*NO_ANSWER, Conflict):
                self.given_up.wait(REPEAT_PAUSE_S)
                continue
            self.history.say("cancelled", call=call, job=job_id, status=job.status)
            return

    def limited(self, queue: str, group_key: str | None) -> None:
        """A slow job of a queue with a limit."""
        options: Any = None if group_key is None else {"group_key": group_key}
        self._put(f"slow-{queue}.{group_key}", "slow", queue, options=options)

    def paced(self, count: int) -> None:
        """So many at once of a queue that starts few."""
        self._put(f"quick-{PACED_QUEUE}", "quick", PACED_QUEUE, count)

    def gated(self, folder: Path) -> tuple[Path, str]:
        """As many as may run at once of the narrow queue, before all others: their gate, and what
        their marks have in common."""
        gate = folder / f"full-{self._calls}"
        told = {"gate": str(gate)}
        call, _ = self._put("gated-full", "gated", NARROW_QUEUE, NARROW, told, priority=9)
        return gate, f"-{call}-"

    def _put(
        self,
        mark: str,
        task: str,
        queue: str,
        count: int = 1,
        payload: Mapping[str, object] | None = None,
        **more: Any,
    ) -> tuple[str, list[str]]:
        """Jobs of one call, repeated until there is an answer: the call, and their ids."""
        self._calls += 1
        call = f"{self.name}-{self._calls}"
        marks = [f"{mark}-{call}-{place}" for place in range(count)]
        specs: list[JobSpec[object]] = [
            JobSpec(task, {"mark": mark, **(payload or {})}, queue=queue, **more) for mark in marks
        ]
        self.history.say("call", call=call, marks=marks, key=f"key-{call}")
        while (ids := self._try(call, specs, f"key-{call}")) is None:
            if self.given_up.wait(REPEAT_PAUSE_S):
                return call, []
        return call, ids


class MixedLoad:
    """One such client in a thread of its own, until `stop`."""

    def __init__(self, submitter: MixedSubmitter, seed: int) -> None:
        self._submitter = submitter
        self._chance = random.Random(seed)
        self._stopping = threading.Event()
        self._failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish the call under way; the node must be there."""
        self._stopping.set()
        self._thread.join(60)
        self._submitter.given_up.set()
        if self._failures:
            raise AssertionError("the mixed client failed") from self._failures[0]

    def _run(self) -> None:
        try:
            self._submitter.paced(HERD)
            while not self._stopping.wait(PAUSE_S * self._chance.random()):
                match self._chance.randrange(8):
                    case 0:
                        self._submitter.graph()
                    case 1:
                        self._submitter.never()
                    case 2:
                        self._submitter.endless()
                    case 3:
                        self._submitter.paced(3)
                    case 4:
                        self._submitter.limited(NARROW_QUEUE, None)
                    case _:
                        self._submitter.limited(KEYED_QUEUE, self._chance.choice(KEYS))
            self._submitter.end_endless()
        except BaseException as error:  # noqa: BLE001 - shown by `stop`
            self._failures.append(error)


def take_all(arena: Arena, client: MixedSubmitter, timeout_s: float) -> Path:
    """The narrow queue runs as many at once as it may, until the gate is opened: no slot has
    leaked. AssertionError."""
    gate, call = client.gated(arena.folder)
    until(
        lambda: running(arena.folder, call) == NARROW,
        f"{NARROW} handlers at once",
        timeout_s,
        arena.tails,
    )
    return gate


def open_gate(gate: Path) -> None:
    """For all attempts that there may be."""
    for attempt in range(1, (RETRIES.max_attempts or 0) + 1):
        gate.with_suffix(f".{attempt}").touch()


def running(folder: Path, call: str) -> int:
    """How many handlers of this call have begun and not ended, by what they say."""
    found: set[tuple[str, int]] = set()
    for path in folder.glob("worker-*.jsonl"):
        with path.open() as lines:
            for entry in entries(lines):
                attempt = entry["job"], entry["lease"]
                if entry["e"] == "start" and call in entry["mark"]:
                    found.add(attempt)
                elif entry["e"] == "end":
                    found.discard(attempt)
    return len(found)


# What must hold besides


def mixed_violations(run: Run) -> list[Violation]:
    """Promises of graphs, limits, cancellations and schedules that this run broke."""
    marks = {row.job: row.mark for row in run.jobs}
    spans = list(_spans(run))
    found = [*_limits(spans, marks), *_graphs(spans, marks), *_ticks(run)]
    return [*found, *_pace(run, marks), *_cancels(run, marks)]


def _spans(run: Run) -> Iterator[tuple[str, int, int, bool]]:
    """Job, begin, end, and whether its job ended with it, of every attempt."""
    begins = {(start.job, start.lease): start.at_ns for start in run.starts}
    for end in (*run.ends, *run.cut):
        begin = begins.get((end.job, end.lease))
        if begin is not None:
            yield end.job, begin, end.at_ns, end.outcome in ("ok", "fatal")


def _limits(
    spans: Iterable[tuple[str, int, int, bool]], marks: dict[str, str]
) -> Iterator[Violation]:
    edges: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for job, begin, end, _ in spans:
        mark = marks.get(job, "")
        if mark.startswith((f"slow-{NARROW_QUEUE}.", "slow-left-", "gated-full-")):
            group = NARROW_QUEUE
        elif mark.startswith(f"slow-{KEYED_QUEUE}."):
            group = mark.split("-")[1]
        else:
            continue
        edges[group] += [(begin, 1), (end, -1)]
    for group, times in edges.items():
        most = NARROW if group == NARROW_QUEUE else 1
        running = 0
        for at_ns, step in sorted(times):
            running += step
            if running > most:
                detail = f"{running} handlers at {at_ns}, at most {most}"
                yield Violation(Base.EFFECT_WITHOUT_CAUSE, f"limit of {group}", detail)
                break


def _graphs(
    spans: Iterable[tuple[str, int, int, bool]], marks: dict[str, str]
) -> Iterator[Violation]:
    ended: dict[str, int] = {}
    begun: dict[str, int] = {}
    for job, begin, end, final in spans:
        mark = marks.get(job, "")
        begun[mark] = min(begin, begun.get(mark, begin))
        if final:
            ended[mark] = min(end, ended.get(mark, end))
    for mark, begin in begun.items():
        _, _, rest = mark.partition("-")
        ref, _, call = rest.partition("-")
        for parent in PARENTS.get(ref, ()):
            before = ended.get(mark_of(parent, call))
            if before is None or before > begin:
                detail = f"began at {begin}, {parent} ended at {before}"
                yield Violation(Base.EFFECT_WITHOUT_CAUSE, mark, detail)


def _pace(run: Run, marks: dict[str, str]) -> Iterator[Violation]:
    """In no window more start than its length allows; jobs may be late by LATE_S."""
    paced = f"quick-{PACED_QUEUE}-"
    times = sorted(s.at_ns for s in run.starts if marks.get(s.job, "").startswith(paced))
    for first, begin in enumerate(times):
        for last in range(first, len(times)):
            allowed = BURST + PER_S * ((times[last] - begin) / 1e9 + LATE_S)
            if last - first + 1 > allowed:
                detail = f"{last - first + 1} starts from {begin} to {times[last]}"
                yield Violation(Base.EFFECT_WITHOUT_CAUSE, f"rate of {PACED_QUEUE}", detail)
                return


def _cancels(run: Run, marks: dict[str, str]) -> Iterator[Violation]:
    """What was cancelled while it waited is not started; what never may start is not either."""
    waited = {c.job: c.at_ns for c in run.cancelled if c.status == "cancelled"}
    for job, _, at_ns in run.starts:
        mark = marks.get(job, "")
        if mark.startswith("never-") or at_ns > waited.get(job, at_ns):
            yield Violation(Base.STARTED_AFTER_END, mark or job, f"began at {at_ns}")
    asked = {c.job for c in run.cancelled}
    told: set[str] = set()
    for event in run.events:
        if event.job in asked and event.kind == "changed":
            told.add(event.job)
        elif event.job in told and event.kind == "started":
            detail = f"was started at {event.shard}/{event.lsn}, though it was to end"
            yield Violation(Base.STARTED_AFTER_END, event.job, detail)


def _ticks(run: Run) -> Iterator[Violation]:
    seconds: defaultdict[str, list[int]] = defaultdict(list)
    for row in run.jobs:
        if row.mark.startswith("quick-cron "):
            _, schedule, second = row.mark.rsplit(" ", 2)
            seconds[schedule].append(int(second))
    for schedule, found in seconds.items():
        found.sort()
        if found != list(range(found[0], found[-1] + 1)):
            missing = sorted(set(range(found[0], found[-1] + 1)) - set(found))
            twice = sorted({second for second in found if found.count(second) > 1})
            detail = f"ticks {missing} have no job, {twice} have more than one"
            yield Violation(Base.LOST, f"schedule {schedule}", detail)
