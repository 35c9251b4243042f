"""Structured logs: one JSON object a line, with the correlation id of the request it belongs to.

    {"at": "2026-01-31T12:00:00.123Z", "level": "info", "logger": "…", "message": "…",
     "correlation_id": "…", "error": "…"}

The correlation id lives in a context variable: the API sets it once per request, and every line
that is logged while the request is served carries it. No secret is ever given to a logger; what a
row held, which PostgreSQL tells in the details of its errors, is left out.
"""

import json
import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import IO

correlation_id: ContextVar[str] = ContextVar("correlation_id", default="")
CORRELATION_HEADER = "X-Request-Id"
"""Where a caller may give one, and where every answer has it."""

# What every record has; anything else was given with `extra=` and belongs to the line.
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request := correlation_id.get():
            line["correlation_id"] = request
        line |= {name: value for name, value in vars(record).items() if name not in _PLAIN}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """The same for people who watch a terminal."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")


class WithoutDetails(logging.Filter):
    """Takes from errors of the database what they tell of a row: "Failing row contains (…)". Those
    are payloads and hashes. The message still names the table and the constraint."""

    def filter(self, record: logging.LogRecord) -> bool:
        given = record.args.values() if isinstance(record.args, Mapping) else record.args or ()
        for value in (*given, record.exc_info and record.exc_info[1]):
            if isinstance(value, BaseException):
                _strip(value)
        return True


def _strip(error: BaseException | None) -> None:
    """Of the details of an error, and of those that it comes from."""
    seen: set[int] = set()
    left = [error]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if getattr(one, "detail", None):
            one.detail = None  # type: ignore[attr-defined]
        left += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            left += one.exceptions


def configure(level: str, *, as_json: bool = True, stream: IO[str] | None = None) -> None:
    """Send all logs of the process to one stream (standard error)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    handler.addFilter(WithoutDetails())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
