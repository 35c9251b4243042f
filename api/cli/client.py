"""For the commands that look after a project: they go over HTTP, with the SDK's client.

TASKFORGE_URL and TASKFORGE_API_KEY say where and who, as for any other program. The commands that
set up an installation (`organizations`, `api-keys`, …) work on the database instead.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import typer

from taskforge_server.api.cli.commands import FAILED, USAGE

if TYPE_CHECKING:
    from taskforge import Client, Job

T = TypeVar("T")

LIST_MOST = 100


def _moment(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("a time such as 2027-01-31 or 2027-01-31T08:00Z") from None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def since(help_text: str) -> Any:
    """An option for a time."""
    return typer.Option(parser=_moment, metavar="TIME", help=f"{help_text}; UTC if not said.")


Most = Annotated[int, typer.Option(help="Show no more than so many.", min=1)]
JobType = Annotated[str | None, typer.Option("--type", help="Of this job type only.")]
Tags = Annotated[
    list[str] | None, typer.Option("--tag", help="With this tag; repeatable: with all of them.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many it would be.")]
Grace = Annotated[
    float | None,
    typer.Option(
        help="What the handler of a running job gets to end in (30 if not said).",
        metavar="SECONDS",
        min=0,
    ),
]
Queue = Annotated[str, typer.Argument(help="Name or id of a queue.", metavar="QUEUE")]


def group(name: str, about: str) -> typer.Typer:
    """A group of commands of a project."""
    return typer.Typer(
        name=name,
        help=f"{about}.\n\nTASKFORGE_URL and TASKFORGE_API_KEY say in which project.",
        short_help=f"{about}.",
        no_args_is_help=True,
    )


@contextmanager
def project_client() -> Iterator["Client"]:
    """A client of the project; what the server refuses is one line."""
    try:
        from taskforge import Client, TaskForgeError
    except ImportError:
        typer.echo("taskforge: the Python SDK is missing: pip install taskforge", err=True)
        raise typer.Exit(USAGE) from None
    try:
        with Client() as client:
            yield client
    except ValueError as error:  # the environment says something wrong
        typer.echo(f"taskforge: {error}", err=True)
        raise typer.Exit(USAGE) from None
    except TaskForgeError as error:
        typer.echo(f"taskforge: {error}", err=True)
        raise typer.Exit(FAILED) from None


def given(**options: T | None) -> dict[str, Any]:
    """The options that were given, for calls that have defaults of their own."""
    return {name: value for name, value in options.items() if value is not None}


def printable(text: str) -> str:
    """Names and messages may hold anything: what could move the cursor is shown as what it is."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def show_json(thing: Any) -> None:
    """The whole of a thing, as the HTTP API has it."""
    typer.echo(msgspec.json.format(msgspec.json.encode(thing), indent=2).decode())


def show_jobs(jobs: "Iterable[Job]", most: int) -> None:
    """One job a line; says so if there are more."""
    found = iter(jobs)
    for job in islice(found, most):
        why = job.failed_reason or job.cancel_reason
        at = job.created_at.isoformat(timespec="seconds") if job.created_at else "-"
        told = f" ({why})" if why else ""
        typer.echo(
            f"{job.id} {at} {job.status}{told} {printable(job.queue)} {printable(job.job_type)}"
        )
    if next(found, None) is not None:
        typer.echo(f"There are more: --most {most * 10} shows them.", err=True)
