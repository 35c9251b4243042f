"""Two nodes forced onto one shard: the log lets one of them decide, and the other finds out."""

import pytest

from tests.support.arena import LEASE_TTL_S, Ground
from tests.support.evidence import fetch
from tests.support.processes import until

pytestmark = pytest.mark.timeout(300)

JOBS = 20


def test_frozen_owner(ground: Ground) -> None:
    """The owner is frozen with jobs under way; a second node takes over; the first one wakes."""
    with ground.arena(shards=1) as arena:
        first = arena.node("first")
        arena.make_queues(first, ["a"])
        worker = arena.worker(first)
        old = arena.client(first, "old", answer_s=LEASE_TTL_S)
        assert old.submit("a", ["slow", "thread", "flaky"] * JOBS)
        until(worker.running, "jobs run", tail=arena.tails)
        first.freeze()
        assert old.submit("a", ["quick"] * JOBS, keyed=False) is None, "nobody is there"
        second = arena.node("second")
        arena.worker(second, "other")
        new = arena.client(second, "new")
        assert new.submit("a", ["quick", "answer", "doomed"] * JOBS)
        first.thaw()
        # What it was asked while it was frozen it refuses now: its append meets another's row.
        until(
            lambda: first.metric("taskforge_shards_lost_total") == 1,
            "the first node has dropped the shard",
            tail=arena.tails,
        )
        assert old.submit("a", ["quick"], keyed=False) is None
        worker.kill()
        run, violations = arena.judge()
        assert not violations, "\n".join(map(str, violations))
        assert len(run.acknowledged) == 6 * JOBS
        epochs = fetch(arena.url, "SELECT lsn, epoch FROM shard_log ORDER BY lsn")
        assert [epoch for _, epoch in epochs] == sorted(epoch for _, epoch in epochs)
        assert {epoch for _, epoch in epochs} == {1, 2}, "one takeover, and nobody fought for it"
