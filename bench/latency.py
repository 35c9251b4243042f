"""Single calls, one at a time: how long the caller waits, and how soon the handler begins."""

import json
from typing import Any

from bench.figures import RawRun, quantile
from bench.processes import BenchError
from bench.stand import Run, Stand
from bench.throughput import QUEUE, Options

WARM_UP_S = 1.0
SPARE_S = 30.0
EVERY_S = 0.02
ATTACH_S = 20.0


def _latencies(name: str, values_ms: list[float]) -> dict[str, RawRun]:
    common = {
        "calls": len(values_ms),
        "mean_ms": round(sum(values_ms) / len(values_ms), 4),
        "p90_ms": round(quantile(values_ms, 0.9), 4),
        "worst_ms": round(max(values_ms), 3),
    }
    return {
        f"{name}_p50": {"value": round(quantile(values_ms, 0.5), 4)} | common,
        f"{name}_p99": {"value": round(quantile(values_ms, 0.99), 4)} | common,
    }


def _calls(run: Run, options: Options, *more: object) -> dict[str, Any]:
    client = run.client(
        "calls",
        *("--queue", QUEUE, "--warm-up", WARM_UP_S, "--seconds", options.seconds, *more),
    )
    seen: dict[str, Any] = json.loads(client.finish(WARM_UP_S + options.seconds + SPARE_S))
    return seen


def sequential(stand: Stand, options: Options) -> dict[str, RawRun]:
    """One connection, call after call; no worker."""
    with stand.run() as run:
        run.node()
        run.api.create_queue(QUEUE)
        seen = _calls(run, options)
    calls = seen["latencies_ns"][seen["warm_up_calls"] :]
    return _latencies("single_submit", [call / 1e6 for call in calls])


def low_load(stand: Stand, options: Options) -> dict[str, RawRun]:
    """A job every 20 ms, with an idle worker: from the submit call to the handler."""
    with stand.run() as run:
        run.node()
        run.api.create_queue(QUEUE)
        worker = run.worker(QUEUE, options.concurrency)
        await_worker(run)
        seen = _calls(run, options, "--every", EVERY_S)
        calls = len(seen["latencies_ns"])
        run.until(
            lambda: run.api.metrics()["jobs_succeeded_total"] >= calls, "the last job", SPARE_S
        )
        worker.stop()
        starts = run.record()["latencies_ns"]
    if len(starts) != calls:
        raise BenchError(f"{calls} jobs submitted, {len(starts)} run")
    measured = starts[seen["warm_up_calls"] :]
    found = _latencies("submit_to_start", [start / 1e6 for start in measured])
    replies_ms = [reply / 1e6 for reply in seen["latencies_ns"][seen["warm_up_calls"] :]]
    for run_of in found.values():
        run_of["reply_p50_ms"] = round(quantile(replies_ms, 0.5), 4)
        run_of["reply_p99_ms"] = round(quantile(replies_ms, 0.99), 4)
    return found


def await_worker(run: Run) -> None:
    """Return when a worker's stream is open."""
    run.until(lambda: run.api.metrics()["workers_connected"] > 0, "the worker", ATTACH_S)
