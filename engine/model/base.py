"""What all structs of the model share: frozen, with their rules in their types.

A rule stands once, as the `Meta` of a field's type: it holds where a request is decoded, where a
row is made in the program (`validate`), and in the OpenAPI document. The tables repeat the cheap
ones as CHECK constraints. Rules that relate two fields are added in an override of `validate`.

Ids are 16 raw bytes; times are aware datetimes.
"""

import re
from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec

from taskforge_server.engine import limits
from taskforge_server.engine.errors import InvalidInput

T = TypeVar("T")

_PATH = re.compile(r" - at `(?:key in )?\$\.?(.*)`$", re.DOTALL)

Id = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]

Time = Annotated[datetime, msgspec.Meta(tz=True)]

Name = Annotated[
    str,
    msgspec.Meta(
        max_length=limits.NAME_CHARS_MAX,
        # U+0000 cannot be stored; other control characters have no place in a name.
        pattern=r"^[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*\Z",
        description="not empty, without control characters",
    ),
]

Email = Annotated[
    str,
    msgspec.Meta(
        max_length=limits.EMAIL_CHARS_MAX,
        pattern=r"^[^@\s\x00]+@[^@\s\x00]+\Z",
        description="an address with one @",
    ),
]

Priority = Annotated[
    int,
    msgspec.Meta(
        ge=limits.PRIORITY_MIN, le=limits.PRIORITY_MAX, description="0 to 9, the highest first"
    ),
]


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the data model."""

    def validate(self) -> None:
        """Raise `InvalidInput` with the field that breaks a rule."""
        checked(msgspec.to_builtins(self), type(self))


def checked(value: Any, kind: type[T]) -> T:
    """Build `kind` from plain values; `InvalidInput` names the field at fault."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise invalid(error) from None


def invalid(error: msgspec.ValidationError) -> InvalidInput:
    """The message of msgspec, with its path as our field: `settings.retry_policy.max_delay`."""
    message = str(error)
    found = _PATH.search(message)
    if found is None:
        return InvalidInput(message)
    field = found.group(1).replace("[...]", "[]") or None
    return InvalidInput(message[: found.start()], field)
