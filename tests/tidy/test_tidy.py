"""The rules of the source. An exception stands in `sources.py` with its reason."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tests.tidy.sources import (
    FILE_LINES_MAX,
    FUNCTION_LINES_MAX,
    LONG_FILES,
    LONG_FUNCTIONS,
    NO_PURE_TWIN,
    PYTHON,
    ROOT,
    SERVER,
    SQL_IN_PYTHON,
    TEXT,
    TEXT_SUFFIXES,
    files,
    name,
    tree,
)

# Split, so that this file does not carry the marks itself.
MARKS = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
SQL_START = re.compile(
    r"\s*(SELECT|UPDATE|INSERT\s+INTO|DELETE\s+FROM|insert\s+into|delete\s+from)\s|\s*select\s.+\sfrom\s"
)
SQL_VERB = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE)\b")
SERVER_IMPORT = re.compile(r"^\s*(?:from|c?import)\s+taskforge_server\.(?!ext\b)", re.MULTILINE)


def test_no_unfinished_marks() -> None:
    found = [
        f"{name(path)}:{number}: {line.strip()}"
        for path in files(TEXT, TEXT_SUFFIXES)
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if MARKS.search(line)
    ]
    assert not found, "finish it, or open an issue"


def test_tests_wait_for_signals_not_for_time() -> None:
    found = [
        f"{name(path)}:{node.lineno}"
        for path in files(("tests",), {".py"})
        for node in ast.walk(tree(path))
        if _is_blocking_sleep(node)
    ]
    assert not found, "wait for the event itself: a timing never decides a test"


def test_compiled_modules_are_typed() -> None:
    found = [
        name(path) for path in files(("ext",), {".pyx"}) if not path.with_suffix(".pyi").is_file()
    ]
    assert not found, "mypy and readers need a .pyi beside it"


def test_compiled_modules_have_a_plain_twin() -> None:
    found = [
        name(path)
        for path in files(("ext",), {".pyx"})
        if not (ROOT / "ext" / "pure" / f"{path.stem}.py").is_file()
        and name(path) not in NO_PURE_TWIN
    ]
    assert not found, "ext/pure holds the same interface in plain Python, the oracle of its tests"


def test_compiled_modules_import_nothing_of_the_server() -> None:
    found = [
        name(path)
        for path in files(("ext",), {".pyx", ".pxd"})
        if SERVER_IMPORT.search(path.read_text())
    ]
    assert not found, "ext is the lowest layer; the import linter cannot read Cython"


def test_sql_stands_in_sql_files() -> None:
    found = [
        f"{name(path)}:{line}: {text[:60]!r}"
        for path in files(SERVER, {".py"})
        if name(path) not in SQL_IN_PYTHON
        for line, text in _sql_strings(tree(path))
    ]
    assert not found, "give the statement a name and a .sql file"


def test_no_sql_is_formatted() -> None:
    found = [
        f"{name(path)}:{node.lineno}"
        for path in files(PYTHON, {".py"})
        for node in ast.walk(tree(path))
        if isinstance(node, ast.JoinedStr)
        and node.values
        and isinstance(first := node.values[0], ast.Constant)
        and SQL_VERB.match(str(first.value))
    ]
    assert not found, "pass arguments as parameters"


def test_functions_are_short() -> None:
    found = [
        f"{name(path)}::{node.name} has {lines} lines"
        for path in files(PYTHON, {".py"})
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
        and f"{name(path)}::{node.name}" not in LONG_FUNCTIONS
    ]
    assert not found, f"more than {FUNCTION_LINES_MAX} lines want a reason"


def test_files_are_short() -> None:
    found = [
        f"{name(path)} has {lines} lines"
        for path in files(PYTHON, {".py", ".pyx"})
        if (lines := len(path.read_text().splitlines())) > FILE_LINES_MAX
        and name(path) not in LONG_FILES
    ]
    assert not found, f"more than {FILE_LINES_MAX} lines want a reason"


def test_modules_say_what_they_are() -> None:
    undocumented = [
        name(path) for path in files(PYTHON, {".py"}) if not ast.get_docstring(tree(path))
    ]
    undocumented += [
        name(path)
        for path in files(("ext",), {".pyx"})
        if not _code_start(path.read_text()).startswith('"""')
    ]
    assert not undocumented, "a module starts with what it is"


def test_every_part_stands_in_a_layer() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = " ".join(contracts["contracts"][0]["layers"])
    listed = set(re.findall(r"[\w.]+", layers))
    found = [
        part
        for top in ("engine", "api")
        for path in sorted((ROOT / top).iterdir())
        if _is_module(path) and (part := f"taskforge_server.{top}.{path.stem}") not in listed
    ]
    assert not found, "give it a layer in pyproject.toml"


def test_exceptions_are_still_needed() -> None:
    listed = [*LONG_FUNCTIONS, *LONG_FILES, *NO_PURE_TWIN, *SQL_IN_PYTHON]
    found = [entry for entry in listed if not (ROOT / entry.split("::")[0]).is_file()]
    assert not found, "the file is gone: drop its exception"


def _is_module(path: Path) -> bool:
    if path.is_dir():
        return (path / "__init__.py").is_file()
    return path.suffix == ".py" and path.stem != "__init__"


def _is_blocking_sleep(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "time" and any(alias.name == "sleep" for alias in node.names)
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "sleep"
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "time"
    )


def _sql_strings(module: ast.Module) -> Iterator[tuple[int, str]]:
    """String constants that read like a statement; strings that stand alone are prose."""
    prose = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}
    for node in ast.walk(module):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if id(node) not in prose and SQL_START.match(node.value):
            yield node.lineno, node.value


def _code_start(source: str) -> str:
    """A Cython source without the comments and blank lines above its first statement."""
    lines = source.splitlines()
    while lines and (not lines[0].strip() or lines[0].lstrip().startswith("#")):
        lines.pop(0)
    return "\n".join(lines)
