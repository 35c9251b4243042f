"""The embedded servers: they come back after every kind of end, and two of them get along."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import asyncpg
import pytest

from taskforge_server.api.cli.embedded import EmbeddedError, EmbeddedServers, Postgres
from tests.support.processes import await_ends
from tests.support.servers import SETTINGS, data_folder

# Starts servers in another process and tells that it has, then waits for its end.
OTHER_PROCESS = """
import sys
from pathlib import Path
from taskforge_server.api.cli.embedded import EmbeddedServers
with EmbeddedServers(Path(sys.argv[1])) as servers:
    print(servers.postmaster_pid, servers.valkey.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with data_folder() as path:
        yield path


async def write(servers: EmbeddedServers, number: int) -> None:
    connection = await asyncpg.connect(servers.postgres_url)
    await connection.execute("CREATE TABLE IF NOT EXISTS numbers (n integer)")
    await connection.execute("INSERT INTO numbers VALUES ($1)", number)
    await connection.close()


async def numbers(servers: EmbeddedServers) -> list[int]:
    connection = await asyncpg.connect(servers.postgres_url)
    rows = await connection.fetch("SELECT n FROM numbers ORDER BY n")
    await connection.close()
    return [row["n"] for row in rows]


async def test_a_second_start_finds_the_data(folder: Path) -> None:
    for number in range(2):
        with EmbeddedServers(folder, SETTINGS) as servers:
            await write(servers, number)
            assert await numbers(servers) == list(range(number + 1))
            assert _ping(servers)


async def test_killed_servers_come_back(folder: Path) -> None:
    with EmbeddedServers(folder, SETTINGS) as servers:
        await write(servers, 1)
        os.kill(servers.postmaster_pid, signal.SIGKILL)
        servers.postgres.start()
        assert await numbers(servers) == [1]
        servers.valkey.kill()
        servers.valkey.start()
        assert _ping(servers)


def test_they_end_with_a_killed_process(folder: Path) -> None:
    other = _other_process(folder)
    pids = _pids(other)
    other.kill()
    other.communicate()
    await_ends(pids)


async def test_orphans_of_a_killed_process_are_replaced(folder: Path) -> None:
    other = _other_process(folder)
    postmaster_pid, valkey_pid = _pids(other)
    other.kill()
    other.communicate()
    with EmbeddedServers(folder, SETTINGS) as servers:
        assert servers.postmaster_pid not in (0, postmaster_pid)
        assert servers.valkey.pid not in (0, valkey_pid)
        await write(servers, 1)
        assert _ping(servers)


async def test_a_directory_has_one_user(folder: Path) -> None:
    other = _other_process(folder)
    _pids(other)
    with pytest.raises(EmbeddedError, match="another process uses"):
        EmbeddedServers(folder, SETTINGS).start()
    other.communicate()  # ends its input, and so the servers
    with EmbeddedServers(folder, SETTINGS) as servers:
        assert _ping(servers)


async def test_two_directories_at_once(folder: Path) -> None:
    # The second path is too long for a socket in it.
    paths = (folder / "one", folder / ("two" * 30))
    with EmbeddedServers(paths[0], SETTINGS) as one, EmbeddedServers(paths[1], SETTINGS) as two:
        await write(one, 1)
        await write(two, 2)
        assert (await numbers(one), await numbers(two)) == ([1], [2])
        assert _ping(one)
        assert _ping(two)


def test_a_failed_start_says_why_and_leaves_nothing(folder: Path) -> None:
    with pytest.raises(EmbeddedError, match="no_such_setting"):
        EmbeddedServers(folder, {"no_such_setting": "1"}).start()
    with EmbeddedServers(folder, SETTINGS) as servers:
        assert _ping(servers)


async def test_an_interrupted_first_start_spoils_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Postgres._run

    def half(self: Postgres, program: str, *arguments: str) -> NoReturn:
        run(self, program, *arguments)
        places = dict(argument.partition("=")[::2] for argument in arguments)
        (Path(places["--pgdata"]) / "global" / "pg_control").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Postgres, "_run", half)
        with pytest.raises(KeyboardInterrupt):
            EmbeddedServers(folder, SETTINGS).start()
    with EmbeddedServers(folder, SETTINGS) as servers:
        await write(servers, 1)
    assert {name for name in os.listdir(folder) if "postgres" in name} == {
        "postgres",
        "postgres.log",
    }


def test_stopping_twice(folder: Path) -> None:
    servers = EmbeddedServers(folder, SETTINGS).start()
    pid = servers.postmaster_pid
    for _ in range(2):
        servers.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def _ping(servers: EmbeddedServers) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(servers.valkey.socket_path))
        connection.sendall(b"PING\r\n")
        return connection.recv(16).startswith(b"+PONG")


def _other_process(folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _pids(process: "subprocess.Popen[str]") -> tuple[int, int]:
    assert process.stdout is not None
    first, second = process.stdout.readline().split()
    return int(first), int(second)
