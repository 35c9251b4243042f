"""Organisations and projects. Every change is in the audit log by the transaction that makes it."""

import uuid
from collections.abc import Callable
from typing import TypeVar

import asyncpg

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Conflict, NotFound
from taskforge_server.engine.model.audit import OPERATOR, Actor
from taskforge_server.engine.model.base import Model
from taskforge_server.engine.model.tenant import Organization, Project
from taskforge_server.engine.store.audit import record
from taskforge_server.engine.store.cursors import ORGANIZATIONS, PROJECTS, after_id, id_cursor
from taskforge_server.engine.store.pool import Lent, Pool, acquire
from taskforge_server.engine.store.statements import sql
from taskforge_server.engine.store.tenancy import tenant
from taskforge_server.ext.ids import uuid_text

M = TypeVar("M", bound=Model)

NO_ID = bytes(16)


class Organizations:
    """The repository of `organizations`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(self, name: str, billing_email: str, actor: Actor = OPERATOR) -> Organization:
        async with acquire(self._pool) as connection, connection.transaction():
            made = await create_organization(connection, name, billing_email)
            await record(
                connection,
                made.id,
                actor,
                "organization.create",
                _organization_target(made.id),
                None,
                _organization_shown(made),
            )
        return made

    async def get(self, organization_id: bytes) -> Organization:
        """NotFound."""
        async with tenant(self._pool, organization_id=organization_id) as connection:
            row = await connection.fetchrow(sql("organization_get"), organization_id)
        return _organization(row)

    async def update(
        self,
        organization_id: bytes,
        change: Callable[[Organization], Organization],
        actor: Actor = OPERATOR,
    ) -> Organization:
        """Name and billing address as `change` makes them of what is there; NotFound."""
        async with tenant(self._pool, organization_id=organization_id) as connection:
            old = _organization(
                await connection.fetchrow(sql("organization_get_locked"), organization_id)
            )
            new = change(old)
            if new != old:
                new.validate()
                await connection.execute(
                    sql("organization_update"), organization_id, new.name, new.billing_email
                )
                await record(
                    connection,
                    organization_id,
                    actor,
                    "organization.update",
                    _organization_target(organization_id),
                    _organization_shown(old),
                    _organization_shown(new),
                )
        return new

    # for the operator

    async def page(
        self, cursor: str | None = None, rows_max: int = limits.PAGE_ROWS_DEFAULT
    ) -> tuple[list[Organization], str | None]:
        """A page of all organisations in the order of ids, and the cursor of the next one."""
        after = NO_ID if cursor is None else after_id(ORGANIZATIONS, cursor)
        async with acquire(self._pool) as connection:
            rows = await connection.fetch(sql("organization_list"), after, rows_max + 1)
        page = [Organization(**row) for row in rows[:rows_max]]
        more = len(rows) > rows_max
        return page, id_cursor(ORGANIZATIONS, page[-1].id) if more else None

    async def delete(self, organization_id: bytes, actor: Actor = OPERATOR) -> None:
        """The organisation with its people and subscriptions; its audit log stays. NotFound,
        Conflict while it has projects."""
        async with acquire(self._pool) as connection, connection.transaction():
            old = _organization(
                await connection.fetchrow(sql("organization_get_locked"), organization_id)
            )
            if count := await connection.fetchval(sql("project_count"), organization_id):
                raise Conflict(
                    f"delete its projects first: there are {count}", code="organization_not_empty"
                )
            await connection.execute(sql("organization_people_delete"), organization_id)
            await connection.execute(sql("organization_delete"), organization_id)
            await record(
                connection,
                organization_id,
                actor,
                "organization.delete",
                _organization_target(organization_id),
                _organization_shown(old),
            )


class Projects:
    """The repository of `projects`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(
        self,
        organization_id: bytes,
        name: str,
        description: str | None = None,
        actor: Actor = OPERATOR,
    ) -> Project:
        """NotFound without the organisation; Conflict when it has too many projects."""
        async with tenant(self._pool, organization_id=organization_id) as connection:
            count = await connection.fetchval(sql("project_count"), organization_id)
            if count >= limits.PROJECTS_PER_ORGANIZATION_MAX:
                most = limits.PROJECTS_PER_ORGANIZATION_MAX
                raise Conflict(
                    f"an organisation has at most {most} projects", code="too_many_projects"
                )
            made = await create_project(connection, organization_id, name, description)
            await _recorded(connection, actor, "project.create", None, made)
        return made

    async def find(self, organization_id: bytes, project_id: bytes) -> Project:
        """NotFound."""
        async with tenant(self._pool, organization_id=organization_id) as connection:
            return await project_of(connection, organization_id, project_id)

    async def page(
        self,
        organization_id: bytes,
        cursor: str | None = None,
        rows_max: int = limits.PAGE_ROWS_DEFAULT,
    ) -> tuple[list[Project], str | None]:
        """A page in the order of ids, and the cursor of the next one."""
        after = NO_ID if cursor is None else after_id(PROJECTS, cursor)
        async with tenant(self._pool, organization_id=organization_id) as connection:
            rows = await connection.fetch(sql("project_list"), organization_id, after, rows_max + 1)
        page = [Project(**row) for row in rows[:rows_max]]
        more = len(rows) > rows_max
        return page, id_cursor(PROJECTS, page[-1].id) if more else None

    async def update(
        self,
        organization_id: bytes,
        project_id: bytes,
        change: Callable[[Project], Project],
        actor: Actor = OPERATOR,
    ) -> Project:
        """Name and description as `change` makes them of what is there; NotFound."""
        async with tenant(self._pool, organization_id=organization_id) as connection:
            old = await project_of(connection, organization_id, project_id, locked=True)
            new = change(old)
            if new != old:
                new.validate()
                await connection.execute(
                    sql("project_update"), organization_id, project_id, new.name, new.description
                )
                await _recorded(connection, actor, "project.update", old, new)
        return new

    async def delete(
        self, organization_id: bytes, project_id: bytes, actor: Actor = OPERATOR
    ) -> list[bytes]:
        """The project with its keys and the rows of workers that left; the ids of the keys.
        NotFound, Conflict with what stands in the way."""
        try:
            async with tenant(
                self._pool, organization_id=organization_id, project_id=project_id
            ) as connection:
                old = await project_of(connection, organization_id, project_id, locked=True)
                blockers = await connection.fetchrow(sql("project_blockers"), project_id)
                assert blockers is not None
                found = [
                    f"{count} {kind.replace('_', ' ')}" for kind, count in blockers.items() if count
                ]
                if found:
                    raise _not_empty(", ".join(found))
                await connection.execute(sql("project_workers_delete"), project_id)
                await connection.execute(sql("project_queues_delete"), project_id)
                keys = await connection.fetch(sql("project_keys_delete"), project_id)
                await connection.execute(sql("project_delete"), organization_id, project_id)
                await _recorded(connection, actor, "project.delete", old, None)
        except asyncpg.ForeignKeyViolationError as error:
            raise _not_empty(f"rows of {error.as_dict().get('table_name')}") from None
        return [row["id"] for row in keys]

    # for the engine, which knows no tenant yet

    async def get(self, project_id: bytes) -> Project:
        """NotFound."""
        async with acquire(self._pool) as connection:
            row = await connection.fetchrow(sql("project_get"), project_id)
        return _project(row)


async def project_of(
    connection: Lent, organization_id: bytes, project_id: bytes, *, locked: bool = False
) -> Project:
    """The project, if it is the organisation's; NotFound. Locked: to the end of the transaction
    nothing is added to it."""
    name = "project_find_locked" if locked else "project_find"
    return _project(await connection.fetchrow(sql(name), organization_id, project_id))


async def create_organization(connection: Lent, name: str, billing_email: str) -> Organization:
    """For a transaction of the caller's."""
    row = await connection.fetchrow(
        sql("organization_create"), uuid.uuid4().bytes, name, billing_email
    )
    assert row is not None
    return _valid(Organization(**row))


async def create_project(
    connection: Lent, organization_id: bytes, name: str, description: str | None = None
) -> Project:
    """For a transaction of the caller's."""
    try:
        row = await connection.fetchrow(
            sql("project_create"), uuid.uuid4().bytes, organization_id, name, description
        )
    except asyncpg.ForeignKeyViolationError:
        raise NotFound("no such organization", "organization_id") from None
    assert row is not None
    return _valid(Project(**row))


async def _recorded(
    connection: Lent, actor: Actor, action: str, old: Project | None, new: Project | None
) -> None:
    project = new or old
    assert project is not None
    await record(
        connection,
        project.organization_id,
        actor,
        action,
        f"project:{uuid_text(project.id)}",
        None if old is None else {"name": old.name, "description": old.description},
        None if new is None else {"name": new.name, "description": new.description},
    )


def _organization_shown(row: Organization) -> dict[str, str]:
    return {"name": row.name, "billing_email": row.billing_email}


def _organization_target(organization_id: bytes) -> str:
    return f"organization:{uuid_text(organization_id)}"


def _organization(row: asyncpg.Record | None) -> Organization:
    if row is None:
        raise NotFound("no such organization", code="organization_not_found")
    return Organization(**row)


def _project(row: asyncpg.Record | None) -> Project:
    if row is None:
        raise NotFound("no such project", "project_id", code="project_not_found")
    return Project(**row)


def _not_empty(found: str) -> Conflict:
    return Conflict(f"the project still has {found}", code="project_not_empty")


def _valid(model: M) -> M:
    model.validate()
    return model
