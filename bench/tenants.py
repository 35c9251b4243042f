"""One tenant beside another: how soon a single job starts while somebody else takes all there is.

The noisy tenant has a backlog that a worker works off as fast as it can, and a client that
submits more to it all the time. A million jobs wait at any time. The quiet one submits a job every
20 ms and has a worker of its own.
"""

import json
import time
from typing import Any

from bench.figures import RawRun, quantile
from bench.latency import SPARE_S, WARM_UP_S, latencies
from bench.paging import FIRST_JOB_S, filled
from bench.processes import BenchError
from bench.stand import Api, Run, Stand
from bench.throughput import QUEUE, Options, succeeded, used

TIMES = 4
"""So many times `--jobs` wait at first: a worker is faster than its client, and `--jobs` must be
left when the last call was made."""

UNPROJECTED = 600_000
"""The client stops beyond this; it rarely does, for a node with 400,000 brings no more jobs."""

COUNTED_S = 60.0

FULL_SPEED_S = 2.0
"""A worker's stock grows to its size within this."""

BY_ITSELF_S = 5.0
"""So long the noisy tenant is watched before the quiet one comes."""


def noisy_tenant(stand: Stand, options: Options) -> dict[str, RawRun]:
    """From the quiet tenant's submit call to its handler, at the noisy one's full speed."""
    with stand.run(filled(stand, "pending", TIMES * options.jobs)) as run:
        key = run.project("quiet")
        run.node()
        run.until(lambda: _counted(run), "the jobs to be counted", COUNTED_S)
        run.api.update_queue(QUEUE, history=options.history)
        Api(run.port, key).create_queue(QUEUE)
        quiet_worker = run.worker(
            QUEUE, concurrency=options.concurrency, name="quiet_worker", key=key
        )
        run.client(
            "batches",
            *("--queue", QUEUE, "--batch", options.batch, "--connections", options.connections),
            *("--window", 2 * TIMES * options.jobs, "--unprojected", UNPROJECTED),
        )
        seen, load = _calls_under_load(run, options, key)
        calls = len(seen["latencies_ns"])
        run.until(lambda: quiet_worker.running and _over(run, key), "the last job", SPARE_S)
        quiet_worker.stop()
        starts = run.record("quiet_worker")["latencies_ns"]
    if len(starts) != calls:
        raise BenchError(f"{calls} jobs submitted, {len(starts)} run")
    found = latencies("noisy_tenant", [ns / 1e6 for ns in starts[seen["warm_up_calls"] :]])
    replies_ms = [ns / 1e6 for ns in seen["latencies_ns"][seen["warm_up_calls"] :]]
    load["reply_p50_ms"] = round(quantile(replies_ms, 0.5), 3)
    load["reply_p99_ms"] = round(quantile(replies_ms, 0.99), 3)
    return {name: figure | load for name, figure in found.items()}


def _calls_under_load(run: Run, options: Options, key: str) -> tuple[dict[str, Any], RawRun]:
    """The quiet tenant's calls, and what the noisy one got done meanwhile."""
    run.worker(QUEUE, concurrency=options.concurrency)
    run.until(lambda: succeeded(run) > 0, "the first job to succeed", FIRST_JOB_S)
    time.sleep(FULL_SPEED_S)
    by_itself, begun_s = succeeded(run), time.monotonic()
    time.sleep(BY_ITSELF_S)
    by_itself = (succeeded(run) - by_itself) / (time.monotonic() - begun_s)
    calls = run.client(
        "calls",
        *("--queue", QUEUE, "--warm-up", WARM_UP_S, "--seconds", options.seconds),
        *("--every", options.every_s),
        name="quiet_client",
        key=key,
    )
    before, cpu_before, wal_before = run.api.metrics(), run.cpu(), _wal_bytes(run)
    begun_s = time.monotonic()
    seen: dict[str, Any] = json.loads(calls.finish(WARM_UP_S + options.seconds + SPARE_S))
    after, cpu_after, took_s = run.api.metrics(), run.cpu(), time.monotonic() - begun_s
    jobs = after["jobs_succeeded_total"] - before["jobs_succeeded_total"]
    if (left := _pending(run)) < options.jobs:
        raise BenchError(f"only {left} jobs are left of the backlog")
    return seen, {
        "noisy_jobs_per_s": round(jobs / took_s),
        "noisy_by_itself_per_s": round(by_itself),
        "noisy_waiting": left,
        "wal_mb_per_s": round((_wal_bytes(run) - wal_before) / took_s / 1e6, 1),
        "unprojected": round(after["jobs_unprojected"]),
        "cpu_us_per_job": used(cpu_before, cpu_after, jobs),
    }


def _wal_bytes(run: Run) -> int:
    return int(run.rows("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')")[0][0])


def _counted(run: Run) -> bool:
    status, _ = run.api.call("GET", f"/v1/queues/{QUEUE}")
    return status == 200


def _pending(run: Run) -> int:
    return _counts(run.api)["pending"]


def _over(run: Run, key: str) -> bool:
    return not any(_counts(Api(run.port, key)).values())


def _counts(api: Api) -> dict[str, int]:
    status, reply = api.call("GET", f"/v1/queues/{QUEUE}")
    if status != 200:
        raise BenchError(f"no queue: {status} {reply.decode()}")
    counts: dict[str, int] = json.loads(reply)["counts"]
    return counts
