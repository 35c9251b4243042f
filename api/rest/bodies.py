"""From the bytes of a body to checked values, or to an error that names the field.

    bytes ──text and depth──► ──repeated names, entries──► ──decode──► struct

Nothing is decoded before its depth and the number of its entries are known to be within bounds. A
batch is decoded in one go; only when that fails is each item decoded by itself, so that each that
is wrong gets its own problem and the others are taken.
"""

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import msgspec

from taskforge_server.api.rest.media import Coding
from taskforge_server.api.rest.schemas import (
    JobBatch,
    JobBatchPacked,
    JobBatchRaw,
    JobSubmit,
    JobSubmitPacked,
    PlainJob,
)
from taskforge_server.api.service.submission import Checker, NewJob, plain_submit
from taskforge_server.engine import limits
from taskforge_server.engine.errors import CallerError, InvalidInput, TooLarge
from taskforge_server.engine.model.base import invalid
from taskforge_server.ext import bodyscan, jsontext
from taskforge_server.ext.table import SubmitBatch

T = TypeVar("T", bound=msgspec.Struct)

# Both are ValueErrors; MessagePack text that is not UTF-8 gives the second.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError)

DEPTH_MAX = limits.JSON_DEPTH_MAX
_JOB_DEPTH = 1
_BATCH_DEPTH = 3
_OWN_DEPTH_MAX = 3
_INDEX = re.compile(r"\[[^\]]*\]")
_NAMED = re.compile(r"^Object (?:missing required|contains unknown) field `(.*)`$", re.DOTALL)

_decode_job = msgspec.json.Decoder(JobSubmit).decode
_decode_plain = msgspec.json.Decoder(PlainJob).decode
_decode_batch = msgspec.json.Decoder(JobBatch).decode
_decode_batch_raw = msgspec.json.Decoder(JobBatchRaw).decode
_unpack_job = msgspec.msgpack.Decoder(JobSubmitPacked).decode
_unpack_job_raw = msgspec.msgpack.Decoder(JobSubmit).decode
_unpack_batch = msgspec.msgpack.Decoder(JobBatchPacked).decode
_unpack_batch_raw = msgspec.msgpack.Decoder(JobBatchRaw).decode
_unpack_any = msgspec.msgpack.Decoder().decode


def decode(body: bytes, coding: Coding, kind: type[T]) -> T:
    """A request of ours, but for submits."""
    if coding is Coding.JSON:
        check_json(body, DEPTH_MAX)
        _refuse_repeats(body, bodyscan.scan_json(body, _OWN_DEPTH_MAX)[0])
        return _decoded(kind, lambda: msgspec.json.decode(body, type=kind))
    _refuse_repeats(body, _scan_packed(body, _OWN_DEPTH_MAX, DEPTH_MAX)[0])
    return _decoded(kind, lambda: msgspec.msgpack.decode(body, type=kind))


def take_job(body: bytes, coding: Coding, checker: Checker) -> None:
    """The one job of a submit."""
    if coding is Coding.JSON:
        check_job(body)
        take_checked_job(body, checker)
        return
    _refuse_repeats(body, _scan_packed(body, _JOB_DEPTH, DEPTH_MAX + _JOB_DEPTH)[0])
    _take_packed(body, checker)


def check_job(body: bytes) -> None:
    """What is read of one job before it is decoded: JSON that can be stored, no name twice."""
    check_json(body, DEPTH_MAX + _JOB_DEPTH)
    _refuse_repeats(body, bodyscan.scan_json(body, _JOB_DEPTH)[0])


def take_checked_job(body: bytes, checker: Checker) -> None:
    """The one job of a submit, in JSON that passed `check_job`."""
    try:
        job = _decode_job(body)
    except UNREADABLE as error:
        raise refusal(error, JobSubmit) from None
    checker.add(job, job.payload)


def plain_job(
    body: bytes, payload_bytes_max: int, idempotency_key: str | None
) -> SubmitBatch | None:
    """The same of a job that says nothing but its type, priority and payload; None: it says more,
    or is not as it should be."""
    try:
        job = _decode_plain(body)
    except UNREADABLE:
        return None
    return plain_submit(job.job_type, job.payload, job.priority, payload_bytes_max, idempotency_key)


def take_batch(body: bytes, coding: Coding, checker: Checker) -> int:
    """The jobs of a batch; how many items it has. Refused ones are in `checker.refused`."""
    if coding is Coding.JSON:
        check_json(body, DEPTH_MAX + _BATCH_DEPTH)
        offset, entries = bodyscan.scan_json(body, _BATCH_DEPTH)
        _check_entries(entries, limits.BATCH_JOBS_MAX)
        try:
            if offset < 0:
                return _take_all(_decode_batch(body).jobs, checker)
        except UNREADABLE:
            pass  # some item is at fault: find out which
        _refuse_repeats(body, bodyscan.scan_json(body, 1)[0])
        items = _decoded(JobBatchRaw, lambda: _decode_batch_raw(body)).jobs
        return _take_each(items, checker, _take_text)
    if checker.take_plain(body, DEPTH_MAX):
        return checker.batch.count
    offset, entries = _scan_packed(body, _BATCH_DEPTH, DEPTH_MAX + _BATCH_DEPTH)
    _check_entries(entries, limits.BATCH_JOBS_MSGPACK_MAX)
    try:
        if offset < 0:
            return _take_all_packed(_unpack_batch(body).jobs, checker)
    except UNREADABLE:
        pass  # some item is at fault, or its payload is no `bin`
    _refuse_repeats(body, _scan_packed(body, 1, DEPTH_MAX + _BATCH_DEPTH)[0])
    items = _decoded(JobBatchRaw, lambda: _unpack_batch_raw(body)).jobs
    return _take_each(items, checker, _take_packed_item)


def _take_all(jobs: list[JobSubmit], checker: Checker) -> int:
    add = checker.add
    for place, job in enumerate(jobs):
        try:
            add(job, job.payload)
        except CallerError as error:
            checker.refused[place] = error
    return _some(len(jobs))


def _take_all_packed(jobs: list[JobSubmitPacked], checker: Checker) -> int:
    add = checker.add
    for place, job in enumerate(jobs):
        try:
            _check_payload(job.payload)
            add(job, job.payload)
        except CallerError as error:
            checker.refused[place] = error
    return _some(len(jobs))


def _take_each(
    items: list[msgspec.Raw], checker: Checker, take: Callable[[bytes, Checker], None]
) -> int:
    for place, item in enumerate(items):
        try:
            take(bytes(item), checker)
        except CallerError as error:
            checker.refused[place] = error
    return _some(len(items))


def _take_text(item: bytes, checker: Checker) -> None:
    _refuse_repeats(item, bodyscan.scan_json(item, _JOB_DEPTH)[0])
    try:
        job = _decode_job(item)
    except UNREADABLE as error:
        raise refusal(error, JobSubmit) from None
    checker.add(job, job.payload)


def _take_packed_item(item: bytes, checker: Checker) -> None:
    _refuse_repeats(item, _scan_packed(item, _JOB_DEPTH, DEPTH_MAX + _JOB_DEPTH)[0])
    _take_packed(item, checker)


def _take_packed(item: bytes, checker: Checker) -> None:
    """A job in MessagePack, whatever its payload is."""
    job: NewJob
    try:
        job = packed = _unpack_job(item)
        payload = packed.payload
    except UNREADABLE:
        try:
            job = raw = _unpack_job_raw(item)
        except UNREADABLE as error:
            raise refusal(error, JobSubmit) from None
        payload = _transcoded(raw.payload)
    _check_payload(payload)
    checker.add(job, payload)


def payload_text(raw: msgspec.Raw, coding: Coding) -> bytes | memoryview:
    """A payload of a request that was decoded whole, as JSON text; in MessagePack `bin` is that."""
    if coding is Coding.JSON:
        return raw
    value: Any = _unpack_any(raw)
    text = value if isinstance(value, bytes) else _transcoded(raw)
    _check_payload(text)
    return text


def _transcoded(raw: msgspec.Raw) -> bytes:
    """A value of MessagePack as JSON text."""
    try:
        value: Any = _unpack_any(raw)
        return json.dumps(
            value, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        ).encode()
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"has no form in JSON: {error}", "payload") from None


def _check_payload(payload: bytes) -> None:
    try:
        jsontext.check(payload, DEPTH_MAX)
    except jsontext.JsonError as error:
        raise InvalidInput(f"`bin` holds JSON text: {error}", "payload") from None


def check_json(body: bytes, depth_max: int) -> None:
    """One JSON text that can be stored, and not deeper than that."""
    try:
        jsontext.check(body, depth_max)
    except jsontext.JsonError as error:
        if error.reason == "nested too deep":
            raise TooLarge(f"more than {DEPTH_MAX} levels of arrays and objects") from None
        raise InvalidInput(str(error), code="malformed_body") from None


def _scan_packed(body: bytes, depth: int, depth_max: int) -> tuple[int, int]:
    try:
        return bodyscan.scan_msgpack(body, depth, depth_max)
    except bodyscan.DepthError:
        raise TooLarge(f"more than {DEPTH_MAX} levels of arrays and maps") from None


def _check_entries(entries: int, entries_max: int) -> None:
    if entries > entries_max:
        raise TooLarge(f"{entries} jobs: at most {entries_max} in one request", "jobs")


def _some(count: int) -> int:
    if not count:
        raise InvalidInput("give at least one job", "jobs")
    return count


def _refuse_repeats(body: bytes, offset: int) -> None:
    if offset < 0:
        return
    rest = body[offset : offset + limits.NAME_BYTES_SHOWN_MAX]
    name = re.search(rb"[A-Za-z_]\w*", rest)
    raise InvalidInput(
        f"an object names a field twice, or hides it behind an escape, at byte {offset}",
        name.group().decode() if name else None,
        "repeated_field",
    )


def _decoded(kind: type[T], call: Callable[[], T]) -> T:
    try:
        return call()
    except UNREADABLE as error:
        raise refusal(error, kind) from None


def refusal(
    error: msgspec.DecodeError | UnicodeDecodeError, kind: type[msgspec.Struct]
) -> InvalidInput:
    """What msgspec says of a struct, as our error: the field at fault is named also where one is
    missing, and what is accepted is said where it is a few words."""
    if isinstance(error, UnicodeDecodeError):
        return InvalidInput("a text is not UTF-8", code="malformed_body")
    if not isinstance(error, msgspec.ValidationError):
        return InvalidInput(str(error), code="malformed_body")
    refused = invalid(error)
    if refused.message.startswith(("Invalid enum value", "Expected `str` matching regex")):
        steps = _INDEX.sub("", refused.field or "").split(".")
        refused.message = refused.message[:256] + _accepted(_shape(kind), steps)
        return refused
    named = _NAMED.match(refused.message)
    if named is None:
        return refused
    parts = (refused.field, named.group(1)[: limits.NAME_BYTES_SHOWN_MAX])
    return InvalidInput(refused.message[:256], ".".join(part for part in parts if part))


@cache
def _shape(kind: type[msgspec.Struct]) -> msgspec.inspect.Type:
    return msgspec.inspect.type_info(kind)


def _accepted(shape: msgspec.inspect.Type, steps: list[str]) -> str:
    """What the place behind these steps takes; nothing where its type does not say."""
    match shape:
        case msgspec.inspect.LiteralType(values=values) if not steps:
            return "; one of " + ", ".join(map(str, values))
        case msgspec.inspect.Metadata(extra_json_schema={"examples": examples}) if not steps:
            return "; such as " + " or ".join(map(str, examples))
        case msgspec.inspect.StructType(fields=fields) if steps:
            inner = [field.type for field in fields if field.encode_name == steps[0]]
            steps = steps[1:]
        case msgspec.inspect.UnionType(types=choices):
            inner = list(choices)
        case msgspec.inspect.Metadata(type=part) | msgspec.inspect.CollectionType(item_type=part):
            inner = [part]
        case _:
            inner = []
    return next(filter(None, (_accepted(part, steps) for part in inner)), "")
