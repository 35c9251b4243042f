"""The work of `taskforge demo`: real files to hash, and handlers that fail on purpose.

A worker loads this module by its name, as it would load any user's: `taskforge worker
taskforge_server.api.cli.workload`.
"""

import hashlib
import os
import sysconfig
from pathlib import Path
from typing import TypedDict

# A worker's module, loaded by the worker process alone; the server's processes never import it.
from taskforge import Context, FatalError, RetryableError, task  # noqa: TID253

HASH_QUEUE = "demo-hash"
FLAKY_QUEUE = "demo-flaky"
"""Its retry policy waits a short time before the next attempt."""

FAILURES = 2
"""How often a flaky job fails before it succeeds."""

NOT_OURS = {"site-packages", "dist-packages", "__pycache__"}
"""Folders below the standard library that are not of it, or that come and go."""


class FileHash(TypedDict):
    """What a job finds out about a file."""

    size: int
    sha256: str


@task(queue=HASH_QUEUE)
def hash_file(path: str) -> FileHash:
    """The size and SHA-256 of a file."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return {"size": file.tell(), "sha256": digest.hexdigest()}


@task(queue=FLAKY_QUEUE)
async def succeed_later(ctx: Context, number: int) -> str:
    """Fails at first, as a call to a service that restarts would."""
    if ctx.attempt <= FAILURES:
        raise RetryableError(f"attempt {ctx.attempt} of job {number} fails on purpose")
    return f"job {number} succeeded in attempt {ctx.attempt}"


@task(queue=FLAKY_QUEUE)
async def fail_for_good() -> None:
    """Fails in a way that no further attempt would mend."""
    raise FatalError("this job fails on purpose")


def standard_library() -> list[str]:
    """Every file of the running Python's standard library, in a stable order."""
    found = []
    for folder, below, names in os.walk(sysconfig.get_path("stdlib")):
        below[:] = sorted(set(below) - NOT_OURS)
        paths = (Path(folder, name) for name in sorted(names))
        found += [str(path) for path in paths if path.is_file() and os.access(path, os.R_OK)]
    return found
