"""What was taken back is known to every node, with and without messages."""

import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.cluster.memory import Exchange, MemoryCluster
from taskforge_server.engine.errors import Unavailable
from taskforge_server.engine.model.identity import EVERY_VERSION, Revocation
from taskforge_server.engine.node.tokennews import TokenNews
from tests.integration.api.conftest import until

USER = b"u" * 16
SESSION = b"s" * 16


class Rows:
    """What the table has, and how far back it was asked for."""

    def __init__(self) -> None:
        self.rows: list[Revocation] = []
        self.asked_s: list[float] = []

    async def since(self, seconds: float) -> list[Revocation]:
        self.asked_s.append(seconds)
        return list(self.rows)


class Clock:
    now_s = 1000.0


def news_at(exchange: Exchange, name: str, rows: Rows) -> tuple[TokenNews, MemoryCluster]:
    cluster = MemoryCluster(exchange, name)
    return TokenNews(cluster, rows, lambda: Clock.now_s), cluster


@pytest.fixture
def rows() -> Rows:
    Clock.now_s = 1000.0
    return Rows()


async def test_a_message_says_it_to_the_others(rows: Rows) -> None:
    exchange = Exchange()
    here, here_cluster = news_at(exchange, "a", rows)
    there, there_cluster = news_at(exchange, "b", rows)
    await here_cluster.start()
    await there_cluster.start()
    here.tell([Revocation(USER, 3), Revocation(SESSION, EVERY_VERSION)])
    assert here.refuses(USER, 2), "here at once"
    assert not here.refuses(USER, 3)
    await until(lambda: there.refuses(SESSION, 10**9))
    assert there.refuses(USER, 2)
    assert not there.refuses(USER, 3)


async def test_the_rows_say_it_when_no_message_came(rows: Rows) -> None:
    news, _ = news_at(Exchange(), "a", rows)
    assert not news.is_fresh()
    rows.rows.append(Revocation(USER, 3))
    await news.read()
    assert news.is_fresh()
    assert news.refuses(USER, 2)
    assert rows.asked_s == [limits.REVOCATIONS_OVERLAP_S + limits.REVOCATIONS_KEPT_S]
    Clock.now_s += 0.5
    await news.read()
    assert rows.asked_s[-1] == limits.REVOCATIONS_OVERLAP_S + 0.5, "only what may be new"


async def test_an_older_version_changes_nothing(rows: Rows) -> None:
    news, _ = news_at(Exchange(), "a", rows)
    news.tell([Revocation(USER, 5), Revocation(USER, 3)])
    assert news.refuses(USER, 4)


async def test_it_is_forgotten_when_no_token_can_be_left(rows: Rows) -> None:
    news, _ = news_at(Exchange(), "a", rows)
    news.tell([Revocation(USER, 5)])
    Clock.now_s += limits.REVOCATIONS_KEPT_S - 1
    news.tell([Revocation(SESSION, 5)])
    Clock.now_s += 1
    await news.read()
    assert not news.refuses(USER, 1)
    assert news.refuses(SESSION, 1)


async def test_memory_is_bounded(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REVOCATIONS_MAX", 2)
    news, _ = news_at(Exchange(), "a", rows)
    subjects = [bytes([number]) * 16 for number in range(1, 5)]
    news.tell([Revocation(subject, 1) for subject in subjects])
    await news.read()
    assert [news.refuses(subject, 0) for subject in subjects] == [False, False, True, True]


async def test_a_node_that_cannot_read_knows_that_it_does_not_know(rows: Rows) -> None:
    class Broken(Rows):
        async def since(self, seconds: float) -> list[Revocation]:
            raise Unavailable

    news, _ = news_at(Exchange(), "a", rows)
    await news.read()
    news._rows = Broken()
    Clock.now_s += limits.REVOCATIONS_STALE_S
    with pytest.raises(Unavailable):
        await news.read()
    assert not news.is_fresh()
