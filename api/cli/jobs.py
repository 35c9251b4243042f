"""`taskforge jobs`: find jobs, look at one, ask why it waits, end it, run it again."""

from datetime import datetime
from typing import Annotated, Literal

import typer

from taskforge_server.api.cli.client import (
    LIST_MOST,
    Grace,
    JobType,
    Most,
    given,
    group,
    printable,
    project_client,
    show_jobs,
    show_json,
    since,
)

app = group("jobs", "Jobs: find, look at, end, run again")

JobId = Annotated[str, typer.Argument(help="The job's id, as `list` shows it.", metavar="JOB")]
JobIds = Annotated[list[str], typer.Argument(help="Ids of jobs.", metavar="JOB…")]


@app.command("list")
def list_jobs(
    queue: Annotated[str | None, typer.Option(help="Of this queue only.")] = None,
    status: Annotated[
        Literal["pending", "scheduled", "processing", "succeeded", "failed", "cancelled"] | None,
        typer.Option(help="Of this status only."),
    ] = None,
    job_type: JobType = None,
    created_after: Annotated[datetime | None, since("Submitted at this time or later")] = None,
    created_before: Annotated[datetime | None, since("Submitted before this time")] = None,
    most: Most = LIST_MOST,
) -> None:
    """One job a line, the newest first: id, time of the submit, status, queue, type."""
    with project_client() as client:
        jobs = client.list(
            queue=queue,
            status=status,
            job_type=job_type,
            created_after=created_after,
            created_before=created_before,
        )
        show_jobs(jobs, most)


@app.command()
def get(job_id: JobId) -> None:
    """Show a job with its attempts, as JSON."""
    with project_client() as client:
        show_json(client.get(job_id))


@app.command()
def why(job_id: JobId) -> None:
    """Say why a job is not running, what weighs most first: a code and a sentence a line."""
    with project_client() as client:
        found = client.why(job_id)
        if found.running:
            typer.echo("running")
        for reason in found.reasons:
            typer.echo(f"{reason.code}: {printable(reason.message)}")
        if found.estimated_start_at is not None:
            typer.echo(f"It may start at about {found.estimated_start_at:%Y-%m-%d %H:%M:%S %Z}.")


@app.command()
def cancel(job_ids: JobIds, grace: Grace = None) -> None:
    """End jobs: those that wait at once, those that run within a grace time.

    `taskforge queues cancel` ends many by what they are.
    """
    with project_client() as client:
        for job_id in job_ids:
            job = client.cancel(job_id, grace)
            asked = " (asked to end)" if job.cancel_requested_at and not job.finished else ""
            typer.echo(f"{job.id} {job.status}{asked}")


@app.command()
def retry(job_ids: JobIds) -> None:
    """Run jobs again that failed or were cancelled.

    `taskforge dead-letters requeue` does so for many.
    """
    with project_client() as client:
        for job_id in job_ids:
            job = client.retry(job_id)
            typer.echo(f"{job.id} {job.status}")


@app.command("run-now")
def run_now(job_id: JobId) -> None:
    """Let a scheduled job start at once."""
    with project_client() as client:
        job = client.run_now(job_id)
        typer.echo(f"{job.id} {job.status}")


@app.command("change")
def change(
    job_id: JobId,
    priority: Annotated[
        int | None, typer.Option(help="9 goes first, 0 last.", min=0, max=9)
    ] = None,
    scheduled_for: Annotated[datetime | None, since("Not before this time")] = None,
) -> None:
    """Give a job that waits another priority or time."""
    with project_client() as client:
        job = client.change(job_id, **given(priority=priority, scheduled_for=scheduled_for))
        typer.echo(f"{job.id} {job.status} priority {job.priority}")
