"""What access tokens are signed with: the rows of `signing_keys`, whose secrets are sealed.

    none ──ensure──► signs ──a newer one is made──► verifies ──tokens are over──► deleted

A secret is sealed under the installation's master key. Without a master key it stands there as
`plain:<base64>`, which whoever reads the database can use; the node says so at its start.
"""

import base64
import logging
import secrets
from collections import Counter
from dataclasses import dataclass
from typing import Final, Protocol

from taskforge_server.engine import limits
from taskforge_server.engine.store.pool import Lent, Pool, acquire
from taskforge_server.engine.store.statements import sql
from taskforge_server.engine.vault.masters import master_of_secret

log = logging.getLogger(__name__)

SECRET_BYTES: Final = 32
_PLAIN: Final = "plain:"


class Sealer(Protocol):
    """The master keys of the installation."""

    current: str | None
    """The one that seals; None when there is none."""

    def seal_secret(self, name: str, secret: bytes) -> str: ...

    def reseal_secret(self, name: str, text: str) -> str | None: ...

    def open_secret(self, name: str, text: str) -> bytes: ...


@dataclass(frozen=True, slots=True, repr=False)
class SigningKey:
    """A secret and the name that tokens give it (`kid`)."""

    id: str
    secret: bytes


class SigningKeys:
    """The repository of `signing_keys`."""

    def __init__(self, pool: Pool, sealer: Sealer | None = None) -> None:
        self._pool = pool
        self._sealer = sealer

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
        sealer, count = self._sealer, 0
        if sealer is None or sealer.current is None:
            return 0
        async with acquire(self._pool) as connection, connection.transaction():
            await connection.execute(sql("signing_key_lock"))
            for row in await connection.fetch(sql("signing_key_all")):
                key = self._opened(row["id"], row["secret"])
                if key is None:
                    continue
                name = _name(key.id)
                if row["secret"].startswith(_PLAIN):
                    text: str | None = sealer.seal_secret(name, key.secret)
                else:
                    text = sealer.reseal_secret(name, row["secret"])
                if text is not None:
                    await connection.execute(sql("signing_key_reseal"), key.id, text)
                    count += 1
        return count

    async def masters(self) -> dict[str, int]:
        """How many keys each master key seals; those that none does are under the empty name."""
        async with acquire(self._pool) as connection:
            rows = await connection.fetch(sql("signing_key_all"))
        return Counter(master_of_secret(row["secret"]) for row in rows)

    async def _create(self, connection: Lent) -> None:
        key_id = secrets.token_hex(8)
        text = self._sealed(key_id, secrets.token_bytes(SECRET_BYTES))
        await connection.execute(sql("signing_key_create"), key_id, text)

    def _sealed(self, key_id: str, secret: bytes) -> str:
        if self._sealer is not None and self._sealer.current is not None:
            return self._sealer.seal_secret(_name(key_id), secret)
        log.warning("no master key is configured: a signing key is stored as it is")
        return _PLAIN + base64.b64encode(secret).decode()

    def _opened(self, key_id: str, text: str) -> SigningKey | None:
        try:
            if text.startswith(_PLAIN):
                return SigningKey(key_id, base64.b64decode(text[len(_PLAIN) :], validate=True))
            if self._sealer is None:
                raise ValueError("no master key is configured")
            return SigningKey(key_id, self._sealer.open_secret(_name(key_id), text))
        except Exception as error:  # noqa: BLE001 - the sealer's errors are not ours to know
            # Whatever keeps one key from being opened must not keep the others from their work.
            log.error("signing key %s cannot be opened: %r", key_id, error)
        return None


def _name(key_id: str) -> str:
    return f"signing_key/{key_id}"
