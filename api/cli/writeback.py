"""Lets the disk begin with what a server has written to the files of its tables, once a second.

PostgreSQL makes a table or an index longer by writing zeros, and leaves it to the kernel when
they reach the disk. The kernel lets them lie for half a minute, and then writes all at once: a
gigabyte at full load, and for a second no commit got through. Here the kernel is told each second
to begin with the files that have changed, unless little is waiting. Nothing waits for that, and
nothing depends on it: what must be on the disk is in the log, which PostgreSQL flushes itself.

    idle --a second, much is waiting--> files that changed since the last look --> idle

Figures: docs/decisions/0041-rows-that-stay-in-memory.md.
"""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

EVERY_S = 1.0
WAITING_BYTES_MIN = 32 * 1024**2
MEMINFO = Path("/proc/meminfo")


class Writeback:
    """A thread that looks at the files below a folder of databases until it is stopped."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._looked_s = time.time()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writeback", daemon=True)

    def start(self) -> None:
        """Only where the kernel can be told, and asked what is waiting."""
        if hasattr(os, "posix_fadvise") and MEMINFO.exists():
            self._thread.start()

    def stop(self) -> None:
        """Returns when no file is touched any more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """Begin with what has changed since the last look. Clean pages leave the kernel's cache;
        PostgreSQL has its own."""
        since_s, self._looked_s = self._looked_s, time.time()
        for path in self._changed(since_s):
            try:
                file = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                continue  # its table was dropped
            try:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(file)

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            if waiting_bytes() >= WAITING_BYTES_MIN:
                self.look()

    def _changed(self, since_s: float) -> Iterator[str]:
        try:
            for database in list(os.scandir(self._folder)):
                for entry in list(os.scandir(database)):
                    # A file's time is that of the kernel's last tick.
                    if entry.stat().st_mtime >= since_s - EVERY_S:
                        yield entry.path
        except FileNotFoundError:
            return  # a database or a table was dropped: the rest has its turn in a second


def waiting_bytes() -> int:
    """What the machine has yet to write."""
    for line in MEMINFO.read_text().splitlines():
        if line.startswith("Dirty:"):
            return int(line.split()[1]) * 1024
    return 0
