"""The checker is proved: with each safeguard switched off, a scenario made for it turns red.

Every scenario runs twice: with all safeguards, where no promise breaks, and in a test build without
the one that it is about, where the checker must name the promise that broke.
"""

import asyncio

import asyncpg
import pytest

from taskforge import Client
from taskforge_server.engine.runtime import faultpoints
from tests.support.arena import API_KEY, LEASE_TTL_S, Arena, Ground
from tests.support.evidence import fetch
from tests.support.history import Rule, Run, Violation
from tests.support.load import Submitter
from tests.support.mixed import (
    HERD,
    KEYED_QUEUE,
    NARROW,
    NARROW_QUEUE,
    SETTINGS,
    MixedSubmitter,
    mixed_violations,
    open_gate,
    take_all,
)
from tests.support.processes import Node, until

pytestmark = pytest.mark.timeout(300)

BOTH = pytest.mark.parametrize("safe", [True, False], ids=["on", "off"])
SETTLED_S = 10.0
LEAKED_S = 2 * LEASE_TTL_S
"""A slot that is not free by then is lost with its worker."""
SHORT_ANSWER_S = 1.0
TICKS = "taskforge_schedule_ticks_total"
WAITS_FOR_LOCK = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND query ILIKE '%shard_log%'
"""


def rules(violations: list[Violation]) -> set[Rule]:
    return {violation.rule for violation in violations}


def verdict(arena: Arena, safe: bool) -> tuple[Run, set[Rule]]:
    """What broke; nothing may with the safeguards on."""
    run, violations = arena.judge(SETTLED_S)
    if safe:
        assert not violations, "\n".join(map(str, violations))
    return run, rules(violations)


@BOTH
def test_release_after_commit(ground: Ground, safe: bool) -> None:
    """The node dies while its append waits in the database, and the append with it."""
    off = () if safe else ("release_after_commit",)
    with ground.arena(shards=1, off=off) as arena:
        node = arena.node()
        arena.make_queues(node, ["a"])
        client = arena.client(node, answer_s=SHORT_ANSWER_S)
        ids = asyncio.run(_submit_behind_lock(arena, node, client))
        assert (ids is None) == safe, "without the safeguard nobody waits for the commit"
        node.start()
        node.await_ready()
        arena.worker(node)
        client.submit("a", ["quick"])
        run, broken = verdict(arena, safe)
        assert len(run.jobs) == 1
        assert broken == (set() if safe else {Rule.LOST, Rule.EFFECT_WITHOUT_CAUSE})


async def _submit_behind_lock(arena: Arena, node: Node, client: Submitter) -> list[str] | None:
    """Submit while the log is locked; then node and append die, in this order."""
    connection = await asyncpg.connect(arena.url)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE shard_log IN SHARE ROW EXCLUSIVE MODE")
            submit = asyncio.to_thread(client.submit, "a", ["quick"], keyed=False)
            call = asyncio.create_task(submit)
            waiting: list[asyncpg.Record] = []
            while not waiting:
                waiting = await connection.fetch(WAITS_FOR_LOCK)
            ids = await call
            node.kill()
            for (pid,) in waiting:
                await connection.execute("SELECT pg_terminate_backend($1, 5000)", pid)
    finally:
        await connection.close()
    return ids


@BOTH
def test_lease_comparison(ground: Ground, safe: bool) -> None:
    """A worker is frozen beyond its lease and comes back with a completion of the old attempt."""
    with ground.arena(shards=1, off=() if safe else ("lease_comparison",)) as arena:
        node = arena.node()
        arena.make_queues(node, ["a"])
        gate = arena.folder / "gate"
        late = arena.worker(node, "late")
        arena.client(node).submit("a", ["gated"], gate=str(gate))
        until(late.running, "the first attempt runs", tail=arena.tails)
        late.freeze()
        second = arena.worker(node, "second")
        until(second.running, "the lease ran out, the second attempt runs", tail=arena.tails)
        gate.with_suffix(".1").touch()
        late.thaw()
        until(
            lambda: late.told("acked") or late.told("stale"),
            "the server has judged the late completion",
            tail=arena.tails,
        )
        gate.with_suffix(".2").touch()
        until(
            lambda: second.told("acked") or second.told("stale"),
            "the server has judged the second completion",
            tail=arena.tails,
        )
        run, broken = verdict(arena, safe)
        assert len(run.starts) == 2
        assert safe or Rule.STALE_ACCEPTED in broken


@BOTH
def test_projection_watermark(ground: Ground, safe: bool) -> None:
    """The node dies in the transaction that brings a finished job into the tables."""
    with ground.arena(shards=1, off=() if safe else ("projection_watermark",)) as arena:
        trigger = arena.folder / "die"
        node = arena.node(TASKFORGE_FAULTPOINT=f"{faultpoints.IN_PROJECTOR_TRANSACTION}@{trigger}")
        arena.make_queues(node, ["a"])
        worker = arena.worker(node)
        client = arena.client(node)
        assert client.submit("a", ["quick"], keyed=False)
        until(lambda: worker.told("acked"), "a first job is done", tail=arena.tails)
        assert arena.quiet(SETTLED_S)
        trigger.touch()
        assert client.submit("a", ["quick"], keyed=False)
        node.died()
        node.start()
        node.await_ready()
        run, broken = verdict(arena, safe)
        assert len(run.acknowledged) == 2
        assert broken == (set() if safe else {Rule.LOST, Rule.TABLES_DIFFER})


@BOTH
def test_fence(ground: Ground, safe: bool) -> None:
    """A second node takes the shard over; the first one, which does not know, is asked."""
    with ground.arena(shards=1, off=() if safe else ("fence",)) as arena:
        first = arena.node("first")
        arena.make_queues(first, ["a"])
        old = arena.client(first, "old")
        worker = arena.worker(first)
        assert old.submit("a", ["quick"])
        until(lambda: worker.told("acked"), "the first node works", tail=arena.tails)
        second = arena.node("second")
        arena.worker(second, "other")
        head = _head(arena)
        answer = old.submit("a", ["quick", "slow"], keyed=False)
        assert (answer is None) == safe, "the loser's append returns nothing"
        if safe:
            _loser_is_out(arena, first, head)
        assert arena.client(second, "new").submit("a", ["quick", "answer"])
        _, broken = verdict(arena, safe)
        assert safe or Rule.EFFECT_WITHOUT_CAUSE in broken


def _loser_is_out(arena: Arena, loser: Node, head: int) -> None:
    """It wrote nothing, dropped the shard, says so, and leaves the shard to its owner."""
    assert _head(arena) == head
    assert loser.metric("taskforge_shards_lost_total") == 1
    assert loser.metric("taskforge_log_fenced_total") == 1
    assert not loser.answers("/readyz")
    assert loser.alive


def test_parents_limits_and_tick_keys(ground: Ground) -> None:
    """Without them what `test_mixed` promises is broken, one thing after the other."""
    with ground.arena(shards=1, off=("parents", "limits", "tick_keys")) as arena:
        node = arena.node()
        with Client(node.url, API_KEY) as client:
            for name, settings in SETTINGS.items():
                client.queues.create(name, settings=settings)
        arena.queues += SETTINGS
        arena.worker(node)
        submitter = MixedSubmitter("mixed", node.url, API_KEY, arena.folder)
        arena.clients.append(submitter)
        submitter.schedule("each-second")
        submitter.paced(HERD)
        for _ in range(NARROW + 1):
            submitter.limited(NARROW_QUEUE, None)
            submitter.limited(KEYED_QUEUE, "ada")
        submitter.graph()
        node.kill()
        node.start(TASKFORGE_FAULTPOINT=faultpoints.AFTER_TICK_BEFORE_ROW)
        node.died(SETTLED_S)
        node.start()
        node.await_ready()
        until(lambda: node.metric(TICKS), "the ticks since then are decided", tail=arena.tails)
        submitter.pause("each-second")
        run, violations = arena.judge(SETTLED_S)
        assert Rule.SUBMITTED_TWICE in rules(violations)
        subjects = [violation.subject for violation in mixed_violations(run)]
        for broken in (
            "limit of narrow",
            "limit of keyed.ada",
            "rate of paced",
            "slow-",
            "schedule",
        ):
            assert any(subject.startswith(broken) for subject in subjects), (broken, subjects)


@BOTH
def test_recovered_leases(ground: Ground, safe: bool) -> None:
    """Node and worker die with all slots of a queue taken: the next ones get them back, and
    `test_mixed` would see it if they did not."""
    with ground.arena(shards=1, off=() if safe else ("recovered_leases",)) as arena:
        node = arena.node()
        with Client(node.url, API_KEY) as client:
            client.queues.create(NARROW_QUEUE, settings=SETTINGS[NARROW_QUEUE])
        arena.queues.append(NARROW_QUEUE)
        lost = arena.worker(node, "lost")
        filler = MixedSubmitter("filler", node.url, API_KEY, arena.folder)
        arena.clients.append(filler)
        gate = take_all(arena, filler, SETTLED_S)
        node.kill()
        lost.kill()
        open_gate(gate)
        node.start()
        node.await_ready()
        arena.worker(node, "heir")
        if safe:
            open_gate(take_all(arena, filler, SETTLED_S))
            verdict(arena, safe)
        else:
            with pytest.raises(AssertionError, match=f"{NARROW} handlers at once"):
                take_all(arena, filler, LEAKED_S)


def _head(arena: Arena) -> int:
    return int(fetch(arena.url, "SELECT max(lsn) FROM shard_log WHERE shard = 0")[0][0])
