"""Who calls: an API key or a person's access token in, a principal out.

    text ──SHA-256──► hash ──cache──► Principal
                              │ miss, or half of its life over
                              └──keys──► row ──► Principal, or remembered as unknown

The cache is keyed by the hash, so that how long a comparison takes says nothing of a key. An entry
is believed for PRINCIPAL_TTL_S, within which a revoked key stops working even if no news of it
came (`forget`); from half of that on one look-up in the background renews it, so that callers in
between need not wait. Keys that are not there are remembered too, apart, so that guesses cannot
push out the good ones.

A key in use is thus looked up at least once in PRINCIPAL_TTL_S, and `used` hears of it: when a key
was last used is known to a second, and a request pays nothing for it.

Access tokens are verified by `people.People`, behind the same two calls.
"""

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol

from taskforge_server.api.auth.tokens import may_be_token
from taskforge_server.engine import limits
from taskforge_server.engine.errors import NotFound, PermissionDenied, Unauthenticated, Unavailable
from taskforge_server.engine.model.permissions import PROJECT_PERMISSIONS
from taskforge_server.engine.model.tenant import ALL_PERMISSIONS, ApiKey, Project

log = logging.getLogger(__name__)

PrincipalKind = Literal["api_key", "user", "nobody"]


class KeyReader(Protocol):
    """The rows of API keys."""

    async def find(self, text: str) -> ApiKey | None:
        """The key with this text, expired or not."""
        ...


class ProjectReader(Protocol):
    """The rows of projects."""

    async def get(self, project_id: bytes) -> Project: ...


class TokenReader(Protocol):
    """Knows people by their access tokens."""

    def cached(self, key: bytes) -> "Principal | None":
        """Who has the token with this digest, if that is known and good still; never waits."""
        ...

    async def authenticate(self, text: str, key: bytes) -> "Principal":
        """Who has this token; Unauthenticated."""
        ...


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller that is known: what it belongs to and what it may do. The tenant of a request is
    this one's, never one that the request names."""

    organization_id: bytes
    project_id: bytes
    """Empty for a person whose session is for no project; such a one has no project permission."""
    kind: PrincipalKind
    id: bytes
    """Of the API key or of the user."""
    permissions: frozenset[str]
    session_id: bytes = b""
    """Of a person."""
    expires_s: int | None = None
    """When the access token of a person ends."""

    def may(self, permission: str) -> bool:
        return permission in self.permissions

    def require(self, permission: str) -> None:
        """PermissionDenied unless the credential has it."""
        if permission not in self.permissions:
            raise PermissionDenied(f"this credential lacks the permission {permission}")


NOBODY = Principal(b"", b"", "nobody", b"", frozenset())
"""Who calls where no credential is asked for."""


@dataclass(slots=True)
class _Entry:
    principal: Principal
    key_expires_at: datetime | None
    renew_s: float
    expires_s: float


def bearer(header: str | None) -> str:
    """The key or token in an `Authorization` header; Unauthenticated if it holds none."""
    if header is None:
        raise Unauthenticated
    scheme, _, text = header.partition(" ")
    text = text.strip()
    if scheme.lower() != "bearer" or not text:
        raise Unauthenticated("the Authorization header must read `Bearer <API key>`")
    bytes_max = limits.CREDENTIAL_BYTES_MAX if may_be_token(text) else limits.API_KEY_BYTES_MAX
    if len(text) > bytes_max or not text.isascii() or not text.isprintable():
        raise Unauthenticated("this is no API key")
    return text


def digest(text: str) -> bytes:
    """What the cache knows a key by."""
    return hashlib.sha256(text.encode()).digest()


class Authenticator:
    """Turns API keys and, with a reader of them, access tokens into principals."""

    def __init__(
        self,
        keys: KeyReader,
        projects: ProjectReader,
        *,
        people: TokenReader | None = None,
        used: Callable[[bytes, datetime], None] = lambda key_id, at: None,
        monotonic_s: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`used` hears that the key with this id was used at this time."""
        self._keys = keys
        self._projects = projects
        self._people = people
        self._used = used
        self._monotonic_s = monotonic_s
        self._now = now
        self._known: dict[bytes, _Entry] = {}
        self._unknown: dict[bytes, float] = {}
        self._lookups: dict[bytes, asyncio.Task[Principal]] = {}
        self._news_count = 0
        self.changes = 0
        """How often something that `cached` said before ceased to hold."""

    def cached(self, key: bytes, text: str) -> Principal | None:
        """Who has the key with this digest, if that is known and fresh; never waits."""
        entry = self._known.get(key)
        if entry is None:
            return None if self._people is None else self._people.cached(key)
        now_s = self._monotonic_s()
        if now_s >= entry.renew_s:
            if now_s >= entry.expires_s:
                return None
            if key not in self._lookups and len(self._lookups) < limits.LOOKUPS_AT_ONCE_MAX:
                self._begin(key, text)
        if entry.key_expires_at is not None and self._now() > entry.key_expires_at:
            return None
        return entry.principal

    async def authenticate(self, header: str | None) -> Principal:
        """Who calls, by the `Authorization` header; Unauthenticated."""
        text = bearer(header)
        key = digest(text)
        known = self.cached(key, text)
        if known is not None:
            return known
        if self._people is not None and may_be_token(text):
            return await self._people.authenticate(text, key)
        if self._unknown.get(key, 0.0) > self._monotonic_s():
            raise Unauthenticated("this API key is not valid")
        lookup = self._lookups.get(key)
        if lookup is None:
            if len(self._lookups) >= limits.LOOKUPS_AT_ONCE_MAX:
                raise Unavailable(limits.UNAVAILABLE_RETRY_S)
            lookup = self._begin(key, text)
        # A caller that gives up must not take the look-up from the others.
        return await asyncio.shield(lookup)

    def forget(self, key_id: bytes | None = None) -> None:
        """The key with this id has changed, or without an id any of them: look up again."""
        self._news_count += 1
        self.changes += 1
        self._unknown.clear()
        if key_id is None:
            self._known.clear()
            return
        for key, entry in list(self._known.items()):
            if entry.principal.id == key_id:
                del self._known[key]

    def _begin(self, key: bytes, text: str) -> asyncio.Task[Principal]:
        lookup = asyncio.create_task(self._look_up(key, text))
        self._lookups[key] = lookup
        lookup.add_done_callback(lambda task: self._ended(key, task))
        return lookup

    def _ended(self, key: bytes, lookup: asyncio.Task[Principal]) -> None:
        self._lookups.pop(key, None)
        if not lookup.cancelled() and (error := lookup.exception()) is not None:
            # Retrieved here, for look-ups that nobody waits for.
            log.debug("look-up of an API key: %s", error)

    async def _look_up(self, key: bytes, text: str) -> Principal:
        heard = -1
        while heard != self._news_count:  # what was read before the news may be old
            heard, begun_s = self._news_count, self._monotonic_s()
            row, project = await self._read(text)
        valid = row is not None and hmac.compare_digest(row.key_hash, key.hex())
        if row is None or project is None or not valid or not row.is_live(self._now()):
            self.changes += self._known.pop(key, None) is not None
            _make_room(self._unknown, limits.UNKNOWN_KEYS_MAX)
            self._unknown[key] = self._monotonic_s() + limits.UNKNOWN_KEY_TTL_S
            raise Unauthenticated("this API key is not valid")
        self._used(row.id, self._now())
        every = ALL_PERMISSIONS in row.permissions
        granted = PROJECT_PERMISSIONS if every else PROJECT_PERMISSIONS & set(row.permissions)
        principal = Principal(project.organization_id, row.project_id, "api_key", row.id, granted)
        before = self._known.get(key)
        if before is None:
            _make_room(self._known, limits.PRINCIPALS_MAX)
        elif before.principal != principal:
            self.changes += 1
        self._known[key] = _Entry(
            principal,
            row.expires_at,
            begun_s + limits.PRINCIPAL_TTL_S / 2,
            begun_s + limits.PRINCIPAL_TTL_S,
        )
        return principal

    async def _read(self, text: str) -> tuple[ApiKey | None, Project | None]:
        """The key with this text, and its project; a key goes with its project."""
        row = await self._keys.find(text)
        if row is None:
            return None, None
        try:
            return row, await self._projects.get(row.project_id)
        except NotFound:
            return row, None


def _make_room(cache: dict[bytes, _Entry] | dict[bytes, float], entries_max: int) -> None:
    """Forget the oldest entry of a full cache."""
    if len(cache) >= entries_max:
        del cache[next(iter(cache))]
