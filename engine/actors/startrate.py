"""How fast jobs of a queue start: counted per chunk, older ones counting less and less.

    rate(now) = sum of jobs × exp(-age / START_RATE_S) / START_RATE_S

Until the first START_RATE_S are over it is divided by the time that was seen, so that a queue that
has just begun is not taken for a slow one.
"""

from math import exp

from taskforge_server.engine import limits


class StartRate:
    """Of one queue; two numbers and a time."""

    __slots__ = ("_at_us", "_began_us", "_weight", "total")

    def __init__(self) -> None:
        self.total = 0
        """Jobs started by this actor."""
        self._weight = 0.0
        self._at_us = 0
        self._began_us = 0

    def add(self, jobs: int, now_us: int) -> None:
        self.total += jobs
        self._weight = self._decayed(now_us) + jobs
        self._at_us = now_us
        self._began_us = self._began_us or now_us

    def per_s(self, now_us: int) -> float:
        """Jobs a second lately; 0 when none have started, or not for a long time."""
        if not self._began_us:
            return 0.0
        seen_s = (now_us - self._began_us) / 1e6
        # What an unbroken stream would weigh by now.
        span_s = limits.START_RATE_S * (1 - exp(-max(seen_s, 1.0) / limits.START_RATE_S))
        rate = self._decayed(now_us) / span_s
        return rate if rate * limits.START_RATE_FORGOTTEN_S >= 1.0 else 0.0

    def _decayed(self, now_us: int) -> float:
        age_s = max(0, now_us - self._at_us) / 1e6
        return self._weight * exp(-age_s / limits.START_RATE_S)
