"""The processes of a measurement: started, looked at through /proc, and ended by their id, or by
our own end."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from taskforge_server.api.cli import tether

STOP_S = 40.0
LOG_TAIL_CHARS = 4_000
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class BenchError(RuntimeError):
    """The measurement cannot be made, or what it saw is wrong."""


class Child:
    """One process with its log; `with` ends it. `output` is what it printed, once it has ended."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path
    ) -> None:
        self.name = name
        self.log_path = folder / f"{name}.log"
        self._output_path = folder / f"{name}.out"
        with self.log_path.open("wb") as log, self._output_path.open("wb") as output:
            # A session of its own: a Ctrl-C is for us, and we end the others in their order.
            self._process = tether.start(
                command,
                signal.SIGKILL,
                env=environment,
                stdout=output,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def output(self) -> str:
        return self._output_path.read_text()

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def check(self) -> None:
        """Raise when it has ended by itself."""
        if self._process.poll() is not None:
            raise BenchError(f"{self.name} ended with {self._process.returncode}\n{self._tail()}")

    def stop(self) -> None:
        """Ask it to end, and wait; kill it when it does not."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        tether.release(self._process)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise BenchError(f"{self.name} did not end in {STOP_S:g} s\n{self._tail()}") from None

    def finish(self, timeout_s: float) -> str:
        """Wait for its own end; what it printed."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{self.name} is not done\n{self._tail()}") from None
        if code != 0:
            raise BenchError(f"{self.name} ended with {code}\n{self._tail()}")
        return self.output

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.stop()
            return
        self._process.kill()
        tether.release(self._process)
        self._process.wait()

    def _tail(self) -> str:
        return self.log[-LOG_TAIL_CHARS:]


def cpu_s(pid: int, *, reaped: bool = False) -> float:
    """Seconds of CPU, user and system, of a process so far; 0 when it is gone.

    With `reaped`, those of its ended children too.
    """
    fields = _stat(pid)
    if not fields:
        return 0.0
    first = 11  # of utime, stime, cutime, cstime, behind the command's closing bracket
    return sum(int(field) for field in fields[first : first + (4 if reaped else 2)]) / TICKS_PER_S


def children(pid: int) -> list[int]:
    """The direct children of a process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields and int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


def title(pid: int) -> str:
    """The command line, which PostgreSQL's processes use to say what they do."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode(errors="replace")
    except OSError:
        return ""


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise BenchError(f"no resident memory of process {pid}")


def _stat(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat from the state on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
