"""The audit log of an organisation: who did what, on what, from where, each entry sealed to the one
before it.

    entry 1 ──hash──► entry 2 ──hash──► entry 3 … ──hash──► head (sequence and hash, kept apart)

The hash of an entry is SHA-256 over the hash of the entry before and its own content, so a changed
entry no longer has its hash, a missing one leaves a gap in the sequence, and a cut end no longer
reaches the head. `Chain` tells which. Whoever can rewrite the whole log and its head can hide that;
therefore heads can be noted elsewhere and given to a later verification.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal

import msgspec

from taskforge_server.engine import limits
from taskforge_server.engine.model.base import Id, Model, Time

ActorKind = Literal["api_key", "user", "operator", "nobody"]
FaultKind = Literal[
    "missing", "changed", "unlinked", "truncated", "beyond_head", "other_head", "rewritten"
]

HASH_FORM: Final = "taskforge-audit-1"
HASH_BYTES: Final = 32
NO_HASH: Final = bytes(HASH_BYTES)
"""What stands before the first entry."""

HIDDEN: Final = "***"
SECRET_FIELDS: Final = frozenset(
    {
        "password",
        "password_hash",
        "key_hash",
        "key_text",
        "token",
        "token_hash",
        "secret",
        "payload",
    }
)
"""Fields that never reach the log, whoever gives them."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Action = Annotated[
    str, msgspec.Meta(max_length=limits.NAME_CHARS_MAX, pattern=r"^[a-z_]+\.[a-z_]+\Z")
]
Target = Annotated[
    str, msgspec.Meta(max_length=limits.NAME_CHARS_MAX, pattern=r"^[a-z_]+:[0-9a-f-]{36}\Z")
]
Hash = Annotated[bytes, msgspec.Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and from where. `id` is of the API key or of the user, empty for others."""

    kind: ActorKind
    id: bytes = b""
    address: str = ""
    """Of the peer of the connection; empty for acts on the machine itself."""
    correlation_id: str = ""
    """Of the request, as in its answer and in the server's log."""


OPERATOR: Final = Actor("operator")
"""A command or the node itself."""


class AuditEntry(Model, frozen=True, kw_only=True):
    """One act. `before` and `after` are JSON text, exactly as it was hashed."""

    organization_id: Id
    sequence: Annotated[int, msgspec.Meta(ge=1)]
    at: Time
    actor_kind: ActorKind
    actor_id: Id | None
    address: str
    correlation_id: str
    action: Action
    target: Target
    before: str | None
    after: str | None
    previous_hash: Hash
    hash: Hash = NO_HASH

    def seal(self) -> bytes:
        """What `hash` has to be."""
        content = [
            HASH_FORM,
            self.organization_id.hex(),
            self.sequence,
            (self.at - _EPOCH) // _MICROSECOND,
            self.actor_kind,
            None if self.actor_id is None else self.actor_id.hex(),
            self.address,
            self.correlation_id,
            self.action,
            self.target,
            self.before,
            self.after,
        ]
        return hashlib.sha256(self.previous_hash + msgspec.json.encode(content)).digest()

    def sealed(self) -> "AuditEntry":
        """The same with its hash."""
        return msgspec.structs.replace(self, hash=self.seal())


@dataclass(frozen=True, slots=True)
class AuditHead:
    """Where a log ends."""

    sequence: int = 0
    hash: bytes = NO_HASH


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a log, and from which entry on."""

    kind: FaultKind
    sequence: int
    about: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verification found. Whoever notes `head` can have a later one compare with it."""

    head: AuditHead
    faults: list[Fault]

    @property
    def is_intact(self) -> bool:
        return not self.faults


def state_text(state: dict[str, Any] | None) -> str | None:
    """Fields of a thing as JSON text, sorted, without secrets."""
    if state is None:
        return None
    return msgspec.json.encode(_without_secrets(state), order="sorted").decode()


def _without_secrets(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        value = msgspec.to_builtins(value)
    if isinstance(value, dict):
        return {
            name: HIDDEN if name in SECRET_FIELDS else _without_secrets(field)
            for name, field in value.items()
        }
    if isinstance(value, list | tuple):
        return [_without_secrets(item) for item in value]
    return value


class Chain:
    """Verifies entries in the order of their sequence, then the head they must lead to.

    `noted` is a head of before, kept where nobody could change it: the log must have passed it."""

    def __init__(self, noted: AuditHead | None = None) -> None:
        self.last = AuditHead()
        self.faults: list[Fault] = []
        self._noted = noted

    def add(self, entry: AuditEntry) -> None:
        """The next entry that is there."""
        expected = self.last.sequence + 1
        if entry.sequence != expected:
            about = f"entries {expected} to {entry.sequence - 1} are missing"
            self._fault("missing", expected, about)
        elif entry.previous_hash != self.last.hash:
            self._fault("unlinked", entry.sequence, "it does not follow the entry before it")
        if entry.seal() != entry.hash:
            self._fault("changed", entry.sequence, "its content is not what was hashed")
        self.last = AuditHead(entry.sequence, entry.hash)
        noted = self._noted
        if noted is not None and noted.sequence == entry.sequence and noted != self.last:
            self._fault("rewritten", entry.sequence, "it has another hash than the one noted")

    def end(self, head: AuditHead) -> None:
        """All entries were added: compare with the head that is kept apart."""
        last = self.last
        reached = max(head.sequence, 0 if self._noted is None else self._noted.sequence)
        if last.sequence < reached:
            about = f"entries {last.sequence + 1} to {reached} were cut off"
            self._fault("truncated", last.sequence + 1, about)
        elif last.sequence > head.sequence:
            self._fault("beyond_head", head.sequence + 1, "the head ends before this entry")
        elif last.hash != head.hash:
            self._fault("other_head", head.sequence, "the head has not the hash of the last entry")

    def _fault(self, kind: FaultKind, sequence: int, about: str) -> None:
        if len(self.faults) < limits.AUDIT_FAULTS_MAX:
            self.faults.append(Fault(kind, sequence, about))
