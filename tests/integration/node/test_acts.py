"""Every administrative operation leaves an entry in the audit log: who, from where, which request.

The operations come from the table of routes: a new one without a place in the story below fails the
test until it has one.
"""

import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from taskforge_server.api.rest.table import ROUTES
from taskforge_server.engine import limits
from taskforge_server.engine.model import permissions
from taskforge_server.engine.model.worker import Worker
from tests.support.people import PASSWORD, Answer, Person, Site, serving

MANAGING = {
    permissions.ORGANIZATION_MANAGE,
    permissions.USERS_MANAGE,
    permissions.PROJECTS_MANAGE,
    permissions.API_KEYS_MANAGE,
    permissions.QUEUES_MANAGE,
    permissions.WORKERS_MANAGE,
}
OTHER_ACTS = {"signUp", "acceptInvitation", "changePassword"}
NEW_PASSWORD = "an entirely different password"
WORKER = uuid.UUID(int=77)


def administrative() -> set[str]:
    """The operations that change what people administer."""
    return {
        route.operation_id
        for route in ROUTES
        if route.method != "GET" and route.permission in MANAGING
    } | OTHER_ACTS


@dataclass
class Story:
    """An administrator at work; the request id of each act is the name of its operation."""

    site: Site
    admin: Person | None = None
    told: set[str] = field(default_factory=set)
    secrets: list[str] = field(default_factory=lambda: [PASSWORD, NEW_PASSWORD])

    async def act(self, operation: str, value: Any = None, **params: str) -> Any:
        """Call the operation; what it answers."""
        route = next(route for route in ROUTES if route.operation_id == operation)
        who = None if route.permission is None else self.admin
        path = route.path.format_map(params)
        answer: Answer = await self.site.call(
            route.method, path, who, value, {"X-Request-Id": operation}
        )
        assert answer.status in (200, 201, 204), (operation, answer.body)
        self.told.add(operation)
        return answer.json if answer.body else None


async def organisation_and_people(story: Story) -> None:
    signed_up = await story.act(
        "signUp", {"organization": "Acts", "email": "acts@example.com", "password": PASSWORD}
    )
    user = signed_up["user"]
    story.admin = Person(
        user["id"],
        user["email"],
        signed_up["organization_id"],
        signed_up["project_id"],
        signed_up["access_token"],
        signed_up["refresh_token"],
    )
    await story.act("updateOrganization", {"name": "Acts and deeds"})
    invited = await story.act("invite", {"email": "bob@example.com", "role": "member"})
    joined = await story.act("acceptInvitation", {"token": invited["token"], "password": PASSWORD})
    bob = joined["user"]["id"]
    await story.act("updateUser", {"role": "admin"}, user_id=bob)
    await story.act("deleteUser", user_id=bob)
    second = await story.act("invite", {"email": "eve@example.com", "role": "member"})
    await story.act("revokeInvitation", invitation_id=second["id"])
    story.secrets += [invited["token"], second["token"], joined["access_token"]]


async def projects_and_keys(story: Story) -> None:
    project = (await story.act("createProject", {"name": "shop"}))["id"]
    await story.act("updateProject", {"description": "sells"}, project_id=project)
    await story.act("updateEncryption", {"encrypted": True}, project_id=project)
    await story.act("rotateDataKey", project_id=project)
    await story.act("updateEncryption", {"encrypted": False}, project_id=project)
    wanted = {"name": "web", "permissions": ["jobs:write"]}
    made = await story.act("createApiKey", wanted, project_id=project)
    rotated = await story.act(
        "rotateApiKey", {"overlap_s": 60}, project_id=project, api_key_id=made["id"]
    )
    await story.act("updateApiKey", {"name": "w"}, project_id=project, api_key_id=rotated["id"])
    for key in (made, rotated):
        await story.act("revokeApiKey", project_id=project, api_key_id=key["id"])
        await story.act("deleteApiKey", project_id=project, api_key_id=key["id"])
        story.secrets += [text for name, text in key.items() if name in ("key", "text", "api_key")]
    spare = (await story.act("createProject", {"name": "spare"}))["id"]
    await story.act("deleteProject", project_id=spare)


async def queues_and_workers(story: Story) -> None:
    admin = story.admin
    assert admin is not None
    await story.site.node.workers.upsert(
        [
            Worker(
                id=WORKER.bytes,
                project_id=uuid.UUID(admin.project_id).bytes,
                name="w",
                status="offline",
                created_at=datetime.now(UTC),
            )
        ]
    )
    story.admin = await story.site.open_project(admin)
    await story.act("createQueue", {"name": "mail"})
    await story.act("updateQueue", {"priority": 3}, queue="mail")
    await story.act("pauseQueue", queue="mail")
    await story.act("resumeQueue", queue="mail")
    await story.act("purgeDeadLetters", {}, queue="mail")
    both = {"queue": "mail", "worker_id": str(WORKER)}
    await story.act("putAssignment", {"weight": 2}, **both)
    await story.act("deleteAssignment", **both)
    await story.act("drainWorker", worker_id=str(WORKER))
    await story.act("resumeWorker", worker_id=str(WORKER))
    await story.act("deleteWorker", worker_id=str(WORKER))
    await story.act("deleteQueue", queue="mail")
    await story.act("changePassword", {"current_password": PASSWORD, "new_password": NEW_PASSWORD})


NOTHING_DONE = {"purgeDeadLetters"}
"""There was nothing to purge; test_dead_letters.py looks at the entry of one that did something."""


async def test_every_administrative_act_is_recorded(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RATE_BURST_S", 60.0)  # this administrator is quick
    async with serving(postgres_url) as site:
        story = Story(site)
        await organisation_and_people(story)
        await projects_and_keys(story)
        await queues_and_workers(story)
        assert story.told == administrative()
        email = {"email": "acts@example.com", "password": NEW_PASSWORD}
        again = (await site.post("/v1/auth/login", value=email)).json["access_token"]
        exported = await site.get("/v1/audit/export", again)
        assert exported.status == 200
        entries = [json.loads(line) for line in exported.body.splitlines()]
        recorded = {entry["actor"]["correlation_id"] for entry in entries}
        assert story.told - recorded == NOTHING_DONE
        for entry in entries:
            assert entry["actor"]["address"] == "127.0.0.1", entry
            assert entry["actor"]["kind"] in ("user", "nobody"), entry
        for secret in story.secrets:
            assert secret.encode() not in exported.body
        verdict = (await site.get("/v1/audit/verify", again)).json
        assert (verdict["intact"], verdict["head"]["sequence"]) == (True, len(entries))


async def test_the_log_is_for_admins_of_the_organisation(postgres_url: str) -> None:
    async with serving(postgres_url) as site:
        ada, other = await site.sign_up(), await site.sign_up()
        bob = await site.member(ada)
        for path in ("/v1/audit", "/v1/audit/export", "/v1/audit/verify"):
            assert (await site.get(path)).status == 401
            assert (await site.get(path, bob)).status == 403
        seen = (await site.get("/v1/audit", other)).json["items"]
        assert {item["actor"]["id"] for item in seen} == {other.id}
