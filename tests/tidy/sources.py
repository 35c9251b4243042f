"""The source files that the rules of this folder read, and the exceptions from those rules."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVER = ("engine", "ext", "api")
PYTHON = (*SERVER, "sdk", "bench", "tests")
TEXT = (*PYTHON, "docs")
TEXT_SUFFIXES = {".py", ".pyi", ".pyx", ".pxd", ".sql", ".lua", ".toml", ".md", ".ts", ".js", ".rs"}
SKIPPED_PARTS = {"node_modules", "target", "__pycache__", "dist", "build"}

FUNCTION_LINES_MAX = 80
FILE_LINES_MAX = 700

# Each exception is a path (for a function `path::name`) and its reason.
LONG_FUNCTIONS: dict[str, str] = {}
LONG_FILES: dict[str, str] = {
    "engine/limits.py": "every bound of the server with its reason, so that they can be compared",
}
NO_PURE_TWIN: dict[str, str] = {
    "ext/slots.pyx": "storage inside the table; tested through it",
    "ext/attempts.pyx": "storage inside the table; tested through it",
    "ext/rows.pyx": "C functions of the table; tested through it",
    "ext/tableframe.pyx": "C functions of the table; tested through it",
    "ext/tablereplay.pyx": "a layer of the table; tested through it",
    "ext/tablestored.pyx": "a layer of the table; tested through it",
    "ext/tablequestions.pyx": "a layer of the table; tested through it",
}
SQL_IN_PYTHON: dict[str, str] = {}


def files(tops: tuple[str, ...], suffixes: set[str]) -> Iterator[Path]:
    """The files of these folders, in a stable order."""
    for top in tops:
        for path in sorted((ROOT / top).rglob("*")):
            inside = path.relative_to(ROOT).parts
            hidden = any(part in SKIPPED_PARTS or part.endswith(".egg-info") for part in inside)
            if path.suffix in suffixes and path.is_file() and not hidden:
                yield path


def name(path: Path) -> str:
    """The path as it is written in lists of exceptions."""
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a Python file."""
    return ast.parse(path.read_text(), filename=str(path))
