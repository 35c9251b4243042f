"""`taskforge inbox`: who may enqueue jobs by SQL, and what no job could be made of."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from taskforge_server.api.cli.commands import (
    File,
    More,
    PostgresUrl,
    an_id,
    configuration,
    database,
    reported,
)
from taskforge_server.ext.ids import uuid_bytes, uuid_text

if TYPE_CHECKING:
    from taskforge_server.engine.store.inbox import Inbox

app = typer.Typer(
    name="inbox",
    help="Jobs that applications write in their own PostgreSQL transactions.",
    no_args_is_help=True,
)

ProjectId = Annotated[
    str, typer.Argument(help="The project's id.", metavar="PROJECT", callback=an_id)
]
Role = Annotated[
    str,
    typer.Argument(
        help="A role of the database server that applications log in as.", metavar="ROLE"
    ),
]
Ids = Annotated[
    list[str], typer.Argument(help="Ids, as `taskforge inbox refused` shows them.", metavar="ID…")
]


@app.command()
def allow(
    project: ProjectId,
    role: Role,
    file: File = None,
    postgres_url: PostgresUrl = None,
    more: More = None,
) -> None:
    """Let a role of the database server call `taskforge.enqueue` for jobs of a project."""

    async def work(inbox: "Inbox") -> None:
        await inbox.allow(uuid_bytes(project), role)
        typer.echo(f"{role} may enqueue jobs.")

    _run(file, postgres_url, more, work)


@app.command()
def forbid(
    project: ProjectId,
    role: Role,
    file: File = None,
    postgres_url: PostgresUrl = None,
    more: More = None,
) -> None:
    """Take that back. What it has committed becomes jobs all the same."""

    async def work(inbox: "Inbox") -> None:
        await inbox.forbid(uuid_bytes(project), role)
        typer.echo(f"{role} may not enqueue jobs any more.")

    _run(file, postgres_url, more, work)


@app.command()
def grants(file: File = None, postgres_url: PostgresUrl = None, more: More = None) -> None:
    """Who may: one project and role a line."""

    async def work(inbox: "Inbox") -> None:
        for grant in await inbox.grants():
            typer.echo(f"{uuid_text(grant.project_id)} {grant.role_name}")

    _run(file, postgres_url, more, work)


@app.command()
def refused(file: File = None, postgres_url: PostgresUrl = None, more: More = None) -> None:
    """What could not be made a job: id, time, queue, type and reason, the oldest first."""

    async def work(inbox: "Inbox") -> None:
        for row in await inbox.refused():
            when = row.enqueued_at.isoformat(timespec="seconds")
            typer.echo(f"{uuid_text(row.id)} {when} {row.queue} {row.job_type} {row.problem}")

    _run(file, postgres_url, more, work)


@app.command()
def retry(ids: Ids, file: File = None, postgres_url: PostgresUrl = None, more: More = None) -> None:
    """Try refused ones again, once what stood in the way is gone."""

    async def work(inbox: "Inbox") -> None:
        typer.echo(f"{await inbox.retry(_each(ids))} wait again.")

    _run(file, postgres_url, more, work)


@app.command()
def discard(
    ids: Ids, file: File = None, postgres_url: PostgresUrl = None, more: More = None
) -> None:
    """Forget refused ones for good."""

    async def work(inbox: "Inbox") -> None:
        typer.echo(f"{await inbox.discard(_each(ids))} discarded.")

    _run(file, postgres_url, more, work)


def _each(ids: list[str]) -> list[bytes]:
    return [uuid_bytes(an_id(text)) for text in ids]


def _run(
    file: File,
    postgres_url: PostgresUrl,
    more: More,
    work: "Callable[[Inbox], Awaitable[None]]",
) -> None:
    async def on_database(url: str) -> None:
        from taskforge_server.engine.store.inbox import Inbox

        async with database(url, "inbox") as pool:
            await work(Inbox(pool))

    with reported():
        config = configuration(file, more, postgres_url=postgres_url, log_level="warning")
        asyncio.run(on_database(config.postgres_url))
