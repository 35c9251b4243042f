"""The ends of jobs as JSON: results and errors.

PostgreSQL's jsonb has no U+0000, so it is not let out of here: a result with it is an error of the
handler, in an error's text it is replaced.
"""

import re
import traceback
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from taskforge.errors import Cancel, FatalError, Retry, Snooze
from taskforge.limits import ERROR_MESSAGE_CHARS_MAX, ERROR_TRACEBACK_CHARS_MAX
from taskforge.worker import frames

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encode = msgspec.json.Encoder().encode


def result_json(result: Any, bytes_max: int) -> bytes:
    """A handler's result as JSON text; FatalError when it cannot be one."""
    try:
        data = _encode(result)
    except Exception as error:
        raise FatalError(f"the result is not JSON-able: {error}") from error
    if len(data) > bytes_max:
        raise FatalError(f"the result has {len(data)} bytes, the server takes {bytes_max}")
    if b"\\u0000" in data and _NUL.search(data):
        raise FatalError("the result has the character U+0000, which cannot be stored")
    return data


def failure_json(kind: str, message: str, *, retryable: bool, trace: str | None = None) -> bytes:
    """A failure as JSON text."""
    body: dict[str, Any] = {
        "type": kind,
        "message": _clean(message[:ERROR_MESSAGE_CHARS_MAX]),
        "retryable": retryable,
    }
    if trace is not None:
        body["traceback"] = _clean(trace[-ERROR_TRACEBACK_CHARS_MAX:])
    return _encode(body)


def raised(error: BaseException) -> tuple[int, bytes]:
    """Outcome and JSON text for what a handler raised."""
    if isinstance(error, Snooze):
        return frames.SNOOZE, _encode(_when(error))
    if isinstance(error, Cancel):
        said = failure_json("cancelled", error.reason, retryable=False)
        return frames.CANCELLED, _encode({"error": msgspec.Raw(said)})
    said = exception_json(error)
    if isinstance(error, Retry) and (when := _when(error)):
        return frames.RETRY, _encode(when | {"error": msgspec.Raw(said)})
    return frames.FAILED, said


def _when(error: Retry | Snooze) -> dict[str, Any]:
    """The time that the handler names, if it does."""
    if error.at is not None:
        return {"at_us": (error.at - _EPOCH) // timedelta(microseconds=1)}
    return {} if error.delay_s is None else {"delay_ms": round(error.delay_s * 1000)}


def understood(outcome: frames.Outcome, outcome_max: int) -> frames.Outcome:
    """The outcome as a server that knows none beyond `outcome_max` can take it: what a handler
    wants beside that is a failure which may be tried again, or not."""
    token, kind, data = outcome
    if kind <= outcome_max:
        return outcome
    if kind == frames.SNOOZE or data is None:
        text = "the server cannot put jobs off"
        return token, frames.FAILED, failure_json("Snooze", text, retryable=True)
    return (
        token,
        frames.FAILED,
        bytes(msgspec.json.decode(data, type=dict[str, msgspec.Raw])["error"]),
    )


def exception_json(error: BaseException) -> bytes:
    """What a handler raised: `FatalError` is final, everything else may be tried again."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - a broken __str__ must not break the worker
        message = "(the exception has no text)"
    try:
        # The first entry of the stack is the worker's own call of the handler.
        stack = error.__traceback__.tb_next if error.__traceback__ is not None else None
        trace = "".join(traceback.format_exception(type(error), error, stack))
    except Exception:  # noqa: BLE001 - nor must a broken chain of exceptions
        trace = None
    retryable = not isinstance(error, FatalError)
    return failure_json(type(error).__name__, message, retryable=retryable, trace=trace)


def bad_arguments_json(error: Exception) -> bytes:
    """A payload that does not fit its task: no attempt can succeed."""
    text = f"the payload does not fit the task: {error}"
    return failure_json("bad_arguments", text, retryable=False)


def _clean(text: str) -> str:
    """Text that UTF-8 and jsonb can hold."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


CANCELLED = failure_json("cancelled", "the job was cancelled while it ran", retryable=False)
"""Of a handler that ended because its job is to end."""
