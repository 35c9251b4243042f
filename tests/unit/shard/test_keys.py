"""A repeated submit is recognised for a day, within bounds."""

import pytest

from taskforge_server.engine.errors import KeyConflict
from taskforge_server.engine.shard.keys import RETENTION_US, KeyBook, KeyedRequest, KeyEntry

NOW_US = 1_700_000_000_000_000
PROJECT = b"p" * 16


def entry(at_us: int = NOW_US, shard: int = 1, jobs: int = 1) -> KeyEntry:
    return KeyEntry(shard, 7, b"hash", b"i" * 16 * jobs, at_us)


def test_the_same_request_finds_the_first_and_another_body_is_a_conflict() -> None:
    book = KeyBook()
    book.remember(PROJECT, "k", entry())
    assert book.find(PROJECT, KeyedRequest("k", b"hash"), NOW_US) == entry()
    assert book.find(b"o" * 16, KeyedRequest("k", b"hash"), NOW_US) is None
    with pytest.raises(KeyConflict):
        book.find(PROJECT, KeyedRequest("k", b"other"), NOW_US)


def test_a_key_is_forgotten_after_its_day() -> None:
    book = KeyBook()
    book.remember(PROJECT, "k", entry())
    late_us = NOW_US + RETENTION_US + 1
    assert book.find(PROJECT, KeyedRequest("k", b"other"), late_us) is None
    book.remember(PROJECT, "later", entry(late_us))
    assert len(book) == 1


def test_the_oldest_go_when_there_are_too_many_or_they_are_too_heavy() -> None:
    book = KeyBook(entries_max=2, bytes_max=64)
    for name in ("a", "b", "c"):
        book.remember(PROJECT, name, entry())
    assert book.find(PROJECT, KeyedRequest("a", b"hash"), NOW_US) is None
    book.remember(PROJECT, "d", entry(jobs=4))
    assert len(book) == 1


def test_a_flood_of_one_tenant_costs_others_no_key() -> None:
    book = KeyBook(entries_max=100, tenant=lambda project_id: project_id[:1])
    book.remember(b"q", "old", entry())
    for number in range(1_000):
        book.remember(b"p%d" % (number % 7), f"k{number}", entry())
    assert len(book) == 100
    assert book.find(b"q", KeyedRequest("old", b"hash"), NOW_US) == entry()
    assert book.find(b"p%d" % (999 % 7), KeyedRequest("k999", b"hash"), NOW_US) == entry()


def test_a_shard_takes_its_keys_with_it() -> None:
    book = KeyBook()
    book.remember(PROJECT, "here", entry(shard=1))
    book.remember(PROJECT, "there", entry(shard=2))
    book.drop_shard(1)
    assert book.find(PROJECT, KeyedRequest("here", b"x"), NOW_US) is None
    assert book.find(PROJECT, KeyedRequest("there", b"hash"), NOW_US) is not None
