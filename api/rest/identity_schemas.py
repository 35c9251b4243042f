"""What people give and get: sign-up, login, tokens, users, invitations."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from taskforge_server.api.rest.schemas import Answer, Request, UuidText
from taskforge_server.engine import limits
from taskforge_server.engine.model.base import Email, Name, Time
from taskforge_server.engine.model.identity import Password
from taskforge_server.engine.model.tenant import UserRole

Token = Annotated[str, Meta(min_length=1, max_length=limits.CREDENTIAL_BYTES_MAX)]
AnyPassword = Annotated[str, Meta(min_length=1, max_length=limits.PASSWORD_CHARS_MAX)]
"""One that was set before: its rules were those of its time."""


class SignUp(Request):
    """A new organisation and its first admin."""

    organization: Annotated[Name, Meta(examples=["Analytical Engines"])]
    email: Email
    password: Password


class Login(Request):
    """Who comes in."""

    email: Email
    password: AnyPassword


class Refresh(Request):
    """The newest refresh token of a session."""

    refresh_token: Token


class PasswordChange(Request):
    """Another password."""

    current_password: AnyPassword
    new_password: Password


class ProjectSession(Request):
    """For which project the session is to be; for none with null."""

    project_id: UuidText | None


class Invite(Request):
    """Who is asked to join."""

    email: Email
    role: UserRole = "member"


class Accept(Request):
    """An invitation, and the password that the invited person chooses."""

    token: Token
    password: Password


class UserUpdate(Request):
    """What of a person is to change; the rest stays."""

    role: UserRole | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET


class UserView(Answer):
    """A person of the organisation."""

    id: UuidText
    email: str
    role: UserRole
    disabled: bool
    created_at: Time


class TokenView(Answer):
    """What to send as `Authorization: Bearer …`, and how to get the next one."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: Annotated[int, Meta(description="seconds")]
    refresh_token: Annotated[
        str | None,
        Meta(description="good for one use; null: the one that you have stays good"),
    ]


class LoggedIn(TokenView):
    """A new session."""

    user: UserView
    organization_id: UuidText


class SignedUpView(LoggedIn):
    """A new organisation, with a session of its first admin."""

    project_id: Annotated[UuidText, Meta(description="of the first project, named `default`")]


class Me(Answer):
    """The caller."""

    user: UserView
    organization_id: UuidText
    project_id: UuidText | None
    permissions: list[str]


class UserPage(Answer):
    """People in the order of their addresses."""

    items: list[UserView]
    next_cursor: str | None


class InvitationView(Answer):
    """Somebody who is asked to join."""

    id: UuidText
    email: str
    role: UserRole
    invited_by: UuidText | None
    created_at: Time
    expires_at: Time


class Invited(InvitationView):
    """A new invitation."""

    token: Annotated[str, Meta(description="for the invited person alone; shown this once")]


class InvitationPage(Answer):
    """Open invitations in the order of their addresses."""

    items: list[InvitationView]
    next_cursor: str | None


class Done(Answer):
    """It is done."""

    status: Literal["ok"] = "ok"
