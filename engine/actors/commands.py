"""What the actor of a queue is told: new jobs, and what shall become of those that are there.

Each is answered by its `reply`, once what was decided is durable. Cancel, CancelMany and Change
stand in `control`, SubmitUnique in `uniques`, beside what they do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taskforge_server.engine.actors.control import Cancel, CancelMany, Change
from taskforge_server.engine.actors.graphs import Graph
from taskforge_server.engine.actors.uniques import SubmitUnique
from taskforge_server.engine.model.graph import Edge
from taskforge_server.engine.shard.effects import Promise
from taskforge_server.engine.shard.keys import KeyedRequest
from taskforge_server.ext.table import SubmitBatch

if TYPE_CHECKING:
    from taskforge_server.engine.actors.queue import QueueActor


@dataclass(slots=True)
class Submit:
    """New jobs; answered with their ids, 16 bytes each."""

    batch: SubmitBatch
    key: KeyedRequest | None
    reply: Promise[bytes]
    repeated: bool = False
    """The key came before: the ids are those of the first time."""


@dataclass(slots=True)
class Requeue:
    """A finished job shall run again; answered with the job."""

    job: dict[str, Any]
    reply: Promise[dict[str, Any]]
    key: KeyedRequest | None = None
    repeated: bool = False
    """The key came before: nothing was done now."""
    departures: int = 0
    """Those of the table, when it was looked whether the job is in memory."""


@dataclass(slots=True)
class SubmitGraph:
    """New jobs of several queues that wait for each other; answered with their ids, in order."""

    graph: Graph
    parts: Mapping[bytes, "QueueActor"]
    """The actors of its queues, by queue id."""
    key: KeyedRequest | None
    reply: Promise[bytes]
    repeated: bool = False
    """The key came before: the ids are those of the first time."""


@dataclass(slots=True)
class AddParents:
    """A job that waits shall wait for these too; answered with the job."""

    job_id: bytes
    edges: Sequence[Edge]
    reply: Promise[dict[str, Any]]
    departures: int = 0
    """Those of the table, when the job was seen in memory."""


@dataclass(slots=True)
class SubmitTicks:
    """The jobs of ticks of schedules, none of which was submitted before; answered with their ids.

    Each has a key of its own, so that whoever takes the shard over knows which ticks had theirs."""

    batch: SubmitBatch
    keys: list[KeyedRequest]
    reply: Promise[bytes]


@dataclass(slots=True)
class RequeueMany:
    """Failed jobs of the queue shall run again; answered with the ids of those that do, and `tail`.

    The first is due at `first_us`, each further one `interval_us` later; 0: all at once. Those that
    are no longer failed are passed over. All that happens is in one row of the log."""

    jobs: list[dict[str, Any]]
    first_us: int
    interval_us: int
    tail: bytes
    """Remembered with the key, so that a repetition is answered alike: a row of ids in its form."""
    reply: Promise[bytes]
    key: KeyedRequest | None = None
    repeated: bool = False
    """The key came before: nothing was done now."""
    departures: int = 0
    """Those of the table, when it was looked whether the jobs are in memory."""


Command = (
    Submit
    | SubmitUnique
    | SubmitGraph
    | SubmitTicks
    | Cancel
    | CancelMany
    | Change
    | Requeue
    | RequeueMany
    | AddParents
)
