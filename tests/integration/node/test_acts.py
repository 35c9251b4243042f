"""Every administrative operation leaves an entry in the audit log: who, from where, which request.

The operations come from the OpenAPI document: a new one fails the test until it has a place in the
story below, or a reason why it leaves no entry.
"""

import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from taskforge_server.api.rest.openapi import document
from taskforge_server.api.rest.table import ROUTES
from taskforge_server.engine import limits
from taskforge_server.engine.model.worker import Worker
from tests.support.engine_parts import done
from tests.support.people import PASSWORD, Answer, Person, Site, serving
from tests.support.real_node import Hand, arrives

NOT_ADMINISTRATIVE = {
    **dict.fromkeys(
        ("submitJob", "submitBatch", "submitGraph", "runSchedule"),
        "makes jobs, which are there to be seen",
    ),
    **dict.fromkeys(
        ("retryJob", "cancelJob", "changeJob", "runJobNow", "addParents"),
        "is told to one job, and stands in its row and events",
    ),
    "waitJobs": "changes nothing",
    "heartbeat": "a worker's sign of life",
    **dict.fromkeys(
        ("logIn", "refreshTokens", "logOut", "openProject"),
        "begins and ends a session of one's own, and changes nothing for others",
    ),
}
"""Operations that change something, or could, and leave no entry; and why."""
NEW_PASSWORD = "an entirely different password"
FINAL_ERROR = b'{"type":"E","message":"m","retryable":false}'
WORKER = uuid.UUID(int=77)


def administrative() -> set[str]:
    """All operations of the OpenAPI document that may change something, but for those above."""
    changing = {
        told["operationId"]
        for methods in document(ROUTES)["paths"].values()
        for method, told in methods.items()
        if method != "get"
    }
    assert not NOT_ADMINISTRATIVE.keys() - changing
    return changing - NOT_ADMINISTRATIVE.keys()


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
    both = {"queue": "mail", "worker_id": str(WORKER)}
    await story.act("putAssignment", {"weight": 2}, **both)
    await story.act("deleteAssignment", **both)
    await story.act("drainWorker", worker_id=str(WORKER))
    await story.act("resumeWorker", worker_id=str(WORKER))
    await story.act("deleteWorker", worker_id=str(WORKER))
    await jobs_and_dead_letters(story)
    await schedules(story)
    await story.act("deleteQueue", queue="mail")
    await story.act("changePassword", {"current_password": PASSWORD, "new_password": NEW_PASSWORD})


async def jobs_and_dead_letters(story: Story) -> None:
    """Two jobs fail; one of them is put back and cancelled, the other purged."""
    site, admin = story.site, story.admin
    assert admin is not None
    hand = Hand(site.node, uuid.UUID(admin.project_id).bytes)
    queue = (await site.node.queues.get(hand.project_id, "mail")).ref()
    await hand.submit(queue, 2)
    worker, outlet = await hand.worker(queue, credit=2)
    await arrives(outlet, lambda: len(outlet.tokens()) == 2)
    await worker.receive([done(1, b"", *((token, 1, FINAL_ERROR) for token in outlet.tokens()))])
    await arrives(outlet, lambda: outlet.of(12))
    worker.detach()
    await site.node.projector.flush()
    back = await story.act("requeueDeadLetters", {"limit": 1, "per_s": 0.001}, queue="mail")
    # The tables may still have the first one as failed.
    purged = await story.act("purgeDeadLetters", {}, queue="mail")
    ended = await story.act("cancelJobs", {"job_type": "send"}, queue="mail")
    assert (back["count"], purged["count"], ended["cancelled"]) == (1, 1, 1)


async def schedules(story: Story) -> None:
    wanted = {"queue": "mail", "cron": "0 3 * * *", "job": {"job_type": "send"}}
    await story.act("createSchedule", wanted | {"name": "nightly"})
    await story.act("putSchedule", wanted | {"cron": "0 4 * * *"}, schedule="nightly")
    await story.act("updateSchedule", {"cron": "0 5 * * *"}, schedule="nightly")
    await story.act("pauseSchedule", schedule="nightly")
    await story.act("resumeSchedule", schedule="nightly")
    await story.act("deleteSchedule", schedule="nightly")


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
        assert story.told - recorded == set()
        ended = next(entry for entry in entries if entry["action"] == "jobs.cancel")
        assert ended["after"]["filter"] == {"job_type": "send"}
        assert (ended["after"]["name"], ended["after"]["jobs"]) == ("mail", 1)
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
