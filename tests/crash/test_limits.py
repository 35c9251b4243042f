"""Limits hold over kills: by the histories of the handlers, never more than allowed at once."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from taskforge import Client, JobSpec, QueueSettings, RetryPolicy
from tests.crash.conftest import Form
from tests.support.arena import API_KEY, Arena, Ground
from tests.support.processes import CrashWorker, until

pytestmark = pytest.mark.timeout(600)

QUEUE = "limited"
JOBS = 30
KEYS = 4
MOST, MOST_PER_KEY = 3, 1
PROGRESS_S = 60.0


@dataclass(frozen=True)
class Span:
    """A handler, from its start to its end or the death of its process."""

    key: str
    start_ns: int
    end_ns: int


def spans(folder: Path, deaths_ns: list[int]) -> Iterator[Span]:
    for path in folder.glob("worker-*.jsonl"):
        begun: dict[tuple[str, int], tuple[str, int]] = {}
        last_ns = 0
        for line in path.read_text().splitlines():
            said = json.loads(line)
            last_ns = said["at"]
            if said["e"] == "start":
                key = said["mark"].split("-")[1]
                begun[said["job"], said["lease"]] = (key, said["at"])
            elif said["e"] == "end":
                yield Span(*begun.pop((said["job"], said["lease"])), said["at"])
        for key, start_ns in begun.values():
            yield Span(key, start_ns, min(at for at in deaths_ns if at >= last_ns))


def most_at_once(found: list[Span]) -> int:
    """At the end of one and the start of the next the end counts first."""
    moments = sorted([(s.start_ns, 1) for s in found] + [(s.end_ns, -1) for s in found])
    running = most = 0
    for _, change in moments:
        running += change
        most = max(most, running)
    return most


def jobs(portion: int) -> list[JobSpec[object]]:
    return [
        JobSpec(
            "flaky" if place % 7 == 0 else "slow",
            {"mark": f"slow-{place % KEYS}-{portion}-{place}"},
            queue=QUEUE,
            options={"group_key": f"key-{place % KEYS}"},
        )
        for place in range(JOBS)
    ]


def one_that_runs(arena: Arena, workers: list[CrashWorker]) -> CrashWorker:
    found: list[CrashWorker] = []

    def look() -> bool:
        found[:] = [worker for worker in workers if worker.running()]
        return bool(found)

    until(look, "a handler runs", PROGRESS_S, arena.tails)
    return found[0]


def ended(arena: Arena, workers: list[CrashWorker], count: int) -> None:
    wanted = sum(worker.ran() for worker in workers) + count
    until(
        lambda: sum(worker.ran() for worker in workers) >= wanted,
        f"{count} more jobs",
        PROGRESS_S,
        arena.tails,
    )


@pytest.mark.long  # test_mixed.py is its short form
def test_never_more_at_once_than_allowed(ground: Ground, form: Form) -> None:
    deaths_ns: list[int] = []
    with ground.arena() as arena:
        node = arena.node()
        settings = QueueSettings(
            max_concurrency=MOST,
            max_concurrency_per_key=MOST_PER_KEY,
            fair_keys=True,
            crashes_max=100,
            retry_policy=RetryPolicy(max_attempts=10, base_delay_s=0.01, max_delay_s=0.05),
        )
        with Client(node.url, API_KEY) as client:
            client.queues.create(QUEUE, settings=settings)
            arena.queues.append(QUEUE)
            workers = [arena.worker(node, "one"), arena.worker(node, "two")]
            for number in range(form.node_kills // 2):
                client.submit_many(jobs(number))
                ended(arena, workers, 5)
                node.kill()
                node.start()
                node.await_ready()
            for number in range(form.worker_kills // 2):
                client.submit_many(jobs(form.node_kills + number))
                victim = one_that_runs(arena, workers)
                victim.kill()
                deaths_ns.append(time.monotonic_ns())
                victim.start()
            until(
                lambda: (
                    client.queues.get(QUEUE).counts.processing == 0
                    and client.queues.get(QUEUE).counts.pending == 0
                    and client.queues.get(QUEUE).counts.scheduled == 0
                ),
                "all have ended",
                PROGRESS_S,
                arena.tails,
            )
        found = list(spans(arena.folder, deaths_ns))
    assert len({span.key for span in found}) == KEYS
    assert len(found) >= JOBS
    assert most_at_once(found) == MOST, "exceeded, or never used up"
    for key in range(KEYS):
        mine = [span for span in found if span.key == str(key)]
        assert most_at_once(mine) == MOST_PER_KEY
