"""Queues over REST."""

from typing import Any

import pytest

from taskforge_server.engine.model.audit import Actor
from tests.integration.api.conftest import OTHER_KEY, Fixture


async def test_create_get_list_update(api: Fixture) -> None:
    made = await api.post(
        "/v1/queues",
        {
            "name": "e-mails / é",
            "priority": 9,
            "settings": {"retry_policy": {"max_attempts": 2}, "timeout": 60, "history": "failed"},
        },
    )
    assert made.status == 201, made.body
    view = made.json
    assert view["name"] == "e-mails / é"
    assert view["settings"]["retry_policy"]["max_attempts"] == 2
    assert view["settings"]["retry_policy"]["base_delay"] == 1.0
    assert view["counts"] == {"pending": 0, "scheduled": 0, "processing": 0}
    assert [ref.name for ref in api.engine.changed] == ["e-mails / é"]

    by_id = await api.get(f"/v1/queues/{view['id']}")
    by_name = await api.get("/v1/queues/e-mails%20%2F%20%C3%A9")
    assert by_id.json == by_name.json == view

    listed = await api.get("/v1/queues?limit=1")
    assert [item["name"] for item in listed.json["items"]] == ["default"]
    rest = await api.get(f"/v1/queues?limit=1&cursor={listed.json['next_cursor']}")
    assert [item["name"] for item in rest.json["items"]] == ["e-mails / é"]
    assert rest.json["next_cursor"] is None

    changed = await api.call(
        "PATCH",
        f"/v1/queues/{view['id']}",
        body=b'{"settings":{"retry_policy":{"base_delay":4},"timeout":null}}',
    )
    assert changed.status == 200, changed.body
    settings = changed.json["settings"]
    assert settings["retry_policy"]["base_delay"] == 4
    assert settings["retry_policy"]["max_attempts"] == 2, "what is not given stays"
    assert settings["timeout"] is None
    assert settings["history"] == "failed"
    assert changed.json["priority"] == 9
    assert api.engine.changed[-1].settings.timeout is None


@pytest.mark.parametrize(
    ("settings", "field", "told"),
    [
        ({"history": "some"}, "history", "one of all, failed, none"),
        ({"retry_policy": {"jitter": "some"}}, "retry_policy.jitter", "one of full, none"),
        (
            {"worker_types": ["general", "some"]},
            "worker_types[1]",
            "one of general, specialized_cpu, specialized_io",
        ),
    ],
)
async def test_what_is_accepted_is_said(api: Fixture, settings: Any, field: str, told: str) -> None:
    reply = await api.post("/v1/queues", {"name": "a", "settings": settings})
    assert (reply.status, reply.json["field"]) == (422, f"settings.{field}")
    assert reply.json["detail"].endswith(f"; {told}")


async def test_examples_are_said_of_what_has_a_form(api: Fixture) -> None:
    reply = await api.get("/v1/jobs/01997b5c-6c00-7001-8000-5f3a9c2d4e6f?wait=soon")
    assert reply.json["detail"].endswith("; such as 10s or 500ms")


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ({"name": ""}, 422, "invalid_input", "name"),
        ({"name": "a\x07"}, 422, "invalid_input", "name"),
        ({"name": 3}, 422, "invalid_input", "name"),
        ({}, 422, "invalid_input", "name"),
        ({"name": "a", "priority": 10}, 422, "invalid_input", "priority"),
        ({"name": "a", "priority": -1}, 422, "invalid_input", "priority"),
        ({"name": "a", "priority": True}, 422, "invalid_input", "priority"),
        ({"name": "a", "colour": 1}, 422, "invalid_input", "colour"),
        ({"name": "a", "settings": {"timeout": 0}}, 422, "invalid_input", "settings.timeout"),
        (
            {"name": "a", "settings": {"retry_policy": {"base_delay": 9, "max_delay": 3}}},
            422,
            "invalid_input",
            "settings.retry_policy.max_delay",
        ),
        (
            {"name": "01997b5c-6c00-7001-8000-5f3a9c2d4e6f"},
            422,
            "invalid_input",
            "name",
        ),
        ({"name": "default"}, 409, "queue_name_taken", "name"),
        ([], 422, "invalid_input", None),
    ],
)
async def test_refused(api: Fixture, body: Any, status: int, code: str, field: str | None) -> None:
    refused = await api.post("/v1/queues", body)
    assert (refused.status, refused.json["code"], refused.json.get("field")) == (
        status,
        code,
        field,
    )
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json["status"] == status


async def test_a_queue_is_made_once(api: Fixture) -> None:
    headers = {"Idempotency-Key": "make-mail"}
    body = {"name": "mail", "priority": 4}
    first = await api.post("/v1/queues", body, headers=headers)
    assert (first.status, "Idempotent-Replay" in first.headers) == (201, False)
    again = await api.post("/v1/queues", body, headers=headers)
    assert (again.status, again.json) == (201, first.json)
    assert again.headers["Idempotent-Replay"] == "true"
    for other in ({"name": "mail", "priority": 5}, {"name": "post", "priority": 4}):
        refused = await api.post("/v1/queues", other, headers=headers)
        assert (refused.status, refused.json["code"]) == (409, "idempotency_key_reused")
    taken = await api.post("/v1/queues", body, headers={"Idempotency-Key": "else"})
    assert (taken.status, taken.json["code"]) == (409, "queue_name_taken")


async def test_relations_hold_after_an_update(api: Fixture) -> None:
    refused = await api.call(
        "PATCH",
        "/v1/queues/default",
        body=b'{"settings":{"retry_policy":{"base_delay":400}}}',
    )
    assert refused.status == 422
    assert refused.json["field"] == "settings.retry_policy.max_delay"


async def test_of_another_project_there_is_nothing(api: Fixture) -> None:
    for path in ("/v1/queues/default", f"/v1/queues/{api.queue.id.hex()}"):
        answer = await api.get(path, key=OTHER_KEY)
        assert (answer.status, answer.json["code"]) == (404, "queue_not_found")
    assert (await api.get("/v1/queues", key=OTHER_KEY)).json["items"] == []


async def test_changes_know_their_actor(api: Fixture) -> None:
    given = {"X-Request-Id": "request-1"}
    await api.post("/v1/queues", {"name": "mail"}, headers=given)
    await api.call("PATCH", "/v1/queues/mail", body=b'{"priority": 2}', headers=given)
    key = next(iter(api.keys.rows.values()))
    assert api.queues.actors[-2:] == [Actor("api_key", key.id, "127.0.0.1", "request-1")] * 2
