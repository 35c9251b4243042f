"""People who are asked to join: the rows of `invitations`, and how one becomes a user."""

import uuid
from typing import Any

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Conflict, NotFound
from taskforge_server.engine.model.audit import Actor
from taskforge_server.engine.model.identity import Invitation, RefreshToken
from taskforge_server.engine.model.tenant import User, UserRole
from taskforge_server.engine.store.audit import record
from taskforge_server.engine.store.cursors import INVITATIONS, after_name, name_cursor
from taskforge_server.engine.store.pool import Lent, Pool, acquire
from taskforge_server.engine.store.sessions import open_session
from taskforge_server.engine.store.statements import sql
from taskforge_server.engine.store.tenancy import tenant
from taskforge_server.engine.store.users import create_user
from taskforge_server.ext.ids import uuid_text


class Invitations:
    """The repository of `invitations`. Expired ones are not there for anybody."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(
        self, organization_id: bytes, email: str, role: UserRole, token_hash: bytes, actor: Actor
    ) -> Invitation:
        """In place of an earlier one for the address; `Conflict` for who belongs already."""
        async with tenant(self._pool, organization_id=organization_id) as connection:
            return await create_invitation(
                connection, organization_id, email, role, token_hash, actor
            )

    async def page(
        self,
        organization_id: bytes,
        cursor: str | None = None,
        rows_max: int = limits.PAGE_ROWS_DEFAULT,
    ) -> tuple[list[Invitation], str | None]:
        """A page in the order of addresses, and the cursor of the next one."""
        after = "" if cursor is None else after_name(INVITATIONS, cursor)
        async with tenant(self._pool, organization_id=organization_id) as connection:
            rows = await connection.fetch(
                sql("invitation_list"), organization_id, after, rows_max + 1
            )
        page = [Invitation(**row) for row in rows[:rows_max]]
        more = len(rows) > rows_max
        return page, name_cursor(INVITATIONS, page[-1].email) if more else None

    async def find(self, token_hash: bytes) -> Invitation:
        """By the secret that only the invited person has; `NotFound`."""
        async with acquire(self._pool) as connection:
            row = await connection.fetchrow(sql("invitation_by_token"), token_hash)
        if row is None:
            raise not_found()
        return Invitation(**row)

    async def delete(self, organization_id: bytes, invitation_id: bytes, actor: Actor) -> None:
        """Take it back; `NotFound`."""
        async with tenant(self._pool, organization_id=organization_id) as connection:
            row = await connection.fetchrow(
                sql("invitation_delete"), organization_id, invitation_id
            )
            if row is None:
                raise not_found()
            target = f"invitation:{uuid_text(invitation_id)}"
            before = _shown(Invitation(**row))
            await record(connection, organization_id, actor, "invitation.revoke", target, before)

    async def accept(
        self, token_hash: bytes, password_hash: str, session: RefreshToken, actor: Actor
    ) -> User:
        """The invited person as a user with a session; `NotFound`, and `Conflict` when there is an
        account with the address: the invitation stays then."""
        async with acquire(self._pool) as connection, connection.transaction():
            row = await connection.fetchrow(sql("invitation_take"), token_hash)
            if row is None:
                raise not_found()
            taken = Invitation(**row)
            organization_id = taken.organization_id
            user = await create_user(
                connection, organization_id, taken.email, password_hash, taken.role
            )
            await open_session(connection, user, session)
            by = Actor("user", user.id, actor.address, actor.correlation_id)
            target = f"user:{uuid_text(user.id)}"
            after = _shown(taken)
            await record(connection, organization_id, by, "user.join", target, None, after)
        return user

    async def expire(self, rows_max: int) -> None:
        """Delete those whose time is over."""
        async with acquire(self._pool) as connection:
            await connection.execute(sql("invitations_expire"), rows_max)


async def create_invitation(
    connection: Lent,
    organization_id: bytes,
    email: str,
    role: UserRole,
    token_hash: bytes,
    actor: Actor,
) -> Invitation:
    """For a transaction of the caller's; `Conflict` for who belongs already. A tenant's connection
    sees its own people alone: that somebody has an account elsewhere is not told."""
    if await connection.fetchrow(sql("user_by_email"), email) is not None:
        raise Conflict("this person belongs to the organization", "email", "email_taken")
    row = await connection.fetchrow(
        sql("invitation_create"),
        uuid.uuid4().bytes,
        organization_id,
        email,
        role,
        token_hash,
        actor.id if actor.kind == "user" else None,
        limits.INVITATION_S,
        limits.INVITATIONS_MAX,
    )
    if row is None:
        raise Conflict("too many open invitations", code="too_many_invitations")
    invitation = Invitation(**row)
    target = f"invitation:{uuid_text(invitation.id)}"
    after = _shown(invitation)
    await record(connection, organization_id, actor, "user.invite", target, None, after)
    return invitation


def not_found() -> NotFound:
    """Of one that never was, has expired, or was accepted."""
    return NotFound("no such invitation", "invitation_id", "invitation_not_found")


def _shown(invitation: Invitation) -> dict[str, Any]:
    """What the audit log tells of it."""
    return {"email": invitation.email, "role": invitation.role}
