"""Which job waits for which: the rows of `job_dependencies`. Both jobs are of one project, and in
the tables; a dependency has nothing that could change."""

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from taskforge_server.engine import limits
from taskforge_server.engine.errors import NotFound
from taskforge_server.engine.model.dependency import JobDependency
from taskforge_server.engine.store.cursors import DEPENDENCIES, after_id, id_cursor
from taskforge_server.engine.store.pool import Pool, acquire
from taskforge_server.engine.store.statements import sql
from taskforge_server.engine.store.tenancy import tenant

NO_ID = bytes(16)


class JobDependencies:
    """The repository of `job_dependencies`; each call sees one project only."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(
        self, project_id: bytes, parent_job_id: bytes, child_job_id: bytes
    ) -> JobDependency:
        """The child waits for the parent; what is so already stays. `NotFound` unless both jobs are
        the project's, `InvalidInput` for a job that would wait for itself."""
        async with tenant(self._pool, project_id=project_id) as connection:
            jobs = {parent_job_id, child_job_id}
            known = await connection.fetchval(sql("jobs_known"), project_id, list(jobs))
            if known != len(jobs):
                raise NotFound("this project has no such job", "job_id", code="job_not_found")
            at = await connection.fetchval(sql("clock"))
            wanted = JobDependency(
                parent_job_id=parent_job_id, child_job_id=child_job_id, created_at=at
            )
            wanted.validate()
            await connection.execute(
                sql("dependency_create"), parent_job_id, child_job_id, project_id
            )
            row = await connection.fetchrow(sql("dependency_get"), parent_job_id, child_job_id)
        return _found(row)

    async def get(
        self, project_id: bytes, parent_job_id: bytes, child_job_id: bytes
    ) -> JobDependency:
        """`NotFound`."""
        async with tenant(self._pool, project_id=project_id) as connection:
            row = await connection.fetchrow(sql("dependency_get"), parent_job_id, child_job_id)
        return _found(row)

    async def parents(
        self,
        project_id: bytes,
        child_job_id: bytes,
        cursor: str | None = None,
        rows_max: int = limits.PAGE_ROWS_DEFAULT,
    ) -> tuple[list[JobDependency], str | None]:
        """What the job waits for, by the ids of the parents, and the cursor of the next page."""
        after = NO_ID if cursor is None else after_id(DEPENDENCIES, cursor)
        async with tenant(self._pool, project_id=project_id) as connection:
            rows = await connection.fetch(
                sql("dependency_parents"), child_job_id, after, rows_max + 1
            )
        page = [JobDependency(**row) for row in rows[:rows_max]]
        more = len(rows) > rows_max
        return page, id_cursor(DEPENDENCIES, page[-1].parent_job_id) if more else None

    async def children(
        self,
        project_id: bytes,
        parent_job_id: bytes,
        cursor: str | None = None,
        rows_max: int = limits.PAGE_ROWS_DEFAULT,
    ) -> tuple[list[JobDependency], str | None]:
        """What waits for the job, by the ids of the children, and the cursor of the next page."""
        after = NO_ID if cursor is None else after_id(DEPENDENCIES, cursor)
        async with tenant(self._pool, project_id=project_id) as connection:
            rows = await connection.fetch(
                sql("dependency_children"), parent_job_id, after, rows_max + 1
            )
        page = [JobDependency(**row) for row in rows[:rows_max]]
        more = len(rows) > rows_max
        return page, id_cursor(DEPENDENCIES, page[-1].child_job_id) if more else None

    async def parents_after(
        self, project_id: bytes, child_job_id: bytes, after: bytes, rows_max: int
    ) -> list[tuple[bytes, str]]:
        """What the job waits for, with the policies, by the ids of the parents, behind one."""
        async with tenant(self._pool, project_id=project_id) as connection:
            rows = await connection.fetch(sql("dependency_parents"), child_job_id, after, rows_max)
        return [(row["parent_job_id"], row["on_failure"]) for row in rows]

    async def around(
        self, project_id: bytes, job_ids: Sequence[bytes], rows_max: int
    ) -> list[tuple[bytes, bytes, str]]:
        """Parent, child and policy of edges that touch these jobs, as many to either side."""
        async with tenant(self._pool, project_id=project_id) as connection:
            rows = await connection.fetch(
                sql("dependencies_around"), project_id, list(job_ids), rows_max
            )
        return [tuple(row) for row in rows]

    async def expire(
        self, after: tuple[bytes, bytes], ended_before: datetime, rows_max: int
    ) -> tuple[bytes, bytes] | None:
        """Look at some edges behind this child and parent: those without a child go, and parents
        that stayed for children which are over. Where to go on; None: that was the end."""
        async with acquire(self._pool) as connection:
            row = await connection.fetchrow(
                sql("dependencies_expire"), *after, rows_max, ended_before
            )
        return None if row is None else (row["child_job_id"], row["parent_job_id"])

    async def delete(self, project_id: bytes, parent_job_id: bytes, child_job_id: bytes) -> None:
        """`NotFound`."""
        async with tenant(self._pool, project_id=project_id) as connection:
            row = await connection.fetchrow(sql("dependency_delete"), parent_job_id, child_job_id)
        _found(row)


def _found(row: asyncpg.Record | None) -> JobDependency:
    if row is None:
        raise NotFound("no such dependency")
    return JobDependency(**row)
