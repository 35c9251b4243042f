"""`taskforge audit`: verify and export the audit logs of a database, without a node."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from taskforge_server.api.cli.commands import (
    FAILED,
    USAGE,
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
    from taskforge_server.engine.store.audit import AuditLog

app = typer.Typer(name="audit", help="The audit log.", no_args_is_help=True)

HEAD = re.compile(r"[0-9]{1,18}:[0-9a-f]{64}")


def _head(text: str | None) -> str | None:
    if text is not None and not HEAD.fullmatch(text):
        raise typer.BadParameter("SEQUENCE:HASH, as an earlier verification gave it")
    return text


Organization = Annotated[
    str, typer.Option(help="The organisation's id.", metavar="ID", callback=an_id)
]


@app.command()
def verify(
    organization: Annotated[
        str, typer.Option(help="Of one organisation only, by its id.", metavar="ID")
    ] = "",
    head: Annotated[
        str | None,
        typer.Option(
            help="A head that was noted before; the log must have passed it.",
            metavar="SEQUENCE:HASH",
            callback=_head,
        ),
    ] = None,
    file: File = None,
    postgres_url: PostgresUrl = None,
    more: More = None,
) -> None:
    """Check every link of the audit logs: finds deletion, change, reordering, truncation.

    Prints the head of each log. Who could rewrite the database could rewrite a log with its head:
    note heads elsewhere, and give them with `--head`. Exit status 0: all logs are whole; 1: not.
    """
    if head is not None and not organization:
        typer.echo("taskforge: --head belongs to one log: give --organization too", err=True)
        raise typer.Exit(USAGE)
    with reported():
        config = configuration(file, more, postgres_url=postgres_url, log_level="warning")
        wanted = uuid_bytes(an_id(organization)) if organization else None
        if not asyncio.run(_verify(config.postgres_url, wanted, head)):
            raise typer.Exit(FAILED)


@app.command()
def export(
    organization: Organization,
    after: Annotated[int, typer.Option(help="The last entry that is not wanted.", min=0)] = 0,
    file: File = None,
    postgres_url: PostgresUrl = None,
    more: More = None,
) -> None:
    """Print the audit log of an organisation, one JSON object a line."""
    with reported():
        config = configuration(file, more, postgres_url=postgres_url, log_level="warning")
        asyncio.run(_export(config.postgres_url, uuid_bytes(organization), after))


async def _verify(url: str, organization_id: bytes | None, head: str | None) -> bool:
    from taskforge_server.api.rest.audit import noted_head

    intact = True
    async with _logs(url) as logs:
        every = await logs.organizations() if organization_id is None else [organization_id]
        for one in every:
            verdict = await logs.verify(one, noted_head(head))
            shown = f"{verdict.head.sequence}:{verdict.head.hash.hex()}"
            state = "whole" if verdict.is_intact else "NOT WHOLE"
            typer.echo(f"{uuid_text(one)} {shown} {state}")
            for fault in verdict.faults:
                typer.echo(f"  entry {fault.sequence}: {fault.kind}: {fault.about}")
            intact = intact and verdict.is_intact
    return intact


async def _export(url: str, organization_id: bytes, after: int) -> None:
    from taskforge_server.api.rest.audit import lines

    async with _logs(url) as logs:
        async for entries in logs.entries(organization_id, after):
            typer.echo(lines(entries), nl=False)


@asynccontextmanager
async def _logs(url: str) -> AsyncIterator["AuditLog"]:
    from taskforge_server.engine.store.audit import AuditLog

    async with database(url, "audit") as pool:
        yield AuditLog(pool)
