"""The safeguards that a test build can switch off, to prove that the checkers notice.

    TASKFORGE_TEST_BUILD=1 TASKFORGE_TEST_DISABLE=fence,lease_comparison

| safeguard            | without it                                                      |
|----------------------|-----------------------------------------------------------------|
| fence                | a log row that was refused counts as written                    |
| lease_comparison     | a completion counts whichever lease it names                    |
| release_after_commit | effects go out before the log row of their cause is durable     |
| projection_watermark | the watermark is written before the rows that it speaks of      |
| limits               | queues start whatever waits                                     |
| parents              | the jobs of a graph wait for nobody                             |
| tick_keys            | nobody looks whether a tick has its job                         |
| recovered_leases     | after a takeover nobody waits for the workers of what runs      |

The variables are read once, at import, and the first of them must be set: without it all safeguards
are on whatever the other says.
"""

import os
from collections.abc import Mapping
from typing import Final, NamedTuple


class Safeguards(NamedTuple):
    """Which safeguards are on."""

    fence: bool = True
    lease_comparison: bool = True
    release_after_commit: bool = True
    projection_watermark: bool = True
    limits: bool = True
    parents: bool = True
    tick_keys: bool = True
    recovered_leases: bool = True


def read(environment: Mapping[str, str]) -> Safeguards:
    """All on, but for those that a test build switches off."""
    if environment.get("TASKFORGE_TEST_BUILD") != "1":
        return Safeguards()
    off = {name for name in environment.get("TASKFORGE_TEST_DISABLE", "").split(",") if name}
    unknown = off - set(Safeguards._fields)
    if unknown:
        raise ValueError(f"TASKFORGE_TEST_DISABLE names unknown safeguards: {sorted(unknown)}")
    return Safeguards(**{name: name not in off for name in Safeguards._fields})


ACTIVE: Final = read(os.environ)
