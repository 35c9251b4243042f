"""What actors need of others, and what they are for those who send to them.

WorkerInlet   given to a connection: where its frames go
Outlet        given by a connection: where frames for its worker go
Journal       makes what gathered in a shard durable, soon
Queues        what is known of a queue by its id
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.engine.shard.shard import Shard


@dataclass(frozen=True, slots=True)
class Hello:
    """The first frame of a worker, decoded: who it is, what it takes, what it runs."""

    worker_id: bytes
    name: str
    worker_type: str
    queues: tuple[str, ...]
    types: frozenset[str]
    credit: int
    running: bytes
    """Tokens of what the worker runs, and of completions that no ack came for."""
    sdk: str
    instance: bytes = b""
    """Of the process: another one under the same id has not inherited what the first one ran."""
    features: frozenset[str] = frozenset()
    """What it knows beyond the first protocol: it is sent nothing else of that."""


class Outlet(Protocol):
    """A worker's connection, outwards."""

    def send(self, frame: bytes) -> None:
        """Never blocks; what may wait here is bounded by the worker's credit."""
        ...

    def close(self, code: int, reason: str) -> None:
        """End the connection after what was sent."""
        ...


class WorkerInlet(Protocol):
    """A worker's session, inwards."""

    async def receive(self, frames: Sequence[bytes]) -> None:
        """Frames as they came; waits while the session has enough to do."""
        ...

    def detach(self) -> None:
        """The connection is gone; leases live on until their time is over."""
        ...


class Journal(Protocol):
    """Where a shard announces that events wait in it."""

    @property
    def crowded(self) -> bool:
        """Tenants share the log: whoever has much to say does so in portions."""
        ...

    def dirty(self, shard: Shard) -> None:
        """Take the shard's batch soon; several calls are as good as one."""
        ...

    def together(self, shards: Iterable[Shard]) -> None:
        """What has gathered in these shards becomes durable in all of them or in none."""
        ...


class Queues(Protocol):
    """The queues that this node knows."""

    def find(self, queue_id: bytes) -> QueueRef | None: ...
