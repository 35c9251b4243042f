"""What a job may be told beyond the fields that every job has.

    submit ──checked──► JobOptions ──JSON──► the key `more` of the job's options ──► `jobs.options`

The options of a job are a msgpack map that the shard table carries along, through the log and the
tables: each key fills a column of the job's row.

    idempotency_key, unique_key, group_key   text
    tags                                     texts
    waiting_on     int     how much a held job still waits for
    more           bytes   JSON text of JobOptions
    keep           True    its row stays, whatever the history of its queue says

`more` comes back from the database in other formatting, and means the same. A field that is not
given is not stored; a job that is told nothing special has no options at all. A reader passes over
fields that it does not know: nodes of two versions run side by side.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgpack
import msgspec

from taskforge_server.engine.model.graph import Parents
from taskforge_server.engine.model.retry import RetryPolicyChange

OPTION_NAMES = (
    "idempotency_key",
    "unique_key",
    "group_key",
    "tags",
    "waiting_on",
    "more",
    "keep",
)
"""The keys of a job's options, in the order in which the table gives them back."""


class JobOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One field a feature; the defaults are those of a plain job."""

    expires_us: int = 0
    """A job that was never started by then is cancelled."""
    soft_timeout_s: float = 0.0
    """After so long the handler of an attempt is told; 0: the queue's."""
    cancel_us: int = 0
    """When somebody asked to cancel it while it ran; it never runs again."""
    retry_policy: RetryPolicyChange | None = None
    """Goes before the queue's, field by field."""
    ref: str | None = None
    """What the job was called in the request that submitted its graph."""
    parents: Parents | None = None
    """What it waits for."""
    unique: str | None = None
    """For how long it holds its unique key: waiting, unfinished or period."""

    def stored(self) -> bytes | None:
        """The JSON text, or None where nothing special was said."""
        return None if self == PLAIN else msgspec.json.encode(self)


PLAIN = JobOptions()
_decode = msgspec.json.Decoder(JobOptions).decode


def read_options(text: bytes | None) -> JobOptions:
    """The options of a job, as `stored` gave them."""
    return PLAIN if text is None else _decode(text)


class Told(NamedTuple):
    """The options of a job, read."""

    named: Mapping[str, Any]
    """The whole map."""
    more: JobOptions


_NOTHING = Told({}, PLAIN)


def read_told(options: bytes | None) -> Told:
    """What the options of a job say."""
    if not options:
        return _NOTHING
    named: dict[str, Any] = msgpack.unpackb(options)
    return Told(named, read_options(named.get("more")))


def pack_told(named: Mapping[str, Any]) -> bytes | None:
    """The options of a job; what is None, False or no tags is left out. None: it is told nothing.

    `more` is given as JobOptions, or as its text. `change(options=pack_told(…) or b"")`.
    """
    told = {}
    for name in OPTION_NAMES:
        value = named.get(name)
        if isinstance(value, JobOptions):
            value = value.stored()
        if value is not None and value is not False and value != []:
            told[name] = value
    packed: bytes | None = msgpack.packb(told) if told else None
    return packed


def told_anew(options: bytes | None, **changes: Any) -> bytes:
    """The options with some keys changed (None: dropped), as `ShardTable.change` takes them."""
    return pack_told({**read_told(options).named, **changes}) or b""


def more_anew(options: bytes | None, **fields: Any) -> bytes:
    """The options with some fields of JobOptions changed; those that this version does not know
    stay as they are."""
    named = dict(read_told(options).named)
    more: dict[str, Any] = msgspec.json.decode(named.get("more") or b"{}")
    plain = {name: getattr(PLAIN, name) for name in fields}
    more |= {name: value for name, value in fields.items() if value != plain[name]}
    for name, value in fields.items():
        if value == plain[name]:
            more.pop(name, None)
    named["more"] = msgspec.json.encode(more) if more else None
    return pack_told(named) or b""
