"""Changes of API keys, told from node to node: a message says which key; whoever knows it by heart
forgets it, and looks it up again.

    changed here ──tell──► listeners here, at once
                    └────► other nodes ──► their listeners

Messages may be lost: after a gap, listeners forget all keys. And no listener believes anything for
longer than a second anyway, so a revoked key is out within that, with or without a message.
"""

from collections.abc import Callable

from taskforge_server.engine.cluster.port import API_KEY_CHANGED, Cluster


class KeyNews:
    """Tells and hears of keys that have changed."""

    def __init__(self, cluster: Cluster) -> None:
        self.listeners: list[Callable[[bytes | None], None]] = []
        """Told the id of a key that has changed; None: it may be any of them."""
        self._cluster = cluster
        cluster.subscribe(API_KEY_CHANGED, self._heard, lambda: self._heard(None))

    def tell(self, key_id: bytes) -> None:
        """This node has changed the key."""
        self._heard(key_id)
        self._cluster.publish(API_KEY_CHANGED, key_id)

    def _heard(self, key_id: bytes | None) -> None:
        for listener in self.listeners:
            listener(key_id)
