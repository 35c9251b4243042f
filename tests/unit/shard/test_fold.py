"""Rows of the log bring back the jobs and the idempotency keys."""

from taskforge_server.engine.shard.fold import KEYED_START, fold_row
from taskforge_server.engine.shard.keys import KeyBook, KeyedRequest
from taskforge_server.ext.pure.table import ShardTable, SubmitBatch

NOW_US = 1_700_000_000_000_000
QUEUE, PROJECT = b"q" * 16, b"p" * 16


def test_jobs_and_keys_come_back() -> None:
    table = ShardTable(3, 1)
    queue = table.queue(QUEUE, PROJECT, "mail", 0, 2)
    rows = []
    answers = {}
    for number in range(3):
        batch = SubmitBatch()
        batch.add("send", b'{"x":"' + KEYED_START.hex().encode() + b'"}')
        ids = table.submit(queue, batch, NOW_US + number)
        if number != 1:
            table.keyed(PROJECT, f"key {number}", b"hash", ids, NOW_US + number)
            answers[f"key {number}"] = ids
        taken = table.take_batch()
        assert taken is not None
        rows.append(taken)
    again, keys = ShardTable(3, 2), KeyBook()
    for lsn, events, body in rows:
        assert fold_row(again, lsn, body, keys) == events
    # (The project of a queue is known when the queue is defined.)
    again.queue(QUEUE, PROJECT, "mail", 0, 2)
    assert again.snapshot() == table.snapshot()
    assert len(keys) == 2
    for key, ids in answers.items():
        entry = keys.find(PROJECT, KeyedRequest(key, b"hash"), NOW_US)
        assert entry is not None
        assert entry.ids == ids
        assert entry.shard == 3


def test_a_payload_that_looks_like_a_key_is_none() -> None:
    table = ShardTable(3, 1)
    queue = table.queue(QUEUE, PROJECT, "mail", 0, 2)
    batch = SubmitBatch()
    batch.add("send", KEYED_START)
    table.submit(queue, batch, NOW_US)
    taken = table.take_batch()
    assert taken is not None
    keys = KeyBook()
    fold_row(ShardTable(3, 2), taken[0], taken[2], keys)
    assert len(keys) == 0
