"""End to end under full load, and single submits over many connections."""

import json
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from bench.figures import RawRun
from bench.processes import BenchError, Child
from bench.stand import Run, Stand

QUEUE = "bench"
WARM_UP_S = 3.0
SINGLES_WARM_UP_S = 2.0
FIRST_JOB_S = 20.0
DRAIN_S = 60.0
LAG_S_MAX = 2.0
CONNECTIONS = 64
CPU_LOOK_S = 1.0
EVERY_S = 0.02

HEADS_AND_MARKS = """
    SELECT coalesce(bool_and(coalesce(p.lsn, 0) >= h.lsn), true)
    FROM (SELECT shard, max(lsn) AS lsn FROM shard_log GROUP BY shard) h
    JOIN job_queues q ON q.shard = h.shard
    LEFT JOIN shard_projection p ON p.shard = h.shard
"""
COUNTS = """
    SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM jobs WHERE status = 'succeeded'),
        (SELECT count(*) FROM job_executions WHERE status = 'succeeded')
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a scenario is run."""

    seconds: float
    jobs: int
    batch: int
    connections: int
    window: int
    unprojected: int
    concurrency: int
    profile: bool
    history: str = "all"
    """Of the queue, where the scenario does not say."""
    every_s: float = EVERY_S
    """From one job to the next, at low load."""


def end_to_end(stand: Stand, options: Options, history: str) -> RawRun:
    """Jobs per second from the batch submit to the projected tables, the backlog kept small."""
    with stand.run() as run:
        run.node()
        run.api.create_queue(QUEUE, history)
        run.worker(QUEUE, concurrency=options.concurrency)
        client = run.client(
            "batches",
            *("--queue", QUEUE, "--batch", options.batch, "--connections", options.connections),
            *("--window", options.window, "--unprojected", options.unprojected),
        )
        run.until(lambda: succeeded(run) > 0, "the first job to succeed", FIRST_JOB_S)
        time.sleep(WARM_UP_S)
        sustained = sample(run, client, options)
        client.stop()
        settled = settle(run, client, history)
        # What the tables lack 2 s after the last job was not sustained: that time counts too.
        late_s = max(0.0, settled["settle_s"] - LAG_S_MAX)
        jobs = sustained["rate"] * sustained["seconds"]
        value = round(jobs / (sustained["seconds"] + late_s))
        return {"value": value} | sustained | settled


def succeeded(run: Run) -> float:
    return run.api.metrics()["jobs_succeeded_total"]


def sample(run: Run, client: Child, options: Options) -> RawRun:
    """Watch the counters for the measured time; the rate of each second, and of the whole."""
    cpu_before = run.cpu()
    postgres_before = run.postgres_cpu() if options.profile else {}
    marks: list[tuple[float, float]] = []
    lags: list[float] = []
    begun = time.monotonic()
    while True:
        client.check()
        metrics = run.api.metrics()
        now = time.monotonic()
        marks.append((now, metrics["jobs_succeeded_total"]))
        lags.append(metrics["projection_lag_seconds"])
        if now - begun >= options.seconds:
            break
        time.sleep(max(0.0, min(begun + len(marks), begun + options.seconds) - now))
    elapsed_s, jobs = marks[-1][0] - marks[0][0], marks[-1][1] - marks[0][1]
    rates = [(b - a) / (then - now) for (now, a), (then, b) in pairwise(marks)]
    cpu = used(cpu_before, run.cpu(), jobs)
    found: RawRun = {
        "rate": round(jobs / elapsed_s),
        "seconds": round(elapsed_s, 2),
        "worst_second": round(min(rates)),
        "by_second": [round(rate) for rate in rates],
        "projection_lag_max_s": round(max(lags), 3),
        "cpu_us_per_job": cpu,
        "cores_used": round(sum(cpu.values()) * jobs / elapsed_s / 1e6, 2),
    }
    if options.profile:
        found["postgres_us_per_job"] = used(postgres_before, run.postgres_cpu(), jobs)
    return found


def used(before: dict[str, float], after: dict[str, float], jobs: float) -> dict[str, float]:
    """Microseconds of CPU per job, by process; the dearest first."""
    costs = {name: (after[name] - before.get(name, 0.0)) * 1e6 / max(jobs, 1) for name in after}
    ordered = sorted(costs.items(), key=lambda item: -item[1])
    return {name: round(cost, 3) for name, cost in ordered if cost > 0.0005}


def settle(run: Run, client: Child, history: str) -> RawRun:
    """Wait until all is done and in the tables; check that nothing is missing there."""
    totals = json.loads(client.finish(DRAIN_S))
    submitted = totals["submitted"]
    drain_s = run.until(lambda: succeeded(run) >= submitted, "all jobs to succeed", DRAIN_S)
    lag_s = run.until(lambda: run.rows(HEADS_AND_MARKS)[0][0], "the projection", DRAIN_S)
    done = succeeded(run)
    rows = dict(zip(("jobs", "jobs_succeeded", "executions"), run.rows(COUNTS)[0], strict=True))
    kept = submitted if history == "all" else 0
    if done != submitted or set(rows.values()) != {kept}:
        raise BenchError(f"{submitted} submitted, {done:.0f} succeeded, in the tables: {rows}")
    return {
        "submitted": submitted,
        "rows": rows,
        "drain_s": round(drain_s, 3),
        "settle_s": round(lag_s, 3),
        "settled_in_time": lag_s <= LAG_S_MAX,
        "client": totals,
    }


def singles(stand: Stand, options: Options) -> dict[str, RawRun]:
    """Single submits over 64 connections; no worker, so the jobs stay, and settle in the table."""
    with stand.run() as run:
        run.node()
        run.api.create_queue(QUEUE)
        cpu_before = run.cpu()
        client = run.client(
            "singles",
            *("--queue", QUEUE, "--connections", CONNECTIONS),
            *("--warm-up", SINGLES_WARM_UP_S, "--seconds", options.seconds),
        )
        while client.running:
            cpu_after = run.cpu()
            time.sleep(CPU_LOOK_S)
        seen: dict[str, Any] = json.loads(client.finish(DRAIN_S))
        submitted = run.api.metrics()["jobs_submitted_total"]
    if set(seen["statuses"]) != {"201"} or seen["unexpected"] or submitted != seen["requests"]:
        raise BenchError(f"submitted {submitted:.0f}, replies: {seen}")
    seconds = seen["seconds"]
    found: RawRun = {
        "value": round(sum(seconds) / len(seconds)),
        "worst_second": min(seconds),
        "by_second": seconds,
        "p50_ms": round(seen["p50_ms"], 3),
        "p99_ms": round(seen["p99_ms"], 3),
        "requests": seen["requests"],
        "cpu_us_per_job": used(cpu_before, cpu_after, seen["requests"]),
    }
    return {"single_submits_64_connections": found}


def history_all(stand: Stand, options: Options) -> dict[str, RawRun]:
    return {"end_to_end_history_all": end_to_end(stand, options, "all")}


def history_none(stand: Stand, options: Options) -> dict[str, RawRun]:
    return {"end_to_end_history_none": end_to_end(stand, options, "none")}
