"""The jobs of `taskforge demo`: submitted through the SDK, waited for, and compared with what was
expected, job by job, as the API tells it.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

# Loaded by the demo's command alone.
from taskforge import (  # noqa: TID253
    Client,
    Job,
    JobHandle,
    JobSpec,
    NotFound,
    QueueSettings,
    RetryPolicy,
)
from taskforge_server.api.cli import workload

FLAKY_JOBS = 5
ALONE_JOBS = 100
JOB_S = 60.0
LOOK_S = 1.0
POLL_S = 0.1
TABLES_S = 30.0
"""How long the tables may take to follow; a moment is usual."""

QUEUES = {
    workload.HASH_QUEUE: QueueSettings(timeout_s=60.0, history="all"),
    workload.FLAKY_QUEUE: QueueSettings(
        retry_policy=RetryPolicy(
            max_attempts=5, base_delay_s=0.2, max_delay_s=1.0, backoff_multiplier=2.0
        ),
        history="all",
    ),
}


@dataclass
class Report:
    """What became of the jobs of one run."""

    submitted: int
    succeeded: int
    retried: int
    failed: int
    jobs_per_s: float
    start_s: tuple[float, float]
    """From submit to start, p50 and p99, of the jobs that were submitted at once."""
    alone_s: tuple[float, float]
    """From the call of submit to the result in hand, p50 and p99, of those that ran alone."""
    sample: str
    """The id of a job to look at."""
    wrong: list[str]
    """What was not as expected."""


@dataclass
class Run:
    """The jobs of one run by what is expected of them."""

    files: dict[str, str]
    """Path by id; those that ran alone come first."""
    alone_s: list[float]
    """How long those took, from the call of submit to the result."""
    flaky: set[str]
    broken: str

    @property
    def count(self) -> int:
        return len(self.files) + len(self.flaky) + 1


def ensure_queues(client: Client) -> None:
    """Make the queues of the demo, unless an earlier run did."""
    for name, settings in QUEUES.items():
        try:
            client.queues.get(name)
        except NotFound:
            client.queues.create(name, settings=settings)


def run_alone(
    client: Client, paths: list[str], check: Callable[[], None], tell: Callable[[str], None]
) -> tuple[dict[str, str], list[float]]:
    """Some jobs one after the other, on an idle server: their paths by id, and their times."""
    found: dict[str, str] = {}
    took_s: list[float] = []
    for path in paths[: min(ALONE_JOBS, len(paths) // 2)]:
        begun_s = time.perf_counter()
        handle = client.submit(workload.hash_file, path=path)
        result = _result(handle, check)
        took_s.append(time.perf_counter() - begun_s)
        if not found:
            size, digest = result["size"], result["sha256"]
            tell(f"A first job, {handle.id}: {size} bytes, sha256 {digest[:16]}…")
        found[handle.id] = path
    return found, took_s


def _result(handle: JobHandle[workload.FileHash], check: Callable[[], None]) -> workload.FileHash:
    """Wait for the job, but not for one whose worker is gone."""
    until = time.monotonic() + JOB_S
    while True:
        try:
            return handle.wait(LOOK_S)
        except TimeoutError:
            check()
            if time.monotonic() > until:
                raise


def submit(client: Client, alone: dict[str, str], alone_s: list[float], paths: list[str]) -> Run:
    """All jobs that have not run alone; durable when this returns."""
    specs = [workload.hash_file.job(path=path) for path in paths[len(alone) :]]
    others: list[JobSpec[Any]] = [
        *(workload.succeed_later.job(number=number) for number in range(1, FLAKY_JOBS + 1)),
        workload.fail_for_good.job(),
    ]
    ids = []
    for result in client.submit_many([*others, *specs]):
        if isinstance(result, Exception):
            raise result
        ids.append(result.id)
    flaky, broken, hashes = ids[:FLAKY_JOBS], ids[FLAKY_JOBS], ids[FLAKY_JOBS + 1 :]
    files = dict(zip([*alone, *hashes], paths, strict=True))
    return Run(files, alone_s, set(flaky), broken)


def open_jobs(client: Client) -> int:
    """Jobs of the demo's queues that have not ended."""
    counts = [client.queues.get(name).counts for name in QUEUES]
    return sum(one.pending + one.scheduled + one.processing for one in counts)


def wait_ended(client: Client, check: Callable[[], None], progress: Callable[[int], None]) -> None:
    """Return when no job is open; `check` may raise, `progress` hears how many still are."""
    while left := open_jobs(client):
        check()
        progress(left)
        time.sleep(POLL_S)
    progress(0)


def report(client: Client, run: Run) -> Report:
    """Read every job of the run back, and compare."""
    jobs = _read_back(client, run)
    ids = list(run.files)[len(run.alone_s) :]
    together = [jobs[job_id] for job_id in ids if job_id in jobs]
    waits_s = [_seconds(job.started_at) - _seconds(job.created_at) for job in together]
    begun_s = min((_seconds(job.created_at) for job in together), default=0.0)
    ended_s = max((_seconds(job.finished_at) for job in together), default=0.0)
    return Report(
        submitted=run.count,
        succeeded=sum(job.status == "succeeded" for job in jobs.values()),
        retried=sum(job.attempts > 1 for job in jobs.values()),
        failed=sum(job.status == "failed" for job in jobs.values()),
        jobs_per_s=len(together) / (ended_s - begun_s) if together else 0.0,
        start_s=_percentiles(waits_s),
        # The very first waited for the worker's own start.
        alone_s=_percentiles(run.alone_s[1:]),
        sample=next(iter(run.files)),
        wrong=differences(run, jobs),
    )


def _percentiles(times_s: list[float]) -> tuple[float, float]:
    """p50 and p99; zeros of nothing."""
    if not times_s:
        return 0.0, 0.0
    cuts_s = statistics.quantiles([*times_s, max(times_s)], n=100, method="inclusive")
    return cuts_s[49], cuts_s[98]


def _seconds(at: datetime | None) -> float:
    return 0.0 if at is None else at.timestamp()


def _read_back(client: Client, run: Run) -> dict[str, Job]:
    """The run's jobs by id, from the tables, which follow by a moment."""
    wanted = {*run.files, *run.flaky, run.broken}
    until = time.monotonic() + TABLES_S
    while True:
        found: dict[str, Job] = {}
        for queue in QUEUES:
            mine = wanted & (
                {*run.files} if queue == workload.HASH_QUEUE else {*run.flaky, run.broken}
            )
            oldest = min(mine)
            for job in client.list(queue=queue):
                if job.id < oldest:
                    break
                if job.id in mine and job.finished:
                    found[job.id] = job
        if len(found) == len(wanted) or time.monotonic() > until:
            return found
        time.sleep(POLL_S)


def differences(run: Run, jobs: dict[str, Job]) -> list[str]:
    """Every job that is not as expected, in words; few of them are enough to see."""
    wrong = []
    for job_id, path in run.files.items():
        job = jobs.get(job_id)
        if job is None or job.status != "succeeded":
            wrong.append(f"{job_id} ({path}): {job.status if job else 'not in the tables'}")
        elif job.result != workload.hash_file(path=path):
            wrong.append(f"{job_id} ({path}): a wrong hash")
    for job_id in sorted(run.flaky):
        job = jobs.get(job_id)
        expected = workload.FAILURES + 1
        if job is None or job.status != "succeeded" or job.attempts != expected:
            wrong.append(f"{job_id}: did not succeed in attempt {expected}")
    job = jobs.get(run.broken)
    if job is None or job.status != "failed" or job.failed_reason != "not_retryable":
        wrong.append(f"{run.broken}: did not fail for good")
    return wrong
