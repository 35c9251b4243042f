"""JSON or MessagePack: what a body is written in, and what its sender wants back."""

from enum import Enum

from taskforge_server.engine.errors import CallerError

JSON_TYPE = "application/json"
MSGPACK_TYPE = "application/msgpack"

_REMEMBERED_MAX = 256


class Coding(Enum):
    """How a value is written; the value is its media type."""

    JSON = JSON_TYPE
    MSGPACK = MSGPACK_TYPE


_CODINGS = {
    JSON_TYPE: Coding.JSON,
    MSGPACK_TYPE: Coding.MSGPACK,
    "application/x-msgpack": Coding.MSGPACK,
    "application/vnd.msgpack": Coding.MSGPACK,
}
_RANGES = {"*/*": 0, "application/*": 1}


def body_coding(content_type: str | None) -> Coding:
    """The coding that `Content-Type` names; 415 for any other."""
    if content_type is None:
        raise _unsupported("name the coding of the body in Content-Type")
    media, _, parameters = content_type.partition(";")
    coding = _CODINGS.get(media.strip().lower())
    if coding is None:
        raise _unsupported(f"send {JSON_TYPE} or {MSGPACK_TYPE}")
    if parameters:
        for parameter in parameters.lower().split(";"):
            name, _, value = parameter.strip().partition("=")
            if name == "charset" and value.strip('" ') not in ("utf-8", "utf8"):
                raise _unsupported("JSON is UTF-8")
    return coding


_accepted: dict[tuple[str, Coding], Coding] = {}


def reply_coding(accept: str | None, of_body: Coding) -> Coding:
    """The coding that `Accept` likes best, the body's if it likes both; 406 for neither."""
    if accept is None or accept == "*/*":
        return of_body
    key = (accept, of_body)
    known = _accepted.get(key)
    if known is None:
        known = _best(accept, of_body)
        if len(_accepted) >= _REMEMBERED_MAX:
            _accepted.clear()
        _accepted[key] = known
    return known


def _best(accept: str, of_body: Coding) -> Coding:
    """RFC 9110: the most specific range that matches gives a type its weight."""
    weights: dict[Coding, tuple[int, float]] = dict.fromkeys(Coding, (-1, 0.0))
    for part in accept.lower().split(","):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        weight = _weight(parameters)
        exact = _CODINGS.get(media)
        matches = Coding if media in _RANGES else () if exact is None else (exact,)
        for coding in matches:
            specific = _RANGES.get(media, 2)
            if specific > weights[coding][0]:
                weights[coding] = (specific, weight)
    other = Coding.MSGPACK if of_body is Coding.JSON else Coding.JSON
    best = other if weights[other][1] > weights[of_body][1] else of_body
    if weights[best][1] <= 0:
        raise CallerError("not_acceptable", f"answers are {JSON_TYPE} or {MSGPACK_TYPE}", "Accept")
    return best


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def check_encoding(content_encoding: str | None) -> None:
    """Compressed bodies are refused: a small one may hold a large one."""
    if content_encoding is not None and content_encoding.strip().lower() not in ("", "identity"):
        raise _unsupported("send the body uncompressed", "Content-Encoding")


def _unsupported(message: str, field: str = "Content-Type") -> CallerError:
    return CallerError("unsupported_media_type", message, field)
