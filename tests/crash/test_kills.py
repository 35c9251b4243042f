"""SIGKILL under load: of the node, of workers, of PostgreSQL. What was acknowledged stands.

The moment of a kill is drawn in acknowledged jobs, not in time; each killed process is started
again at once. `--long` kills more often.
"""

import logging
import random

import pytest

from taskforge_server.engine.runtime import faultpoints
from tests.crash.conftest import Form
from tests.support.arena import Arena, Ground, kill_backends
from tests.support.history import Run
from tests.support.load import Load
from tests.support.processes import CrashWorker, until

log = logging.getLogger(__name__)

pytestmark = pytest.mark.timeout(1_200)

QUEUES = ("a", "b", "c")
WARM_JOBS = 50
JOBS_BETWEEN_MAX = 150
PROGRESS_S = 60.0
WORKERS_SHARE = 0.6
"""Of the kills, how many wait until the workers are back; the others may come before."""

PROJECTED = "taskforge_projected_rows_total"
NEED_WORKER = (faultpoints.BETWEEN_COMPLETION_AND_ACK, faultpoints.AFTER_STARTED_BEFORE_SEND)
"""Points that are reached with a worker alone. Those that are there pause longer with every death
of the node before they connect again; a new one comes at once."""
ELSEWHERE = {faultpoints.AFTER_TICK_BEFORE_ROW, faultpoints.IN_PAGE}
"""Points that are not reached here: `test_schedules` and `test_paging` die there."""


def progress(arena: Arena, load: Load, jobs: int) -> None:
    """Wait until so many more jobs are acknowledged."""
    wanted = load.acknowledged + jobs

    def reached() -> bool:
        arena.check_alive()
        return load.acknowledged >= wanted

    until(reached, f"{jobs} more jobs", PROGRESS_S, arena.tails)


def completions(arena: Arena, load: Load, workers: list[CrashWorker], jobs: int) -> None:
    """Wait until the node has acknowledged so many more completions, and handlers run."""

    def count() -> int:
        return sum(worker.told("acked") for worker in workers)

    def reached() -> bool:
        arena.check_alive()
        assert load.acknowledged
        return count() >= wanted and any(worker.running() for worker in workers)

    wanted = count() + jobs
    until(reached, f"{jobs} more completions", PROGRESS_S, arena.tails)


def judged(arena: Arena) -> Run:
    """The run, which broke no promise."""
    run, violations = arena.judge()
    log.info("%s", run.summary())
    assert not violations, "\n".join(map(str, violations[:20]))
    assert len(run.acknowledged) >= WARM_JOBS
    return run


def test_node(ground: Ground, form: Form) -> None:
    chance = random.Random(1)
    with ground.arena() as arena:
        node = arena.node()
        arena.make_queues(node, QUEUES)
        workers = [arena.worker(node, "one"), arena.worker(node, "two")]
        with arena.load(node, seed=1) as load:
            progress(arena, load, WARM_JOBS)
            for _ in range(form.node_kills):
                jobs = chance.randint(1, JOBS_BETWEEN_MAX)
                if chance.random() < WORKERS_SHARE:
                    completions(arena, load, workers, jobs)
                else:
                    progress(arena, load, jobs)
                node.kill()
                node.start()
            node.await_ready()
            progress(arena, load, WARM_JOBS)
        judged(arena)
        assert node.starts == form.node_kills + 1


def test_node_at_each_point(ground: Ground, form: Form) -> None:
    """Once at every named point, right after each other, while the load goes on."""
    with ground.arena() as arena:
        node = arena.node()
        arena.make_queues(node, QUEUES)
        arena.worker(node, "one")
        with arena.load(node, seed=2) as load:
            progress(arena, load, WARM_JOBS)
            node.kill()
            for point in sorted(faultpoints.NAMES - ELSEWHERE):
                node.start(TASKFORGE_FAULTPOINT=point)
                if point in NEED_WORKER:
                    arena.worker(node, f"for-{point}")
                assert node.died(PROGRESS_S) == -9, point
            node.start()
            node.await_ready()
            progress(arena, load, WARM_JOBS)
        judged(arena)


def test_worker(ground: Ground, form: Form) -> None:
    chance = random.Random(3)
    with ground.arena() as arena:
        node = arena.node()
        arena.make_queues(node, QUEUES)
        workers = [arena.worker(node, "one"), arena.worker(node, "two")]
        with arena.load(node, seed=3) as load:
            for number in range(form.worker_kills):
                worker = workers[number % len(workers)]
                ran = chance.randint(1, JOBS_BETWEEN_MAX)
                # With a handler under way, so that a lease is left to run out.
                until(
                    lambda worker=worker, ran=ran: worker.running() and worker.ran() > ran,
                    f"{worker.name} runs something",
                    PROGRESS_S,
                    arena.tails,
                )
                worker.kill()
                worker.start()
            progress(arena, load, WARM_JOBS)
        run = judged(arena)
        assert any(event.kind == "released" for event in run.events), "no lease ran out"


def test_postgres_right_after_a_projection(ground: Ground) -> None:
    """What the node has been told is in the tables, and has forgotten, must be there for good."""
    with ground.arena() as arena:
        node = arena.node()
        arena.make_queues(node, QUEUES)
        arena.worker(node, "one")
        client = arena.client(node)
        for queue in QUEUES:
            before = node.metric(PROJECTED)
            assert client.submit(queue, ["quick"] * WARM_JOBS)
            until(
                lambda before=before: node.metric(PROJECTED) >= before + WARM_JOBS,
                "the jobs are projected",
                PROGRESS_S,
                arena.tails,
            )
            arena.servers.postgres.kill()
            arena.servers.postgres.start()
        judged(arena)


def test_postgres(ground: Ground, form: Form) -> None:
    """The postmaster by SIGKILL, and all of the node's connections by pg_terminate_backend."""
    chance = random.Random(4)
    kinds = ["postmaster"] * form.postmaster_kills + ["backends"] * form.backend_kills
    chance.shuffle(kinds)
    with ground.arena() as arena:
        node = arena.node()
        arena.make_queues(node, QUEUES)
        arena.worker(node, "one")
        with arena.load(node, seed=4) as load:
            progress(arena, load, WARM_JOBS)
            for kind in kinds:
                progress(arena, load, chance.randint(1, JOBS_BETWEEN_MAX))
                if kind == "postmaster":
                    arena.servers.postgres.kill()
                    arena.servers.postgres.start()
                else:
                    assert kill_backends(arena.url)
            progress(arena, load, WARM_JOBS)
        judged(arena)
        assert node.starts == 1, "the node itself lives on"
