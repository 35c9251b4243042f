"""Jobs of encrypted projects on their way to a worker and through the book of keys.

    JOBS frame, payloads sealed ──► JOBS frame, payloads opened ──► worker
                              └──► tokens of jobs whose payload cannot be opened: they fail

Only for projects with a ring: the frames of others are not looked at.
"""

from typing import Final

import msgpack
import msgspec

from taskforge_server.engine.actors.joblogs import LogSink, Written
from taskforge_server.engine.actors.verdicts import error_json
from taskforge_server.engine.errors import KeyConflict, Unavailable
from taskforge_server.engine.model.execution import LogLine
from taskforge_server.engine.observe.counters import Counters
from taskforge_server.engine.shard.keys import KeyBook, KeyedRequest, KeyEntry
from taskforge_server.engine.vault.sealing import UnreadableError
from taskforge_server.engine.vault.vault import Ring, Vault, holds_sealed

UNREADABLE: Final = error_json(
    "payload_unreadable", "the payload cannot be opened with the keys of its project"
)
UNREADABLE_REASON: Final = "not_retryable"

_TOKEN_BYTES: Final = 24
_ID_BYTES: Final = 16
_KINDS, _TOKENS, _PAYLOADS, _DETAILS = 3, 4, 5, 6


def opened(frame: bytes, ring: Ring) -> tuple[bytes, list[bytes]]:
    """The frame with all payloads as they were submitted, without the jobs whose tokens are given
    back: their payloads were changed, moved, or sealed with a key that is gone."""
    if not holds_sealed(frame):
        return frame, []
    message = msgpack.unpackb(frame, strict_map_key=False)
    tokens, kinds, details = message[_TOKENS], message[_KINDS], message[_DETAILS]
    payloads, kept, unreadable = [], [], []
    for place, sealed in enumerate(message[_PAYLOADS]):
        token = tokens[place * _TOKEN_BYTES : (place + 1) * _TOKEN_BYTES]
        try:
            payloads.append(ring.open(token[:_ID_BYTES], "payload", sealed))
            kept.append(place)
        except UnreadableError:
            unreadable.append(token)
    message[_PAYLOADS] = payloads
    if unreadable:
        message[_TOKENS] = b"".join(
            tokens[place * _TOKEN_BYTES : (place + 1) * _TOKEN_BYTES] for place in kept
        )
        message[_KINDS] = bytes(kinds[place] for place in kept) if kinds else b""
        message[_DETAILS] = {
            now: details[before] for now, before in enumerate(kept) if before in details
        }
    opened_frame: bytes = msgpack.packb(message)
    return opened_frame, unreadable


def find_first(
    keys: KeyBook, ring: Ring, project_id: bytes, request: KeyedRequest, now_us: int
) -> tuple[KeyEntry | None, KeyedRequest]:
    """The first submit with this key, and the request as it is to be remembered.

    A plain hash of the body would tell whoever reads the tables whether a guessed payload is right,
    so the hash is keyed. What was remembered before the encryption is found under the plain hash.
    """
    kept = KeyedRequest(request.key, ring.digest(request.body_hash))
    try:
        first = keys.find(project_id, kept, now_us)
    except KeyConflict:
        first = keys.find(project_id, request, now_us)
    return first, kept if ring.encrypted else request


class SealedLines:
    """A sink in front of another: lines of encrypted projects are sealed on their way."""

    def __init__(self, sink: LogSink, vault: Vault, counters: Counters) -> None:
        self._sink = sink
        self._vault = vault
        self._counters = counters

    def add(self, lines: list[LogLine], written: Written) -> None:
        """Without the key of their project lines are dropped: they must not pass open."""
        if self._vault.active:
            try:
                lines = [self._sealed(line) for line in lines]
            except Unavailable:
                self._counters.log_lines_dropped += len(lines)
                written()
                return
        self._sink.add(lines, written)

    def _sealed(self, line: LogLine) -> LogLine:
        ring = self._vault.ring(line.project_id)
        if ring is None:
            return line
        return msgspec.structs.replace(
            line,
            message=ring.seal(line.job_id, "log", line.message.encode()).decode(),
            metadata=ring.seal(line.job_id, "log_metadata", line.metadata),
        )
