"""The rows of schedules in memory: what the engine asks of `engine.store.schedules`."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from taskforge_server.engine.errors import Unavailable
from taskforge_server.engine.model.schedule import Schedule
from taskforge_server.engine.store.schedules import Decided, PlanRow


class MemoryScheduleRows:
    """Rows by id; several nodes may share them. `failures` writes fail."""

    def __init__(self) -> None:
        self.rows: dict[bytes, PlanRow] = {}
        self.paused: set[bytes] = set()
        self.decisions: list[Decided] = []
        self.last_ticks: dict[bytes, datetime] = {}
        self.unfinished: set[bytes] = set()
        """What the tables say of jobs."""
        self.large: dict[bytes, bytes] = {}
        self.failures = 0
        self.gate = asyncio.Event()
        self.gate.set()

    def add(self, id: bytes, decided_at: datetime, **fields: Any) -> None:
        """A schedule, decided up to then."""
        given: dict[str, Any] = {
            "project_id": b"p" * 16,
            "queue_id": b"m" * 16,
            "shard": 1,
            "cron": "* * * * * *",
            "timezone": "UTC",
            "job": '{"job_type":"send"}',
            "payload": "{}",
            "catch_up": "all",
            "window_s": 3600,
            "overlap": "allow",
            "jitter_s": 0,
            "last_job_id": None,
            "revision": 1,
        }
        self.rows[id] = PlanRow(**(given | fields | {"id": id, "decided_at": decided_at}))

    def change(self, id: bytes, **fields: Any) -> None:
        row = self.rows[id]
        self.rows[id] = replace(row, **fields, revision=row.revision + 1)

    # what people do

    async def get(self, project_id: bytes, schedule: bytes | str) -> Schedule:
        """By its id."""
        assert isinstance(schedule, bytes)
        row = self.rows[schedule]
        told = asdict(row) | {"job": row.job.encode(), "payload": (row.payload or "null").encode()}
        del told["shard"]
        made_at = datetime(2020, 1, 1, tzinfo=UTC)
        times: Any = {"created_at": made_at, "updated_at": made_at}
        paused_at = made_at if schedule in self.paused else None
        return Schedule(**told, queue="mail", name="nightly", paused_at=paused_at, **times)

    async def update(
        self,
        project_id: bytes,
        schedule_id: bytes,
        action: str,
        changes: Mapping[str, Any],
        *_: Any,
    ) -> Schedule:
        """As `schedule_update.sql` does."""
        told = dict(changes)
        told.pop("next_at", None)
        if "paused_at" in told:
            on = told.pop("paused_at") is not None
            (self.paused.add if on else self.paused.discard)(schedule_id)
        decided_at = self.rows[schedule_id].decided_at
        told["decided_at"] = max(decided_at, told.get("decided_at", decided_at))
        self.change(schedule_id, **told)
        return await self.get(project_id, schedule_id)

    # what the engine asks

    async def revisions(self, shards: Sequence[int]) -> dict[bytes, int]:
        there = self.rows.keys() - self.paused
        return {id: self.rows[id].revision for id in there if self.rows[id].shard in shards}

    async def plans(self, schedule_ids: Sequence[bytes]) -> list[PlanRow]:
        there = self.rows.keys() - self.paused
        return [self.rows[id] for id in schedule_ids if id in there]

    async def payloads(self, schedule_ids: Sequence[bytes]) -> dict[bytes, bytes]:
        return {id: self.large[id] for id in schedule_ids}

    async def decided(self, ticks: Iterable[Decided]) -> None:
        await self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise Unavailable(0.0)
        for tick in ticks:
            row, last = self.rows[tick.id], self.last_ticks.get(tick.id)
            made = tick.job_id is not None and (last is None or last < tick.tick)
            if row.decided_at < tick.tick or made:
                self.decisions.append(tick)
                decided_at = max(row.decided_at, tick.tick)
                job_id = tick.job_id or row.last_job_id
                self.rows[tick.id] = replace(row, decided_at=decided_at, last_job_id=job_id)
                if tick.job_id is not None:
                    self.last_ticks[tick.id] = tick.tick

    async def unfinished_jobs(self, job_ids: Sequence[bytes]) -> set[bytes]:
        return self.unfinished & set(job_ids)
