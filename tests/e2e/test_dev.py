"""`taskforge dev` with a worker of its own process, used the way the README says."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from taskforge import Client, JobHandle, QueueSettings, RetryPolicy
from taskforge_server.api.cli import tether
from taskforge_server.api.cli.commands import master_key_of
from taskforge_server.api.cli.embedded import EmbeddedServers
from taskforge_server.api.cli.main import app
from tests.support.servers import data_folder

TASKS = """
from taskforge import Context, task

@task(queue="mail")
async def greet(name: str) -> str:
    return f"Hello {name}"

@task(queue="mail")
def second_time(ctx: Context) -> int:
    if ctx.attempt == 1:
        raise RuntimeError("not yet")
    return ctx.attempt
"""
COMMAND = [sys.executable, "-m", "taskforge_server.api.cli"]


@contextmanager
def command(arguments: list[str], **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A running `taskforge` command, which must end well when it is asked to."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("TASKFORGE_")
    }
    process = tether.start(
        [*COMMAND, *arguments],
        signal.SIGTERM,
        env=environment | variables,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        tether.release(process)
        status = process.wait(60)
        assert process.stdout is not None
        process.stdout.close()
    assert status == 0


@contextmanager
def dev(folder: Path) -> Iterator[tuple[str, str]]:
    """The server of a data directory: its URL, and the API key as it was told."""
    arguments = ["dev", "--data-dir", str(folder), "--port", "0", "--set", "tick_s=0.05"]
    with command([*arguments, "--set", "log_retention_all=true"]) as process:
        assert process.stdout is not None
        told: dict[str, str] = {}
        for line in process.stdout:
            name, _, value = line.strip().removeprefix("export ").partition("=")
            told[name] = value
            if name == "TASKFORGE_API_KEY":
                break
        yield told["TASKFORGE_URL"], told["TASKFORGE_API_KEY"]


@pytest.fixture
def folder() -> Iterator[Path]:
    with data_folder() as path:
        yield path


def test_jobs_run_survive_a_restart_and_agree_with_the_log(folder: Path) -> None:
    (folder / "mytasks.py").write_text(TASKS)
    paths = {"PYTHONPATH": str(folder)}
    with dev(folder / "data") as (url, key), Client(url, key) as client:
        client.queues.create(
            "mail", settings=QueueSettings(retry_policy=RetryPolicy(base_delay_s=0.01))
        )
        waiting: JobHandle[str] = client.submit("greet", {"name": "Ada"}, queue="mail")
        again: JobHandle[int] = client.submit("second_time", {}, queue="mail")
        settings = paths | {"TASKFORGE_URL": url, "TASKFORGE_API_KEY": key}
        with command(["worker", "mytasks"], **settings):
            assert waiting.wait(30) == "Hello Ada"
            assert again.wait(30) == 2
        late: JobHandle[str] = client.submit("greet", {"name": "Bob"}, queue="mail")
        second = CliRunner().invoke(app, ["dev", "--data-dir", str(folder / "data")])
        assert (second.exit_code, "another process uses" in second.stderr) == (1, True)
    with dev(folder / "data") as (url, said):
        assert said == key
        with Client(url, key) as client:
            assert client.handle(waiting.id).wait(30) == "Hello Ada"
            settings = paths | {"TASKFORGE_URL": url, "TASKFORGE_API_KEY": key}
            with command(["worker", "mytasks"], **settings):
                assert client.handle(late.id).wait(30) == "Hello Bob"
    with EmbeddedServers(folder / "data") as servers:
        checked = subprocess.run(
            [*COMMAND, "check", "--postgres-url", servers.postgres_url],
            capture_output=True,
            text=True,
            check=False,
        )
    assert (checked.returncode, checked.stdout) == (0, "The log and the tables agree.\n")


@pytest.mark.parametrize("name", ["serve", "dev", "migrate", "check", "demo", "worker"])
def test_every_command_explains_itself(name: str) -> None:
    done = subprocess.run([*COMMAND, name, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) > 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--port", "http"], "option port (from flag --port)"),
        (["serve", "--set", "shards"], "OPTION=VALUE"),
        (["serve", "--set", "colour=red"], "option colour (from flag --set colour)"),
        (["serve", "--set", "prot=1"], "did you mean port?"),
        (["migrate", "--postgres-url", "mysql://x"], "option postgres_url"),
        (["migrate", "--config", "missing.toml"], "cannot read it"),
        (["serve"], "`taskforge keys new 2026 --file master.keys` makes one"),
        (["migrate"], "`taskforge keys new 2026 --file master.keys` makes one"),
    ],
)
def test_a_wrong_option_stops_the_start_and_is_named(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize("name", ["migrate", "check"])
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://nobody@localhost:1/taskforge", "postgres_url says where it is"),
        ("{postgres_url}-missing", "does not exist"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line(
    name: str, url: str, said: str, postgres_url: str, tmp_path: Path
) -> None:
    keys = master_key_of(tmp_path)
    base, query = postgres_url.split("?")
    named = url.replace("{postgres_url}-missing", f"{base}-missing?{query}")
    result = CliRunner().invoke(
        app, [name, "--postgres-url", named, "--set", f"master_key_file={keys}"]
    )
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert said in result.stderr
