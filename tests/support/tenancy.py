"""Tenants and what belongs to them, made for tests of the tables."""

import secrets
from datetime import UTC, datetime
from typing import Any

from taskforge_server.engine.model.queue import QueueSettings
from taskforge_server.engine.model.worker import QueueWorkerAssignment
from taskforge_server.engine.store.pool import Connection, Pool
from taskforge_server.engine.store.queues import Queues
from taskforge_server.engine.store.tenants import create_organization, create_project

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


async def stranger(connection: Connection) -> tuple[bytes, bytes]:
    """Another organisation's id, and that of a project of its own."""
    organization = await create_organization(connection, "other", "other@example.com")
    project = await create_project(connection, organization.id, "other")
    return organization.id, project.id


async def make_queue(pool: Pool, project_id: bytes, name: str = "mail", **settings: Any) -> bytes:
    """A queue's id."""
    queues = Queues(pool, 64)
    return (await queues.create(project_id, name, 0, QueueSettings(**settings))).id


def assignment(
    queue_id: bytes, worker_id: bytes = b"", weight: int = 1, is_active: bool = True
) -> QueueWorkerAssignment:
    """A row that is not there yet."""
    return QueueWorkerAssignment(
        queue_id=queue_id,
        worker_id=worker_id or secrets.token_bytes(16),
        weight=weight,
        is_active=is_active,
        created_at=EPOCH,
    )
