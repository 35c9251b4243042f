"""The command line of a worker: `taskforge-worker MODULE[:ATTRIBUTE]`."""

import argparse
import importlib
import logging
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from taskforge.errors import WorkerRefused
from taskforge.limits import CONCURRENCY_DEFAULT, GRACE_S_DEFAULT, THREADS_DEFAULT
from taskforge.task import Task
from taskforge.worker.worker import WORKER_TYPES, Worker


def find_tasks(target: str) -> list[Task[..., Any]]:
    """The tasks of `module` (all that stand in it), or what `module:attribute` holds."""
    module_name, _, attribute = target.partition(":")
    module = importlib.import_module(module_name)
    if not attribute:
        found = [value for value in vars(module).values() if isinstance(value, Task)]
    else:
        value: Any = module
        for part in attribute.split("."):
            value = getattr(value, part)
        found = [value] if isinstance(value, Task) else _list(value, target)
    if not found:
        raise ValueError(f"{target} has no tasks: mark functions with @task")
    return list(dict.fromkeys(found))


def _list(value: Any, target: str) -> list[Task[..., Any]]:
    items = list(value) if isinstance(value, Iterable) else [value]
    if not all(isinstance(item, Task) for item in items):
        raise ValueError(f"{target} is not a task or a list of tasks")
    return items


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="taskforge-worker",
        description="Run the jobs of the tasks in a Python module.",
        epilog="SIGTERM or Ctrl-C stops it: what runs may finish, nothing is lost.",
    )
    options.add_argument("target", metavar="MODULE[:ATTRIBUTE]", help="where the tasks are")
    options.add_argument("--url", help="the server; else TASKFORGE_URL")
    options.add_argument("--api-key", help="better given as TASKFORGE_API_KEY")
    options.add_argument(
        "--ca-file",
        metavar="FILE",
        help="who an https server is trusted by; else TASKFORGE_CA_FILE",
    )
    options.add_argument(
        "--queue",
        action="append",
        metavar="NAME",
        help="take jobs from this queue only; repeatable (default: the queues of the tasks)",
    )
    options.add_argument(
        "--concurrency",
        type=int,
        default=CONCURRENCY_DEFAULT,
        metavar="N",
        help="async handlers at once (default: %(default)s)",
    )
    options.add_argument(
        "--threads",
        type=int,
        default=THREADS_DEFAULT,
        metavar="N",
        help="threads for sync handlers (default: %(default)s)",
    )
    options.add_argument("--name", help="shown to operators (default: host and process id)")
    options.add_argument(
        "--type",
        dest="worker_type",
        choices=WORKER_TYPES,
        default="general",
        help="what this machine is good at; queues may ask for it (default: %(default)s)",
    )
    options.add_argument(
        "--worker-id",
        metavar="UUID",
        help="an id that lasts over restarts, to assign this worker to queues (default: a new one)",
    )
    options.add_argument(
        "--grace",
        type=float,
        default=GRACE_S_DEFAULT,
        metavar="SECONDS",
        help="what running handlers get after SIGTERM (default: %(default)g)",
    )
    options.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="(default: %(default)s)",
    )
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run a worker with these arguments (default: the process's); the exit status."""
    given = parser().parse_args(argv)
    logging.basicConfig(
        level=given.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    if "" not in sys.path:
        sys.path.insert(0, "")  # like `python -m`: modules of the current directory
    try:
        worker = Worker(
            given.url,
            given.api_key,
            find_tasks(given.target),
            concurrency=given.concurrency,
            threads=given.threads,
            queues=given.queue,
            name=given.name,
            worker_type=given.worker_type,
            worker_id=given.worker_id,
            grace_s=given.grace,
            ca_file=given.ca_file,
        )
    except (ValueError, TypeError, AttributeError, ModuleNotFoundError) as error:
        print(f"taskforge-worker: {error}", file=sys.stderr)  # noqa: T201 - a command line
        return 2
    try:
        worker.run()
    except WorkerRefused as error:
        print(f"taskforge-worker: refused: {error}", file=sys.stderr)  # noqa: T201 - the same
        return 1
    return 0
