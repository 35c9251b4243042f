"""Who belongs to an organisation: invitations, roles, disabling, removing; and nobody else's."""

import asyncio
import logging
import uuid
from typing import Any

import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.store.tenants import Organizations, Projects
from tests.integration.api.conftest import until
from tests.support.people import PASSWORD, Person, Site

pytestmark = pytest.mark.asyncio(loop_scope="module")

FOREIGN = "01997b5c-6c00-7001-8000-5f3a9c2d4e6f"


async def change(site: Site, who: Person, whom: Person, **changes: Any) -> Any:
    return await site.call("PATCH", f"/v1/users/{whom.id}", who, changes)


async def accept(site: Site, token: str, password: str = PASSWORD) -> Any:
    value = {"token": token, "password": password}
    return await site.post("/v1/invitations/accept", value=value)


async def acts_of(site: Site, person: Person) -> list[str]:
    found = await site.node.pool.fetch(
        "SELECT action FROM audit_log WHERE organization_id = $1 ORDER BY sequence",
        uuid.UUID(person.organization_id).bytes,
    )
    return [row["action"] for row in found]


# Invitations


async def test_an_invitation_is_good_once(site: Site) -> None:
    ada = await site.sign_up()
    invited = await site.post("/v1/invitations", ada, {"email": "Grace@example.com"})
    assert invited.status == 201
    listed = (await site.get("/v1/invitations", ada)).json["items"]
    assert [(item["email"], item["role"]) for item in listed] == [("grace@example.com", "member")]
    assert "token" not in listed[0], "shown once"
    joined = await accept(site, invited.json["token"])
    assert joined.status == 201
    assert joined.json["organization_id"] == ada.organization_id
    again = await accept(site, invited.json["token"])
    assert (again.status, again.json["code"]) == (404, "invitation_not_found")
    assert (await site.get("/v1/invitations", ada)).json["items"] == []
    assert await acts_of(site, ada) == ["organization.sign_up", "user.invite", "user.join"]


async def test_inviting_again_replaces_the_token(site: Site) -> None:
    ada = await site.sign_up()
    value = {"email": "jean@example.com"}
    first = (await site.post("/v1/invitations", ada, value)).json["token"]
    second = (await site.post("/v1/invitations", ada, value | {"role": "admin"})).json["token"]
    assert (await accept(site, first)).status == 404
    assert (await accept(site, second)).json["user"]["role"] == "admin"
    belongs = await site.post("/v1/invitations", ada, value)
    assert (belongs.status, belongs.json["code"]) == (409, "email_taken")


async def test_an_invitation_taken_back_or_expired_is_not_there(site: Site) -> None:
    ada = await site.sign_up()
    back = (await site.post("/v1/invitations", ada, {"email": "back@example.com"})).json
    assert (await site.call("DELETE", f"/v1/invitations/{back['id']}", ada)).status == 200
    assert (await accept(site, back["token"])).status == 404
    late = (await site.post("/v1/invitations", ada, {"email": "late@example.com"})).json
    await site.node.pool.execute(
        "UPDATE invitations SET expires_at = now() WHERE id = $1", uuid.UUID(late["id"]).bytes
    )
    assert (await accept(site, late["token"])).status == 404
    assert (await site.get("/v1/invitations", ada)).json["items"] == []


async def test_an_address_has_one_account_and_only_its_owner_learns_of_it(site: Site) -> None:
    ada, eve = await site.sign_up(), await site.sign_up()
    invited = await site.post("/v1/invitations", ada, {"email": eve.email})
    assert invited.status == 201, "that there is an account elsewhere is not told"
    taken = await accept(site, invited.json["token"])
    assert (taken.status, taken.json["code"]) == (409, "email_taken")


async def test_open_invitations_are_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "INVITATIONS_MAX", 1)
    ada = await site.sign_up()
    assert (await site.post("/v1/invitations", ada, {"email": "a@example.com"})).status == 201
    more = await site.post("/v1/invitations", ada, {"email": "b@example.com"})
    assert (more.status, more.json["code"]) == (409, "too_many_invitations")


# Roles


async def test_another_role_holds_at_once(site: Site) -> None:
    ada = await site.sign_up()
    bob = await site.member(ada)
    assert (await site.post("/v1/invitations", bob, {"email": "x@example.com"})).status == 403
    assert (await change(site, ada, bob, role="admin")).json["role"] == "admin"
    assert (await site.get("/v1/me", bob)).status == 401, "the old token says member"
    bob = await site.log_in(bob)
    assert (await change(site, bob, ada, role="member")).status == 200
    assert (await site.get("/v1/users", ada)).status == 401
    assert (await acts_of(site, ada))[-2:] == ["user.update", "user.update"]


async def test_who_is_disabled_is_out_and_may_come_back(site: Site) -> None:
    ada = await site.sign_up()
    bob = await site.member(ada)
    assert (await change(site, ada, bob, disabled=True)).json["disabled"] is True
    assert (await site.get("/v1/me", bob)).status == 401
    refresh = {"refresh_token": bob.refresh_token}
    assert (await site.post("/v1/auth/refresh", value=refresh)).status == 401
    login = {"email": bob.email, "password": bob.password}
    assert (await site.post("/v1/auth/login", value=login)).status == 401
    assert (await change(site, ada, bob, disabled=False)).json["disabled"] is False
    assert await site.log_in(bob)


async def test_who_is_removed_is_out_and_the_address_is_free(site: Site) -> None:
    ada = await site.sign_up()
    bob = await site.member(ada)
    assert (await site.call("DELETE", f"/v1/users/{bob.id}", ada)).json == {"status": "ok"}
    assert (await site.get("/v1/me", bob)).status == 401
    assert (await site.get(f"/v1/users/{bob.id}", ada)).status == 404
    assert await site.sign_up(bob.email)


@pytest.mark.parametrize("changes", [{"role": "member"}, {"disabled": True}, None])
async def test_the_last_admin_stays(site: Site, changes: dict[str, Any] | None) -> None:
    ada = await site.sign_up()
    out = await site.member(ada, "admin")
    await change(site, ada, out, disabled=True)
    path = f"/v1/users/{ada.id}"
    if changes is None:
        answer = await site.call("DELETE", path, ada)
    else:
        answer = await site.call("PATCH", path, ada, changes)
    assert (answer.status, answer.json["code"]) == (409, "last_admin")
    assert (await site.get("/v1/me", ada)).status == 200


async def test_two_admins_cannot_remove_each_other_at_once(site: Site) -> None:
    ada = await site.sign_up()
    bob = await site.member(ada, "admin")
    answers = await asyncio.gather(
        change(site, ada, bob, role="member"), change(site, bob, ada, role="member")
    )
    assert sorted(answer.status for answer in answers)[0] == 200
    admins = await site.node.pool.fetchval(
        "SELECT count(*) FROM users WHERE organization_id = $1 AND role = 'admin'",
        uuid.UUID(ada.organization_id).bytes,
    )
    assert admins == 1


async def test_people_of_a_deleted_organisation_are_out(site: Site) -> None:
    ada = await site.sign_up()
    bob = await site.member(ada)
    assert (await site.get("/v1/users", bob)).status == 200
    organization_id = uuid.UUID(ada.organization_id).bytes
    await Projects(site.node.pool).delete(organization_id, uuid.UUID(ada.project_id).bytes)
    await Organizations(site.node.pool).delete(organization_id)
    await until(lambda: site.node.token_news.refuses(uuid.UUID(bob.id).bytes, 1))
    for person in (ada, bob):
        assert (await site.get("/v1/me", person)).status == 401


# Lists and walls


async def test_people_are_listed_page_by_page(site: Site) -> None:
    ada = await site.sign_up()
    emails = sorted([ada.email, *[(await site.member(ada)).email for _ in range(2)]])
    await site.sign_up()
    first = (await site.get("/v1/users?limit=2", ada)).json
    rest = (await site.get(f"/v1/users?limit=2&cursor={first['next_cursor']}", ada)).json
    assert [item["email"] for item in first["items"] + rest["items"]] == emails
    assert rest["next_cursor"] is None


async def test_people_of_others_are_not_there(site: Site) -> None:
    ada, eve = await site.sign_up(), await site.sign_up()
    theirs = (await site.post("/v1/invitations", eve, {"email": "m@example.com"})).json
    for method, path, value in (
        ("GET", f"/v1/users/{eve.id}", None),
        ("PATCH", f"/v1/users/{eve.id}", {"disabled": True}),
        ("DELETE", f"/v1/users/{eve.id}", None),
        ("DELETE", f"/v1/invitations/{theirs['id']}", None),
        ("GET", f"/v1/users/{FOREIGN}", None),
        ("GET", "/v1/users/eve", None),
        ("DELETE", "/v1/invitations/x", None),
    ):
        assert (await site.call(method, path, ada, value)).status == 404, (method, path)
    assert (await site.get("/v1/me", eve)).status == 200
    assert (await accept(site, theirs["token"])).status == 201


async def test_members_see_and_change_nothing(site: Site) -> None:
    ada = await site.sign_up()
    bob = await site.member(ada)
    assert (await site.get("/v1/users", bob)).status == 200
    for method, path, value in (
        ("PATCH", f"/v1/users/{ada.id}", {"role": "member"}),
        ("DELETE", f"/v1/users/{ada.id}", None),
        ("POST", "/v1/invitations", {"email": "x@example.com"}),
        ("DELETE", f"/v1/invitations/{FOREIGN}", None),
    ):
        assert (await site.call(method, path, bob, value)).status == 403, (method, path)


# Secrets


async def test_secrets_stand_nowhere(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    ada = await site.sign_up()
    invited = (await site.post("/v1/invitations", ada, {"email": "canary@example.com"})).json
    bob = (await accept(site, invited["token"], "canary in the coal mine")).json
    wrong = {"email": ada.email, "password": "canary that is wrong"}
    refused = await site.post("/v1/auth/login", value=wrong)
    broken = await site.post("/v1/auth/login", value={**wrong, "password": ["canary broken"]})
    secrets = [PASSWORD, "canary in the coal", "canary that is", "canary broken", invited["token"]]
    for session in (bob, {"access_token": ada.access_token, "refresh_token": ada.refresh_token}):
        secrets += [session["access_token"], session["refresh_token"]]
    told = caplog.text + refused.body.decode() + broken.body.decode()
    told += (await site.get("/metrics")).body.decode()
    tables = ("users", "user_sessions", "invitations", "token_revocations", "audit_log")
    for table in tables:
        statements = {name: f'TABLE "{name}"' for name in tables}
        told += str([tuple(row) for row in await site.node.pool.fetch(statements[table])])
    assert not [secret for secret in secrets if secret in told]
