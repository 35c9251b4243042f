"""The metrics have a bounded number of series and say what the counters say."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, generate_latest

from taskforge_server.engine import limits
from taskforge_server.engine.observe.counters import Counters, Histogram
from taskforge_server.engine.observe.metrics import (
    LogFigures,
    NodeCollector,
    ProjectCollector,
    ProjectorFigures,
    QueueLength,
)


class Node:
    """Figures of a node."""

    def __init__(self, queues: int) -> None:
        self.counters = Counters()
        self._queues = queues

    def queue_lengths(self) -> Iterable[QueueLength]:
        return [QueueLength(f"q{n}", (n, 1, 0)) for n in range(self._queues)]

    def log_figures(self) -> LogFigures:
        return LogFigures(1, 2, 3, 4, 5, 6, 0.25, True)

    def projector_figures(self) -> ProjectorFigures:
        return ProjectorFigures(7, 0.5, 0)

    def gauges(self) -> Iterable[tuple[str, str, float]]:
        yield "workers_connected", "Workers.", 2.0


def scraped(node: Node) -> str:
    registry = CollectorRegistry()
    registry.register(NodeCollector(node))
    return generate_latest(registry).decode()


def test_counters_gauges_and_histogram() -> None:
    node = Node(1)
    node.counters.submitted_jobs = 5
    node.counters.start_latency_s.observe(0.003)
    text = scraped(node)
    assert "taskforge_jobs_submitted_total 5.0" in text
    assert "taskforge_workers_connected 2.0" in text
    assert "taskforge_log_commit_seconds 0.25" in text
    assert 'taskforge_start_latency_seconds_bucket{le="0.005"} 1.0' in text
    assert "taskforge_start_latency_seconds_sum 0.003" in text


def test_a_node_sums_up_and_names_no_queue() -> None:
    text = scraped(Node(4))
    assert 'taskforge_jobs_open{state="pending"} 6.0' in text
    assert 'taskforge_jobs_open{state="scheduled"} 4.0' in text
    assert "q1" not in text
    assert 'taskforge_jobs_open{state="pending"} 0.0' in scraped(Node(0))


def test_queues_of_a_project_beyond_the_bound_are_summed_up() -> None:
    more = 3
    registry = CollectorRegistry()
    registry.register(ProjectCollector(Node(limits.QUEUES_SHOWN_MAX + more).queue_lengths()))
    text = generate_latest(registry).decode()
    assert text.count('state="pending"') == limits.QUEUES_SHOWN_MAX + 1
    assert f'queue="",state="scheduled"}} {float(more)}' in text
    assert 'queue="",state="pending"} 3.0' in text  # the three shortest: 0, 1 and 2


def test_a_histogram_counts_what_is_on_a_bound_below_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    assert histogram.cumulative() == [("1.0", 2.0), ("2.0", 3.0), ("+Inf", 4.0)]
    assert histogram.total == 12.0
