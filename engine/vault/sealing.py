"""The sealed form of one field of a job: JSON text in, a JSON string of ciphertext out.

    "taskforge:sealed:1:<base64>"   id of the data key 16 │ salt 16 │ number 4 │ ciphertext │ tag 16

    data key of the project ──HMAC-SHA256──► key of one batch ──AES-256-GCM──► ciphertext
                                 ▲                                ▲
                      project and a random salt      nonce: the number in the batch
                                                     bound: project, job, field, id of the data key

Each batch of texts has a key of its own, and within it each text another number, so no nonce comes
twice under one key, however many texts a project has: there is no count of uses that a data key
must not pass, and none to be kept between nodes. A ciphertext that is moved to another project, job
or field does not open there, since its place is authenticated with it.

A sealed field is JSON text again. Log, tables, projector and check handle it as any other.
"""

import binascii
import hmac
import os
from collections.abc import Iterable
from typing import Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
KEY_ID_BYTES: Final = 16
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16

Field = Literal["payload", "result", "error", "log", "log_metadata", "schedule"]
"""Which text of a job, or the payload of which schedule, is sealed; a part of its place."""

PREFIX: Final = b'"taskforge:sealed:1:'
_END: Final = b'"'
_SALT_BYTES: Final = 16
_NUMBER_BYTES: Final = 4
_HEAD_BYTES: Final = KEY_ID_BYTES + _SALT_BYTES + _NUMBER_BYTES
_BATCH_PURPOSE: Final = b"taskforge batch 1\0"
_DIGEST_PURPOSE: Final = b"taskforge digest 1\0"
_CIPHERS_KEPT: Final = 256
"""Jobs of one batch mostly go to workers together; a frame has those of a few batches."""


class UnreadableError(Exception):
    """A sealed text that its key does not open: it was changed, or moved from another place."""


class DataKey:
    """A key of a project; whoever prints it sees its id alone."""

    __slots__ = ("_ciphers", "_secret", "id", "number")

    def __init__(self, id: bytes, number: int, secret: bytes) -> None:
        assert len(id) == KEY_ID_BYTES
        assert len(secret) == KEY_BYTES
        self.id = id
        self.number = number
        self._secret = secret
        self._ciphers: dict[bytes, AESGCM] = {}

    def __repr__(self) -> str:
        return f"DataKey({self.id.hex()}, {self.number})"

    def seal(
        self, project_id: bytes, field: Field, texts: Iterable[tuple[bytes, bytes]]
    ) -> list[bytes]:
        """The sealed forms of a batch of texts, each given with the id of its job."""
        salt = os.urandom(_SALT_BYTES)
        encrypt = self._derived(project_id + salt).encrypt
        head = self.id + salt
        before, after = _place(project_id, field, self.id)
        sealed = []
        for number, (job_id, text) in enumerate(texts):
            counted = number.to_bytes(_NUMBER_BYTES)
            content = encrypt(counted.rjust(NONCE_BYTES, b"\0"), text, before + job_id + after)
            encoded = binascii.b2a_base64(head + counted + content, newline=False)
            sealed.append(PREFIX + encoded + _END)
        return sealed

    def open(self, project_id: bytes, job_id: bytes, field: Field, content: bytes) -> bytes:
        """The text, from the decoded content of a sealed form; UnreadableError."""
        batch = project_id + content[KEY_ID_BYTES : KEY_ID_BYTES + _SALT_BYTES]
        cipher = self._ciphers.get(batch)
        if cipher is None:
            if len(self._ciphers) >= _CIPHERS_KEPT:
                self._ciphers.clear()
            cipher = self._ciphers[batch] = self._derived(batch)
        nonce = content[_HEAD_BYTES - _NUMBER_BYTES : _HEAD_BYTES].rjust(NONCE_BYTES, b"\0")
        before, after = _place(project_id, field, self.id)
        try:
            return cipher.decrypt(nonce, content[_HEAD_BYTES:], before + job_id + after)
        except InvalidTag:
            raise UnreadableError from None

    def digest(self, data: bytes) -> bytes:
        """A hash that says nothing to those without the key, not even about guesses."""
        return hmac.digest(self._secret, _DIGEST_PURPOSE + data, "sha256")

    def _derived(self, batch: bytes) -> AESGCM:
        return AESGCM(hmac.digest(self._secret, _BATCH_PURPOSE + batch, "sha256"))


def looks_sealed(text: bytes) -> bool:
    """Whether the text has the sealed form; anybody may write such a string."""
    return text.startswith(PREFIX)


def content_of(text: bytes) -> bytes | None:
    """The decoded content of a sealed form; None for any other text."""
    if not text.startswith(PREFIX) or not text.endswith(_END):
        return None
    try:
        content = binascii.a2b_base64(text[len(PREFIX) : -1], strict_mode=True)
    except binascii.Error:
        return None
    return content if len(content) >= _HEAD_BYTES + TAG_BYTES else None


def key_id_of(content: bytes) -> bytes:
    return content[:KEY_ID_BYTES]


def _place(project_id: bytes, field: Field, key_id: bytes) -> tuple[bytes, bytes]:
    """What stands before and after the id of the job. All ids have 16 bytes, so no two places have
    the same bytes."""
    assert len(project_id) == 16
    return b"taskforge field 1\0" + project_id, key_id + field.encode()
