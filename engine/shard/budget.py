"""The retry budget of a queue: retries beyond it wait, they are never lost.

    tokens   + ratio   for each attempt that starts
             + per_s   a second, always
             - 1       for each retry, when it is decided
             fade with BUDGET_WINDOW_S while there are some

A retry that finds no token takes one all the same: the queue is in debt, and the retry is not due
before the debt is paid by the second alone. So of the retries that are due up to any time there are
never more than ratio * attempts + per_s * time (`engine/model/retry.py` has the settings). Attempts
that start meanwhile pay too: retries that are decided later wait the less.

Pure, and in memory only: a new owner of the shard begins without tokens and without
debt, and what was decided before has its time in the log.
"""

from math import exp

from taskforge_server.engine import limits
from taskforge_server.engine.model.retry import RetryBudget


class Meter:
    """The tokens of one queue; negative ones are a debt."""

    __slots__ = ("at_us", "tokens")

    def __init__(self, at_us: int) -> None:
        self.at_us = at_us
        self.tokens = 0.0

    def advance(self, budget: RetryBudget, now_us: int) -> None:
        """Let the time pass."""
        elapsed_s = max(0, now_us - self.at_us) / 1e6
        self.at_us = max(self.at_us, now_us)
        if self.tokens < 0:
            paying_s = min(elapsed_s, -self.tokens / budget.per_s)
            self.tokens = min(0.0, self.tokens + paying_s * budget.per_s)
            elapsed_s -= paying_s
        if elapsed_s > 0:
            most = budget.per_s * limits.BUDGET_WINDOW_S
            kept = exp(-elapsed_s / limits.BUDGET_WINDOW_S)
            self.tokens = most + (self.tokens - most) * kept


class Budgets:
    """The meters of the queues that have a budget."""

    def __init__(self) -> None:
        self._meters: dict[bytes, Meter] = {}

    def started(self, queue_id: bytes, budget: RetryBudget, count: int, now_us: int) -> None:
        """So many attempts start."""
        self._meter(queue_id, budget, now_us).tokens += budget.ratio * count

    def retry(self, queue_id: bytes, budget: RetryBudget, now_us: int) -> int:
        """One retry more; the time before which it must not be due."""
        meter = self._meter(queue_id, budget, now_us)
        meter.tokens -= 1.0
        debt_s = max(0.0, -meter.tokens) / budget.per_s
        return now_us + round(min(debt_s, limits.RETRY_DELAY_S_MAX) * 1e6)

    def _meter(self, queue_id: bytes, budget: RetryBudget, now_us: int) -> Meter:
        meter = self._meters.get(queue_id)
        if meter is None:
            if len(self._meters) >= limits.QUEUES_CACHED_MAX:
                del self._meters[next(iter(self._meters))]
            meter = self._meters[queue_id] = Meter(now_us)
        meter.advance(budget, now_us)
        return meter
