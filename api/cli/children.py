"""Child processes of a command: in sessions of their own, logged to files, ended in order.

A Ctrl-C in the terminal reaches the parent alone, which then stops its children with SIGTERM, the
youngest first, so that each finds those that it needs still there. When the parent is killed, all
get that SIGTERM at once.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from taskforge_server.api.cli import tether

STOP_TIMEOUT_S = 60.0
"""More than the grace that a worker and a node give what runs."""

LOG_TAIL_LINES = 20


class ChildError(RuntimeError):
    """A child ended that should not have, or ended badly; the message has the tail of its log."""


class Child:
    """One `taskforge` command as a process; a context manager."""

    def __init__(
        self, name: str, arguments: Sequence[str], log_path: Path, variables: Mapping[str, str]
    ) -> None:
        self.name = name
        self.log_path = log_path
        self._command = [sys.executable, "-m", "taskforge_server.api.cli", *arguments]
        self._variables = dict(variables)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self.log_path.open("wb") as log:
            self._process = tether.start(
                self._command,
                signal.SIGTERM,
                stdout=log,
                stderr=log,
                env=_environment() | self._variables,
                start_new_session=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        status = self.stop()
        if error is None and status != 0:
            raise ChildError(f"{self.name} ended with status {status}\n{self._tail()}")

    def check(self) -> None:
        """Raise ChildError when it has ended."""
        if self._process is not None and self._process.poll() is not None:
            status = self._process.returncode
            raise ChildError(f"{self.name} ended with status {status}\n{self._tail()}")

    def finish(self) -> None:
        """Wait until it has ended by itself; ChildError when it says that it failed."""
        assert self._process is not None
        if self._process.wait() != 0:
            self.check()

    def stop(self) -> int:
        """Ask it to end, kill it when it does not; its exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(signal.SIGTERM)
        tether.release(process)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
        return process.wait()

    def _tail(self) -> str:
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join([*lines[-LOG_TAIL_LINES:], f"its log: {self.log_path}"])


def _environment() -> dict[str, str]:
    """Ours, without the options of whoever runs us: a child gets its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TASKFORGE_")}
