"""People who call: an access token in, a principal out.

    text ──digest──► cache ──► taken back? ──► Principal
                       │ miss, or TOKEN_BELIEVED_S over
                       └──► signature, claims, clock

No step asks a table: what a person may do follows from the role and the project in the token, what
was taken back is known to the node (`TakenBack`) and is looked up at every request.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from taskforge_server.api.auth.principals import Principal
from taskforge_server.api.auth.tokens import AccessTokens, Grant
from taskforge_server.engine import limits
from taskforge_server.engine.errors import Unauthenticated, Unavailable
from taskforge_server.engine.model.permissions import of_role


class TakenBack(Protocol):
    """What the node knows of tokens that are refused before they expire."""

    def refuses(self, subject: bytes, version: int) -> bool: ...

    def is_fresh(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Entry:
    principal: Principal
    grant: Grant
    exp_s: int
    verify_s: float


class People:
    """Turns access tokens into principals."""

    def __init__(
        self,
        tokens: AccessTokens,
        taken_back: TakenBack,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._tokens = tokens
        self._taken_back = taken_back
        self._monotonic_s = monotonic_s
        self._now_s = now_s
        self._known: dict[bytes, _Entry] = {}

    def cached(self, key: bytes) -> Principal | None:
        """Who has the token with this digest, if it was verified lately and is good still."""
        entry = self._known.get(key)
        if entry is None:
            return None
        if self._monotonic_s() >= entry.verify_s or not self._is_good(entry):
            del self._known[key]
            return None
        return entry.principal

    async def authenticate(self, text: str, key: bytes) -> Principal:
        """Who calls; Unauthenticated, and Unavailable while nobody knows what was taken back."""
        if not self._taken_back.is_fresh():
            raise Unavailable(limits.UNAVAILABLE_RETRY_S)
        grant, exp_s = await self._tokens.read(text)
        principal = principal_of(grant, exp_s)
        entry = _Entry(principal, grant, exp_s, self._monotonic_s() + limits.TOKEN_BELIEVED_S)
        if not self._is_good(entry):
            raise Unauthenticated("this access token was taken back: refresh it, or log in again")
        if len(self._known) >= limits.PRINCIPALS_MAX:
            del self._known[next(iter(self._known))]
        self._known[key] = entry
        return principal

    def _is_good(self, entry: _Entry) -> bool:
        refuses, grant = self._taken_back.refuses, entry.grant
        return (
            self._now_s() < entry.exp_s
            and not refuses(grant.session_id, grant.version)
            and not refuses(grant.user_id, grant.version)
            and self._taken_back.is_fresh()
        )


def principal_of(grant: Grant, exp_s: int) -> Principal:
    """What a person may do in this session, with a token that ends then."""
    permissions = of_role(grant.role, in_project=bool(grant.project_id))
    return Principal(
        grant.organization_id,
        grant.project_id,
        "user",
        grant.user_id,
        permissions,
        grant.session_id,
        exp_s,
    )
