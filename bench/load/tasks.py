"""The handlers of the measured worker process, and what they note.

`noop` notes nothing: it is the handler of the throughput figures. `stamp` and `first` note times of
CLOCK_MONOTONIC, which all processes of one machine share; at its end the process writes them as
JSON to the file that BENCH_RECORD_FILE names.
"""

import asyncio
import atexit
import json
import os
import time
from array import array
from pathlib import Path

from taskforge import task

RECORD_FILE_VARIABLE = "BENCH_RECORD_FILE"
BUSY_S = 0.5

_latencies_ns = array("q")
_first_ns = array("q")


@task
async def noop(path: str, n: int) -> None:
    """Do nothing."""


@task
async def stamp(at: int, pad: str) -> None:
    """Note how long ago, in nanoseconds, the submit call began."""
    _latencies_ns.append(time.monotonic_ns() - at)


@task
async def first(path: str, n: int) -> None:
    """Note when the first job began, and be busy, so that a backlog stays one."""
    if not _first_ns:
        _first_ns.append(time.monotonic_ns())
    await asyncio.sleep(BUSY_S)


def _write() -> None:
    name = os.environ.get(RECORD_FILE_VARIABLE)
    if name:
        record = {"latencies_ns": list(_latencies_ns), "first_ns": list(_first_ns)}
        Path(name).write_text(json.dumps(record))


atexit.register(_write)
