"""`python -m bench.compare COMMIT`: this tree beside an earlier one, in turns, in one run.

The speed of a machine changes from minute to minute, so two figures say something about each other
only when they were measured side by side. The earlier tree is built in a folder of its own; rounds
alternate between the two, and what counts is the ratio of the medians.
"""

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCENARIOS = ("history_none", "singles", "sequential")
RESULT = re.compile(r"^\w+ run \d+: (\w+) = value ([\d.]+)", re.MULTILINE)
LATENCY = re.compile(r"_p\d+$")


@contextmanager
def built(commit: str) -> Iterator[Path]:
    """The tree of a commit, ready to run."""
    folder = Path(tempfile.mkdtemp(prefix="taskforge-compare-"))
    tree = folder / "tree"
    try:
        _run(["git", "worktree", "add", "--detach", str(tree), commit], ROOT)
        _run(["make", "venv"], tree)
        yield tree
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def measured(tree: Path, only: Sequence[str], seconds: float) -> dict[str, float]:
    """One round of the scenarios in a tree."""
    command = [str(tree / ".venv/bin/python"), "-m", "bench", "--no-store", "--runs", "1"]
    command += ["--seconds", str(seconds)]
    for name in only:
        command += ["--only", name]
    shown = _run(command, tree)
    return {name: float(value) for name, value in RESULT.findall(shown)}


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def row(name: str, before: list[float], now: list[float]) -> str:
    """A figure of both, and how much of the earlier speed is left: above 1 is faster."""
    then_value, value = statistics.median(before), statistics.median(now)
    ratio = then_value / value if LATENCY.search(name) else value / then_value
    runs = ", ".join(f"{one:g} → {other:g}" for one, other in zip(before, now, strict=True))
    return f"| {name} | {then_value:g} | {value:g} | {ratio:.2f} | {runs} |"


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    options.add_argument("commit", help="the earlier tree")
    options.add_argument("--only", action="append", metavar="NAME", help="scenarios; repeatable")
    options.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    options.add_argument("--seconds", type=float, default=6.0, help="of a run")
    given = options.parse_args()
    before: dict[str, list[float]] = defaultdict(list)
    now: dict[str, list[float]] = defaultdict(list)
    with built(given.commit) as tree:
        for number in range(given.rounds):
            # Each goes first in turn.
            sides = [(tree, before), (ROOT, now)]
            for folder, found in sides[:: 1 if number % 2 else -1]:
                for name, value in measured(folder, given.only or SCENARIOS, given.seconds).items():
                    found[name].append(value)
                print(f"round {number + 1} of {given.rounds}: {folder.name}", file=sys.stderr)
    print("| figure | before | now | speed, now to before | runs |\n|---|--:|--:|--:|---|")
    for name in before.keys() & now.keys():
        print(row(name, before[name], now[name]))


if __name__ == "__main__":
    main()
