"""The guides: each feature of a job has a program that the suite runs, and what they show is Python
that imports what there is."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from tests.tidy.sources import ROOT

GUIDES = ROOT / "docs" / "guides"
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
WITHOUT_PROGRAM = {"large-backlogs.md": "is told to a node, not to a job"}
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
OWN = "taskforge"


def features() -> list[str]:
    """The guides that the README names under what a job can be told."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    told = readme.partition("## What a job can be told")[2].partition("\n## ")[0]
    return re.findall(r"\(docs/guides/([a-z-]+\.md)\)", told)


def test_every_feature_has_a_program() -> None:
    found = features()
    assert len(found) > 10
    for guide in set(found) - WITHOUT_PROGRAM.keys():
        programs = re.findall(r"\.\./examples/(\w+\.py)", (GUIDES / guide).read_text("utf-8"))
        assert programs, guide
        assert set(programs) <= {program.name for program in EXAMPLES}


@pytest.mark.parametrize("program", EXAMPLES, ids=lambda program: program.stem)
def test_every_program_is_run(program: Path) -> None:
    """By a test that looks into the folder of the examples and names this one."""
    tests = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    named = re.compile(rf'"{program.stem}(\.py)?"')
    assert any("examples" in text and named.search(text) for text in tests)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_what_pages_show_can_be_imported(page: Path) -> None:
    for block in PYTHON_BLOCK.findall(page.read_text(encoding="utf-8")):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == OWN:
                module = importlib.import_module(node.module or "")
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
