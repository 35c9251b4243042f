"""The keys of all encrypted projects in memory, and what is sealed and opened with them.

    no ring               the project was never encrypted: its texts pass, at the cost of one look
    ring, encrypted       what comes in is sealed with the newest key; every key opens
    ring, not encrypted   it was: what comes in passes, what was sealed is opened still

A ring only grows. Keys that are no longer in the table open still, while the project is there, but
the ring is not whole without them: nothing is sealed with an older key because somebody deleted the
row of a newer one, and nothing with a key that the next start would not find.

Mixed texts are in order: those from before the switch have no sealed form. One that has it, in a
project with a ring, must open, or it is unreadable: ciphertext is never taken for data.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Unavailable
from taskforge_server.engine.vault.sealing import (
    PREFIX,
    DataKey,
    Field,
    UnreadableError,
    content_of,
    key_id_of,
    looks_sealed,
)

ID_BYTES: Final = 16


class UnknownKeyError(UnreadableError):
    """The text was sealed with a key that is not in the ring: it may be new."""


class Ring:
    """The keys of one project."""

    def __init__(self, project_id: bytes, encrypted: bool) -> None:
        self.project_id = project_id
        self.encrypted = encrypted
        self.numbers: set[int] = set()
        """Of all keys that the table has or had, those that cannot be read included."""
        self._keys: dict[bytes, DataKey] = {}
        self._by_number: dict[int, DataKey] = {}

    def add(self, key: DataKey) -> None:
        self.numbers.add(key.number)
        self._keys[key.id] = key
        self._by_number[key.number] = key

    def keep(self, older: "Ring") -> bool:
        """Open with keys that the table no longer has; whether there were any."""
        gone = [key for key in older._keys.values() if key.id not in self._keys]
        for key in gone:
            self.numbers.add(key.number)
            self._keys[key.id] = key
        return bool(gone)

    @property
    def whole(self) -> bool:
        """All keys of the project could be read; else its jobs wait rather than fail."""
        return bool(self.numbers) and self.numbers == self._by_number.keys()

    def seal(self, job_id: bytes, field: Field, text: bytes) -> bytes:
        """As it may be stored: sealed, if the project is encrypted. Unavailable without its key."""
        return self.seal_all(field, [(job_id, text)])[0]

    def seal_all(self, field: Field, texts: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        """The same for many, each given with the id of its job; cheaper than one by one."""
        if not self.encrypted:
            return [text for _, text in texts]
        return self._key(max(self.numbers, default=0)).seal(self.project_id, field, texts)

    def seal_payloads(self, ids: bytes, payloads: list[bytes]) -> list[bytes]:
        """Those of a batch of new jobs, with their ids in a row."""
        job_ids = [ids[at : at + ID_BYTES] for at in range(0, len(ids), ID_BYTES)]
        return self.seal_all("payload", list(zip(job_ids, payloads, strict=True)))

    def open(self, job_id: bytes, field: Field, text: bytes) -> bytes:
        """What was sealed; a text from before the encryption as it is. UnreadableError."""
        if not looks_sealed(text):
            return text
        content = content_of(text)
        if content is None:
            raise UnreadableError
        key = self._keys.get(key_id_of(content))
        if key is None:
            raise UnknownKeyError
        return key.open(self.project_id, job_id, field, content)

    def digest(self, data: bytes) -> bytes:
        """A keyed hash, the same for the same data as long as the project has keys."""
        return self._key(min(self.numbers, default=0)).digest(data)

    def _key(self, number: int) -> DataKey:
        key = self._by_number.get(number)
        if key is None:
            raise Unavailable(
                limits.UNAVAILABLE_RETRY_S, "the encryption key of this project cannot be read"
            )
        return key


class Vault:
    """The rings of all projects that have one; without any it costs nothing."""

    def __init__(self) -> None:
        self._rings: dict[bytes, Ring] = {}

    @property
    def active(self) -> bool:
        """Some project is or was encrypted."""
        return bool(self._rings)

    def ring(self, project_id: bytes) -> Ring | None:
        return self._rings.get(project_id)

    def replace(self, rings: Iterable[Ring]) -> list[bytes]:
        """What the tables say now; the projects of which they have lost keys that are in use."""
        new = {ring.project_id: ring for ring in rings}
        lost = [
            project_id
            for project_id, ring in new.items()
            if (older := self._rings.get(project_id)) is not None and ring.keep(older)
        ]
        self._rings = new
        return lost

    def may_need(self, project_id: bytes, text: bytes | None) -> bool:
        """Whether the text has the sealed form, but not under a key that is known: one that was
        made on another node, of which the news has not come."""
        if text is None or (content := content_of(text)) is None:
            return False
        ring = self._rings.get(project_id)
        return ring is None or key_id_of(content) not in ring._keys


def holds_sealed(frame: bytes) -> bool:
    """Whether some bytes have a sealed text within."""
    return PREFIX in frame
