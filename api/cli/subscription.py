"""`taskforge subscription`: what organisations may use. For operators; tenants only look."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from taskforge_server.api.cli.commands import (
    File,
    More,
    PostgresUrl,
    RedisUrl,
    an_id,
    configuration,
    database,
    reported,
)
from taskforge_server.engine.errors import InvalidInput
from taskforge_server.engine.model.audit import OPERATOR
from taskforge_server.engine.model.subscription import (
    FOREVER,
    NAMES,
    TIERS,
    Limits,
    check_overrides,
    month_of,
    plan_of,
)
from taskforge_server.engine.model.tenant import Subscription, SubscriptionTier
from taskforge_server.ext.ids import uuid_bytes, uuid_text

if TYPE_CHECKING:
    from taskforge_server.engine.store.subscriptions import Subscriptions

app = typer.Typer(name="subscription", help="What organisations may use.", no_args_is_help=True)


def _tier(text: str | None) -> str | None:
    if text is not None and text not in TIERS:
        raise typer.BadParameter(f"one of {', '.join(TIERS)}")
    return text


def _ends(text: str | None) -> str | None:
    if text is not None:
        _moment(text)
    return text


def _moment(text: str) -> datetime:
    if text == "never":
        return FOREVER
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("a date such as 2027-01-31, or never") from None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _limits(pairs: Sequence[str] | None) -> list[str]:
    for pair in pairs or ():
        _limit(pair)
    return list(pairs or ())


def _limit(pair: str) -> tuple[str, Any]:
    name, _, value = pair.partition("=")
    if name not in NAMES:
        raise typer.BadParameter(f"one of {', '.join(NAMES)}")
    if value in ("none", "default"):
        return name, None if value == "none" else value
    if not value.isdecimal():
        raise typer.BadParameter(f"{name}: a whole number, none (no limit) or default (the tier's)")
    try:
        check_overrides({name: int(value)})
    except InvalidInput as error:
        raise typer.BadParameter(str(error)) from None
    return name, int(value)


Organization = Annotated[
    str, typer.Argument(help="The organisation's id.", metavar="ID", callback=an_id)
]


@app.command("list")
def list_command(file: File = None, postgres_url: PostgresUrl = None, more: More = None) -> None:
    """List organisations: id, tier, end, jobs of this month, name."""
    with reported():
        config = configuration(file, more, postgres_url=postgres_url, log_level="warning")
        asyncio.run(_list(config.postgres_url))


@app.command()
def show(
    organization: Organization,
    file: File = None,
    postgres_url: PostgresUrl = None,
    more: More = None,
) -> None:
    """Show the subscription of an organisation, with the limits that follow from it."""
    with reported():
        config = configuration(file, more, postgres_url=postgres_url, log_level="warning")
        asyncio.run(_show(config.postgres_url, uuid_bytes(organization)))


@app.command("set")
def set_command(
    organization: Organization,
    tier: Annotated[
        str | None, typer.Option(help=", ".join(TIERS), metavar="TIER", callback=_tier)
    ] = None,
    ends: Annotated[
        str | None,
        typer.Option(
            help="When it ends, in UTC if not said otherwise.",
            metavar="DATE|never",
            callback=_ends,
        ),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            help="A limit instead of the tier's; none: no limit, default: the tier's. Repeatable.",
            metavar="NAME=VALUE",
            callback=_limits,
        ),
    ] = None,
    file: File = None,
    postgres_url: PostgresUrl = None,
    redis_url: RedisUrl = None,
    more: More = None,
) -> None:
    """Change what an organisation may use; what is not given stays.

    Nodes hear of it at once over Redis, and within ten seconds if they do not. The change stands in
    the organisation's audit log.
    """
    with reported():
        config = configuration(
            file, more, postgres_url=postgres_url, redis_url=redis_url, log_level="warning"
        )
        changes: dict[str, Any] = {
            "tier": cast(SubscriptionTier | None, tier),
            "changes": dict(_limit(pair) for pair in limit or ()),
            "ends_at": None if ends is None else _moment(ends),
        }
        asyncio.run(_set(config.postgres_url, config.redis_url, uuid_bytes(organization), changes))


async def _list(postgres_url: str) -> None:
    now_us = round(datetime.now(UTC).timestamp() * 1e6)
    async with _opened(postgres_url) as subscriptions:
        for name, plan, jobs in await subscriptions.overview(month_of(now_us)):
            ends = "never" if plan.ends_us >= _us(FOREVER) else _date(plan.ends_us)
            organization = uuid_text(plan.organization_id)
            typer.echo(f"{organization}  {plan.tier:<10}  {ends:<10}  {jobs:>12}  {name}")


async def _show(postgres_url: str, organization_id: bytes) -> None:
    async with _opened(postgres_url) as subscriptions:
        _tell(organization_id, await subscriptions.current(organization_id))


async def _set(
    postgres_url: str, redis_url: str, organization_id: bytes, changes: dict[str, Any]
) -> None:
    from taskforge_server.engine.cluster.port import SUBSCRIPTION_CHANGED
    from taskforge_server.engine.cluster.redis import tell

    async with _opened(postgres_url) as subscriptions:
        row = await subscriptions.agree(organization_id, OPERATOR, **changes)
    _tell(organization_id, row)
    if not await tell(redis_url, SUBSCRIPTION_CHANGED, organization_id):
        typer.echo("Redis does not answer: nodes hear of it within ten seconds.", err=True)


def _tell(organization_id: bytes, row: Subscription | None) -> None:
    plan = plan_of(organization_id, row)
    typer.echo(f"tier: {plan.tier}" + ("" if row is not None else " (there is no subscription)"))
    typer.echo("ends: " + ("never" if plan.ends_us >= _us(FOREVER) else _date(plan.ends_us)))
    agreed = {} if row is None else row.limits
    for name in Limits.__struct_fields__:
        value = getattr(plan.limits, name)
        shown = _UNSAID.get(name, "no limit") if value is None else str(value)
        typer.echo(f"{name}: {shown}" + (" (agreed)" if name in agreed else ""))


_UNSAID = {"weight": "1"}
"""What stands for a limit that nobody agreed on, where that is not "no limit"."""


def _us(at: datetime) -> int:
    return round(at.timestamp() * 1e6)


def _date(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).strftime("%Y-%m-%d")


@asynccontextmanager
async def _opened(postgres_url: str) -> "AsyncIterator[Subscriptions]":
    """The repository, over a pool of its own."""
    from taskforge_server.engine.store.subscriptions import Subscriptions

    async with database(postgres_url, "subscription") as pool:
        yield Subscriptions(pool)
