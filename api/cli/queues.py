"""`taskforge queues`: look at queues, pause them, end their jobs."""

from datetime import datetime
from typing import Annotated

import typer

from taskforge_server.api.cli.client import (
    DryRun,
    Grace,
    JobType,
    Queue,
    Tags,
    given,
    group,
    project_client,
    show_json,
    since,
)

app = group("queues", "Queues: look at, pause, end their jobs")


@app.command("list")
def list_queues() -> None:
    """One queue a line: name, priority, jobs that are pending, scheduled and processing."""
    with project_client() as client:
        for queue in client.queues.list():
            of = queue.counts
            paused = " paused" if queue.paused_at else ""
            typer.echo(
                f"{queue.name} priority {queue.priority}: {of.pending} pending, "
                f"{of.scheduled} scheduled, {of.processing} processing{paused}"
            )


@app.command()
def get(queue: Queue) -> None:
    """Show a queue with its settings and counts, as JSON."""
    with project_client() as client:
        show_json(client.queues.get(queue))


@app.command()
def pause(queue: Queue) -> None:
    """Start nothing of a queue; what runs goes on, and jobs are taken in."""
    with project_client() as client:
        client.queues.pause(queue)


@app.command()
def resume(queue: Queue) -> None:
    """Let a paused queue go on."""
    with project_client() as client:
        client.queues.resume(queue)


@app.command()
def cancel(
    queue: Queue,
    status: Annotated[
        list[str] | None,
        typer.Option(help="pending, scheduled or processing only; repeatable."),
    ] = None,
    job_type: JobType = None,
    tags: Tags = None,
    created_after: Annotated[datetime | None, since("Submitted at this time or later")] = None,
    created_before: Annotated[datetime | None, since("Submitted before this time")] = None,
    grace: Grace = None,
    dry_run: DryRun = False,
) -> None:
    """End the open jobs of a queue that match; without options: all of them."""
    with project_client() as client:
        wanted = given(
            statuses=status,
            job_type=job_type,
            tags=tags,
            created_after=created_after,
            created_before=created_before,
            grace_s=grace,
        )
        done = client.queues.cancel_jobs(queue, dry_run=dry_run, **wanted)
        if dry_run:
            typer.echo(f"{done.matched} jobs would be ended.")
        else:
            typer.echo(f"{done.cancelled} cancelled, {done.asked} asked to end.")
