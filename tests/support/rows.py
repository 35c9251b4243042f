"""Rows of `jobs` and `job_executions` for tests, written as the projector writes them: by COPY."""

import io
import struct
from collections.abc import Iterable, Sequence
from typing import Any

from taskforge_server.engine.store.pool import Connection
from taskforge_server.ext.pure.ids import IdSource, execution_id
from taskforge_server.ext.pure.tablerows import (
    EXECUTION_COLUMNS,
    JOB_COLUMNS,
    SIGNATURE,
    encode_row,
    plain,
)

HEADER = SIGNATURE + struct.pack(">ii", 0, 0)
TRAILER = struct.pack(">h", -1)


class Rows:
    """Makes jobs of one shard, each a second after the one before."""

    def __init__(self, shard: int, queue_id: bytes, project_id: bytes, start_us: int) -> None:
        self.shard = shard
        self.queue_id = queue_id
        self.project_id = project_id
        self.now_us = start_us
        self.step_us = 1_000_000
        self._ids = IdSource(shard, seed=shard)

    def job(self, **columns: Any) -> dict[str, Any]:
        """The columns of a pending job, or of what is given."""
        self.now_us += self.step_us
        over = columns.get("status") == "succeeded"
        failed = columns.get("status") == "failed"
        ended = columns.get("status") in ("succeeded", "failed", "cancelled")
        return {
            "id": self._ids.next(self.now_us),
            "queue_id": self.queue_id,
            "project_id": self.project_id,
            "job_type": "email",
            "payload": b'{"n":1}',
            "status": "pending",
            "priority": 0,
            "created_at": self.now_us,
            "updated_at": self.now_us,
            "started_at": self.now_us if over else None,
            "finished_at": self.now_us if ended else None,
            "shard": self.shard,
            "lsn": 1,
            "attempts": 1 if over else 0,
            "crashes": 0,
            "failed_reason": "attempts_exhausted" if failed else None,
            "returns": None,
            "max_attempts": 0,
        } | columns

    def execution(self, job: dict[str, Any], number: int, **columns: Any) -> dict[str, Any]:
        """The columns of a succeeded attempt, or of what is given. The last of a job that is over
        began when its row says."""
        last = number == job["attempts"]
        started_us = (last and job["started_at"]) or self.now_us
        return {
            "id": execution_id(job["id"], number, started_us),
            "job_id": job["id"],
            "status": "succeeded",
            "attempt_number": number,
            "started_at": started_us,
            "finished_at": started_us + 1,
            "created_at": started_us,
            "shard": self.shard,
            "lsn": 1,
        } | columns


PENDING_MORE: dict[str, Any] = {
    "priority": 7,
    "scheduled_for": 1_800_000_000_000_001,
    "updated_at": 1_800_000_000_000_002,
    "started_at": 1_800_000_000_000_003,
    "attempts": 5,
    "crashes": 3,
    "max_attempts": 1_000,
    "timeout_s": 1.5,
    "last_error": b'{"type": "E"}',
    "idempotency_key": "i",
    "unique_key": "\u00fc",
    "group_key": "g",
    "tags": ["a", ""],
    "waiting_on": 2,
    "returns": 4,
    "options": b'{"a": 1}',
    "keep": False,
}
"""All that the row of a pending job may have beside what each has."""


def pending_each(rows: Rows) -> list[dict[str, Any]]:
    """Pending jobs: one with nothing more, one for each column that has it alone, one with all."""
    told = [{}, *({name: value} for name, value in PENDING_MORE.items()), PENDING_MORE]
    nothing = dict.fromkeys(column.name for column in JOB_COLUMNS)
    return [nothing | rows.job(payload=b"{}", **columns) for columns in told]


async def copy_jobs(connection: Connection, rows: Iterable[dict[str, Any]]) -> None:
    await copy_parts(connection, "jobs", [encode_row(JOB_COLUMNS, row) for row in rows])


async def copy_executions(connection: Connection, rows: Iterable[dict[str, Any]]) -> None:
    encoded = [encode_row(EXECUTION_COLUMNS, row) for row in rows]
    await copy_parts(connection, "job_executions", encoded)


async def copy_parts(connection: Connection, table: str, parts: Sequence[bytes]) -> None:
    """Each part of rows of one form."""
    columns = JOB_COLUMNS if table == "jobs" else EXECUTION_COLUMNS
    forms = {len(form).to_bytes(2): form for form in (columns, plain(columns))}
    for head, form in forms.items():
        rows = [part for part in parts if part.startswith(head)]
        source = io.BytesIO(HEADER + b"".join(rows) + TRAILER)
        names = [column.name for column in form]
        await connection.copy_to_table(table, source=source, columns=names, format="binary")
