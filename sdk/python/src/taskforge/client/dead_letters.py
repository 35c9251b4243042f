"""Dead letters: the jobs of a queue that have failed for good. List, put back, purge.

Whoever puts back or purges many does it in pieces, for each request sees to a bounded number:

    cursor = None
    while True:
        done = client.dead_letters.requeue("mail", reasons=["timeout"], per_s=10, cursor=cursor)
        cursor = done.next_cursor
        if cursor is None:
            break
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypedDict, Unpack
from urllib.parse import quote

import msgspec

from taskforge.client.calls import Call, given, make_key, query_text, reader, time_text
from taskforge.client.methods import (
    AsyncGroup,
    Group,
    async_listing,
    async_method,
    listing,
    method,
)
from taskforge.client.models import Job, Page


class DeadLettersDone(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the dead letters that a request saw to; in a dry run: what would."""

    count: int
    job_ids: list[str] = []
    """Of these; in a dry run: of some of them."""
    dry_run: bool = False
    more: bool = False
    """There may be more."""
    next_cursor: str | None = None
    """Give it to go on."""


_read_page = reader(Page[Job])
_read_done = reader(DeadLettersDone)
_to_json = msgspec.json.Encoder().encode


def _path(queue: str) -> str:
    return f"/v1/queues/{quote(queue, safe='')}/dead-letters"


class DeadLetterFilter(TypedDict, total=False):
    """Which dead letters; what is not given does not matter."""

    reasons: Sequence[str]
    job_type: str
    tags: Sequence[str]
    """All of them."""
    failed_after: datetime
    failed_before: datetime


def _list(
    cursor: str | None,
    queue: str,
    *,
    attempts: int | None = None,
    **wanted: Unpack[DeadLetterFilter],
) -> Call[Page[Job]]:
    """Failed jobs of a queue, the newest failure first, with the newest `attempts` of each."""
    fields: dict[str, Any] = {"attempts": attempts, "cursor": cursor, **_sent(wanted)}
    return Call("GET", f"{_path(queue)}?{query_text(fields)}", _read_page)


def _requeue(
    queue: str,
    *,
    per_s: float | None = None,
    limit: int | None = None,
    cursor: str | None = None,
    dry_run: bool = False,
    **wanted: Unpack[DeadLetterFilter],
) -> Call[DeadLettersDone]:
    """Let some run again, the newest failure first: all at once, or `per_s` of them in a second.
    A repetition by the client itself does nothing twice."""
    body = _body(wanted, per_s=per_s, limit=limit, cursor=cursor, dry_run=dry_run)
    return Call("POST", f"{_path(queue)}/requeue", _read_done, body, key=make_key())


def _purge(
    queue: str,
    *,
    limit: int | None = None,
    cursor: str | None = None,
    dry_run: bool = False,
    **wanted: Unpack[DeadLetterFilter],
) -> Call[DeadLettersDone]:
    """Delete some, with their attempts and logs, the newest failure first."""
    body = _body(wanted, limit=limit, cursor=cursor, dry_run=dry_run)
    return Call("POST", f"{_path(queue)}/purge", _read_done, body)


def _body(wanted: DeadLetterFilter, **how: Any) -> bytes:
    return _to_json({"filter": _sent(wanted)} | given(**how))


def _sent(wanted: DeadLetterFilter) -> dict[str, Any]:
    if unknown := wanted.keys() - DeadLetterFilter.__annotations__.keys():
        raise TypeError(f"dead letters are not chosen by {', '.join(sorted(unknown))}")
    return {
        name: time_text(value, name) if isinstance(value, datetime) else value
        for name, value in wanted.items()
        if value is not None
    }


class DeadLetters(Group):
    """The jobs that have failed for good, by queue."""

    list = listing(_list)
    requeue = method(_requeue)
    purge = method(_purge)


class AsyncDeadLetters(AsyncGroup):
    """The same in an event loop."""

    list = async_listing(_list)
    requeue = async_method(_requeue)
    purge = async_method(_purge)
