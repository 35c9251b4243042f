"""What Prometheus reads: everything is counted elsewhere, and looked up when somebody asks.

A node's own metrics can be read by anybody who reaches it, so they are those of the installation
and name nothing of a tenant's: open jobs are summed up. A project's figures carry the names of its
queues and are shown to its credentials alone; beyond QUEUES_SHOWN_MAX queues, those with the fewest
open jobs are summed up under an empty name, so that the number of series is bounded.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from taskforge_server.engine import limits
from taskforge_server.engine.observe.counters import Counters, Histogram

STATES = ("pending", "scheduled", "processing")


class QueueLength(NamedTuple):
    """The open jobs of one queue, by state."""

    queue: str
    counts: tuple[int, ...]


class LogFigures(NamedTuple):
    """What the journal counts."""

    commits: int
    rows: int
    events: int
    bytes: int
    retries: int
    fenced: int
    commit_seconds: float
    """Of an average commit, weighted towards the newest."""
    available: bool


class ProjectorFigures(NamedTuple):
    """What the projector counts."""

    rows: int
    lag_seconds: float
    failures: int


class Figures(Protocol):
    """A node, as the metrics see it."""

    @property
    def counters(self) -> Counters: ...
    def queue_lengths(self) -> Iterable[QueueLength]: ...
    def log_figures(self) -> LogFigures: ...
    def projector_figures(self) -> ProjectorFigures: ...
    def gauges(self) -> Iterable[tuple[str, str, float]]:
        """(name, help, value) of what has no labels."""
        ...


class NodeCollector(Collector):
    """Turns a node's figures into metrics, at the moment of the scrape."""

    def __init__(self, node: Figures) -> None:
        self._node = node

    def describe(self) -> Iterable[Metric]:
        """Nothing is collected when the collector is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        yield from _jobs(self._node.counters)
        yield _open_jobs(self._node.queue_lengths())
        yield from _log(self._node.log_figures())
        yield from _projector(self._node.projector_figures())
        for name, text, value in self._node.gauges():
            yield GaugeMetricFamily(f"taskforge_{name}", text, value)


def _jobs(counters: Counters) -> Iterator[Metric]:
    yield from (
        CounterMetricFamily(f"taskforge_{name}", text, value)
        for name, text, value in (
            ("jobs_submitted", "Jobs that were accepted.", counters.submitted_jobs),
            ("jobs_started", "Attempts that began.", counters.started_attempts),
            ("jobs_succeeded", "Jobs that succeeded.", counters.succeeded_jobs),
            ("jobs_failed", "Jobs that failed for good.", counters.failed_jobs),
            ("jobs_retried", "Failed attempts that are tried again.", counters.retried_attempts),
            ("jobs_cancelled", "Jobs that were cancelled.", counters.cancelled_jobs),
            ("jobs_requeued", "Finished jobs that were started anew.", counters.requeued_jobs),
            ("jobs_quarantined", "Jobs that took workers down.", counters.quarantined_jobs),
            ("attempts_crashed", "Attempts lost with a worker.", counters.crashed_attempts),
            ("attempts_timed_out", "Attempts past their time.", counters.timed_out_attempts),
            ("completions_stale", "Completions without a lease.", counters.stale_completions),
            ("submits_refused", "Submits turned away by overload.", counters.refused_submits),
            ("jobs_expired", "Jobs deleted after their days.", counters.expired_jobs),
            ("days_dropped", "Days of finished jobs dropped whole.", counters.dropped_days),
            ("shards_lost", "Shards lost to another owner.", counters.shards_lost),
            ("schedule_ticks", "Ticks of schedules that had a job.", counters.ticks_submitted),
            ("schedule_ticks_skipped", "Ticks that had none.", counters.ticks_skipped),
            ("execution_log_lines", "Lines of handlers.", counters.log_lines_written),
            ("execution_log_lines_dropped", "Lines without room.", counters.log_lines_dropped),
            ("execution_log_lines_stale", "Lines without a lease.", counters.log_lines_stale),
            ("progress_dropped", "Words of progress beyond a bound.", counters.progress_dropped),
        )
    )
    yield _histogram(
        "start_latency_seconds",
        "From the submit of a job to its start, of a sample of jobs.",
        counters.start_latency_s,
    )
    yield _histogram(
        "schedule_lag_seconds",
        "From a tick of a schedule until its job is durable.",
        counters.schedule_lag_s,
    )


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(
        f"taskforge_{name}", text, buckets=histogram.cumulative(), sum_value=histogram.total
    )


def _open_jobs(lengths: Iterable[QueueLength]) -> Metric:
    family = GaugeMetricFamily(
        "taskforge_jobs_open", "Open jobs of all queues in use, by state.", labels=("state",)
    )
    for state, count in zip(STATES, _sums(lengths), strict=True):
        family.add_metric((state,), count)
    return family


def _sums(lengths: Iterable[QueueLength]) -> tuple[int, ...]:
    return tuple(
        sum(column)
        for column in zip((0,) * len(STATES), *(one.counts for one in lengths), strict=True)
    )


class ProjectCollector(Collector):
    """The figures of one project, for one answer."""

    def __init__(self, lengths: Iterable[QueueLength]) -> None:
        self._lengths = lengths

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "taskforge_queue_jobs", "Open jobs by queue and state.", labels=("queue", "state")
        )
        ordered = sorted(self._lengths, key=lambda length: -sum(length.counts))
        shown, rest = ordered[: limits.QUEUES_SHOWN_MAX], ordered[limits.QUEUES_SHOWN_MAX :]
        if rest:
            shown.append(QueueLength("", _sums(rest)))
        for queue, counts in shown:
            for state, count in zip(STATES, counts, strict=True):
                family.add_metric((queue, state), count)
        yield family


def _log(figures: LogFigures) -> Iterator[Metric]:
    for name, text, value in (
        ("log_commits", "Commits of the log.", figures.commits),
        ("log_rows", "Rows written to the log.", figures.rows),
        ("log_events", "Events written to the log.", figures.events),
        ("log_bytes", "Bytes written to the log.", figures.bytes),
        ("log_retries", "Commits that had to be tried again.", figures.retries),
        ("log_fenced", "Rows refused because of another owner.", figures.fenced),
    ):
        yield CounterMetricFamily(f"taskforge_{name}", text, value)
    yield GaugeMetricFamily(
        "taskforge_log_commit_seconds", "How long a commit takes.", figures.commit_seconds
    )
    yield GaugeMetricFamily(
        "taskforge_log_available", "1 while the log can be written.", float(figures.available)
    )


def _projector(figures: ProjectorFigures) -> Iterator[Metric]:
    yield CounterMetricFamily("taskforge_projected_rows", "Rows written.", figures.rows)
    yield CounterMetricFamily(
        "taskforge_projection_failures", "Projections that failed.", figures.failures
    )
    yield GaugeMetricFamily(
        "taskforge_projection_lag_seconds",
        "How far the tables are behind the log.",
        figures.lag_seconds,
    )
