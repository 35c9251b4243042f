"""Single calls, one at a time: how long the caller waits, and how soon the handler begins."""

import asyncio
import json
import time
from dataclasses import replace
from typing import Any

import asyncpg

from bench.figures import RawRun, quantile
from bench.load.bare_way import FREE_SHARD, ROW_BYTES
from bench.processes import BenchError
from bench.stand import Run, Stand
from bench.throughput import QUEUE, Options
from taskforge_server.engine.journal.statements import sql

WARM_UP_S = 1.0
SPARE_S = 30.0
ATTACH_S = 20.0


def latencies(name: str, values_ms: list[float]) -> dict[str, RawRun]:
    """The figures of a median and of the slowest hundredth."""
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
    return latencies("single_submit", [call / 1e6 for call in calls])


def low_load(stand: Stand, options: Options) -> dict[str, RawRun]:
    """A job every 20 ms, or as told, with an idle worker: from the submit call to the handler."""
    with stand.run() as run:
        run.node()
        run.api.create_queue(QUEUE)
        worker = run.worker(QUEUE, concurrency=options.concurrency)
        await_worker(run)
        seen = _calls(run, options, "--every", options.every_s)
        calls = len(seen["latencies_ns"])
        run.until(
            lambda: run.api.metrics()["jobs_succeeded_total"] >= calls, "the last job", SPARE_S
        )
        worker.stop()
        starts = run.record()["latencies_ns"]
        floor_ms = asyncio.run(_bare_commits(run.url, options))
    way_ms = _bare_way(stand, replace(options, seconds=options.seconds / 4))
    if len(starts) != calls:
        raise BenchError(f"{calls} jobs submitted, {len(starts)} run")
    measured = starts[seen["warm_up_calls"] :]
    found = latencies("submit_to_start", [start / 1e6 for start in measured])
    replies_ms = [reply / 1e6 for reply in seen["latencies_ns"][seen["warm_up_calls"] :]]
    for run_of in found.values():
        run_of["reply_p50_ms"] = round(quantile(replies_ms, 0.5), 4)
        run_of["reply_p99_ms"] = round(quantile(replies_ms, 0.99), 4)
        run_of["bare_commit_p50_ms"] = round(quantile(floor_ms, 0.5), 4)
        run_of["bare_commit_p99_ms"] = round(quantile(floor_ms, 0.99), 4)
        run_of["bare_way_p50_ms"] = round(quantile(way_ms, 0.5), 4)
        run_of["bare_way_p99_ms"] = round(quantile(way_ms, 0.99), 4)
    return found


def _bare_way(stand: Stand, options: Options) -> list[float]:
    """How long a frame takes to the sink at the same pace, from the call of the same client over a
    commit, with nothing else on its way (`load/bare_way.py`); in milliseconds."""
    with stand.run() as run:
        relay, sink = run.bare_way()
        seen = _calls(run, options, "--every", options.every_s)
        relay.stop()
        found = json.loads(sink.finish(SPARE_S).splitlines()[-1])["latencies_ns"]
    if len(found) != len(seen["latencies_ns"]):
        raise BenchError(f"{len(seen['latencies_ns'])} calls, {len(found)} came to the sink")
    return [latency / 1e6 for latency in found[seen["warm_up_calls"] :]]


async def _bare_commits(url: str, options: Options) -> list[float]:
    """What one row of the log costs at the same pace with nothing around it: the floor on this
    machine, in milliseconds. The shard is one that no node has."""
    connection = await asyncpg.connect(url)
    try:
        append = await connection.prepare(sql("log_append_one"))
        took_ms: list[float] = []
        for lsn in range(1, round(options.seconds / 4 / options.every_s) + 1):
            await asyncio.sleep(options.every_s)
            begun = time.perf_counter()
            await append.fetch(FREE_SHARD, lsn, 1, 2, bytes(ROW_BYTES))
            took_ms.append((time.perf_counter() - begun) * 1e3)
        return took_ms
    finally:
        await connection.close()


def await_worker(run: Run) -> None:
    """Return when a worker's stream is open."""
    run.until(lambda: run.api.metrics()["workers_connected"] > 0, "the worker", ATTACH_S)
