"""`taskforge demo` as a newcomer runs it: twice, and with Ctrl-C."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.support.commands import TASKFORGE, Command
from tests.support.reference import ROOT

FILES = 200
EXPECTED = {"submitted": [206], "succeeded": [205], "retried": [5], "failed for good": [1]}
"""One job a file, five that fail at first, one that fails for good."""


def demo(data_dir: Path, *options: str) -> Command:
    return Command(
        *TASKFORGE, "demo", "--data-dir", str(data_dir), "--files", f"{FILES}", "--port", "0",
        *options,
    )  # fmt: skip


def table(output: str) -> dict[str, list[float]]:
    rows = re.findall(r"│ ([a-z][^│]*?) +│ +([\d. /]+?)(?: ms)? │", output)
    return {name: [float(value) for value in values.split("/")] for name, values in rows}


@pytest.mark.timeout(300)
def test_demo_twice_on_one_data_directory(data_dir: Path) -> None:
    with demo(data_dir) as first:
        assert first.end() == 0, first.output
    assert "earlier runs" not in first.output
    assert (data_dir / "master.keys").stat().st_mode & 0o777 == 0o600
    _check_table(first.output)

    with demo(data_dir, "--stay") as second:
        second.until("Found 206 jobs of earlier runs: 1 failed, 205 succeeded")
        command = second.until(r"^ *(curl .*)$")[1]
        second.until("Serving until Ctrl-C")
        _check_table(second.output)
        job = _look(command)
        assert job["status"] == "succeeded"
        assert len(job["result"]["sha256"]) == 64
        assert [execution["status"] for execution in job["executions"]] == ["succeeded"]
        _check_documented_metrics(re.search(r"http://[\d.:]+", command)[0])  # type: ignore[index]
        assert second.interrupt() == 0, second.output
    assert "Traceback" not in first.output + second.output


@pytest.mark.timeout(300)
@pytest.mark.parametrize("moment", ["Starting PostgreSQL", "Starting a node", "A first job"])
def test_ctrl_c_ends_everything_without_a_word_too_many(data_dir: Path, moment: str) -> None:
    with demo(data_dir) as run:
        run.until(moment)
        assert run.interrupt() == 130
    assert run.output.rstrip().endswith("Stopped.")
    assert "Traceback" not in run.output
    assert not list((data_dir / "postgres").glob("postmaster.pid"))


def _check_table(output: str) -> None:
    found = table(output)
    assert {name: found.get(name) for name in EXPECTED} == EXPECTED, output
    assert found["jobs/s"] > [0.0]
    for what in ("submit to start, all at once", "submit to result, one by one"):
        p50_ms, p99_ms = found[f"{what}, p50 / p99"]
        assert 0 < p50_ms <= p99_ms


def _look(command: str) -> dict[str, object]:
    """Run the printed command, as it was printed."""
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    shown = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(shown.stdout)
    return found


def _check_documented_metrics(url: str) -> None:
    """The page for operators names exactly the metrics that there are."""
    with urlopen(f"{url}/metrics") as answer:
        shown = re.findall(r"^# TYPE (taskforge_\w+)", answer.read().decode(), re.MULTILINE)
    page = (ROOT / "docs" / "operating" / "running.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(taskforge_\w+)`", page)) == set(shown)
