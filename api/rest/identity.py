"""The operations of people: coming in and going out, and who belongs to an organisation."""

from typing import Any

from msgspec import UNSET

from taskforge_server.api.rest.bodies import decode
from taskforge_server.api.rest.handlers import Services
from taskforge_server.api.rest.identity_schemas import (
    Accept,
    Done,
    InvitationPage,
    InvitationView,
    Invite,
    Invited,
    LoggedIn,
    Login,
    Me,
    PasswordChange,
    ProjectSession,
    Refresh,
    SignedUpView,
    SignUp,
    TokenView,
    UserPage,
    UserUpdate,
    UserView,
)
from taskforge_server.api.rest.routes import Call, Reply, Route, answer
from taskforge_server.api.rest.schemas import PageQuery
from taskforge_server.api.service.identity import Identity, Tokens
from taskforge_server.api.service.people import PeopleService
from taskforge_server.engine.errors import InvalidInput, NotFound, Unavailable
from taskforge_server.engine.model import permissions
from taskforge_server.engine.model.identity import Invitation
from taskforge_server.engine.model.tenant import User
from taskforge_server.ext.ids import uuid_bytes, uuid_text

# Coming in and going out


async def sign_up(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, SignUp)
    made, tokens = await _identity(services).sign_up(
        given.organization, given.email, given.password, call.actor
    )
    session = _logged_in(made.user, tokens)
    view = SignedUpView(**session, project_id=uuid_text(made.project.id))
    return answer(call, view)


async def log_in(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, Login)
    user, tokens = await _identity(services).log_in(given.email, given.password, call.actor)
    return answer(call, LoggedIn(**_logged_in(user, tokens)))


async def refresh(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, Refresh)
    tokens = await _identity(services).refresh(given.refresh_token, call.actor)
    return answer(call, TokenView(**_tokens(tokens)))


async def log_out(services: Services, call: Call) -> Reply:
    await _identity(services).log_out(call.principal)
    return answer(call, Done())


async def change_password(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, PasswordChange)
    tokens = await _identity(services).change_password(
        call.principal, given.current_password, given.new_password, call.actor
    )
    return answer(call, TokenView(**_tokens(tokens)))


async def open_project(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, ProjectSession)
    project_id = b""
    if given.project_id is not None:
        try:
            project_id = uuid_bytes(given.project_id)
        except ValueError:
            raise InvalidInput("this is no id", "project_id") from None
    tokens = await _identity(services).open_project(call.principal, project_id)
    return answer(call, TokenView(**_tokens(tokens)))


async def accept(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, Accept)
    user, tokens = await _identity(services).accept(given.token, given.password, call.actor)
    return answer(call, LoggedIn(**_logged_in(user, tokens)))


async def me(services: Services, call: Call) -> Reply:
    who = call.principal
    user = await _people(services).get(who.organization_id, who.id)
    view = Me(
        user=_user_view(user),
        organization_id=uuid_text(who.organization_id),
        project_id=uuid_text(who.project_id) if who.project_id else None,
        permissions=sorted(who.permissions),
    )
    return answer(call, view)


# Who belongs to the organisation


async def list_users(services: Services, call: Call) -> Reply:
    query: PageQuery = call.query
    users, cursor = await _people(services).page(
        call.principal.organization_id, query.cursor, query.limit
    )
    return answer(call, UserPage(items=[_user_view(user) for user in users], next_cursor=cursor))


async def get_user(services: Services, call: Call) -> Reply:
    user = await _people(services).get(call.principal.organization_id, _user_id(call))
    return answer(call, _user_view(user))


async def update_user(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, UserUpdate)
    user = await _people(services).update(
        call.principal.organization_id,
        _user_id(call),
        None if given.role is UNSET else given.role,
        None if given.disabled is UNSET else given.disabled,
        call.actor,
    )
    return answer(call, _user_view(user))


async def delete_user(services: Services, call: Call) -> Reply:
    await _people(services).delete(call.principal.organization_id, _user_id(call), call.actor)
    return answer(call, Done())


async def invite(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, Invite)
    made, token = await _people(services).invite(
        call.principal.organization_id, given.email, given.role, call.actor
    )
    return answer(call, Invited(**_invitation(made), token=token))


async def list_invitations(services: Services, call: Call) -> Reply:
    query: PageQuery = call.query
    rows, cursor = await _people(services).invitations(
        call.principal.organization_id, query.cursor, query.limit
    )
    items = [InvitationView(**_invitation(row)) for row in rows]
    return answer(call, InvitationPage(items=items, next_cursor=cursor))


async def revoke_invitation(services: Services, call: Call) -> Reply:
    try:
        invitation_id = uuid_bytes(call.params["invitation_id"])
    except ValueError:
        raise NotFound(
            "this is no invitation id", "invitation_id", code="invitation_not_found"
        ) from None
    await _people(services).uninvite(call.principal.organization_id, invitation_id, call.actor)
    return answer(call, Done())


def _identity(services: Services) -> Identity:
    if services.identity is None:
        raise Unavailable(message="no accounts are kept here")
    return services.identity


def _people(services: Services) -> PeopleService:
    if services.people is None:
        raise Unavailable(message="no accounts are kept here")
    return services.people


def _user_id(call: Call) -> bytes:
    try:
        return uuid_bytes(call.params["user_id"])
    except ValueError:
        raise NotFound("this is no user id", "user_id", code="user_not_found") from None


def _tokens(tokens: Tokens) -> dict[str, Any]:
    return {
        "access_token": tokens.access_token,
        "token_type": "Bearer",
        "expires_in": tokens.expires_in_s,
        "refresh_token": tokens.refresh_token,
    }


def _logged_in(user: User, tokens: Tokens) -> dict[str, Any]:
    session = {"user": _user_view(user), "organization_id": uuid_text(user.organization_id)}
    return _tokens(tokens) | session


def _user_view(user: User) -> UserView:
    return UserView(
        id=uuid_text(user.id),
        email=user.email,
        role=user.role,
        disabled=not user.is_active(),
        created_at=user.created_at,
    )


def _invitation(row: Invitation) -> dict[str, Any]:
    return {
        "id": uuid_text(row.id),
        "email": row.email,
        "role": row.role,
        "invited_by": None if row.invited_by is None else uuid_text(row.invited_by),
        "created_at": row.created_at,
        "expires_at": row.expires_at,
    }


OPEN_ROUTES = (
    Route(
        method="POST",
        path="/v1/signup",
        operation_id="signUp",
        summary="Make an organisation with its first admin and its first project",
        tag="identity",
        permission=None,
        handler=sign_up,
        status=201,
        body=SignUp,
        reply=SignedUpView,
        problems=("email_taken", "signup_closed", "too_many_attempts"),
        example={
            "organization": "Analytical Engines",
            "email": "ada@example.com",
            "password": "a long sentence of one's own",
        },
    ),
    Route(
        method="POST",
        path="/v1/auth/login",
        operation_id="logIn",
        summary="Begin a session",
        tag="identity",
        permission=None,
        handler=log_in,
        body=Login,
        reply=LoggedIn,
        problems=("login_failed", "conflict", "too_many_attempts"),
        example={"email": "ada@example.com", "password": "a long sentence of one's own"},
    ),
    Route(
        method="POST",
        path="/v1/auth/refresh",
        operation_id="refreshTokens",
        summary="Get the next tokens; using a refresh token twice ends its session",
        tag="identity",
        permission=None,
        handler=refresh,
        body=Refresh,
        reply=TokenView,
        problems=("unauthenticated",),
    ),
    Route(
        method="POST",
        path="/v1/invitations/accept",
        operation_id="acceptInvitation",
        summary="Join the organisation that invites, with a password of one's choice",
        tag="identity",
        permission=None,
        handler=accept,
        status=201,
        body=Accept,
        reply=LoggedIn,
        problems=("invitation_not_found", "email_taken", "too_many_users"),
    ),
)

ACCOUNT_ROUTES = (
    Route(
        method="GET",
        path="/v1/me",
        operation_id="getMe",
        summary="Who I am, and what I may do in this session",
        tag="identity",
        permission=permissions.ACCOUNT,
        handler=me,
        reply=Me,
        problems=("user_not_found",),
    ),
    Route(
        method="POST",
        path="/v1/auth/logout",
        operation_id="logOut",
        summary="End this session, with all of its tokens",
        tag="identity",
        permission=permissions.ACCOUNT,
        handler=log_out,
        reply=Done,
    ),
    Route(
        method="POST",
        path="/v1/auth/password",
        operation_id="changePassword",
        summary="Change one's password; all other sessions end",
        tag="identity",
        permission=permissions.ACCOUNT,
        handler=change_password,
        body=PasswordChange,
        reply=TokenView,
        problems=("login_failed", "user_not_found", "conflict", "too_many_attempts"),
    ),
    Route(
        method="POST",
        path="/v1/auth/sessions/project",
        operation_id="openProject",
        summary="Get an access token of this session for one project, or for none",
        tag="identity",
        permission=permissions.ACCOUNT,
        handler=open_project,
        body=ProjectSession,
        reply=TokenView,
        problems=("project_not_found", "user_not_found"),
    ),
)

PEOPLE_ROUTES = (
    Route(
        method="GET",
        path="/v1/users",
        operation_id="listUsers",
        summary="List people in the order of their addresses",
        tag="people",
        permission=permissions.USERS_READ,
        handler=list_users,
        query=PageQuery,
        reply=UserPage,
    ),
    Route(
        method="GET",
        path="/v1/users/{user_id}",
        operation_id="getUser",
        summary="Look at a person",
        tag="people",
        permission=permissions.USERS_READ,
        handler=get_user,
        reply=UserView,
        problems=("user_not_found",),
    ),
    Route(
        method="PATCH",
        path="/v1/users/{user_id}",
        operation_id="updateUser",
        summary="Change a person's role, disable or enable",
        tag="people",
        permission=permissions.USERS_MANAGE,
        handler=update_user,
        body=UserUpdate,
        reply=UserView,
        problems=("user_not_found", "last_admin"),
        example={"role": "admin"},
    ),
    Route(
        method="DELETE",
        path="/v1/users/{user_id}",
        operation_id="deleteUser",
        summary="Remove a person with all sessions",
        tag="people",
        permission=permissions.USERS_MANAGE,
        handler=delete_user,
        reply=Done,
        problems=("user_not_found", "last_admin"),
    ),
    Route(
        method="POST",
        path="/v1/invitations",
        operation_id="invite",
        summary="Ask somebody to join; asking again replaces the token",
        tag="people",
        permission=permissions.USERS_MANAGE,
        handler=invite,
        status=201,
        body=Invite,
        reply=Invited,
        problems=("email_taken", "too_many_invitations"),
        example={"email": "grace@example.com", "role": "member"},
    ),
    Route(
        method="GET",
        path="/v1/invitations",
        operation_id="listInvitations",
        summary="List open invitations in the order of their addresses",
        tag="people",
        permission=permissions.USERS_READ,
        handler=list_invitations,
        query=PageQuery,
        reply=InvitationPage,
    ),
    Route(
        method="DELETE",
        path="/v1/invitations/{invitation_id}",
        operation_id="revokeInvitation",
        summary="Take an invitation back",
        tag="people",
        permission=permissions.USERS_MANAGE,
        handler=revoke_invitation,
        reply=Done,
        problems=("invitation_not_found",),
    ),
)

ROUTES = OPEN_ROUTES + ACCOUNT_ROUTES + PEOPLE_ROUTES
