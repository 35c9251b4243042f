"""`taskforge workers`: look at the workers of a project, drain them, assign them to queues."""

from typing import Annotated, Literal

import typer

from taskforge_server.api.cli.client import Queue, group, project_client

app = group("workers", "Workers: look at, drain, assign to queues")

WorkerId = Annotated[
    str, typer.Argument(help="The worker's id, as `list` shows it.", metavar="WORKER")
]


@app.command("list")
def list_workers(
    status: Annotated[
        Literal["online", "draining", "offline"] | None, typer.Option(help="Only these.")
    ] = None,
) -> None:
    """One worker a line: id, status, type, jobs that it has, name."""
    with project_client() as client:
        for worker in client.workers.list(status=status):
            jobs = "-" if worker.running_jobs is None else worker.running_jobs
            wanted = " (drained)" if worker.drained else ""
            typer.echo(
                f"{worker.id} {worker.status}{wanted} {worker.worker_type} {jobs} {worker.name}"
            )


@app.command()
def drain(worker_id: WorkerId) -> None:
    """Give a worker nothing new, until it is resumed; it finishes what it has."""
    with project_client() as client:
        worker = client.workers.drain(worker_id)
        jobs = "" if worker.running_jobs is None else f", {worker.running_jobs} jobs left"
        typer.echo(f"{worker.status}{jobs}")


@app.command()
def resume(worker_id: WorkerId) -> None:
    """Give a drained worker jobs again."""
    with project_client() as client:
        typer.echo(client.workers.resume(worker_id).status)


@app.command()
def assign(
    queue: Queue,
    worker_id: WorkerId,
    weight: Annotated[int, typer.Option(help="Its part, in relation to the others'.", min=1)] = 1,
    active: Annotated[bool, typer.Option(help="Whether it has an effect.")] = True,
) -> None:
    """Let a queue be served by this worker and the others that are assigned to it alone."""
    with project_client() as client:
        client.workers.assign(queue, worker_id, weight=weight, is_active=active)


@app.command()
def unassign(queue: Queue, worker_id: WorkerId) -> None:
    """Take an assignment back; without any, every worker serves the queue again."""
    with project_client() as client:
        client.workers.unassign(queue, worker_id)


@app.command()
def assignments(queue: Queue) -> None:
    """Who is assigned to a queue, one a line: worker, weight, whether it has an effect."""
    with project_client() as client:
        for entry in client.workers.assignments(queue):
            typer.echo(
                f"{entry.worker_id} {entry.weight} {'active' if entry.is_active else 'inactive'}"
            )
