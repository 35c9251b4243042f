"""What workers say of attempts that did not succeed, read with suspicion: nothing that a worker
says may lose a job or put into the tables what they cannot hold.

    outcome 1  failed     error
    outcome 3  retry      {"error": error, "delay_ms" | "at_us"}
    outcome 4  snooze     {"delay_ms" | "at_us"}
    outcome 5  cancelled  {"error": error}

    error = {"type", "message", "traceback"?, "retryable"?}

What cannot be understood is a failure with an error that says so, and may be tried again.
"""

import json
from dataclasses import dataclass

import msgspec

from taskforge_server.engine import limits
from taskforge_server.engine.shard.rules import Failure
from taskforge_server.ext import jsontext


def error_json(kind: str, message: str) -> bytes:
    """An error that the server itself reports, in the form of those of handlers."""
    return json.dumps({"type": kind, "message": message}).encode()


@dataclass(frozen=True, slots=True)
class Told(Failure):
    """A failure with its error as it is stored."""

    error: bytes = b"{}"
    by_server: bool = False
    """It says nothing of the job's content."""


class _Wish(msgspec.Struct, frozen=True):
    """What comes with the outcomes 3 to 5."""

    error: msgspec.Raw = msgspec.Raw(b"null")
    delay_ms: int | None = None
    at_us: int | None = None


_read_wish = msgspec.json.Decoder(_Wish).decode


def checked_error(error: bytes | None) -> Told:
    """The error as it is stored, and what it says to the rules."""
    try:
        if error is None or len(error) > limits.ERROR_BYTES_MAX:
            raise ValueError("missing or too large")
        jsontext.check(error, limits.JSON_DEPTH_MAX)
        content = json.loads(error)
        if not isinstance(content, dict):
            raise ValueError("not an object")
    except ValueError as problem:
        return _invalid(problem)
    kind = content.get("type")
    return Told(
        error_type=kind if isinstance(kind, str) else "",
        retryable=content.get("retryable") is not False,
        error=error,
    )


def told(data: bytes | None, now_us: int) -> Told:
    """An outcome with a wish; `due_us` is None where it names no time."""
    try:
        if data is None or len(data) > limits.ERROR_BYTES_MAX:
            raise ValueError("missing or too large")
        wish = _read_wish(data)
    except (ValueError, RecursionError) as problem:  # msgspec's errors are such
        return _invalid(problem)
    said = bytes(wish.error)
    error = Told(error=b"{}") if said == b"null" else checked_error(said)
    due_us = wish.at_us
    if wish.delay_ms is not None:
        due_us = now_us + wish.delay_ms * 1000
    return Told(error_type=error.error_type, due_us=due_us, error=error.error)


def _invalid(problem: Exception) -> Told:
    message = f"the worker reported no usable error: {problem}"
    return Told(error_type="invalid_error", error=error_json("invalid_error", message))
