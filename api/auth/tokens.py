"""Access tokens: signed by a node, verified by any, without a look-up.

    header   alg (HS256, nothing else), typ at+jwt, kid: which key
    claims   iss aud sub org sid role ver iat exp jti, all required; prj in a session of a project

    text ──kid──► key ──signature──► claims ──clock, issuer, audience──► Grant
            └ unknown: read the keys, once a second at most

HMAC, since whoever verifies here also signs. `ver` is the version of the person when the token was
made; what is taken back before `exp` is known by `sub` and `ver`, or by `sid`.
"""

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import jwt
import msgspec

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Unauthenticated, Unavailable
from taskforge_server.engine.model.tenant import UserRole
from taskforge_server.engine.store.signing_keys import SigningKey
from taskforge_server.ext.ids import uuid_bytes, uuid_text

ALGORITHM: Final = "HS256"
TYPE: Final = "at+jwt"
ISSUER: Final = "taskforge"
AUDIENCE: Final = "taskforge-api"
REQUIRED: Final = ("iss", "aud", "sub", "org", "sid", "role", "ver", "iat", "exp", "jti")


class KeyRows(Protocol):
    """The stored signing keys."""

    async def all(self) -> list[SigningKey]: ...

    async def ensure(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token says: who, of which organisation, in which session, in which state."""

    user_id: bytes
    organization_id: bytes
    session_id: bytes
    role: UserRole
    version: int
    project_id: bytes = b""


class Claims(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The payload of a token."""

    iss: str
    aud: str
    sub: str
    org: str
    sid: str
    role: UserRole
    ver: int
    iat: int
    exp: int
    jti: str
    prj: str | None = None


class KeyRing:
    """The signing keys as this node knows them; the newest signs."""

    def __init__(self, rows: KeyRows, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._rows = rows
        self._monotonic_s = monotonic_s
        self._keys: dict[str, SigningKey] = {}
        self._newest: SigningKey | None = None
        self._read_s = float("-inf")
        self._reading = asyncio.Lock()

    async def newest(self) -> SigningKey:
        """What to sign with; makes one where there is none."""
        await self._read(limits.SIGNING_KEYS_READ_S)
        if self._newest is None:
            await self._rows.ensure()
            await self._read(0.0)
        if self._newest is None:
            raise Unavailable(message="there is no key to sign with: the server's log says why")
        return self._newest

    async def find(self, key_id: str) -> SigningKey | None:
        """The key of this name; the rows are asked for one that is not known."""
        await self._read(limits.SIGNING_KEYS_READ_S)
        if key_id not in self._keys:
            await self._read(limits.SIGNING_KEYS_PAUSE_S)
        return self._keys.get(key_id)

    async def _read(self, older_s: float) -> None:
        """Read the rows if that was longer ago; callers at one time share one reading."""
        if self._monotonic_s() - self._read_s < older_s:
            return
        async with self._reading:
            started_s = self._monotonic_s()
            if started_s - self._read_s < older_s:
                return
            keys = await self._rows.all()
            self._keys = {key.id: key for key in keys}
            self._newest = keys[0] if keys else None
            self._read_s = started_s


class AccessTokens:
    """Makes and reads access tokens."""

    def __init__(self, keys: KeyRing, now_s: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._now_s = now_s

    async def issue(self, grant: Grant, until_s: int | None = None) -> tuple[str, int]:
        """The token, and for how many seconds it is good: not beyond `until_s`, the end of a token
        that it is given for. Otherwise who has stolen one would never need another."""
        key = await self._keys.newest()
        now_s = int(self._now_s())
        exp_s = now_s + limits.ACCESS_TOKEN_S
        if until_s is not None:
            exp_s = max(now_s + 1, min(until_s, exp_s))
        claims = Claims(
            iss=ISSUER,
            aud=AUDIENCE,
            sub=uuid_text(grant.user_id),
            org=uuid_text(grant.organization_id),
            sid=uuid_text(grant.session_id),
            role=grant.role,
            ver=grant.version,
            iat=now_s,
            exp=exp_s,
            jti=str(uuid.uuid4()),
            prj=uuid_text(grant.project_id) if grant.project_id else None,
        )
        headers = {"kid": key.id, "typ": TYPE}
        payload = msgspec.to_builtins(claims)
        return jwt.encode(payload, key.secret, ALGORITHM, headers), exp_s - now_s

    async def read(self, text: str) -> tuple[Grant, int]:
        """What a good token says, and when it ends; Unauthenticated for any other."""
        try:
            header = jwt.get_unverified_header(text)
        except jwt.PyJWTError:
            raise bad_token() from None
        key_id = header.get("kid")
        if header.get("typ") != TYPE or not isinstance(key_id, str):
            raise bad_token()
        key = await self._keys.find(key_id)
        if key is None:
            raise bad_token()
        try:
            payload = jwt.decode(text, key.secret, [ALGORITHM], options=_SIGNATURE_ONLY)
            claims = msgspec.convert(payload, Claims)
            grant = _grant(claims)
        except (jwt.PyJWTError, ValueError):  # msgspec's errors are such
            raise bad_token() from None
        self._check(claims)
        return grant, claims.exp

    def _check(self, claims: Claims) -> None:
        now_s = self._now_s()
        if claims.iss != ISSUER or claims.aud != AUDIENCE:
            raise bad_token()
        if claims.iat > now_s + limits.CLOCKS_APART_S:
            raise bad_token()
        if not 0 < claims.exp - claims.iat <= limits.ACCESS_TOKEN_S:
            raise bad_token()
        if now_s >= claims.exp:
            raise Unauthenticated("this access token has expired: refresh it")


_SIGNATURE_ONLY: Any = {
    # All of these are checked here, by a clock that tests can set.
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
    "verify_aud": False,
    "verify_iss": False,
    "require": list(REQUIRED),
}


def may_be_token(text: str) -> bool:
    """Whether it looks like a JWT; no API key of ours does."""
    return text.startswith("ey") and text.count(".") == 2


def bad_token() -> Unauthenticated:
    """The same for all that can be wrong with one."""
    return Unauthenticated("this access token is not valid")


def _grant(claims: Claims) -> Grant:
    return Grant(
        uuid_bytes(claims.sub),
        uuid_bytes(claims.org),
        uuid_bytes(claims.sid),
        claims.role,
        claims.ver,
        uuid_bytes(claims.prj) if claims.prj is not None else b"",
    )
