"""What the server says about organisations and what belongs to them. Fields that a newer server
adds are passed over."""

from datetime import datetime
from typing import Any, Literal

import msgspec

Role = Literal["admin", "member"]
Tier = Literal["starter", "pro", "enterprise"]


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A person of the organisation."""

    id: str
    email: str
    role: Role
    disabled: bool = False
    created_at: datetime | None = None


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """Who has come in."""

    user: User
    organization_id: str
    project_id: str | None = None
    """After a sign-up: the first project."""


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """What a session is proved by. Without a refresh token, the earlier one stays good."""

    access_token: str
    refresh_token: str | None = None


class Opened(Tokens, frozen=True, kw_only=True):
    """A new session with its tokens."""

    user: User
    organization_id: str
    project_id: str | None = None


class Me(msgspec.Struct, frozen=True, kw_only=True):
    """The caller."""

    user: User
    organization_id: str
    project_id: str | None = None
    permissions: list[str] = []


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who is asked to join."""

    id: str
    email: str
    role: Role
    invited_by: str | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None


class Invited(Invitation, frozen=True, kw_only=True):
    """A new invitation; the token is shown this once."""

    token: str


class Organization(msgspec.Struct, frozen=True, kw_only=True):
    """An organisation."""

    id: str
    name: str
    billing_email: str
    created_at: datetime | None = None


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """A project."""

    id: str
    name: str
    description: str | None = None
    created_at: datetime | None = None


class DataKey(msgspec.Struct, frozen=True, kw_only=True):
    """That a project has a data key; the greatest number seals, all open."""

    number: int
    created_at: datetime | None = None


class Encryption(msgspec.Struct, frozen=True, kw_only=True):
    """How a project is stored."""

    encrypted: bool
    data_keys: list[DataKey] = []


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """An API key without its text; `prefix` is how that begins."""

    id: str
    project_id: str
    name: str
    prefix: str
    permissions: list[str]
    status: Literal["live", "expired", "revoked"]
    created_at: datetime | None = None
    last_used_at: datetime | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


class NewApiKey(ApiKey, frozen=True, kw_only=True):
    """A new API key; its text is shown this once."""

    key: str


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What an organisation may use; None: no limit."""

    max_jobs_per_month: int | None = None
    max_workers: int | None = None
    max_queues: int | None = None
    max_payload_bytes: int | None = None
    max_requests_per_second: int | None = None
    history_days: int | None = None
    weight: int | None = None


class MonthUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs submitted in a calendar month (UTC)."""

    month: str
    jobs: int


class Usage(MonthUsage, frozen=True, kw_only=True):
    """What the organisation uses now."""

    workers: int
    queues: int


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """What an organisation may use, and what it uses."""

    tier: Tier
    active: bool
    limits: Limits
    usage: Usage
    current_period_end: datetime | None = None
    history: list[MonthUsage] = []


class AuditActor(msgspec.Struct, frozen=True, kw_only=True):
    """Who acted, from where."""

    kind: str
    id: str | None = None
    address: str = ""
    correlation_id: str = ""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One act."""

    sequence: int
    at: datetime
    actor: AuditActor
    action: str
    target: str
    before: Any = None
    after: Any = None
    previous_hash: str
    hash: str


class AuditHead(msgspec.Struct, frozen=True, kw_only=True):
    """The end of an audit log; note it elsewhere, for a later verification."""

    sequence: int
    hash: str


class AuditFault(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with an audit log, from which entry on."""

    kind: str
    sequence: int
    detail: str


class AuditVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether an audit log is whole."""

    intact: bool
    head: AuditHead
    faults: list[AuditFault] = []
