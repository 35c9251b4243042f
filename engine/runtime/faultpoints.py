"""Named points at which a crash test lets the process die.

    TASKFORGE_FAULTPOINT=name      dies when the point is reached for the first time
    TASKFORGE_FAULTPOINT=name:7    dies when it is reached for the seventh time
    TASKFORGE_FAULTPOINT=name@FILE dies when it is reached while FILE is there

The process kills itself with SIGKILL: no handler runs, no buffer is flushed. The variable is read
once, at import. A point that nobody named costs one call of an empty function.
"""

import os
import signal
from collections.abc import Callable
from typing import Final

VARIABLE: Final = "TASKFORGE_FAULTPOINT"

AFTER_COMMIT_BEFORE_RELEASE: Final = "after_commit_before_release"
AFTER_STARTED_BEFORE_SEND: Final = "after_started_before_send"
BETWEEN_COMPLETION_AND_ACK: Final = "between_completion_and_ack"
IN_PROJECTOR_TRANSACTION: Final = "in_projector_transaction"
IN_TAKEOVER: Final = "in_takeover"
AFTER_TICK_BEFORE_ROW: Final = "after_tick_before_row"
IN_PAGE: Final = "in_page"

NAMES: Final = frozenset(
    {
        AFTER_COMMIT_BEFORE_RELEASE,
        AFTER_STARTED_BEFORE_SEND,
        BETWEEN_COMPLETION_AND_ACK,
        IN_PROJECTOR_TRANSACTION,
        IN_TAKEOVER,
        AFTER_TICK_BEFORE_ROW,
        IN_PAGE,
    }
)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def armed(setting: str, die: Callable[[], None] = _die) -> Callable[[str], None]:
    """The function to call at every point, for this value of the variable."""
    if not setting:
        return lambda name: None
    setting, _, trigger = setting.partition("@")
    wanted, _, count = setting.partition(":")
    if wanted not in NAMES:
        raise ValueError(f"{VARIABLE} names {wanted!r}; known are {', '.join(sorted(NAMES))}")
    left = int(count or "1")

    def hit(name: str) -> None:
        nonlocal left
        if name == wanted and (not trigger or os.path.exists(trigger)):
            left -= 1
            if left == 0:
                die()

    return hit


hit: Final = armed(os.environ.get(VARIABLE, ""))
"""Called at a point with its name."""
