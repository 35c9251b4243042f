"""The inbox: jobs that applications wrote in transactions of their own, until a shard has them.

    committed ──► waiting ──► taken: its job is durable, the row goes
                   │  ▲ └──► refused: the row stays, with the reason, until somebody decides
          put off  ▼  │ its time has come, or an operator says so
                  later

`taskforge.enqueue` (migration 0025) writes the rows; roles that may call it have a grant for a
project. A row that is read again after its job was made leads to the same job: its id is the
Idempotency-Key.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from taskforge_server.engine import limits
from taskforge_server.engine.errors import NotFound
from taskforge_server.engine.model.audit import OPERATOR, Actor
from taskforge_server.engine.store.audit import record
from taskforge_server.engine.store.pool import UNREACHABLE, Connection, Pool, acquire, connect
from taskforge_server.engine.store.statements import sql
from taskforge_server.ext.ids import uuid_text

CHANNEL = "taskforge_inbox"
NO_PROJECT = bytes(16)


class InboxRow(NamedTuple):
    """A job that waits to be taken; `options` and `payload` are JSON text."""

    id: bytes
    project_id: bytes
    organization_id: bytes
    queue_id: bytes
    job_type: str
    payload: str
    options: str


class RefusedRow(NamedTuple):
    """A job that cannot be made as it is."""

    id: bytes
    project_id: bytes
    queue: str
    job_type: str
    enqueued_at: datetime
    problem: str


class Grant(NamedTuple):
    """A role of the server may write jobs of the project."""

    project_id: bytes
    role_name: str
    granted_at: datetime


class Inbox:
    """The repository of `inbox` and `inbox_grants`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._after = NO_PROJECT

    # the engine's side

    async def waiting(self, shards: Sequence[int], rows_max: int) -> list[InboxRow]:
        """Rows of these shards, as many as weigh INBOX_BYTES_MAX, but one at least: of all projects
        in turn, the oldest first; Unavailable."""
        async with acquire(self._pool) as connection:
            found = await connection.fetch(sql("inbox_projects"), self._after, rows_max)
            if not found and self._after != NO_PROJECT:  # that was the last of them
                found = await connection.fetch(sql("inbox_projects"), NO_PROJECT, rows_max)
            projects = [row["project_id"] for row in found]
            # More projects than one look has room for: the next look goes on behind these.
            self._after = projects[-1] if len(projects) == rows_max else NO_PROJECT
            if not projects:
                return []
            rows = await connection.fetch(
                sql("inbox_waiting"), list(shards), rows_max, limits.INBOX_BYTES_MAX, projects
            )
        return [InboxRow(*row) for row in rows]

    async def taken(self, ids: Sequence[bytes]) -> None:
        """The jobs of these rows are durable: the rows go."""
        async with acquire(self._pool) as connection:
            await connection.execute(sql("inbox_taken"), list(ids))

    async def put_off(self, ids: Sequence[bytes], delay_s: float) -> None:
        """Not before that time."""
        async with acquire(self._pool) as connection:
            await connection.execute(sql("inbox_put_off"), list(ids), delay_s)

    async def refuse(self, row_id: bytes, problem: str) -> None:
        """No job can be made of the row as it is."""
        async with acquire(self._pool) as connection:
            await connection.execute(sql("inbox_refuse"), row_id, problem)

    # the operator's side

    async def refused(self, rows_max: int = limits.PAGE_ROWS_MAX) -> list[RefusedRow]:
        """The oldest of those that were refused."""
        async with acquire(self._pool) as connection:
            rows = await connection.fetch(sql("inbox_refused"), rows_max)
        return [RefusedRow(*row) for row in rows]

    async def retry(self, ids: Sequence[bytes]) -> int:
        """Let refused rows wait again; how many there were."""
        return await self._decide("inbox_retry", ids)

    async def discard(self, ids: Sequence[bytes]) -> int:
        """Forget refused rows; how many there were."""
        return await self._decide("inbox_discard", ids)

    async def _decide(self, statement: str, ids: Sequence[bytes]) -> int:
        async with acquire(self._pool) as connection:
            status: str = await connection.execute(sql(statement), list(ids))
        return int(status.rpartition(" ")[2])

    async def allow(self, project_id: bytes, role: str, actor: Actor = OPERATOR) -> None:
        """The role of the server may write jobs of the project; NotFound."""
        await self._change_grant(project_id, role, actor, "allow")

    async def forbid(self, project_id: bytes, role: str, actor: Actor = OPERATOR) -> None:
        """It may no longer; NotFound when it might not."""
        await self._change_grant(project_id, role, actor, "forbid")

    async def _change_grant(self, project_id: bytes, role: str, actor: Actor, act: str) -> None:
        async with acquire(self._pool) as connection, connection.transaction():
            organization_id: bytes | None = await connection.fetchval(
                sql("project_organization"), project_id
            )
            if organization_id is None:
                raise NotFound("no such project", "project")
            if act == "allow":
                if not await connection.fetchval(sql("inbox_role"), role):
                    raise NotFound("the server has no such role", "role")
                await connection.execute(sql("inbox_allow"), project_id, role)
            elif not await connection.fetchval(sql("inbox_forbid"), project_id, role):
                raise NotFound("this role may not enqueue jobs of the project", "role")
            await record(
                connection,
                organization_id,
                actor,
                f"inbox.{act}",
                f"project:{uuid_text(project_id)}",
                after={"role": role},
            )

    async def grants(self) -> list[Grant]:
        """Of all projects."""
        async with acquire(self._pool) as connection:
            return [Grant(*row) for row in await connection.fetch(sql("inbox_grants"))]


class InboxBell:
    """Rings when a transaction that enqueued something commits. Hints: a lost one costs time."""

    def __init__(self, postgres_url: str, ring: Callable[[], None]) -> None:
        self._url = postgres_url
        self._ring = ring
        self._connection: Connection | None = None

    async def listen(self) -> None:
        """Listen, if that is not so already; what is in the way is tried again by the next call."""
        if self._connection is not None and not self._connection.is_closed():
            return
        connection: Connection | None = None
        try:
            connection = await connect(self._url, application_name="taskforge inbox")
            await connection.add_listener(CHANNEL, self._heard)
        except UNREACHABLE:
            if connection is not None:
                connection.terminate()
            return
        except BaseException:  # the server stops just now
            if connection is not None:
                connection.terminate()
            raise
        self._connection = connection

    def _heard(self, *_: Any) -> None:
        self._ring()

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None
