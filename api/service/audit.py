"""The audit log of an organisation: look at it, take it along, verify it."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Protocol

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Overloaded
from taskforge_server.engine.model.audit import AuditEntry, AuditHead, Verdict
from taskforge_server.engine.store.audit import AuditFilter


class AuditReader(Protocol):
    """The logs in the tables."""

    async def page(
        self,
        organization_id: bytes,
        wanted: AuditFilter,
        cursor: str | None = None,
        rows_max: int = ...,
    ) -> tuple[list[AuditEntry], str | None]:
        """The newest first, with the cursor of the next page; InvalidInput."""
        ...

    def entries(self, organization_id: bytes, after: int = 0) -> AsyncIterator[list[AuditEntry]]:
        """In their order, some at a time."""
        ...

    async def verify(self, organization_id: bytes, noted: AuditHead | None = None) -> Verdict: ...


class AuditService:
    """The use cases of the audit log; each sees one organisation only."""

    def __init__(self, logs: AuditReader) -> None:
        self._logs = logs
        self._readers: Counter[bytes] = Counter()
        self._verifications = asyncio.Semaphore(limits.AUDIT_VERIFICATIONS_MAX)

    async def page(
        self, organization_id: bytes, wanted: AuditFilter, cursor: str | None, rows_max: int
    ) -> tuple[list[AuditEntry], str | None]:
        """A page, the newest first, and the cursor of the next one."""
        return await self._logs.page(organization_id, wanted, cursor, rows_max)

    async def export(
        self, organization_id: bytes, after: int
    ) -> AsyncGenerator[list[AuditEntry], None]:
        """All entries after a number, in their order; Overloaded before the first."""
        with self._reading(organization_id):
            async for entries in self._logs.entries(organization_id, after):
                yield entries

    async def verify(self, organization_id: bytes, noted: AuditHead | None) -> Verdict:
        """Whether the log is whole; Overloaded."""
        with self._reading(organization_id):
            async with self._verifications:
                return await self._logs.verify(organization_id, noted)

    @contextmanager
    def _reading(self, organization_id: bytes) -> Iterator[None]:
        readers = self._readers
        if (
            readers[organization_id] >= limits.AUDIT_READERS_OF_ONE_MAX
            or readers.total() >= limits.AUDIT_READERS_MAX
        ):
            raise Overloaded(limits.OVERLOAD_RETRY_S, "too many read a whole audit log just now")
        readers[organization_id] += 1
        try:
            yield
        finally:
            readers[organization_id] -= 1
            if not readers[organization_id]:
                del readers[organization_id]
