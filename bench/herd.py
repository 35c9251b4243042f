"""Ten thousand schedules that tick in the same second: how soon their jobs are there, and run."""

import time

from bench.figures import RawRun
from bench.processes import BenchError
from bench.stand import Run, Stand
from bench.throughput import QUEUE, Options

SCHEDULES = 10_000
AHEAD_S = 25
"""Until the tick: the node finds schedules that nobody told it of within ten seconds."""

HERD_S = 60.0
BEFORE_S = 1.0
"""The interface is watched from so long before the tick."""

MAKE = f"""
    WITH tick AS (
        SELECT date_trunc('second', clock_timestamp()) + interval '{AHEAD_S} s' AS at
    ), made AS (
        INSERT INTO cron_schedules (project_id, queue_id, name, cron, timezone, job, payload,
            catch_up, window_s, overlap, jitter_s, decided_at)
        SELECT queue.project_id, queue.id, 'herd ' || n,
            to_char(tick.at AT TIME ZONE 'UTC', 'FMSS FMMI FMHH24 FMDD FMMM') || ' *', 'UTC',
            '{{"job_type": "noop", "priority": 0}}', jsonb_build_object('path', '', 'n', n),
            'latest', 3600, 'skip', 0, clock_timestamp()
        FROM tick, job_queues queue, generate_series(1, {SCHEDULES}) n
        WHERE queue.name = '{QUEUE}'
        RETURNING id
    )
    SELECT tick.at, count(made.id) FROM tick, made GROUP BY tick.at
"""
STARTED = """
    SELECT count(DISTINCT idempotency_key), count(*), min(created_at), max(created_at),
        max(started_at)
    FROM jobs WHERE status = 'succeeded'
"""
DURABLE = "schedule_ticks_total"


def cron_herd(stand: Stand, options: Options) -> dict[str, RawRun]:
    """From the second of the tick until the last job is durable, and until the last one starts.

    Every job is looked for in the table afterwards: there is one for each schedule. The longest
    answer of `/healthz` around the tick is how long the loop was held up."""
    with stand.run() as run:
        run.node()
        run.api.create_queue(QUEUE)
        run.worker(QUEUE, concurrency=options.concurrency)
        tick, made = run.rows(MAKE)[0]
        tick_s = tick.timestamp()
        if made != SCHEDULES:
            raise BenchError(f"{made} schedules of {SCHEDULES}")
        time.sleep(max(0.0, tick_s - BEFORE_S - time.time()))
        durable_s, lag_s = _watched(run)
        run.until(lambda: run.rows(STARTED)[0][1] >= SCHEDULES, "the last job", HERD_S)
        keys, jobs, first, last, started = run.rows(STARTED)[0]
        if (keys, jobs) != (SCHEDULES, SCHEDULES):
            raise BenchError(f"{jobs} jobs of {keys} ticks: {SCHEDULES} schedules ticked once")
    told = {
        "schedules": SCHEDULES,
        "first_submitted_s": round(first.timestamp() - tick_s, 3),
        "last_submitted_s": round(last.timestamp() - tick_s, 3),
        "loop_held_up_ms": round(lag_s * 1000, 1),
    }
    return {
        "cron_herd_durable": {"value": round(durable_s - tick_s, 3)} | told,
        "cron_herd_started": {"value": round(started.timestamp() - tick_s, 3)} | told,
    }


def _watched(run: Run) -> tuple[float, float]:
    """When the last job was durable, to some 20 ms, and the longest answer of the node."""
    begun_s, lag_s, looked_s = time.monotonic(), 0.0, 0.0
    while time.monotonic() - begun_s < HERD_S:
        asked_s = time.monotonic()
        run.api.status("/healthz")
        lag_s = max(lag_s, time.monotonic() - asked_s)
        if asked_s - looked_s > 0.02:
            looked_s = asked_s
            if run.api.metrics().get(DURABLE, 0.0) >= SCHEDULES:
                return time.time(), lag_s
    raise BenchError(f"not all ticks were decided within {HERD_S:g} s")
