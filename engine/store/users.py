"""People of organisations: the rows of `users`.

Whatever changes what a person may do raises `token_version`, and says so in `token_revocations` in
the same transaction: access tokens of before are refused from then on. An organisation keeps one
admin at least who may log in.
"""

import uuid
from typing import Any

import asyncpg

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Conflict, NotFound
from taskforge_server.engine.model.audit import Actor
from taskforge_server.engine.model.identity import EVERY_VERSION, RefreshToken, Revocation
from taskforge_server.engine.model.tenant import User, UserRole
from taskforge_server.engine.store.audit import record
from taskforge_server.engine.store.cursors import USERS, after_name, name_cursor
from taskforge_server.engine.store.pool import Lent, Pool, acquire
from taskforge_server.engine.store.revocations import revoke
from taskforge_server.engine.store.statements import sql
from taskforge_server.engine.store.tenancy import tenant
from taskforge_server.ext.ids import uuid_text


class Users:
    """The repository of `users`. All but `by_email` see one organisation only."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def by_email(self, email: str) -> User | None:
        """Whoever logs in with this address, in any organisation."""
        async with acquire(self._pool) as connection:
            row = await connection.fetchrow(sql("user_by_email"), email)
        return None if row is None else User(**row)

    async def get(self, organization_id: bytes, user_id: bytes) -> User:
        """`NotFound` for one of another organisation too."""
        async with tenant(self._pool, organization_id=organization_id) as connection:
            row = await connection.fetchrow(sql("user_get"), organization_id, user_id)
        return _found(row)

    async def page(
        self,
        organization_id: bytes,
        cursor: str | None = None,
        rows_max: int = limits.PAGE_ROWS_DEFAULT,
    ) -> tuple[list[User], str | None]:
        """A page in the order of addresses, and the cursor of the next one."""
        after = "" if cursor is None else after_name(USERS, cursor)
        async with tenant(self._pool, organization_id=organization_id) as connection:
            rows = await connection.fetch(sql("user_list"), organization_id, after, rows_max + 1)
        page = [User(**row) for row in rows[:rows_max]]
        more = len(rows) > rows_max
        return page, name_cursor(USERS, page[-1].email) if more else None

    async def update(
        self,
        organization_id: bytes,
        user_id: bytes,
        actor: Actor,
        *,
        role: UserRole | None = None,
        disabled: bool | None = None,
    ) -> tuple[User, list[Revocation]]:
        """What is None stays; `NotFound`, `Conflict` for the last admin. Who is disabled is logged
        out everywhere."""
        async with tenant(self._pool, organization_id=organization_id) as connection:
            before = await _locked(connection, organization_id, user_id)
            if role == "member" or disabled:
                await _keep_an_admin(connection, before)
            row = await connection.fetchrow(
                sql("user_update"), organization_id, user_id, role, disabled
            )
            after = _found(row)
            if disabled:
                await connection.execute(sql("sessions_end_of_user"), user_id, None)
            gone = [Revocation(user_id, after.token_version)]
            await revoke(connection, organization_id, gone)
            target = f"user:{uuid_text(user_id)}"
            states = _shown(before), _shown(after)
            await record(connection, organization_id, actor, "user.update", target, *states)
        return after, gone

    async def delete(self, organization_id: bytes, user_id: bytes, actor: Actor) -> Revocation:
        """The person with all sessions; `NotFound`, `Conflict` for the last admin."""
        async with tenant(self._pool, organization_id=organization_id) as connection:
            before = await _locked(connection, organization_id, user_id)
            await _keep_an_admin(connection, before)
            await connection.execute(sql("user_delete"), organization_id, user_id)
            gone = Revocation(user_id, EVERY_VERSION)
            await revoke(connection, organization_id, [gone])
            target = f"user:{uuid_text(user_id)}"
            await record(connection, organization_id, actor, "user.delete", target, _shown(before))
        return gone

    async def set_password(
        self,
        user: User,
        password_hash: str,
        session: RefreshToken,
        actor: Actor,
    ) -> tuple[User, Revocation]:
        """End all other sessions, and give this one a new refresh token; `Conflict` when the person
        is no longer as `user` says."""
        return await self._set_password(user, password_hash, session, actor, "user.change_password")

    async def reset_password(
        self, user: User, password_hash: str, actor: Actor
    ) -> tuple[User, Revocation]:
        """End all sessions; `Conflict` when the person is no longer as `user` says."""
        return await self._set_password(user, password_hash, None, actor, "user.reset_password")

    async def _set_password(
        self,
        user: User,
        password_hash: str,
        session: RefreshToken | None,
        actor: Actor,
        action: str,
    ) -> tuple[User, Revocation]:
        organization_id = user.organization_id
        async with tenant(self._pool, organization_id=organization_id) as connection:
            row = await connection.fetchrow(
                sql("user_password_set"),
                organization_id,
                user.id,
                user.password_hash,
                password_hash,
            )
            if row is None:
                raise Conflict("the account was changed meanwhile: log in again")
            changed = User(**row)
            kept = None if session is None else session.session_id
            await connection.execute(sql("sessions_end_of_user"), user.id, kept)
            if session is not None:
                hashes = session.family_hash, session.token_hash
                await connection.execute(sql("session_renew"), kept, user.id, *hashes)
            gone = Revocation(user.id, changed.token_version)
            await revoke(connection, organization_id, [gone])
            target = f"user:{uuid_text(user.id)}"
            await record(connection, organization_id, actor, action, target)
        return changed, gone

    async def rehash(self, user: User, password_hash: str) -> None:
        """The same password under other parameters."""
        async with acquire(self._pool) as connection:
            await connection.execute(
                sql("user_password_rehash"), user.id, user.password_hash, password_hash
            )


async def create_user(
    connection: Lent, organization_id: bytes, email: str, password_hash: str, role: UserRole
) -> User:
    """For a transaction of the caller's; `Conflict` when the address is taken."""
    try:
        row = await connection.fetchrow(
            sql("user_create"),
            uuid.uuid4().bytes,
            organization_id,
            email,
            password_hash,
            role,
            limits.USERS_MAX,
        )
    except asyncpg.UniqueViolationError:
        raise Conflict("there is an account with this address", "email", "email_taken") from None
    except asyncpg.ForeignKeyViolationError:
        raise NotFound("no such organization") from None
    if row is None:
        raise Conflict(
            f"an organization has at most {limits.USERS_MAX} people", code="too_many_users"
        )
    user = User(**row)
    user.validate()
    return user


async def _locked(connection: Lent, organization_id: bytes, user_id: bytes) -> User:
    await connection.execute(sql("user_admins_lock"), organization_id)
    return _found(await connection.fetchrow(sql("user_get_locked"), organization_id, user_id))


async def _keep_an_admin(connection: Lent, user: User) -> None:
    """`Conflict` if without this one nobody could administer the organisation."""
    admins = await connection.fetch(sql("user_admins_lock"), user.organization_id)
    if [row["id"] for row in admins] == [user.id]:
        raise Conflict("this is the last admin: make somebody else one first", code="last_admin")


def _shown(user: User) -> dict[str, Any]:
    """What the audit log tells of a person."""
    return {"email": user.email, "role": user.role, "disabled": not user.is_active()}


def _found(row: asyncpg.Record | None) -> User:
    if row is None:
        raise NotFound("no such user", "user_id", "user_not_found")
    return User(**row)
