"""What limits cost: many queues with many keys, without limits and then with all of them."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

from bench.figures import RawRun
from bench.stand import Run, Stand
from bench.throughput import DRAIN_S, FIRST_JOB_S, WARM_UP_S, Options, succeeded, used

QUEUES = 1_000
KEYS = 100
WINDOW = 20_000
CALLS_AT_ONCE = 8

WIDE = {
    "max_concurrency": 10_000,
    "max_concurrency_per_key": 1_000,
    "rate": {"per_s": 100_000, "burst": 10_000},
    "rate_per_key": {"per_s": 10_000, "burst": 1_000},
    "fair_keys": True,
}
"""Nothing is held back, but everything is counted."""


def limits(stand: Stand, options: Options) -> dict[str, RawRun]:
    """The rate under limits in per cent of that without, in one run."""
    names = [f"queue-{number}" for number in range(QUEUES)]
    with stand.run() as run, ThreadPoolExecutor(CALLS_AT_ONCE) as calls:
        run.node()
        list(calls.map(lambda name: run.api.create_queue(name, "none"), names))
        run.worker(*names, concurrency=options.concurrency)
        client = run.client(
            "keyed",
            *("--queues", QUEUES, "--keys", KEYS, "--connections", options.connections),
            *("--window", WINDOW),
        )
        run.until(lambda: succeeded(run) > 0, "the first job to succeed", FIRST_JOB_S)
        without = _rate(run, options.seconds)
        list(calls.map(lambda name: run.api.update_queue(name, **WIDE), names))
        under = _rate(run, options.seconds)
        client.stop()
        submitted = json.loads(client.finish(DRAIN_S))["submitted"]
        run.until(lambda: succeeded(run) == submitted, "all jobs to succeed", DRAIN_S)
    found: RawRun = {
        "value": round(100 * under["rate"] / without["rate"], 1),
        "without_jobs_per_s": without["rate"],
        "under_limits_jobs_per_s": under["rate"],
        "cpu_us_per_job": without["cpu_us_per_job"],
        "cpu_us_per_job_under_limits": under["cpu_us_per_job"],
    }
    return {"limits_ratio": found}


def _rate(run: Run, seconds: float) -> RawRun:
    time.sleep(WARM_UP_S)
    cpu, jobs, begun_s = run.cpu(), succeeded(run), time.monotonic()
    time.sleep(seconds)
    took_s, jobs = time.monotonic() - begun_s, succeeded(run) - jobs
    return {"rate": round(jobs / took_s), "cpu_us_per_job": used(cpu, run.cpu(), jobs)}
