"""The sealed form of one field of a job: JSON text in, a JSON string of ciphertext out.

    "taskforge:sealed:1:<base64 of: id of the data key 16 │ nonce 12 │ ciphertext │ tag 16>"

    data key of the project ──HMAC-SHA256──► key of one field of a job ──AES-256-GCM──► ciphertext
                                  ▲                                           ▲
                           place: project, job, field                the same place, key id

The place is bound twice: a ciphertext that is moved to another project, job or field has another
key there, and other authenticated data. A key that is derived for one field of one job seals a
handful of texts in its life, so random nonces cannot meet, however many jobs a project has: there
is no count of uses that a data key must not pass, and none to be kept between nodes.

A sealed field is JSON text again. Log, tables, projector and check handle it as any other.
"""

import base64
import binascii
import hmac
import os
from typing import Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
KEY_ID_BYTES: Final = 16
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16

Field = Literal["payload", "result", "error", "log", "log_metadata"]
"""Which text of a job is sealed; a part of its place."""

PREFIX: Final = b'"taskforge:sealed:1:'
_END: Final = b'"'
_HEAD_BYTES: Final = KEY_ID_BYTES + NONCE_BYTES
_FIELD_PURPOSE: Final = b"taskforge field 1\0"
_DIGEST_PURPOSE: Final = b"taskforge digest 1\0"


class UnreadableError(Exception):
    """A sealed text that its key does not open: it was changed, or moved from another place."""


class DataKey:
    """A key of a project; whoever prints it sees its id alone."""

    __slots__ = ("_secret", "id", "number")

    def __init__(self, id: bytes, number: int, secret: bytes) -> None:
        assert len(id) == KEY_ID_BYTES
        assert len(secret) == KEY_BYTES
        self.id = id
        self.number = number
        self._secret = secret

    def __repr__(self) -> str:
        return f"DataKey({self.id.hex()}, {self.number})"

    def seal(self, project_id: bytes, job_id: bytes, field: Field, text: bytes) -> bytes:
        """The sealed form of a text that belongs to this place."""
        place = _place(project_id, job_id, field)
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._cipher(place).encrypt(nonce, text, place + self.id)
        return PREFIX + base64.b64encode(b"".join((self.id, nonce, sealed))) + _END

    def open(self, project_id: bytes, job_id: bytes, field: Field, content: bytes) -> bytes:
        """The text, from the decoded content of a sealed form; UnreadableError."""
        place = _place(project_id, job_id, field)
        nonce = content[KEY_ID_BYTES:_HEAD_BYTES]
        try:
            return self._cipher(place).decrypt(nonce, content[_HEAD_BYTES:], place + self.id)
        except InvalidTag:
            raise UnreadableError from None

    def digest(self, data: bytes) -> bytes:
        """A hash that says nothing to those without the key, not even about guesses."""
        return hmac.digest(self._secret, _DIGEST_PURPOSE + data, "sha256")

    def _cipher(self, place: bytes) -> AESGCM:
        return AESGCM(hmac.digest(self._secret, place, "sha256"))


def looks_sealed(text: bytes) -> bool:
    """Whether the text has the sealed form; anybody may write such a string."""
    return text.startswith(PREFIX)


def content_of(text: bytes) -> bytes | None:
    """The decoded content of a sealed form; None for any other text."""
    if not text.startswith(PREFIX) or not text.endswith(_END):
        return None
    try:
        content = base64.b64decode(text[len(PREFIX) : -1], validate=True)
    except binascii.Error:
        return None
    return content if len(content) >= _HEAD_BYTES + TAG_BYTES else None


def key_id_of(content: bytes) -> bytes:
    return content[:KEY_ID_BYTES]


def _place(project_id: bytes, job_id: bytes, field: Field) -> bytes:
    """Both ids have 16 bytes, so no two places have the same bytes."""
    assert len(project_id) == len(job_id) == 16
    return b"".join((_FIELD_PURPOSE, project_id, job_id, field.encode()))
