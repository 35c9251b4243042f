"""The structs of the routes for organisation, projects and API keys."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from taskforge_server.api.rest.schemas import Answer, Request, UuidText
from taskforge_server.api.service.tenants import GRANTABLE
from taskforge_server.engine import limits
from taskforge_server.engine.model.base import Email, Name, Time

Description = Annotated[str, Meta(max_length=limits.DESCRIPTION_CHARS_MAX, pattern=r"^[^\x00]*\Z")]
Grant = Annotated[
    str,
    Meta(
        description="a permission of a project, or `*` for all of them",
        extra_json_schema={"enum": sorted(GRANTABLE)},
        examples=["jobs:write"],
    ),
]
Grants = Annotated[list[Grant], Meta(max_length=limits.PERMISSIONS_MAX)]


class OrganizationUpdate(Request):
    """What of the organisation is to change; the rest stays."""

    name: Name | UnsetType = UNSET
    billing_email: Email | UnsetType = UNSET


class OrganizationView(Answer):
    """An organisation."""

    id: UuidText
    name: str
    billing_email: str
    created_at: Time


class ProjectCreate(Request):
    """A new project."""

    name: Annotated[Name, Meta(examples=["shop"])]
    description: Description | None = None


class ProjectUpdate(Request):
    """What of a project is to change; the rest stays."""

    name: Name | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET


class ProjectView(Answer):
    """A project."""

    id: UuidText
    name: str
    description: str | None
    created_at: Time


class ProjectPage(Answer):
    """Projects, in the order of their ids."""

    items: list[ProjectView]
    next_cursor: str | None


class ApiKeyCreate(Request):
    """A new API key."""

    name: Annotated[Name, Meta(examples=["web server"])]
    permissions: Grants
    expires_at: Time | None = None


class ApiKeyUpdate(Request):
    """What of a key is to change; the rest stays."""

    name: Name | UnsetType = UNSET
    permissions: Grants | UnsetType = UNSET
    expires_at: Annotated[Time | UnsetType | None, Meta(description="null: it does not expire")] = (
        UNSET
    )


class ApiKeyRotate(Request):
    """How long the old key lives beside its successor."""

    overlap_s: Annotated[int, Meta(ge=0, le=limits.API_KEY_OVERLAP_S_MAX)] = 86_400


class ApiKeyView(Answer):
    """An API key, without its text."""

    id: UuidText
    project_id: UuidText
    name: str
    prefix: Annotated[str, Meta(description="how its text begins")]
    permissions: list[str]
    status: Literal["live", "expired", "revoked"]
    created_at: Time | None
    last_used_at: Time | None
    expires_at: Time | None
    revoked_at: Time | None


class ApiKeyMade(ApiKeyView, kw_only=True):
    """A new API key with its text, which is shown this once: only a hash of it is stored."""

    key: str


class ApiKeyPage(Answer):
    """API keys, in the order of their ids, revoked ones too."""

    items: list[ApiKeyView]
    next_cursor: str | None
