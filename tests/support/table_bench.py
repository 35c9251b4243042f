"""A shard table with one queue and one worker, and shorthands for what its tests do with it."""

from types import ModuleType
from typing import Any

import msgpack

from taskforge_server.ext.pure.tablerows import EXECUTION_COLUMNS, JOB_COLUMNS
from tests.support.table_pair import read_rows

SHARD = 5
NOW_US = 1_700_000_000_000_000
FOREVER_US = 2**62
QUEUE, PROJECT, WORKER = b"q" * 16, b"p" * 16, b"w" * 16
OTHER_WORKER = b"v" * 16
ERROR = b'{"type":"ValueError","message":"no"}'
HISTORY_NONE, HISTORY_FAILED, HISTORY_ALL = 0, 1, 2


class Bench:
    """Queue 0 and worker 0 are defined; `history` and `timeout_ms` are those of the queue."""

    def __init__(self, impl: ModuleType, history: int = HISTORY_ALL, timeout_ms: int = 0) -> None:
        self.impl = impl
        self.table = impl.ShardTable(SHARD, 1)
        self.define(history, timeout_ms)
        assert self.table.worker(WORKER) == 0

    def define(self, history: int = HISTORY_ALL, timeout_ms: int = 0) -> None:
        assert self.table.queue(QUEUE, PROJECT, "default", timeout_ms, history) == 0

    def submit(self, *jobs: dict[str, Any], now_us: int = NOW_US, queue: int = 0) -> list[bytes]:
        batch = self.impl.SubmitBatch()
        for job in jobs or ({},):
            batch.add(**({"job_type": "mail", "payload": b'{"to":1}'} | job))
        job_ids = self.table.submit(queue, batch, now_us)
        return [job_ids[at : at + 16] for at in range(0, len(job_ids), 16)]

    def start(
        self, most: int = 100, types: frozenset[str] | None = None, now_us: int = NOW_US
    ) -> list[bytes]:
        """The tokens of what was started."""
        frame, count = self.table.start(0, types, 0, most, now_us)
        if not count:
            assert frame == b""
            return []
        tokens = msgpack.unpackb(frame, strict_map_key=False)[4]
        assert len(tokens) == 24 * count
        return [tokens[at : at + 24] for at in range(0, len(tokens), 24)]

    def running(self) -> bytes:
        """The token of one job, submitted and started."""
        self.submit()
        (token,) = self.start()
        return token

    def commit(self) -> bytes:
        """The body of what was gathered, durable now."""
        taken: tuple[int, int, bytes] = self.table.take_batch()
        lsn, _, body = taken
        self.table.committed(lsn)
        return body

    def collect(self, settled_us: int = FOREVER_US, rows_max: int = 1000) -> Any:
        return self.table.collect(rows_max, settled_us)

    def project(self, settled_us: int = FOREVER_US) -> Any:
        """Commit, collect and confirm."""
        self.commit()
        projection = self.collect(settled_us)
        self.table.projected(projection)
        return projection

    def job(self, job_id: bytes) -> dict[str, Any]:
        job: dict[str, Any] | None = self.table.get(job_id[:16])
        assert job is not None
        return job


def jobs_of(p: Any) -> list[dict[str, Any]]:
    return read_rows(JOB_COLUMNS, *p.jobs_copy, *p.jobs_merge)


def executions_of(p: Any) -> list[dict[str, Any]]:
    return read_rows(EXECUTION_COLUMNS, *p.executions_copy, *p.executions_merge)
