"""What credentials, rates and quotas cost on the path of a job: once known, no statement."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.model.audit import OPERATOR
from taskforge_server.ext.ids import uuid_bytes
from tests.support.estate import make_key
from tests.support.people import serving
from tests.support.real_node import Hand

REQUESTS = 100


@contextmanager
def counted(pool: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Who borrowed a connection of the node's pool meanwhile."""
    borrowed: list[str] = []
    acquire = type(pool).acquire

    def noted(self: Any, **options: Any) -> Any:
        borrowed.append("connection")
        return acquire(self, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(pool), "acquire", noted)
        yield borrowed


async def test_submits_ask_the_tables_nothing(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RATE_BURST_S", 60.0)
    async with serving(postgres_url) as site:
        ada = await site.open_project(await site.sign_up())
        changes = {"max_jobs_per_month": 1_000, "max_requests_per_second": 1_000}
        organization = uuid_bytes(ada.organization_id)
        await site.node.subscriptions.agree(organization, OPERATOR, changes=changes)
        key = (await make_key(site, ada, ada.project_id, ["*"]))["key"]
        hand = Hand(site.node, uuid_bytes(ada.project_id))
        await hand.queue("mail")
        job = {"job_type": "send", "payload": {"n": 1}}
        both = (key, await site.open_project(ada))
        for who in both:
            assert (await site.post("/v1/queues/mail/jobs", who, job)).status == 201
        with counted(site.node.pool, monkeypatch) as borrowed:
            for number in range(REQUESTS):
                who = both[number % 2]
                assert (await site.post("/v1/queues/mail/jobs", who, job)).status == 201
                batch = await site.post("/v1/queues/mail/jobs/batch", who, {"jobs": [job]})
                assert batch.status == 200
            assert len(borrowed) < REQUESTS / 4, "more than the node's own upkeep"
            borrowed.clear()
            assert (await site.get("/v1/queues", key)).status == 200
            assert borrowed, "what asks the tables is counted"
        used = await site.get("/v1/subscription", ada)
        assert used.json["usage"]["jobs"] == 2 * REQUESTS + 2
