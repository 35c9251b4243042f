"""`taskforge` commands as processes, as a user at a terminal has them.

They end with the tests, even with killed ones.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from taskforge_server.api.cli import tether

TASKFORGE = (sys.executable, "-m", "taskforge_server.api.cli")
STOP_S = 60


class Command:
    """A running command whose output is read line by line; a context manager."""

    def __init__(
        self, *arguments: str, cwd: Path | None = None, variables: Mapping[str, str] | None = None
    ) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TASKFORGE_")}
        self._process = tether.start(
            arguments,
            signal.SIGTERM,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=cwd,
            env=inherited | {"PYTHONUNBUFFERED": "1"} | dict(variables or {}),
            start_new_session=True,
        )
        self.output = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def until(self, pattern: str) -> re.Match[str]:
        """Read on until a line has this; fails when the output ends before."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output += line
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"no line has {pattern!r}:\n{self.output}")

    def end(self) -> int:
        """Read to the end; the exit status."""
        assert self._process.stdout is not None
        self.output += self._process.stdout.read()
        return self._process.wait()

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> int:
        """Press Ctrl-C, or what the signal says; the exit status."""
        self._process.send_signal(number)
        return self.end()

    def kill(self) -> None:
        """Take it away without a warning."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Make sure that it is gone."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        tether.release(self._process)
        if self._process.stdout is not None:
            self._process.stdout.close()
