"""SIGKILL of nodes and workers under jobs of every kind: graphs, limits, cancels, schedules."""

import random

import pytest

from taskforge import Client
from tests.crash.conftest import Form
from tests.crash.test_kills import PROGRESS_S, WARM_JOBS, progress
from tests.support.arena import API_KEY, Ground
from tests.support.history import Cancelled, End, Event, JobRow, Run, Start
from tests.support.mixed import (
    SETTINGS,
    MixedLoad,
    MixedSubmitter,
    mixed_violations,
    open_gate,
    take_all,
)

pytestmark = pytest.mark.timeout(1_200)

SCHEDULE = "each-second"


def test_mixed(ground: Ground, form: Form) -> None:
    chance = random.Random(6)
    with ground.arena() as arena:
        node = arena.node()
        arena.make_queues(node, ["a"])
        with Client(node.url, API_KEY) as client:
            for name, settings in SETTINGS.items():
                client.queues.create(name, settings=settings)
        arena.queues += SETTINGS
        workers = [arena.worker(node, "one"), arena.worker(node, "two")]
        submitter = MixedSubmitter("mixed", node.url, API_KEY, arena.folder)
        arena.clients.append(submitter)
        submitter.schedule(SCHEDULE)
        mixed = MixedLoad(submitter, seed=6)
        mixed.start()
        filler = MixedSubmitter("filler", node.url, API_KEY, arena.folder)
        arena.clients.append(filler)
        with arena.load(node, seed=6, clients=1) as load:
            progress(arena, load, WARM_JOBS)
            for number in range(form.node_kills):
                progress(arena, load, chance.randint(1, WARM_JOBS))
                if number % 3 == 2:
                    worker = workers[number % 2]
                    worker.kill()
                    worker.start()
                    open_gate(take_all(arena, filler, PROGRESS_S))
                else:
                    node.kill()
                    node.start()
            node.await_ready()
            open_gate(take_all(arena, filler, PROGRESS_S))
            progress(arena, load, WARM_JOBS)
        mixed.stop()
        submitter.pause(SCHEDULE)
        run, violations = arena.judge(PROGRESS_S)
        violations += mixed_violations(run)
        assert not violations, "\n".join(map(str, violations[:20]))
        kinds = {row.mark.split("-")[1].split(".")[0].split(" ")[0] for row in run.jobs}
        assert kinds >= {"first", "last", "anyway", "narrow", "keyed", "paced", "cron"}, kinds
        statuses = {cancelled.status for cancelled in run.cancelled}
        assert statuses >= {"cancelled", "processing"}, "some waited, some ran"
        assert {"retried", "stopped"} <= {event.kind for event in run.events}


# --- that the checks would notice ----------------------------------------------------------------


def told(*attempts: tuple[str, int, int]) -> Run:
    """A run in which these handlers began and ended: mark, begin, end."""
    run = Run()
    for lease, (mark, begin, end) in enumerate(attempts, 1):
        job = f"job-{lease}"
        run.jobs.append(JobRow(job, mark, "succeeded", 1))
        run.starts.append(Start(job, lease, begin))
        run.ends.append(End(job, lease, "ok", end))
    return run


def cancelled_at(at: int, status: str, begin: int) -> Run:
    """A client heard so, and a handler began."""
    run = told(("endless-c-1", begin, 9))
    run.cancelled.append(Cancelled("job-1", status, at))
    return run


def started_anew() -> Run:
    """A job that was to end was started once more."""
    run = cancelled_at(2, "processing", 1)
    kinds = ("submitted", "started", "changed", "released", "started")
    run.events += [Event(0, lsn, kind, "job-1") for lsn, kind in enumerate(kinds, 1)]
    return run


def cut_off(last_word: int) -> Run:
    """Two handlers of a key, the first of which died with its process after that word."""
    run = told(("slow-keyed.ada-c-1", 1, 9), ("slow-keyed.ada-c-2", 4, 6))
    run.cut.append(run.ends.pop(0)._replace(outcome="dead", at_ns=last_word))
    return run


@pytest.mark.parametrize(
    ("run", "fits"),
    [
        (told(*(("slow-narrow.None-c-1", n, n + 3) for n in range(9))), True),
        (told(*(("slow-narrow.None-c-1", n, n + 4) for n in range(9))), False),
        (told(("slow-keyed.ada-c-1", 1, 3), ("slow-keyed.bob-c-2", 2, 4)), True),
        (told(("slow-keyed.ada-c-1", 1, 3), ("slow-keyed.ada-c-2", 2, 4)), False),
        (told(("slow-first-c-1", 1, 2), ("slow-left-c-1", 3, 4)), True),
        (told(("slow-first-c-1", 1, 4), ("slow-left-c-1", 3, 5)), False),
        (told(("slow-left-c-1", 3, 5)), False),
        (told(("doomed-fails-c-1", 1, 2), ("slow-anyway-c-1", 3, 4)), True),
        (told(("doomed-fails-c-1", 1, 4), ("slow-anyway-c-1", 3, 4)), False),
        (told(*((f"quick-paced-c-{n}", n, n) for n in range(64))), True),
        (told(*((f"quick-paced-c-{n}", n, n) for n in range(65))), False),
        (told(("never-c-1", 1, 2)), False),
        (cancelled_at(2, "cancelled", 1), True),
        (cancelled_at(2, "cancelled", 3), False),
        (cancelled_at(2, "processing", 3), True),
        (started_anew(), False),
        (cut_off(3), True),
        (cut_off(5), False),
        (told(("quick-cron s 1", 1, 2), ("quick-cron s 2", 2, 3)), True),
        (told(("quick-cron s 1", 1, 2), ("quick-cron s 3", 2, 3)), False),
        (told(("quick-cron s 1", 1, 2), ("quick-cron s 1", 2, 3)), False),
    ],
)
def test_the_checks_notice(run: Run, fits: bool) -> None:
    assert (not mixed_violations(run)) is fits
