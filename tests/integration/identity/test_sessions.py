"""Sign-up, login, tokens: what a person gets, and for how long it is good."""

import asyncio
import time
import uuid
from dataclasses import replace
from ipaddress import ip_network
from itertools import count
from typing import Any

import jwt
import pytest

from taskforge_server.api.auth.tokens import AccessTokens, Grant, KeyRing
from taskforge_server.engine import limits
from taskforge_server.engine.cluster.memory import Exchange
from taskforge_server.engine.model.permissions import of_role
from taskforge_server.ext.ids import uuid_bytes
from tests.integration.api.conftest import until
from tests.support.people import PASSWORD, Person, Site, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

SESSIONS = "SELECT id, organization_id FROM user_sessions WHERE user_id = $1"
ACTS = "SELECT action, target FROM audit_log WHERE organization_id = $1 ORDER BY sequence"


async def rows(site: Site, statement: str, *arguments: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in await site.node.pool.fetch(statement, *arguments)]


async def acts_of(site: Site, person: Person) -> list[tuple[str, str]]:
    """Of the person's organisation, in their order."""
    found = await rows(site, ACTS, uuid.UUID(person.organization_id).bytes)
    return [(act["action"], act["target"]) for act in found]


async def refresh(site: Site, person: Person) -> Any:
    return await site.post("/v1/auth/refresh", value={"refresh_token": person.refresh_token})


def with_tokens(person: Person, tokens: Any) -> Person:
    return replace(
        person, access_token=tokens["access_token"], refresh_token=tokens["refresh_token"]
    )


# Sign-up


async def test_sign_up_gives_an_organisation_and_a_session(site: Site) -> None:
    ada = await site.sign_up("Ada@Example.com")
    me = await site.get("/v1/me", ada)
    assert me.status == 200
    assert me.json["user"] | {"created_at": ""} == {
        "id": ada.id,
        "email": "ada@example.com",
        "role": "admin",
        "disabled": False,
        "created_at": "",
    }
    assert me.json["project_id"] is None
    assert me.json["permissions"] == sorted(of_role("admin", in_project=False))
    taken = await site.post(
        "/v1/signup",
        value={"organization": "x", "email": "ADA@example.com", "password": PASSWORD},
    )
    assert (taken.status, taken.json["code"]) == (409, "email_taken")
    organization = f"organization:{ada.organization_id}"
    assert await acts_of(site, ada) == [("organization.sign_up", organization)]


@pytest.mark.parametrize("password", ["short", "aaaaaaaaaaaaaaaa", "grace@example.com", "x" * 257])
async def test_weak_passwords_are_refused(site: Site, password: str) -> None:
    value = {"organization": "x", "email": "grace@example.com", "password": password}
    answer = await site.post("/v1/signup", value=value)
    assert (answer.status, answer.json["field"]) == (422, "password")
    assert password not in answer.body.decode()
    assert not await rows(site, "SELECT 1 FROM users WHERE email = $1", value["email"])


async def test_sign_up_may_be_closed(postgres_url: str) -> None:
    async with serving(postgres_url, signup_open=False) as site:
        value = {"organization": "x", "email": "a@example.com", "password": PASSWORD}
        answer = await site.post("/v1/signup", value=value)
        assert (answer.status, answer.json["code"]) == (403, "signup_closed")


async def test_sign_ups_of_an_address_are_counted(
    own_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SIGNUPS_ADDRESS_MAX", 1)
    await own_site.sign_up()
    value = {"organization": "x", "email": "b@example.com", "password": PASSWORD}
    answer = await own_site.post("/v1/signup", value=value)
    assert (answer.status, answer.json["code"]) == (429, "too_many_attempts")
    assert int(answer.headers["Retry-After"]) > 0


# Login


async def test_whoever_may_not_come_in_gets_the_same_answer_for_the_same_work(site: Site) -> None:
    ada = await site.sign_up()
    bob = await site.member(ada)
    disabled = await site.call("PATCH", f"/v1/users/{bob.id}", ada, {"disabled": True})
    assert disabled.json["disabled"] is True
    assert site.api.identity is not None
    passwords = site.api.identity._passwords
    answers = []
    for email, password in (
        ("nobody@example.com", PASSWORD),
        (ada.email, "a wrong password"),
        (bob.email, PASSWORD),
    ):
        before = passwords.made
        answer = await site.post("/v1/auth/login", value={"email": email, "password": password})
        assert passwords.made - before == 1, "one hash is compared, whoever it is"
        answers.append((answer.status, answer.body))
    assert answers[0][0] == 401
    assert len(set(answers)) == 1


async def test_passwords_are_stored_as_argon2id(site: Site) -> None:
    ada = await site.sign_up()
    found = await rows(site, "SELECT password_hash FROM users WHERE email = $1", ada.email)
    stored = found[0]["password_hash"]
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    # Made under weaker parameters once: the next login makes it anew.
    weak = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$"
    assert site.api.identity is not None
    passwords = site.api.identity._passwords
    assert passwords.is_outdated(weak + "x" * 22)
    assert not passwords.is_outdated(stored)
    assert await site.log_in(ada)


async def test_a_login_ends_with_logout(site: Site) -> None:
    ada = await site.sign_up()
    other = await site.log_in(ada)
    assert (await site.get("/v1/me", ada)).status == 200
    assert (await site.post("/v1/auth/logout", ada)).json == {"status": "ok"}
    assert (await site.get("/v1/me", ada)).status == 401
    assert (await refresh(site, ada)).status == 401
    assert (await site.get("/v1/me", other)).status == 200, "of another session nothing ended"


async def test_sessions_of_a_person_are_bounded(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SESSIONS_PER_USER_MAX", 2)
    ada = await site.sign_up()
    second, third = await site.log_in(ada), await site.log_in(ada)
    assert (await site.get("/v1/me", ada)).status == 401
    assert (await refresh(site, ada)).status == 401
    for person in (second, third):
        assert (await site.get("/v1/me", person)).status == 200


# Guessing


async def test_guesses_at_an_account_end(postgres_url: str, redis_url: str) -> None:
    async with serving(postgres_url, redis_url=redis_url) as site:
        ada, eve = await site.sign_up(), await site.sign_up()
        statuses = []
        for attempt in range(limits.LOGIN_FAILURES_ACCOUNT_MAX + 1):
            value = {"email": ada.email.upper(), "password": f"guess {attempt}"}
            statuses.append((await site.post("/v1/auth/login", value=value)).status)
        assert statuses == [401] * limits.LOGIN_FAILURES_ACCOUNT_MAX + [429]
        right = {"email": ada.email, "password": PASSWORD}
        closed = await site.post("/v1/auth/login", value=right)
        assert (closed.status, closed.json["code"]) == (429, "too_many_attempts")
        assert 0 < int(closed.headers["Retry-After"]) <= limits.LOGIN_WINDOW_S
        assert (await site.get("/v1/me", ada)).status == 200, "who is in stays in"
        assert await site.log_in(eve), "others come in"


async def test_an_unknown_account_is_counted_like_any_other(site: Site) -> None:
    value = {"email": "stranger@example.com", "password": PASSWORD}
    for _ in range(limits.LOGIN_FAILURES_ACCOUNT_MAX):
        assert (await site.post("/v1/auth/login", value=value)).status == 401
    assert (await site.post("/v1/auth/login", value=value)).status == 429


async def test_guesses_from_an_address_end(own_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOGIN_FAILURES_ADDRESS_MAX", 3)
    ada = await own_site.sign_up()
    for number in range(3):
        value = {"email": f"guess{number}@example.com", "password": PASSWORD}
        assert (await own_site.post("/v1/auth/login", value=value)).status == 401
    value = {"email": ada.email, "password": PASSWORD}
    assert (await own_site.post("/v1/auth/login", value=value)).status == 429


@pytest.mark.parametrize("trusted", [False, True])
async def test_nobody_makes_up_an_address(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    monkeypatch.setattr(limits, "LOGIN_FAILURES_ADDRESS_MAX", 3)
    proxies = (ip_network("127.0.0.1"), ip_network("10.0.0.7")) if trusted else ()
    async with serving(postgres_url, trusted_proxies=proxies) as site:

        async def guess(said: str) -> int:
            value = {"email": f"{next(numbers)}@example.com", "password": PASSWORD}
            headers = {"X-Forwarded-For": said, "Forwarded": f"for={said}"}
            return (await site.call("POST", "/v1/auth/login", None, value, headers)).status

        numbers = count()
        spoofed = [await guess(f"8.8.8.{number}, 192.0.2.7, 10.0.0.7") for number in range(4)]
        assert spoofed == [401, 401, 401, 429]
        assert await guess("192.0.2.7, 192.0.2.8") == (401 if trusted else 429)
        headers = {"X-Forwarded-For": "8.8.8.8, 192.0.2.9"}
        value = {"organization": "Engines", "email": "ada@example.com", "password": PASSWORD}
        made = await site.call("POST", "/v1/signup", None, value, headers)
        assert made.status == 201
        seen = await site.node.pool.fetch("SELECT DISTINCT address FROM audit_log")
        assert ("192.0.2.9" if trusted else "127.0.0.1") in {row["address"] for row in seen}


async def test_good_logins_are_not_counted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOGIN_FAILURES_ACCOUNT_MAX", 2)
    ada = await site.sign_up()
    for _ in range(4):
        await site.log_in(ada)


# Refresh


async def test_each_refresh_token_is_good_once(site: Site) -> None:
    ada = await site.sign_up()
    answer = await refresh(site, ada)
    assert answer.status == 200
    newer = with_tokens(ada, answer.json)
    assert newer.refresh_token != ada.refresh_token
    assert (await site.get("/v1/me", newer)).status == 200
    assert (await refresh(site, newer)).status == 200


async def test_a_token_that_is_used_again_ends_its_session(site: Site) -> None:
    ada = await site.sign_up()
    other = await site.log_in(ada)
    stolen = ada
    newer = with_tokens(ada, (await refresh(site, ada)).json)
    assert (await refresh(site, stolen)).status == 401
    assert (await refresh(site, newer)).status == 401, "whoever was first is not known either"
    assert (await site.get("/v1/me", newer)).status == 401
    assert (await site.get("/v1/me", other)).status == 200
    assert (await acts_of(site, ada))[1:] == [("session.token_reused", f"user:{ada.id}")]


async def test_of_two_refreshes_at_once_one_wins(site: Site) -> None:
    ada = await site.sign_up()
    answers = await asyncio.gather(*(refresh(site, ada) for _ in range(4)))
    assert sorted(answer.status for answer in answers) == [200, 401, 401, 401]
    left = await rows(site, SESSIONS, uuid.UUID(ada.id).bytes)
    assert not left, "and it was used again"


async def test_a_made_up_token_ends_nothing(site: Site) -> None:
    ada = await site.sign_up()
    # The right session, another family.
    text = ada.refresh_token
    made_up = replace(ada, refresh_token=text[:30] + ("A" if text[30] != "A" else "B") + text[31:])
    assert (await refresh(site, made_up)).status == 401
    assert (await site.get("/v1/me", ada)).status == 200
    assert (await refresh(site, ada)).status == 200


async def test_a_session_that_was_not_refreshed_is_over(site: Site) -> None:
    ada = await site.sign_up()
    await site.node.pool.execute(
        "UPDATE user_sessions SET created_at = now() - interval '2 s', "
        "expires_at = now() - interval '1 s' WHERE user_id = $1",
        uuid.UUID(ada.id).bytes,
    )
    assert (await refresh(site, ada)).status == 401
    assert len(await acts_of(site, ada)) == 1, "late is not twice"


# Projects


async def test_a_session_of_a_project(site: Site) -> None:
    ada, eve = await site.sign_up(), await site.sign_up()
    assert (await site.get("/v1/queues", ada)).status == 403
    inside = await site.open_project(ada)
    assert (await site.post("/v1/queues", inside, {"name": "mail"})).status == 201
    me = (await site.get("/v1/me", inside)).json
    assert me["project_id"] == ada.project_id
    assert me["permissions"] == sorted(of_role("admin", in_project=True))
    foreign = await site.post("/v1/auth/sessions/project", ada, {"project_id": eve.project_id})
    assert (foreign.status, foreign.json["code"]) == (404, "project_not_found")
    outside = await site.post("/v1/auth/sessions/project", inside, {"project_id": None})
    assert (await site.get("/v1/queues", outside.json["access_token"])).status == 403


async def test_a_token_gives_none_that_outlives_it(site: Site) -> None:
    """A stolen one is good until it expires, and cannot renew itself."""
    ada = await site.sign_up()
    user_id, organization_id = uuid_bytes(ada.id), uuid_bytes(ada.organization_id)
    grant = Grant(user_id, organization_id, uuid.uuid4().bytes, "admin", 1)
    soon_s = int(time.time()) + limits.ACCESS_TOKEN_S // 2
    text, _ = await AccessTokens(KeyRing(site.node.signing_keys)).issue(grant, soon_s)
    for _ in range(2):
        value = {"project_id": ada.project_id}
        opened = (await site.post("/v1/auth/sessions/project", text, value)).json
        text = opened["access_token"]
        assert jwt.decode(text, options={"verify_signature": False})["exp"] == soon_s
        assert opened["expires_in"] <= limits.ACCESS_TOKEN_S // 2


async def test_jobs_of_a_person_on_the_short_way_too(site: Site) -> None:
    ada = await site.sign_up()
    inside = await site.open_project(ada)
    assert (await site.post("/v1/queues", inside, {"name": "mail"})).status == 201
    for _ in range(3):
        submitted = await site.post("/v1/queues/mail/jobs", inside, {"job_type": "t"})
        assert submitted.status == 201
    assert (await site.post("/v1/auth/logout", inside)).status == 200
    assert (await site.post("/v1/queues/mail/jobs", inside, {"job_type": "t"})).status == 401


# Passwords


async def test_another_password_ends_all_other_sessions(site: Site) -> None:
    ada = await site.sign_up()
    other = await site.log_in(ada)
    value = {"current_password": "not this one", "new_password": "a sentence of another kind"}
    wrong = await site.post("/v1/auth/password", ada, value)
    assert (wrong.status, wrong.json["code"]) == (401, "login_failed")
    value["current_password"] = PASSWORD
    changed = await site.post("/v1/auth/password", ada, value)
    assert changed.status == 200
    assert (await site.get("/v1/me", ada)).status == 401, "old tokens are void"
    assert (await refresh(site, ada)).status == 401
    assert (await site.get("/v1/me", other)).status == 401
    assert (await refresh(site, other)).status == 401
    newer = with_tokens(ada, changed.json)
    assert (await site.get("/v1/me", newer)).status == 200
    assert (await refresh(site, newer)).status == 200
    old = await site.post("/v1/auth/login", value={"email": ada.email, "password": PASSWORD})
    assert old.status == 401
    assert await site.log_in(replace(ada, password="a sentence of another kind"))


async def test_guesses_at_the_current_password_end(site: Site) -> None:
    ada = await site.sign_up()
    value = {"current_password": "a guess", "new_password": "a sentence of another kind"}
    for _ in range(limits.LOGIN_FAILURES_ACCOUNT_MAX):
        assert (await site.post("/v1/auth/password", ada, value)).status == 401
    assert (await site.post("/v1/auth/password", ada, value)).status == 429


# Nodes


async def test_what_ends_on_one_node_ends_on_the_others(postgres_url: str) -> None:
    exchange = Exchange()
    async with serving(postgres_url, exchange) as here, serving(postgres_url, exchange) as there:
        ada = await here.sign_up()
        bob = await here.member(ada)
        for person in (ada, bob):
            assert (await there.get("/v1/me", person)).status == 200, "any node verifies"
        await here.call("PATCH", f"/v1/users/{bob.id}", ada, {"role": "admin"})
        await here.post("/v1/auth/logout", ada)
        # By a message; by the rows at the latest.
        async with asyncio.timeout(10):
            for person in (ada, bob):
                while (await there.get("/v1/me", person)).status == 200:
                    pass
        assert (await there.get("/v1/me", person)).status == 401
        newer = with_tokens(bob, (await refresh(there, bob)).json)
        assert (await there.get("/v1/me", newer)).json["user"]["role"] == "admin"


async def test_what_ends_elsewhere_is_read_when_no_message_comes(site: Site) -> None:
    ada = await site.sign_up()
    session = (await rows(site, SESSIONS, uuid.UUID(ada.id).bytes))[0]
    assert (await site.get("/v1/me", ada)).status == 200
    await site.node.pool.execute(
        "INSERT INTO token_revocations VALUES ($1, $2, 1000)",
        session["id"],
        session["organization_id"],
    )
    await until(lambda: site.node.token_news.refuses(session["id"], 1))
    assert (await site.get("/v1/me", ada)).status == 401
