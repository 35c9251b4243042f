"""What a caller may use: the plan of its organisation, held against what it asks for.

    every request of a project    one more of its rate              RateLimited
    a submit                      the subscription has not ended    SubscriptionExpired
                                  the payload is not too large      TooLarge (by the `Checker`)
                                  the month's quota                 QuotaExceeded (by the engine)

Nothing here makes a query for a plan that is known: a few look-ups and additions for each request.
What workers need to go on (to connect, to say that they live) is not counted: it makes room.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from taskforge_server.api.auth.principals import Principal
from taskforge_server.engine import limits
from taskforge_server.engine.errors import SubscriptionExpired
from taskforge_server.engine.model.permissions import WORKERS_CONNECT
from taskforge_server.engine.model.subscription import (
    Limits,
    Plan,
    month_of,
    plan_of,
)
from taskforge_server.engine.model.tenant import Subscription


def is_rated(permission: str | None) -> bool:
    """Whether a request that needs this permission counts for a rate."""
    return permission is not None and permission != WORKERS_CONNECT


Standing = tuple[int, int, int]
"""How a project stands with its rate: so many requests a second, so many of them at once from here
on, and the seconds until that is as much as it can be."""


class PlanSource(Protocol):
    """The plans of projects."""

    @property
    def changes(self) -> int:
        """How often something that `cached` said before ceased to hold."""
        ...

    def cached(self, project_id: bytes) -> Plan | None:
        """If it is known and fresh; never waits."""
        ...

    async def find(self, project_id: bytes, organization_id: bytes) -> Plan:
        """Of the project, or of the organisation where there is no project; NotFound."""
        ...


class Rates(Protocol):
    """The rates of projects."""

    def take(self, key: bytes, rate: int) -> Standing:
        """RateLimited."""
        ...


class UsageCounts(Protocol):
    """What was submitted."""

    def used(self, organization_id: bytes, now_us: int) -> int:
        """This month, in all projects."""
        ...


class UsageHistory(Protocol):
    """What was submitted, as the tables know it."""

    async def history(self, organization_id: bytes, months: int) -> list[tuple[int, int]]:
        """Month and jobs, the newest month first."""
        ...


class SubscriptionReader(Protocol):
    """The rows of subscriptions, and what organisations have."""

    async def current(self, organization_id: bytes) -> Subscription | None: ...
    async def queues(self, organization_id: bytes) -> int: ...


class WorkerCounts(Protocol):
    """Who is connected."""

    async def organization_workers(self, organization_id: bytes) -> int: ...


class AllowancePorts(NamedTuple):
    """What the allowances stand on."""

    plans: PlanSource
    rates: Rates
    usage: UsageCounts
    history: UsageHistory
    subscriptions: SubscriptionReader
    workers: WorkerCounts


class Overview(NamedTuple):
    """What an organisation may use, and what it uses."""

    plan: Plan
    subscription: Subscription | None
    active: bool
    month: int
    jobs: int
    workers: int
    queues: int
    history: list[tuple[int, int]]


class NoPlans:
    """Where no subscriptions are kept: nothing is limited."""

    changes = 0


class Allowances:
    """The use cases of subscriptions, and the checks of the doors."""

    def __init__(self, ports: AllowancePorts | None, now_us: Callable[[], int]) -> None:
        """Without ports nothing is limited."""
        self._ports = ports
        self._now_us = now_us
        self.plans: PlanSource | NoPlans = NoPlans() if ports is None else ports.plans

    # every request

    async def request(self, principal: Principal, permission: str) -> Standing | None:
        """One request more of the caller; None where its rate is not limited. RateLimited."""
        if self._ports is None or not is_rated(permission):
            return None
        project_id = principal.project_id
        plan = self._ports.plans.cached(project_id)
        if plan is None:
            plan = await self._ports.plans.find(project_id, principal.organization_id)
        return self.take(project_id or principal.organization_id, plan)

    def take(self, key: bytes, plan: Plan) -> Standing | None:
        """The same, where the plan is known."""
        rate = plan.limits.max_requests_per_second
        if rate is None or self._ports is None:
            return None
        return self._ports.rates.take(key, rate)

    # submits

    def cached(self, project_id: bytes) -> Plan | None:
        """The plan of a project, if it is known and fresh; never waits."""
        return UNLIMITED if self._ports is None else self._ports.plans.cached(project_id)

    async def submitter(self, principal: Principal) -> Plan:
        """The plan of one who submits; SubscriptionExpired."""
        return await self.active_plan(principal.project_id, principal.organization_id)

    async def active_plan(self, project_id: bytes, organization_id: bytes) -> Plan:
        """The same by its project; SubscriptionExpired, NotFound."""
        if self._ports is None:
            return UNLIMITED
        plan = await self._ports.plans.find(project_id, organization_id)
        self.require_active(plan)
        return plan

    async def require_submitter(self, project_id: bytes) -> None:
        """For jobs that nobody asks for at this moment; SubscriptionExpired."""
        if self._ports is not None:
            self.require_active(await self._ports.plans.find(project_id, b""))

    def require_active(self, plan: Plan) -> None:
        """SubscriptionExpired when nothing new is taken."""
        if not plan.is_active(self._now_us()):
            raise SubscriptionExpired

    # people

    async def overview(self, organization_id: bytes) -> Overview:
        """What holds for the organisation, and what it uses."""
        assert self._ports is not None
        ports, now_us = self._ports, self._now_us()
        subscription = await ports.subscriptions.current(organization_id)
        plan = plan_of(organization_id, subscription)
        month = month_of(now_us)
        stored = await ports.history.history(organization_id, limits.USAGE_MONTHS_SHOWN + 1)
        return Overview(
            plan=plan,
            subscription=subscription,
            active=plan.is_active(now_us),
            month=month,
            jobs=ports.usage.used(organization_id, now_us),
            workers=await ports.workers.organization_workers(organization_id),
            queues=await ports.subscriptions.queues(organization_id),
            history=[entry for entry in stored if entry[0] != month][: limits.USAGE_MONTHS_SHOWN],
        )


UNLIMITED = Plan(bytes(16), "enterprise", Limits(), 2**62)
"""Where no subscriptions are kept."""
