"""`taskforge demo`: the whole platform on one machine, with real work, as a user would run it.

    embedded servers ─► taskforge migrate ─► taskforge serve ─► taskforge worker ─► jobs ─► table

The servers are children of this process, and so are the three commands. What was expected is
compared with what the API then says of each job; only if all of it holds is the exit status 0.
"""

import asyncio
import shlex
import socket
import time
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from taskforge_server.api.cli.children import Child, ChildError
from taskforge_server.api.cli.commands import api_key_of, master_key_of
from taskforge_server.api.cli.embedded import EmbeddedServers
from taskforge_server.api.cli.interrupts import STATUS, Interrupted, interruptible
from taskforge_server.engine.store.pool import connect
from taskforge_server.engine.store.statements import sql

if TYPE_CHECKING:
    from taskforge import Client
    from taskforge_server.api.cli.demo_jobs import Report

HOST = "127.0.0.1"
PORT = 8040
READY_S = 60.0
POLL_S = 0.1
SHOWN_MAX = 5


class DemoError(Exception):
    """Something that the demo needs did not come about."""


def demo(
    data_dir: Annotated[
        Path, typer.Option(help="Where the servers keep their files; the jobs stay there.")
    ] = Path("var/demo"),
    files: Annotated[
        int | None, typer.Option(min=2, help="Hash so many files at most.", show_default="all")
    ] = None,
    stay: Annotated[bool, typer.Option("--stay", help="Go on serving until Ctrl-C.")] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Of the HTTP API; a free one if it is taken.")
    ] = PORT,
) -> None:
    """Start everything on this machine and run real jobs: no Docker, no account.

    A PostgreSQL and a Valkey are started from their packages, then a node with its HTTP API, then
    a worker. It hashes every file of the Python standard library, one job per file; a few more jobs
    fail at first and succeed when they are tried again, and one fails for good. A second run on
    the same data directory finds the jobs of the first.
    """
    raise typer.Exit(Demo(data_dir, files, stay, port).run())


class Demo:
    """One run, from nothing to nothing; the data directory stays."""

    def __init__(self, data_dir: Path, files: int | None, stay: bool, port: int) -> None:
        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        self._data_dir = data_dir
        self._files = files
        self._stay = stay
        self._port = port
        self._children: list[Child] = []
        self._held = False

    def run(self) -> int:
        """The exit status: 0 when everything that was expected happened."""
        from taskforge import TaskForgeError

        try:
            with interruptible() as stack:
                try:
                    self._run(stack)
                finally:
                    self._say("Stopping …")
        except Interrupted:
            self._say("Stopped.")
            return 0 if self._held else STATUS
        except (ChildError, DemoError, TaskForgeError, OSError) as error:
            self._say(f"The demo failed: {error}")
            return 1
        self._say("Stopped." if self._held else "Stopped; not all was as expected.")
        return 0 if self._held else 1

    def _run(self, stack: ExitStack) -> None:
        from taskforge import Client
        from taskforge_server.api.cli import demo_jobs, workload

        self._say("Starting PostgreSQL and Valkey …")
        servers = stack.enter_context(EmbeddedServers(self._data_dir))
        url = f"http://{HOST}:{_free_port(self._port)}"
        variables = {
            "TASKFORGE_POSTGRES_URL": servers.postgres_url,
            "TASKFORGE_REDIS_URL": servers.redis_url,
            "TASKFORGE_HOST": HOST,
            "TASKFORGE_PORT": url.rpartition(":")[2],
            "TASKFORGE_API_KEY": api_key_of(self._data_dir),
            "TASKFORGE_MASTER_KEY_FILE": str(master_key_of(self._data_dir)),
        }
        worker_variables = {name: variables[name] for name in ("TASKFORGE_API_KEY",)}
        self._say("Bringing the database up to date: taskforge migrate")
        with self._child("migrate", ["migrate"], variables) as migration:
            migration.finish()
        self._tell_earlier(asyncio.run(_jobs_by_status(servers.postgres_url)))
        self._say(f"Starting a node: taskforge serve, at {url}")
        self._start(stack, self._child("serve", ["serve"], variables))
        self._wait_ready(url)
        client = stack.enter_context(Client(url, variables["TASKFORGE_API_KEY"]))
        demo_jobs.ensure_queues(client)
        self._say("Starting a worker: taskforge worker, with the tasks of the demo")
        worker = ["worker", workload.__name__]
        self._start(stack, self._child("worker", worker, worker_variables | {"TASKFORGE_URL": url}))
        report = self._work(client)
        self._show(report)
        self._tell_curl(url, report.sample)
        self._held = not report.wrong
        if self._stay:
            self._serve()

    # its parts

    def _child(self, name: str, arguments: list[str], variables: dict[str, str]) -> Child:
        return Child(f"taskforge {name}", arguments, self._data_dir / f"{name}.log", variables)

    def _start(self, stack: ExitStack, child: Child) -> None:
        self._children.append(stack.enter_context(child))

    def _check(self) -> None:
        """All children live."""
        for child in self._children:
            child.check()

    def _wait_ready(self, url: str) -> None:
        until = time.monotonic() + READY_S
        while not _is_ready(url):
            self._check()
            if time.monotonic() > until:
                raise DemoError(f"the node is not ready after {READY_S:g} s")
            time.sleep(POLL_S)

    def _work(self, client: "Client") -> "Report":
        """Submit the jobs, and show how they go."""
        from taskforge_server.api.cli import demo_jobs, workload

        left = demo_jobs.open_jobs(client)
        if left:
            self._say(f"{left} jobs of an earlier run had not ended: they run now")
        paths = workload.standard_library()[: self._files]
        alone, alone_s = demo_jobs.run_alone(client, paths, self._check, self._say)
        columns = (
            TextColumn("Hashing the standard library"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("jobs"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            run = demo_jobs.submit(client, alone, alone_s, paths)
            bar = progress.add_task("", total=run.count)
            demo_jobs.wait_ended(
                client,
                self._check,
                lambda left: progress.update(bar, completed=max(0, run.count - left)),
            )
        return demo_jobs.report(client, run)

    def _serve(self) -> None:
        self._say("Serving until Ctrl-C …")
        while True:
            self._check()
            time.sleep(POLL_S)

    # what people see

    def _say(self, text: str) -> None:
        self._console.print(text)

    def _tell_earlier(self, jobs: dict[str, int]) -> None:
        if jobs:
            parts = ", ".join(f"{count} {status}" for status, count in jobs.items())
            self._say(f"Found {sum(jobs.values())} jobs of earlier runs: {parts}")

    def _show(self, report: "Report") -> None:
        table = Table(show_header=False)
        table.add_column(justify="left")
        table.add_column(justify="right")
        for name, value in (
            ("submitted", f"{report.submitted}"),
            ("succeeded", f"{report.succeeded}"),
            ("retried", f"{report.retried}"),
            ("failed for good", f"{report.failed}"),
            ("jobs/s", f"{report.jobs_per_s:.0f}"),
            ("submit to start, all at once, p50 / p99", _pair(report.start_s)),
            ("submit to result, one by one, p50 / p99", _pair(report.alone_s)),
        ):
            table.add_row(name, value)
        self._console.print(table)
        for line in report.wrong[:SHOWN_MAX]:
            self._say(f"Not as expected: {line}")

    def _tell_curl(self, url: str, job_id: str) -> None:
        key_file = shlex.quote(str(self._data_dir / "api_key"))
        when = "" if self._stay else " while `taskforge demo --stay` runs"
        self._say(f"To look at one of the jobs{when}:")
        self._say(f'  curl -s -H "Authorization: Bearer $(cat {key_file})" {url}/v1/jobs/{job_id}')


def _pair(times_s: tuple[float, float]) -> str:
    return " / ".join(f"{1000 * time_s:.1f}" for time_s in times_s) + " ms"


def _free_port(wanted: int) -> int:
    """The wanted port, or another if it is taken."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise DemoError("no port is free")


def _is_ready(url: str) -> bool:
    connection = HTTPConnection(url.removeprefix("http://"), timeout=READY_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


async def _jobs_by_status(postgres_url: str) -> dict[str, int]:
    connection = await connect(postgres_url, application_name="taskforge demo")
    try:
        return {row["status"]: row["jobs"] for row in await connection.fetch(sql("jobs_by_status"))}
    finally:
        await connection.close()
