"""Commands that bring their servers along, ended at the worst moments: no server stays behind."""

import signal
import sys
from pathlib import Path

import pytest

from bench.processes import children
from tests.support.commands import TASKFORGE, Command
from tests.support.processes import await_ends

SERVERS = ("Valkey", "PostgreSQL")
"""In the order in which they are started."""

# Runs a command that gets a signal when a server is there and nobody has noted it yet.
ENDED_AT_A_START = """
import os, sys
from pathlib import Path
from taskforge_server.api.cli.embedded import Server
from taskforge_server.api.cli.main import app

server, number, pids, *arguments = sys.argv[1:]
spawn = Server._spawn

def spawn_and_end(self, command):
    process = spawn(self, command)
    with open(pids, "a") as file:
        print(process.pid, file=file)
    if self.name == server:
        os.kill(os.getpid(), int(number))
    return process

Server._spawn = spawn_and_end
app(arguments)
"""


@pytest.mark.parametrize(
    ("server", "number", "command"),
    [
        ("Valkey", signal.SIGINT, "demo"),
        ("Valkey", signal.SIGKILL, "demo"),
        ("Valkey", signal.SIGHUP, "dev"),
        ("PostgreSQL", signal.SIGINT, "demo"),
        ("PostgreSQL", signal.SIGTERM, "dev"),
        ("PostgreSQL", signal.SIGKILL, "dev"),
    ],
)
def test_ended_while_a_server_starts(
    server: str, number: signal.Signals, command: str, data_dir: Path, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    script = (sys.executable, "-c", ENDED_AT_A_START, server, str(int(number)), str(pids))
    with Command(*script, command, "--data-dir", str(data_dir), "--port", "0") as run:
        status = run.end()
    started = [int(pid) for pid in pids.read_text().split()]
    assert len(started) == SERVERS.index(server) + 1
    await_ends(started)
    assert status == (-signal.SIGKILL if number == signal.SIGKILL else 130), run.output
    assert "Traceback" not in run.output


def test_a_hangup_ends_a_serving_dev(data_dir: Path) -> None:
    with Command(*TASKFORGE, "dev", "--data-dir", str(data_dir), "--port", "0") as run:
        run.until("export TASKFORGE_API_KEY")
        pids = children(run.pid)
        assert run.interrupt(signal.SIGHUP) == 130, run.output
    assert len(pids) == len(SERVERS)
    await_ends(pids)
    assert "Traceback" not in run.output


@pytest.mark.timeout(300)
def test_a_killed_demo_takes_everything_with_it(data_dir: Path) -> None:
    with Command(
        *TASKFORGE, "demo", "--data-dir", str(data_dir), "--files", "2", "--port", "0", "--stay"
    ) as run:
        run.until("Serving until Ctrl-C")
        pids = children(run.pid)
        run.kill()
    assert len(pids) == len({"Valkey", "PostgreSQL", "serve", "worker"})
    await_ends(pids)
