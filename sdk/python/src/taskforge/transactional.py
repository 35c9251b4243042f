"""Enqueue a job in a transaction of your own database: both happen, or neither.

    async with connection.transaction():
        await connection.execute("INSERT INTO orders …")
        await enqueue(connection, send_receipt, order=42)

This works where the application's tables live in the database that TaskForge uses, and its role was
allowed to (`taskforge inbox allow PROJECT ROLE`). The job exists from the commit on, not before;
after a rollback there was none. The answer is a reference, not the job's id, which it gets when the
server takes it: the job has it as its `idempotency_key`, `inbox:<reference>`.

The connection may be one of asyncpg, psycopg (3, sync or async) or SQLAlchemy (Connection, Session
or their async twins). With an async one `enqueue` is awaited.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from taskforge.client import calls
from taskforge.task import JobSpec, Payload, Task

_to_json = msgspec.json.Encoder().encode


def enqueue(
    connection: Any,
    task: Task[..., Any] | str,
    payload: Payload = None,
    /,
    *,
    project: str | None = None,
    queue: str | None = None,
    priority: int | None = None,
    delay_s: float | None = None,
    scheduled_for: datetime | None = None,
    timeout_s: float | None = None,
    max_attempts: int | None = None,
    tags: Sequence[str] | None = None,
    **arguments: Any,
) -> Any:
    """One job of this task; the reference as `UUID`, or an awaitable of it.

    All is given as to `Client.submit`; `delay_s` begins when a server takes the job, moments after
    the commit. Further options come with the task, `receipt.configure(unique_key="order-42")`.
    `project` (an id) is needed by roles that may enqueue jobs of several. What the database refuses
    it raises by itself, and the transaction is broken then, as with any statement.
    """
    if arguments and payload is not None:
        raise TypeError("give the arguments either as payload or by name")
    spec = JobSpec[Any](
        task,
        arguments if payload is None else payload,
        queue=queue,
        priority=priority,
        delay_s=delay_s,
        scheduled_for=scheduled_for,
        timeout_s=timeout_s,
        max_attempts=max_attempts,
        tags=tags,
    )
    return enqueue_spec(connection, spec, project=project)


def enqueue_spec(connection: Any, spec: JobSpec[Any], *, project: str | None = None) -> Any:
    """The same for a job that is described already, with all that a `JobSpec` may say."""
    item = msgspec.to_builtins(calls.item(spec), builtin_types=(bytes,))
    payload, job_type = bytes(item.pop("payload")).decode(), item.pop("job_type")
    values = (calls.queue_of(spec), job_type, payload, _to_json(item).decode(), project)
    return _runner(connection)(connection, values)


def _asyncpg(connection: Any, values: tuple[Any, ...]) -> Awaitable[UUID]:
    statement = "SELECT taskforge.enqueue($1, $2, $3::text::jsonb, $4::text::jsonb, $5::text::uuid)"
    found: Awaitable[UUID] = connection.fetchval(statement, *values)
    return found


_PERCENT = "SELECT taskforge.enqueue(%s, %s, %s::jsonb, %s::jsonb, %s::uuid)"


def _psycopg(connection: Any, values: tuple[Any, ...]) -> UUID:
    (reference,) = connection.execute(_PERCENT, values).fetchone()
    return _uuid(reference)


async def _psycopg_async(connection: Any, values: tuple[Any, ...]) -> UUID:
    (reference,) = await (await connection.execute(_PERCENT, values)).fetchone()
    return _uuid(reference)


def _named(values: tuple[Any, ...]) -> tuple[Any, dict[str, Any]]:
    from sqlalchemy import text

    statement = text(
        "SELECT taskforge.enqueue(CAST(:queue AS text), CAST(:job_type AS text), "
        "CAST(CAST(:payload AS text) AS jsonb), CAST(CAST(:options AS text) AS jsonb), "
        "CAST(CAST(:project AS text) AS uuid))"
    )
    names = ("queue", "job_type", "payload", "options", "project")
    return statement, dict(zip(names, values, strict=True))


def _sqlalchemy(connection: Any, values: tuple[Any, ...]) -> UUID:
    return _uuid(connection.execute(*_named(values)).scalar_one())


async def _sqlalchemy_async(connection: Any, values: tuple[Any, ...]) -> UUID:
    return _uuid((await connection.execute(*_named(values))).scalar_one())


def _uuid(value: Any) -> UUID:
    return value if isinstance(value, UUID) else UUID(str(value))


_RUNNERS: dict[tuple[str, bool], Callable[[Any, tuple[Any, ...]], Any]] = {
    ("asyncpg", False): _asyncpg,
    ("psycopg", False): _psycopg,
    ("psycopg", True): _psycopg_async,
    ("sqlalchemy", False): _sqlalchemy,
    ("sqlalchemy", True): _sqlalchemy_async,
}


def _runner(connection: Any) -> Callable[[Any, tuple[Any, ...]], Any]:
    """How this kind of connection is asked; TypeError."""
    for kind in type(connection).__mro__:
        library, _, _ = kind.__module__.partition(".")
        runner = _RUNNERS.get((library, kind.__name__.lower().startswith("async")))
        if runner is not None:
            return runner
    raise TypeError(
        f"{type(connection).__name__} is no connection of asyncpg, psycopg or SQLAlchemy"
    )
