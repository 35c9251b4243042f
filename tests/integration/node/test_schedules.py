"""Schedules over HTTP at a real server: made, changed, ticking, encrypted, in Redis."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from taskforge_server.api.rest.routes import request_hash
from taskforge_server.engine import limits
from taskforge_server.engine.cluster.nextruns import NextRuns, key_of
from taskforge_server.engine.store.schedules import Decided, Schedules
from taskforge_server.ext.ids import uuid_bytes
from tests.support.people import Person, Site, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVERY_SECOND = {"cron": "* * * * * *", "catch_up": "all"}
PAYLOADS = "SELECT payload::text FROM cron_schedules WHERE project_id = $1 ORDER BY name"
ROW = "SELECT last_job_id, decided_at FROM cron_schedules WHERE id = $1"
JOB = {"job_type": "send", "payload": {"to": "ada"}, "priority": 4, "tags": ["nightly"]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(module_postgres_url: str) -> AsyncIterator[Site]:
    async with serving(module_postgres_url) as serving_site:
        yield serving_site


@pytest_asyncio.fixture(loop_scope="module")
async def ada(site: Site) -> Person:
    person = await site.open_project(await site.sign_up())
    assert (await site.post("/v1/queues", person, {"name": "mail"})).status == 201
    return person


async def made(site: Site, who: Person, name: str, **more: Any) -> dict[str, Any]:
    value = {"name": name, "queue": "mail", "cron": "@yearly", "job": JOB} | more
    answer = await site.post("/v1/schedules", who, value)
    assert answer.status == 201, answer.body
    found: dict[str, Any] = answer.json
    return found


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(20):
        while not (found := await condition()):  # noqa: ASYNC110 - asks a server
            await asyncio.sleep(0.02)
        return found


async def jobs(site: Site, who: Person) -> list[dict[str, Any]]:
    await site.node.projector.flush()
    items: list[dict[str, Any]] = (await site.get("/v1/jobs", who)).json["items"]
    return items


async def test_from_make_to_delete(site: Site, ada: Person) -> None:
    schedule = await made(site, ada, "nightly", cron="30 2 * * *", timezone="Europe/Berlin")
    assert schedule["job"] == JOB
    assert (schedule["queue"], schedule["overlap"], schedule["catch_up"]) == (
        "mail",
        "allow",
        "latest",
    )
    assert schedule["next_at"] is not None
    assert (await site.get("/v1/schedules/nightly", ada)).json == schedule
    assert (await site.get(f"/v1/schedules/{schedule['id']}", ada)).json == schedule
    preview = await site.get("/v1/schedules/nightly/preview?count=3", ada)
    assert preview.json["ticks"][0] == schedule["next_at"]
    assert len(preview.json["ticks"]) == 3
    change = {"cron": "@hourly", "job": {"job_type": "send", "payload": [1]}, "jitter_s": 5}
    changed = (await site.call("PATCH", "/v1/schedules/nightly", ada, change)).json
    assert (changed["cron"], changed["job"]["payload"], changed["jitter_s"]) == ("@hourly", [1], 5)
    assert changed["timezone"] == "Europe/Berlin"
    assert changed["next_at"] != schedule["next_at"]
    for name in ("b", "a", "c"):
        await made(site, ada, name)
    first = (await site.get("/v1/schedules?limit=2", ada)).json
    second = (await site.get(f"/v1/schedules?cursor={first['next_cursor']}", ada)).json
    names = [item["name"] for page in (first, second) for item in page["items"]]
    assert names == ["a", "b", "c", "nightly"]
    refused = await site.call("DELETE", "/v1/queues/mail", ada)
    assert (refused.status, refused.json["code"]) == (409, "queue_has_schedules")
    for name in names:
        assert (await site.call("DELETE", f"/v1/schedules/{name}", ada)).status == 204
    assert (await site.get("/v1/schedules/nightly", ada)).status == 404
    assert (await site.call("DELETE", "/v1/queues/mail", ada)).status == 204


async def test_put_makes_it_so_once(site: Site, ada: Person) -> None:
    path, wanted = "/v1/schedules/weekly", {"queue": "mail", "cron": "@weekly", "job": JOB}

    async def put(**more: Any) -> Any:
        return await site.call("PUT", path, ada, wanted | more)

    both = await asyncio.gather(put(), put())
    assert [answer.status for answer in both] == [200, 200]
    first = both[0].json
    assert first["id"] == both[1].json["id"]
    assert (await put()).json == first, "it is so already"
    await site.post(f"{path}/pause", ada)
    changed = (await put(cron="@daily", job=JOB | {"payload": {"to": "bob"}})).json
    assert (changed["cron"], changed["job"]["payload"]) == ("@daily", {"to": "bob"})
    assert changed["paused"], "as somebody wanted it"
    assert (await site.post("/v1/queues", ada, {"name": "other"})).status == 201
    refused = await put(queue="other")
    assert (refused.status, refused.json["code"]) == (409, "schedule_in_other_queue")
    wrong = await site.call("PUT", "/v1/schedules/%20", ada, wanted)
    assert (wrong.status, wrong.json["field"]) == (422, "schedule")
    entries = (await site.get("/v1/audit", ada)).json["items"]
    acts = [entry["action"] for entry in entries if entry["action"].startswith("schedule.")]
    assert acts == ["schedule.update", "schedule.pause", "schedule.create"]


async def test_every_act_is_in_the_audit_log_without_the_payload(site: Site, ada: Person) -> None:
    await made(site, ada, "nightly")
    await site.call("PATCH", "/v1/schedules/nightly", ada, {"cron": "@hourly"})
    await site.call("PATCH", "/v1/schedules/nightly", ada, {"cron": "@hourly"})  # is so already
    for act in ("pause", "pause", "resume"):
        assert (await site.post(f"/v1/schedules/nightly/{act}", ada)).status == 200
    await site.call("DELETE", "/v1/schedules/nightly", ada)
    entries = (await site.get("/v1/audit", ada)).json["items"]
    acts = [entry for entry in entries if entry["action"].startswith("schedule.")]
    assert [entry["action"].partition(".")[2] for entry in reversed(acts)] == [
        "create",
        "update",
        "pause",
        "resume",
        "delete",
    ]
    assert '"to"' not in json.dumps(acts)


async def test_ticks_have_their_jobs(site: Site, ada: Person) -> None:
    await made(site, ada, "often", **EVERY_SECOND)

    async def two() -> Any:
        found = await jobs(site, ada)
        return found if len(found) >= 2 else None

    found = await until(two)
    await site.post("/v1/schedules/often/pause", ada)
    assert {(job["job_type"], job["priority"]) for job in found} == {("send", 4)}
    assert found[0]["payload"] == {"to": "ada"}
    assert found[0]["tags"] == ["nightly"]
    await site.node.scheduler.written()
    schedule = (await site.get("/v1/schedules/often", ada)).json
    found = await jobs(site, ada)
    assert len(found) == len({job["idempotency_key"] for job in found})
    assert schedule["last_job_id"] == found[0]["id"]
    assert schedule["paused"] is True
    assert schedule["next_at"] is None
    assert "taskforge_schedule_lag_seconds_bucket" in (await site.get("/metrics")).body.decode()


async def test_a_job_counts_though_the_row_was_changed_meanwhile(site: Site, ada: Person) -> None:
    """The next tick asks what became of it; of two jobs the later one is asked for."""
    schedule = await made(site, ada, "changed", paused=True)
    rows, schedule_id = Schedules(site.node.pool), uuid_bytes(schedule["id"])
    now = datetime.now(UTC)
    early, late = now - timedelta(seconds=60), now - timedelta(seconds=30)
    for tick, job_id, said in (
        (early, b"1" * 16, b"1"),
        (late, b"2" * 16, b"2"),
        (early, b"3" * 16, b"2"),
        (late, None, b"2"),
    ):
        await rows.decided([Decided(schedule_id, tick, job_id, None, None, 1)])
        row = await site.node.pool.fetchrow(ROW, schedule_id)
        assert row["last_job_id"] == said * 16
        assert row["decided_at"] > now - timedelta(seconds=20), "as it was made"


async def test_run_now_is_repeatable(site: Site, ada: Person) -> None:
    await made(site, ada, "nightly", paused=True)
    key = {"Idempotency-Key": "once"}
    path = "/v1/schedules/nightly/run-now"
    first = await site.call("POST", path, ada, headers=key)
    again = await site.call("POST", path, ada, headers=key)
    other = await site.call("POST", path, ada)
    assert (first.status, again.status) == (201, 201)
    assert first.json["id"] == again.json["id"] != other.json["id"]
    assert again.headers["Idempotent-Replay"] == "true"
    job = (await site.get(f"/v1/jobs/{first.json['id']}", ada)).json
    assert (job["payload"], job["priority"]) == ({"to": "ada"}, 4)


async def test_a_repeated_create_makes_one(site: Site, ada: Person) -> None:
    value = {"name": "nightly", "queue": "mail", "cron": "@daily", "job": JOB}
    key = {"Idempotency-Key": "once"}
    answers = [await site.call("POST", "/v1/schedules", ada, value, headers=key) for _ in range(2)]
    assert [answer.status for answer in answers] == [201, 201]
    assert answers[0].json == answers[1].json
    assert answers[1].headers["Idempotent-Replay"] == "true"
    other = await site.call("POST", "/v1/schedules", ada, value | {"cron": "@hourly"}, headers=key)
    assert other.json["code"] == "idempotency_key_reused"
    taken = await site.post("/v1/schedules", ada, value)
    assert (taken.status, taken.json["code"]) == (409, "schedule_name_taken")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"cron": "61 * * * *"}, "cron"),
        ({"cron": "0 0 */20 * 1L"}, "cron"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"name": "0199" * 8}, "name"),
        ({"window_s": 0}, "window_s"),
        ({"overlap": "never"}, "overlap"),
        ({"job": JOB | {"delay_s": 3}}, "job.delay_s"),
        ({"job": JOB | {"tags": ["é" * 40]}}, "job.tags[0]"),
        ({"job": {"payload": 1}}, "job.job_type"),
        ({"job": JOB | {"payload": "x" * limits.SCHEDULE_PAYLOAD_BYTES_MAX}}, "job.payload"),
    ],
)
async def test_what_is_wrong_is_named(
    site: Site, ada: Person, change: dict[str, Any], field: str
) -> None:
    value = {"name": "n", "queue": "mail", "cron": "@daily", "job": JOB} | change
    answer = await site.post("/v1/schedules", ada, value)
    assert (answer.status, answer.json["field"]) in ((422, field), (413, field)), answer.body


async def test_preview_of_an_expression(site: Site, ada: Person) -> None:
    path = (
        "/v1/cron/preview?cron=30+2+*+*+*&timezone=Europe/Berlin&count=2&after=2026-03-28T12:00:00Z"
    )
    assert (await site.get(path, ada)).json == {
        "ticks": ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
    }
    wrong = await site.get("/v1/cron/preview?cron=x", ada)
    assert (wrong.status, wrong.json["field"]) == (422, "cron")


async def test_a_schedule_of_an_encrypted_project_is_sealed(site: Site, ada: Person) -> None:
    await made(site, ada, "before", paused=True)
    path = f"/v1/projects/{ada.project_id}/encryption"
    encrypted = await site.call("PATCH", path, ada, {"encrypted": True})
    assert encrypted.status == 200, encrypted.body
    secret = {"job_type": "send", "payload": {"card": "4111-1111"}}
    schedule = await made(site, ada, "secret", job=secret, **EVERY_SECOND)
    assert schedule["job"]["payload"] == {"card": "4111-1111"}
    mine = uuid_bytes(ada.project_id)
    rows = await site.node.pool.fetch(PAYLOADS, mine)
    assert [row[0].startswith('"taskforge:sealed:') for row in rows] == [False, True]

    async def one() -> Any:
        return await jobs(site, ada)

    found = await until(one)
    assert found[-1]["payload"] == {"card": "4111-1111"}
    statement = "SELECT payload::text FROM jobs WHERE project_id = $1"
    assert not [row for row in await site.node.pool.fetch(statement, mine) if "4111" in row[0]]
    changed = await site.call("PATCH", "/v1/schedules/before", ada, {"job": secret})
    assert changed.json["job"]["payload"] == secret["payload"]
    rows = await site.node.pool.fetch(PAYLOADS, mine)
    assert not [row for row in rows if "4111" in row[0]]


async def test_no_hash_in_the_tables_confirms_a_guessed_payload(site: Site, ada: Person) -> None:
    path = f"/v1/projects/{ada.project_id}/encryption"
    hashes = "SELECT name, creation_hash FROM cron_schedules WHERE project_id = $1"
    bodies = {
        name: {"name": name, "queue": "mail", "cron": "@yearly", "job": {"job_type": "send"}}
        for name in ("before", "after")
    }
    for name, body in bodies.items():
        first = await site.call("POST", "/v1/schedules", ada, body, {"Idempotency-Key": name})
        assert first.status == 201, first.body
        await site.call("PATCH", path, ada, {"encrypted": True})
    for name, body in bodies.items():
        again = await site.call("POST", "/v1/schedules", ada, body, {"Idempotency-Key": name})
        assert again.headers["Idempotent-Replay"] == "true"
    other = bodies["after"] | {"cron": "@daily"}
    conflict = await site.call("POST", "/v1/schedules", ada, other, {"Idempotency-Key": "after"})
    assert (conflict.status, conflict.json["code"]) == (409, "idempotency_key_reused")
    rows = dict(await site.node.pool.fetch(hashes, uuid_bytes(ada.project_id)))
    plain = {
        name: request_hash("POST", "/v1/schedules", json.dumps(body).encode())
        for name, body in bodies.items()
    }
    assert (rows["before"] == plain["before"], rows["after"] == plain["after"]) == (True, False)


class Runs:
    """What a node would know."""

    def __init__(self) -> None:
        self.known: dict[int, dict[bytes, int]] = {3: {b"a" * 16: 60_000_000, b"b" * 16: 0}, 4: {}}

    def shard_numbers(self) -> list[int]:
        return list(self.known)

    def runs(self, shard: int) -> dict[bytes, int]:
        return self.known[shard]

    def count(self, shard: int) -> int:
        return len(self.known[shard])


async def test_next_runs_are_in_redis_and_rebuilt_when_lost(redis_url: str) -> None:
    redis, runs, board = Redis.from_url(redis_url), Runs(), NextRuns(redis_url)

    async def there() -> dict[str, float]:
        found = await redis.zrange(key_of(3), 0, -1, withscores=True)
        return {name.decode(): score for name, score in found}

    await board.write(runs, checking=True)
    a, b = "61616161-6161-6161-6161-616161616161", "62626262-6262-6262-6262-626262626262"
    assert await there() == {a: 60.0, b: float("inf")}
    runs.known[3] = {b"a" * 16: 120_000_000}
    board.moved(3, b"a" * 16, 120_000_000)
    board.moved(3, b"b" * 16, None)
    await board.write(runs, checking=False)
    assert await there() == {a: 120.0}
    await redis.delete(key_of(3))
    await board.write(runs, checking=True)
    assert await there() == {a: 120.0}
    del runs.known[3]  # another node's from here on
    board.moved(3, b"a" * 16, None)
    await board.write(runs, checking=True)
    assert await there() == {a: 120.0}
    await board.close()
    await redis.aclose()


async def test_a_node_keeps_its_next_runs_in_redis(site: Site, ada: Person, redis_url: str) -> None:
    schedule = await made(site, ada, "nightly")
    board, redis = NextRuns(redis_url), Redis.from_url(redis_url)
    await board.write(site.node.scheduler, checking=True)
    shard = site.node.scheduler.book.get(uuid_bytes(schedule["id"]))
    assert shard is not None
    score = await redis.zscore(key_of(shard.shard.number), schedule["id"])
    assert score == datetime.fromisoformat(schedule["next_at"]).timestamp()
    await board.close()
    await redis.aclose()
