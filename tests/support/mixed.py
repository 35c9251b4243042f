"""Jobs that are told more than to run, under fire: graphs, limits, cancels, and what they promise.

    graph      first ──► left, right ──► last      a child starts after its parents have ended
    narrow     `NARROW` at once in the queue       never more handlers at one time
    keyed      one at once for each key            never two handlers of a key at one time
    never      due in an hour, and cancelled       ends cancelled, and no handler sees it
    ticks      a schedule, a tick each second      one job a tick, and none left out

Who ran what when is read from the handlers' own histories. An attempt without an end was cut off
with its worker: it counts for nothing, since nobody knows how long it lasted.
"""

import random
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from taskforge.client import calls
from taskforge.client.models import QueueSettings
from taskforge.errors import Conflict
from taskforge.task import JobSpec
from tests.support.arena import RETRIES
from tests.support.history import Rule as Base
from tests.support.history import Run, Violation
from tests.support.load import NO_ANSWER, REPEAT_PAUSE_S, Submitter

NARROW_QUEUE, KEYED_QUEUE, GRAPH_QUEUE, TICK_QUEUE = "narrow", "keyed", "graph", "ticks"
NARROW = 3
KEYS = ("ada", "bob", "eve")
MEMBERS = ("first", "left", "right", "last")
PARENTS = {"left": ("first",), "right": ("first",), "last": ("left", "right")}
HOUR_S = 3_600.0
PAUSE_S = 0.1

SETTINGS = {
    NARROW_QUEUE: QueueSettings(retry_policy=RETRIES, crashes_max=100, max_concurrency=NARROW),
    KEYED_QUEUE: QueueSettings(retry_policy=RETRIES, crashes_max=100, max_concurrency_per_key=1),
    GRAPH_QUEUE: QueueSettings(retry_policy=RETRIES, crashes_max=100),
    TICK_QUEUE: QueueSettings(retry_policy=RETRIES, crashes_max=100),
}


class MixedSubmitter(Submitter):
    """One client; every call is repeated until it is answered."""

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
        """Four jobs that wait for each other, in two queues."""
        self._calls += 1
        call = f"{self.name}-{self._calls}"
        marks = {ref: f"slow-{ref}-{call}" for ref in MEMBERS}
        jobs = [
            {
                "ref": ref,
                "queue": NARROW_QUEUE if ref == "left" else GRAPH_QUEUE,
                "job_type": "quick" if ref == "first" else "slow",
                "payload": {"mark": marks[ref]},
                "parents": [{"ref": parent} for parent in PARENTS.get(ref, ())],
            }
            for ref in MEMBERS
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
        self._calls += 1
        call, key = f"{self.name}-{self._calls}", f"key-{self.name}-{self._calls}"
        mark = f"never-{call}"
        spec: JobSpec[object] = JobSpec("quick", {"mark": mark}, queue=GRAPH_QUEUE, delay_s=HOUR_S)
        self.history.say("call", call=call, marks=[mark], key=key)
        ids = None
        while ids is None and not self.given_up.is_set():
            ids = self._try(call, [spec], key)
        while ids is not None and not self.given_up.is_set():
            try:
                self.client.cancel(ids[0])
            except (*NO_ANSWER, Conflict):
                self.given_up.wait(REPEAT_PAUSE_S)
                continue
            return

    def limited(self, queue: str, group_key: str | None) -> None:
        """A slow job of a queue with a limit."""
        self._calls += 1
        call, key = f"{self.name}-{self._calls}", f"key-{self.name}-{self._calls}"
        mark = f"slow-{queue}.{group_key}-{call}"
        spec: JobSpec[object] = JobSpec(
            "slow",
            {"mark": mark},
            queue=queue,
            options=None if group_key is None else {"group_key": group_key},
        )
        self.history.say("call", call=call, marks=[mark], key=key)
        while self._try(call, [spec], key) is None and not self.given_up.is_set():
            self.given_up.wait(REPEAT_PAUSE_S)


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
            while not self._stopping.wait(PAUSE_S * self._chance.random()):
                match self._chance.randrange(5):
                    case 0:
                        self._submitter.graph()
                    case 1:
                        self._submitter.never()
                    case 2:
                        self._submitter.limited(NARROW_QUEUE, None)
                    case _:
                        self._submitter.limited(KEYED_QUEUE, self._chance.choice(KEYS))
        except BaseException as error:  # noqa: BLE001 - shown by `stop`
            self._failures.append(error)


# What must hold besides


def mixed_violations(run: Run) -> list[Violation]:
    """Promises of graphs, limits and schedules that this run broke."""
    marks = {row.job: row.mark for row in run.jobs}
    spans = list(_spans(run))
    found = [*_limits(spans, marks), *_graphs(spans, marks), *_ticks(run)]
    return found


def _spans(run: Run) -> Iterator[tuple[str, int, int, bool]]:
    """Job, begin, end, and whether it ended well, of every attempt whose end was written down."""
    begins = {(start.job, start.lease): start.at_ns for start in run.starts}
    for end in run.ends:
        begin = begins.get((end.job, end.lease))
        if begin is not None:
            yield end.job, begin, end.at_ns, end.outcome == "ok"


def _limits(
    spans: Iterable[tuple[str, int, int, bool]], marks: dict[str, str]
) -> Iterator[Violation]:
    edges: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for job, begin, end, _ in spans:
        mark = marks.get(job, "")
        if mark.startswith((f"slow-{NARROW_QUEUE}.", "slow-left-")):
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
    for job, begin, end, well in spans:
        mark = marks.get(job, "")
        begun[mark] = min(begin, begun.get(mark, begin))
        if well:
            ended[mark] = min(end, ended.get(mark, end))
    for mark, begin in begun.items():
        _, _, rest = mark.partition("-")
        ref, _, call = rest.partition("-")
        for parent in PARENTS.get(ref, ()):
            before = ended.get(f"slow-{parent}-{call}")
            if before is None or before > begin:
                detail = f"began at {begin}, {parent} ended at {before}"
                yield Violation(Base.EFFECT_WITHOUT_CAUSE, mark, detail)


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
