"""The program of the guide for newcomers, as it stands in the page."""

import asyncio
import os
import re
import sys

from tests.support.people import serving
from tests.support.reference import ROOT

PAGE = ROOT / "docs" / "guides" / "first-steps.md"
PROGRAM = ROOT / "docs" / "examples" / "first_steps.py"


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


async def test_the_program_of_the_guide_runs(postgres_url: str) -> None:
    async with serving(postgres_url) as site:
        kept = {name: value for name, value in os.environ.items() if "TASKFORGE" not in name}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            block("python"),
            env=kept | {"TASKFORGE_URL": site.url},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        told, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert told.decode() == block("text")


def test_the_guide_shows_the_program_as_it_is() -> None:
    assert block("python") == PROGRAM.read_text(encoding="utf-8")
