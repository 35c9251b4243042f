"""Requests with an Idempotency-Key: what came first answers those that come again.

came before?  ──no──► decided, and remembered in the log with its ids
              └─yes─► answered with the ids of the first time, once those are durable
"""

from collections.abc import Callable

from taskforge_server.engine import limits
from taskforge_server.engine.actors import sealed
from taskforge_server.engine.errors import Unavailable
from taskforge_server.engine.shard.effects import Reply
from taskforge_server.engine.shard.keys import KeyBook, KeyedRequest, KeyEntry
from taskforge_server.engine.shard.shard import Shard
from taskforge_server.engine.vault.vault import Ring


class Repetitions:
    """Those of one project, as one shard decides about them; what it remembers is in its log."""

    def __init__(
        self,
        project_id: bytes,
        shard: Shard,
        keys: KeyBook,
        holder: Callable[[int], Shard | None],
    ) -> None:
        """`keys`: of all shards of the node, `holder`: the shard of a number, if it is here."""
        self._project_id = project_id
        self._shard = shard
        self._keys = keys
        self._holder = holder

    def first(
        self, request: KeyedRequest | None, ring: Ring | None, now_us: int
    ) -> tuple[KeyEntry | None, KeyedRequest | None]:
        """What came with this key before, and the request as it is remembered; KeyConflict."""
        if request is None:
            return None, None
        if ring is not None:
            return sealed.find_first(self._keys, ring, self._project_id, request, now_us)
        return self._keys.find(self._project_id, request, now_us), request

    def remember(self, request: KeyedRequest, ids: bytes, now_us: int) -> None:
        """These jobs came of it."""
        table, project_id = self._shard.table, self._project_id
        table.keyed(project_id, request.key, request.body_hash, ids, now_us)
        entry = KeyEntry(self._shard.number, table.gathering_lsn, request.body_hash, ids, now_us)
        self._keys.remember(project_id, request.key, entry)

    def answer(self, first: KeyEntry, answer: Reply) -> None:
        """The answer to a repetition waits for what came with the key first."""
        shard = self._holder(first.shard)
        if shard is None:
            raise Unavailable(limits.UNAVAILABLE_RETRY_S)
        shard.effect_at(first.lsn, answer)
