"""`taskforge dead-letters`: jobs that have failed for good: list, put back, purge."""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taskforge_server.api.cli.client import (
    LIST_MOST,
    DryRun,
    JobType,
    Most,
    Queue,
    Tags,
    given,
    group,
    project_client,
    show_jobs,
    since,
)

if TYPE_CHECKING:
    from taskforge.client.dead_letters import DeadLettersDone

app = group("dead-letters", "Jobs that have failed for good: list, put back, purge")

PIECE = 1_000
"""What one request sees to; the server has no more."""

Reasons = Annotated[
    list[str] | None,
    typer.Option("--reason", help="Failed for this reason, such as timeout; repeatable."),
]
FailedAfter = Annotated[datetime | None, since("Failed at this time or later")]
FailedBefore = Annotated[datetime | None, since("Failed before this time")]
MostOfAll = Annotated[int | None, typer.Option(help="No more than so many.", min=1)]


@app.command("list")
def list_dead_letters(
    queue: Queue,
    reasons: Reasons = None,
    job_type: JobType = None,
    tags: Tags = None,
    failed_after: FailedAfter = None,
    failed_before: FailedBefore = None,
    most: Most = LIST_MOST,
) -> None:
    """One job a line, the newest failure first: id, time of the submit, reason, queue, type."""
    wanted = _filter(reasons, job_type, tags, failed_after, failed_before)
    with project_client() as client:
        show_jobs(client.dead_letters.list(queue, attempts=0, **wanted), most)


@app.command()
def requeue(
    queue: Queue,
    reasons: Reasons = None,
    job_type: JobType = None,
    tags: Tags = None,
    failed_after: FailedAfter = None,
    failed_before: FailedBefore = None,
    per_s: Annotated[
        float | None, typer.Option("--per-s", help="Start so many a second; else all at once.")
    ] = None,
    most: MostOfAll = None,
    dry_run: DryRun = False,
) -> None:
    """Let dead letters run again, the newest failure first; without options: all of the queue.

    One alone: `taskforge jobs retry`.
    """
    wanted = _filter(reasons, job_type, tags, failed_after, failed_before) | given(per_s=per_s)
    with project_client() as client:
        _all(client.dead_letters.requeue, queue, wanted, most, dry_run, "put back")


@app.command()
def purge(
    queue: Queue,
    reasons: Reasons = None,
    job_type: JobType = None,
    tags: Tags = None,
    failed_after: FailedAfter = None,
    failed_before: FailedBefore = None,
    most: MostOfAll = None,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")] = False,
) -> None:
    """Delete dead letters with their attempts and logs; without options: all of the queue."""
    wanted = _filter(reasons, job_type, tags, failed_after, failed_before)
    with project_client() as client:
        if not (dry_run or yes):
            _all(client.dead_letters.purge, queue, wanted, most, True, "deleted")
            typer.confirm("Delete them for good?", abort=True)
        _all(client.dead_letters.purge, queue, wanted, most, dry_run, "deleted")


def _filter(
    reasons: list[str] | None,
    job_type: str | None,
    tags: list[str] | None,
    failed_after: datetime | None,
    failed_before: datetime | None,
) -> dict[str, Any]:
    return given(
        reasons=reasons,
        job_type=job_type,
        tags=tags,
        failed_after=failed_after,
        failed_before=failed_before,
    )


def _all(
    act: "Callable[..., DeadLettersDone]",
    queue: str,
    wanted: dict[str, Any],
    most: int | None,
    dry_run: bool,
    what: str,
) -> None:
    """Piece by piece, until nothing is left or `most` are done; says how many."""
    if dry_run:
        found = act(queue, dry_run=True, **wanted)
        count, more = found.count, "or more " if found.more else ""
        if most is not None and count >= most:
            count, more = most, ""
        typer.echo(f"{count} {more}would be {what}.")
        return
    count, cursor = 0, None
    while most is None or count < most:
        limit = PIECE if most is None else min(PIECE, most - count)
        done = act(queue, limit=limit, cursor=cursor, **wanted)
        count, cursor = count + done.count, done.next_cursor
        if cursor is None:
            break
    typer.echo(f"{count} {what}.")
