"""What limits cost: a backlog in many queues with many keys, drained without limits and with all of
them.

The backlog is submitted before the worker comes, so that what is measured is how fast jobs are
chosen, started and ended, and not how fast they are submitted.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor

from bench.figures import RawRun
from bench.processes import BenchError
from bench.stand import Run, Stand
from bench.throughput import DRAIN_S, FIRST_JOB_S, Options, succeeded, used

QUEUES = 1_000
KEYS = 100
JOBS_EACH = 3
"""Of each key."""

CALLS_AT_ONCE = 8
SUBMIT_S = 120.0
LOOK_S = 0.05
SETTLE_S = 600.0
"""Waiting jobs are not written to the tables meanwhile: that would be measured otherwise."""

WIDE = {
    "max_concurrency": 10_000,
    "max_concurrency_per_key": 1_000,
    "rate": {"per_s": 100_000, "burst": 10_000},
    "rate_per_key": {"per_s": 10_000, "burst": 1_000},
    "fair_keys": True,
}
"""Nothing is held back, but everything is counted."""


def limits(stand: Stand, options: Options) -> dict[str, RawRun]:
    """The rate under limits in per cent of that without, in one run. A first drain, without limits,
    does not count."""
    names = [f"queue-{number}" for number in range(QUEUES)]
    with stand.run() as run, ThreadPoolExecutor(CALLS_AT_ONCE) as calls:
        run.options["TASKFORGE_SETTLE_S"] = str(SETTLE_S)
        run.node()
        list(calls.map(lambda name: run.api.create_queue(name, "none"), names))
        _drained(run, options, names)
        without = _drained(run, options, names)
        list(calls.map(lambda name: run.api.update_queue(name, **WIDE), names))
        under = _drained(run, options, names)
    found: RawRun = {
        "value": round(100 * under["rate"] / without["rate"], 1),
        "jobs": QUEUES * KEYS * JOBS_EACH,
        "without_jobs_per_s": without["rate"],
        "under_limits_jobs_per_s": under["rate"],
        "cpu_us_per_job": without["cpu_us_per_job"],
        "cpu_us_per_job_under_limits": under["cpu_us_per_job"],
    }
    return {"limits_ratio": found}


def _drained(run: Run, options: Options, names: list[str]) -> RawRun:
    """Submit the backlog, let a worker run it: jobs per second from its first one to the last."""
    jobs, before = QUEUES * KEYS * JOBS_EACH, succeeded(run)
    client = run.client(
        "keyed",
        *("--queues", QUEUES, "--keys", KEYS, "--jobs", jobs),
        *("--connections", options.connections),
    )
    if (submitted := json.loads(client.finish(SUBMIT_S))["submitted"]) != jobs:
        raise BenchError(f"{submitted} of {jobs} jobs submitted")
    worker = run.worker(*names, concurrency=options.concurrency)
    run.until(lambda: succeeded(run) > before, "the first job to succeed", FIRST_JOB_S)
    cpu, first, begun_s = run.cpu(), succeeded(run), time.monotonic()
    while (ended := succeeded(run)) < before + jobs:
        worker.check()
        if time.monotonic() - begun_s > DRAIN_S:
            raise BenchError(f"{ended - before:.0f} of {jobs} jobs in {DRAIN_S:g} s")
        time.sleep(LOOK_S)
    took_s = time.monotonic() - begun_s
    spent = used(cpu, run.cpu(), ended - first)
    worker.stop()
    return {"rate": round((ended - first) / took_s), "cpu_us_per_job": spent}
