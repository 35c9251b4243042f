"""`taskforge identity`: signing keys and passwords, for operators.

Both work on the database that the configuration names, while nodes run: these read what was taken
back within a second.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from taskforge_server.api.auth.passwords import Passwords
from taskforge_server.api.cli.commands import (
    File,
    More,
    PostgresUrl,
    configuration,
    database,
    reported,
)
from taskforge_server.engine.config import Config
from taskforge_server.engine.errors import NotFound
from taskforge_server.engine.model.audit import OPERATOR
from taskforge_server.engine.model.identity import login_email
from taskforge_server.engine.node.masterkeys import master_keys_of
from taskforge_server.engine.store.pool import Pool
from taskforge_server.engine.store.signing_keys import SigningKeys
from taskforge_server.engine.store.users import Users

PASSWORD_BYTES = 18

app = typer.Typer(
    name="identity",
    help="Signing keys and passwords of people.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@app.command("rotate-key")
def rotate_key(
    revoke: Annotated[
        bool,
        typer.Option("--revoke", help="Also delete all other keys: every access token is void."),
    ] = False,
    file: File = None,
    postgres_url: PostgresUrl = None,
    more: More = None,
) -> None:
    """Make a new key that signs access tokens.

    Tokens that older keys signed stay good until they expire. After a theft give `--revoke`: nodes
    stop believing them within a minute, and people get new ones with their refresh tokens.
    """

    async def work(config: Config, pool: Pool) -> None:
        keys = SigningKeys(pool, master_keys_of(config))
        if revoke:
            await keys.replace()
            typer.echo("A new key signs; no other is left.")
        else:
            await keys.ensure(life_s=0.0)
            typer.echo("A new key signs.")

    _run(file, postgres_url, more, work)


@app.command("reset-password")
def reset_password(
    email: Annotated[str, typer.Argument(help="The address of the account.", metavar="EMAIL")],
    file: File = None,
    postgres_url: PostgresUrl = None,
    more: More = None,
) -> None:
    """Give somebody a new password, printed once; all of their sessions end."""

    async def work(config: Config, pool: Pool) -> None:
        users, passwords = Users(pool), Passwords(1)
        user = await users.by_email(login_email(email))
        if user is None:
            raise NotFound("there is no account with this address")
        password = secrets.token_urlsafe(PASSWORD_BYTES)
        await users.reset_password(user, await passwords.hash(password), OPERATOR)
        passwords.close()
        typer.echo(f"Password (shown this once): {password}")

    _run(file, postgres_url, more, work)


def _run(
    file: File,
    postgres_url: PostgresUrl,
    more: More,
    work: Callable[[Config, Pool], Awaitable[None]],
) -> None:
    with reported():
        config = configuration(file, more, postgres_url=postgres_url, log_level="warning")
        asyncio.run(_with_pool(config, work))


async def _with_pool(config: Config, work: Callable[[Config, Pool], Awaitable[None]]) -> None:
    async with database(config.postgres_url, "identity") as pool:
        await work(config, pool)
