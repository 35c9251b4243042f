"""The cluster in memory: several nodes of one process around one exchange; the twin for tests."""

import asyncio
from collections.abc import Callable, Iterable

from taskforge_server.engine.cluster.port import Handler


class Exchange:
    """What the nodes share; `up` is whether it answers."""

    def __init__(self) -> None:
        self.up = True
        self.members: dict[str, MemoryCluster] = {}
        self.seen: set[str] = set()
        self.owners: dict[int, str] = {}

    def go_down(self) -> None:
        """Nobody reaches anybody, and what was said is lost."""
        self.up = False
        self.seen.clear()
        self.owners.clear()

    def come_back(self) -> None:
        """As a server that was restarted with nothing in it."""
        self.up = True
        for member in self.members.values():
            member.renew()
            member.tell_gap()


class MemoryCluster:
    """One node at an exchange."""

    def __init__(self, exchange: Exchange, node_id: str) -> None:
        self._exchange = exchange
        self._node_id = node_id
        self._shards: frozenset[int] = frozenset()
        self._handlers: dict[str, list[Handler]] = {}
        self._on_gap: list[Callable[[], None]] = []

    async def start(self) -> None:
        self._exchange.members[self._node_id] = self
        if self._exchange.up:
            self.renew()
            self.tell_gap()

    async def stop(self) -> None:
        self._exchange.members.pop(self._node_id, None)
        self._exchange.seen.discard(self._node_id)
        self.hint(())

    def alive(self) -> bool:
        return self._exchange.up

    async def is_alive(self, node_id: str) -> bool:
        return not self._exchange.up or node_id in self._exchange.seen

    async def nodes(self) -> frozenset[str]:
        return frozenset(self._exchange.seen | {self._node_id})

    def hint(self, shards: Iterable[int]) -> None:
        self._shards = frozenset(shards)
        self.renew()

    async def hinted(self, shards: Iterable[int]) -> dict[int, str]:
        owners = self._exchange.owners
        return {shard: owners[shard] for shard in shards if shard in owners}

    def publish(self, topic: str, message: bytes) -> None:
        if not self._exchange.up:
            return
        loop = asyncio.get_running_loop()
        for member in self._exchange.members.values():
            for handler in member._handlers.get(topic, ()):
                loop.call_soon(handler, message)

    def subscribe(self, topic: str, handler: Handler, on_gap: Callable[[], None]) -> None:
        self._handlers.setdefault(topic, []).append(handler)
        self._on_gap.append(on_gap)

    def renew(self) -> None:
        """Say again who is here and what it owns."""
        exchange = self._exchange
        if not exchange.up:
            return
        if self._node_id in exchange.members:
            exchange.seen.add(self._node_id)
        mine = {shard for shard, owner in exchange.owners.items() if owner == self._node_id}
        for shard in mine - self._shards:
            del exchange.owners[shard]
        for shard in self._shards - mine:
            exchange.owners.setdefault(shard, self._node_id)

    def tell_gap(self) -> None:
        """Messages may have been lost."""
        for on_gap in self._on_gap:
            on_gap()
