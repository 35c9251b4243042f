"""Who uses the system: organisations, their users and subscriptions, projects and API keys.

    organization 1 ── n user
    organization 1 ── n subscription
    organization 1 ── n project 1 ── n api_key

An API key's text is  tf_<43 characters of randomness><6 of checksum>.  The checksum lets a typo or
a made-up key be refused without a look-up; the tables hold a hash of the text alone. The text has
256 random bits, so one round of SHA-256 is enough: there is nothing to guess. A key that an
operator chose for the bootstrap may have any other form.
"""

import hashlib
import zlib
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from taskforge_server.engine import limits
from taskforge_server.engine.model.base import Email, Id, Model, Name, Time

API_KEY_PREFIX = "tf_"
API_KEY_RANDOM_BYTES = 32
ALL_PERMISSIONS = "*"

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_CHARS = 43  # 62 ** 43 > 2 ** 256
_CHECKSUM_CHARS = 6  # 62 ** 6 > 2 ** 32

UserRole = Literal["admin", "member"]
SubscriptionTier = Literal["starter", "pro", "enterprise"]


class Organization(Model, frozen=True, kw_only=True):
    """A customer: what is billed, and the widest border of isolation."""

    id: Id
    name: Name
    billing_email: Email
    created_at: Time


class User(Model, frozen=True, kw_only=True):
    """A person of an organisation."""

    id: Id
    organization_id: Id
    email: Email
    password_hash: str
    role: UserRole
    created_at: Time
    token_version: int = 1
    """Access tokens with a smaller one are refused."""
    disabled_at: Time | None = None

    def is_active(self) -> bool:
        """Whether this person may log in."""
        return self.disabled_at is None


class Subscription(Model, frozen=True, kw_only=True):
    """What an organisation has paid for, until when."""

    id: Id
    organization_id: Id
    tier: SubscriptionTier
    limits: dict[str, Any]
    current_period_end: Time

    def is_active(self, now: datetime) -> bool:
        return self.current_period_end > now

    def get_max_jobs_per_month(self) -> int | None:
        return self._limit("max_jobs_per_month")

    def get_max_workers(self) -> int | None:
        return self._limit("max_workers")

    def _limit(self, name: str) -> int | None:
        value = self.limits.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


class Project(Model, frozen=True, kw_only=True):
    """What queues, workers and keys belong to; nothing of one project is seen from another."""

    id: Id
    organization_id: Id
    name: Name
    description: Annotated[str, msgspec.Meta(max_length=limits.DESCRIPTION_CHARS_MAX)] | None = None
    created_at: Time


class ApiKey(Model, frozen=True, kw_only=True):
    """A credential of a project, without its text."""

    id: Id
    project_id: Id
    key_hash: str
    name: Name
    permissions: Annotated[list[str], msgspec.Meta(max_length=limits.PERMISSIONS_MAX)]
    last_used_at: Time | None = None
    expires_at: Time | None = None
    prefix: str = ""
    """How its text begins; empty for a key whose text was not made here."""
    created_at: Time | None = None
    revoked_at: Time | None = None

    def is_expired(self, now: datetime) -> bool:
        return self.expires_at is not None and now > self.expires_at

    def is_live(self, now: datetime) -> bool:
        """Whether it opens anything."""
        return self.revoked_at is None and not self.is_expired(now)

    def has_permission(self, permission: str) -> bool:
        return permission in self.permissions or ALL_PERMISSIONS in self.permissions


def api_key_text(random: bytes) -> str:
    """The text of a new key from 32 random bytes."""
    if len(random) != API_KEY_RANDOM_BYTES:
        raise ValueError(f"{API_KEY_RANDOM_BYTES} random bytes make a key, not {len(random)}")
    body = API_KEY_PREFIX + _base62(int.from_bytes(random), _RANDOM_CHARS)
    return body + _checksum(body)


def api_key_prefix(text: str) -> str:
    """What may be shown of a key; nothing of one that an operator chose, which may be short."""
    return text[: limits.API_KEY_PREFIX_CHARS] if text.startswith(API_KEY_PREFIX) else ""


def api_key_hash(text: str) -> str:
    """What the tables hold of a key."""
    return hashlib.sha256(text.encode()).hexdigest()


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECKSUM_CHARS)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
