"""A shard's table in a test's hands: decisions, and commits into a log."""

from typing import Any

import msgpack

from taskforge_server.engine.journal.log import LogRow, ShardLog
from taskforge_server.engine.journal.rounds import Projection, TableSource
from taskforge_server.engine.model.graph import Edge
from taskforge_server.engine.model.subscription import month_of
from taskforge_server.engine.shard.edges import EdgeRow, ShardEdges
from taskforge_server.engine.shard.family import with_parents
from taskforge_server.engine.shard.usage import ShardUsage
from taskforge_server.ext.pure.table import NEVER_US, ShardTable, SubmitBatch

PROJECT = b"p" * 16
WORKER = b"w" * 16
START_US = 1_790_000_000_000_000
TOLD = msgpack.packb({"tags": ["a"]})
"""Options of a job whose row has all columns."""


def queue_id(shard: int) -> bytes:
    return b"q" * 15 + bytes([shard])


def new_table(shard: int, history: int = 2) -> ShardTable:
    """A table with the one queue of these tests."""
    table = ShardTable(shard, shard + 1)
    table.queue(queue_id(shard), PROJECT, "mail", 0, history)
    return table


class Life:
    """One shard: submit, start, end jobs; commit what was decided."""

    def __init__(self, table: ShardTable, epoch: int = 1) -> None:
        self.table = table
        self.queue = table.queue(queue_id(table.shard), PROJECT, "mail", 0, 2)
        self.worker = table.worker(WORKER)
        self.epoch = epoch
        self.now_us = START_US
        self.rows: list[LogRow] = []
        self.usage = ShardUsage()
        self.edges = ShardEdges()

    def tick(self) -> int:
        self.now_us += 1000
        return self.now_us

    def submit(self, count: int, payload: bytes = b'{"n": 1}', **options: Any) -> list[bytes]:
        batch = SubmitBatch()
        for _ in range(count):
            batch.add("email", payload, **options)
        self.usage.add(self.table.gathering_lsn, (PROJECT, month_of(self.now_us)), count)
        ids = self.table.submit(self.queue, batch, self.tick())
        return [ids[at : at + 16] for at in range(0, len(ids), 16)]

    def submit_child(self, *parents: bytes) -> bytes:
        """A job that waits for these, and is held."""
        options = with_parents(None, [Edge(parent_id, "block") for parent_id in parents], 0)
        (child_id,) = self.submit(1, due_us=NEVER_US, options=options)
        rows = [EdgeRow(parent_id, child_id, PROJECT, "block") for parent_id in parents]
        self.edges.note(self.table.gathering_lsn, rows)
        return child_id

    def source(self, early: Projection | None) -> TableSource:
        """The shard as the projector knows it; `early` was collected at the takeover."""
        source = TableSource(self.table, self.epoch, self.usage, edges=self.edges)
        if early is not None:
            source.count(early)
        return source

    def start(self, most: int) -> list[bytes]:
        self.table.start(self.queue, None, self.worker, most, self.tick())
        return self.table.running(self.worker)

    def succeed(self, tokens: list[bytes]) -> None:
        self.table.succeed(b"".join(tokens), self.tick())

    def run(self, count: int) -> list[bytes]:
        """Submit, start and succeed so many jobs."""
        ids = self.submit(count)
        self.succeed(self.start(count))
        return ids

    async def commit(self, log: ShardLog) -> None:
        """Make all decisions durable."""
        batch = self.table.take_batch()
        if batch is None:
            return
        lsn, events, body = batch
        row = LogRow(self.table.shard, lsn, self.epoch, events, body)
        assert await log.append([row]) == {row.shard}
        self.table.committed(lsn)
        self.rows.append(row)
