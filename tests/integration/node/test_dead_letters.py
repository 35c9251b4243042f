"""Dead letters: found by filter, put back in pieces and at a rate, purged, kept for a time; and
their hooks, once each whoever is killed when."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import aiohttp
import msgspec
import pytest

from taskforge import AsyncClient, InvalidInput
from taskforge_server.api.cli.serving import api_of
from taskforge_server.engine import errors, limits
from taskforge_server.engine.cluster.memory import Exchange, MemoryCluster
from taskforge_server.engine.model.deadletter import DeadLetterSettings
from taskforge_server.engine.model.joboptions import pack_told
from taskforge_server.engine.model.queue import QueueRef, QueueSettings
from taskforge_server.engine.model.tenant import api_key_text
from taskforge_server.engine.node.deadletters import KEY_PREFIX, DeadLetterUpkeep
from taskforge_server.engine.node.node import Node
from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.cursors import DEAD_LETTERS, place_cursor
from taskforge_server.engine.store.dead_letters import FIRST, DeadLetterFilter, DeadLetters
from taskforge_server.engine.store.pool import connect
from taskforge_server.ext.ids import uuid_bytes, uuid_text
from taskforge_server.ext.table import SubmitBatch
from tests.support.engine_parts import done
from tests.support.real_node import SHARDS, Hand, arrives, config_for, kill, running_node

KEY = api_key_text(bytes(32))
EVERYTHING = DeadLetterFilter()


def error(kind: str) -> bytes:
    return json.dumps({"type": kind, "message": "m", "retryable": False}).encode()


async def prepared(url: str) -> bytes:
    connection = await connect(url, application_name="test")
    try:
        return (await bootstrap(connection, SHARDS, KEY)).project_id
    finally:
        await connection.close()


@dataclass
class Site:
    """A node with its door, and a hand on it."""

    node: Node
    hand: Hand
    client: AsyncClient
    queue: QueueRef


@asynccontextmanager
async def site(url: str, **settings: Any) -> AsyncIterator[Site]:
    project_id = await prepared(url)
    async with running_node(url) as node:
        hand = Hand(node, project_id)
        server = api_of(node)
        port = await server.start("127.0.0.1", 0)
        async with AsyncClient(f"http://127.0.0.1:{port}", KEY) as client:
            yield Site(node, hand, client, await hand.queue("mail", **settings))
        await server.stop(1.0)


async def fail(
    hand: Hand, queue: QueueRef, count: int = 1, kind: str = "E", **told: Any
) -> list[bytes]:
    """So many jobs fail for good; their ids, once the tables know it."""
    ids = await failed(hand, queue, count, kind, **told)
    await hand.node.projector.flush()
    return ids


async def failed(
    hand: Hand, queue: QueueRef, count: int = 1, kind: str = "E", **told: Any
) -> list[bytes]:
    batch = SubmitBatch()
    for _ in range(count):
        batch.add(told.get("job_type", "send"), b'{"to": 1}', 0, 0, 0, 0, told.get("options"))
    ids = await hand.node.doors.submit(queue, batch)
    await end(hand, queue, count, error(kind))
    return [ids[at : at + 16] for at in range(0, len(ids), 16)]


async def end(hand: Hand, queue: QueueRef, count: int, said: bytes) -> None:
    """A worker takes so many jobs, and says this of each."""
    worker, outlet = await hand.worker(queue, credit=count)
    await arrives(outlet, lambda: len(outlet.tokens()) == count)
    await worker.receive([done(1, b"", *((token, 1, said) for token in outlet.tokens()))])
    await arrives(outlet, lambda: outlet.of(12))
    worker.detach()


async def found(client: AsyncClient, **wanted: Any) -> list[str]:
    return [job.id async for job in client.dead_letters.list("mail", **wanted)]


def texts(ids: list[bytes]) -> list[str]:
    return [uuid_text(job_id) for job_id in ids]


async def test_dead_letters_are_found_put_back_and_purged(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site(postgres_url) as s:
        await they_are_listed(s)
        await they_are_put_back(s)
        await they_are_put_back_at_a_rate(s)
        await they_are_purged(s)
        await one_request_looks_at_a_bounded_number(s, monkeypatch)
        await one_answer_holds_a_bounded_number_of_bytes(s, monkeypatch)
        await nobody_is_put_off_for_ever(s)


async def one_answer_holds_a_bounded_number_of_bytes(
    s: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await s.client.dead_letters.purge("mail")
    ids = texts(await fail(s.hand, s.queue, 3, "E" * 1_000))
    path = "/v1/queues/mail/dead-letters"
    with monkeypatch.context() as patch:
        patch.setattr(limits, "DEAD_LETTERS_BYTES_MAX", 2_500)
        pages, cursor = [], None
        while not pages or cursor:
            asked = s.client._server.url(path if cursor is None else f"{path}?cursor={cursor}")
            headers = {"Authorization": f"Bearer {KEY}"}
            async with aiohttp.ClientSession(headers=headers) as http, http.get(asked) as answer:
                page = await answer.json()
            pages.append([item["id"] for item in page["items"]])
            cursor = page["next_cursor"]
        assert [len(page) for page in pages] == [2, 1]
        assert sorted(job_id for page in pages for job_id in page) == sorted(ids)
        letters = DeadLetters(s.node.pool)
        raw = [uuid_bytes(job_id) for job_id in ids]
        attempts = await letters.attempts(s.hand.project_id, raw, 5)
        assert sum(map(len, attempts.values())) == 2


async def nobody_is_put_off_for_ever(s: Site) -> None:
    (job_id,) = await fail(s.hand, s.queue, 1)
    last = (2**63 - 1,) * 2
    forged = place_cursor(DEAD_LETTERS, last, bytes(16))
    with pytest.raises(InvalidInput, match="days"):
        await s.client.dead_letters.requeue("mail", cursor=forged, per_s=1.0)
    done = await s.client.dead_letters.requeue("mail", per_s=1.0)
    assert uuid_text(job_id) in done.job_ids


async def they_are_listed(s: Site) -> None:
    assert await found(s.client) == []
    first = await fail(s.hand, s.queue, 2, "A")
    between = datetime.now(UTC)
    (second,) = await fail(s.hand, s.queue, 1, "B")
    alive = await s.hand.submit(s.queue, 1, s.node.clock.now_us() + 3_600_000_000)
    every = await found(s.client)
    assert every[0] == uuid_text(second)
    assert set(every) == set(texts([*first, second]))
    assert uuid_text(alive[0]) not in every
    letter, *_ = [job async for job in s.client.dead_letters.list("mail")]
    assert (letter.status, letter.failed_reason, letter.attempts) == ("failed", "not_retryable", 1)
    assert letter.last_error["type"] == "B"
    assert [entry.error["type"] for entry in letter.executions] == ["B"]
    without = [job async for job in s.client.dead_letters.list("mail", attempts=0)]
    assert not without[0].executions
    assert await found(s.client, failed_after=between) == [uuid_text(second)]
    assert set(await found(s.client, failed_before=between)) == set(texts(first))
    assert await found(s.client, reasons=["timeout", "error"]) == []
    assert len(await found(s.client, reasons=["error", "not_retryable"], job_type="send")) == 3
    assert await found(s.client, tags=["x"]) == []
    with pytest.raises(TypeError, match="chosen by tag"):
        await found(s.client, tag="x")
    purged = await s.client.dead_letters.purge("mail")
    assert (purged.count, purged.more, purged.next_cursor) == (3, False, None)
    with pytest.raises(InvalidInput):
        await s.client.dead_letters.requeue("mail", cursor="made up")


async def they_are_put_back(s: Site) -> None:
    ids = texts(await fail(s.hand, s.queue, 5))
    plan = await s.client.dead_letters.requeue("mail", dry_run=True)
    assert (plan.count, plan.dry_run, set(plan.job_ids)) == (5, True, set(ids))
    assert len(await found(s.client)) == 5
    some = await s.client.dead_letters.requeue("mail", limit=2)
    rest = await s.client.dead_letters.requeue("mail", cursor=some.next_cursor)
    assert (some.count, some.more, rest.count, rest.next_cursor) == (2, True, 3, None)
    assert set(some.job_ids) | set(rest.job_ids) == set(ids)
    assert s.node.doors.queue_counts(s.queue)[0] == 5
    again = await s.client.dead_letters.requeue("mail")
    assert again.count == 0
    # They fail again: the same request with its key does nothing now.
    await end(s.hand, s.queue, 5, error("E"))
    await s.node.projector.flush()
    assert len(await found(s.client)) == 5
    path, key = "/v1/queues/mail/dead-letters/requeue", {"Idempotency-Key": "one"}
    first, told = await post(s, path, {"limit": 2}, key)
    await end(s.hand, s.queue, 2, error("E"))
    await s.node.projector.flush()
    repeated, again_told = await post(s, path, {"limit": 2}, key)
    assert (repeated, again_told.get("Idempotent-Replay")) == (first, "true")
    assert told.get("Idempotent-Replay") is None
    assert len(await found(s.client)) == 5
    assert (await post(s, path, {"limit": 3}, key))[0]["code"] == "idempotency_key_reused"
    entries = await s.node.pool.fetch("SELECT * FROM audit_log ORDER BY sequence")
    acts = [row["action"] for row in entries]
    assert {"dead_letters.requeue", "dead_letters.purge"} <= set(acts)
    await s.client.dead_letters.purge("mail")


async def post(
    s: Site, path: str, body: dict[str, Any], headers: dict[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    url = s.client._server.url(path)
    headers |= {"Authorization": f"Bearer {KEY}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(url, json=body) as answer,
    ):
        return await answer.json(content_type=None), dict(answer.headers)


async def they_are_put_back_at_a_rate(s: Site) -> None:
    await fail(s.hand, s.queue, 4)
    some = await s.client.dead_letters.requeue("mail", per_s=0.01, limit=2)
    rest = await s.client.dead_letters.requeue("mail", per_s=0.01, cursor=some.next_cursor)
    due = []
    for job_id in some.job_ids + rest.job_ids:
        job = await s.client.get(job_id)
        assert job.scheduled_for or job.status == "pending"
        due.append(job.scheduled_for or job.updated_at)
    waits = [(b - a).total_seconds() for a, b in pairwise(due) if a and b]
    assert waits == [pytest.approx(100, abs=5)] * 3
    for job_id in some.job_ids + rest.job_ids:
        await s.client.cancel(job_id)


async def they_are_purged(s: Site) -> None:
    await fail(s.hand, s.queue, 2, "A")
    cut = datetime.now(UTC)
    await fail(s.hand, s.queue, 2, "B")
    plan = await s.client.dead_letters.purge("mail", failed_before=cut, dry_run=True)
    assert (plan.count, plan.dry_run) == (2, True)
    gone = await s.client.dead_letters.purge("mail", failed_before=cut)
    assert (gone.count, set(gone.job_ids)) == (2, set(plan.job_ids))
    assert len(await found(s.client)) == 2
    executions = {uuid_text(row["job_id"]) for row in await s.hand.rows("job_executions")}
    assert not executions & set(gone.job_ids)
    # What was put back is no dead letter, whatever the tables say at the moment.
    (put_back, _) = await found(s.client)
    await s.client.retry(put_back)
    await s.client.dead_letters.purge("mail")
    await s.node.projector.flush()
    assert (await s.client.get(put_back)).status == "pending"
    assert put_back in {uuid_text(row["id"]) for row in await s.hand.rows("jobs")}
    await s.client.cancel(put_back)


async def one_request_looks_at_a_bounded_number(s: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that fits the oldest alone is reached by cursors, over pages without entries."""
    monkeypatch.setattr("taskforge_server.engine.store.dead_letters.LOOK", 2)
    (oldest,) = await fail(s.hand, s.queue, 1, options=tagged("x"))
    await fail(s.hand, s.queue, 5)
    project_id = s.hand.project_id
    pages, after = [], FIRST
    wanted = DeadLetterFilter(tags=("x",))
    while True:
        jobs, following = await s.node.dead_letters.page(project_id, s.queue.id, wanted, after, 10)
        pages.append([job["id"] for job in jobs])
        if following is None:
            break
        after = following
    assert pages == [[], [], [oldest], []]
    assert await found(s.client, tags=["x"]) == [uuid_text(oldest)]
    monkeypatch.undo()
    rows, following = await s.node.dead_letters.page(
        project_id, s.queue.id, EVERYTHING, FIRST, 10, bytes_max=1
    )
    assert len(rows) == 1
    assert following is not None


def tagged(tag: str) -> bytes:
    packed = pack_told({"tags": [tag]})
    assert packed is not None
    return packed


async def test_they_are_kept_for_their_time(postgres_url: str) -> None:
    async with site(postgres_url, dead_letters={"keep_s": 60.0}) as s:
        old = await fail(s.hand, s.queue, 3)
        await s.node.pool.execute(
            "UPDATE jobs SET finished_at = finished_at - interval '61 s' WHERE id = ANY ($1)", old
        )
        young = await fail(s.hand, s.queue, 2)
        other = await s.hand.queue("other")
        kept = await fail(s.hand, other, 1)
        await s.node.pool.execute(
            "UPDATE jobs SET finished_at = finished_at - interval '1 day' WHERE id = ANY ($1)", kept
        )
        await s.node.dead_letter_upkeep.expire()
        assert {row["id"] for row in await s.hand.rows("jobs")} == {*young, *kept}
        assert len(await s.hand.rows("job_executions")) == 3
        with pytest.raises(errors.InvalidInput) as refused:
            await s.hand.queue("none", history="none", dead_letters={"keep_s": 60.0})
        assert refused.value.field == "dead_letters"


# hooks

HOOK = {"hook": {"queue": "hooks", "job_type": "send"}}


async def hook_jobs(hand: Hand) -> list[dict[str, Any]]:
    """The payloads of all hook jobs that there are."""
    rows = await hand.rows("jobs")
    return [
        json.loads(row["payload"])
        for row in rows
        if (row["idempotency_key"] or "").startswith(KEY_PREFIX)
    ]


async def told_of(hand: Hand, count: int) -> list[dict[str, Any]]:
    """The same when there are so many."""
    async with asyncio.timeout(20):
        while len(told := await hook_jobs(hand)) < count:  # noqa: ASYNC110 - no call waits for it
            await asyncio.sleep(0.02)
    return told


async def settled(node: Node) -> None:
    """All hooks that are to come are submitted."""
    async with asyncio.timeout(20):
        while node.core.dead_letters.waiting:  # noqa: ASYNC110 - the upkeep sets no event for it
            await asyncio.sleep(0.02)


async def test_each_dead_letter_is_told_of_once(postgres_url: str) -> None:
    async with site(postgres_url) as s:
        hooks = await s.hand.queue("hooks")
        before = await fail(s.hand, s.queue)
        s = Site(s.node, s.hand, s.client, await change(s, HOOK))
        after = await fail(s.hand, s.queue, 3, "Boom", options=tagged("x"))
        told = await told_of(s.hand, 3)
        assert {entry["job_id"] for entry in told} == set(texts(after))
        assert uuid_text(before[0]) not in json.dumps(told)
        assert told[0]["error"]["type"] == "Boom"
        assert {name: told[0][name] for name in ("queue", "reason", "attempts", "tags")} == {
            "queue": "mail",
            "reason": "not_retryable",
            "attempts": 1,
            "tags": ["x"],
        }
        # One that fails again is another dead letter.
        await s.client.retry(uuid_text(after[0]))
        await end(s.hand, s.queue, 1, error("Again"))
        told = await told_of(s.hand, 4)
        assert [entry["attempts"] for entry in told if entry["error"]["type"] == "Again"] == [2]
        # A hook job that fails for good has no hook, even where its queue has one.
        with_hook = QueueSettings(dead_letters=msgspec.convert(HOOK, DeadLetterSettings))
        row = await s.node.queues.update(s.hand.project_id, hooks.id, settings=with_hook)
        s.node.doors.queue_changed(row.ref())
        await end(s.hand, row.ref(), 4, error("E"))
        await settled(s.node)
        assert len(await hook_jobs(s.hand)) == 4
        with pytest.raises(InvalidInput) as refused:
            await change(s, {"hook": {"queue": "nowhere", "job_type": "x"}})
        assert refused.value.field == "settings.dead_letters.hook.queue"
        await change(s, {"hook": None})
        await fail(s.hand, s.queue)
        await settled(s.node)
        assert len(await hook_jobs(s.hand)) == 4


async def change(s: Site, told: dict[str, Any]) -> QueueRef:
    """Change the queue over HTTP; the queue as it is then."""
    url = s.client._server.url("/v1/queues/mail")
    headers = {"Authorization": f"Bearer {KEY}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.patch(url, json={"settings": {"dead_letters": told}}) as answer,
    ):
        body = await answer.json(content_type=None)
        if answer.status != 200:
            raise InvalidInput(
                body["detail"], code=body["code"], status=answer.status, field=body["field"]
            )
    return (await s.node.queues.get(s.hand.project_id, "mail")).ref()


async def never(upkeep: DeadLetterUpkeep, queue_id: bytes, lsn: int) -> bool:
    return False


async def away(rows: DeadLetters, queue_id: bytes, lsn: int, job_id: bytes) -> None:
    raise errors.Unavailable(1.0, "the database is away")


@pytest.mark.parametrize("killed", ["before the hook", "before its place is moved"])
async def test_a_hook_is_submitted_once_whoever_is_killed(
    postgres_url: str, killed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project_id = await prepared(postgres_url)
    first = await started(postgres_url)
    hand = Hand(first, project_id)
    await hand.queue("hooks")
    queue = await hand.queue("mail", dead_letters=HOOK)
    if killed == "before the hook":
        monkeypatch.setattr(DeadLetterUpkeep, "look", never)
        (dead,) = await failed(hand, queue)
    else:
        monkeypatch.setattr(DeadLetters, "hooks_submitted", away)
        (dead,) = await failed(hand, queue)
        await told_of(hand, 1)
    await kill(first)
    monkeypatch.undo()
    async with running_node(postgres_url) as second:
        hand = Hand(second, project_id)
        (told,) = await told_of(hand, 1)
        assert told["job_id"] == uuid_text(dead)
        await settled(second)
        place = await second.dead_letters.hook_place(queue.id)
        assert place is not None
        assert place[1] == dead
        assert len(await hook_jobs(hand)) == 1
    # And a third one has nothing to do.
    async with running_node(postgres_url) as third:
        await settled(third)
        assert len(await hook_jobs(Hand(third, project_id))) == 1


async def started(url: str) -> Node:
    node = Node(config_for(url), lambda node_id: MemoryCluster(Exchange(), node_id))
    await node.start()
    return node


async def test_who_puts_a_dead_letter_back_has_it_told_of_first(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site(postgres_url, dead_letters={"keep_s": 60.0}) as s:
        await s.hand.queue("hooks")
        queue = await change(s, HOOK)
        assert queue.settings.dead_letters.keep_s == 60.0
        look = DeadLetterUpkeep.look
        monkeypatch.setattr(DeadLetterUpkeep, "look", never)
        one, *others = await fail(s.hand, queue, 4)
        # Neither its time nor a purge takes a dead letter away that was not told of.
        assert (await s.client.dead_letters.purge("mail")).count == 0
        assert await s.node.dead_letters.expire(queue.id, datetime.now(UTC), 10) == 0
        await s.client.retry(uuid_text(one))
        assert [told["job_id"] for told in await hook_jobs(s.hand)] == [uuid_text(one)]
        again = await s.client.dead_letters.requeue("mail", limit=2)
        assert len(again.job_ids) == 2
        assert len(await hook_jobs(s.hand)) == 3
        monkeypatch.setattr(DeadLetterUpkeep, "look", look)
        await settled(s.node)
        told = [entry["job_id"] for entry in await told_of(s.hand, 4)]
        assert sorted(told) == sorted(texts([one, *others]))
        assert (await s.client.dead_letters.purge("mail")).count == 1


async def test_hooks_wait_for_their_queue(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskforge_server.engine.limits.HOOKS_PAUSE_S", 0.01)
    async with site(postgres_url) as s:
        hooks = await s.hand.queue("hooks")
        queue = await change(s, HOOK)
        await s.node.queues.delete(s.hand.project_id, hooks.id, lambda: None)
        await fail(s.hand, queue, 2)
        assert await hook_jobs(s.hand) == []
        await s.hand.queue("hooks")
        assert len(await told_of(s.hand, 2)) == 2


async def test_a_job_that_ran_again_does_not_do_so_by_a_row_that_was_read_before(
    postgres_url: str,
) -> None:
    """Two find it failed; when the second asks, it has succeeded and left memory."""
    async with site(postgres_url) as s:
        ids = await fail(s.hand, s.queue, 2)
        letters = DeadLetters(s.node.pool)
        read, _ = await letters.page(s.hand.project_id, s.queue.id, EVERYTHING, FIRST, 10)
        for job in read:
            await s.node.doors.requeue(job)
        worker, outlet = await s.hand.worker(s.queue)
        await arrives(outlet, lambda: len(outlet.tokens()) == 2)
        await worker.receive([done(1, b"".join(outlet.tokens()))])
        await arrives(outlet, lambda: outlet.of(12))
        await s.node.projector.flush()
        assert not any([await s.node.doors.look(job_id) for job_id in ids])
        with pytest.raises(errors.Conflict):
            await s.node.doors.requeue(read[0])
        assert await s.node.doors.requeue_many(s.queue, read, 0, 0, b"", None) == (b"", False)
        assert {row["status"] for row in await s.hand.rows("jobs")} == {"succeeded"}
