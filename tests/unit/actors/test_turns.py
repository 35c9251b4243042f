"""Whose turn it is: shares by weight, priorities with a bound on starvation, nobody waits for
nothing. Simulated: whoever is picked takes a chunk and comes back at once while it has work."""

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from taskforge_server.engine import limits
from taskforge_server.engine.actors.turns import Turns

STARVATION_US = round(limits.STARVATION_S * 1e6)
CHUNK = 100
STEP_US = 1_000


@dataclass(eq=False)
class Queue:
    project: bytes
    name: str = ""
    priority: int = 0
    since_us: int = 0
    ticket: int = 0


@dataclass
class Simulation:
    """Queues that always have work, served one chunk each `STEP_US`."""

    turns: Turns[Queue] = field(default_factory=Turns)
    now_us: int = 1
    served: list[tuple[int, Queue, int]] = field(default_factory=list)

    def put(self, *queues: Queue) -> None:
        for queue in queues:
            self.turns.put(queue.project, queue, self.now_us)

    def serve(self, chunk: int = CHUNK, *, again: bool = True) -> Queue | None:
        picked = self.turns.pick(self.now_us)
        if picked is None:
            return None
        queue, late = picked
        jobs = max(1, chunk // limits.LATE_PART) if late else chunk
        self.served.append((self.now_us, queue, jobs))
        queue.since_us = self.now_us if again else 0
        if again:
            self.put(queue)
        self.turns.given(jobs)
        self.now_us += STEP_US
        return queue

    def jobs_of_projects(self) -> Counter[bytes]:
        counted: Counter[bytes] = Counter()
        for _, queue, jobs in self.served:
            counted[queue.project] += jobs
        return counted


@given(
    st.lists(st.integers(1, 20), min_size=2, max_size=6),
    st.lists(st.integers(1, limits.ASSIGN_JOBS_MAX), min_size=1, max_size=8),
)
def test_projects_get_parts_by_their_weights_whatever_the_chunks(
    weights: list[int], chunks: list[int]
) -> None:
    simulation = Simulation()
    for number, weight in enumerate(weights):
        project = bytes([number])
        simulation.turns.weigh(project, weight)
        simulation.put(Queue(project))
    for number in range(400):
        simulation.serve(chunks[number % len(chunks)])
    jobs = simulation.jobs_of_projects()
    # Of two that always have work neither is ahead by more than a chunk of each, by weight.
    used = [jobs[bytes([number])] / weight for number, weight in enumerate(weights)]
    assert max(used) - min(used) <= 2 * max(chunks) / min(weights)


def test_many_queues_get_a_project_no_more() -> None:
    simulation = Simulation()
    simulation.put(*(Queue(b"many", str(number)) for number in range(50)), Queue(b"one"))
    for _ in range(200):
        simulation.serve()
    jobs = simulation.jobs_of_projects()
    assert abs(jobs[b"many"] - jobs[b"one"]) <= CHUNK


def test_who_comes_back_is_owed_nothing() -> None:
    simulation = Simulation()
    busy, idle = Queue(b"busy"), Queue(b"idle")
    simulation.put(busy)
    for _ in range(1_000):
        simulation.serve()
    simulation.served.clear()
    simulation.put(idle)
    for _ in range(100):
        simulation.serve()
    jobs = simulation.jobs_of_projects()
    assert abs(jobs[b"busy"] - jobs[b"idle"]) <= CHUNK


def test_a_single_job_goes_before_the_rest_of_a_backlog() -> None:
    simulation = Simulation()
    simulation.put(Queue(b"noisy"))
    for _ in range(10):
        simulation.serve(limits.ASSIGN_JOBS_MAX)
    quiet = Queue(b"quiet")
    simulation.put(quiet)
    assert quiet in (simulation.serve(), simulation.serve())


def test_changed_weights_count_from_then_on() -> None:
    simulation = Simulation()
    simulation.put(Queue(b"a"), Queue(b"b"))
    for _ in range(100):
        simulation.serve()
    simulation.turns.weigh(b"a", 3)
    simulation.served.clear()
    for _ in range(400):
        simulation.serve()
    jobs = simulation.jobs_of_projects()
    assert abs(jobs[b"a"] - 3 * jobs[b"b"]) <= 4 * CHUNK


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=20))
def test_the_highest_priority_goes_first_and_nobody_starves(queues: list[tuple[int, int]]) -> None:
    simulation = Simulation()
    known = [
        Queue(bytes([project]), str(place), priority)
        for place, (project, priority) in enumerate(queues)
    ]
    simulation.put(*known)
    last = dict.fromkeys(known, simulation.now_us)
    longest_us = 0
    rounds = 4 * (STARVATION_US // STEP_US) + 8 * len(known)
    for _ in range(rounds):
        queue = simulation.serve()
        assert queue is not None
        longest_us = max(longest_us, simulation.now_us - last[queue])
        last[queue] = simulation.now_us
    longest_us = max(longest_us, *(simulation.now_us - at_us for at_us in last.values()))
    # Late ones go every other time in their project, the one that waited longest first; each of
    # the projects has its turn every so many chunks, a late one's small chunk counting less.
    projects = len({project for project, _ in queues})
    bound_us = STARVATION_US + (2 * len(known) + 2) * projects * limits.LATE_PART * STEP_US
    assert longest_us <= bound_us


def test_priority_counts_until_a_queue_is_late() -> None:
    simulation = Simulation()
    high, low = Queue(b"p", "high", 9), Queue(b"p", "low", 1)
    simulation.put(low, high)
    until_late = STARVATION_US // STEP_US
    assert {simulation.serve() for _ in range(until_late)} == {high}
    simulation.serve()
    assert low in (simulation.serve(), simulation.serve())
    at = [place for place, (_, queue, _) in enumerate(simulation.served) if queue is low]
    assert simulation.served[at[0]][2] == CHUNK // limits.LATE_PART


def test_late_queues_leave_every_other_turn_to_the_highest_priority() -> None:
    simulation = Simulation()
    high = Queue(b"p", "high", 9)
    simulation.put(high, *(Queue(b"p", str(number), 0) for number in range(2_000)))
    for _ in range(2 * STARVATION_US // STEP_US):
        simulation.serve()
    simulation.served.clear()
    for _ in range(100):
        simulation.serve()
    assert sum(queue is high for _, queue, _ in simulation.served) == 50


def test_queues_of_one_priority_take_turns_in_the_order_in_which_they_came() -> None:
    simulation = Simulation()
    known = [Queue(b"p", name) for name in "abc"]
    simulation.put(*known)
    assert [simulation.serve() for _ in range(6)] == known * 2


@given(st.lists(st.sampled_from(["put", "away", "serve", "once"]), max_size=60))
def test_whoever_waits_is_picked_and_nobody_else(steps: list[str]) -> None:
    simulation = Simulation()
    known = [Queue(bytes([place % 3]), str(place), place % 10) for place in range(9)]
    waiting: dict[Queue, None] = {}
    for number, step in enumerate(steps):
        queue = known[(number * 7) % len(known)]
        if step == "put" and queue not in waiting:
            waiting[queue] = None
            simulation.put(queue)
        elif step == "away" and queue in waiting:
            del waiting[queue]
            simulation.turns.take_away(queue)
        elif step in ("serve", "once"):
            served = simulation.serve(again=step == "serve")
            assert (served is None) == (not waiting), "work conserving"
            if served is not None:
                assert served in waiting
                if step == "once":
                    del waiting[served]
    while waiting:
        served = simulation.serve(again=False)
        assert served is not None
        del waiting[served]
    assert simulation.serve() is None
