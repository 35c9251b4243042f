"""The first job of the README, as a newcomer would run it."""

import subprocess
import sys
from pathlib import Path

from tests.support.commands import TASKFORGE, Command
from tests.support.reference import ROOT

EXAMPLES = ROOT / "docs" / "examples"


def test_first_job_runs_on_a_development_server(data_dir: Path) -> None:
    with Command(*TASKFORGE, "dev", "--data-dir", str(data_dir), "--port", "0") as server:
        variables = {
            name: server.until(rf"export {name}=(\S+)")[1]
            for name in ("TASKFORGE_URL", "TASKFORGE_API_KEY")
        }
        with Command(
            *TASKFORGE, "worker", "first_job", cwd=EXAMPLES, variables=variables
        ) as worker:
            worker.until("connected")
            with Command(
                sys.executable, "first_job.py", cwd=EXAMPLES, variables=variables
            ) as program:
                assert program.end() == 0, program.output
                assert program.output == "Hello Ada\n"
            assert worker.interrupt() == 0
        assert server.interrupt() == 0
    assert "Traceback" not in server.output + worker.output


def test_readme_shows_the_first_job_as_it_is() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    program = (EXAMPLES / "first_job.py").read_text(encoding="utf-8")
    assert f"```python\n{program}```" in readme


def test_commands_explain_themselves() -> None:
    for command in ("dev", "serve", "migrate", "worker", "demo"):
        shown = subprocess.run(
            [*TASKFORGE, command, "--help"], capture_output=True, text=True, check=True
        )
        assert "Usage" in shown.stdout or "usage" in shown.stdout
