"""The route of the subscription: what an organisation may use, and what it uses."""

from typing import Annotated

from msgspec import Meta

from taskforge_server.api.rest.handlers import Services
from taskforge_server.api.rest.routes import Call, Reply, Route, answer
from taskforge_server.api.rest.schemas import Answer
from taskforge_server.engine.model import permissions
from taskforge_server.engine.model.base import Time
from taskforge_server.engine.model.subscription import FOREVER, Limits
from taskforge_server.engine.model.tenant import SubscriptionTier

Month = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}\Z", examples=["2026-11"])]
Count = Annotated[int, Meta(ge=0)]


class MonthUsage(Answer):
    """What was submitted in a calendar month (UTC), in all projects."""

    month: Month
    jobs: Count


class Usage(MonthUsage):
    """What the organisation uses now; `jobs` are those that were submitted this month."""

    workers: Count
    queues: Count


class SubscriptionView(Answer):
    """What an organisation may use, and what it uses."""

    tier: SubscriptionTier
    active: Annotated[
        bool, Meta(description="when not, new jobs are refused; what was taken is finished")
    ]
    current_period_end: Annotated[Time | None, Meta(description="null: it does not end")]
    limits: Limits
    usage: Usage
    history: Annotated[list[MonthUsage], Meta(description="earlier months, the newest first")]


async def get_subscription(services: Services, call: Call) -> Reply:
    found = await services.allowances.overview(call.principal.organization_id)
    ends_at = None if found.subscription is None else found.subscription.current_period_end
    return answer(
        call,
        SubscriptionView(
            tier=found.plan.tier,
            active=found.active,
            current_period_end=None if ends_at is None or ends_at >= FOREVER else ends_at,
            limits=found.plan.limits,
            usage=Usage(
                month=_month(found.month),
                jobs=found.jobs,
                workers=found.workers,
                queues=found.queues,
            ),
            history=[MonthUsage(month=_month(month), jobs=jobs) for month, jobs in found.history],
        ),
    )


def _month(month: int) -> str:
    return f"{month // 100:04}-{month % 100:02}"


ROUTES = (
    Route(
        method="GET",
        path="/v1/subscription",
        operation_id="getSubscription",
        summary="What one's organisation may use, and what it uses",
        tag="organization",
        permission=permissions.ORGANIZATION_READ,
        handler=get_subscription,
        reply=SubscriptionView,
    ),
)
