"""SIGKILL of nodes and workers under jobs of every kind: graphs, limits, cancels, schedules."""

import random

import pytest

from taskforge import Client
from tests.crash.conftest import Form
from tests.crash.test_kills import PROGRESS_S, WARM_JOBS, progress
from tests.support.arena import API_KEY, Ground
from tests.support.history import End, JobRow, Run, Start
from tests.support.mixed import SETTINGS, MixedLoad, MixedSubmitter, mixed_violations

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
        with arena.load(node, seed=6, clients=1) as load:
            progress(arena, load, WARM_JOBS)
            for number in range(form.node_kills):
                progress(arena, load, chance.randint(1, WARM_JOBS))
                if number % 3 == 2:
                    worker = workers[number % 2]
                    worker.kill()
                    worker.start()
                else:
                    node.kill()
                    node.start()
            node.await_ready()
            progress(arena, load, WARM_JOBS)
        mixed.stop()
        submitter.pause(SCHEDULE)
        run, violations = arena.judge(PROGRESS_S)
        violations += mixed_violations(run)
        assert not violations, "\n".join(map(str, violations[:20]))
        kinds = {row.mark.split("-")[1].split(".")[0].split(" ")[0] for row in run.jobs}
        assert kinds >= {"first", "last", "narrow", "keyed", "mixed", "cron"}, kinds


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
        (told(("quick-cron s 1", 1, 2), ("quick-cron s 2", 2, 3)), True),
        (told(("quick-cron s 1", 1, 2), ("quick-cron s 3", 2, 3)), False),
        (told(("quick-cron s 1", 1, 2), ("quick-cron s 1", 2, 3)), False),
    ],
)
def test_the_checks_notice(run: Run, fits: bool) -> None:
    assert (not mixed_violations(run)) is fits
