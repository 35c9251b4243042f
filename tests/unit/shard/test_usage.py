"""Submitted jobs are counted exactly: by organisation and month, over takeovers and late writes."""

from datetime import UTC, datetime

import pytest

from taskforge_server.engine.errors import QuotaExceeded
from taskforge_server.engine.model.subscription import (
    month_after,
    month_before,
    month_of,
    month_start_us,
)
from taskforge_server.engine.shard.usage import ShardUsage, StoredUsage, UsageBook, UsageRow

ORGANIZATION = b"o" * 16
PROJECT = b"p" * 16
OTHER = b"q" * 16
NOVEMBER_US = int(datetime(2026, 11, 23, tzinfo=UTC).timestamp()) * 1_000_000
DECEMBER_US = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp()) * 1_000_000


def book_with(jobs_max: int | None, *projects: bytes) -> tuple[UsageBook, ShardUsage]:
    book, shard = UsageBook(), ShardUsage()
    for project in projects or (PROJECT,):
        book.learn(project, ORGANIZATION).jobs_max = jobs_max
    book.restore(shard, (), (), NOVEMBER_US)
    return book, shard


def submit(
    book: UsageBook,
    shard: ShardUsage,
    lsn: int,
    count: int,
    project: bytes = PROJECT,
    now_us: int = NOVEMBER_US,
) -> None:
    book.require(project, count, now_us)
    book.add(shard, lsn, project, count)


def test_months_follow_each_other() -> None:
    assert month_of(NOVEMBER_US) == 202611
    assert month_after(202611) == 202612
    assert month_after(202612) == 202701
    assert month_before(202701) == 202612
    assert month_before(202602, 3) == 202511
    assert month_start_us(202612) == DECEMBER_US
    assert month_of(DECEMBER_US - 1) == 202611
    assert month_of(DECEMBER_US) == 202612


def test_all_projects_of_an_organisation_draw_on_one_quota_and_the_last_job_fits() -> None:
    book, shard = book_with(10, PROJECT, OTHER)
    submit(book, shard, 1, 6)
    submit(book, shard, 2, 4, OTHER)
    with pytest.raises(QuotaExceeded) as refused:
        submit(book, shard, 3, 1)
    assert refused.value.code == "quota_exceeded"
    assert book.used(ORGANIZATION, NOVEMBER_US) == 10


def test_a_batch_that_does_not_fit_is_refused_as_a_whole() -> None:
    book, shard = book_with(10)
    submit(book, shard, 1, 8)
    with pytest.raises(QuotaExceeded):
        submit(book, shard, 2, 3)
    submit(book, shard, 2, 2)


def test_a_new_month_begins_at_nothing() -> None:
    book, shard = book_with(10)
    submit(book, shard, 1, 10)
    submit(book, shard, 2, 10, now_us=DECEMBER_US)
    with pytest.raises(QuotaExceeded):
        submit(book, shard, 3, 1, now_us=DECEMBER_US)
    rows = {row.month: row.jobs for row in shard.collect(2)}
    assert rows == {202611: 10, 202612: 10}


def test_rows_say_whole_counts_up_to_the_watermark_and_only_what_changed() -> None:
    book, shard = book_with(None, PROJECT, OTHER)
    submit(book, shard, 5, 2)
    submit(book, shard, 5, 1)
    submit(book, shard, 6, 7, OTHER)
    submit(book, shard, 8, 4)
    assert shard.collect(4) == []
    assert shard.collect(7) == [
        UsageRow(PROJECT, 202611, 3, 7),
        UsageRow(OTHER, 202611, 7, 7),
    ]
    assert shard.collect(9) == [UsageRow(PROJECT, 202611, 7, 9)]
    assert shard.collect(20) == []
    assert book.used(ORGANIZATION, NOVEMBER_US) == 14


def test_a_takeover_counts_the_log_above_what_each_row_knows() -> None:
    book, shard = book_with(100, PROJECT, OTHER)
    key, other = (PROJECT, 202611), (OTHER, 202611)
    stored = [
        StoredUsage(UsageRow(PROJECT, 202611, 50, 12), ORGANIZATION),
        StoredUsage(UsageRow(OTHER, 202611, 5, 3), ORGANIZATION),
    ]
    taken = ShardUsage()
    # The watermark was 10 when it was read; the row of the first project is ahead of it.
    book.restore(taken, stored, [(11, key, 8), (12, other, 1), (13, key, 2)], NOVEMBER_US)
    assert book.used(ORGANIZATION, NOVEMBER_US) == 50 + 2 + 5 + 1
    assert taken.collect(13) == [
        UsageRow(OTHER, 202611, 6, 13),
        UsageRow(PROJECT, 202611, 52, 13),
    ]
    book.drop(taken)
    assert book.used(ORGANIZATION, NOVEMBER_US) == 58, "what its new owner says, as far as we know"
    book.drop(taken)
    assert book.used(ORGANIZATION, NOVEMBER_US) == 58
    assert shard.totals() == {}


def test_a_project_whose_organisation_is_learned_late_brings_what_it_counted() -> None:
    book, shard = UsageBook(), ShardUsage()
    book.restore(shard, (), [(1, (PROJECT, 202611), 4)], NOVEMBER_US)
    submit(book, shard, 2, 3)
    assert book.used(ORGANIZATION, NOVEMBER_US) == 0
    book.learn(PROJECT, ORGANIZATION)
    book.learn(PROJECT, ORGANIZATION)
    assert book.used(ORGANIZATION, NOVEMBER_US) == 7


def test_what_other_nodes_counted_counts_too() -> None:
    book, shard = book_with(10)
    submit(book, shard, 1, 5)
    book.counted_elsewhere(202611, {ORGANIZATION: 4, b"x" * 16: 3})
    submit(book, shard, 2, 1)
    with pytest.raises(QuotaExceeded):
        submit(book, shard, 3, 1)
    book.counted_elsewhere(202610, {ORGANIZATION: 0})
    assert book.used(ORGANIZATION, NOVEMBER_US) == 10
    book.counted_elsewhere(202611, {})
    assert book.used(ORGANIZATION, NOVEMBER_US) == 6


def test_what_is_counted_of_a_shard_counts_once_before_and_after_it_comes() -> None:
    """A node that begins knows what its shards have before the first of them is there."""
    book = UsageBook()
    assert book.month_at(NOVEMBER_US) == 202611
    book.counted_elsewhere(202611, {ORGANIZATION: 9})
    book.learn(PROJECT, ORGANIZATION).jobs_max = 10
    with pytest.raises(QuotaExceeded):
        book.require(PROJECT, 2, NOVEMBER_US)
    for number, jobs in ((1, 4), (2, 5)):
        stored = [StoredUsage(UsageRow(PROJECT, 202611, jobs, number), ORGANIZATION)]
        book.restore(ShardUsage(), stored, (), NOVEMBER_US)
        assert book.used(ORGANIZATION, NOVEMBER_US) == 9
    lost = ShardUsage()
    book.restore(lost, (), [(3, (PROJECT, 202611), 1)], NOVEMBER_US)
    lost.collect(3)
    book.drop(lost)
    assert book.used(ORGANIZATION, NOVEMBER_US) == 10


def test_old_months_are_forgotten_once_no_event_belongs_to_them() -> None:
    book, shard = book_with(None)
    submit(book, shard, 1, 5)
    shard.collect(1)
    later = month_start_us(202703)
    submit(book, shard, 2, 1, now_us=later)
    assert shard.totals() == {(PROJECT, 202703): 1}
