"""The limits of a queue: how many of its jobs run at once and start a second, in all and of a key.

rate: a bucket of `burst` tokens, `per_s` new ones a second; a start takes one. In any window of
w seconds at most burst + w * per_s jobs start, also when the node is killed in between.
"""

from typing import Annotated

import msgspec

from taskforge_server.engine import limits
from taskforge_server.engine.errors import InvalidInput
from taskforge_server.engine.model.base import Model

Concurrency = Annotated[
    int, msgspec.Meta(ge=1, le=limits.QUEUE_CONCURRENCY_MAX, description="null: no limit")
]

TableLimits = tuple[int, int, int, int, int, int, int, int]
"""As the shard table takes them (`ext.table.QueueLimits`)."""


class Rate(Model, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many jobs start a second."""

    per_s: Annotated[
        float,
        msgspec.Meta(
            ge=limits.RATE_PER_S_MIN,
            le=limits.RATE_PER_S_MAX,
            description="starts a second in the long run",
        ),
    ]
    burst: Annotated[
        int,
        msgspec.Meta(
            ge=1, le=limits.RATE_BURST_MAX, description="what may start at once after a pause"
        ),
    ] = 1

    def check_relations(self, path: str) -> None:
        if self.burst / self.per_s > limits.RATE_FILL_S_MAX:
            days = limits.RATE_FILL_S_MAX // 86_400
            raise InvalidInput(f"so much takes more than {days} days to gather", f"{path}burst")

    @property
    def interval_ns(self) -> int:
        """Between two starts in the long run; rounded up, so that it is never too short."""
        numerator, denominator = self.per_s.as_integer_ratio()
        return -(-denominator * 1_000_000_000 // numerator)


def table_limits(
    max_concurrency: int | None,
    max_concurrency_per_key: int | None,
    rate: Rate | None,
    rate_per_key: Rate | None,
    fair_keys: bool,
) -> TableLimits | None:
    """None: there is no limit at all."""
    found = (
        max_concurrency or 0,
        max_concurrency_per_key or 0,
        *((rate.interval_ns, rate.burst) if rate else (0, 0)),
        *((rate_per_key.interval_ns, rate_per_key.burst) if rate_per_key else (0, 0)),
        int(fair_keys),
    )
    return (*found, limits.IDLE_KEYS_MAX) if any(found) else None
