"""API keys: made, changed and ended by people, over HTTP; and how soon every node knows."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgpack
import pytest
import pytest_asyncio

from taskforge_server.engine import limits
from taskforge_server.engine.cluster.memory import Exchange
from taskforge_server.engine.model.audit import OPERATOR
from taskforge_server.engine.model.permissions import PROJECT_PERMISSIONS
from taskforge_server.engine.store.api_keys import ApiKeys
from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.pool import connect
from taskforge_server.ext.ids import uuid_bytes
from tests.support.estate import make_key
from tests.support.people import Person, Site, serving
from tests.support.real_node import SHARDS

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEYS = "/v1/projects/{}/api-keys"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(module_postgres_url: str) -> AsyncIterator[Site]:
    async with serving(module_postgres_url) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def ada(site: Site) -> Person:
    return await site.sign_up()


def _path(person: Person, key: dict[str, Any] | None = None, verb: str = "") -> str:
    path = KEYS.format(person.project_id)
    return path if key is None else f"{path}/{key['id']}{verb}"


async def test_a_key_from_its_making_to_its_end(site: Site, ada: Person) -> None:
    key = await make_key(
        site, ada, ada.project_id, ["queues:read", "jobs:read", "jobs:read"], "web"
    )
    assert key["key"].startswith(key["prefix"])
    assert key["permissions"] == ["jobs:read", "queues:read"]
    assert (key["status"], key["last_used_at"]) == ("live", None)
    assert (await site.get("/v1/queues", key["key"])).status == 200
    assert (await site.post("/v1/queues", key["key"], {"name": "q"})).status == 403

    shown = (await site.get(_path(ada, key), ada)).json
    assert "key" not in shown
    assert "key_hash" not in shown
    assert (await site.get(_path(ada), ada)).json["items"] == [shown]

    changed = await site.call("PATCH", _path(ada, key), ada, {"permissions": ["queues:manage"]})
    assert changed.json["permissions"] == ["queues:manage"]
    assert changed.json["name"] == "web"
    assert (await site.post("/v1/queues", key["key"], {"name": "q"})).status == 201, "at once"
    assert (await site.get("/v1/queues", key["key"])).status == 403

    revoked = await site.post(_path(ada, key, "/revoke"), ada)
    assert revoked.json["status"] == "revoked"
    assert (await site.get("/v1/queues", key["key"])).status == 401
    again = await site.post(_path(ada, key, "/revoke"), ada)
    assert again.json["revoked_at"] == revoked.json["revoked_at"]
    for call in (
        site.call("PATCH", _path(ada, key), ada, {"name": "x"}),
        site.post(_path(ada, key, "/rotate"), ada, {}),
    ):
        answer = await call
        assert (answer.status, answer.json["code"]) == (409, "api_key_revoked")

    assert (await site.call("DELETE", _path(ada, key), ada)).status == 204
    assert (await site.get(_path(ada, key), ada)).status == 404
    assert (await site.get(_path(ada), ada)).json == {"items": [], "next_cursor": None}


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"name": "k", "permissions": ["users:manage"]}, "permissions[0]"),
        ({"name": "k", "permissions": ["jobs:read", "jobs:destroy"]}, "permissions[1]"),
        ({"name": " ", "permissions": []}, "name"),
        ({"name": "k"}, "permissions"),
        ({"name": "k", "permissions": [], "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "k", "permissions": [], "key": "tf_mine"}, "key"),
    ],
)
async def test_what_no_key_can_be(site: Site, ada: Person, value: Any, field: str) -> None:
    answer = await site.post(_path(ada), ada, value)
    assert (answer.status, answer.json["field"]) == (422, field)


async def test_a_key_expires(site: Site, ada: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    key = await make_key(site, ada, ada.project_id, ["*"])
    changed = await site.call("PATCH", _path(ada, key), ada, {"expires_at": soon.isoformat()})
    assert changed.json["status"] == "live"
    assert (await site.get("/v1/queues", key["key"])).status == 200
    later = soon + timedelta(seconds=1)
    monkeypatch.setattr(site.api.authenticator, "_now", lambda: later)
    assert (await site.get("/v1/queues", key["key"])).status == 401, "although it is cached"
    site.api.authenticator.forget()
    assert (await site.get("/v1/queues", key["key"])).status == 401


async def test_two_keys_live_while_one_replaces_the_other(site: Site, ada: Person) -> None:
    old = await make_key(site, ada, ada.project_id, ["queues:read"], "web")
    new = (await site.post(_path(ada, old, "/rotate"), ada, {"overlap_s": 3600})).json
    assert new["key"] != old["key"]
    assert (new["name"], new["permissions"]) == ("web", ["queues:read"])
    for text in (old["key"], new["key"]):
        assert (await site.get("/v1/queues", text)).status == 200
    ends_at = datetime.fromisoformat((await site.get(_path(ada, old), ada)).json["expires_at"])
    left = ends_at - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)

    earlier = (await site.post(_path(ada, old, "/rotate"), ada, {"overlap_s": 86400})).json
    assert earlier["key"] != new["key"]
    kept = (await site.get(_path(ada, old), ada)).json["expires_at"]
    assert datetime.fromisoformat(kept) == ends_at, "an end never moves away"
    await site.post(_path(ada, old, "/rotate"), ada, {"overlap_s": 0})
    assert (await site.get("/v1/queues", old["key"])).status == 401
    assert (await site.get("/v1/queues", new["key"])).status == 200


async def test_a_project_has_not_any_number_of_keys(
    site: Site, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "API_KEYS_PER_PROJECT_MAX", 3)
    value = {"name": "k", "permissions": []}
    answers = await asyncio.gather(*(site.post(_path(ada), ada, value) for _ in range(6)))
    assert sorted(answer.status for answer in answers) == [201] * 3 + [409] * 3
    made = next(answer.json for answer in answers if answer.status == 201)
    assert (await site.post(_path(ada, made, "/rotate"), ada, {})).status == 409
    await site.post(_path(ada, made, "/revoke"), ada)
    assert (await site.post(_path(ada), ada, value)).status == 201


async def test_a_list_has_pages(site: Site, ada: Person) -> None:
    made = [await make_key(site, ada, ada.project_id, [], f"k{n}") for n in range(5)]
    found: list[str] = []
    cursor = ""
    while cursor is not None:
        page = (await site.get(f"{_path(ada)}?limit=2{cursor}", ada)).json
        found += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"] and f"&cursor={page['next_cursor']}"
    assert found == sorted(key["id"] for key in made)


async def test_the_bootstrap_key_is_an_ordinary_one(module_postgres_url: str, site: Site) -> None:
    connection = await connect(module_postgres_url, application_name="test")
    await connection.execute("DELETE FROM api_keys")
    made = await bootstrap(connection, SHARDS)
    await connection.close()
    assert made.new_api_key is not None
    keys = ApiKeys(site.node.pool)
    (key,), _ = await keys.page(made.organization_id, made.project_id)
    assert (key.permissions, key.prefix) == (["*"], made.new_api_key[: len(key.prefix)])
    assert (await site.get("/v1/queues", made.new_api_key)).status == 200
    await keys.revoke(made.organization_id, made.project_id, key.id, datetime.now(UTC), OPERATOR)
    site.node.key_news.tell(key.id)
    assert (await site.get("/v1/queues", made.new_api_key)).status == 401


async def test_the_audit_log_tells_of_keys_and_holds_none(site: Site, ada: Person) -> None:
    key = await make_key(site, ada, ada.project_id, ["jobs:read"])
    new = (await site.post(_path(ada, key, "/rotate"), ada, {})).json
    await site.call("PATCH", _path(ada, new), ada, {"name": "other"})
    await site.call("PATCH", _path(ada, new), ada, {"name": "other"})  # changes nothing
    await site.post(_path(ada, new, "/revoke"), ada)
    await site.call("DELETE", _path(ada, new), ada)
    answer = await site.get("/v1/audit", ada)
    told = [entry for entry in answer.json["items"] if entry["target"].startswith("api_key:")]
    assert [entry["action"] for entry in reversed(told)] == [
        "api_key.create",
        "api_key.rotate",
        "api_key.update",
        "api_key.revoke",
        "api_key.delete",
    ]
    assert {entry["actor"]["id"] for entry in told} == {ada.id}
    assert {entry["actor"]["address"] for entry in told} == {"127.0.0.1"}
    rows = await site.node.pool.fetch("SELECT key_hash FROM api_keys")
    for secret in (key["key"], new["key"], *(row["key_hash"] for row in rows)):
        assert secret not in answer.body.decode()
    assert (await site.get("/v1/audit/verify", ada)).json["intact"] is True


async def test_a_revoked_key_is_out_on_every_node_at_once(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the news tells here: nodes believe what they know for an hour."""
    monkeypatch.setattr(limits, "PRINCIPAL_TTL_S", 3600.0)
    exchange = Exchange()
    async with serving(postgres_url, exchange) as here, serving(postgres_url, exchange) as there:
        ada = await here.sign_up()
        key = await make_key(here, ada, ada.project_id, ["*"])
        for site in (here, there):
            assert (await site.get("/v1/queues", key["key"])).status == 200
        await here.post(_path(ada, key, "/revoke"), ada)
        for site in (here, there):
            assert (await site.get("/v1/queues", key["key"])).status == 401


async def test_a_revoked_key_is_out_within_a_second_without_any_news(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert limits.PRINCIPAL_TTL_S <= 1.0
    exchange = Exchange()
    async with serving(postgres_url, exchange) as here, serving(postgres_url, exchange) as there:
        ada = await here.sign_up()
        key = await make_key(here, ada, ada.project_id, ["*"])
        exchange.go_down()
        clock = there.api.authenticator._monotonic_s
        at_s = clock()
        monkeypatch.setattr(there.api.authenticator, "_monotonic_s", lambda: at_s)
        assert (await there.get("/v1/queues", key["key"])).status == 200
        await here.post(_path(ada, key, "/revoke"), ada)
        assert (await there.get("/v1/queues", key["key"])).status == 200, "it cannot know yet"
        monkeypatch.setattr(there.api.authenticator, "_monotonic_s", lambda: at_s + 1.0)
        assert (await there.get("/v1/queues", key["key"])).status == 401


async def test_a_revoked_key_ends_the_short_way_too(site: Site, ada: Person) -> None:
    key = await make_key(site, ada, ada.project_id, ["*"])
    await site.post("/v1/queues", key["key"], {"name": "q"})
    jobs = "/v1/queues/q/jobs"
    for _ in range(3):
        assert (await site.post(jobs, key["key"], {"job_type": "t"})).status == 201
    assert site.api._door.submits._heads, "the head of the request is known by heart"
    await site.call("PATCH", _path(ada, key), ada, {"permissions": ["jobs:read"]})
    assert (await site.post(jobs, key["key"], {"job_type": "t"})).status == 403
    await site.post(_path(ada, key, "/revoke"), ada)
    assert (await site.post(jobs, key["key"], {"job_type": "t"})).status == 401


async def test_a_revoked_key_ends_the_stream_of_its_worker(site: Site, ada: Person) -> None:
    key = await make_key(site, ada, ada.project_id, ["*"])
    other = await make_key(site, ada, ada.project_id, ["*"])
    await site.post("/v1/queues", key["key"], {"name": "q"})
    hello = {"worker_id": b"w" * 16, "queues": ["q"], "types": ["t"], "credit": 1}
    hello |= {"name": "w", "sdk": "test", "protocol": 1, "running": b""}
    headers = {"Authorization": f"Bearer {key['key']}"}
    stream = site.client.ws_connect(f"{site.url}/v1/workers/stream", headers=headers)
    async with stream as socket:
        await socket.send_bytes(msgpack.packb([1, hello]))
        assert msgpack.unpackb((await socket.receive()).data)[0] == 10, "welcome"
        await site.post(_path(ada, other, "/revoke"), ada)
        await site.api.streams.check()
        assert site.api.streams.count == 1, "another's key"
        await site.post(_path(ada, key, "/revoke"), ada)
        await site.api.streams.check()
        async with asyncio.timeout(10):
            while not socket.closed:
                await socket.receive()
        assert socket.close_code == 1008


async def test_when_a_key_was_last_used_is_written_now_and_then(site: Site, ada: Person) -> None:
    key = await make_key(site, ada, ada.project_id, ["*"])
    idle = await make_key(site, ada, ada.project_id, ["*"])
    before = datetime.now(UTC)
    for _ in range(3):
        await site.get("/v1/queues", key["key"])
    assert (await site.get(_path(ada, key), ada)).json["last_used_at"] is None, "not yet"
    await site.api.last_used.write()
    used = datetime.fromisoformat((await site.get(_path(ada, key), ada)).json["last_used_at"])
    assert before <= used <= datetime.now(UTC)
    assert (await site.get(_path(ada, idle), ada)).json["last_used_at"] is None


async def test_a_stopping_server_writes_who_was_here(postgres_url: str) -> None:
    async with serving(postgres_url) as site:
        ada = await site.sign_up()
        key = await make_key(site, ada, ada.project_id, ["*"])
        await site.get("/v1/queues", key["key"])
    connection = await connect(postgres_url, application_name="test")
    find = "SELECT last_used_at FROM api_keys WHERE id = $1"
    assert await connection.fetchval(find, uuid_bytes(key["id"])) is not None
    await connection.close()


async def test_the_document_says_what_a_key_may_be_given(site: Site) -> None:
    document = json.loads((await site.get("/openapi.json")).body)
    grants = document["components"]["schemas"]["ApiKeyCreate"]["properties"]["permissions"]
    assert set(grants["items"]["enum"]) == PROJECT_PERMISSIONS | {"*"}
