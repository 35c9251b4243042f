"""Backlogs far greater than memory: what a node takes, how fast it works, how soon it is there.

The jobs are written straight into `jobs`, as a projector would have left them, for submitting ten
million through the API would take longer than what is to be measured.
"""

import time

from bench.figures import RawRun
from bench.processes import BenchError, Child, rss_bytes
from bench.stand import TEMPLATE, Run, Stand, rows
from bench.throughput import QUEUE, Options, end_to_end, sample, succeeded

TIMES = 10
"""So many times `--jobs` wait: ten million, unless told otherwise."""

FIRST_JOB_S = 60.0
WARM_UP_S = 3.0
FULL_S = 15.0
"""A backlog is worked off faster at first, until enough jobs that ended wait for the tables."""

IDLE_S = 3.0
KNOWN = "SELECT 1 FROM pg_database WHERE datname = $1"
QUEUE_ROW = "SELECT id, project_id, shard FROM job_queues WHERE name = $1"
FILL = """
    INSERT INTO jobs (id, queue_id, project_id, job_type, payload, status, priority, scheduled_for,
        created_at, updated_at, shard, lsn)
    SELECT
        (lpad(to_hex($4::bigint + n / 1000), 12, '0') || '7' || lpad(to_hex($3::integer), 3, '0')
            || to_hex((-9223372036854775808) | ((n % 1000) << 42)))::uuid,
        $1, $2, 'noop', '{"path": "mail/outgoing/2026/11/23/message.eml", "n": 1}', $6::varchar,
        0, CASE $6 WHEN 'scheduled' THEN now() + interval '30 days' END, now(), now(), $3, 1
    FROM generate_series(0, $5::bigint - 1) AS n
"""
ORDER = """
    SELECT (SELECT count(*) FROM jobs WHERE status = 'succeeded'),
        (SELECT count(*) FROM jobs WHERE status = 'succeeded'
            AND id > (SELECT id FROM jobs WHERE status = 'pending' ORDER BY id LIMIT 1))
"""


def backlog_10m(stand: Stand, options: Options) -> dict[str, RawRun]:
    """Ten million jobs wait in one queue, and a worker runs them; beside the same node with an
    empty backlog, to which a client submits what it runs."""
    empty = end_to_end(stand, options, "all")["rate"]
    jobs = options.jobs * TIMES
    with stand.run(filled(stand, "pending", jobs)) as run:
        node = run.node()
        run.worker(QUEUE, concurrency=options.concurrency)
        run.until(lambda: succeeded(run) > 0, "the first job to succeed", FIRST_JOB_S)
        time.sleep(FULL_S)
        found = sample(run, node, options)
        taken = rss_bytes(node.pid)
        peak = peak_rss_bytes(node)
        in_order(run, options)
    shared = {"jobs": jobs, "empty_rate": empty} | found
    return {
        "backlog_10m_memory": {"value": round(peak / 1e9, 3), "rss_bytes": taken, "jobs": jobs},
        "backlog_10m_share": {"value": round(100 * found["rate"] / empty, 1)} | shared,
    }


def scheduled_10m(stand: Stand, options: Options) -> dict[str, RawRun]:
    """Ten million jobs are due next month: what a node takes that starts beside them, and how fast
    others run."""
    empty = end_to_end(stand, options, "all")["rate"]
    jobs = options.jobs * TIMES
    with stand.run(filled(stand, "scheduled", jobs)) as run:
        begun_s = time.monotonic()
        node = run.node()
        start_s = time.monotonic() - begun_s
        time.sleep(IDLE_S)
        idle = rss_bytes(node.pid)
        run.worker(QUEUE, concurrency=options.concurrency)
        client = run.client(
            "batches",
            *("--queue", QUEUE, "--batch", options.batch, "--connections", options.connections),
            *("--window", options.window + jobs, "--unprojected", options.unprojected),
        )
        run.until(lambda: succeeded(run) > 0, "the first job to succeed", FIRST_JOB_S)
        time.sleep(WARM_UP_S)
        found = sample(run, client, options)
    measured = {"jobs": jobs, "idle_rss_bytes": idle, "start_s": round(start_s, 3)}
    measured |= {"empty_rate": empty} | found
    return {"scheduled_10m_share": {"value": round(100 * found["rate"] / empty, 1)} | measured}


def filled(stand: Stand, status: str, jobs: int) -> str:
    """The template with so many jobs in one queue; made once."""
    name = f"bench_{status}_{jobs}"
    if rows(stand.url(TEMPLATE), KNOWN, name):
        return name
    with stand.run() as run:
        node = run.node()
        run.api.create_queue(QUEUE)
        node.stop()
        queue_id, project_id, shard = run.rows(QUEUE_ROW, QUEUE)[0]
        first_ms = round(time.time() * 1000) - jobs // 1000 - 1000
        begun_s = time.monotonic()
        ids = queue_id.bytes, project_id.bytes
        run.fill(FILL, *ids, shard, first_ms, jobs, status)
        print(f"{jobs} {status} jobs written in {time.monotonic() - begun_s:.0f} s", flush=True)
        stand.copy(run.database, name)
    return name


def peak_rss_bytes(node: Child) -> int:
    """The most that the process took at any time."""
    with open(f"/proc/{node.pid}/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    raise BenchError("the system does not say what a process took at most")


def in_order(run: Run, options: Options) -> None:
    """Jobs ran as they were submitted, but for those that were under way together."""
    ended, early = run.rows(ORDER)[0]
    if not ended or early > options.concurrency * 1_000:
        raise BenchError(f"{early} of {ended} jobs ended before an earlier one began")
