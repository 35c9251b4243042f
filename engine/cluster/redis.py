"""The cluster over Redis or Valkey.

    taskforge:node:<node>     the node is here           SET PX PRESENCE_TTL_S, at each renewal
    taskforge:shard:<n>       the node that owns it      SET NX PX, then extended if still ours
    taskforge:topic:<topic>   messages                   PUBLISH / SUBSCRIBE

Two tasks, each with a connection of its own and each restarted for ever with bounded pauses:

    talker     renews presence and hints every PRESENCE_TTL_S / 3, and sends what was published
    listener   subscribes, tells `on_gap`, then hands messages on; pings a silent connection

Invariant: no caller waits for either of them. What cannot be sent is dropped, the oldest first.
Every command has a deadline; a connection whose command failed or timed out is not used again.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from taskforge_server.engine import limits
from taskforge_server.engine.cluster.outage import Outage
from taskforge_server.engine.cluster.port import Handler
from taskforge_server.engine.cluster.scripts import script

log = logging.getLogger(__name__)

PREFIX = "taskforge:"
FAILURES = (RedisError, OSError, TimeoutError)


class RedisCluster:
    """One node's part, over one server."""

    def __init__(self, url: str, node_id: str, ttl_s: float = limits.PRESENCE_TTL_S) -> None:
        self._node_id = node_id
        self._ttl_s = ttl_s
        self._talker = client(url)
        self._listener = client(url)
        self._asker = client(url)
        self._shards: frozenset[int] = frozenset()
        self._hinted: frozenset[int] = frozenset()
        self._outbox: deque[tuple[str, bytes]] = deque(maxlen=limits.CLUSTER_OUTBOX_MAX)
        self._wake = asyncio.Event()
        self._handlers: dict[str, list[Handler]] = {}
        self._on_gap: list[Callable[[], None]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._answered_s = 0.0
        self._stopping = False
        self._silence = Outage(
            log, "the cluster's server does not answer", "the cluster's server answers again"
        )
        self._deafness = Outage(log, "messages may be lost", "messages come again")
        self.dropped = 0
        """Messages that were not sent since the start."""

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(self._talk(), name="cluster talker")]
        if self._handlers:
            self._tasks.append(asyncio.create_task(self._listen(), name="cluster listener"))

    async def stop(self) -> None:
        # The client swallows a cancellation that meets a broken connection: so loops see a flag.
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        keys = [_node_key(self._node_id)]
        try:
            async with asyncio.timeout(limits.CLUSTER_COMMAND_S):
                await self._release(self._shards)
                await self._asker.delete(*keys)
        except FAILURES as error:
            log.info("left without saying goodbye: %s", error)
        for client in (self._talker, self._listener, self._asker):
            with contextlib.suppress(*FAILURES):
                await client.aclose()

    def alive(self) -> bool:
        # Renewals come every third of the time to live.
        return time.monotonic() - self._answered_s < self._ttl_s * 2 / 3

    async def is_alive(self, node_id: str) -> bool:
        try:
            async with asyncio.timeout(limits.CLUSTER_COMMAND_S):
                return bool(await self._asker.exists(_node_key(node_id)))
        except FAILURES as error:
            log.warning("cannot ask who is alive: %s", error)
            return True

    async def nodes(self) -> frozenset[str]:
        found = {self._node_id}
        try:
            async with asyncio.timeout(limits.CLUSTER_COMMAND_S):
                async for key in self._asker.scan_iter(_node_key("*"), count=1000):
                    found.add(_text(key).removeprefix(_node_key("")))
        except FAILURES as error:
            log.warning("cannot ask who is alive: %s", error)
            return frozenset({self._node_id})
        return frozenset(found)

    def hint(self, shards: Iterable[int]) -> None:
        self._shards = frozenset(shards)
        self._wake.set()

    async def hinted(self, shards: Iterable[int]) -> dict[int, str]:
        wanted = list(shards)
        if not wanted:
            return {}
        try:
            async with asyncio.timeout(limits.CLUSTER_COMMAND_S):
                owners = await self._asker.mget([_shard_key(shard) for shard in wanted])
        except FAILURES as error:
            log.warning("cannot ask who owns what: %s", error)
            return {}
        return {
            shard: _text(owner)
            for shard, owner in zip(wanted, owners, strict=True)
            if owner is not None
        }

    def publish(self, topic: str, message: bytes) -> None:
        if len(self._outbox) == self._outbox.maxlen:
            self.dropped += 1
        self._outbox.append((topic, message))
        self._wake.set()

    def subscribe(self, topic: str, handler: Handler, on_gap: Callable[[], None]) -> None:
        self._handlers.setdefault(topic, []).append(handler)
        self._on_gap.append(on_gap)

    # talking

    async def _talk(self) -> None:
        renew_at_s = 0.0
        while not self._stopping:
            try:
                async with asyncio.timeout(limits.CLUSTER_COMMAND_S):
                    if time.monotonic() >= renew_at_s or self._shards != self._hinted:
                        started_s = time.monotonic()
                        await self._renew()
                        self._answered_s = time.monotonic()
                        renew_at_s = started_s + self._ttl_s / 3
                    await self._send()
                self._silence.over()
            except FAILURES as error:
                self._silence.failed(error)
                await self._talker.connection_pool.disconnect()
                await asyncio.sleep(limits.CLUSTER_PAUSE_S)
                renew_at_s = 0.0
                continue
            try:
                async with asyncio.timeout(max(0.0, renew_at_s - time.monotonic())):
                    await self._wake.wait()
            except TimeoutError:
                pass  # time to renew
            self._wake.clear()

    async def _renew(self) -> None:
        """Presence and hints, in one round trip."""
        ttl_ms = round(self._ttl_s * 1000)
        shards = self._shards
        await self._release(self._hinted - shards)
        keys = [_node_key(self._node_id), *(_shard_key(shard) for shard in sorted(shards))]
        await self._talker.eval(script("renew"), len(keys), *keys, self._node_id, ttl_ms)
        self._hinted = shards

    async def _release(self, shards: Iterable[int]) -> None:
        keys = [_shard_key(shard) for shard in sorted(shards)]
        if keys:
            await self._talker.eval(script("release"), len(keys), *keys, self._node_id)

    async def _send(self) -> None:
        while self._outbox:
            topic, message = self._outbox[0]
            await self._talker.publish(_topic(topic), message)
            # It may have been pushed out meanwhile by newer ones.
            if self._outbox and self._outbox[0] == (topic, message):
                self._outbox.popleft()

    # listening

    async def _listen(self) -> None:
        while not self._stopping:
            try:
                await self._listen_once()
            except FAILURES as error:
                self._deafness.failed(error)
            await asyncio.sleep(limits.CLUSTER_PAUSE_S)

    async def _listen_once(self) -> None:
        """Subscribe and hand on, until the connection breaks or stays silent."""
        async with self._listener.pubsub() as channel:
            async with asyncio.timeout(limits.CLUSTER_COMMAND_S):
                await channel.subscribe(*(_topic(topic) for topic in self._handlers))
            confirmed = 0
            probed = False
            while True:
                message = await channel.get_message(timeout=limits.CLUSTER_SILENCE_S)
                if message is None:
                    if probed:
                        raise TimeoutError("no answer to a ping")
                    async with asyncio.timeout(limits.CLUSTER_COMMAND_S):
                        await channel.ping()
                    probed = True
                    continue
                probed = False
                if message["type"] == "subscribe":
                    confirmed += 1
                    if confirmed == len(self._handlers):
                        self._deafness.over()
                        self._tell_gap()
                elif message["type"] == "message":
                    topic = _text(message["channel"]).removeprefix(_topic(""))
                    for handler in self._handlers[topic]:
                        handler(message["data"])

    def _tell_gap(self) -> None:
        for on_gap in self._on_gap:
            on_gap()


async def tell(url: str, topic: str, message: bytes) -> bool:
    """Tell all nodes, from outside of them; whether there was somebody to tell it by."""
    talker = client(url)
    try:
        async with asyncio.timeout(limits.CLUSTER_COMMAND_S):
            await talker.publish(_topic(topic), message)
            return True
    except FAILURES:
        return False
    finally:
        with contextlib.suppress(*FAILURES):
            await talker.aclose()


def client(url: str) -> Redis:
    """A client whose every command has a deadline and is tried once."""
    return Redis.from_url(
        url,
        socket_timeout=limits.CLUSTER_COMMAND_S,
        socket_connect_timeout=limits.CLUSTER_COMMAND_S,
        retry=Retry(NoBackoff(), 0),
        max_connections=4,
    )


def _text(answer: bytes | str) -> str:
    return answer if isinstance(answer, str) else answer.decode()


def _node_key(node_id: str) -> str:
    return f"{PREFIX}node:{node_id}"


def _shard_key(shard: int) -> str:
    return f"{PREFIX}shard:{shard}"


def _topic(topic: str) -> str:
    return f"{PREFIX}topic:{topic}"
