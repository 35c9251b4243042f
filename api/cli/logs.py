"""`taskforge logs`: what the handlers of a job logged, to its end if that is wanted.

It goes over HTTP, with the SDK's client: TASKFORGE_URL and TASKFORGE_API_KEY say where and who.
"""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from taskforge_server.api.cli.workers import project_client

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
    # A message may hold anything: what could move the cursor is shown as what it is.
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in line.message)
    return f"{at} #{line.attempt} {line.level:5} {text}{fields}"
