"""SIGKILL of the node while jobs wait for other jobs: children after parents, and all of them run.

What is believed is what the handlers wrote down themselves: a child begins after the end of each of
its parents, as the one clock of the machine has it.
"""

import itertools
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from taskforge import Graph
from taskforge.graph import Node
from tests.crash.conftest import Form
from tests.support.arena import Arena, Ground
from tests.support.history import End, JobRow, Run, Start
from tests.support.load import NO_ANSWER, REPEAT_PAUSE_S, Submitter
from tests.support.processes import until

pytestmark = pytest.mark.timeout(1_200)

QUEUES = ("a", "b", "c", "d")
SHAPE = ("quick", "flaky", "slow", "answer", "doomed")
GRAPHS_BETWEEN = 6
PROGRESS_S = 60.0


class Weaver:
    """A client that submits one graph after the other, and repeats what had no answer."""

    def __init__(self, submitter: Submitter, seed: int) -> None:
        self._submitter = submitter
        self._chance = random.Random(seed)
        self._numbers = itertools.count(1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="weaver")
        self.edges: list[tuple[str, str]] = []
        """Parent and child by the marks of their payloads."""
        self.acknowledged = 0

    @contextmanager
    def weaving(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._submit(next(self._numbers))

    def _submit(self, number: int) -> None:
        """A root, some side by side, a foot behind them all, and one more at the end."""
        graph, marks, name = Graph(), [], f"graph-{number}"

        def add(kind: str, *after: Node[object], on_failure: str = "block") -> Node[object]:
            mark = f"{kind}-{name}-{len(marks)}"
            marks.append(mark)
            node = graph.add(
                kind,
                {"mark": mark},
                queue=self._chance.choice(QUEUES),
                ref=mark,
                after=[(parent, on_failure) for parent in after],
            )
            self.edges.extend((parent.ref, mark) for parent in after)
            return node

        root = add("quick")
        middle = [add(kind, root) for kind in SHAPE]
        add("quick", *middle, on_failure="run_anyway")
        key, history = f"key-{name}", self._submitter.history
        history.say("call", call=name, marks=marks, key=key)
        while True:
            try:
                made = self._submitter.client.submit_graph(graph, idempotency_key=key)
            except NO_ANSWER as error:
                history.say("unknown", call=name, why=str(error))
                self._stop.wait(REPEAT_PAUSE_S)
            else:
                history.say("acked", call=name, ids=[job.id for job in made.jobs])
                self.acknowledged += 1
                return


def began_too_soon(run: Run, edges: list[tuple[str, str]]) -> list[str]:
    """Children of which an attempt began before a parent had ended."""
    marks = {row.job: row.mark for row in run.jobs}
    ended: dict[str, int] = {}
    for end in run.ends:
        if end.outcome in ("ok", "fatal"):
            mark = marks[end.job]
            ended[mark] = min(end.at_ns, ended.get(mark, end.at_ns))
    began: dict[str, int] = {}
    for start in run.starts:
        mark = marks[start.job]
        began[mark] = min(start.at_ns, began.get(mark, start.at_ns))
    return [
        f"{child} began before {parent} had ended"
        for parent, child in edges
        if child in began and (parent not in ended or began[child] < ended[parent])
    ]


def test_the_look_notices_a_child_that_began_too_soon() -> None:
    run = Run(
        starts=[Start("p", 1, 10), Start("c", 2, 15), Start("d", 3, 25)],
        ends=[End("p", 1, "ok", 20)],
        jobs=[JobRow(job, job, "succeeded", 1) for job in "pcd"],
    )
    assert began_too_soon(run, [("p", "c")]) == ["c began before p had ended"]
    assert began_too_soon(run, [("p", "d")]) == []
    assert began_too_soon(run, [("c", "d")]) == ["d began before c had ended"]


@pytest.mark.long  # test_mixed.py is its short form
def test_children_start_after_their_parents_whoever_dies(ground: Ground, form: Form) -> None:
    chance = random.Random(7)
    with ground.arena() as arena:
        node = arena.node()
        arena.make_queues(node, QUEUES)
        arena.worker(node, "one")
        arena.worker(node, "two")
        weaver = Weaver(arena.client(node, "weaver"), 1)
        with weaver.weaving():
            for _ in range(form.node_kills):
                progress(arena, weaver, chance.randint(1, GRAPHS_BETWEEN))
                node.kill()
                node.start()
            node.await_ready()
            progress(arena, weaver, 1)
        run, violations = arena.judge()
        assert not violations, "\n".join(map(str, violations[:20]))
        assert began_too_soon(run, weaver.edges) == []
        assert {child for _, child in weaver.edges} <= {row.mark for row in run.jobs}
        assert {row.status for row in run.jobs} == {"succeeded", "failed"}


def progress(arena: Arena, weaver: Weaver, graphs: int) -> None:
    """Wait until so many more graphs are acknowledged."""
    wanted = weaver.acknowledged + graphs

    def reached() -> bool:
        arena.check_alive()
        return weaver.acknowledged >= wanted

    until(reached, f"{graphs} more graphs", PROGRESS_S, arena.tails)
