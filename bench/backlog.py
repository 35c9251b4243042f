"""A million pending jobs: what they take in memory, and how soon a node that starts has them."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.figures import RawRun
from bench.load.bodies import PAYLOAD_BYTES
from bench.processes import BenchError, rss_bytes
from bench.stand import TEMPLATE, Run, Stand, rows
from bench.throughput import HEADS_AND_MARKS, QUEUE, Options

PENDING_TEMPLATE = "bench_pending"
SUBMIT_S = 120.0
SETTLE_S = 120.0
QUIET_S = 3.0
"""The sweep measures memory, and the log is trimmed, a moment after the last row."""

PENDING = "SELECT count(*) FROM jobs WHERE status = 'pending'"
PENDING_KNOWN = "SELECT 1 FROM pg_database WHERE datname = $1"
OWNED_AT = """
    SELECT min(written_at) FROM shard_log WHERE epoch = (SELECT max(epoch) FROM shard_log)
"""


@contextmanager
def pending(stand: Stand, options: Options) -> Iterator[tuple[Run, RawRun]]:
    """A node with so many pending jobs, all in the table; what it took in memory."""
    with stand.run() as run:
        # What a job takes in memory is to be measured, so all of them stay there.
        run.options["TASKFORGE_RESIDENT_JOBS_MAX"] = str(options.jobs)
        node = run.node()
        run.api.create_queue(QUEUE)
        time.sleep(QUIET_S)
        before = rss_bytes(node.pid)
        client = run.client(
            "batches",
            *("--queue", QUEUE, "--job-type", "first", "--jobs", options.jobs),
            *("--batch", options.batch, "--connections", 2),
        )
        jobs = json.loads(client.finish(SUBMIT_S))["submitted"]
        # Open jobs go to the table once they are settle_s old; the heads do not move meanwhile.
        run.until(lambda: run.rows(HEADS_AND_MARKS)[0][0], "the projection", SETTLE_S)
        time.sleep(QUIET_S)
        after = rss_bytes(node.pid)
        metrics = run.api.metrics()
        stored = run.rows(PENDING)[0][0]
        if stored != jobs or metrics["jobs_resident"] != jobs:
            resident = metrics["jobs_resident"]
            raise BenchError(f"{jobs} submitted, {stored} in the table, {resident:.0f} in memory")
        yield (
            run,
            {
                "value": round((after - before) / jobs - PAYLOAD_BYTES, 1),
                "jobs": jobs,
                "payload_bytes": PAYLOAD_BYTES,
                "rss_before_bytes": before,
                "rss_after_bytes": after,
                "tracked_bytes_per_job": round(metrics["jobs_resident_bytes"] / jobs, 1),
            },
        )


def memory(stand: Stand, options: Options) -> dict[str, RawRun]:
    """Resident memory of the node, by a million pending jobs, without their payloads."""
    with pending(stand, options) as (_, measured):
        return {"memory_per_pending_job": measured}


def prepare_pending(stand: Stand, options: Options) -> None:
    """Make the template with the pending jobs, unless it is there."""
    if rows(stand.url(TEMPLATE), PENDING_KNOWN, PENDING_TEMPLATE):
        return
    with pending(stand, options) as (run, _):
        run.parts["node"].stop()
        stand.copy(run.database, PENDING_TEMPLATE)


def start(stand: Stand, options: Options) -> dict[str, RawRun]:
    """A node starts where a million jobs wait; a worker connects as soon as the port answers.

    Both figures count from the node's `owned` events, with which it takes the shards over, and
    stand beside the same from the start of the process. PostgreSQL runs all the time.
    """
    prepare_pending(stand, options)
    with stand.run(PENDING_TEMPLATE) as run:
        worker = run.prompt_worker(QUEUE)
        begun_s = time.time()
        run.node(wait=False)
        run.await_ready()
        ready_s = time.time()
        run.until(lambda: run.api.metrics()["jobs_started_total"] > 0, "the first job", SETTLE_S)
        owned_s = run.rows(OWNED_AT)[0][0].timestamp()
        worker.stop()
        first_s = run.record()["first_ns"][0] / 1e9 + time.time() - time.monotonic()
    return {
        "start_first_dispatch": _since(first_s, owned_s, begun_s) | {"jobs": options.jobs},
        "start_ready": _since(ready_s, owned_s, begun_s) | {"jobs": options.jobs},
    }


def _since(then_s: float, owned_s: float, begun_s: float) -> RawRun:
    return {
        "value": round(then_s - owned_s, 3),
        "from_process_start_s": round(then_s - begun_s, 3),
        "process_start_to_takeover_s": round(owned_s - begun_s, 3),
    }
