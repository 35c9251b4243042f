"""When a failed attempt is tried again: exponential backoff with full jitter.

    delay = random * min(max_delay, base_delay * backoff_multiplier ** (failures - 1))

with `random` in [0, 1) and `failures` counted from 1: the attempt that failed just now. Full jitter
spreads jobs that failed together over the whole interval, which costs the least total work of the
variants compared in "Exponential Backoff and Jitter" (Marc Brooker, AWS Architecture Blog, 2015).

Crashed attempts are no failures: they do not lengthen the delay.
"""

import sys
from typing import Annotated

import msgspec

from taskforge_server.engine import limits
from taskforge_server.engine.errors import InvalidInput
from taskforge_server.engine.model.base import Model

Delay = Annotated[float, msgspec.Meta(ge=0, le=limits.RETRY_DELAY_S_MAX, description="seconds")]


class RetryPolicy(Model, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often a job is tried and how long it waits in between; delays in seconds."""

    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=limits.ATTEMPTS_MAX)] = 5
    base_delay: Delay = 1.0
    max_delay: Delay = 300.0
    backoff_multiplier: Annotated[float, msgspec.Meta(ge=1, le=limits.BACKOFF_MULTIPLIER_MAX)] = 2.0

    def validate(self) -> None:
        super().validate()
        self.check_relations()

    def check_relations(self, path: str = "") -> None:
        """Rules of two fields; `path` leads the name of the field in the error."""
        if self.max_delay < self.base_delay:
            raise InvalidInput(
                f"must not be less than base_delay ({self.base_delay:g})", f"{path}max_delay"
            )

    def may_retry(self, failures: int) -> bool:
        """Whether there is another attempt after this many failures."""
        return failures < self.max_attempts


def backoff_s(policy: RetryPolicy, failures: int, random: float) -> float:
    """Seconds to wait after `failures` failures (1 or more), with `random` in [0, 1)."""
    if failures < 1:
        raise ValueError(f"failures is {failures}: counted from 1")
    if not 0.0 <= random < 1.0:
        raise ValueError(f"random is {random}: in [0, 1)")
    # The cap is reached long before the power overflows a float.
    exponent = min(failures - 1, _EXPONENT_MAX)
    return random * min(policy.max_delay, policy.base_delay * policy.backoff_multiplier**exponent)


_EXPONENT_MAX = 300
assert sys.float_info.max >= limits.BACKOFF_MULTIPLIER_MAX**_EXPONENT_MAX
