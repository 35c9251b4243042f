"""The demo says what was not as expected: its exit status depends on it."""

from pathlib import Path

import msgspec
import pytest

from taskforge import Job
from taskforge_server.api.cli import demo_jobs, workload

HASH, FLAKY, BROKEN = "hash", "flaky", "broken"


@pytest.fixture
def run(tmp_path: Path) -> demo_jobs.Run:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    return demo_jobs.Run({HASH: str(path)}, [0.1], {FLAKY}, BROKEN)


def jobs_of(run: demo_jobs.Run) -> dict[str, Job]:
    """As they should be."""
    result = workload.hash_file(path=run.files[HASH])
    return {
        HASH: _job(HASH, status="succeeded", attempts=1, result=result),
        FLAKY: _job(FLAKY, status="succeeded", attempts=workload.FAILURES + 1),
        BROKEN: _job(BROKEN, status="failed", attempts=1, failed_reason="not_retryable"),
    }


def _job(job_id: str, **fields: object) -> Job:
    return msgspec.convert({"id": job_id, "queue": "demo", "job_type": "any"} | fields, Job)


def test_nothing_is_wrong(run: demo_jobs.Run) -> None:
    assert demo_jobs.differences(run, jobs_of(run)) == []


@pytest.mark.parametrize(
    ("job_id", "change"),
    [
        (HASH, {"status": "failed"}),
        (HASH, {"result": {"size": 7, "sha256": "0"}}),
        (FLAKY, {"attempts": 1}),
        (FLAKY, {"status": "failed"}),
        (BROKEN, {"status": "succeeded"}),
        (BROKEN, {"failed_reason": "attempts_exhausted"}),
    ],
)
def test_each_job_that_differs_is_named(
    run: demo_jobs.Run, job_id: str, change: dict[str, object]
) -> None:
    jobs = jobs_of(run)
    jobs[job_id] = msgspec.structs.replace(jobs[job_id], **change)
    (said,) = demo_jobs.differences(run, jobs)
    assert said.startswith(job_id)


@pytest.mark.parametrize("job_id", [HASH, FLAKY, BROKEN])
def test_a_job_that_is_not_there_is_named(run: demo_jobs.Run, job_id: str) -> None:
    jobs = jobs_of(run)
    del jobs[job_id]
    (said,) = demo_jobs.differences(run, jobs)
    assert said.startswith(job_id)
