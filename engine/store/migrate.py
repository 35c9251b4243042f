"""Brings a database to the newest schema: forward only, each file once, one node at a time.

The files stand in `migrations/`; the library `pogo-core` applies each in a transaction of its own
and remembers it in `_pogo_migration`. It takes no lock, so we hold one around it.
"""

import logging
from importlib.resources import as_file, files
from typing import Any

import asyncpg
from pogo_core.error import BadMigrationError
from pogo_core.util.migrate import apply

from taskforge_server.engine import limits
from taskforge_server.engine.errors import ConfigError, Unavailable
from taskforge_server.engine.store.partitions import ensure_partitions
from taskforge_server.engine.store.pool import Connection, Lent, Pool, connect
from taskforge_server.engine.store.statements import sql

SCHEMA = "public"
_FOLDER = files("taskforge_server.engine.store") / "migrations"

_log = logging.getLogger(__name__)


class _Routine(logging.LoggerAdapter[logging.Logger]):
    """The library warns of every step forward; for us that is no warning."""

    def warning(self, msg: object, *args: object, **options: Any) -> None:
        self.info(msg, *args, **options)


async def migrate(url: str) -> list[str]:
    """Apply what is missing and make the partitions of the next days; returns what was applied."""
    connection = await connect(
        url, application_name="taskforge migrate", statement_timeout_s=limits.MIGRATION_S
    )
    try:
        await connection.execute(sql("migration_lock"), timeout=limits.MIGRATION_LOCK_TIMEOUT_S)
        patience_ms = round(limits.MIGRATION_TABLE_WAIT_S * 1000)
        await connection.execute(sql("migration_patience"), str(patience_ms))
        before = await _applied(connection)
        with as_file(_FOLDER) as folder:
            try:
                await apply(connection, folder, schema_name=SCHEMA, logger=_Routine(_log))
            except BadMigrationError as error:
                if isinstance(error.__cause__, asyncpg.LockNotAvailableError):
                    message = "a table is in use: stop the nodes, or try again when it is quiet"
                    raise Unavailable(message=message) from error
                raise
        after = await _applied(connection)
        await ensure_partitions(connection)
        await connection.execute(sql("migration_unlock"))
    finally:
        await connection.close()
    return [name for name in after if name not in before]


async def check_prepared(database: "Pool | Lent") -> None:
    """Refuse a database that lacks a migration of this version; ConfigError. One that has more was
    migrated for the next version, beside whose nodes this one may still run."""
    applied = await _applied(database)
    missing = sorted(_of_this_version().difference(applied))
    if missing:
        problem = "not prepared" if not applied else f"lacks {', '.join(missing)}"
        raise ConfigError(
            "postgres_url", "its database", f"{problem}: run `taskforge migrate` first"
        )


def _of_this_version() -> frozenset[str]:
    names = [entry.name for entry in _FOLDER.iterdir()]
    return frozenset(name.removesuffix(".sql") for name in names if name.endswith(".sql"))


async def _applied(connection: "Connection | Pool | Lent") -> list[str]:
    if await connection.fetchval(sql("migrations_known")) is None:
        return []
    return [row["migration_id"] for row in await connection.fetch(sql("migrations_applied"))]
