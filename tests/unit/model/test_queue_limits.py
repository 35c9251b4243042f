"""Limits as settings of a queue: what is accepted, and what the shard table gets of it."""

import msgspec
import pytest

from taskforge_server.engine.errors import InvalidInput
from taskforge_server.engine.model.queue import QueueSettings
from taskforge_server.engine.model.queuelimits import Rate
from taskforge_server.ext.table import ShardTable


def settings(**given: object) -> QueueSettings:
    read = msgspec.convert(given, QueueSettings)
    read.check_relations()
    return read


def test_a_queue_has_no_limits_unless_it_is_told() -> None:
    assert QueueSettings().limits is None


def test_the_table_takes_what_settings_give() -> None:
    given = settings(
        max_concurrency=3,
        max_concurrency_per_key=1,
        rate={"per_s": 10, "burst": 5},
        rate_per_key={"per_s": 0.5},
        fair_keys=True,
    ).limits
    assert given == (3, 1, 100_000_000, 5, 2_000_000_000, 1, 1, 100_000)
    assert ShardTable(0, 1).queue(bytes(16), bytes(16), "q", 0, 2, 0, given) == 0


def test_an_interval_is_never_too_short() -> None:
    for per_s in (0.3, 3.0, 7.0, 99_999.0, 1 / 3600):
        assert Rate(per_s=per_s).interval_ns * per_s >= 1e9 * (1 - 1e-12)
    assert Rate(per_s=100_000.0).interval_ns == 10_000


@pytest.mark.parametrize(
    "given",
    [
        {"max_concurrency": 0},
        {"rate": {"per_s": 0}},
        {"rate": {"per_s": 1, "burst": 0}},
        {"rate_per_key": {"burst": 1}},
        {"rate": {"per_s": 1, "often": True}},
        {"fair_keys": 1},
    ],
)
def test_what_is_no_limit_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        settings(**given)


def test_a_bucket_must_fill_in_a_month() -> None:
    settings(rate={"per_s": 1, "burst": 1_000_000})
    with pytest.raises(InvalidInput, match="30 days") as refused:
        settings(rate_per_key={"per_s": 0.001, "burst": 1_000_000})
    assert refused.value.field == "rate_per_key.burst"


def test_settings_of_a_newer_version_can_be_read() -> None:
    stored = QueueSettings.stored(b'{"rate": {"per_s": 2.0, "burst": 3, "soft": true}}')
    assert stored.rate == Rate(per_s=2.0, burst=3)
