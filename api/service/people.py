"""Who belongs to an organisation: look, change, remove, invite. Each call sees one organisation."""

import secrets

from taskforge_server.api.service.identity import News
from taskforge_server.engine.model.audit import Actor
from taskforge_server.engine.model.identity import (
    SECRET_BYTES,
    Invitation,
    invitation_hash,
    invitation_text,
    login_email,
)
from taskforge_server.engine.model.tenant import User, UserRole
from taskforge_server.engine.store.invitations import Invitations
from taskforge_server.engine.store.users import Users


class PeopleService:
    """The use cases of an organisation's people."""

    def __init__(self, users: Users, invitations: Invitations, news: News) -> None:
        self._users = users
        self._invitations = invitations
        self._news = news

    async def get(self, organization_id: bytes, user_id: bytes) -> User:
        """NotFound."""
        return await self._users.get(organization_id, user_id)

    async def page(
        self, organization_id: bytes, cursor: str | None, rows_max: int
    ) -> tuple[list[User], str | None]:
        """A page in the order of addresses."""
        return await self._users.page(organization_id, cursor, rows_max)

    async def update(
        self,
        organization_id: bytes,
        user_id: bytes,
        role: UserRole | None,
        disabled: bool | None,
        actor: Actor,
    ) -> User:
        """What is None stays; NotFound, Conflict for the last admin. Tokens that say otherwise are
        refused from now on, on every node within a second."""
        user, gone = await self._users.update(
            organization_id, user_id, actor, role=role, disabled=disabled
        )
        self._news.tell(gone)
        return user

    async def delete(self, organization_id: bytes, user_id: bytes, actor: Actor) -> None:
        """NotFound, Conflict for the last admin."""
        self._news.tell([await self._users.delete(organization_id, user_id, actor)])

    async def invite(
        self, organization_id: bytes, email: str, role: UserRole, actor: Actor
    ) -> tuple[Invitation, str]:
        """The invitation, and its token, which nobody can look up later."""
        text = invitation_text(secrets.token_bytes(SECRET_BYTES))
        token_hash = invitation_hash(text)
        assert token_hash is not None
        made = await self._invitations.create(
            organization_id, login_email(email), role, token_hash, actor
        )
        return made, text

    async def invitations(
        self, organization_id: bytes, cursor: str | None, rows_max: int
    ) -> tuple[list[Invitation], str | None]:
        """A page of the open ones, in the order of addresses."""
        return await self._invitations.page(organization_id, cursor, rows_max)

    async def uninvite(self, organization_id: bytes, invitation_id: bytes, actor: Actor) -> None:
        """NotFound."""
        await self._invitations.delete(organization_id, invitation_id, actor)
