"""The keys of encrypted projects on this node: read, unwrapped, put into the vault.

    start ──► read, check ──► vault          a master key that is missing stops the start
    changed here ──► read ──► other nodes: news ──► read
    every PROJECT_KEYS_READ_S ──► read        news may be lost, commands send none
    after the fence of a takeover ──► read    what the earlier owner sealed must open here

Reads follow one after the other, so that no older answer takes the place of a newer one. A read
that fails changes nothing.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from taskforge_server.engine import limits
from taskforge_server.engine.cluster.port import PROJECT_KEY_CHANGED, Cluster
from taskforge_server.engine.errors import ConfigError, TaskForgeError
from taskforge_server.engine.store.project_keys import StoredRing
from taskforge_server.engine.vault.masters import MasterKeys, UnknownMasterError, WrappedKey
from taskforge_server.engine.vault.sealing import DataKey, UnreadableError
from taskforge_server.engine.vault.vault import Ring, Vault

log = logging.getLogger(__name__)


class KeyRows(Protocol):
    """Where the wrapped keys are."""

    async def version(self) -> int: ...

    async def all(self) -> Sequence[StoredRing]: ...


class ProjectKeyring:
    """Keeps a vault up to date."""

    def __init__(
        self,
        rows: KeyRows,
        masters: MasterKeys,
        vault: Vault,
        cluster: Cluster,
        whole: Callable[[], None] = lambda: None,
    ) -> None:
        """`whole` is told when jobs that waited for the keys of their project may go on."""
        self._rows = rows
        self._masters = masters
        self._vault = vault
        self._cluster = cluster
        self._whole = whole
        self._reading = asyncio.Lock()
        self._wake = asyncio.Event()
        self._refreshed_s = -limits.PROJECT_KEYS_PAUSE_S
        self._version = 0
        """That of the rows that the vault has."""
        self._unwrapped: dict[WrappedKey, DataKey] = {}
        self._complained: set[bytes] = set()
        cluster.subscribe(PROJECT_KEY_CHANGED, lambda message: self._wake.set(), self._wake.set)

    async def start(self) -> None:
        """Read for the first time; ConfigError when the master keys are not those of the rows."""
        rings = await self._rows.all()
        self._check([key for ring in rings for key in ring.keys])
        await self.read()

    def _check(self, keys: Sequence[WrappedKey]) -> None:
        """Refuse to run without a master key that wraps something, or with others in their places.
        Keys that do not open beside some that do are damaged, and stop their projects alone."""
        missing = {key.master_id for key in keys} - {*self._masters}
        if missing:
            raise _refusal(sorted(missing), "not given")
        if keys and not any(self._unwrap(key) for key in keys):
            raise _refusal(sorted({key.master_id for key in keys}), "not what wrapped them")

    async def read(self) -> None:
        """Bring the vault up to date with the rows; Unavailable."""
        async with self._reading:
            version = await self._rows.version()
            if version == self._version:
                return
            found = await self._rows.all()
            rings = [self._ring(stored) for stored in found]
            rows = {key for stored in found for key in stored.keys}
            self._unwrapped = {row: key for row, key in self._unwrapped.items() if row in rows}
            waited = [
                ring.project_id
                for ring in rings
                if (older := self._vault.ring(ring.project_id)) is not None and not older.whole
            ]
            for project_id in self._vault.replace(rings):
                self._complain(project_id, "keys of project %s are no longer in the table")
            self._version = version
            if any((ring := self._vault.ring(one)) and ring.whole for one in waited):
                self._whole()

    async def refresh(self) -> None:
        """The same for somebody who has met a key that is not known; not too often, never fails."""
        now_s = asyncio.get_running_loop().time()
        if now_s < self._refreshed_s + limits.PROJECT_KEYS_PAUSE_S:
            return
        self._refreshed_s = now_s
        try:
            await self.read()
        except TaskForgeError as error:
            log.warning("keys of projects not read: %s", error)

    async def changed(self, project_id: bytes) -> None:
        """This node has changed the keys of a project: know it here, and tell the others."""
        await self.read()
        self._cluster.publish(PROJECT_KEY_CHANGED, project_id)

    async def run(self) -> None:
        """Read when there is news, and now and then."""
        while True:
            try:
                async with asyncio.timeout(limits.PROJECT_KEYS_READ_S):
                    await self._wake.wait()
            except TimeoutError:
                pass  # a message may have been lost
            self._wake.clear()
            try:
                await self.read()
            except TaskForgeError as error:
                log.warning("keys of projects not read: %s", error)

    def _ring(self, stored: StoredRing) -> Ring:
        ring = Ring(stored.project_id, stored.encrypted)
        for wrapped in stored.keys:
            key = self._unwrap(wrapped)
            if key is None:
                ring.numbers.add(wrapped.number)
                self._complain(wrapped.id, "data key %s cannot be unwrapped: its project stands")
            else:
                ring.add(key)
        return ring

    def _unwrap(self, wrapped: WrappedKey) -> DataKey | None:
        key = self._unwrapped.get(wrapped)
        if key is None:
            try:
                key = self._unwrapped[wrapped] = self._masters.unwrap(wrapped)
            except (UnknownMasterError, UnreadableError):
                return None
        return key

    def _complain(self, id: bytes, text: str) -> None:
        """Once for each, not every two seconds."""
        if id not in self._complained:
            self._complained.add(id)
            log.error(text, id.hex())


def _refusal(master_ids: Sequence[str], problem: str) -> ConfigError:
    return ConfigError(
        "master_keys",
        "configuration",
        f"encrypted projects have keys under {', '.join(map(repr, master_ids))}, which is "
        f"{problem}: without it their jobs cannot be read",
    )
