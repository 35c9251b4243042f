"""How many unfinished jobs a worker asks for.

    credit = slots + completions per second × CREDIT_WINDOW_S

`slots` are the jobs that can be in progress at once. A worker of slow jobs holds hardly more than
it runs, so that others get the rest and priorities count; one of fast jobs keeps a stock for as
long as the wire takes. It grows by a factor a tick at most and falls at once.
"""

from taskforge.limits import (
    CREDIT_GROWTH_MAX,
    CREDIT_MAX,
    CREDIT_WINDOW_S,
    UNACKED_JOBS_MAX,
)

ELAPSED_S_MIN = 0.001  # a tick is never that short; a clock may say so


def next_credit(
    *, credit: int, slots: int, finished_jobs: int, elapsed_s: float, unacked_jobs: int
) -> int:
    """The credit after a tick of `elapsed_s` in which `finished_jobs` ended."""
    if unacked_jobs >= UNACKED_JOBS_MAX:
        return 0
    stock = int(finished_jobs * CREDIT_WINDOW_S / max(elapsed_s, ELAPSED_S_MIN))
    wanted = min(slots + stock, max(CREDIT_MAX, slots))
    grown = max(credit, slots) * CREDIT_GROWTH_MAX
    return min(wanted, grown)


def differs(sent: int, wanted: int) -> bool:
    """Whether the change is worth a frame: an eighth, or to or from nothing."""
    return (sent == 0) != (wanted == 0) or abs(wanted - sent) * 8 > sent
