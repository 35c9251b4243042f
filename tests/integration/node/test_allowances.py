"""Limits as callers meet them: over HTTP and the stream, over restarts, takeovers and changes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskforge_server.api.rest.table import ROUTES
from taskforge_server.api.service.allowances import is_rated
from taskforge_server.engine.cluster.memory import Exchange, MemoryCluster
from taskforge_server.engine.cluster.port import SUBSCRIPTION_CHANGED
from taskforge_server.engine.errors import LimitReached, QuotaExceeded, Unavailable
from taskforge_server.engine.model.audit import OPERATOR
from taskforge_server.engine.node.node import Node
from taskforge_server.ext.ids import uuid_text
from tests.support.engine_parts import done
from tests.support.people import Person, Site, serving
from tests.support.real_node import Hand, arrives, config_for, kill, prepared, running_node

JOB = {"job_type": "send", "payload": {"to": 1}}
YESTERDAY = datetime.now(UTC) - timedelta(days=1)


async def agree(node: Node, organization_id: bytes, ends_at: Any = None, **changes: Any) -> None:
    """Change the plan, as the operator's command does, news included."""
    await node.subscriptions.agree(organization_id, OPERATOR, changes=changes, ends_at=ends_at)
    node.plans.forget(organization_id)


async def owner(node: Node, project_id: bytes) -> bytes:
    return (await node.subscriptions.plan_of_project(project_id)).organization_id


@asynccontextmanager
async def site_with_queue(postgres_url: str, **options: Any) -> AsyncIterator[tuple[Site, Person]]:
    """A person in a project of a new organisation, with a queue `mail`."""
    async with serving(postgres_url, **options) as site:
        person = await site.open_project(await site.sign_up())
        made = await site.post("/v1/queues", person, {"name": "mail"})
        assert made.status == 201, made.body
        yield site, person


def organization_of(person: Person) -> bytes:
    return bytes.fromhex(person.organization_id.replace("-", ""))


# Rates


async def test_a_project_is_held_to_its_rate_on_every_way(postgres_url: str) -> None:
    async with site_with_queue(postgres_url) as (site, person):
        first = await site.post("/v1/queues/mail/jobs", person, JOB)
        assert first.status == 201
        assert first.headers["RateLimit-Limit"] == "100"
        assert 0 < int(first.headers["RateLimit-Remaining"]) < 20
        assert first.headers["RateLimit-Reset"] == "1"
        await agree(site.node, organization_of(person), max_requests_per_second=1)
        answers = [await site.post("/v1/queues/mail/jobs", person, JOB) for _ in range(6)]
        answers.append(await site.get("/v1/queues", person))
        refused = [answer for answer in answers if answer.status == 429]
        assert len(refused) >= 4
        for answer in refused:
            assert answer.json["code"] == "rate_limited"
            assert answer.headers["Retry-After"] == "1"
            assert answer.headers["RateLimit-Limit"] == "1"
            assert answer.headers["RateLimit-Remaining"] == "0"
            assert "X-Request-Id" in answer.headers


async def test_the_short_way_knows_rates_and_ends(postgres_url: str) -> None:
    """The same head again and again is answered without aiohttp; checks hold there too."""
    async with site_with_queue(postgres_url) as (site, person):
        recognised: list[object] = []
        submits = site.api._door.submits
        begin = submits.begin

        def seen(submit: Any) -> None:
            recognised.append(submit)
            begin(submit)

        submits.begin = seen  # type: ignore[method-assign]
        while not recognised:
            last = await site.post("/v1/queues/mail/jobs", person, JOB)
            assert last.status == 201
        assert last.headers["RateLimit-Limit"] == "100"
        assert last.headers["RateLimit-Reset"] == "1"
        organization = organization_of(person)
        await agree(site.node, organization, max_payload_bytes=5)
        statuses = {(await site.post("/v1/queues/mail/jobs", person, JOB)).status for _ in range(3)}
        assert statuses == {413}
        await agree(site.node, organization, max_payload_bytes=None, max_jobs_per_month=0)
        assert (await site.post("/v1/queues/mail/jobs", person, JOB)).status == 402
        count = len(recognised)
        over = await site.post("/v1/queues/mail/jobs", person, JOB)
        assert (over.status, over.json["code"]) == (402, "quota_exceeded")
        assert len(recognised) == count + 1
        await agree(site.node, organization, max_requests_per_second=1)
        answers = [await site.post("/v1/queues/mail/jobs", person, JOB) for _ in range(5)]
        assert answers[-1].status == 429
        assert answers[-1].headers["Retry-After"] == "1"
        assert len(recognised) > count + 2
        known = len(recognised)
        await agree(site.node, organization, ends_at=YESTERDAY, max_requests_per_second=100)
        ended = []
        while len(ended) < 2:  # what was let in beyond the old rate is paid off first
            answer = await site.post("/v1/queues/mail/jobs", person, JOB)
            if answer.status != 429:
                ended.append(answer)
        assert [answer.status for answer in ended] == [402, 402]
        assert ended[-1].json["code"] == "subscription_expired"
        assert ended[-1].headers["RateLimit-Limit"] == "100"
        assert len(recognised) == known, "what is over goes the long way, which says so"


async def test_people_without_a_project_have_the_rate_of_their_organisation(
    postgres_url: str,
) -> None:
    async with serving(postgres_url) as site:
        person, other = await site.sign_up(), await site.sign_up()
        await agree(site.node, organization_of(person), max_requests_per_second=1)
        statuses = [(await site.get("/v1/organization", person)).status for _ in range(5)]
        assert statuses.count(429) >= 3
        assert (await site.get("/v1/organization", other)).status == 200


def test_what_workers_need_to_go_on_is_not_counted() -> None:
    rated = {route.operation_id for route in ROUTES if is_rated(route.permission)}
    assert not {"heartbeat", "workerStream", "healthz", "login"} & rated
    assert {"submitJob", "submitBatch", "listJobs", "getQueue"} <= rated


# The subscription


async def test_after_its_end_nothing_new_is_taken_and_running_work_ends(postgres_url: str) -> None:
    async with site_with_queue(postgres_url) as (site, person):
        hand = Hand(site.node, bytes.fromhex(person.project_id.replace("-", "")))
        queue = (await site.node.queues.get(hand.project_id, "mail")).ref()
        (job_id,) = await hand.submit(queue)
        worker, outlet = await hand.worker(queue)
        await arrives(outlet, outlet.tokens)
        await agree(site.node, organization_of(person), ends_at=YESTERDAY)
        for path, body in (
            ("/v1/queues/mail/jobs", JOB),
            ("/v1/queues/mail/jobs/batch", {"jobs": [JOB]}),
        ):
            refused = await site.post(path, person, body)
            assert (refused.status, refused.json["code"]) == (402, "subscription_expired")
        await worker.receive([done(1, outlet.tokens()[0])])
        await site.node.doors.wait_finished(job_id, 10.0)
        looked = await site.get(f"/v1/jobs/{uuid_text(job_id)}", person)
        assert looked.json["status"] == "succeeded"
        seen = (await site.get("/v1/subscription", person)).json
        assert (seen["active"], seen["tier"]) == (False, "starter")
        await agree(site.node, organization_of(person), ends_at=YESTERDAY + timedelta(days=30))
        assert (await site.post("/v1/queues/mail/jobs", person, JOB)).status == 201


async def test_the_subscription_says_what_may_be_used_and_is(postgres_url: str) -> None:
    async with site_with_queue(postgres_url) as (site, person):
        body = {"jobs": [JOB] * 7}
        assert (await site.post("/v1/queues/mail/jobs/batch", person, body)).status == 200
        hand = Hand(site.node, bytes.fromhex(person.project_id.replace("-", "")))
        await hand.worker((await site.node.queues.get(hand.project_id, "mail")).ref())
        seen = (await site.get("/v1/subscription", person)).json
        month = datetime.now(UTC).strftime("%Y-%m")
        assert seen["usage"] == {"month": month, "jobs": 7, "workers": 1, "queues": 1}
        assert seen["limits"]["max_jobs_per_month"] == 100_000
        assert seen["current_period_end"] is None
        other = await site.sign_up()
        assert (await site.get("/v1/subscription", other)).json["usage"]["jobs"] == 0


async def test_other_nodes_hear_of_a_change(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    exchange = Exchange()
    async with running_node(postgres_url, exchange) as node:
        organization = await owner(node, project_id)
        assert (await node.plans.find(project_id, organization)).tier == "enterprise"
        teller = MemoryCluster(exchange, "operator")
        await teller.start()
        await node.subscriptions.agree(organization, OPERATOR, tier="pro")
        assert node.plans.cached(project_id) is not None
        teller.publish(SUBSCRIPTION_CHANGED, organization)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert node.plans.cached(project_id) is None
        assert (await node.plans.find(project_id, organization)).tier == "pro"
        await teller.stop()


# The quota


async def test_the_quota_is_exact_over_batches_projects_and_repetitions(postgres_url: str) -> None:
    async with site_with_queue(postgres_url) as (site, person):
        await agree(site.node, organization_of(person), max_jobs_per_month=10)
        batch = "/v1/queues/mail/jobs/batch"
        headers = {"Idempotency-Key": "once"}
        for _ in range(3):
            taken = await site.call("POST", batch, person, {"jobs": [JOB] * 6}, headers)
            assert taken.status == 200
        assert (await site.post(batch, person, {"jobs": [JOB] * 5})).status == 402
        assert (await site.post(batch, person, {"jobs": [JOB] * 4})).status == 200
        over = await site.post("/v1/queues/mail/jobs", person, JOB)
        assert (over.status, over.json["code"]) == (402, "quota_exceeded")
        assert "Retry-After" not in over.headers
        again = await site.call("POST", batch, person, {"jobs": [JOB] * 6}, headers)
        assert (again.status, again.headers["Idempotent-Replay"]) == (200, "true")
        other = await site.open_project(await site.sign_up())
        await site.post("/v1/queues", other, {"name": "mail"})
        assert (await site.post("/v1/queues/mail/jobs", other, JOB)).status == 201


async def test_jobs_at_one_time_never_pass_the_quota(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url) as node:
        organization = await owner(node, project_id)
        await agree(node, organization, max_jobs_per_month=25)
        await node.plans.find(project_id, organization)
        hand = Hand(node, project_id)
        queues = [await hand.queue(f"q{number}") for number in range(4)]
        calls = [hand.submit(queue, 3) for queue in queues for _ in range(5)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        taken = [answer for answer in answers if isinstance(answer, list)]
        assert len(taken) == 8
        assert all(isinstance(a, QuotaExceeded) for a in answers if not isinstance(a, list))
        assert len(await hand.rows("jobs")) == 24


@pytest.mark.parametrize("projected", ["nothing", "some", "all"])
async def test_the_count_is_exact_after_a_node_was_killed(
    postgres_url: str, projected: str
) -> None:
    project_id = await prepared(postgres_url)
    options = {"nothing": {"tick_s": 10.0}, "some": {}, "all": {}}[projected]
    node = Node(
        config_for(postgres_url, **options),
        lambda node_id: MemoryCluster(Exchange(), node_id),
    )
    await node.start()
    organization = await owner(node, project_id)
    hand = Hand(node, project_id)
    queues = [await hand.queue(f"q{number}") for number in range(6)]
    for queue in queues:
        await hand.submit(queue, 7)
    if projected != "nothing":
        await node.projector.flush()
    if projected != "all":
        for queue in queues:
            await hand.submit(queue, 5)
    expected = 6 * (7 + (5 if projected != "all" else 0))
    assert node.core.usage.used(organization, node.clock.now_us()) == expected
    await kill(node)
    for _ in range(2):  # the second time from the tables alone
        async with running_node(postgres_url) as node:
            assert node.core.usage.used(organization, node.clock.now_us()) == expected
            await agree(node, organization, max_jobs_per_month=expected + 1)
            await node.plans.find(project_id, organization)
            hand = Hand(node, project_id)
            with pytest.raises(QuotaExceeded):
                await hand.submit(queues[0], 2)
            assert len(await hand.rows("jobs")) == expected
            assert (await node.usage_rows.history(organization, 1))[0][1] == expected


async def test_two_nodes_one_after_the_other_count_every_job_once(postgres_url: str) -> None:
    """The first one loses its shards while its tables are behind, and writes them late."""
    project_id = await prepared(postgres_url)
    exchange = Exchange()
    async with running_node(postgres_url, exchange, tick_s=10.0) as loser:
        organization = await owner(loser, project_id)
        hand = Hand(loser, project_id)
        queue = await hand.queue()
        await hand.submit(queue, 11)
        async with running_node(postgres_url, exchange) as winner:
            assert winner.core.usage.used(organization, winner.clock.now_us()) == 11
            other = Hand(winner, project_id)
            await other.submit(queue, 4)
            await winner.projector.flush()
            await loser.projector.flush()
            assert (await winner.usage_rows.history(organization, 1))[0][1] == 15
            assert len(await other.rows("jobs")) == 15
            # The loser drops what is not its own to count, and reads what the winner has.
            with pytest.raises(Unavailable):
                await hand.submit(queue)
            assert loser.ownership.missing
            await loser.allowances.read_elsewhere(True)
            assert loser.core.usage.used(organization, loser.clock.now_us()) == 15


async def test_what_a_deleted_project_used_still_counts(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url) as node:
        organization = await owner(node, project_id)
        hand = Hand(node, project_id)
        queue = await hand.queue(history="none")
        await hand.submit(queue, 3)
        await node.projector.flush()
        await node.pool.execute("DELETE FROM api_keys")
        await node.pool.execute("DELETE FROM job_queues")
        await node.pool.execute("DELETE FROM projects")
        assert await node.usage_rows.history(organization, 5) != []
        assert (await node.usage_rows.history(organization, 5))[0][1] == 3


# Workers


async def test_no_more_workers_than_allowed_and_who_comes_back_is_no_more(
    postgres_url: str,
) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url, lease_ttl_s=30.0) as node:
        organization = await owner(node, project_id)
        await agree(node, organization, max_workers=2)
        hand = Hand(node, project_id)
        queue = await hand.queue()
        first, _ = await hand.worker(queue, worker_id=b"a" * 16)
        await hand.worker(queue, worker_id=b"b" * 16)
        with pytest.raises(LimitReached) as refused:
            await hand.worker(queue, worker_id=b"c" * 16)
        assert refused.value.code == "too_many_workers"
        first, _ = await hand.worker(queue, worker_id=b"a" * 16)
        assert await node.doors.organization_workers(organization) == 2
        await node.worker_rows.write()
        # One that says goodbye makes room at once, also while its row still says online.
        first.detach()
        node._worker_ended(b"a" * 16)
        await hand.worker(queue, worker_id=b"c" * 16)


async def test_workers_of_another_node_count(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    exchange = Exchange()
    async with running_node(postgres_url, exchange, lease_ttl_s=30.0) as one:
        organization = await owner(one, project_id)
        await agree(one, organization, max_workers=1)
        hand = Hand(one, project_id)
        queue = await hand.queue()
        await hand.worker(queue, worker_id=b"a" * 16)
        await one.worker_rows.write()
        async with running_node(postgres_url, exchange, lease_ttl_s=30.0) as other:
            assert await other.doors.organization_workers(organization) == 1
            with pytest.raises(LimitReached):
                await Hand(other, project_id).worker(queue, worker_id=b"b" * 16)
            await Hand(other, project_id).worker(queue, worker_id=b"a" * 16)


async def test_many_workers_at_one_time_are_no_more_than_allowed(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url) as node:
        await agree(node, await owner(node, project_id), max_workers=3)
        hand = Hand(node, project_id)
        queue = await hand.queue()
        answers = await asyncio.gather(
            *(hand.worker(queue) for _ in range(8)), return_exceptions=True
        )
        assert sum(isinstance(answer, LimitReached) for answer in answers) == 5
        assert len(node.core.sessions) == 3
