"""`taskforge schedules`: look at schedules and their next ticks, pause them, run them now.

Programs make them: `client.schedules.create`, or `@task(cron=…)`.
"""

from datetime import datetime
from typing import Annotated

import typer

from taskforge_server.api.cli.client import (
    group,
    printable,
    project_client,
    show_json,
)

app = group("schedules", "Schedules: look at, pause, run now")

Name = Annotated[
    str, typer.Argument(help="The schedule's name or id, as `list` shows it.", metavar="SCHEDULE")
]


@app.command("list")
def list_schedules(
    queue: Annotated[str | None, typer.Option(help="Of this queue only.")] = None,
) -> None:
    """One schedule a line: name, expression, zone, queue, next tick, last problem."""
    with project_client() as client:
        for row in client.schedules.list(queue=queue):
            problem = f", last problem: {row.last_problem}" if row.last_problem else ""
            typer.echo(
                f"{printable(row.name)} ({row.cron}) {row.timezone} {row.queue}: "
                f"{'paused' if row.paused else _next(row.next_at)}{problem}"
            )


@app.command()
def get(schedule: Name) -> None:
    """Show a schedule with the job of its ticks, as JSON."""
    with project_client() as client:
        show_json(client.schedules.get(schedule))


@app.command()
def pause(schedule: Name) -> None:
    """Make no jobs until it is resumed."""
    with project_client() as client:
        client.schedules.pause(schedule)


@app.command()
def resume(schedule: Name) -> None:
    """Go on from now; what it paused over is not made up for."""
    with project_client() as client:
        typer.echo(_next(client.schedules.resume(schedule).next_at))


@app.command()
def preview(
    schedule: Name,
    count: Annotated[int, typer.Option(help="How many.", min=1, max=100)] = 10,
) -> None:
    """The next ticks of a schedule, one a line."""
    with project_client() as client:
        for tick in client.schedules.preview(schedule, count):
            typer.echo(tick.isoformat())


@app.command("run-now")
def run_now(schedule: Name) -> None:
    """Submit its job now, beside its ticks; prints the job's id."""
    with project_client() as client:
        typer.echo(client.schedules.run_now(schedule).id)


@app.command()
def delete(schedule: Name) -> None:
    """Delete a schedule; its jobs stay."""
    with project_client() as client:
        client.schedules.delete(schedule)


def _next(at: datetime | None) -> str:
    return "never again" if at is None else f"next {at.isoformat()}"
