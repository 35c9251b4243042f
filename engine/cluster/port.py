"""The port to what nodes tell each other. Hints, all of it: the log decides who owns a shard.

    presence   a node is seen while it renews its entry; the entry ends PRESENCE_TTL_S later
    hints      which node says that it owns a shard; renewed with the presence
    messages   published to every node that listens at this moment; may be lost, rarely doubled

Nothing here is waited for on the path of a job: `publish`, `hint` and `alive` do no I/O. Losing the
server behind it costs latency: messages are lost, and after each gap the listeners are told to read
again what they would have been told (`on_gap`).
"""

from collections.abc import Callable, Iterable
from typing import Final, Protocol

QUEUE_CHANGED: Final = "queue_changed"
"""A queue was created or changed; the message is its id."""

SUBSCRIPTION_CHANGED: Final = "subscription_changed"
"""What an organisation may use has changed; the message is the organisation's id."""

TOKENS_REVOKED: Final = "tokens_revoked"
"""Access tokens were taken back; the message is 16 bytes of a session or user, 4 of a version."""

API_KEY_CHANGED: Final = "api_key_changed"
"""An API key was changed, revoked or deleted; the message is its id."""

ROSTER_CHANGED: Final = "roster_changed"
"""A worker was drained or not, or a queue's assignments changed; `w` or `q` and the row's id."""

SCHEDULE_CHANGED: Final = "schedule_changed"
"""A schedule was created, changed or deleted; the message is its id."""

JOB_LOGGED: Final = "job_logged"
"""Jobs have new lines in the table; the message is 8 bytes of the sender and the jobs' ids."""

PROJECT_KEY_CHANGED: Final = "project_key_changed"
"""A project was encrypted or no longer is, or has a new key; the message is the project's id."""

Handler = Callable[[bytes], None]
"""Given a message; must not block and must not raise."""


class Cluster(Protocol):
    """One node's part in what nodes tell each other."""

    async def start(self) -> None:
        """Begin to be seen and to listen; returns in bounded time, with or without a server."""
        ...

    async def stop(self) -> None:
        """Vanish: presence and hints of this node are taken back, if there is a server."""
        ...

    def alive(self) -> bool:
        """The server answers."""
        ...

    async def is_alive(self, node_id: str) -> bool:
        """Whether this node was seen lately; True when that cannot be known."""
        ...

    async def nodes(self) -> frozenset[str]:
        """The nodes that were seen lately; only this one when that cannot be known."""
        ...

    def hint(self, shards: Iterable[int]) -> None:
        """These are the shards that this node owns now."""
        ...

    async def hinted(self, shards: Iterable[int]) -> dict[int, str]:
        """Which node says that it owns each shard; empty when that cannot be known."""
        ...

    def publish(self, topic: str, message: bytes) -> None:
        """Tell all nodes, this one too, soon and perhaps."""
        ...

    def subscribe(self, topic: str, handler: Handler, on_gap: Callable[[], None]) -> None:
        """Call the handler for each message; `on_gap` after messages may have been lost.

        Before `start`. `on_gap` is called once the first listening begins, too.
        """
        ...
