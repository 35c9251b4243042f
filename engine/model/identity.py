"""How people prove who they are: logins, their tokens, invitations.

    password ──log in──► session ──► access token    short-lived, signed, known to no table
                            └──────► refresh token   once usable, gives the next pair of both

A refresh token is  tfr_ base64url( session id | family | secret ).  The family stays the same for
all refresh tokens of a session, the secret is new in each. So a token with the right family and
another secret was good once: somebody uses it again, and the session ends. The tables hold SHA-256
of both; there are 128 and 256 random bits in them, so there is nothing to guess.
"""

import base64
import binascii
import hashlib
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final

import msgspec

from taskforge_server.engine import limits
from taskforge_server.engine.errors import InvalidInput
from taskforge_server.engine.model.base import Email, Id, Model, Time
from taskforge_server.engine.model.tenant import UserRole

REFRESH_PREFIX: Final = "tfr_"
INVITATION_PREFIX: Final = "tfi_"
_ID_BYTES: Final = 16
FAMILY_BYTES: Final = 16
SECRET_BYTES: Final = 32

EVERY_VERSION: Final = 2**31 - 1
"""In a revocation: no token of the subject is good."""


class Session(Model, frozen=True, kw_only=True):
    """A row of `user_sessions`, without its secrets."""

    id: Id
    organization_id: Id
    user_id: Id
    created_at: Time
    refreshed_at: Time
    expires_at: Time


class Invitation(Model, frozen=True, kw_only=True):
    """A row of `invitations`, without its secret."""

    id: Id
    organization_id: Id
    email: Email
    role: UserRole
    invited_by: Id | None
    created_at: Time
    expires_at: Time

    def is_expired(self, now: datetime) -> bool:
        return now >= self.expires_at


@dataclass(frozen=True, slots=True)
class Revocation:
    """Access tokens of a session or of a user below a version are refused."""

    subject: bytes
    version: int


@dataclass(frozen=True, slots=True, repr=False)
class RefreshToken:
    """What a client keeps to get the next access token."""

    session_id: bytes
    family: bytes
    secret: bytes

    @property
    def text(self) -> str:
        return REFRESH_PREFIX + _base64(self.session_id + self.family + self.secret)

    @property
    def family_hash(self) -> bytes:
        return hashlib.sha256(self.session_id + self.family).digest()

    @property
    def token_hash(self) -> bytes:
        return hashlib.sha256(self.session_id + self.family + self.secret).digest()

    @classmethod
    def parsed(cls, text: str) -> "RefreshToken | None":
        """The token of a text; None for anything that is none."""
        raw = _unbased(text, REFRESH_PREFIX, _ID_BYTES + FAMILY_BYTES + SECRET_BYTES)
        if raw is None:
            return None
        at = _ID_BYTES + FAMILY_BYTES
        return cls(raw[:_ID_BYTES], raw[_ID_BYTES:at], raw[at:])


def invitation_text(secret: bytes) -> str:
    """What an invited person is given."""
    return INVITATION_PREFIX + _base64(secret)


def invitation_hash(text: str) -> bytes | None:
    """What the table holds of it; None for anything that is no invitation."""
    secret = _unbased(text, INVITATION_PREFIX, SECRET_BYTES)
    return None if secret is None else hashlib.sha256(secret).digest()


def login_email(email: str) -> str:
    """The form in which an address names an account: upper case makes no other person."""
    return email.lower()


Password = Annotated[
    str,
    msgspec.Meta(
        min_length=limits.PASSWORD_CHARS_MIN,
        max_length=limits.PASSWORD_CHARS_MAX,
        description="long rather than complicated; not the e-mail address",
    ),
]


def normal_password(password: str) -> str:
    """One form for what different keyboards make of the same characters."""
    return unicodedata.normalize("NFKC", password)


def check_password(password: str, email: str, field: str = "password") -> None:
    """InvalidInput for one that is guessed first."""
    lower = normal_password(password).lower()
    if len(set(lower)) < limits.PASSWORD_DIFFERENT_CHARS_MIN:
        raise InvalidInput("too few different characters", field)
    if lower in (email, email.partition("@")[0]):
        raise InvalidInput("must not be the e-mail address", field)


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _unbased(text: str, prefix: str, bytes_count: int) -> bytes | None:
    if not text.startswith(prefix) or len(text) > limits.CREDENTIAL_BYTES_MAX:
        return None
    body = text[len(prefix) :]
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    # One text for one token: base64 ignores bits at its end.
    return raw if len(raw) == bytes_count and _base64(raw) == body else None
