"""Why a job is not running: every code, from a real node, through HTTP and the SDK."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from taskforge import AsyncClient, NotFound, QueueSettings, Rate, RetryPolicy, Why, task
from taskforge_server.api.cli.serving import api_of
from taskforge_server.engine import limits
from taskforge_server.engine.actors.worker import WorkerActor
from taskforge_server.engine.model.audit import OPERATOR
from taskforge_server.engine.model.permissions import JOBS_READ
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.engine.model.tenant import api_key_text
from taskforge_server.engine.model.why import CODES
from taskforge_server.engine.node.node import Node
from taskforge_server.engine.store.api_keys import create_api_key
from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.pool import connect
from taskforge_server.ext.table import NEVER_US, SubmitBatch
from tests.support.engine_parts import KeptOutlet, done
from tests.support.real_node import SHARDS, Hand, arrives, running_node
from tests.support.reference import ROOT

KEY = api_key_text(bytes(32))


@task(name="send", queue="mail")
async def send() -> None:
    """Runs on workers that the tests hold in their hands."""


@task(name="other", queue="mail")
async def other() -> None:
    """No worker takes it."""


@dataclass
class Site:
    node: Node
    hand: Hand
    client: AsyncClient
    queue: QueueRef
    url: str

    async def worker(self, credit: int = 1) -> tuple[WorkerActor, KeptOutlet]:
        return await self.hand.worker(self.queue, credit=credit)

    async def why(self, job_id: str) -> Why:
        return await self.client.why(job_id)

    async def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        """A route that the SDK does not have."""
        headers = {"Authorization": f"Bearer {KEY}"}
        async with (
            aiohttp.ClientSession(self.url, headers=headers) as session,
            session.request(method, path, json=body) as response,
        ):
            assert response.status in (200, 201, 204), await response.text()


@pytest.fixture
async def site(postgres_url: str) -> AsyncIterator[Site]:
    connection = await connect(postgres_url, application_name="test")
    project_id = (await bootstrap(connection, SHARDS, KEY)).project_id
    await connection.close()
    async with running_node(postgres_url, lease_ttl_s=60.0) as node:
        server = api_of(node)
        port = await server.start("127.0.0.1", 0)
        url = f"http://127.0.0.1:{port}"
        async with AsyncClient(url, KEY) as client:
            policy = RetryPolicy(
                max_attempts=3, base_delay_s=3600.0, max_delay_s=3600.0, jitter="none"
            )
            await client.queues.create("mail", settings=QueueSettings(retry_policy=policy))
            queue = (await node.queues.get(project_id, "mail")).ref()
            yield Site(node, Hand(node, project_id), client, queue, url)
        await server.stop(1.0)


async def tokens(outlet: KeptOutlet, count: int) -> Sequence[bytes]:
    await arrives(outlet, lambda: len(outlet.tokens()) >= count)
    return outlet.tokens()


async def acked(outlet: KeptOutlet, count: int) -> None:
    await arrives(outlet, lambda: len(outlet.of(12)) >= count)


async def test_who_is_not_there(site: Site) -> None:
    job = await site.client.submit(send)
    why = await job.why()
    assert (why.job_id, why.status, why.running, why.codes) == (
        job.id,
        "pending",
        False,
        ["no_worker"],
    )
    assert "mail" in why.reasons[0].message
    assert why.estimated_start_at is None
    worker, outlet = await site.worker(credit=0)
    worker.handle([b"\x92\x02\x00"])
    odd = await site.client.submit(other)
    why = await odd.why()
    assert why.codes == ["no_worker_for_type"]
    assert why.reasons[0].details == {
        "job_type": "other",
        "workers": 1,
        "connected_types": ["send"],
    }
    stranger, _ = await site.worker(credit=0)
    site.node.core.detach(stranger)
    await site.node.worker_rows.write()
    path = f"/v1/workers/{UUID(bytes=worker.id)}"
    await site.call("POST", f"{path}/drain")
    why = await job.why()
    assert why.codes == ["workers_drained"]
    assert why.reasons[0].details["workers"] == [str(UUID(bytes=worker.id))]
    await reader_sees_no_ids(site, job.id)
    await site.call("POST", f"{path}/resume")
    assigned = f"/v1/queues/mail/assignments/{UUID(bytes=stranger.id)}"
    await site.call("PUT", assigned, {})
    assert (await job.why()).codes == ["workers_not_assigned"]
    await site.call("DELETE", assigned)
    settings = QueueSettings(worker_types=["specialized_cpu"])
    await site.client.queues.update("mail", settings=settings)
    why = await job.why()
    assert why.codes == ["worker_type_refused"]
    assert why.reasons[0].details["connected"] == ["general"]
    assert outlet.tokens() == []


async def reader_sees_no_ids(site: Site, job_id: str) -> None:
    """Whoever may only read jobs is told how many workers, not which."""
    text = api_key_text(b"r" * 32)
    async with site.node.pool.acquire() as connection:
        await create_api_key(connection, site.hand.project_id, "reader", text, [JOBS_READ])
    async with AsyncClient(site.url, text) as client:
        why = await client.why(job_id)
    assert why.codes == ["workers_drained"]
    assert why.reasons[0].details["workers"] == 1


async def test_a_plan_without_room_for_workers(site: Site) -> None:
    job = await site.client.submit(send)
    organization_id = (await site.node.plans.find(site.hand.project_id, b"")).organization_id
    await site.node.subscriptions.agree(organization_id, OPERATOR, changes={"max_workers": 0})
    site.node.plans.forget(organization_id)
    assert (await job.why()).codes == ["no_worker", "worker_limit"]


async def test_position_and_credit(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    _, outlet = await site.worker(credit=1)
    first = await site.client.submit(send)
    await tokens(outlet, 1)
    jobs = [await site.client.submit(send) for _ in range(3)]
    before = [await site.client.submit(send, priority=5) for _ in range(2)]
    why = await jobs[2].why()
    assert why.codes == ["no_credit", "jobs_ahead"]
    assert why.reasons[0].details == {"workers": 1, "outstanding": 1}
    ahead = why.reasons[1].details
    assert ahead == {"ahead": 4, "position": 5, "exact": True, "waiting": 5}
    assert why.estimated_start_at is not None
    assert why.estimated_start_at > datetime.now(UTC) - timedelta(minutes=1)
    assert (await before[0].why()).codes == ["no_credit"]
    # Too many to look at: rows are counted.
    await site.node.projector.flush()
    monkeypatch.setattr(limits, "WHY_JOBS_MAX", 1)
    ahead = (await jobs[2].why()).reasons[1].details
    assert (ahead["ahead"], ahead["exact"]) == (4, False)
    assert (await first.why()).running


async def test_a_job_that_runs(site: Site) -> None:
    worker, outlet = await site.worker()
    job = await site.client.submit(send)
    await tokens(outlet, 1)
    why = await job.why()
    assert (why.running, why.codes) == (True, ["running"])
    assert why.reasons[0].details["worker_id"] == str(UUID(bytes=worker.id))
    assert why.reasons[0].details["attempt"] == 1
    await job.cancel(grace_s=60)
    assert (await job.why()).codes == ["running", "cancel_asked"]
    worker.detach()
    assert (await job.why()).codes == ["running", "cancel_asked", "worker_away"]


async def test_a_job_that_is_over(site: Site) -> None:
    worker, outlet = await site.worker(credit=2)
    good, bad = await site.client.submit(send), await site.client.submit(send)
    found = await tokens(outlet, 2)
    error = json.dumps({"type": "ValueError", "message": "no", "retryable": False}).encode()
    await worker.receive([done(1, found[0], (found[1], 1, error))])
    await acked(outlet, 1)
    assert (await good.why()).codes == ["succeeded"]
    why = await bad.why()
    assert (why.status, why.running, why.codes) == ("failed", False, ["failed"])
    assert why.reasons[0].details["reason"] is not None
    later = await site.client.submit(send, delay_s=60)
    await later.cancel()
    assert (await later.why()).codes == ["cancelled"]
    await site.node.projector.flush()
    assert (await good.why()).codes == ["succeeded"], "from the tables"
    with pytest.raises(NotFound):
        await site.why(str(UUID(int=1)))


async def test_times(site: Site) -> None:
    worker, outlet = await site.worker(credit=2)
    due = datetime.now(UTC) + timedelta(hours=1)
    later = await site.client.submit(send, scheduled_for=due)
    why = await later.why()
    assert why.codes == ["scheduled"]
    assert why.estimated_start_at == due
    failing, snoozing = await site.client.submit(send), await site.client.submit(send)
    found = await tokens(outlet, 2)
    error = json.dumps({"type": "ValueError", "message": "no", "retryable": True}).encode()
    snooze = json.dumps({"delay_ms": 60_000}).encode()
    await worker.receive([done(1, b"", (found[0], 1, error), (found[1], 4, snooze))])
    await acked(outlet, 1)
    why = await failing.why()
    assert why.codes == ["backoff"]
    details = why.reasons[0].details
    assert (details["attempt"], details["error"]) == (1, {"type": "ValueError", "message": "no"})
    assert (await snoozing.why()).codes == ["put_off"]
    shard = site.node.core.shards[site.queue.shard]
    shard.table.change(UUID(later.id).bytes, site.node.clock.now_us(), due_us=NEVER_US)
    site.node.core.journal.dirty(shard)
    why = await later.why()
    assert (why.codes, why.estimated_start_at) == (["held"], None)


async def test_parents(site: Site) -> None:
    await site.worker(credit=0)
    parent = await site.client.submit(send)
    child = await site.client.submit(send.configure(parents=[parent.id]))
    why = await child.why()
    assert why.codes[0] == "waiting_for_parents"
    assert why.reasons[0].details == {"waiting_on": 1, "parents": [parent.id]}
    assert why.estimated_start_at is None
    assert "parents_failed" not in why.codes
    await parent.cancel()
    why = await child.why()
    told = next(reason for reason in why.reasons if reason.code == "parents_failed")
    assert told.details == {"parents": [parent.id], "count": 1}


async def test_what_holds_for_the_queue_and_the_node(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, _ = await site.worker(credit=0)
    job = await site.client.submit(send)
    await site.client.queues.pause("mail")
    assert (await job.why()).codes[0] == "queue_paused"
    await site.client.queues.resume("mail")
    core = site.node.core
    core.dispatcher.stopped = True
    assert (await job.why()).codes[0] == "node_draining"
    core.dispatcher.stopped = False
    found = await site.node.doors.job(UUID(job.id).bytes)
    assert found is not None
    with monkeypatch.context() as patch:
        patch.setattr(core.vault, "ring", lambda project_id: SimpleNamespace(whole=False))
        assert "keys_missing" in (await site.node.doors.why(site.queue, *found)).codes
    await site.node.projector.flush()
    shard = core.shards[site.queue.shard]
    shard.counted = False
    assert "loading" in (await job.why()).codes
    shard.counted = True
    with monkeypatch.context() as patch:
        patch.delitem(core.shards, site.queue.shard)
        assert (await job.why()).codes == ["elsewhere"]
    assert not worker.ended


async def test_limits(site: Site) -> None:
    _, outlet = await site.worker(credit=10)
    await site.client.queues.update("mail", settings=QueueSettings(max_concurrency=1))
    first = await site.client.submit(send)
    await tokens(outlet, 1)
    second = await site.client.submit(send)
    why = await second.why()
    assert why.codes == ["limit"]
    details = why.reasons[0].details
    assert (details["limit"], details["max"], details["running"]) == ("max_concurrency", 1, 1)
    assert details["holders"] == [first.id]
    assert why.reasons[0].message.endswith("is used up: 1 of 1 run")
    assert why.estimated_start_at is None, "whoever holds it ends when it ends"


async def test_a_limit_of_keys(site: Site) -> None:
    """Whoever has another key is not held."""
    settings = QueueSettings(max_concurrency_per_key=1)
    await site.client.queues.update("mail", settings=settings)
    _, outlet = await site.worker(credit=10)
    first = await site.client.submit(send.configure(group_key="ada"))
    await tokens(outlet, 1)
    why = await (await site.client.submit(send.configure(group_key="ada"))).why()
    assert why.codes == ["limit"]
    details = why.reasons[0].details
    assert (details["limit"], details["holders"]) == ("max_concurrency_per_key", [first.id])
    await site.client.submit(send.configure(group_key="bob"))
    await tokens(outlet, 2)


@pytest.mark.parametrize("limit", ["rate", "rate_per_key"])
async def test_a_rate_says_when_there_is_a_token(
    site: Site, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node does not know what was used before it had the shard, and waits for the first one."""
    monkeypatch.setattr(limits, "QUEUE_AGE_DOUBT_S", 3600.0)
    await site.client.queues.update("mail", settings=one_an_hour(limit))
    await site.worker(credit=10)
    await waits_for_a_token(site, limit)


@pytest.mark.parametrize("limit", ["rate", "rate_per_key"])
async def test_a_new_queue_starts_with_a_full_bucket(
    site: Site, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first job starts at once, and the second waits for a token."""
    monkeypatch.setattr(limits, "QUEUE_AGE_DOUBT_S", 0.0)
    await site.client.queues.update("mail", settings=one_an_hour(limit))
    _, outlet = await site.worker(credit=10)
    await site.client.submit(send.configure(group_key="ada"))
    await tokens(outlet, 1)
    await waits_for_a_token(site, limit)


def one_an_hour(limit: str) -> QueueSettings:
    rate: Any = {limit: Rate(per_s=1 / 3600, burst=1)}
    return QueueSettings(**rate)


async def waits_for_a_token(site: Site, limit: str) -> None:
    why = await (await site.client.submit(send.configure(group_key="ada"))).why()
    assert (why.codes, why.reasons[0].details["limit"]) == (["limit"], limit)
    assert re.search(r"is used up: the next start may be in 3\d\d\d s$", why.reasons[0].message)
    assert why.estimated_start_at is not None
    in_an_hour = datetime.now(UTC) + timedelta(hours=1)
    assert timedelta() < in_an_hour - why.estimated_start_at < timedelta(minutes=5)


async def test_a_job_that_nothing_keeps_starts(site: Site) -> None:
    await site.worker(credit=5)
    actor = site.node.core.queue(site.queue)
    batch = SubmitBatch()
    batch.add("send", b"{}")
    job_id = actor.shard.table.submit(actor.index, batch, site.node.clock.now_us())
    job = actor.shard.table.get(job_id)
    assert job is not None
    found = await site.node.doors.why(site.queue, job, [])
    assert found.codes == {"starting"}
    assert found.estimated_start_at is not None


def test_every_code_is_tested_and_stands_in_the_guide() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    guide = (ROOT / "docs" / "guides" / "why.md").read_text(encoding="utf-8")
    for code in CODES:
        assert f'"{code}"' in tests, code
        assert f"| `{code}` |" in guide, code


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "why",
            """\
no_worker: no worker is connected that asks for queue letters
jobs_ahead: jobs of its queue and type that start first: 1
scheduled
posted to alan
['succeeded']
['no_worker_for_type'] ['post']
queue_paused
""",
        ),
        (
            "fairness",
            """\
the first job is urgent
bulk was served before urgent was empty: True
""",
        ),
    ],
)
async def test_the_examples_of_the_guides_run(site: Site, name: str, said: str) -> None:
    kept = {name: value for name, value in os.environ.items() if "TASKFORGE" not in name}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "docs" / "examples" / f"{name}.py"),
        env=kept | {"TASKFORGE_URL": site.url, "TASKFORGE_API_KEY": KEY},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        told, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert told.decode() == said
