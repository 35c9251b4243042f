"""`taskforge logs`: what the handlers of a job logged, to its end if that is wanted."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from taskforge_server.api.cli.client import printable, project_client

if TYPE_CHECKING:
    from taskforge import LogLine


def logs(
    job_id: Annotated[str, typer.Argument(help="The job's id.", metavar="JOB")],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")
    ] = False,
    attempt: Annotated[int | None, typer.Option(help="Of this attempt only.", min=1)] = None,
    level: Annotated[
        Literal["info", "warn", "error"] | None, typer.Option(help="Of this level only.")
    ] = None,
) -> None:
    """Show what the handlers of a job logged: time, attempt, level, message, metadata."""
    with project_client() as client:
        read = client.follow_logs if follow else client.logs
        for line in read(job_id, attempt=attempt, level=level):
            typer.echo(_shown(line))


def _shown(line: "LogLine") -> str:
    at = line.logged_at.isoformat(timespec="milliseconds") if line.logged_at else "-"
    fields = "".join(f" {name}={value!r}" for name, value in line.metadata.items())
    return f"{at} #{line.attempt} {line.level:5} {printable(line.message)}{fields}"
