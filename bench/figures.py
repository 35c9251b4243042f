"""The figures that are promised: what they must be, what they aim at, and what was measured.

A figure is the median of its runs. A run is a flat object of raw values, kept with the result; its
`value` is what the median is taken of.
"""

from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

RawRun = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure must be and aims at."""

    figure: str
    unit: str
    must: float
    aim: float
    better: Literal["more", "less"]
    about: str

    def reaches(self, value: float, bound: float) -> bool:
        """Whether the value is as good as the bound."""
        return value >= bound if self.better == "more" else value <= bound


TARGETS = {
    target.figure: target
    for target in (
        Target(
            "end_to_end_history_all",
            "jobs/s",
            150_000,
            250_000,
            "more",
            "batch submit, durable, worker, durable completion, both tables; history = all",
        ),
        Target(
            "end_to_end_history_none",
            "jobs/s",
            300_000,
            600_000,
            "more",
            "the same with history = none",
        ),
        Target(
            "single_submits_64_connections",
            "requests/s",
            15_000,
            30_000,
            "more",
            "single submits, each acknowledged durable",
        ),
        Target("single_submit_p50", "ms", 0.5, 0.3, "less", "one connection, call after call"),
        Target("single_submit_p99", "ms", 2.0, 1.0, "less", "one connection, call after call"),
        Target("submit_to_start_p50", "ms", 1.0, 0.45, "less", "a job every 20 ms"),
        Target("submit_to_start_p99", "ms", 4.0, 2.0, "less", "a job every 20 ms"),
        Target("memory_per_pending_job", "B", 250, 150, "less", "resident, without its payload"),
        Target(
            "start_first_dispatch",
            "s",
            2.0,
            0.5,
            "less",
            "with 1,000,000 pending jobs in the tables",
        ),
        Target("start_ready", "s", 4.0, 1.5, "less", "with 1,000,000 pending jobs in the tables"),
        Target(
            "cron_herd_durable", "s", 2.0, 1.0, "less", "10,000 schedules due in the same second"
        ),
        Target(
            "cron_herd_started", "s", 2.0, 1.0, "less", "10,000 schedules due in the same second"
        ),
        Target(
            "limits_ratio",
            "%",
            70,
            90,
            "more",
            "jobs/s of 1,000 queues with 100 keys each under limits, to the same without",
        ),
        Target(
            "backlog_10m_memory", "GB", 1.5, 1.0, "less", "a node at most, 10,000,000 pending jobs"
        ),
        Target(
            "backlog_10m_share", "%", 70, 90, "more", "throughput beside that of an empty backlog"
        ),
        Target("scheduled_10m_share", "%", 90, 97, "more", "the same, 10,000,000 due next month"),
        Target(
            "noisy_tenant_p50",
            "ms",
            10.0,
            4.0,
            "less",
            "submit to start beside a tenant at full load with 1,000,000 waiting jobs",
        ),
        Target(
            "noisy_tenant_p99",
            "ms",
            20.0,
            10.0,
            "less",
            "submit to start beside a tenant at full load with 1,000,000 waiting jobs",
        ),
    )
}


@dataclass(slots=True)
class Measured:
    """A figure with its runs."""

    target: Target
    runs: list[RawRun] = field(default_factory=list)
    commit: str = ""
    measured_at: str = ""

    @property
    def value(self) -> float:
        return float(median(run["value"] for run in self.runs))

    def as_object(self) -> dict[str, Any]:
        """As it stands in the results."""
        target, value = self.target, self.value
        return {
            "figure": target.figure,
            "value": round(value, 3),
            "unit": target.unit,
            "must": target.must,
            "aim": target.aim,
            "met": target.reaches(value, target.must),
            "aim_met": target.reaches(value, target.aim),
            "about": target.about,
            "commit": self.commit,
            "measured_at": self.measured_at,
            "runs": self.runs,
        }


def quantile(values: list[float], share: float) -> float:
    """The value that `share` of the values stay within."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
