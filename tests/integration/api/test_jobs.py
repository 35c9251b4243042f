"""Jobs over REST: submit, batches, look, wait, list, cancel, retry."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgpack
import pytest

from taskforge_server.engine.errors import OutcomeUnknown, Overloaded, Unavailable
from taskforge_server.ext.ids import uuid_bytes, uuid_text
from tests.integration.api.conftest import OTHER_KEY, PAYLOAD_BYTES_MAX, Fixture, until
from tests.support.stub_engine import NOW_US

JOBS = "/v1/queues/default/jobs"
BATCH = f"{JOBS}/batch"
MSGPACK = {"Content-Type": "application/msgpack"}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


async def test_a_submitted_job_is_read_back(api: Fixture) -> None:
    payload = {"to": "ada@example.com", "n": [1, 2.50, None], "é": "\U0001f600"}
    made = await api.post(
        JOBS,
        {
            "job_type": "send",
            "payload": payload,
            "priority": 7,
            "timeout_s": 1.5,
            "max_attempts": 4,
            "tags": ["a", "b"],
        },
    )
    assert made.status == 201, made.body
    assert made.json["status"] == "pending"
    view = (await api.get(f"/v1/jobs/{made.json['id']}")).json
    assert view["payload"] == payload
    assert view["queue"] == "default"
    assert (view["job_type"], view["priority"], view["timeout_s"]) == ("send", 7, 1.5)
    assert (view["max_attempts"], view["tags"], view["attempts"]) == (4, ["a", "b"], 0)
    assert view["executions"] == []
    assert view["result"] is None
    assert view["created_at"].endswith("Z")


async def test_a_payload_passes_through_as_it_is(api: Fixture) -> None:
    text = b'{"job_type":"t","payload": {"a" : 1.0,"a":2, "big":12345678901234567890123} }'
    made = await api.call("POST", JOBS, body=text)
    assert made.status == 201, made.body
    job = api.engine.table.get(uuid_bytes(made.json["id"]))
    assert job is not None
    assert job["payload"] == b'{"a" : 1.0,"a":2, "big":12345678901234567890123}'
    default = await api.post(JOBS, {"job_type": "t"})
    view = (await api.get(f"/v1/jobs/{default.json['id']}")).json
    assert view["payload"] is None


@pytest.mark.parametrize("delay", ["delay_s", "scheduled_for"])
async def test_a_job_for_later(api: Fixture, delay: str) -> None:
    due = EPOCH + timedelta(microseconds=NOW_US + 60_000_000)
    value: Any = 60 if delay == "delay_s" else due.astimezone().isoformat()
    made = await api.post(JOBS, {"job_type": "t", delay: value})
    assert made.json["status"] == "scheduled"
    view = (await api.get(f"/v1/jobs/{made.json['id']}")).json
    assert view["scheduled_for"] == due.isoformat().replace("+00:00", "Z")
    # The same again goes the short way.
    again = await api.post(JOBS, {"job_type": "t", delay: value})
    assert again.json["status"] == "scheduled"
    past = await api.post(JOBS, {"job_type": "t", "scheduled_for": "2020-01-01T00:00:00Z"})
    assert past.json["status"] == "pending"


def item(**fields: Any) -> bytes:
    return json.dumps({"job_type": "t", **fields}).encode()


DEEP = b'{"job_type":"t","payload":' + b"[" * 65 + b"]" * 65 + b"}"
REFUSED = [
    (b"", 400, "malformed_body", None),
    (b"{", 400, "malformed_body", None),
    (b"nonsense", 400, "malformed_body", None),
    (item() + b"x", 400, "malformed_body", None),
    (b'{"job_type":"t","payload":\xff}', 400, "malformed_body", None),
    (b'{"job_type":"t","payload":"\xff"}', 400, "malformed_body", None),
    (b'{"job_type":"t","payload":"\\u0000"}', 400, "malformed_body", None),
    (b'{"job_type":"t","payload":"\\ud800"}', 400, "malformed_body", None),
    (b'{"job_type":"t","payload":1e999999}', 400, "malformed_body", None),
    (b'{"job_type":"t","payload":01}', 400, "malformed_body", None),
    (b'{"job_type":"t","job_type":"u"}', 400, "repeated_field", "job_type"),
    (b'{"job_type":"t","job\\u005ftype":"u"}', 400, "repeated_field", "job"),
    (DEEP, 413, "too_large", None),
    (b"[]", 422, "invalid_input", None),
    (b"null", 422, "invalid_input", None),
    (b"{}", 422, "invalid_input", "job_type"),
    (item(job_type=""), 422, "invalid_input", "job_type"),
    (item(job_type=None), 422, "invalid_input", "job_type"),
    (item(job_type="x" * 256), 422, "invalid_input", "job_type"),
    (item(job_type="é" * 200), 422, "invalid_input", "job_type"),
    (item(priority=10), 422, "invalid_input", "priority"),
    (item(priority=-1), 422, "invalid_input", "priority"),
    (item(priority="5"), 422, "invalid_input", "priority"),
    (item(priority=1.5), 422, "invalid_input", "priority"),
    (item(colour="red"), 422, "invalid_input", "colour"),
    (item(unique_key=""), 422, "invalid_input", "unique_key"),
    (item(unique={"scope": "waiting"}), 422, "invalid_input", "unique"),
    (item(scheduled_for="tomorrow"), 422, "invalid_input", "scheduled_for"),
    (item(scheduled_for="2030-02-30T00:00:00Z"), 422, "invalid_input", "scheduled_for"),
    (item(scheduled_for="2030-01-01T00:00:00"), 422, "invalid_input", "scheduled_for"),
    (item(scheduled_for=1900000000), 422, "invalid_input", "scheduled_for"),
    (item(scheduled_for="9999-01-01T00:00:00Z"), 422, "invalid_input", "scheduled_for"),
    (item(delay_s=-1), 422, "invalid_input", "delay_s"),
    (item(delay_s=1e12), 422, "invalid_input", "delay_s"),
    (item(delay_s=1, scheduled_for="2030-01-01T00:00:00Z"), 422, "invalid_input", "delay_s"),
    (item(timeout_s=0), 422, "invalid_input", "timeout_s"),
    (item(max_attempts=0), 422, "invalid_input", "max_attempts"),
    (item(max_attempts=10**30), 422, "invalid_input", "max_attempts"),
    (item(tags="a"), 422, "invalid_input", "tags"),
    (item(tags=["a"] * 33), 422, "invalid_input", "tags"),
    (item(tags=["a", "é" * 33]), 422, "invalid_input", "tags[1]"),
    (item(payload="x" * PAYLOAD_BYTES_MAX), 413, "too_large", "payload"),
    (item(payload="x" * 2_000_000), 413, "too_large", None),
]


FILLER = b'{"job_type":"t"}'
SHORT = [case for case in REFUSED if len(FILLER) <= len(case[0]) <= PAYLOAD_BYTES_MAX]


@pytest.mark.parametrize(
    ("short_way", "body", "status", "code", "field"),
    [(False, *case) for case in REFUSED] + [(True, *case) for case in SHORT],
)
async def test_refused(
    api: Fixture, short_way: bool, body: bytes, status: int, code: str, field: str | None
) -> None:
    if short_way:
        # A good request of the same length makes the head known.
        good = await api.call("POST", JOBS, body=FILLER.ljust(len(body)))
        assert good.status == 201
    refused = await api.call("POST", JOBS, body=body)
    seen = (refused.status, refused.json["code"], refused.json.get("field"))
    assert seen == (status, code, field), refused.body
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert (await api.post(JOBS, {"job_type": "t"})).status == 201, "the next one is fine"
    assert api.engine.table.jobs_resident == (2 if short_way else 1)


async def test_deep_but_not_too_deep(api: Fixture) -> None:
    body = DEEP.replace(b"[[", b"[").replace(b"]]", b"]")
    deepest = b'{"job_type":"t","payload":' + b"[" * 64 + b"]" * 64 + b"}"
    assert (await api.call("POST", JOBS, body=deepest)).status == 201, body
    packed = msgpack.packb({"job_type": "t", "payload": b"[" * 64 + b"]" * 64})
    assert (await api.call("POST", JOBS, body=packed, headers=MSGPACK)).status == 201
    packed = msgpack.packb({"job_type": "t", "payload": b"[" * 65 + b"]" * 65})
    refused = await api.call("POST", JOBS, body=packed, headers=MSGPACK)
    assert (refused.status, refused.json["field"]) == (422, "payload")


async def test_an_unknown_queue(api: Fixture) -> None:
    for key in ("default2", "01997b5c-6c00-7001-8000-5f3a9c2d4e6f"):
        refused = await api.post(f"/v1/queues/{key}/jobs", {"job_type": "t"})
        assert (refused.status, refused.json["code"]) == (404, "queue_not_found")
        assert refused.json["field"] == "queue"
    foreign = await api.post(JOBS, {"job_type": "t"}, key=OTHER_KEY)
    assert foreign.status == 404


async def test_overload_and_unavailability_say_when_to_come_back(api: Fixture) -> None:
    body = {"job_type": "t"}
    for _ in range(2):  # the long way, then the short one
        api.engine.refusal = Overloaded(2.4)
        refused = await api.post(JOBS, body)
        assert (refused.status, refused.json["code"]) == (429, "overloaded")
        assert refused.headers["Retry-After"] == "3"
        api.engine.refusal = Unavailable(0.1)
        refused = await api.post(JOBS, body)
        assert (refused.status, refused.json["code"]) == (503, "unavailable")
        assert refused.headers["Retry-After"] == "1"
        api.engine.refusal = OutcomeUnknown(1.0)
        refused = await api.post(JOBS, body)
        assert (refused.status, refused.json["code"]) == (504, "outcome_unknown")
        assert "Idempotency-Key" in refused.json["detail"]
        api.engine.refusal = None
        assert (await api.post(JOBS, body)).status == 201


async def test_messagepack(api: Fixture) -> None:
    texts = (b'{"a": 1.50}', b'[null,"x"]')
    for text in texts:
        body = msgpack.packb({"job_type": "t", "payload": text, "tags": ["x"]})
        made = await api.call("POST", JOBS, body=body, headers=MSGPACK)
        assert made.status == 201, made.body
        assert made.headers["Content-Type"] == "application/msgpack"
        reply = msgpack.unpackb(made.body)
        job = api.engine.table.get(uuid_bytes(reply["id"]))
        assert job is not None
        assert job["payload"] == text
    values: list[Any] = [{"é": [1, None, True, 2.5]}, "text", None, 7]
    for value in values:
        body = msgpack.packb({"job_type": "t", "payload": value})
        made = await api.call("POST", JOBS, body=body, headers=MSGPACK)
        job = api.engine.table.get(uuid_bytes(msgpack.unpackb(made.body)["id"]))
        assert job is not None
        assert json.loads(job["payload"]) == value
    packed = await api.get(
        f"/v1/jobs/{msgpack.unpackb(made.body)['id']}", headers={"Accept": "application/msgpack"}
    )
    assert msgpack.unpackb(packed.body, timestamp=3)["payload"] == b"7"


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"", 400, "malformed_body", None),
        (b"\xc1", 400, "malformed_body", None),
        (b"\x81\xa8job_type", 400, "malformed_body", None),
        (msgpack.packb({"job_type": "t"}) + b"\x00", 400, "malformed_body", None),
        (b"\x81\xa8job_type\xa1\xff", 400, "malformed_body", None),
        (b"\x82\xa8job_type\xa1t\xa8job_type\xa1t", 400, "repeated_field", "job_type"),
        (b"\x81" * 70 + b"\xc0", 413, "too_large", None),
        (b"\xdf\xff\xff\xff\xff", 400, "malformed_body", None),
        (msgpack.packb([1]), 422, "invalid_input", None),
        (msgpack.packb({"job_type": 1}), 422, "invalid_input", "job_type"),
        (msgpack.packb({"job_type": "a\0"}), 422, "invalid_input", "job_type"),
        (msgpack.packb({"job_type": "t", "payload": b"{"}), 422, "invalid_input", "payload"),
        (msgpack.packb({"job_type": "t", "payload": b""}), 422, "invalid_input", "payload"),
        (msgpack.packb({"job_type": "t", "payload": "\0"}), 422, "invalid_input", "payload"),
        (
            msgpack.packb({"job_type": "t", "payload": float("nan")}),
            422,
            "invalid_input",
            "payload",
        ),
        (
            msgpack.packb({"job_type": "t", "payload": {"a": b"x"}}),
            422,
            "invalid_input",
            "payload",
        ),
        (
            msgpack.packb({"job_type": "t", "payload": msgpack.ExtType(5, b"x")}),
            422,
            "invalid_input",
            "payload",
        ),
        (msgpack.packb({"job_type": "t", "priority": 10}), 422, "invalid_input", "priority"),
    ],
)
async def test_messagepack_refused(
    api: Fixture, body: bytes, status: int, code: str, field: str | None
) -> None:
    refused = await api.call("POST", JOBS, body=body, headers=MSGPACK)
    seen = (refused.status, refused.json["code"], refused.json.get("field"))
    assert seen == (status, code, field), refused.body
    assert refused.headers["Content-Type"] == "application/problem+json"


# Batches


async def test_one_bad_of_five_hundred_spoils_nothing(api: Fixture) -> None:
    jobs = [{"job_type": "t", "payload": n} for n in range(500)]
    jobs[123]["priority"] = 10
    answer = await api.post(BATCH, {"jobs": jobs})
    assert answer.status == 200
    results = answer.json["results"]
    assert len(results) == 500
    assert results[123] == {
        "error": {
            "status": 422,
            "detail": "Expected `int` <= 9",
            "code": "invalid_input",
            "field": "jobs[123].priority",
        }
    }
    good = [result for place, result in enumerate(results) if place != 123]
    assert all(result["status"] == "pending" for result in good)
    for place in (0, 122, 124, 499):
        job = api.engine.table.get(uuid_bytes(results[place]["id"]))
        assert job is not None
        assert job["payload"] == b"%d" % place
    assert api.engine.table.jobs_resident == 499


async def test_each_item_has_its_own_problem(api: Fixture) -> None:
    items = [
        b'{"job_type":"t","delay_s":5}',
        b'{"job_type":"t","priority":1,"priority":2}',
        b"3",
        b"{}",
        b'{"job_type":"t","payload":"' + b"x" * PAYLOAD_BYTES_MAX + b'"}',
        b'{"job_type":"t","tags":["a",""]}',
        b'{"job_type":"t"}',
    ]
    answer = await api.call("POST", BATCH, body=b'{"jobs":[' + b",".join(items) + b"]}")
    assert answer.status == 200, answer.body
    results = answer.json["results"]
    fields = [result.get("error", {}).get("field") for result in results]
    assert fields == [
        None,
        "jobs[1].priority",
        "jobs[2]",
        "jobs[3].job_type",
        "jobs[4].payload",
        "jobs[5].tags[1]",
        None,
    ]
    codes = [result["error"]["code"] for result in results if "error" in result]
    assert codes == [
        "repeated_field",
        "invalid_input",
        "invalid_input",
        "too_large",
        "invalid_input",
    ]
    assert (results[0]["status"], results[6]["status"]) == ("scheduled", "pending")


async def test_rules_beyond_types_are_also_per_item(api: Fixture) -> None:
    jobs = [{"job_type": "t"}, {"job_type": "é" * 200}, {"job_type": "t", "delay_s": 9}]
    results = (await api.post(BATCH, {"jobs": jobs})).json["results"]
    assert results[1]["error"]["field"] == "jobs[1].job_type"
    assert [results[0]["status"], results[2]["status"]] == ["pending", "scheduled"]


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b'{"jobs":[]}', 422, "invalid_input", "jobs"),
        (b'{"jobs":{}}', 422, "invalid_input", "jobs"),
        (b"{}", 422, "invalid_input", "jobs"),
        (b'{"jobs":[{"job_type":"t"}],"jobs":[]}', 400, "repeated_field", "jobs"),
        (b'{"jobs":[{"job_type":"t"}],"x":1}', 422, "invalid_input", "x"),
        (b'{"jobs":[{"job_type":"t"]}', 400, "malformed_body", None),
        (b'{"jobs":[' + b"1," * 1000 + b"1]}", 413, "too_large", "jobs"),
        (
            b'{"jobs":[{"job_type":"t","payload":' + b"[" * 65 + b"]" * 65 + b"}]}",
            413,
            "too_large",
            None,
        ),
    ],
)
async def test_whole_batches_refused(
    api: Fixture, body: bytes, status: int, code: str, field: str | None
) -> None:
    refused = await api.call("POST", BATCH, body=body)
    seen = (refused.status, refused.json["code"], refused.json.get("field"))
    assert seen == (status, code, field), refused.body
    assert api.engine.table.jobs_resident == 0


async def test_messagepack_batches(api: Fixture) -> None:
    jobs: list[Any] = [{"job_type": "t", "payload": b"%d" % n} for n in range(1500)]
    answer = await api.call("POST", BATCH, body=msgpack.packb({"jobs": jobs}), headers=MSGPACK)
    assert answer.status == 200, answer.body
    reply = msgpack.unpackb(answer.body, strict_map_key=False)
    assert reply["errors"] == {}
    assert len(reply["ids"]) == 16 * 1500
    last = api.engine.table.get(reply["ids"][-16:])
    assert last is not None
    assert last["payload"] == b"1499"

    jobs = [{"job_type": "t", "payload": b"1"}, {"job_type": "t", "payload": b"{"}, {}]
    jobs.append({"job_type": "t", "payload": {"a": 1}})
    answer = await api.call("POST", BATCH, body=msgpack.packb({"jobs": jobs}), headers=MSGPACK)
    reply = msgpack.unpackb(answer.body, strict_map_key=False)
    assert sorted(reply["errors"]) == [1, 2]
    assert reply["errors"][1]["field"] == "jobs[1].payload"
    assert reply["ids"][16:48] == bytes(32)
    job = api.engine.table.get(reply["ids"][48:])
    assert job is not None
    assert job["payload"] == b'{"a":1}'

    as_json = await api.call(
        "POST",
        BATCH,
        body=msgpack.packb({"jobs": jobs}),
        headers={**MSGPACK, "Accept": "application/json"},
    )
    assert [sorted(result) for result in as_json.json["results"]] == [
        ["id", "status"],
        ["error"],
        ["error"],
        ["id", "status"],
    ]

    too_many = msgpack.packb({"jobs": [1] * 10_001})
    refused = await api.call("POST", BATCH, body=too_many, headers=MSGPACK)
    assert (refused.status, refused.json["code"]) == (413, "too_large")


async def test_all_items_bad(api: Fixture) -> None:
    answer = await api.post(BATCH, {"jobs": [{}, {}]})
    assert answer.status == 200
    assert all("error" in result for result in answer.json["results"])


# Idempotency


async def test_idempotency_key(api: Fixture) -> None:
    headers = {"Idempotency-Key": "order-1"}
    first = await api.post(JOBS, {"job_type": "t"}, headers=headers)
    assert "Idempotent-Replay" not in first.headers
    again = await api.post(JOBS, {"job_type": "t"}, headers=headers)
    assert again.json == first.json
    assert again.headers["Idempotent-Replay"] == "true"
    assert api.engine.table.jobs_resident == 1
    other_body = await api.post(JOBS, {"job_type": "u"}, headers=headers)
    assert (other_body.status, other_body.json["code"]) == (409, "idempotency_key_reused")
    other_path = await api.post(BATCH, {"jobs": [{"job_type": "t"}]}, headers=headers)
    assert other_path.status == 409
    view = (await api.get(f"/v1/jobs/{first.json['id']}")).json
    assert view["idempotency_key"] == "order-1"

    headers = {"Idempotency-Key": "batch-1"}
    body = {"jobs": [{"job_type": "t"}, {}, {"job_type": "u"}]}
    first = await api.post(BATCH, body, headers=headers)
    again = await api.post(BATCH, body, headers=headers)
    assert again.json == first.json
    assert again.headers["Idempotent-Replay"] == "true"


async def test_idempotency_keys_on_the_short_way(api: Fixture) -> None:
    answers = [
        await api.post(JOBS, {"job_type": "t"}, headers={"Idempotency-Key": key})
        for key in ("a", "b", "c-1", "b", "a", "c-1")
    ]
    ids = [answer.json["id"] for answer in answers]
    assert [ids.index(job_id) for job_id in ids] == [0, 1, 2, 1, 0, 2]
    assert ["Idempotent-Replay" in answer.headers for answer in answers] == [False] * 3 + [True] * 3
    views = [(await api.get(f"/v1/jobs/{job_id}")).json for job_id in ids[:3]]
    assert [view["idempotency_key"] for view in views] == ["a", "b", "c-1"]
    other = await api.post(JOBS, {"job_type": "u"}, headers={"Idempotency-Key": "a"})
    assert (other.status, other.json["code"]) == (409, "idempotency_key_reused")
    direct = api.server._door.submits
    assert len(direct._heads) == 1, "the key is no part of the head"
    # The long way and the short one bind a key to the same thing.
    slow = await api.post(f"{JOBS}?wait=1ms", {"job_type": "t"}, headers={"Idempotency-Key": "b"})
    assert slow.json["id"] == ids[1]


OWN = ["inbox:01997b5c-6c00-7001-8000-5f3a9c2d4e6f", "taskforge/dead-letter/x/1", "cron x 1"]
"""Keys under which the server submits jobs by itself."""


@pytest.mark.parametrize("key", ["", "x" * 256, "with space", "é", *OWN])
async def test_bad_idempotency_keys(api: Fixture, key: str) -> None:
    good = await api.post(JOBS, {"job_type": "t"}, headers={"Idempotency-Key": "good"})
    assert good.status == 201
    for path, body in (
        (JOBS, {"job_type": "t"}),
        (f"{JOBS}/batch", {"jobs": [{"job_type": "t"}]}),
        ("/v1/graphs", {"jobs": [{"queue": "default", "job_type": "t"}]}),
        ("/v1/schedules", {"name": "s", "queue": "default", "cron": "@daily", "job_type": "t"}),
        ("/v1/queues/default/dead-letters/requeue", {}),
    ):
        refused = await api.post(path, body, headers={"Idempotency-Key": key})
        assert (refused.status, refused.json["field"]) == (422, "Idempotency-Key")


# Looking, waiting, listing


async def test_memory_first_then_tables_and_executions_of_both(api: Fixture) -> None:
    made = await api.post(JOBS, {"job_type": "t"})
    job_id = uuid_bytes(made.json["id"])
    api.work_off(fail=True)
    live = (await api.get(f"/v1/jobs/{made.json['id']}")).json
    assert live["status"] == "failed"
    assert live["failed_reason"] == "not_retryable"
    assert live["last_error"] == {"type": "E"}
    assert [entry["attempt"] for entry in live["executions"]] == [1]

    # The tables know attempt 1, memory attempt 2.
    api.jobs.project(api.engine)
    api.engine._commit()
    projection = api.engine.table.collect(100, api.engine.clock_us)
    assert projection is not None
    api.engine.table.projected(projection)
    assert api.engine.table.get(job_id) is None
    stored = (await api.get(f"/v1/jobs/{made.json['id']}")).json
    assert stored == live
    again = await api.post(f"/v1/jobs/{made.json['id']}/retry")
    assert (again.status, again.json["status"]) == (200, "pending")
    api.work_off(result=b'{"ok":true}')
    both = (await api.get(f"/v1/jobs/{made.json['id']}")).json
    assert [(entry["attempt"], entry["status"]) for entry in both["executions"]] == [
        (1, "failed"),
        (2, "succeeded"),
    ]
    assert both["result"] == {"ok": True}
    assert both["last_error"] is None


async def test_wait(api: Fixture) -> None:
    made = await api.post(JOBS, {"job_type": "t"})
    path = f"/v1/jobs/{made.json['id']}"
    assert (await api.get(f"{path}?wait=20ms")).json["status"] == "pending"
    waiting = asyncio.create_task(api.get(f"{path}?wait=30s"))
    await until(lambda: uuid_bytes(made.json["id"]) in api.engine._enders)
    await asyncio.sleep(0.05)
    api.work_off()
    assert (await waiting).json["status"] == "succeeded"
    assert (await api.get(f"{path}?wait=30s")).json["status"] == "succeeded", "at once"


async def test_wait_on_submit(api: Fixture) -> None:
    waiting = asyncio.create_task(api.post(f"{JOBS}?wait=30", {"job_type": "t"}))
    await until(lambda: bool(api.engine._enders))
    api.work_off(result=b"42")
    answer = await waiting
    assert answer.status == 201
    assert answer.json["status"] == "succeeded"
    assert answer.json["result"] == 42
    assert len(answer.json["executions"]) == 1


@pytest.mark.parametrize("wait", ["soon", "-1", "10m", "", "1e3", "10s&wait=2s", "1%00"])
async def test_bad_waits(api: Fixture, wait: str) -> None:
    refused = await api.post(f"{JOBS}?wait={wait}", {"job_type": "t"})
    assert (refused.status, refused.json["field"]) == (422, "wait"), refused.body


async def test_list(api: Fixture) -> None:
    made = [(await api.post(JOBS, {"job_type": f"t{n % 2}"})).json["id"] for n in range(5)]
    api.jobs.project(api.engine)
    page = (await api.get("/v1/jobs?limit=2")).json
    assert [item["id"] for item in page["items"]] == [made[4], made[3]]
    assert "executions" not in page["items"][0]
    rest = (await api.get(f"/v1/jobs?limit=10&cursor={page['next_cursor']}")).json
    assert [item["id"] for item in rest["items"]] == [made[2], made[1], made[0]]
    assert rest["next_cursor"] is None
    some = (await api.get("/v1/jobs?queue=default&job_type=t1&status=pending")).json
    assert [item["id"] for item in some["items"]] == [made[3], made[1]]
    none = await api.get("/v1/jobs", key=OTHER_KEY)
    assert none.json["items"] == []
    times = "created_after=2020-01-01T00:00:00Z&created_before=2120-01-01T00:00:00%2B01:00"
    assert (await api.get(f"/v1/jobs?{times}")).status == 200


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ("limit=0", 422, "limit"),
        ("limit=1001", 422, "limit"),
        ("limit=x", 422, "limit"),
        ("status=done", 422, "status"),
        ("created_after=yesterday", 422, "created_after"),
        ("created_after=2030-01-01T00:00:00", 422, "created_after"),
        ("colour=red", 422, "colour"),
        ("limit=1&limit=2", 422, "limit"),
        ("queue=nothing", 404, "queue"),
        ("queue=%ff", 400, None),
        ("limit", 400, None),
    ],
)
async def test_bad_lists(api: Fixture, query: str, status: int, field: str | None) -> None:
    refused = await api.get(f"/v1/jobs?{query}")
    assert (refused.status, refused.json.get("field")) == (status, field), refused.body


async def test_cancel_and_retry(api: Fixture) -> None:
    made = await api.post(JOBS, {"job_type": "t"})
    path = f"/v1/jobs/{made.json['id']}"
    foreign = await api.post(f"{path}/cancel", key=OTHER_KEY)
    assert (foreign.status, foreign.json["code"]) == (404, "job_not_found")
    too_soon = await api.post(f"{path}/retry")
    assert (too_soon.status, too_soon.json["code"]) == (409, "job_not_retryable")
    cancelled = await api.post(f"{path}/cancel")
    assert (cancelled.status, cancelled.json["status"]) == (200, "cancelled")
    assert cancelled.json["cancel_reason"] == "cancelled"
    twice = await api.post(f"{path}/cancel")
    assert (twice.status, twice.json) == (200, cancelled.json)
    headers = {"Idempotency-Key": "retry-1"}
    again = await api.post(f"{path}/retry", headers=headers)
    assert (again.status, again.json["status"]) == (200, "pending")
    assert "Idempotent-Replay" not in again.headers
    await api.post(f"{path}/cancel")
    repeated = await api.post(f"{path}/retry", headers=headers)
    assert (repeated.status, repeated.json["status"]) == (200, "cancelled"), "as it is now"
    assert repeated.headers["Idempotent-Replay"] == "true"
    reused = await api.post(JOBS, {"job_type": "t"}, headers=headers)
    assert (reused.status, reused.json["code"]) == (409, "idempotency_key_reused")


@pytest.mark.parametrize("job", ["x", uuid_text(bytes(16)), "0" * 32])
@pytest.mark.parametrize(("method", "rest"), [("GET", ""), ("POST", "/cancel"), ("POST", "/retry")])
async def test_unknown_jobs(api: Fixture, job: str, method: str, rest: str) -> None:
    answer = await api.call(method, f"/v1/jobs/{job}{rest}")
    assert (answer.status, answer.json["code"]) == (404, "job_not_found")
