"""`taskforge keys`: master keys, and encryption at rest, for operators.

All but `new` work on the database that the configuration names, while nodes run: they read what
changed within seconds.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer

from taskforge_server.api.cli.commands import (
    FAILED,
    File,
    More,
    PostgresUrl,
    configuration,
    database,
    reported,
    write_private,
)
from taskforge_server.engine.config import Config
from taskforge_server.engine.errors import ConfigError
from taskforge_server.engine.model.audit import OPERATOR
from taskforge_server.engine.node.masterkeys import master_keys_of
from taskforge_server.engine.store.project_keys import ProjectKeys
from taskforge_server.engine.store.signing_keys import SigningKeys
from taskforge_server.engine.vault.masters import (
    MasterKeys,
    UnknownMasterError,
    WrappedKey,
    new_master_key,
)
from taskforge_server.engine.vault.sealing import UnreadableError
from taskforge_server.ext.ids import uuid_text

keys = typer.Typer(
    name="keys",
    help="Master keys, and encryption at rest.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
ProjectId = Annotated[str, typer.Argument(help="The id of a project.", metavar="PROJECT")]


@keys.command()
def new(
    name: Annotated[
        str, typer.Argument(help="What the key is called, such as the year.", metavar="NAME")
    ],
    file: Annotated[
        Path | None,
        typer.Option(
            help="Write it to this new file, readable by its owner alone, and print nothing."
        ),
    ] = None,
) -> None:
    """Make a master key, for `master_keys` or the file that `master_key_file` names.

    Keep it where backups of the database are not: without it, what it protects is lost.
    """
    try:
        key = new_master_key(name)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if file is None:
        typer.echo(key)
        return
    with reported():
        write_private(file, key)


@keys.command("list")
def list_keys(file: File = None, postgres_url: PostgresUrl = None, more: More = None) -> None:
    """Say what each master key protects; one that protects nothing may be taken away."""

    async def work(rows: ProjectKeys, signing: SigningKeys, masters: MasterKeys) -> None:
        found = await rows.masters()
        for master_id, count, projects in found:
            shown = "" if master_id in masters else "  NOT CONFIGURED"
            typer.echo(f"{master_id}: {count} data keys of {projects} projects{shown}")
        for master_id, count in sorted((await signing.masters()).items()):
            typer.echo(f"{master_id or 'no master key'}: {count} signing keys")
        typer.echo(f"new keys are wrapped by {masters.current}")

    _run(file, postgres_url, more, work)


@keys.command()
def rotate(
    data_key: Annotated[
        list[str] | None,
        typer.Option(
            "--data-key",
            metavar="PROJECT",
            help="Also give this encrypted project a new data key; repeatable.",
        ),
    ] = None,
    file: File = None,
    postgres_url: PostgresUrl = None,
    more: More = None,
) -> None:
    """Wrap everything anew with the first master key of the configuration.

    First give all nodes the new master key before the old one, and restart them one by one. After
    the rotation the old key protects nothing, and may leave the configuration.
    """

    async def work(rows: ProjectKeys, signing: SigningKeys, masters: MasterKeys) -> None:
        damaged: list[WrappedKey] = []

        def rewrap(key: WrappedKey) -> WrappedKey | None:
            try:
                return masters.rewrap(key)
            except UnreadableError:
                damaged.append(key)
                return None

        try:
            wrapped = await rows.rewrap(rewrap, OPERATOR)
        except UnknownMasterError as error:
            raise ConfigError("master_keys", "configuration", str(error)) from None
        sealed = await signing.reseal()
        typer.echo(
            f"{wrapped} data keys and {sealed} signing keys are under {masters.current} now."
        )
        for text in data_key or []:
            project_id = _project_id(text)
            organization_id = await rows.organization_of(project_id)
            state = await rows.add(organization_id, project_id, masters.new_key, OPERATOR)
            typer.echo(f"{text}: data key {state.keys[0].number} seals from now on.")
        for key in damaged:
            project = uuid_text(key.project_id)
            typer.echo(f"{project}: data key {key.number} cannot be unwrapped", err=True)
        if damaged:
            raise typer.Exit(FAILED)

    _run(file, postgres_url, more, work)


@keys.command()
def encrypt(
    project: ProjectId,
    off: Annotated[bool, typer.Option("--off", help="No longer encrypt what comes in.")] = False,
    file: File = None,
    postgres_url: PostgresUrl = None,
    more: More = None,
) -> None:
    """Encrypt what a project stores from now on. Running nodes do so within two seconds."""

    async def work(rows: ProjectKeys, signing: SigningKeys, masters: MasterKeys) -> None:
        project_id = _project_id(project)
        organization_id = await rows.organization_of(project_id)
        state = await rows.switch(organization_id, project_id, not off, masters.new_key, OPERATOR)
        typer.echo("encrypted" if state.encrypted else "not encrypted")

    _run(file, postgres_url, more, work)


def _run(
    file: File,
    postgres_url: PostgresUrl,
    more: More,
    work: Callable[[ProjectKeys, SigningKeys, MasterKeys], Awaitable[None]],
) -> None:
    with reported():
        config = configuration(file, more, postgres_url=postgres_url, log_level="warning")
        asyncio.run(_on_database(config, master_keys_of(config), work))


async def _on_database(
    config: Config,
    masters: MasterKeys,
    work: Callable[[ProjectKeys, SigningKeys, MasterKeys], Awaitable[None]],
) -> None:
    async with database(config.postgres_url, "keys") as pool:
        await work(ProjectKeys(pool), SigningKeys(pool, masters), masters)


def _project_id(text: str) -> bytes:
    try:
        return uuid.UUID(text).bytes
    except ValueError:
        raise typer.BadParameter(f"{text} is no project id") from None
