"""What is stored and shown: JSON with all that was measured, and a table for people."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.figures import TARGETS, Measured

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("taskforge-server", "taskforge", "asyncpg", "uvloop", "aiohttp", "msgspec", "msgpack")


def machine() -> dict[str, Any]:
    """Where it was measured."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3, 1),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "load_before": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """What ran."""
    found = {"python": platform.python_version()}
    return found | {name: version(name) for name in PACKAGES}


def commit() -> str:
    """The commit that was measured; `+` when files differ from it."""
    short = _git("rev-parse", "--short", "HEAD")
    return f"{short}+" if _git("status", "--porcelain", "--untracked-files=no") else short


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def store(document: dict[str, Any], figures: list[Measured]) -> list[Path]:
    """Write the result under its date; and as the latest, beside figures not measured now."""
    stamp = document["date"].replace(":", "").replace("-", "").removesuffix("Z")
    latest = RESULTS / "latest.json"
    measured = {figure.target.figure: figure.as_object() for figure in figures}
    earlier = json.loads(latest.read_text())["figures"] if latest.exists() else []
    merged = {item["figure"]: item for item in earlier} | measured
    ordered = [merged[name] for name in TARGETS if name in merged]
    written = {
        RESULTS / f"{stamp}.json": _text(document | {"figures": list(measured.values())}),
        latest: _text(document | {"figures": ordered}),
        RESULTS / "latest.md": markdown(document, ordered),
    }
    for path, text in written.items():
        path.write_text(text)
    return list(written)


def _text(document: dict[str, Any]) -> str:
    """JSON with one run a line, so that a difference can be read."""
    text = json.dumps(document, indent=1, default=str)
    return text + "\n"


def markdown(document: dict[str, Any], figures: list[dict[str, Any]]) -> str:
    """The table of figures, with machine and versions."""
    where = document["machine"]
    lines = [
        "# Figures",
        "",
        f"{where['cpu']}, {where['cores']} cores, {where['memory_gib']} GiB, {where['system']}; "
        + ", ".join(f"{name} {text}" for name, text in document["versions"].items())
        + f"; PostgreSQL {document['postgres']['server_version']}.",
        "",
        "| figure | value | must | aim | met | runs | worst second | measured |",
        "|---|--:|--:|--:|---|---|--:|---|",
    ]
    lines += [_row(figure) for figure in figures]
    settings = ", ".join(f"{name} = {text}" for name, text in document["postgres"].items())
    return "\n".join([*lines, "", f"PostgreSQL: {settings}.", ""])


def _row(figure: dict[str, Any]) -> str:
    unit = figure["unit"]
    runs = ", ".join(number(run["value"]) for run in figure["runs"])
    worst = [run["worst_second"] for run in figure["runs"] if "worst_second" in run]
    cells = (
        f"{figure['figure']}: {figure['about']}",
        f"{number(figure['value'])} {unit}",
        f"{number(figure['must'])} {unit}",
        f"{number(figure['aim'])} {unit}",
        "aim" if figure["aim_met"] else "must" if figure["met"] else "no",
        runs,
        number(min(worst)) if worst else "",
        f"{figure['measured_at'][:10]}, {figure['commit']}",
    )
    return "| " + " | ".join(cells) + " |"


def number(value: float) -> str:
    """With separators when large, with three digits when small."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def _git(*arguments: str) -> str:
    result = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, check=False, cwd=RESULTS.parent
    )
    return result.stdout.strip()
