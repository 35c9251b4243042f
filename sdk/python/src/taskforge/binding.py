"""How a payload becomes a call: the signature of a handler, compiled once.

A payload is a JSON object of arguments by name: `{"name": "Ada"}` calls `greet(name="Ada")`; null
and `{}` call it without arguments. Type hints convert (msgspec: structs, dataclasses, datetimes,
UUIDs, enums, …); a name that the signature does not know, one that is missing and a value of
another type are refused, before the handler sees anything.

The parameters become the fields of one msgspec struct, so that decoding, conversion and check are
a single call into C, and the struct's values are the positional arguments.
"""

import inspect
from collections.abc import Callable
from types import GenericAlias
from typing import Any, get_type_hints

import msgspec
from msgspec.structs import astuple

from taskforge.context import Context

_NO_ARGUMENTS = (b"", b"null", b"{}")
_PLAIN_DEFAULTS = (type(None), bool, int, float, str, bytes, tuple)

Call = Callable[[bytes], Any]
CallWithContext = Callable[[bytes, Context], Any]


class Binding:
    """A handler as the worker calls it: `call(payload)` or `call_with(payload, context)`.

    Exactly one of the two is there, as `takes_context` says. Both raise `msgspec.MsgspecError` for
    a payload that does not fit; for an async handler they return its coroutine, not started.
    """

    __slots__ = ("call", "call_with", "takes_context")

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        target: Callable[..., Any] | None = None,
    ) -> None:
        """Compile the signature of `function`; `target` (default: itself) gets the arguments."""
        target = target or function
        parameters, context_name = _parameters(function, name)
        self.takes_context = context_name is not None
        self.call: Call | None = None
        self.call_with: CallWithContext | None = None
        fields = [item for item in parameters if item.kind is not inspect.Parameter.VAR_KEYWORD]
        rest = next((item for item in parameters if item.kind is item.VAR_KEYWORD), None)
        ordered = all(item.kind is not item.KEYWORD_ONLY for item in fields)
        try:
            if context_name is not None or rest is not None or not ordered:
                place = _place(function, context_name)
                general = _general(target, name, fields, rest, context_name, place)
                if context_name is not None:
                    self.call_with = general
                else:
                    self.call = lambda payload: general(payload, None)
            elif fields:
                self.call = _positional(target, _struct(name, fields))
            else:
                self.call = _without_arguments(target, name)
        except TypeError as error:
            raise TypeError(f"task {name}: a parameter cannot come from JSON: {error}") from error


def _without_arguments(function: Callable[..., Any], name: str) -> Call:
    decode = msgspec.json.Decoder(_struct(name, [])).decode

    def call(payload: bytes) -> Any:
        if payload not in _NO_ARGUMENTS:
            decode(payload)  # refuses what is not an empty object
        return function()

    return call


def _positional(function: Callable[..., Any], struct: type[msgspec.Struct]) -> Call:
    decode = msgspec.json.Decoder(struct).decode

    def call(payload: bytes) -> Any:
        try:
            values = decode(payload)
        except msgspec.DecodeError:
            if payload not in _NO_ARGUMENTS:
                raise
            values = decode(b"{}")
        return function(*astuple(values))

    return call


def _general(
    function: Callable[..., Any],
    name: str,
    fields: list[inspect.Parameter],
    rest: inspect.Parameter | None,
    context_name: str | None,
    context_index: int | None,
) -> Callable[[bytes, Context | None], Any]:
    """Any signature: keyword-only parameters, `**rest`, and the context at its place."""
    struct = _struct(name, fields, kw_only=True)
    decode_struct = msgspec.json.Decoder(struct).decode
    decode_object = msgspec.json.Decoder(dict[str, Any]).decode
    known = frozenset(item.name for item in fields)
    placed = [item.name for item in fields if item.kind is not item.KEYWORD_ONLY]
    named = [item.name for item in fields if item.kind is item.KEYWORD_ONLY]
    rest_type: Any = GenericAlias(dict, (str, rest.annotation)) if rest is not None else None

    def call(payload: bytes, context: Context | None) -> Any:
        text = b"{}" if payload in _NO_ARGUMENTS else payload
        others: dict[str, Any] = {}
        if rest is None:
            values = decode_struct(text)
        else:
            given = decode_object(text)
            own = {key: value for key, value in given.items() if key in known}
            values = msgspec.convert(own, struct)
            if len(own) < len(given):
                others = {key: value for key, value in given.items() if key not in known}
                others = msgspec.convert(others, rest_type)
        arguments = [getattr(values, key) for key in placed]
        for key in named:
            others[key] = getattr(values, key)
        if context_index is not None:
            arguments.insert(context_index, context)
        elif context_name is not None:
            others[context_name] = context
        return function(*arguments, **others)

    return call


def _place(function: Callable[..., Any], context_name: str | None) -> int | None:
    """The index of the context among the positional parameters; None: it is passed by name."""
    if context_name is None:
        return None
    signature = inspect.signature(function).parameters
    if signature[context_name].kind is inspect.Parameter.KEYWORD_ONLY:
        return None
    return list(signature).index(context_name)


def _struct(
    name: str, fields: list[inspect.Parameter], *, kw_only: bool = False
) -> type[msgspec.Struct]:
    """The struct whose fields are these parameters, in their order."""
    return msgspec.defstruct(
        name if name.isidentifier() else "Arguments",
        [_field(item) for item in fields],
        forbid_unknown_fields=True,
        kw_only=kw_only,
    )


def _field(item: inspect.Parameter) -> Any:
    if item.default is inspect.Parameter.empty:
        return item.name, item.annotation
    if isinstance(item.default, _PLAIN_DEFAULTS):
        return item.name, item.annotation, item.default
    # Like Python itself: one object, made when the function was defined, for all calls.
    default = item.default
    return item.name, item.annotation, msgspec.field(default_factory=lambda: default)


def _parameters(
    function: Callable[..., Any], name: str
) -> tuple[list[inspect.Parameter], str | None]:
    """The parameters that come from the payload, with resolved annotations; the context's name."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise TypeError(f"task {name}: a type hint cannot be resolved: {error}") from error
    found: list[inspect.Parameter] = []
    context_name = None
    for item in inspect.signature(function).parameters.values():
        annotation = hints.get(item.name, Any)
        if annotation is Context:
            if context_name is not None:
                raise TypeError(f"task {name}: two parameters of type Context")
            context_name = item.name
        elif item.kind is item.VAR_POSITIONAL:
            raise TypeError(f"task {name}: *{item.name} has no name that a payload could give")
        else:
            found.append(item.replace(annotation=annotation))
    return found, context_name
