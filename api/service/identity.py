"""How people come in and go out: sign-up, login, refresh, logout, password, projects, invitations.

    counted as an attempt ──► password hashed in a thread ──► rows in one transaction ──► tokens

Whether an address has an account cannot be told from a login: the answer, the work and the counts
are the same. It can from a sign-up, which somebody has to be told; sign-ups are counted too.
"""

import ipaddress
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from taskforge_server.api.auth.passwords import Passwords
from taskforge_server.api.auth.people import TakenBack
from taskforge_server.api.auth.principals import Principal
from taskforge_server.api.auth.tokens import AccessTokens, Grant, KeyRows
from taskforge_server.engine import limits
from taskforge_server.engine.cluster.attempts import Attempts, Window
from taskforge_server.engine.errors import (
    CallerError,
    Conflict,
    LoginFailed,
    TooManyAttempts,
    Unauthenticated,
)
from taskforge_server.engine.model.audit import Actor
from taskforge_server.engine.model.identity import (
    FAMILY_BYTES,
    SECRET_BYTES,
    RefreshToken,
    Revocation,
    check_password,
    invitation_hash,
    login_email,
)
from taskforge_server.engine.model.tenant import User
from taskforge_server.engine.store.invitations import Invitations, not_found
from taskforge_server.engine.store.sessions import Sessions
from taskforge_server.engine.store.signup import SignedUp, SignUps
from taskforge_server.engine.store.tenants import Projects
from taskforge_server.engine.store.users import Users


class News(TakenBack, Protocol):
    """Where what was taken back is told, and known."""

    def tell(self, revocations: Iterable[Revocation]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityParts:
    """What the use cases stand on."""

    users: Users
    sessions: Sessions
    invitations: Invitations
    sign_ups: SignUps
    projects: Projects
    attempts: Attempts
    signing_keys: KeyRows
    news: News
    signup_open: bool


@dataclass(frozen=True, slots=True, repr=False)
class Tokens:
    """What a login gives. Without a refresh token, the one that the caller has stays good."""

    access_token: str
    expires_in_s: int
    refresh_token: str | None


class Identity:
    """The use cases of somebody who comes in."""

    def __init__(self, parts: IdentityParts, passwords: Passwords, tokens: AccessTokens) -> None:
        self._users = parts.users
        self._sessions = parts.sessions
        self._invitations = parts.invitations
        self._sign_ups = parts.sign_ups
        self._projects = parts.projects
        self._attempts = parts.attempts
        self._news = parts.news
        self._signup_open = parts.signup_open
        self._passwords = passwords
        self._tokens = tokens

    async def close(self) -> None:
        self._passwords.close()
        await self._attempts.close()

    async def sign_up(
        self, organization: str, email: str, password: str, actor: Actor
    ) -> tuple[SignedUp, Tokens]:
        """A new organisation with its first admin and project; Conflict when there is an account
        with the address."""
        if not self._signup_open:
            raise CallerError("signup_closed", "ask an operator of this installation for a place")
        email = login_email(email)
        check_password(password, email)
        await self._take(_sign_up_windows(actor.address))
        if await self._users.by_email(email) is not None:
            raise Conflict("there is an account with this address", "email", "email_taken")
        password_hash = await self._passwords.hash(password)
        token = _new_token(secrets.token_bytes(16))
        made = await self._sign_ups.create(organization, email, password_hash, token, actor)
        return made, await self._issued(made.user, token)

    async def log_in(self, email: str, password: str, actor: Actor) -> tuple[User, Tokens]:
        """A new session; LoginFailed for whatever does not belong together."""
        email = login_email(email)
        windows = _login_windows(email, actor.address)
        await self._take(windows)
        user = await self._users.by_email(email)
        right = await self._passwords.verify(None if user is None else user.password_hash, password)
        if user is None or not right or not user.is_active():
            raise LoginFailed
        await self._attempts.give_back(windows)
        await self._rehash(user, password)
        token = _new_token(secrets.token_bytes(16))
        _, ended = await self._sessions.open(user, token)
        self._news.tell(ended)
        return user, await self._issued(user, token)

    async def refresh(self, text: str, actor: Actor) -> Tokens:
        """The next pair of tokens. A token that was used before ends its session: whoever has it is
        not known, and neither is whoever used it first."""
        shown = RefreshToken.parsed(text)
        if shown is None:
            raise _not_refreshed()
        new = RefreshToken(shown.session_id, shown.family, secrets.token_bytes(SECRET_BYTES))
        user = await self._sessions.rotate(shown, new)
        if user is None:
            gone = await self._sessions.end_family(shown, actor)
            if gone is not None:
                self._news.tell([gone])
            raise _not_refreshed()
        return await self._issued(user, new)

    async def log_out(self, principal: Principal) -> None:
        """End the session that the caller speaks in."""
        gone = await self._sessions.end(
            principal.organization_id, principal.id, principal.session_id
        )
        if gone is not None:
            self._news.tell([gone])

    async def change_password(
        self, principal: Principal, current: str, new: str, actor: Actor
    ) -> Tokens:
        """All other sessions end; this one goes on with new tokens."""
        user = await self._users.get(principal.organization_id, principal.id)
        check_password(new, user.email, "new_password")
        # Counted as a login: a stolen access token must not help to guess the password.
        windows = _login_windows(user.email, actor.address)
        await self._take(windows)
        if not await self._passwords.verify(user.password_hash, current):
            raise LoginFailed("the current password is wrong")
        await self._attempts.give_back(windows)
        password_hash = await self._passwords.hash(new)
        token = _new_token(principal.session_id)
        changed, gone = await self._users.set_password(user, password_hash, token, actor)
        self._news.tell([gone])
        return await self._issued(changed, token, principal.project_id)

    async def open_project(self, principal: Principal, project_id: bytes) -> Tokens:
        """An access token of the same session for one project, for none with an empty id. It ends
        when that of the caller does."""
        if project_id:
            await self._projects.find(principal.organization_id, project_id)
        user = await self._users.get(principal.organization_id, principal.id)
        if not user.is_active():
            raise Unauthenticated("this account is disabled")
        grant = _grant(user, principal.session_id, project_id)
        return Tokens(*await self._tokens.issue(grant, principal.expires_s), None)

    async def accept(self, text: str, password: str, actor: Actor) -> tuple[User, Tokens]:
        """The invited person, with the password that they chose."""
        token_hash = invitation_hash(text)
        if token_hash is None:
            raise not_found()
        invitation = await self._invitations.find(token_hash)
        check_password(password, invitation.email)
        password_hash = await self._passwords.hash(password)
        token = _new_token(secrets.token_bytes(16))
        user = await self._invitations.accept(token_hash, password_hash, token, actor)
        return user, await self._issued(user, token)

    async def _take(self, windows: list[Window]) -> None:
        wait_s = await self._attempts.take(windows)
        if wait_s > 0:
            raise TooManyAttempts(wait_s)

    async def _rehash(self, user: User, password: str) -> None:
        if self._passwords.is_outdated(user.password_hash):
            await self._users.rehash(user, await self._passwords.hash(password))

    async def _issued(self, user: User, token: RefreshToken, project_id: bytes = b"") -> Tokens:
        grant = _grant(user, token.session_id, project_id)
        return Tokens(*await self._tokens.issue(grant), token.text)


def _grant(user: User, session_id: bytes, project_id: bytes) -> Grant:
    return Grant(
        user.id, user.organization_id, session_id, user.role, user.token_version, project_id
    )


def _new_token(session_id: bytes) -> RefreshToken:
    return RefreshToken(
        session_id, secrets.token_bytes(FAMILY_BYTES), secrets.token_bytes(SECRET_BYTES)
    )


def _not_refreshed() -> Unauthenticated:
    return Unauthenticated("this refresh token is not valid: log in again")


def _login_windows(email: str, address: str) -> list[Window]:
    return [
        Window(f"login/account/{email}", limits.LOGIN_FAILURES_ACCOUNT_MAX, limits.LOGIN_WINDOW_S),
        Window(
            f"login/address/{network_of(address)}",
            limits.LOGIN_FAILURES_ADDRESS_MAX,
            limits.LOGIN_WINDOW_S,
        ),
    ]


def _sign_up_windows(address: str) -> list[Window]:
    name = f"signup/address/{network_of(address)}"
    return [Window(name, limits.SIGNUPS_ADDRESS_MAX, limits.SIGNUP_WINDOW_S)]


def network_of(address: str) -> str:
    """What one party is given: an IPv4 address, or the 64-bit network of an IPv6 one."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
