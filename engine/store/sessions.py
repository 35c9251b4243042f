"""Logins: the rows of `user_sessions`."""

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Conflict
from taskforge_server.engine.model.audit import Actor
from taskforge_server.engine.model.identity import (
    EVERY_VERSION,
    RefreshToken,
    Revocation,
    Session,
)
from taskforge_server.engine.model.tenant import User
from taskforge_server.engine.store.audit import record
from taskforge_server.engine.store.pool import Lent, Pool, acquire
from taskforge_server.engine.store.revocations import revoke
from taskforge_server.engine.store.statements import sql
from taskforge_server.ext.ids import uuid_text


class Sessions:
    """The repository of `user_sessions`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def open(self, user: User, token: RefreshToken) -> tuple[Session, list[Revocation]]:
        """A new session; `Conflict` when the person is no longer as `user` says. Beyond the bound
        the oldest ones end."""
        async with acquire(self._pool) as connection, connection.transaction():
            session = await open_session(connection, user, token)
            ended = await connection.fetch(
                sql("sessions_end_oldest"), user.id, limits.SESSIONS_PER_USER_MAX
            )
            gone = [Revocation(row["id"], EVERY_VERSION) for row in ended]
            await revoke(connection, user.organization_id, gone)
        return session, gone

    async def rotate(self, shown: RefreshToken, new: RefreshToken) -> User | None:
        """Put the new token in place of the shown one; None unless that is the newest of a session
        that lasts."""
        async with acquire(self._pool) as connection:
            row = await connection.fetchrow(
                sql("session_rotate"),
                shown.session_id,
                shown.family_hash,
                shown.token_hash,
                new.token_hash,
                limits.SESSION_S,
            )
        return None if row is None else User(**row)

    async def end_family(self, shown: RefreshToken, actor: Actor) -> Revocation | None:
        """End the session of a token that is not good; None when there is none, or the token was
        made up. That a token was used again is recorded."""
        async with acquire(self._pool) as connection, connection.transaction():
            row = await connection.fetchrow(
                sql("session_end_family"), shown.session_id, shown.family_hash
            )
            if row is None:
                return None
            gone = Revocation(shown.session_id, EVERY_VERSION)
            await revoke(connection, row["organization_id"], [gone])
            if row["token_hash"] != shown.token_hash:
                target = f"user:{uuid_text(row['user_id'])}"
                after = {"session": uuid_text(shown.session_id)}
                await record(
                    connection,
                    row["organization_id"],
                    actor,
                    "session.token_reused",
                    target,
                    None,
                    after,
                )
        return gone

    async def end(
        self, organization_id: bytes, user_id: bytes, session_id: bytes
    ) -> Revocation | None:
        """End a session of this person; None when it has ended before."""
        async with acquire(self._pool) as connection, connection.transaction():
            if await connection.fetchval(sql("session_end"), session_id, user_id) is None:
                return None
            gone = Revocation(session_id, EVERY_VERSION)
            await revoke(connection, organization_id, [gone])
        return gone

    async def expire(self, rows_max: int) -> None:
        """Delete sessions whose time is over."""
        async with acquire(self._pool) as connection:
            await connection.execute(sql("sessions_expire"), rows_max)


async def open_session(connection: Lent, user: User, token: RefreshToken) -> Session:
    """For a transaction of the caller's."""
    row = await connection.fetchrow(
        sql("session_open"),
        token.session_id,
        user.id,
        user.token_version,
        token.family_hash,
        token.token_hash,
        limits.SESSION_S,
    )
    if row is None:
        raise Conflict("the account was changed meanwhile: log in again")
    return Session(**row)
