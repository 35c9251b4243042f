"""A schedule: a cron expression, and the job that is made at each of its ticks.

    active ──tick──► decided: a job, or none (its `last_problem` says why)
       ▲                 │
       │                 └── `decided_at` = the tick: no earlier one is ever looked at again
       └──resume── paused ◄──pause

A tick has one job at most, whoever makes it and how often he tries: its submit carries a key that
is made of the schedule and the tick. A schedule stays in its queue, so one shard knows its keys.

Ticks that nobody could decide in their time, for longer than SCHEDULE_GRACE_S, were missed; what
becomes of them is the schedule's `catch_up`:

    skip      nothing
    latest    the newest of them within the window has its job, if no tick is in time
    all       each within the window has its job, the oldest first
"""

import hashlib
from typing import Annotated, Final, Literal

import msgspec

from taskforge_server.engine import limits
from taskforge_server.engine.model.base import Id, Model, Name, Time
from taskforge_server.engine.model.cron import NEVER_US, SECOND_US, CronRule
from taskforge_server.ext.ids import uuid_text

CatchUp = Annotated[
    Literal["skip", "latest", "all"],
    msgspec.Meta(description="which of the ticks that were missed have their job afterwards"),
]
Overlap = Annotated[
    Literal["allow", "skip", "cancel_previous"],
    msgspec.Meta(description="what happens when the job of the tick before has not ended"),
]
Cron = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=limits.CRON_CHARS_MAX,
        description="minute, hour, day of month, month, day of week; seconds may stand in front",
        examples=["30 2 * * *", "@hourly"],
    ),
]
Timezone = Annotated[
    str,
    msgspec.Meta(max_length=64, description="a name of the IANA database", examples=["UTC"]),
]
WindowS = Annotated[
    int,
    msgspec.Meta(
        ge=1, le=limits.SCHEDULE_WINDOW_S_MAX, description="how far back missed ticks count"
    ),
]
JitterS = Annotated[
    int,
    msgspec.Meta(
        ge=0,
        le=limits.SCHEDULE_JITTER_S_MAX,
        description="jobs are spread over so many seconds after the tick",
    ),
]

WINDOW_S_DEFAULT: Final = 3_600
GRACE_US: Final = limits.SCHEDULE_GRACE_S * SECOND_US
KEY_PREFIX: Final = "cron "
"""No caller can send a key with a blank."""


class Schedule(Model, frozen=True, kw_only=True):
    """A row of `cron_schedules`, with the name of its queue."""

    id: Id
    project_id: Id
    queue_id: Id
    queue: str
    name: Name
    cron: Cron
    timezone: Timezone = "UTC"
    job: bytes
    """What a caller gives of a job but its payload, as JSON."""
    payload: bytes
    """JSON text; sealed in encrypted projects."""
    catch_up: CatchUp = "latest"
    window_s: WindowS = WINDOW_S_DEFAULT
    overlap: Overlap = "allow"
    jitter_s: JitterS = 0
    paused_at: Time | None = None
    decided_at: Time
    next_at: Time | None = None
    last_tick: Time | None = None
    last_job_id: Id | None = None
    last_problem: str | None = None
    revision: int = 1
    created_at: Time
    updated_at: Time


def upcoming_us(
    rule: CronRule, catch_up: CatchUp, window_s: int, decided_us: int, now_us: int
) -> int:
    """The next tick to decide, after all up to `decided_us`: it may be past. NEVER_US: none."""
    next_us = rule.next_us(decided_us)
    in_time_us = now_us - GRACE_US
    if next_us == NEVER_US or next_us >= in_time_us:
        return next_us
    # A tick that is still in time was not missed, however short the window.
    window_us = max(decided_us, min(now_us - window_s * SECOND_US, in_time_us - 1))
    if catch_up == "all":
        return rule.next_us(window_us)
    next_us = rule.next_us(max(decided_us, in_time_us - 1))
    if catch_up == "latest" and not NEVER_US < next_us <= now_us:
        return rule.last_us(window_us, now_us) or next_us
    return next_us


def key_prefix(schedule_id: bytes) -> str:
    """What the keys of its ticks begin with; a blank and the second follow."""
    return f"{KEY_PREFIX}{uuid_text(schedule_id)}"


def tick_key(schedule_id: bytes, tick_us: int) -> tuple[str, bytes]:
    """The idempotency key of the job of a tick, and what stands for its request's hash: the key is
    all that counts, whatever the schedule says by then."""
    key = f"{key_prefix(schedule_id)} {tick_us // SECOND_US}"
    return key, hashlib.sha256(key.encode()).digest()


def jittered_us(schedule_id: bytes, tick_us: int, jitter_s: int) -> int:
    """When the job of a tick is due: the same whoever reckons it, spread evenly over the jitter."""
    chance = hashlib.sha256(schedule_id + tick_us.to_bytes(8)).digest()[:8]
    return tick_us + int.from_bytes(chance) * jitter_s * SECOND_US // 2**64
