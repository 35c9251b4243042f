"""Real processes to kill: nodes and workers, started again by whoever killed them.

    absent --start--> running --kill, die, stop--> absent
                      running --freeze--> frozen --thaw--> running

Each process is a child of the test's, and only these children are ever signalled. What they print
goes to a log file of their own, whose end is shown when something does not come about in time.
"""

import http.client
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).parents[2]
POLL_S = 0.01
READY_S = 30.0
EXIT_S = 15.0
TAIL_CHARS = 3_000
PORTS = range(16_384, 32_768)
PORTS_EACH = 1_024

T = TypeVar("T")

_never = threading.Event()


def until(
    condition: Callable[[], T],
    what: str,
    timeout_s: float = READY_S,
    tail: Callable[[], str] = lambda: "",
    every_s: float = POLL_S,
) -> T:
    """What the condition gives, once that is true; fails when it is not in time."""
    deadline_s = time.monotonic() + timeout_s
    while not (result := condition()):
        if time.monotonic() > deadline_s:
            raise AssertionError(f"after {timeout_s:g} s still not: {what}\n{tail()}")
        _never.wait(every_s)
    return result


def await_ends(pids: Iterable[int], timeout_s: float = EXIT_S) -> None:
    """Wait for the end of processes that may be nobody's children; one that stays is killed, and
    fails the test."""
    stayed = [pid for pid in pids if not _ends(pid, timeout_s)]
    assert not stayed, f"processes {stayed} are there after {timeout_s:g} s"


def _ends(pid: int, timeout_s: float) -> bool:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if select.select([process], [], [], timeout_s)[0]:
            return True
        signal.pidfd_send_signal(process, signal.SIGKILL)
        return False
    finally:
        os.close(process)


def _ports() -> Iterator[int]:
    """Ports that the system gives to no client, so that nobody takes them while a killed server is
    away; each worker of a test run has some of its own."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = PORTS[worker % (len(PORTS) // PORTS_EACH) * PORTS_EACH]
    at = random.randrange(PORTS_EACH)
    while True:
        at = (at + 1) % PORTS_EACH
        yield first + at


_candidates = _ports()


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    for port in _candidates:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


class Child:
    """One process under a name; it may be started again and again."""

    def __init__(
        self, name: str, command: list[str], environment: Mapping[str, str], folder: Path
    ) -> None:
        self.name = name
        self.log_path = folder / f"{name}.log"
        self._command = command
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False
        self.expected_dead = False
        """It was killed or told to die, and not started since."""
        self.starts = 0

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, **more: str) -> None:
        """Start it, with more environment for this life."""
        assert not self.alive, f"{self.name} runs already"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TASKFORGE_")}
        path = os.pathsep.join(filter(None, (inherited.get("PYTHONPATH"), str(ROOT))))
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env={**inherited, "PYTHONPATH": path, **self._environment, **more},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.expected_dead = False
        self.starts += 1

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.expected_dead = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._frozen = False

    def died(self, timeout_s: float = EXIT_S) -> int:
        """Wait until it has ended by itself; the exit status."""
        self.expected_dead = True
        until(lambda: not self.alive, f"{self.name} has ended", timeout_s, self.tail)
        assert self._process is not None
        return self._process.returncode

    def stop(self) -> int:
        """SIGTERM, and wait; the exit status. One that does not end is killed and says so."""
        assert self._process is not None
        self.expected_dead = True
        self.thaw()
        self._process.terminate()
        try:
            return self._process.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} does not stop\n{self.tail()}") from None

    def freeze(self) -> None:
        """SIGSTOP: it is there, and does nothing."""
        os.kill(self.pid, signal.SIGSTOP)
        self._frozen = True

    def thaw(self) -> None:
        """SIGCONT."""
        if self._frozen:
            os.kill(self.pid, signal.SIGCONT)
            self._frozen = False

    def tail(self) -> str:
        """The end of what it printed."""
        if not self.log_path.exists():
            return ""
        text = self.log_path.read_text(errors="replace")
        return f"--- {self.name}\n{text[-TAIL_CHARS:]}"


def program(name: str) -> str:
    """A command of the environment that the tests run in."""
    return str(Path(sys.executable).with_name(name))


class Node(Child):
    """`taskforge serve`, always at the same port."""

    def __init__(self, name: str, environment: Mapping[str, str], folder: Path) -> None:
        self.port = free_port()
        own = {"TASKFORGE_PORT": str(self.port), "TASKFORGE_NODE_NAME": name}
        super().__init__(name, [program("taskforge"), "serve"], {**environment, **own}, folder)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def await_ready(self, timeout_s: float = READY_S) -> None:
        """Wait until it takes requests; fails at once when it ends before."""

        def ready() -> bool:
            assert self.alive, f"{self.name} ended at its start\n{self.tail()}"
            return self.answers("/readyz")

        until(ready, f"{self.name} is ready", timeout_s, self.tail)

    def answers(self, path: str) -> bool:
        """Whether it says 200 to a GET."""
        return self.get(path) is not None

    def get(self, path: str) -> str | None:
        """What it says to a GET, or nothing."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2.0)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read().decode()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return body if response.status == http.client.OK else None

    def metric(self, name: str) -> float:
        """One figure of /metrics; 0 when it is not there."""
        for line in (self.get("/metrics") or "").splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        return 0.0


class CrashWorker(Child):
    """`taskforge-worker tests.support.crash_handlers`; each life writes a history of its own."""

    def __init__(
        self, name: str, environment: Mapping[str, str], folder: Path, queues: list[str]
    ) -> None:
        command = [program("taskforge-worker"), "tests.support.crash_handlers", "--name", name]
        command += [part for queue in queues for part in ("--queue", queue)]
        command += ["--concurrency", "50", "--threads", "16", "--grace", "5"]
        own = {"CRASH_HISTORY_DIR": str(folder)}
        super().__init__(name, command, {**environment, **own}, folder)
        self._folder = folder
        self._read_bytes = 0
        self._told: Counter[str] = Counter()

    def start(self, **more: str) -> None:
        super().start(**more)
        self._read_bytes = 0
        self._told.clear()

    def told(self, event: str) -> int:
        """How often this life has written of such an event."""
        path = self._folder / f"worker-{self.pid}.jsonl"
        if path.exists():
            with path.open("rb") as history:
                history.seek(self._read_bytes)
                for line in history:
                    if line.endswith(b"\n"):
                        self._read_bytes += len(line)
                        self._told[json.loads(line)["e"]] += 1
        return self._told[event]

    def ran(self) -> int:
        """How many handlers began in this life."""
        return self.told("start")

    def running(self) -> bool:
        """Whether a handler is under way."""
        return self.told("start") > self._told["end"]
