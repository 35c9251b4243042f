"""What access tokens are signed with: the rows of `signing_keys`, whose secrets are sealed.

    none ──ensure──► signs ──a newer one is made──► verifies ──tokens are over──► deleted

A secret stands there sealed under the installation's master key, so that whoever can read or write
the database can sign nothing. What an earlier version stored as `plain:<base64>` is good for
nothing, until the start of a node has sealed it.
"""

import base64
import logging
import secrets
from collections import Counter
from dataclasses import dataclass
from typing import Final

from taskforge_server.engine import limits
from taskforge_server.engine.errors import ConfigError
from taskforge_server.engine.store.pool import Lent, Pool, acquire
from taskforge_server.engine.store.statements import sql
from taskforge_server.engine.vault.masters import (
    MasterKeys,
    UnknownMasterError,
    master_of_secret,
)
from taskforge_server.engine.vault.sealing import UnreadableError

log = logging.getLogger(__name__)

SECRET_BYTES: Final = 32
_PLAIN: Final = "plain:"


@dataclass(frozen=True, slots=True, repr=False)
class SigningKey:
    """A secret and the name that tokens give it (`kid`)."""

    id: str
    secret: bytes


class SigningKeys:
    """The repository of `signing_keys`."""

    def __init__(self, pool: Pool, masters: MasterKeys) -> None:
        self._pool = pool
        self._masters = masters

    async def start(self) -> None:
        """Seal what is plain, and let a new key sign instead: backups may have the plain one.
        ConfigError when there are keys and the master keys open none of them."""
        async with acquire(self._pool) as connection, connection.transaction():
            await connection.execute(sql("signing_key_lock"))
            rows = await connection.fetch(sql("signing_key_all"))
            plain = [row for row in rows if row["secret"].startswith(_PLAIN)]
            for row in plain:
                secret = base64.b64decode(row["secret"].removeprefix(_PLAIN))
                text = self._masters.seal_secret(_name(row["id"]), secret)
                await connection.execute(sql("signing_key_reseal"), row["id"], text)
            if plain:
                log.warning("%d signing keys were not encrypted: now they are", len(plain))
                await self._create(connection)
            elif rows and not any(self._opened(row["id"], row["secret"]) for row in rows):
                raise _refusal(sorted({master_of_secret(row["secret"]) for row in rows}))

    async def all(self) -> list[SigningKey]:
        """The newest first; those that cannot be opened are left out, and said to be."""
        async with acquire(self._pool) as connection:
            rows = await connection.fetch(sql("signing_key_all"))
        found = [self._opened(row["id"], row["secret"]) for row in rows]
        return [key for key in found if key is not None]

    async def ensure(self, life_s: float = limits.SIGNING_KEY_LIFE_S) -> bool:
        """Make a key unless there is one that is younger than this; whether it was made. Old ones
        go once all of their tokens have expired."""
        async with acquire(self._pool) as connection, connection.transaction():
            await connection.execute(sql("signing_key_lock"))
            age_s = await connection.fetchval(sql("signing_key_age"))
            made = age_s is None or age_s >= life_s
            if made:
                await self._create(connection)
            await connection.execute(sql("signing_key_expire"), limits.REVOCATIONS_KEPT_S)
        return made

    async def replace(self) -> None:
        """A new key at once, and none of the others: every access token is void."""
        async with acquire(self._pool) as connection, connection.transaction():
            await connection.execute(sql("signing_key_lock"))
            await connection.execute(sql("signing_key_delete"))
            await self._create(connection)

    async def reseal(self) -> int:
        """Seal under the current master key what is not; how many. What does not open stays."""
        count = 0
        async with acquire(self._pool) as connection, connection.transaction():
            await connection.execute(sql("signing_key_lock"))
            for row in await connection.fetch(sql("signing_key_all")):
                if self._opened(row["id"], row["secret"]) is None:
                    continue
                text = self._masters.reseal_secret(_name(row["id"]), row["secret"])
                if text is not None:
                    await connection.execute(sql("signing_key_reseal"), row["id"], text)
                    count += 1
        return count

    async def masters(self) -> dict[str, int]:
        """How many keys each master key seals; plain ones are under the empty name."""
        async with acquire(self._pool) as connection:
            rows = await connection.fetch(sql("signing_key_all"))
        return Counter(master_of_secret(row["secret"]) for row in rows)

    async def _create(self, connection: Lent) -> None:
        key_id = secrets.token_hex(8)
        text = self._masters.seal_secret(_name(key_id), secrets.token_bytes(SECRET_BYTES))
        await connection.execute(sql("signing_key_create"), key_id, text)

    def _opened(self, key_id: str, text: str) -> SigningKey | None:
        try:
            return SigningKey(key_id, self._masters.open_secret(_name(key_id), text))
        except (UnknownMasterError, UnreadableError) as error:
            # Whatever keeps one key from being opened must not keep the others from their work.
            log.error("signing key %s cannot be opened: %r", key_id, error)
        return None


def _name(key_id: str) -> str:
    return f"signing_key/{key_id}"


def _refusal(master_ids: list[str]) -> ConfigError:
    return ConfigError(
        "master_keys",
        "configuration",
        f"the keys that sign access tokens are sealed under {', '.join(map(repr, master_ids))}, "
        "which is not given, or not what it was. If it is lost, `taskforge identity rotate-key "
        "--revoke` makes a new one: everybody's access tokens end",
    )
