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
from typing import Any
from urllib.parse import quote

import msgspec

from taskforge.client.calls import Call, make_key, query_text, reader
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


def _list(
    cursor: str | None,
    queue: str,
    *,
    reason: str | None = None,
    job_type: str | None = None,
    tag: str | None = None,
    failed_after: datetime | None = None,
    failed_before: datetime | None = None,
    attempts: int | None = None,
) -> Call[Page[Job]]:
    """Failed jobs of a queue, the newest failure first, with the newest `attempts` of each."""
    wanted = {
        "reason": reason,
        "job_type": job_type,
        "tag": tag,
        "failed_after": failed_after.isoformat() if failed_after else None,
        "failed_before": failed_before.isoformat() if failed_before else None,
        "attempts": None if attempts is None else str(attempts),
        "cursor": cursor,
    }
    return Call("GET", f"{_path(queue)}?{query_text(wanted)}", _read_page)


def _requeue(
    queue: str,
    *,
    reasons: Sequence[str] | None = None,
    job_type: str | None = None,
    tag: str | None = None,
    failed_after: datetime | None = None,
    failed_before: datetime | None = None,
    per_s: float | None = None,
    most: int | None = None,
    cursor: str | None = None,
    dry_run: bool = False,
) -> Call[DeadLettersDone]:
    """Let some run again, the newest failure first: all at once, or `per_s` of them in a second.
    A repetition by the client itself does nothing twice."""
    body = _body(reasons, job_type, tag, failed_after, failed_before, most, cursor, dry_run)
    if per_s is not None:
        body["per_s"] = per_s
    return Call("POST", f"{_path(queue)}/requeue", _read_done, _to_json(body), key=make_key())


def _purge(
    queue: str,
    *,
    reasons: Sequence[str] | None = None,
    job_type: str | None = None,
    tag: str | None = None,
    failed_after: datetime | None = None,
    failed_before: datetime | None = None,
    most: int | None = None,
    cursor: str | None = None,
    dry_run: bool = False,
) -> Call[DeadLettersDone]:
    """Delete some, with their attempts and logs, the newest failure first."""
    body = _body(reasons, job_type, tag, failed_after, failed_before, most, cursor, dry_run)
    return Call("POST", f"{_path(queue)}/purge", _read_done, _to_json(body))


def _body(
    reasons: Sequence[str] | None,
    job_type: str | None,
    tag: str | None,
    failed_after: datetime | None,
    failed_before: datetime | None,
    most: int | None,
    cursor: str | None,
    dry_run: bool,
) -> dict[str, Any]:
    wanted = {
        "reasons": reasons,
        "job_type": job_type,
        "tag": tag,
        "failed_after": failed_after,
        "failed_before": failed_before,
    }
    body: dict[str, Any] = {"filter": {k: v for k, v in wanted.items() if v is not None}}
    body |= {k: v for k, v in {"most": most, "cursor": cursor}.items() if v is not None}
    if dry_run:
        body["dry_run"] = True
    return body


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
