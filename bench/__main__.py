"""`python -m bench`: measure the promised figures, print them, store them.

Without options all figures with at least three runs each, which takes a quarter of an hour. With
`--only` the scenarios whose names begin so; short runs (`--seconds`, `--runs`) are printed and not
stored, unless `--store` is given.
"""

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from bench import backlog, herd, keyed, latency, paging, report, tenants, throughput
from bench.figures import TARGETS, Measured, RawRun
from bench.processes import BenchError
from bench.stand import Stand
from bench.throughput import EVERY_S, Options

RUNS = 3
JOBS = 1_000_000
WARM_UP_SHARE = 1.5
"""Of the time of a run. A checkpoint makes the files of the log ready to be used again, no more of
them than were used before; a run that needs new ones pays for blocks with each commit."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One way of measuring; gives one run of one or two figures."""

    measure: Callable[[Stand, Options], dict[str, RawRun]]
    figures: tuple[str, ...]
    seconds: float
    warm_up: bool = False
    """One more run goes before, and does not count: in a virtual machine the first touch of memory
    and of the log's files costs what later runs, and a server that has been up, do not pay."""


SCENARIOS = {
    "history_all": Scenario(throughput.history_all, ("end_to_end_history_all",), 30.0, True),
    "history_none": Scenario(throughput.history_none, ("end_to_end_history_none",), 30.0),
    "singles": Scenario(throughput.singles, ("single_submits_64_connections",), 30.0),
    "sequential": Scenario(latency.sequential, ("single_submit_p50", "single_submit_p99"), 10.0),
    "low_load": Scenario(latency.low_load, ("submit_to_start_p50", "submit_to_start_p99"), 20.0),
    "memory": Scenario(backlog.memory, ("memory_per_pending_job",), 0.0),
    "cron_herd": Scenario(herd.cron_herd, ("cron_herd_durable", "cron_herd_started"), 0.0),
    "limits": Scenario(keyed.limits, ("limits_ratio",), 0.0),
    "start": Scenario(backlog.start, ("start_first_dispatch", "start_ready"), 0.0),
    "backlog_10m": Scenario(paging.backlog_10m, ("backlog_10m_memory", "backlog_10m_share"), 30.0),
    "scheduled_10m": Scenario(paging.scheduled_10m, ("scheduled_10m_share",), 20.0),
    "noisy_tenant": Scenario(
        tenants.noisy_tenant, ("noisy_tenant_p50", "noisy_tenant_p99"), 20.0, True
    ),
}


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m bench", description="Measure what the project promises."
    )
    options.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help="scenarios whose names begin so; repeatable. There are " + ", ".join(SCENARIOS),
    )
    options.add_argument("--seconds", type=float, help="of one run (default: as promised)")
    options.add_argument("--runs", type=int, default=RUNS, help="(default: %(default)s)")
    options.add_argument("--jobs", type=int, default=JOBS, help="pending (default: %(default)s)")
    options.add_argument("--batch", type=int, default=2_000, help="jobs of a batch submit")
    options.add_argument("--connections", type=int, default=4, help="of the batch client")
    options.add_argument("--window", type=int, default=32_000, help="unfinished jobs at most")
    options.add_argument("--unprojected", type=int, default=150_000, help="at most, not in tables")
    options.add_argument("--concurrency", type=int, default=100, help="of the worker")
    options.add_argument(
        "--history", choices=("all", "failed", "none"), default="all", help="of the noisy tenant"
    )
    options.add_argument(
        "--every", type=float, default=EVERY_S, help="seconds between two jobs at low load"
    )
    options.add_argument("--profile", action="store_true", help="show CPU time by process and job")
    options.add_argument("--no-warm-up", action="store_true", help="every run counts")
    options.add_argument("--store", action="store_true", help="store what short runs found")
    options.add_argument("--no-store", action="store_true", help="store nothing")
    options.add_argument(
        "--postgres",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of PostgreSQL, to try it out; repeatable",
    )
    options.add_argument(
        "--node-command", type=shlex.split, help="instead of `taskforge serve`, to profile it"
    )
    options.add_argument(
        "--data-dir", type=Path, help="for the databases (default: a temporary one)"
    )
    return options


def chosen(only: Sequence[str] | None) -> dict[str, Scenario]:
    """The scenarios to run."""
    if not only:
        return SCENARIOS
    found = {
        name: scenario
        for name, scenario in SCENARIOS.items()
        if any(name.startswith(start) for start in only)
    }
    if not found:
        raise BenchError(f"no scenario begins with {' or '.join(only)}: {', '.join(SCENARIOS)}")
    return found


def measure(
    stand: Stand, scenarios: dict[str, Scenario], given: argparse.Namespace
) -> list[Measured]:
    """All runs of all scenarios, one after another."""
    found: list[Measured] = []
    commit = report.commit()
    for name, scenario in scenarios.items():
        options = Options(
            seconds=given.seconds or scenario.seconds,
            jobs=given.jobs,
            batch=given.batch,
            connections=given.connections,
            window=given.window,
            unprojected=given.unprojected,
            concurrency=given.concurrency,
            profile=given.profile,
            history=given.history,
            every_s=given.every,
        )
        figures = {
            figure: Measured(TARGETS[figure], commit=commit, measured_at=report.now())
            for figure in scenario.figures
        }
        if scenario.warm_up and not given.no_warm_up:
            longer = replace(options, seconds=options.seconds * WARM_UP_SHARE)
            for figure, run in scenario.measure(stand, longer).items():
                print(f"{name} warm-up: {figure} = {_shown(run, given.profile)}", flush=True)
        for number in range(1, given.runs + 1):
            for figure, run in scenario.measure(stand, options).items():
                figures[figure].runs.append(run)
                print(f"{name} run {number}: {figure} = {_shown(run, given.profile)}", flush=True)
        found += figures.values()
    return found


def _shown(run: RawRun, profile: bool) -> str:
    """A run in a line, or with everything."""
    if profile:
        return json.dumps(run, indent=1)
    plain = {name: value for name, value in run.items() if not isinstance(value, list | dict)}
    return ", ".join(f"{name} {value}" for name, value in plain.items())


def described(stand: Stand, given: argparse.Namespace) -> dict[str, Any]:
    """What stands above the figures."""
    return {
        "date": report.now(),
        "commit": report.commit(),
        "machine": report.machine(),
        "versions": report.versions(),
        "postgres": stand.settings(),
        "options": {name: value for name, value in vars(given).items() if value is not None},
    }


def _ends(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    given = parser().parse_args()
    signal.signal(signal.SIGTERM, _ends)
    try:
        scenarios = chosen(given.only)
        settings = dict(setting.split("=", 1) for setting in given.postgres)
        with Stand(given.data_dir, given.node_command, settings) as stand:
            document = described(stand, given)
            print(json.dumps(document["postgres"]), flush=True)
            figures = measure(stand, scenarios, given)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: ended; nothing is stored", file=sys.stderr)
        return 130
    print(report.markdown(document, [figure.as_object() for figure in figures]))
    whole = (
        given.runs >= RUNS
        and given.seconds is None
        and given.jobs == JOBS
        and given.every == EVERY_S
        and not (given.postgres or given.node_command)
    )
    if given.store or (whole and not given.no_store):
        for path in report.store(document, figures):
            print(f"stored {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
