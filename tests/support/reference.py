"""Writes the parts of the documentation that the code already says: `make docs`.

A page, or a block of it between `<!-- begin NAME -->` and `<!-- end NAME -->`, is made of the
catalogue that the server itself uses; a test compares. The figures in the README come from the
newest results of the benchmarks, and are as old as those.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from taskforge_server.api.rest.problems import KINDS
from taskforge_server.api.rest.table import ROUTES
from taskforge_server.engine import limits
from taskforge_server.engine.config import ENVIRONMENT_PREFIX, SECRETS, options
from taskforge_server.engine.model.permissions import PERMISSIONS, Role

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = "docs/reference/configuration.md"
HTTP = "docs/reference/http.md"
PERMISSIONS_PAGE = "docs/reference/permissions.md"
README = "README.md"
RESULTS = "bench/results/latest.md"
NONE = "-"
NOT_MEASURED = "Nothing is measured yet in this checkout: `make bench` does it."


def configuration() -> str:
    """The page of all options."""
    rows = []
    for name, spec in options().items():
        rule, about = spec.metadata["rule"], spec.metadata["about"]
        shown = f"{about}{' (secret: never shown)' if name in SECRETS else ''}"
        rows.append((f"`{name}`", _default(name, spec.default), rule.accepted, shown))
    return "\n".join(
        (
            "# Configuration",
            "",
            "Every option can be given in three ways; the later ones win:",
            "",
            f"1. a TOML file, named by `--config` or `{ENVIRONMENT_PREFIX}CONFIG`: `port = 8040`",
            f"2. the environment: `{ENVIRONMENT_PREFIX}` and the name in capitals, "
            f"`{ENVIRONMENT_PREFIX}PORT=8040`",
            "3. a flag of the command: `--port 8040`, with `-` for `_`; those without a flag of "
            "their own",
            "   with `--set`: `--set lease_ttl_s=10`",
            "",
            "They are validated at the start, before anything else happens: a value that is not "
            "accepted, and a",
            "name that nobody knows, stop the command with the option, where it came from and what "
            "is accepted.",
            "",
            *_table(("option", "default", "accepted", "what it does"), rows),
            "",
            "A heartbeat may take at most half of `lease_ttl_s`, so that a lease survives the loss "
            "of one.",
            "",
        )
    )


def routes() -> str:
    """The block of all routes."""
    rows = []
    for route in ROUTES:
        needs = f"`{route.permission}`" if route.permission else NONE
        codes = ", ".join(f"`{code}`" for code in route.problems) or NONE
        summary = route.summary + (" †" if route.idempotent else "")
        rows.append((f"`{route.method} {route.path}`", summary, needs, codes))
    return "\n".join(_table(("route", "what", "permission", "its own problems"), rows))


def permissions() -> str:
    """The page of who may do what."""
    rows = []
    for row in PERMISSIONS.values():
        held = ["yes" if role in row.roles else NONE for role in get_args(Role)]
        keys = "yes" if row.scope == "project" else NONE
        rows.append((f"`{row.name}`", row.about, *held, keys, "<br>".join(_wanting(row.name))))
    roles = [f"role {role}" for role in get_args(Role)]
    head = ("permission", "what it allows", *roles, "API keys", "routes")
    return "\n".join(
        (
            "# Permissions",
            "",
            "Who may do what. Made of `engine/model/permissions.py`, which the server decides by.",
            "",
            "An API key belongs to a project, and has those permissions of this page that it was "
            "given, of those",
            "that say so. A person has the permissions of a role in their organisation. Those that "
            "API keys may",
            "have too are about one project: a person has them in a session that they opened for a "
            "project",
            "([people](../guides/identity.md)).",
            "",
            *_table(head, rows),
            "",
            "Without any credential: " + ", ".join(_wanting(None)) + ".",
            "",
        )
    )


def _wanting(permission: str | None) -> list[str]:
    """The routes that want this permission, or none."""
    found = [f"`{route.method} {route.path}`" for route in ROUTES if route.permission == permission]
    return found or [NONE]


def problems() -> str:
    """The block of all problem codes."""
    rows = [(str(kind.status), f"`{kind.code}`", kind.about) for kind in KINDS.values()]
    return "\n".join(_table(("status", "code", "what it means"), rows))


def figures() -> str:
    """The block of what was measured last."""
    path = ROOT / RESULTS
    if not path.is_file():
        return NOT_MEASURED
    # Its first heading is the title of a page of its own.
    lines = path.read_text(encoding="utf-8").strip().splitlines()
    return "\n".join(line for line in lines if not line.startswith("# ")).strip()


def fill(text: str, name: str, content: str) -> str:
    """The page with this content in its block."""
    begin, end = f"<!-- begin {name} -->\n", f"\n<!-- end {name} -->"
    head, found, rest = text.partition(begin)
    _, ended, tail = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"no block named {name}")
    return f"{head}{begin}{content}{end}{tail}"


def links(text: str) -> list[str]:
    """The relative links of a page, without their anchors."""
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [
        target.partition("#")[0]
        for target in targets
        if not target.startswith(("http://", "https://", "#"))
    ]


def _current(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


PAGES: dict[str, Callable[[], str]] = {
    PERMISSIONS_PAGE: permissions,
    CONFIGURATION: configuration,
    HTTP: lambda: fill(fill(_current(HTTP), "routes", routes()), "problems", problems()),
    README: lambda: fill(_current(README), "figures", figures()),
}


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines: list[tuple[str, ...]] = [head, ("---",) * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _default(name: str, value: object) -> str:
    if value is None or value in ("", ()):
        return NONE
    if name == "heartbeat_s":
        return NONE
    if name.endswith("bytes_max") and isinstance(value, int):
        return f"`{value // limits.MIB}MiB`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def main() -> None:
    """Write all pages."""
    for path, make in PAGES.items():
        (ROOT / path).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
