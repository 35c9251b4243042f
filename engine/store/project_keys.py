"""Data keys of projects, wrapped, and the switch that says whether a project is encrypted.

    not encrypted ──switch──► encrypted, key 1 ──add──► key 2 seals, key 1 opens ──► …
          ▲                        │
          └────────switch──────────┘   keys stay: what was sealed can still be read

Keys come and go wrapped: what wraps them is the caller's. Every change is in the audit log by the
transaction that makes it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Conflict, NotFound
from taskforge_server.engine.model.audit import Actor
from taskforge_server.engine.store.audit import record
from taskforge_server.engine.store.pool import Lent, Pool, acquire
from taskforge_server.engine.store.statements import sql
from taskforge_server.engine.vault.masters import WrappedKey
from taskforge_server.ext.ids import uuid_text

NewKey = Callable[[bytes, int], WrappedKey]
"""Makes the key of a project with this number."""


@dataclass(frozen=True, slots=True)
class StoredRing:
    """All keys of a project; none at all means that somebody took them away."""

    project_id: bytes
    encrypted: bool
    keys: tuple[WrappedKey, ...]


@dataclass(frozen=True, slots=True)
class DataKeyInfo:
    """What people may know of a key."""

    number: int
    master_id: str
    created_at: datetime
    wrapped_at: datetime


@dataclass(frozen=True, slots=True)
class Encryption:
    """How a project is kept; the newest key first."""

    encrypted: bool
    keys: tuple[DataKeyInfo, ...]


class ProjectKeys:
    """The repository of `project_keys` and of `projects.encrypted`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def version(self) -> int:
        """Another one after every change."""
        async with acquire(self._pool) as connection:
            found: int = await connection.fetchval(sql("encryption_version"))
        return found

    async def all(self) -> list[StoredRing]:
        """Every project that is or was encrypted."""
        async with acquire(self._pool) as connection:
            rows = await connection.fetch(sql("data_key_all"))
        rings: dict[bytes, tuple[bool, list[WrappedKey]]] = {}
        for row in rows:
            _, keys = rings.setdefault(row["project_id"], (row["encrypted"], []))
            if row["id"] is not None:
                keys.append(_wrapped(row))
        return [
            StoredRing(project_id, encrypted, tuple(keys))
            for project_id, (encrypted, keys) in rings.items()
        ]

    async def organization_of(self, project_id: bytes) -> bytes:
        """For the operator; NotFound."""
        async with acquire(self._pool) as connection:
            found: bytes | None = await connection.fetchval(
                sql("encryption_organization"), project_id
            )
        if found is None:
            raise _not_found()
        return found

    async def get(self, organization_id: bytes, project_id: bytes) -> Encryption:
        """NotFound."""
        async with acquire(self._pool) as connection:
            return await _read(connection, organization_id, project_id)

    async def switch(
        self,
        organization_id: bytes,
        project_id: bytes,
        encrypted: bool,
        make: NewKey,
        actor: Actor,
    ) -> Encryption:
        """On, with a first key where there is none, or off; NotFound."""
        async with acquire(self._pool) as connection, connection.transaction():
            old = await _locked(connection, organization_id, project_id)
            if old.encrypted == encrypted and (old.keys or not encrypted):
                return old
            if encrypted and not old.keys:
                await _create(connection, make(project_id, 1))
            await connection.execute(sql("encryption_set"), project_id, encrypted)
            verb = "enable" if encrypted else "disable"
            return await _recorded(
                connection, organization_id, project_id, actor, f"encryption.{verb}", old
            )

    async def add(
        self, organization_id: bytes, project_id: bytes, make: NewKey, actor: Actor
    ) -> Encryption:
        """A new key, which seals from now on; NotFound, Conflict."""
        async with acquire(self._pool) as connection, connection.transaction():
            old = await _locked(connection, organization_id, project_id)
            if not old.keys:
                raise Conflict("the project has never been encrypted", code="not_encrypted")
            if len(old.keys) >= limits.PROJECT_KEYS_MAX:
                most = limits.PROJECT_KEYS_MAX
                raise Conflict(f"a project has at most {most} keys", code="too_many_keys")
            await _create(connection, make(project_id, old.keys[0].number + 1))
            return await _recorded(
                connection, organization_id, project_id, actor, "data_key.create", old
            )

    async def rewrap(self, rewrap: Callable[[WrappedKey], WrappedKey | None], actor: Actor) -> int:
        """Wrap every key anew that `rewrap` gives an answer for; how many. One transaction a
        project: what is done stays done, and a second run does the rest."""
        count = 0
        for ring in await self.all():
            changed = [(key, anew) for key in ring.keys if (anew := rewrap(key)) is not None]
            if not changed:
                continue
            async with acquire(self._pool) as connection, connection.transaction():
                organization_id = await connection.fetchval(
                    sql("encryption_organization"), ring.project_id
                )
                if organization_id is None:
                    continue  # deleted meanwhile
                old = await _locked(connection, organization_id, ring.project_id)
                for key, anew in changed:
                    await connection.execute(
                        sql("data_key_rewrap"), key.id, anew.master_id, anew.wrapped, key.master_id
                    )
                count += len(changed)
                await _recorded(
                    connection, organization_id, ring.project_id, actor, "data_key.rewrap", old
                )
        return count

    async def masters(self) -> list[tuple[str, int, int]]:
        """Each master key that wraps something: its id, how many keys, of how many projects."""
        async with acquire(self._pool) as connection:
            rows = await connection.fetch(sql("encryption_masters"))
        return [(row["master_id"], row["keys"], row["projects"]) for row in rows]


async def _locked(connection: Lent, organization_id: bytes, project_id: bytes) -> Encryption:
    """The same, held to the end of the transaction."""
    return await _read(connection, organization_id, project_id, "encryption_get_locked")


async def _read(
    connection: Lent, organization_id: bytes, project_id: bytes, statement: str = "encryption_get"
) -> Encryption:
    encrypted = await connection.fetchval(sql(statement), organization_id, project_id)
    if encrypted is None:
        raise _not_found()
    rows = await connection.fetch(sql("data_key_list"), project_id)
    return Encryption(encrypted, tuple(DataKeyInfo(**row) for row in rows))


async def _create(connection: Lent, key: WrappedKey) -> None:
    await connection.execute(
        sql("data_key_create"), key.id, key.project_id, key.number, key.master_id, key.wrapped
    )


async def _recorded(
    connection: Lent,
    organization_id: bytes,
    project_id: bytes,
    actor: Actor,
    action: str,
    old: Encryption,
) -> Encryption:
    new = await _locked(connection, organization_id, project_id)
    target = f"project:{uuid_text(project_id)}"
    await record(connection, organization_id, actor, action, target, _shown(old), _shown(new))
    return new


def _shown(state: Encryption) -> dict[str, Any]:
    keys = {str(key.number): key.master_id for key in state.keys}
    return {"encrypted": state.encrypted, "data_keys": keys}


def _wrapped(row: Any) -> WrappedKey:
    return WrappedKey(row["id"], row["project_id"], row["number"], row["master_id"], row["wrapped"])


def _not_found() -> NotFound:
    return NotFound("no such project", "project_id", code="project_not_found")
