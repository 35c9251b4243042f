"""The `taskforge` command."""

from importlib.metadata import version
from typing import Annotated

import typer

from taskforge_server.api.cli import (
    audit,
    commands,
    identity,
    inbox,
    subscription,
    tenants,
    workers,
)
from taskforge_server.api.cli.demo import demo
from taskforge_server.api.cli.keys import keys
from taskforge_server.api.cli.logs import logs

app = typer.Typer(
    name="taskforge",
    help="A background-job platform.",
    no_args_is_help=True,
    rich_markup_mode="markdown",  # lets paragraphs flow
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"taskforge {version('taskforge-server')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """A background-job platform."""


commands.add_to(app)
app.command("demo")(demo)
app.command("logs")(logs)
app.add_typer(audit.app)
app.add_typer(keys)
app.add_typer(identity.app)
app.add_typer(inbox.app)
app.add_typer(subscription.app)
app.add_typer(tenants.organizations)
app.add_typer(tenants.projects)
app.add_typer(tenants.api_keys)
app.add_typer(workers.app)


def main() -> None:
    """Run the command line; the console script's entry point."""
    app()
