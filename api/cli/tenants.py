"""`taskforge organizations`, `projects` and `api-keys`: what operators make, and take back.

They work on the database that the configuration names, with or without running nodes. What they do
stands in the organisation's audit log.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, TypeVar

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
from taskforge_server.engine.model.audit import OPERATOR
from taskforge_server.engine.model.identity import (
    SECRET_BYTES,
    invitation_hash,
    invitation_text,
    login_email,
)
from taskforge_server.ext.ids import uuid_bytes, uuid_text

if TYPE_CHECKING:
    from taskforge_server.engine.store.pool import Pool

T = TypeVar("T")

organizations = typer.Typer(name="organizations", help="Organisations.", no_args_is_help=True)
projects = typer.Typer(name="projects", help="Projects of organisations.", no_args_is_help=True)
api_keys = typer.Typer(name="api-keys", help="API keys of projects.", no_args_is_help=True)


def _expiry(text: str | None) -> str | None:
    if text is not None:
        try:
            _moment(text)
        except ValueError:
            raise typer.BadParameter("a date such as 2027-01-31") from None
    return text


def _moment(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


OrganizationId = Annotated[
    str, typer.Argument(help="The organisation's id.", metavar="ORGANIZATION", callback=an_id)
]
ProjectId = Annotated[
    str, typer.Argument(help="The project's id.", metavar="PROJECT", callback=an_id)
]
Name = Annotated[str, typer.Argument(help="What it is called.", metavar="NAME")]


@organizations.command("list")
def list_organizations(
    file: File = None, postgres_url: PostgresUrl = None, more: More = None
) -> None:
    """One organisation a line: id, billing address, name."""

    async def work(pool: "Pool") -> None:
        from taskforge_server.engine.store.tenants import Organizations

        async for row in _every(Organizations(pool).page):
            typer.echo(f"{uuid_text(row.id)} {row.billing_email} {row.name}")

    _run(file, postgres_url, more, work)


@organizations.command("create")
def create_organization(
    name: Name,
    email: Annotated[
        str, typer.Argument(help="Of its first admin; bills go there too.", metavar="EMAIL")
    ],
    file: File = None,
    postgres_url: PostgresUrl = None,
    more: More = None,
) -> None:
    """Make an organisation with the smallest subscription and its first project, and invite its
    first admin.

    Prints its id, the project's, and the token of the invitation, which is shown this once: it is
    accepted with `POST /v1/invitations/accept`, also where sign-up is closed.
    """

    async def work(pool: "Pool") -> None:
        from taskforge_server.engine.store.signup import SignUps

        token = invitation_text(secrets.token_bytes(SECRET_BYTES))
        token_hash = invitation_hash(token)
        assert token_hash is not None
        organization, project = await SignUps(pool).invite(
            name, login_email(email), token_hash, OPERATOR
        )
        typer.echo(f"organization: {uuid_text(organization.id)}")
        typer.echo(f"project: {uuid_text(project.id)}")
        typer.echo(f"invitation (shown this once): {token}")

    _run(file, postgres_url, more, work)


@projects.command("list")
def list_projects(
    organization: OrganizationId,
    file: File = None,
    postgres_url: PostgresUrl = None,
    more: More = None,
) -> None:
    """One project a line: id, name."""

    async def work(pool: "Pool") -> None:
        from taskforge_server.engine.store.tenants import Organizations, Projects

        organization_id = uuid_bytes(organization)
        await Organizations(pool).get(organization_id)
        async for row in _every(lambda at: Projects(pool).page(organization_id, at)):
            typer.echo(f"{uuid_text(row.id)} {row.name}")

    _run(file, postgres_url, more, work)


@projects.command("create")
def create_project(
    organization: OrganizationId,
    name: Name,
    description: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    file: File = None,
    postgres_url: PostgresUrl = None,
    more: More = None,
) -> None:
    """Make a project; prints its id."""

    async def work(pool: "Pool") -> None:
        from taskforge_server.engine.store.tenants import Projects

        made = await Projects(pool).create(uuid_bytes(organization), name, description, OPERATOR)
        typer.echo(uuid_text(made.id))

    _run(file, postgres_url, more, work)


@api_keys.command("list")
def list_api_keys(
    project: ProjectId, file: File = None, postgres_url: PostgresUrl = None, more: More = None
) -> None:
    """One key a line: id, how its text begins, live, expired or revoked, permissions, name."""

    async def work(pool: "Pool") -> None:
        from taskforge_server.engine.store.api_keys import ApiKeys

        ids, now = await _project_ids(pool, project), datetime.now(UTC)
        async for key in _every(lambda at: ApiKeys(pool).page(*ids, at)):
            status = "live" if key.is_live(now) else "revoked" if key.revoked_at else "expired"
            may = ",".join(key.permissions)
            typer.echo(f"{uuid_text(key.id)} {key.prefix} {status} {may} {key.name}")

    _run(file, postgres_url, more, work)


@api_keys.command("create")
def create_api_key(
    project: ProjectId,
    name: Name,
    permission: Annotated[
        list[str],
        typer.Option(help="What it may do, such as jobs:write, or *. Repeatable."),
    ],
    expires: Annotated[
        str | None,
        typer.Option(
            help="When it ends, in UTC if not said otherwise.", metavar="DATE", callback=_expiry
        ),
    ] = None,
    file: File = None,
    postgres_url: PostgresUrl = None,
    more: More = None,
) -> None:
    """Make an API key; prints its text, which is shown this once."""

    async def work(pool: "Pool") -> None:
        from taskforge_server.api.service.tenants import TenantRows, TenantService

        service = TenantService(TenantRows.of(pool), lambda key_id: None)
        ids = await _project_ids(pool, project)
        ends_at = None if expires is None else _moment(expires)
        key, text = await service.create_key(*ids, name, permission, ends_at, OPERATOR)
        typer.echo(f"id: {uuid_text(key.id)}")
        typer.echo(f"API key (shown this once): {text}")

    _run(file, postgres_url, more, work)


@api_keys.command("revoke")
def revoke_api_key(
    project: ProjectId,
    api_key: Annotated[
        str, typer.Argument(help="The key's id, as `list` shows it.", metavar="ID", callback=an_id)
    ],
    file: File = None,
    postgres_url: PostgresUrl = None,
    redis_url: RedisUrl = None,
    more: More = None,
) -> None:
    """End an API key for good: within a second no node takes it."""
    with reported():
        config = configuration(
            file, more, postgres_url=postgres_url, redis_url=redis_url, log_level="warning"
        )

        async def work(pool: "Pool") -> None:
            from taskforge_server.engine.cluster.port import API_KEY_CHANGED
            from taskforge_server.engine.cluster.redis import tell
            from taskforge_server.engine.store.api_keys import ApiKeys

            ids, key_id = await _project_ids(pool, project), uuid_bytes(api_key)
            key = await ApiKeys(pool).revoke(*ids, key_id, datetime.now(UTC), OPERATOR)
            # Not needed: nodes look a key up again after a second. Told, they do so at once.
            await tell(config.redis_url, API_KEY_CHANGED, key_id)
            typer.echo(f"{key.prefix}… is revoked.")

        asyncio.run(_with_pool(config.postgres_url, work))


async def _project_ids(pool: "Pool", project: str) -> tuple[bytes, bytes]:
    """The project's organisation, and itself; NotFound."""
    from taskforge_server.engine.store.tenants import Projects

    found = await Projects(pool).get(uuid_bytes(project))
    return found.organization_id, found.id


async def _every(
    page: Callable[[str | None], Awaitable[tuple[list[T], str | None]]],
) -> AsyncIterator[T]:
    """All rows of a list."""
    cursor = None
    while True:
        rows, cursor = await page(cursor)
        for row in rows:
            yield row
        if cursor is None:
            return


def _run(
    file: File,
    postgres_url: PostgresUrl,
    more: More,
    work: "Callable[[Pool], Awaitable[None]]",
) -> None:
    with reported():
        config = configuration(file, more, postgres_url=postgres_url, log_level="warning")
        asyncio.run(_with_pool(config.postgres_url, work))


async def _with_pool(postgres_url: str, work: "Callable[[Pool], Awaitable[None]]") -> None:
    async with database(postgres_url, "tenants") as pool:
        await work(pool)
