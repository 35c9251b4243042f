"""Master keys: what wraps the data keys of projects, and seals the secrets that the server stores.

They come from the environment or a file, never from the database, one `id:base64` each. The first
one wraps what is new; the others open what they wrapped, until a rotation has wrapped it anew.

    wrapped data key   nonce 12 │ ciphertext 32 │ tag 16, bound to project, key id and number
    sealed secret      taskforge:secret:1:<master id>:<base64 of nonce │ ciphertext │ tag>,
                       bound to its name

Each wrapping has a key of its own, derived from the master key and the place: see `sealing`.
"""

import base64
import binascii
import hmac
import os
import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from taskforge_server.engine import limits
from taskforge_server.engine.vault.sealing import (
    KEY_BYTES,
    NONCE_BYTES,
    TAG_BYTES,
    DataKey,
    UnreadableError,
)

_WRAP_PURPOSE: Final = b"taskforge wrap 1\0"
_SECRET_PURPOSE: Final = b"taskforge secret 1\0"
_SECRET_PREFIX: Final = "taskforge:secret:1:"  # noqa: S105 - the form of a sealed secret
_MASTER_ID: Final = re.compile(rf"[A-Za-z0-9_.-]{{1,{limits.MASTER_ID_CHARS_MAX}}}\Z")


class WrappedKey(NamedTuple):
    """A data key as the table has it."""

    id: bytes
    project_id: bytes
    number: int
    master_id: str
    wrapped: bytes


class UnknownMasterError(Exception):
    """Something is wrapped by a master key that is not configured."""

    def __init__(self, master_id: str) -> None:
        super().__init__(f"master key {master_id!r} is not configured")
        self.master_id = master_id


class MasterKeys:
    """The master keys of a node, at least one; none of them is ever shown."""

    def __init__(self, keys: Sequence[tuple[str, bytes]]) -> None:
        """The first one wraps."""
        self._keys = dict(keys)
        self.current = keys[0][0]

    def __repr__(self) -> str:
        return f"MasterKeys({', '.join(self._keys)})"

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    # data keys

    def new_key(self, project_id: bytes, number: int) -> WrappedKey:
        """A fresh data key, wrapped."""
        return self._wrap(project_id, os.urandom(16), number, os.urandom(KEY_BYTES))

    def unwrap(self, row: WrappedKey) -> DataKey:
        """UnknownMasterError; UnreadableError when it is not what was wrapped there."""
        place = _WRAP_PURPOSE + _place_of_key(row.project_id, row.id, row.number)
        return DataKey(row.id, row.number, self._open(row.master_id, place, row.wrapped))

    def rewrap(self, row: WrappedKey) -> WrappedKey | None:
        """The same key under the current master key; None when it is already."""
        if row.master_id == self.current:
            return None
        place = _WRAP_PURPOSE + _place_of_key(row.project_id, row.id, row.number)
        secret = self._open(row.master_id, place, row.wrapped)
        return self._wrap(row.project_id, row.id, row.number, secret)

    def _wrap(self, project_id: bytes, key_id: bytes, number: int, secret: bytes) -> WrappedKey:
        place = _WRAP_PURPOSE + _place_of_key(project_id, key_id, number)
        master_id, wrapped = self._seal(place, secret)
        return WrappedKey(key_id, project_id, number, master_id, wrapped)

    # stored secrets

    def seal_secret(self, name: str, secret: bytes) -> str:
        """A secret as it may stand in a table."""
        master_id, sealed = self._seal(_SECRET_PURPOSE + name.encode(), secret)
        return f"{_SECRET_PREFIX}{master_id}:{base64.b64encode(sealed).decode()}"

    def open_secret(self, name: str, text: str) -> bytes:
        """The secret of this name; UnknownMasterError, UnreadableError."""
        master_id, sealed = _split_secret(text)
        return self._open(master_id, _SECRET_PURPOSE + name.encode(), sealed)

    def reseal_secret(self, name: str, text: str) -> str | None:
        """The same secret under the current master key; None when it is already."""
        if _split_secret(text)[0] == self.current:
            return None
        return self.seal_secret(name, self.open_secret(name, text))

    # both

    def _seal(self, place: bytes, secret: bytes) -> tuple[str, bytes]:
        nonce = os.urandom(NONCE_BYTES)
        return self.current, nonce + self._cipher(self.current, place).encrypt(nonce, secret, place)

    def _open(self, master_id: str, place: bytes, sealed: bytes) -> bytes:
        if master_id not in self._keys:
            raise UnknownMasterError(master_id)
        if len(sealed) < NONCE_BYTES + TAG_BYTES:
            raise UnreadableError
        cipher = self._cipher(master_id, place)
        try:
            return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], place)
        except InvalidTag:
            raise UnreadableError from None

    def _cipher(self, master_id: str, place: bytes) -> AESGCM:
        return AESGCM(hmac.digest(self._keys[master_id], place, "sha256"))


def parse_master_keys(text: str) -> list[tuple[str, bytes]]:
    """`id:base64` of each, by commas or lines; lines that begin with # are passed over.

    ValueError says what is wrong without saying any of the text but an id in its right form.
    """
    keys: list[tuple[str, bytes]] = []
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for number, part in enumerate(",".join(lines).split(","), start=1):
        if not part.strip():
            continue
        master_id, colon, encoded = part.strip().partition(":")
        if not colon or not _MASTER_ID.match(master_id):
            raise ValueError(f"key {number} is not ID:BASE64")
        try:
            key = base64.b64decode(encoded.strip(), validate=True)
        except binascii.Error:
            raise ValueError(f"the key {master_id} is not base64") from None
        if len(key) != KEY_BYTES:
            raise ValueError(f"the key {master_id} has {len(key)} bytes, not {KEY_BYTES}")
        if any(key == other or master_id == known for known, other in keys):
            raise ValueError(f"the key {master_id} stands there twice")
        keys.append((master_id, key))
    return keys


def new_master_key(master_id: str) -> str:
    """A fresh key, as it stands in the environment or the file."""
    if not _MASTER_ID.match(master_id):
        raise ValueError("an id has letters, digits, '.', '_' and '-'")
    return f"{master_id}:{base64.b64encode(os.urandom(KEY_BYTES)).decode()}"


def master_of_secret(text: str) -> str:
    """The id of the master key that seals a stored secret; empty for what is not sealed."""
    try:
        return _split_secret(text)[0]
    except UnreadableError:
        return ""


def _place_of_key(project_id: bytes, key_id: bytes, number: int) -> bytes:
    return project_id + key_id + number.to_bytes(4)


def _split_secret(text: str) -> tuple[str, bytes]:
    master_id, colon, encoded = text.removeprefix(_SECRET_PREFIX).partition(":")
    if not text.startswith(_SECRET_PREFIX) or not colon:
        raise UnreadableError
    try:
        return master_id, base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise UnreadableError from None
