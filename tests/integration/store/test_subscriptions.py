"""Subscriptions: their rows, the plan that follows, what it counts and what it deletes."""

import json
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from taskforge_server.engine.errors import InvalidInput, LimitReached, NotFound
from taskforge_server.engine.model.audit import OPERATOR
from taskforge_server.engine.model.queue import QueueSettings
from taskforge_server.engine.model.subscription import FOREVER, TIERS, Limits, overridden
from taskforge_server.engine.store.pool import Connection, Pool
from taskforge_server.engine.store.queues import Queues
from taskforge_server.engine.store.subscriptions import Subscriptions
from taskforge_server.engine.store.tenants import create_organization, create_project
from tests.integration.store.conftest import Tenant

NOW = datetime.now(UTC)
SOON = (NOW + timedelta(days=30)).replace(microsecond=0)


@pytest.fixture
def rows(pool: Pool) -> Subscriptions:
    return Subscriptions(pool)


@pytest.fixture
async def guest(connection: Connection, tenant: Tenant) -> Tenant:
    """An organisation without a subscription, beside that of the bootstrap."""
    organization = await create_organization(connection, "Guest", "guest@example.com")
    project = await create_project(connection, organization.id, "one")
    return Tenant(organization.id, project.id)


async def test_the_bootstrap_has_no_practical_limits(rows: Subscriptions, tenant: Tenant) -> None:
    plan = await rows.plan_of_project(tenant.project_id)
    assert (plan.tier, plan.organization_id) == ("enterprise", tenant.organization_id)
    assert plan.limits == TIERS["enterprise"]
    assert plan.limits.max_jobs_per_month is None
    assert plan.is_active(round((NOW + timedelta(days=36_500)).timestamp() * 1e6))


async def test_without_a_subscription_the_smallest_tier_holds(
    rows: Subscriptions, guest: Tenant
) -> None:
    plan = await rows.plan_of_project(guest.project_id)
    assert (plan.tier, plan.limits) == ("starter", TIERS["starter"])
    assert plan == await rows.plan_of_organization(guest.organization_id)


async def test_create_get_list_update_delete(rows: Subscriptions, guest: Tenant) -> None:
    organization = guest.organization_id
    made = await rows.create(organization, "pro", {"max_workers": 7}, SOON)
    assert (made.tier, made.limits, made.current_period_end) == ("pro", {"max_workers": 7}, SOON)
    assert made.get_max_workers() == 7
    assert made.is_active(NOW)
    assert not made.is_active(SOON)
    assert await rows.get(organization, made.id) == made
    other = await rows.create(organization, "starter")
    page, cursor = await rows.page(organization, None, 1)
    rest, end = await rows.page(organization, cursor, 1)
    assert sorted(page + rest, key=lambda row: row.id) == sorted(
        [made, other], key=lambda row: row.id
    )
    assert end is None
    changed = await rows.update(organization, made.id, tier="enterprise")
    assert (changed.tier, changed.limits) == ("enterprise", {"max_workers": 7})
    await rows.delete(organization, made.id)
    with pytest.raises(NotFound):
        await rows.get(organization, made.id)
    with pytest.raises(NotFound):
        await rows.delete(organization, made.id)


async def test_a_foreign_organisation_sees_and_changes_nothing(
    rows: Subscriptions, tenant: Tenant, guest: Tenant
) -> None:
    made = await rows.create(guest.organization_id, "pro")
    with pytest.raises(NotFound):
        await rows.get(tenant.organization_id, made.id)
    with pytest.raises(NotFound):
        await rows.update(tenant.organization_id, made.id, tier="starter")
    assert made not in (await rows.page(tenant.organization_id))[0]
    with pytest.raises(NotFound):
        await rows.create(b"n" * 16, "pro")
    with pytest.raises(NotFound):
        await rows.plan_of_project(b"n" * 16)


async def test_the_one_that_ends_last_counts(rows: Subscriptions, guest: Tenant) -> None:
    await rows.create(guest.organization_id, "pro", {}, SOON)
    await rows.create(guest.organization_id, "starter", {}, SOON - timedelta(days=1))
    plan = await rows.plan_of_project(guest.project_id)
    assert (plan.tier, plan.ends_us) == ("pro", round(SOON.timestamp()) * 1_000_000)


@pytest.mark.parametrize(
    "overrides",
    [{"max_jobs": 1}, {"max_workers": -1}, {"max_workers": "5"}, {"max_requests_per_second": 0}],
)
async def test_bad_overrides_are_refused(
    rows: Subscriptions, guest: Tenant, overrides: dict[str, object]
) -> None:
    with pytest.raises(InvalidInput):
        await rows.create(guest.organization_id, "pro", overrides)


def test_overrides_that_cannot_be_read_are_passed_over() -> None:
    found = overridden(
        TIERS["starter"], {"max_workers": 9, "later": 1, "max_queues": "many", "history_days": None}
    )
    assert found.max_workers == 9
    assert found.max_queues == TIERS["starter"].max_queues
    assert found.history_days is None


async def test_an_agreement_is_in_the_audit_log(
    rows: Subscriptions, guest: Tenant, connection: Connection
) -> None:
    organization = guest.organization_id
    first = await rows.agree(organization, OPERATOR, tier="pro", changes={"max_workers": 3})
    assert (first.tier, first.current_period_end) == ("pro", FOREVER)
    second = await rows.agree(
        organization,
        OPERATOR,
        changes={"max_workers": "default", "max_queues": None},
        ends_at=SOON,
    )
    assert second.id == first.id
    assert (second.tier, second.limits) == ("pro", {"max_queues": None})
    plan = await rows.plan_of_project(guest.project_id)
    assert plan.limits == overridden(TIERS["pro"], {"max_queues": None})
    entries = await connection.fetch(
        "SELECT action, target, before, after FROM audit_log WHERE organization_id = $1"
        " ORDER BY sequence",
        organization,
    )
    assert [entry["action"] for entry in entries] == ["subscription.update"] * 2
    assert entries[0]["target"] == f"subscription:{uuid.UUID(bytes=first.id)}"
    assert entries[0]["before"] is None
    assert json.loads(entries[1]["before"])["limits"] == {"max_workers": 3}
    assert json.loads(entries[1]["after"])["limits"] == {"max_queues": None}
    with pytest.raises(NotFound):
        await rows.agree(b"n" * 16, OPERATOR, tier="pro")


async def test_an_organisation_has_its_queues_in_all_projects(
    rows: Subscriptions, guest: Tenant, pool: Pool, connection: Connection
) -> None:
    await rows.agree(guest.organization_id, OPERATOR, changes={"max_queues": 2})
    other = await create_project(connection, guest.organization_id, "two")
    queues = Queues(pool, 64)
    first = await queues.create(guest.project_id, "a", 0, QueueSettings())
    await queues.create(other.id, "a", 0, QueueSettings())
    with pytest.raises(LimitReached) as refused:
        await queues.create(other.id, "b", 0, QueueSettings())
    assert refused.value.code == "too_many_queues"
    assert await rows.queues(guest.organization_id) == 2
    # One that was deleted makes room.
    await queues.delete(guest.project_id, first.id, lambda: None)
    await queues.create(other.id, "b", 0, QueueSettings())


def test_every_limit_of_every_tier_is_valid() -> None:
    for limits in TIERS.values():
        limits.validate()
        assert isinstance(limits, Limits)
