"""SIGKILL of a node around the ticks of schedules: each tick has exactly one job."""

import random
import time
from collections import Counter
from uuid import UUID

import pytest

from taskforge import Client, JobSpec
from taskforge_server.engine.model.schedule import tick_key
from taskforge_server.engine.runtime import faultpoints
from tests.crash.conftest import Form
from tests.support.arena import API_KEY, Arena, Ground
from tests.support.evidence import fetch
from tests.support.processes import Node, until

pytestmark = pytest.mark.timeout(600)

KEYS = "SELECT idempotency_key, count(*) FROM jobs GROUP BY 1"
DECIDED = "SELECT min(decided_at) FROM cron_schedules"
SCHEDULES = ("one", "two", "three")
LAST_S = 2


def ticks(arena: Arena, schedule_id: str) -> Counter[int]:
    """How many jobs the tables have for each tick."""
    name = tick_key(UUID(schedule_id).bytes, 0)[0].rpartition(" ")[0]
    found: Counter[int] = Counter()
    for key, count in fetch(arena.url, KEYS):
        text, _, second = (key or "").rpartition(" ")
        if text == name:
            found[int(second)] += count
    return found


def decided_s(arena: Arena) -> float:
    """Up to when all schedules are decided."""
    return float(fetch(arena.url, DECIDED)[0][0].timestamp())


def killed_within_a_second_of_a_tick(node: Node, chance: random.Random) -> None:
    # A moment of the second in which a tick is being decided; any other would do as well.
    moment_s = time.time() // 1 + 1 + chance.uniform(-0.01, 0.05)
    until(lambda: time.time() >= moment_s, "the moment", every_s=0.001)
    node.kill()
    node.start()
    node.await_ready()


def test_one_job_a_tick_whenever_the_owner_is_killed(ground: Ground, form: Form) -> None:
    chance = random.Random(7)
    with ground.arena() as arena:
        node = arena.node()
        arena.make_queues(node, ["ticks"])
        with Client(node.url, API_KEY) as client:
            job = JobSpec("quick", queue="ticks")
            made = [
                client.schedules.create(name, "* * * * * *", job, catch_up="all")
                for name in SCHEDULES
            ]
        begun_s = decided_s(arena)
        for _ in range(form.node_kills // 4):
            killed_within_a_second_of_a_tick(node, chance)
        node.kill()
        for count in (1,):
            node.start(TASKFORGE_FAULTPOINT=f"{faultpoints.AFTER_TICK_BEFORE_ROW}:{count}")
            assert node.died(30.0) == -9, "between the job and the row"
        node.start()
        node.await_ready()
        ends_s = time.time() + LAST_S
        until(lambda: decided_s(arena) > ends_s, "all ticks are decided", 30.0, arena.tails)
        assert node.stop() == 0
        for schedule in made:
            found = ticks(arena, schedule.id)
            assert set(found.values()) == {1}, {s: n for s, n in found.items() if n > 1}
            seconds = sorted(found)
            assert seconds[0] <= begun_s + 1
            assert seconds == list(range(seconds[0], seconds[-1] + 1)), "none is missing"
            assert seconds[-1] >= ends_s - 1
