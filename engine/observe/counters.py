"""Plain counters that actors add to, and that the metrics read when somebody asks.

An addition is one attribute of one object: it costs nothing beside the work that it counts, and is
done once a batch. Everything lives on the loop's thread.
"""

from bisect import bisect_left

LATENCY_BOUNDS_S = (
    0.0005,
    0.001,
    0.002,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    10.0,
    60.0,
    600.0,
)


class Histogram:
    """Observations by upper bound; the last bucket holds what is above all bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = LATENCY_BOUNDS_S) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, observations up to it), the form that Prometheus wants."""
        rows, seen = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            seen += count
            rows.append((bound, float(seen)))
        return rows


class Counters:
    """What happened on this node since it started."""

    __slots__ = (
        "cancelled_jobs",
        "crashed_attempts",
        "dropped_days",
        "expired_jobs",
        "failed_jobs",
        "log_lines_dropped",
        "log_lines_stale",
        "log_lines_written",
        "progress_dropped",
        "quarantined_jobs",
        "refused_submits",
        "requeued_jobs",
        "retried_attempts",
        "schedule_lag_s",
        "shards_lost",
        "stale_completions",
        "start_latency_s",
        "started_attempts",
        "submitted_jobs",
        "succeeded_jobs",
        "ticks_skipped",
        "ticks_submitted",
        "timed_out_attempts",
    )

    def __init__(self) -> None:
        self.submitted_jobs = 0
        self.started_attempts = 0
        self.succeeded_jobs = 0
        self.failed_jobs = 0
        self.quarantined_jobs = 0
        self.cancelled_jobs = 0
        self.requeued_jobs = 0
        self.retried_attempts = 0
        self.crashed_attempts = 0
        self.timed_out_attempts = 0
        self.stale_completions = 0
        self.refused_submits = 0
        self.shards_lost = 0
        self.dropped_days = 0
        self.expired_jobs = 0
        self.log_lines_written = 0
        self.log_lines_dropped = 0
        self.log_lines_stale = 0
        self.progress_dropped = 0
        self.ticks_submitted = 0
        self.ticks_skipped = 0
        self.schedule_lag_s = Histogram()
        self.start_latency_s = Histogram()
