"""What a replay says of submits: every event once, also of jobs that need no second look."""

from typing import Any

from tests.unit.ext.test_table import PROJECT

NOW_US = 1_790_000_000_000_000
DAY_US = 86_400_000_000
TODAY = NOW_US // DAY_US
MAIL, MOVIES = b"m" * 16, b"f" * 16


def body_of(table: Any, *submits: tuple[bytes, int, int]) -> bytes:
    """A log row with submits: queue, how many jobs, when."""
    for queue_id, count, at_us in submits:
        index = table.queue(queue_id, PROJECT, queue_id[:1].decode(), 0, 2)
        table.submit(index, jobs(table, count), at_us)
    _, _, body = table.take_batch()
    return bytes(body)


def jobs(table: Any, count: int) -> Any:
    module = __import__(type(table).__module__, fromlist=["SubmitBatch"])
    batch = module.SubmitBatch()
    for _ in range(count):
        batch.add("send", b"{}")
    return batch


def test_runs_of_one_queue_and_day_are_added_up(impl: Any) -> None:
    source, table = impl.ShardTable(1, 1), impl.ShardTable(1, 2)
    body = body_of(
        source, (MAIL, 2, NOW_US), (MAIL, 1, NOW_US + 1), (MOVIES, 4, NOW_US), (MAIL, 3, NOW_US)
    )
    assert table.take_submitted() == []
    table.replay(1, body)
    assert table.take_submitted() == [(MAIL, TODAY, 3), (MOVIES, TODAY, 4), (MAIL, TODAY, 3)]
    assert table.take_submitted() == []


def test_the_day_is_that_of_the_event(impl: Any) -> None:
    source, table = impl.ShardTable(1, 1), impl.ShardTable(1, 2)
    midnight_us = (TODAY + 1) * DAY_US
    table.replay(1, body_of(source, (MAIL, 2, midnight_us - 1), (MAIL, 3, midnight_us)))
    assert table.take_submitted() == [(MAIL, TODAY, 2), (MAIL, TODAY + 1, 3)]


def test_jobs_that_the_tables_know_already_are_counted_too(impl: Any) -> None:
    source, table = impl.ShardTable(1, 1), impl.ShardTable(1, 2)
    body = body_of(source, (MAIL, 2, NOW_US))
    source.committed(1)
    table.load(impl_rows(source))
    table.replay(1, body)
    assert table.take_submitted() == [(MAIL, TODAY, 2)]


def impl_rows(source: Any) -> bytes:
    return b"".join(source.collect(100, NOW_US + DAY_US).jobs_copy)
