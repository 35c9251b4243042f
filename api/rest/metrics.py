"""What the HTTP interface counts: requests by operation and status, open connections.

Counting is an increment in a dictionary; families are made when somebody scrapes.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

NO_OPERATION = "none"
"""The path or the method of the request named no operation."""


class InboxCounts(Collector):
    """What became of rows that applications enqueued by SQL."""

    def __init__(self, counts: Callable[[], Iterable[tuple[str, int]]]) -> None:
        """`counts` gives each fate and how many rows met it since the start."""
        self._counts = counts

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: the registry need not scrape to register."""
        return []

    def collect(self) -> Iterator[Metric]:
        rows = CounterMetricFamily(
            "taskforge_inbox_rows",
            "Rows that applications enqueued by SQL, by what became of them.",
            labels=("fate",),
        )
        for fate, count in self._counts():
            rows.add_metric((fate,), count)
        yield rows


class RequestCounts(Collector):
    """The counters of one process."""

    def __init__(self, gauges: Callable[[], Iterable[tuple[str, str, float]]]) -> None:
        """`gauges` gives name, text and value of what is open now."""
        self.requests: Counter[tuple[str, int]] = Counter()
        self._gauges = gauges

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: the registry need not scrape to register."""
        return []

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "taskforge_http_requests",
            "Requests that were answered.",
            labels=("operation", "status"),
        )
        for (operation, status), count in sorted(self.requests.items()):
            requests.add_metric((operation, str(status)), count)
        yield requests
        for name, text, value in self._gauges():
            yield GaugeMetricFamily(name, text, value)
