"""What an organisation may use: the tiers, their limits in one table, and what is agreed beyond it.

    TIERS[tier]  ──overridden by the subscription's `limits`──►  Limits  ──►  Plan

A limit that is None does not limit. Overrides name limits of the table; others are refused when
they are given, and passed over when they are read: nodes of two versions run side by side in an
upgrade. An organisation without a subscription has the smallest tier, without an end.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import msgspec

from taskforge_server.engine import limits
from taskforge_server.engine.errors import InvalidInput
from taskforge_server.engine.model.base import Model, checked
from taskforge_server.engine.model.tenant import Subscription, SubscriptionTier

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

FOREVER: Final = datetime(9999, 12, 31, tzinfo=UTC)
"""The end of a subscription that nobody has to renew."""


class Limits(Model, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an organisation may use; null: as much as the server can give."""

    max_jobs_per_month: (
        Annotated[
            int,
            msgspec.Meta(
                ge=0,
                le=2**53,
                description="jobs that are submitted in a calendar month (UTC), in all projects",
            ),
        ]
        | None
    ) = None
    max_workers: (
        Annotated[
            int,
            msgspec.Meta(
                ge=0, le=limits.WORKERS_MAX, description="workers at one time, in all projects"
            ),
        ]
        | None
    ) = None
    max_queues: (
        Annotated[
            int,
            msgspec.Meta(
                ge=0, le=limits.QUEUES_PER_PROJECT_MAX, description="queues, in all projects"
            ),
        ]
        | None
    ) = None
    max_payload_bytes: (
        Annotated[
            int,
            msgspec.Meta(ge=1, le=limits.PAYLOAD_BYTES_MAX, description="bytes of a job's payload"),
        ]
        | None
    ) = None
    max_requests_per_second: (
        Annotated[
            int,
            msgspec.Meta(
                ge=1,
                le=limits.REQUESTS_PER_SECOND_MAX,
                description="HTTP requests a second, for each project; a batch is one request",
            ),
        ]
        | None
    ) = None
    history_days: (
        Annotated[
            int,
            msgspec.Meta(
                ge=1,
                le=limits.HISTORY_DAYS_MAX,
                description="days for which finished jobs are kept",
            ),
        ]
        | None
    ) = None
    weight: (
        Annotated[
            int,
            msgspec.Meta(
                ge=1,
                le=limits.PROJECT_WEIGHT_MAX,
                description="what each project gets of a busy node, in relation to others; null: 1",
            ),
        ]
        | None
    ) = None

    def payload_bytes_max(self, server_max: int) -> int:
        """The smaller bound of the plan's and the server's."""
        allowed = self.max_payload_bytes
        return server_max if allowed is None else min(server_max, allowed)


TIERS: Final[dict[SubscriptionTier, Limits]] = {
    "starter": Limits(
        max_jobs_per_month=100_000,
        max_workers=5,
        max_queues=10,
        max_payload_bytes=64 * limits.KIB,
        max_requests_per_second=100,
        history_days=7,
    ),
    "pro": Limits(
        max_jobs_per_month=10_000_000,
        max_workers=100,
        max_queues=200,
        max_payload_bytes=256 * limits.KIB,
        max_requests_per_second=1_000,
        history_days=30,
    ),
    "enterprise": Limits(
        max_workers=limits.WORKERS_MAX,
        max_queues=limits.QUEUES_PER_PROJECT_MAX,
        max_payload_bytes=limits.PAYLOAD_BYTES_MAX,
        max_requests_per_second=limits.REQUESTS_PER_SECOND_MAX,
    ),
}
"""The defaults of each tier: the only place that names them."""

NAMES: Final = tuple(Limits.__struct_fields__)


@dataclass(frozen=True, slots=True)
class Plan:
    """What holds for an organisation now; a frozen copy, replaced when its subscription changes."""

    organization_id: bytes
    tier: SubscriptionTier
    limits: Limits
    ends_us: int
    """When the subscription ends, in microseconds since the epoch."""

    def is_active(self, now_us: int) -> bool:
        return self.ends_us > now_us


def plan_of(organization_id: bytes, subscription: Subscription | None) -> Plan:
    """The limits of the tier with what was agreed instead."""
    if subscription is None:
        return Plan(organization_id, "starter", TIERS["starter"], _us(FOREVER))
    tier = subscription.tier
    return Plan(
        organization_id,
        tier,
        overridden(TIERS[tier], subscription.limits),
        _us(subscription.current_period_end),
    )


def overridden(base: Limits, overrides: Mapping[str, Any]) -> Limits:
    """The base with the overrides that are known and valid; a bad one must not stop a tenant."""
    values = {name: getattr(base, name) for name in NAMES}
    for name in NAMES:
        if name in overrides:
            try:
                checked({name: overrides[name]}, Limits)
            except InvalidInput:
                continue
            values[name] = overrides[name]
    return Limits(**values)


def check_overrides(overrides: Mapping[str, Any]) -> None:
    """InvalidInput for a name that is no limit, or a value that is none."""
    checked(dict(overrides), Limits)


DAY_US: Final = 86_400_000_000


def month_of(at_us: int) -> int:
    """The calendar month (UTC) of an instant, as 202611."""
    at = _EPOCH + timedelta(microseconds=at_us)
    return at.year * 100 + at.month


def month_start_us(month: int) -> int:
    """The first instant of a month."""
    return _us(datetime(month // 100, month % 100, 1, tzinfo=UTC))


def month_after(month: int) -> int:
    """The month after a month."""
    return month + 1 if month % 100 < 12 else month + 89


def month_before(month: int, count: int = 1) -> int:
    """The month so many months before a month."""
    index = month // 100 * 12 + month % 100 - 1 - count
    return index // 12 * 100 + index % 12 + 1


def _us(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)
