"""The check finds what is wrong, and nothing else: over memory, where anything can be broken."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from taskforge_server.engine.journal.check import Difference, Since, check
from taskforge_server.engine.journal.memory import MemoryShardLog
from taskforge_server.engine.journal.memory_tables import MemoryTables
from taskforge_server.engine.journal.projector import Projector
from taskforge_server.engine.journal.takeover import Taker
from taskforge_server.engine.model.queue import History, QueueRef, QueueSettings
from taskforge_server.ext.ids import shard_of
from tests.support.journal_bench import PROJECT, START_US, Life, new_table, queue_id

SHARDS = (1, 2)


class Bench:
    """Two shards with jobs in every state, projected."""

    def __init__(self, history: History = "all") -> None:
        self.log = MemoryShardLog()
        self.tables = MemoryTables()
        self.settings = QueueSettings(history=history)
        self.lives: list[Life] = []

    @property
    def queues(self) -> list[QueueRef]:
        return [QueueRef(queue_id(s), PROJECT, "mail", 0, self.settings, s) for s in SHARDS]

    async def live(self) -> "Bench":
        taker = Taker(
            self.log,
            self.tables,
            "node",
            lambda: START_US,
            lambda shard: new_table(shard, self.settings.history_code),
        )
        projector = Projector(self.tables, lambda: START_US * 2, tick_s=1000.0)
        task = asyncio.create_task(projector.run())
        for taken in await taker.take(SHARDS):
            life = Life(taken.table, taken.epoch)
            life.queue = life.table.queue(
                queue_id(life.table.shard), PROJECT, "mail", 0, self.settings.history_code
            )
            self.lives.append(life)
            projector.add(life.source(taken.early), taken.early)
            await self._jobs_of_all_kinds(life)
        await projector.flush()
        for life in self.lives:
            await self._ends(life)
        await projector.flush()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return self

    async def _jobs_of_all_kinds(self, life: Life) -> None:
        life.submit_child(*life.run(3)[:2])
        life.submit(6, payload=b'{"a":1.50,"b":[1e2]}', priority=3)
        life.start(4)
        await life.commit(self.log)

    async def _ends(self, life: Life) -> None:
        table = life.table
        first, second, third, _ = table.running(life.worker)
        table.retried(first, life.tick() + 1_000_000, b'{"type":"E"}', life.now_us)
        table.failed(second, "not_retryable", b'{"type":"F"}', life.tick())
        table.succeed_with(third, b'{"ok":true}', life.tick())
        waiting = next(job for job in table.snapshot() if job["status"] == "pending")
        table.cancelled(waiting["id"], "no longer needed", life.tick())
        life.submit(1, due_us=START_US * 2, options=None)
        await life.commit(self.log)

    async def check(self, **since: int) -> list[Difference]:
        queues = self.queues
        known = {queue.id: Since(**since) for queue in queues}
        return await check(self.log, self.tables, queues, SHARDS, since=known)

    def job(self, status: str) -> dict[str, Any]:
        return next(row for row in self.tables.jobs.values() if row["status"] == status)

    def execution(self, status: str) -> dict[str, Any]:
        return next(row for row in self.tables.executions.values() if row["status"] == status)


@pytest.mark.parametrize("history", ["all", "failed", "none"])
async def test_a_sound_database_has_no_differences(history: History) -> None:
    bench = await Bench(history).live()
    assert await bench.check() == []


async def test_a_trimmed_log_is_enough_for_the_rules() -> None:
    bench = await Bench().live()
    for shard, lsn in bench.tables.marks.items():
        await bench.log.trim({shard: lsn})
    assert await bench.check() == []
    bench.job("succeeded")["finished_at"] = None
    assert [d.kind for d in await bench.check()] == ["job finished_at"]


async def test_what_is_not_projected_yet_is_no_difference() -> None:
    bench = await Bench().live()
    life = bench.lives[0]
    life.run(4)
    life.succeed(life.start(0))
    await life.commit(bench.log)
    assert await bench.check() == []


async def test_json_is_compared_by_what_it_says() -> None:
    bench = await Bench().live()
    for row in bench.tables.jobs.values():
        if row["priority"] == 3:
            row["payload"] = b'{"b": [100], "a": 1.5}'
    assert await bench.check() == []


def drop_job(bench: Bench) -> None:
    del bench.tables.jobs[bench.job("cancelled")["id"]]


def drop_job_with_executions(bench: Bench) -> None:
    del bench.tables.jobs[bench.job("failed")["id"]]


def drop_execution(bench: Bench) -> None:
    del bench.tables.executions[bench.execution("retrying")["id"]]


def change(status: str, column: str, value: Any) -> Callable[[Bench], None]:
    def act(bench: Bench) -> None:
        bench.job(status)[column] = value

    return act


def change_execution(column: str, value: Any) -> Callable[[Bench], None]:
    def act(bench: Bench) -> None:
        bench.execution("failed")[column] = value

    return act


def double_execution(bench: Bench) -> None:
    twin = dict(bench.execution("succeeded"), id=b"x" * 16)
    bench.tables.executions[twin["id"]] = twin


def invent_job(bench: Bench) -> None:
    twin = dict(bench.job("succeeded"), id=b"x" * 16)
    bench.tables.jobs[twin["id"]] = twin


def advance(bench: Bench) -> None:
    bench.tables.marks[1] += 1


def put_aside(bench: Bench) -> None:
    bench.tables.put_aside.append(bench.job("failed"))


def drop_edge(bench: Bench) -> None:
    del bench.tables.edges[min(bench.tables.edges)]


def change_edge(project_id: bytes, on_failure: str) -> Callable[[Bench], None]:
    def act(bench: Bench) -> None:
        bench.tables.edges[min(bench.tables.edges)] = (project_id, on_failure)

    return act


def invent_edge(bench: Bench) -> None:
    parent_id, child_id = min(bench.tables.edges)
    bench.tables.edges[child_id, parent_id] = (PROJECT, "block")


def change_usage(jobs: int = 0, lsn: int = 0) -> Callable[[Bench], None]:
    def act(bench: Bench) -> None:
        key, row = min(bench.tables.usage.items())
        bench.tables.usage[key] = row._replace(jobs=row.jobs + jobs, lsn=row.lsn + lsn)

    return act


def drop_usage(bench: Bench) -> None:
    del bench.tables.usage[min(bench.tables.usage)]


@pytest.mark.parametrize(
    ("damage", "kinds"),
    [
        (drop_job, ["job missing"]),
        (drop_edge, ["edge missing"]),
        (change_edge(PROJECT, "cancel"), ["edge on_failure"]),
        (change_edge(b"x" * 16, "block"), ["edge project_id"]),
        (invent_edge, ["edge unknown"]),
        (drop_usage, ["usage jobs"]),
        (change_usage(jobs=1), ["usage jobs"]),
        (change_usage(jobs=-1), ["usage jobs"]),
        (change_usage(lsn=99), ["usage lsn"]),
        (drop_job_with_executions, ["job missing", "execution without job"]),
        (drop_execution, ["execution missing"]),
        (change("succeeded", "attempts", 2), ["job attempts"]),
        (change("processing", "status", "pending"), ["job status"]),
        (change("succeeded", "result", b'{"ok":false}'), ["job result"]),
        (change("failed", "lsn", 1), ["job lsn"]),
        (change("failed", "lsn", 99), ["job lsn"]),
        (change("failed", "failed_reason", None), ["job failed_reason", "job failed_reason"]),
        (change_execution("error", b"{}"), ["execution error"]),
        (change_execution("attempt_number", 7), ["execution attempt_number"]),
        (double_execution, ["execution unknown"]),
        (invent_job, ["job unknown"]),
        (advance, ["watermark"]),
        (put_aside, ["refused rows"]),
    ],
)
async def test_damage_is_found(damage: Callable[[Bench], None], kinds: list[str]) -> None:
    bench = await Bench().live()
    damage(bench)
    found = await bench.check()
    assert [difference.kind for difference in found] == kinds
    assert all(difference.shard in SHARDS for difference in found)


@pytest.mark.parametrize("status", ["failed", "succeeded"])
async def test_an_execution_that_seems_to_run_for_ever_is_found(status: str) -> None:
    """Also where the history is not whole, and the log is trimmed."""
    bench = await Bench("failed").live()
    for shard, lsn in bench.tables.marks.items():
        await bench.log.trim({shard: lsn})
    assert await bench.check() == []
    running = bench.execution("started")
    job_id = bench.job("failed")["id"] if status == "failed" else b"x" * 16
    left = dict(running, id=b"x" * 16, job_id=job_id)
    bench.tables.executions[left["id"]] = left
    kinds = {"failed": "execution not ended", "succeeded": "execution without job"}
    assert [difference.kind for difference in await bench.check()] == [kinds[status]]


async def test_with_a_trimmed_log_the_rows_of_children_name_their_edges() -> None:
    bench = await Bench().live()
    for shard, lsn in bench.tables.marks.items():
        await bench.log.trim({shard: lsn})
    drop_edge(bench)
    change_usage(jobs=1)(bench)  # nobody knows any more
    assert [d.kind for d in await bench.check()] == ["edge missing"]
    change_usage(lsn=99)(bench)
    assert [d.kind for d in await bench.check()] == ["edge missing", "usage lsn"]


async def test_edges_and_counts_may_outlive_jobs() -> None:
    """They go some time after the child's row, and never."""
    bench = await Bench("none").live()
    (child,) = {child_id for _, child_id in bench.tables.edges if shard_of(child_id) == 1}
    bench.lives[0].table.cancelled(child, "", bench.lives[0].tick())
    del bench.tables.jobs[child]
    await bench.lives[0].commit(bench.log)
    bench.tables.marks[1] = bench.lives[0].rows[-1].lsn
    assert await bench.check() == []


@pytest.mark.parametrize("history", ["none", "failed"])
async def test_what_ended_before_a_queue_was_told_to_keep_all_may_be_gone(history: History) -> None:
    bench = await Bench(history).live()
    bench.settings = QueueSettings(history="all")
    lacking = {"none": {"job missing", "execution missing"}, "failed": {"job missing"}}
    assert {d.kind for d in await bench.check()} == lacking[history]
    last_us = max(life.now_us for life in bench.lives)
    assert await bench.check(whole_us=last_us + 1) == []
    assert await bench.check(whole_us=START_US) != []


async def test_failed_jobs_may_be_gone_after_a_purge_and_others_may_not() -> None:
    bench = await Bench().live()
    for status in ("failed", "failed", "cancelled"):
        gone = bench.job(status)
        del bench.tables.jobs[gone["id"]]
        executions = bench.tables.executions
        for each in [each for each in executions.values() if each["job_id"] == gone["id"]]:
            del executions[each["id"]]
    found = await bench.check(failed_us=max(life.now_us for life in bench.lives) + 1)
    assert [(d.kind, d.expected) for d in found] == [("job missing", "cancelled")]
    assert len(await bench.check()) == 3


async def test_a_gap_in_the_log_is_found() -> None:
    bench = await Bench().live()
    rows = bench.log._rows[1]
    del rows[2]
    found = await bench.check()
    assert found[0] == Difference("gap", 1, None, "lsn 2", "lsn 3")


async def test_a_damaged_row_of_the_log_is_found() -> None:
    bench = await Bench().live()
    rows = bench.log._rows[2]
    rows[2] = rows[2]._replace(body=rows[2].body[:-1] + b"\xff")
    found = await bench.check()
    assert found[0].kind == "log"
    assert found[0].shard == 2
