"""A thousand jobs through a shard table, from submit to projection: compiled beside plain."""

import importlib
from types import ModuleType
from typing import Any

import pytest

JOBS = 1_000
NOW_US = 1_700_000_000_000_000
PAYLOAD = b'{"path":"/var/lib/python/3.11/asyncio/base_events.py","n":7}'
HISTORY_ALL = 2
QUEUE, PROJECT, WORKER = b"q" * 16, b"p" * 16, b"w" * 16
TOKEN_BYTES = 24
ROUNDS = 50
WARMUP_ROUNDS = 3


@pytest.fixture(params=["taskforge_server.ext.table", "taskforge_server.ext.pure.table"])
def impl(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(request.param)


def make(impl: ModuleType) -> tuple[Any, Any]:
    """A table with a queue and a worker, and a batch of jobs for it."""
    table = impl.ShardTable(1, 1)
    table.queue(QUEUE, PROJECT, "default", 0, HISTORY_ALL)
    table.worker(WORKER)
    batch = impl.SubmitBatch()
    for _ in range(JOBS):
        batch.add("hash-file", PAYLOAD)
    return table, batch


def commit(table: Any) -> None:
    lsn, _, _ = table.take_batch()
    table.committed(lsn)


def start_all(table: Any, job_ids: bytes) -> bytes:
    """The tokens of all jobs: they stand together in the frame, the first job's first."""
    frame, count = table.start(0, None, 0, JOBS, NOW_US)
    assert count == JOBS
    at = frame.index(job_ids[:16])
    tokens: bytes = frame[at : at + TOKEN_BYTES * JOBS]
    return tokens


def test_life_of_jobs(benchmark: Any, impl: ModuleType) -> None:
    """submit, start, commit, succeed, commit, collect, projected."""
    table, batch = make(impl)

    def live() -> None:
        tokens = start_all(table, table.submit(0, batch, NOW_US))
        commit(table)
        table.succeed(tokens, NOW_US)
        commit(table)
        projection = table.collect(JOBS, NOW_US)
        assert projection.jobs_copy_rows == JOBS
        table.projected(projection)

    benchmark.pedantic(live, rounds=ROUNDS, warmup_rounds=WARMUP_ROUNDS)
    assert table.jobs_resident == 0


def test_submit(benchmark: Any, impl: ModuleType) -> None:
    """submit and its log body, to a fresh table each time."""

    def setup() -> tuple[tuple[Any, Any], dict[str, Any]]:
        return make(impl), {}

    def submit(table: Any, batch: Any) -> None:
        table.submit(0, batch, NOW_US)
        commit(table)

    benchmark.pedantic(submit, setup=setup, rounds=ROUNDS, warmup_rounds=WARMUP_ROUNDS)


def test_recover(benchmark: Any, impl: ModuleType) -> None:
    """load all rows, replay a log row that starts them all."""
    table, batch = make(impl)
    job_ids = table.submit(0, batch, NOW_US)
    commit(table)
    rows = b"".join(table.collect(JOBS, NOW_US).jobs_copy)
    start_all(table, job_ids)
    _, _, body = table.take_batch()

    def recover() -> None:
        fresh = impl.ShardTable(1, 1)
        assert fresh.load(rows) == JOBS
        assert fresh.replay(2, body) == JOBS

    benchmark.pedantic(recover, rounds=ROUNDS, warmup_rounds=WARMUP_ROUNDS)
