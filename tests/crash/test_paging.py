"""SIGKILL of a node with room for a few jobs: the others wait in the tables alone."""

import random

import pytest

from taskforge_server.engine.runtime import faultpoints
from tests.crash.conftest import Form
from tests.crash.test_kills import PROGRESS_S, WARM_JOBS, judged, progress
from tests.support.arena import Ground
from tests.support.processes import until

pytestmark = pytest.mark.timeout(1_200)

QUEUES = ("a", "b")
ROOM = "16"
BACKLOG_JOBS = 200
PROJECTED = "taskforge_projected_rows_total"


def test_node_with_jobs_that_are_away(ground: Ground, form: Form) -> None:
    """Killed while it lets go, while a page is read, and while workers drain it to the last job."""
    chance = random.Random(8)
    with ground.arena(shards=2, TASKFORGE_RESIDENT_JOBS_MAX=ROOM) as arena:
        node = arena.node()
        arena.make_queues(node, QUEUES)
        client = arena.client(node, "backlog")
        for queue in QUEUES:
            assert client.submit(queue, ["quick"] * BACKLOG_JOBS)
        until(
            lambda: node.metric(PROJECTED) >= len(QUEUES) * BACKLOG_JOBS,
            "the jobs are projected",
            PROGRESS_S,
            arena.tails,
        )
        node.kill()
        node.start(TASKFORGE_FAULTPOINT=f"{faultpoints.IN_PAGE}:{chance.randint(2, 9)}")
        one = arena.worker(node, "one")
        assert node.died(PROGRESS_S) == -9
        node.start()
        node.await_ready()
        two = arena.worker(node, "two")
        with arena.load(node, seed=8) as load:
            for _ in range(form.node_kills):
                assert client.submit(chance.choice(QUEUES), ["quick"] * BACKLOG_JOBS)
                progress(arena, load, chance.randint(1, WARM_JOBS))
                node.kill()
                node.start()
            node.await_ready()
            progress(arena, load, WARM_JOBS)
        judged(arena)
        # Either may come back from its pause when the other has run all.
        assert one.ran() or two.ran()
