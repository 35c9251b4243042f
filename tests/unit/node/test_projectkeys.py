"""The keyring of a node: what it reads, hears and refuses."""

import asyncio
import os
from collections.abc import Sequence

import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.cluster.memory import Exchange, MemoryCluster
from taskforge_server.engine.errors import ConfigError, Unavailable
from taskforge_server.engine.node.projectkeys import ProjectKeyring
from taskforge_server.engine.store.project_keys import StoredRing
from taskforge_server.engine.vault.masters import MasterKeys, WrappedKey
from taskforge_server.engine.vault.vault import Vault

PROJECT, OTHER = b"p" * 16, b"o" * 16
MASTERS = MasterKeys([("2026", os.urandom(32))])


class Rows:
    """The table, which may be away, or answer when it is let."""

    def __init__(self, *rings: StoredRing) -> None:
        self.rings: Sequence[StoredRing] = rings
        self.changes = 1
        self.reads = 0
        self.away = False

    def put(self, *rings: StoredRing) -> None:
        self.rings = rings
        self.changes += 1

    async def version(self) -> int:
        if self.away:
            raise Unavailable
        return self.changes

    async def all(self) -> Sequence[StoredRing]:
        self.reads += 1
        found = self.rings
        await asyncio.sleep(0)
        return found


def stored(*keys: WrappedKey, project_id: bytes = PROJECT, encrypted: bool = True) -> StoredRing:
    return StoredRing(project_id, encrypted, keys)


def keyring(rows: Rows, masters: MasterKeys = MASTERS) -> tuple[ProjectKeyring, Vault]:
    vault = Vault()
    return ProjectKeyring(rows, masters, vault, MemoryCluster(Exchange(), "node")), vault


async def test_it_reads_the_rows_only_when_something_has_changed() -> None:
    rows = Rows()
    ring, vault = keyring(rows)
    await ring.start()
    reads = rows.reads
    for _ in range(3):
        await ring.read()
    assert rows.reads == reads
    rows.put(stored(MASTERS.new_key(PROJECT, 1)))
    await ring.read()
    assert rows.reads == reads + 1
    found = vault.ring(PROJECT)
    assert found is not None
    assert found.whole


async def test_other_nodes_hear_of_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PROJECT_KEYS_READ_S", 3_600.0)
    rows, exchange = Rows(), Exchange()
    vaults = [Vault(), Vault()]
    clusters = [MemoryCluster(exchange, name) for name in ("one", "two")]
    rings = [
        ProjectKeyring(rows, MASTERS, vault, cluster)
        for vault, cluster in zip(vaults, clusters, strict=True)
    ]
    for cluster in clusters:
        await cluster.start()
    running = asyncio.create_task(rings[1].run())
    rows.put(stored(MASTERS.new_key(PROJECT, 1)))
    await rings[0].changed(PROJECT)
    assert vaults[0].ring(PROJECT) is not None
    async with asyncio.timeout(20):  # less than the interval
        while vaults[1].ring(PROJECT) is None:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0)
    running.cancel()
    for cluster in clusters:
        await cluster.stop()


async def test_an_older_answer_never_takes_the_place_of_a_newer_one() -> None:
    key = MASTERS.new_key(PROJECT, 1)
    rows = Rows(stored(key, encrypted=False))
    ring, vault = keyring(rows)
    first = asyncio.create_task(ring.read())
    await asyncio.sleep(0)
    rows.put(stored(key))
    await asyncio.gather(ring.read(), first)
    found = vault.ring(PROJECT)
    assert found is not None
    assert found.encrypted


async def test_while_the_database_is_away_all_stays_as_it_was() -> None:
    rows = Rows(stored(MASTERS.new_key(PROJECT, 1)))
    ring, vault = keyring(rows)
    await ring.start()
    before = vault.ring(PROJECT)
    rows.away = True
    with pytest.raises(Unavailable):
        await ring.read()
    await ring.refresh()
    assert vault.ring(PROJECT) is before


async def test_a_start_without_the_right_master_key_is_refused() -> None:
    rows = Rows(stored(MASTERS.new_key(PROJECT, 1)))
    for masters, problem in (
        (MasterKeys([("2027", os.urandom(32))]), "'2026', which is not given"),
        (MasterKeys([("2026", os.urandom(32))]), "is not what wrapped them"),
    ):
        ring, vault = keyring(rows, masters)
        with pytest.raises(ConfigError, match=problem):
            await ring.start()
        assert not vault.active


async def test_damage_stops_its_project_alone_and_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    damaged = MASTERS.new_key(PROJECT, 1)._replace(wrapped=bytes(60))
    rows = Rows(stored(damaged), stored(MASTERS.new_key(OTHER, 1), project_id=OTHER))
    ring, vault = keyring(rows)
    await ring.start()
    rows.changes += 1
    await ring.read()
    states = [vault.ring(project_id) for project_id in (PROJECT, OTHER)]
    assert [state is not None and state.whole for state in states] == [False, True]
    assert caplog.text.count("cannot be unwrapped") == 1


async def test_a_project_that_lost_all_its_keys_is_not_taken_for_an_open_one() -> None:
    ring, vault = keyring(Rows(stored()))
    await ring.start()
    found = vault.ring(PROJECT)
    assert found is not None
    with pytest.raises(Unavailable):
        found.seal(b"j" * 16, "payload", b"1")


async def test_jobs_go_on_when_the_keys_are_whole_again() -> None:
    good = MASTERS.new_key(PROJECT, 1)
    rows = Rows(stored(good._replace(wrapped=bytes(60))))
    told: list[bool] = []
    ring = ProjectKeyring(
        rows,
        MASTERS,
        Vault(),
        MemoryCluster(Exchange(), "node"),
        lambda: told.append(True),
    )
    await ring.read()
    assert not told
    rows.put(stored(good))
    await ring.read()
    assert told
