"""The first frame of a worker's stream: `[1, {...}]`, decoded and checked."""

from typing import Annotated, Any, Literal

import msgspec

from taskforge_server.engine import limits
from taskforge_server.engine.actors.ports import Hello
from taskforge_server.engine.errors import FrameError
from taskforge_server.engine.model.base import Id, Name, invalid
from taskforge_server.engine.model.worker import WorkerType
from taskforge_server.ext import bodyscan

PROTOCOL = 1
TOKEN_BYTES = 24
_HELLO = 1
_DEPTH_MAX = 8
_OWN_DEPTH = 2

_Text = Annotated[str, msgspec.Meta(max_length=limits.NAME_CHARS_MAX)]
_TypeName = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.JOB_TYPE_BYTES_MAX)]


class HelloRefused(Exception):  # noqa: N818 - an answer to the worker, not a failure of ours
    """A hello that can be read but not be taken; the reason goes into the close frame."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Body(msgspec.Struct, kw_only=True):
    """Fields of later protocols are passed over."""

    protocol: int
    worker_id: Id
    name: Name
    worker_type: WorkerType = "general"
    queues: Annotated[list[_Text], msgspec.Meta(min_length=1, max_length=limits.WORKER_QUEUES_MAX)]
    types: Annotated[
        list[_TypeName], msgspec.Meta(min_length=1, max_length=limits.WORKER_TYPES_MAX)
    ]
    credit: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    running: bytes = b""
    sdk: _Text = ""
    instance: Annotated[bytes, msgspec.Meta(max_length=limits.INSTANCE_BYTES_MAX)] = b""
    features: Annotated[list[_Text], msgspec.Meta(max_length=limits.WORKER_FEATURES_MAX)] = []


class _Frame(msgspec.Struct, array_like=True):
    kind: Literal[1]
    body: _Body


class _AnyFrame(msgspec.Struct, array_like=True):
    kind: int
    body: dict[str, Any] = {}


_decode = msgspec.msgpack.Decoder(_Frame).decode
_decode_any = msgspec.msgpack.Decoder(_AnyFrame).decode


def decode_hello(frame: bytes) -> Hello:
    """FrameError: this is no frame. HelloRefused: it is a hello that says something wrong."""
    try:
        offset, _ = bodyscan.scan_msgpack(frame, _OWN_DEPTH, _DEPTH_MAX)
        if offset >= 0:
            raise FrameError("the hello names a field twice")
        seen = _decode_any(frame)
        if seen.kind != _HELLO:
            raise FrameError(f"the first frame must be a hello, not one of kind {seen.kind}")
        protocol = seen.body.get("protocol")
        if protocol != PROTOCOL:
            raise HelloRefused(f"protocol {protocol!r}: this server speaks {PROTOCOL}"[:100])
        body = _decode(frame).body
    except msgspec.ValidationError as error:
        refused = invalid(error)
        raise HelloRefused(f"hello: {refused.field or ''} {refused.message}"[:120]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, bodyscan.DepthError) as error:
        raise FrameError(f"the hello is not MessagePack: {error}"[:120]) from None
    if len(body.running) % TOKEN_BYTES:
        raise HelloRefused("hello: running is no row of tokens")
    return Hello(
        worker_id=body.worker_id,
        name=body.name,
        worker_type=body.worker_type,
        queues=tuple(dict.fromkeys(body.queues)),
        types=frozenset(body.types),
        credit=min(body.credit, limits.CREDIT_MAX),
        running=body.running,
        sdk=body.sdk,
        instance=body.instance,
        features=frozenset(body.features),
    )
