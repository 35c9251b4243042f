"""The `taskforge` command."""

from importlib.metadata import version
from typing import Annotated

import typer

from taskforge_server.api.cli import (
    audit,
    commands,
    dead_letters,
    identity,
    inbox,
    jobs,
    queues,
    schedules,
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

_PROJECT = "A project, over HTTP: TASKFORGE_URL and TASKFORGE_API_KEY"
_INSTALLATION = "The installation, on its database: --postgres-url"
app.add_typer(jobs.app, rich_help_panel=_PROJECT)
app.command("logs", rich_help_panel=_PROJECT)(logs)
for group in (queues.app, dead_letters.app, schedules.app, workers.app):
    app.add_typer(group, rich_help_panel=_PROJECT)
for group in (
    tenants.organizations,
    tenants.projects,
    tenants.api_keys,
    subscription.app,
    identity.app,
    keys,
    audit.app,
    inbox.app,
):
    app.add_typer(group, rich_help_panel=_INSTALLATION)


def main() -> None:
    """Run the command line; the console script's entry point."""
    app()
