"""The calls for people: what each sends, and what its answer means. Their signatures and words are
those of the methods of both clients, see `methods`."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import UNSET, UnsetType

from taskforge.admin import models
from taskforge.client.calls import Call, query_text, read_nothing, reader
from taskforge.client.http1 import ProtocolError
from taskforge.client.models import Page
from taskforge.limits import AUDIT_ENTRY_BYTES_MAX

T = TypeVar("T")

_to_json = msgspec.json.Encoder().encode
_read_opened = reader(models.Opened)
_read_tokens = reader(models.Tokens)
_read_me = reader(models.Me)
_read_user = reader(models.User)
_read_users = reader(Page[models.User])
_read_invited = reader(models.Invited)
_read_invitations = reader(Page[models.Invitation])
_read_organization = reader(models.Organization)
_read_subscription = reader(models.Subscription)
_read_project = reader(models.Project)
_read_projects = reader(Page[models.Project])
_read_encryption = reader(models.Encryption)
_read_key = reader(models.ApiKey)
_read_new_key = reader(models.NewApiKey)
_read_keys = reader(Page[models.ApiKey])
_read_entries = reader(Page[models.AuditEntry])
_read_verdict = reader(models.AuditVerdict)
_read_entry = msgspec.json.Decoder(models.AuditEntry).decode


def _path(*parts: str) -> str:
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def _page(path: str, cursor: str | None, **wanted: str | None) -> str:
    query = query_text(wanted | {"cursor": cursor})
    return f"{path}?{query}" if query else path


def _given(**fields: Any) -> bytes:
    """A body with the fields that are given; None is a value, too."""
    return _to_json({name: value for name, value in fields.items() if value is not UNSET})


# --- coming in and going out --------------------------------------------------------------------


def sign_up(organization: str, email: str, password: str) -> Call[models.Opened]:
    body = _given(organization=organization, email=email, password=password)
    return Call("POST", "/v1/signup", _read_opened, body, repeatable=False)


def log_in(email: str, password: str) -> Call[models.Opened]:
    return Call("POST", "/v1/auth/login", _read_opened, _given(email=email, password=password))


def accept_invitation(token: str, password: str) -> Call[models.Opened]:
    body = _given(token=token, password=password)
    return Call("POST", "/v1/invitations/accept", _read_opened, body, repeatable=False)


def session_of(opened: models.Opened) -> models.Session:
    """What of a new session is no secret."""
    return models.Session(
        user=opened.user, organization_id=opened.organization_id, project_id=opened.project_id
    )


def refresh(refresh_token: str) -> Call[models.Tokens]:
    """Not repeated: a refresh token that comes twice ends its session."""
    body = _given(refresh_token=refresh_token)
    return Call("POST", "/v1/auth/refresh", _read_tokens, body, repeatable=False)


def open_project(project_id: str) -> Call[models.Tokens]:
    body = _given(project_id=project_id)
    return Call("POST", "/v1/auth/sessions/project", _read_tokens, body)


def log_out() -> Call[None]:
    return Call("POST", "/v1/auth/logout", read_nothing, repeatable=False)


def change_password(current: str, new: str) -> Call[models.Tokens]:
    body = _given(current_password=current, new_password=new)
    return Call("POST", "/v1/auth/password", _read_tokens, body, repeatable=False)


def me() -> Call[models.Me]:
    """Who I am, and what I may do."""
    return Call("GET", "/v1/me", _read_me)


# --- the organisation ---------------------------------------------------------------------------


def organization() -> Call[models.Organization]:
    """One's organisation."""
    return Call("GET", "/v1/organization", _read_organization)


def update_organization(
    *, name: str | UnsetType = UNSET, billing_email: str | UnsetType = UNSET
) -> Call[models.Organization]:
    """Change what is given; the rest stays."""
    body = _given(name=name, billing_email=billing_email)
    return Call("PATCH", "/v1/organization", _read_organization, body)


def subscription() -> Call[models.Subscription]:
    """What the organisation may use, and what it uses."""
    return Call("GET", "/v1/subscription", _read_subscription)


# --- people -------------------------------------------------------------------------------------


def list_users(cursor: str | None) -> Call[Page[models.User]]:
    """All people of the organisation, in the order of their addresses."""
    return Call("GET", _page("/v1/users", cursor), _read_users)


def get_user(user_id: str) -> Call[models.User]:
    """NotFound."""
    return Call("GET", _path("users", user_id), _read_user)


def update_user(
    user_id: str, *, role: models.Role | UnsetType = UNSET, disabled: bool | UnsetType = UNSET
) -> Call[models.User]:
    """Change a role, shut somebody out or let them in; Conflict for the last admin."""
    body = _given(role=role, disabled=disabled)
    return Call("PATCH", _path("users", user_id), _read_user, body)


def delete_user(user_id: str) -> Call[None]:
    """Remove a person with all sessions; Conflict for the last admin."""
    return Call("DELETE", _path("users", user_id), read_nothing, repeatable=False)


def invite(email: str, role: models.Role = "member") -> Call[models.Invited]:
    """Ask somebody to join, with a token for them alone; asking again replaces it."""
    return Call("POST", "/v1/invitations", _read_invited, _given(email=email, role=role))


def list_invitations(cursor: str | None) -> Call[Page[models.Invitation]]:
    """All open invitations, in the order of their addresses."""
    return Call("GET", _page("/v1/invitations", cursor), _read_invitations)


def revoke_invitation(invitation_id: str) -> Call[None]:
    """Take an invitation back."""
    return Call("DELETE", _path("invitations", invitation_id), read_nothing, repeatable=False)


# --- projects -----------------------------------------------------------------------------------


def create_project(name: str, description: str | None = None) -> Call[models.Project]:
    """Make a project."""
    body = _given(name=name, description=description)
    return Call("POST", "/v1/projects", _read_project, body, repeatable=False)


def list_projects(cursor: str | None) -> Call[Page[models.Project]]:
    """All projects of the organisation."""
    return Call("GET", _page("/v1/projects", cursor), _read_projects)


def get_project(project_id: str) -> Call[models.Project]:
    """NotFound."""
    return Call("GET", _path("projects", project_id), _read_project)


def update_project(
    project_id: str,
    *,
    name: str | UnsetType = UNSET,
    description: str | UnsetType | None = UNSET,
) -> Call[models.Project]:
    """Change what is given; the rest stays."""
    body = _given(name=name, description=description)
    return Call("PATCH", _path("projects", project_id), _read_project, body)


def delete_project(project_id: str) -> Call[None]:
    """Its API keys end with it; Conflict with what it still has."""
    return Call("DELETE", _path("projects", project_id), read_nothing, repeatable=False)


def encryption(project_id: str) -> Call[models.Encryption]:
    """Whether the project is encrypted at rest, and its data keys."""
    return Call("GET", _path("projects", project_id, "encryption"), _read_encryption)


def encrypt(project_id: str, encrypted: bool = True) -> Call[models.Encryption]:
    """Encrypt what comes in from now on, or no longer; what is stored stays readable."""
    path = _path("projects", project_id, "encryption")
    return Call("PATCH", path, _read_encryption, _given(encrypted=encrypted))


def rotate_data_key(project_id: str) -> Call[models.Encryption]:
    """Seal with a new data key from now on; the earlier ones still open."""
    path = _path("projects", project_id, "encryption", "rotate")
    return Call("POST", path, _read_encryption, repeatable=False)


# --- API keys -----------------------------------------------------------------------------------


def _key_path(project_id: str, key_id: str, *more: str) -> str:
    return _path("projects", project_id, "api-keys", key_id, *more)


def create_key(
    project_id: str, name: str, permissions: Sequence[str], expires_at: datetime | None = None
) -> Call[models.NewApiKey]:
    """Make an API key; its text is in the answer, and nowhere else."""
    body = _given(name=name, permissions=permissions, expires_at=expires_at)
    path = _path("projects", project_id, "api-keys")
    return Call("POST", path, _read_new_key, body, repeatable=False)


def list_keys(cursor: str | None, project_id: str) -> Call[Page[models.ApiKey]]:
    """All API keys of a project, revoked ones too."""
    return Call("GET", _page(_path("projects", project_id, "api-keys"), cursor), _read_keys)


def get_key(project_id: str, key_id: str) -> Call[models.ApiKey]:
    """NotFound."""
    return Call("GET", _key_path(project_id, key_id), _read_key)


def update_key(
    project_id: str,
    key_id: str,
    *,
    name: str | UnsetType = UNSET,
    permissions: Sequence[str] | UnsetType = UNSET,
    expires_at: datetime | UnsetType | None = UNSET,
) -> Call[models.ApiKey]:
    """Change what is given; Conflict for a revoked key."""
    body = _given(name=name, permissions=permissions, expires_at=expires_at)
    return Call("PATCH", _key_path(project_id, key_id), _read_key, body)


def rotate_key(project_id: str, key_id: str, overlap_s: int = 86_400) -> Call[models.NewApiKey]:
    """Make a successor with the same name and permissions; the old key ends after the overlap."""
    path = _key_path(project_id, key_id, "rotate")
    return Call("POST", path, _read_new_key, _given(overlap_s=overlap_s), repeatable=False)


def revoke_key(project_id: str, key_id: str) -> Call[models.ApiKey]:
    """End a key for good: within a second no node takes it."""
    return Call("POST", _key_path(project_id, key_id, "revoke"), _read_key)


def delete_key(project_id: str, key_id: str) -> Call[None]:
    """Take a key out of the list; one that is live ends."""
    return Call("DELETE", _key_path(project_id, key_id), read_nothing, repeatable=False)


# --- audit --------------------------------------------------------------------------------------


def list_audit(
    cursor: str | None,
    *,
    action: str | None = None,
    target: str | None = None,
    actor: str | None = None,
) -> Call[Page[models.AuditEntry]]:
    """Administrative acts, the newest first; `actor` is the id of a user or an API key."""
    path = _page("/v1/audit", cursor, action=action, target=target, actor=actor)
    return Call("GET", path, _read_entries)


def verify_audit(head: models.AuditHead | None = None) -> Call[models.AuditVerdict]:
    """Check every link of the audit log, and that it has passed a head that was noted before."""
    noted = None if head is None else f"{head.sequence}:{head.hash}"
    return Call("GET", _page("/v1/audit/verify", None, head=noted), _read_verdict)


class Export:
    """One reader of the audit log, from an entry on to the end; `Resumable`."""

    def __init__(self, after: int) -> None:
        self.over = False
        self._after = after
        self._received = b""

    def path(self) -> str:
        self._received = b""
        return f"/v1/audit/export?after={self._after}"

    def feed(self, data: bytes) -> Iterator[models.AuditEntry]:
        *lines, self._received = (self._received + data).split(b"\n")
        if len(self._received) > AUDIT_ENTRY_BYTES_MAX:
            raise ProtocolError("an entry is larger than the bound")
        for line in lines:
            try:
                entry = _read_entry(line)
            except msgspec.DecodeError as error:
                raise ProtocolError(f"an entry that makes no sense: {error}") from None
            self._after = entry.sequence
            yield entry

    def ended(self) -> None:
        self.over = True
