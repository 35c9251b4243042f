"""Access tokens: which are believed, and which are not."""

import base64
import json
from dataclasses import replace
from typing import Any

import jwt
import pytest

from taskforge_server.api.auth.people import People
from taskforge_server.api.auth.principals import Authenticator
from taskforge_server.api.auth.tokens import (
    ALGORITHM,
    REQUIRED,
    AccessTokens,
    Grant,
    KeyRing,
)
from taskforge_server.engine import limits
from taskforge_server.engine.errors import Unauthenticated, Unavailable
from taskforge_server.engine.model.permissions import of_role
from taskforge_server.engine.store.signing_keys import SigningKey
from tests.support.stub_engine import StubKeys, StubProjects

GRANT = Grant(b"u" * 16, b"o" * 16, b"s" * 16, "admin", 3)
IN_PROJECT = replace(GRANT, project_id=b"p" * 16)


class Rows:
    """Signing keys, the newest first."""

    def __init__(self) -> None:
        self.keys: list[SigningKey] = []
        self.reads = 0

    def add(self, name: str) -> None:
        self.keys.insert(0, SigningKey(name, name.encode().ljust(64, b".")))

    async def all(self) -> list[SigningKey]:
        self.reads += 1
        return list(self.keys)

    async def ensure(self) -> bool:
        if self.keys:
            return False
        self.add("first")
        return True


class Back:
    """What was taken back."""

    def __init__(self) -> None:
        self.versions: dict[bytes, int] = {}
        self.fresh = True

    def refuses(self, subject: bytes, version: int) -> bool:
        return self.versions.get(subject, 0) > version

    def is_fresh(self) -> bool:
        return self.fresh


class Fixture:
    """Tokens on a clock that stands still."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0
        self.rows, self.back, self.keys = Rows(), Back(), StubKeys()
        self.tokens = AccessTokens(KeyRing(self.rows, lambda: self.now_s), lambda: self.now_s)
        people = People(
            self.tokens, self.back, monotonic_s=lambda: self.now_s, now_s=lambda: self.now_s
        )
        self.authenticator = Authenticator(self.keys, StubProjects(), people=people)

    async def issue(self, grant: Grant = GRANT) -> str:
        return (await self.tokens.issue(grant))[0]

    async def who(self, text: str) -> Any:
        return await self.authenticator.authenticate(f"Bearer {text}")

    def signed(self, changes: dict[str, Any], **header: Any) -> str:
        """A token as the newest key signs it, with other claims or another header."""
        key = self.rows.keys[0]
        claims = {
            "iss": "taskforge",
            "aud": "taskforge-api",
            "sub": "75757575-7575-7575-7575-757575757575",
            "org": "6f6f6f6f-6f6f-6f6f-6f6f-6f6f6f6f6f6f",
            "sid": "73737373-7373-7373-7373-737373737373",
            "role": "admin",
            "ver": 3,
            "iat": int(self.now_s),
            "exp": int(self.now_s) + limits.ACCESS_TOKEN_S,
            "jti": "1",
        } | changes
        claims = {name: value for name, value in claims.items() if value is not None}
        algorithm = header.pop("algorithm", ALGORITHM)
        headers = {"kid": key.id, "typ": "at+jwt"} | header
        if headers["kid"] is None:
            del headers["kid"]
        secret = None if algorithm == "none" else key.secret
        return jwt.encode(claims, secret, algorithm, headers)


@pytest.fixture
async def site() -> Fixture:
    made = Fixture()
    await made.issue()
    return made


async def test_a_token_says_who_and_what_they_may_do(site: Fixture) -> None:
    person = await site.who(await site.issue())
    assert (person.kind, person.id, person.session_id) == ("user", b"u" * 16, b"s" * 16)
    assert (person.organization_id, person.project_id) == (b"o" * 16, b"")
    assert person.permissions == of_role("admin", in_project=False)
    inside = await site.who(await site.issue(IN_PROJECT))
    assert inside.project_id == b"p" * 16
    assert inside.permissions == of_role("admin", in_project=True)
    assert site.keys.reads == 0, "no key was looked up"


async def test_it_is_verified_once_in_a_while_and_looked_up_never(site: Fixture) -> None:
    text = await site.issue()
    person = await site.who(text)
    reads = site.rows.reads
    for _ in range(5):
        assert await site.who(text) is person
    assert site.rows.reads == reads
    site.now_s += limits.TOKEN_BELIEVED_S
    assert await site.who(text) is not person


async def test_a_token_as_it_should_be_is_believed(site: Fixture) -> None:
    assert (await site.who(site.signed({}))).id == b"u" * 16


@pytest.mark.parametrize("claim", REQUIRED)
async def test_every_claim_is_required(site: Fixture, claim: str) -> None:
    with pytest.raises(Unauthenticated):
        await site.who(site.signed({claim: None}))


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "somebody"},
        {"aud": "something"},
        {"aud": ["taskforge-api"]},
        {"role": "owner"},
        {"sub": "ada"},
        {"org": ""},
        {"prj": "p"},
        {"ver": "3"},
        {"exp": "later"},
        {"exp": 1_800_000_000 + limits.ACCESS_TOKEN_S + 1},
        {"exp": 1_800_000_000 - 1},
        {"iat": 1_800_000_000 + limits.CLOCKS_APART_S + 1, "exp": 1_800_000_000 + 300},
    ],
    ids=str,
)
async def test_claims_that_are_not_ours(site: Fixture, changes: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        await site.who(site.signed(changes))


@pytest.mark.parametrize(
    "header",
    [
        {"algorithm": "none"},
        {"algorithm": "HS512"},
        {"kid": "unknown"},
        {"kid": None},
        {"typ": "JWT"},
    ],
    ids=str,
)
async def test_headers_that_are_not_ours(site: Fixture, header: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        await site.who(site.signed({}, **header))


@pytest.mark.parametrize("text", ["ey.ey.ey", "ey..", "eyJhbGciOiJIUzI1NiJ9.e30.x", "ey.\u00ff.x"])
async def test_what_only_looks_like_one(site: Fixture, text: str) -> None:
    with pytest.raises(Unauthenticated):
        await site.who(text)


async def test_a_changed_token(site: Fixture) -> None:
    head, body, signature = (await site.issue()).split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    forged = base64.urlsafe_b64encode(json.dumps(claims | {"ver": 99}).encode()).rstrip(b"=")
    with pytest.raises(Unauthenticated):
        await site.who(f"{head}.{forged.decode()}.{signature}")


async def test_it_ends(site: Fixture) -> None:
    text = await site.issue()
    assert await site.who(text)
    site.now_s += limits.ACCESS_TOKEN_S
    with pytest.raises(Unauthenticated, match="expired"):
        await site.who(text)


@pytest.mark.parametrize("subject", [GRANT.session_id, GRANT.user_id], ids=["session", "user"])
async def test_it_is_taken_back_at_once(site: Fixture, subject: bytes) -> None:
    text = await site.issue()
    assert await site.who(text)
    site.back.versions[subject] = GRANT.version
    assert await site.who(text), "of this version: no older one"
    site.back.versions[subject] = GRANT.version + 1
    with pytest.raises(Unauthenticated, match="taken back"):
        await site.who(text)


async def test_without_knowing_what_was_taken_back_none_is_believed(site: Fixture) -> None:
    text = await site.issue()
    assert await site.who(text)
    site.back.fresh = False
    with pytest.raises(Unavailable):
        await site.who(text)


async def test_keys_follow_each_other(site: Fixture) -> None:
    old = await site.issue()
    site.rows.add("second")
    site.now_s += limits.SIGNING_KEYS_READ_S
    new = await site.issue()
    assert jwt.get_unverified_header(old)["kid"] == "first"
    assert jwt.get_unverified_header(new)["kid"] == "second"
    assert await site.who(old)
    assert await site.who(new)
    del site.rows.keys[1:]
    site.now_s += limits.SIGNING_KEYS_READ_S
    with pytest.raises(Unauthenticated):
        await site.who(old)
    assert await site.who(new)


async def test_a_new_key_of_another_node_is_found_and_guesses_cost_one_reading(
    site: Fixture,
) -> None:
    site.now_s += limits.SIGNING_KEYS_PAUSE_S
    site.rows.add("elsewhere")
    assert await site.who(site.signed({}))
    reads = site.rows.reads
    for guess in range(20):
        with pytest.raises(Unauthenticated):
            await site.who(site.signed({}, kid=f"guess{guess}"))
    assert site.rows.reads <= reads + 1
