"""The JSON check, compiled and plain, against the json module with the extra rules on top."""

import json
import math
import pickle
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taskforge_server.ext import jsontext as compiled
from taskforge_server.ext.pure import jsontext as plain

DEPTH_MAX = 6
Verdict = tuple[str, int] | None


@pytest.fixture(scope="module", params=[compiled, plain], ids=["compiled", "plain"])
def jsontext(request: pytest.FixtureRequest) -> Any:
    return request.param


def verdict(module: ModuleType, data: bytes, depth_max: int = DEPTH_MAX) -> Verdict:
    """The reason and the offset of the refusal; None: accepted."""
    try:
        module.check(data, depth_max)
    except module.JsonError as error:
        return error.reason, error.offset
    return None


def acceptable(data: bytes, depth_max: int = DEPTH_MAX) -> bool:
    """The same question to the json module. Numbers are given as the text that they were."""

    def number(text: str) -> float:
        mantissa, _, exponent = text.lower().partition("e")
        if sum(map(str.isdigit, mantissa)) > 1_000 or abs(int(exponent or "0")) > 400:
            raise ValueError(text)
        return 0.0

    def constant(text: str) -> None:
        raise ValueError(text)

    try:
        value = json.loads(
            data.decode(), parse_int=number, parse_float=number, parse_constant=constant
        )
        return fits(value, depth_max)
    except (ValueError, RecursionError):
        return False


def fits(value: Any, depth_left: int) -> bool:
    """Whether the strings can be stored and the value is not too deep."""
    match value:
        case str():
            value.encode()  # UnicodeEncodeError: a lone surrogate
            return "\0" not in value
        case list():
            return depth_left > 0 and all(fits(item, depth_left - 1) for item in value)
        case dict():
            inner = [*value.keys(), *value.values()]
            return depth_left > 0 and all(fits(item, depth_left - 1) for item in inner)
        case _:
            return True


texts = st.text(st.characters(codec="utf-8"), max_size=12) | st.text('a"\\/\n\0é€😀', max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=20,
)
FORMS: list[Callable[[Any], str]] = [
    json.dumps,
    lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")),
    lambda value: json.dumps(value, indent="\r\n\t "),
]
documents = st.builds(lambda value, form: form(value).encode(), values, st.sampled_from(FORMS))
PIECES = [
    *(bytes([byte]) for byte in b'[]{},:"-+.eE019\\/ \n\t\x00\x1f\x7f\x80'),
    *(b"null", b"true", b"false", b"tru", b"NaN", b"Infinity", b"a", b"e400", b"1E-401"),
    *(rb"\u0000", rb"\u00e9", rb"\ud83d", rb"\ude00", rb"\uDBFF\uDFFF", rb"\u12", rb"\n", rb"\x"),
    *(b"\xc3\xa9", b"\xe2\x82\xac", b"\xf0\x9f\x98\x80", b"\xed\xa0\x80", b"\xc0\x80", b"\xe0\x9f"),
    *(b"\xf4\x90\x80\x80", b"\xf8", b"\xef\xbb\xbf", b"\xff", b"7" * 501, b"abcdefgh"),
]
pieces = st.sampled_from(PIECES)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A document with some bytes replaced, dropped or put in."""
    data = draw(documents)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(pieces | st.just(b"")) + data[at + draw(st.integers(0, 3)) :]
    return data


ACCEPTED = [
    b"0",
    b"-0",
    b"-0.0e-0",
    b"1E+0000000000000000000400",
    b"5e-324",
    b"1.7976931348623157e308",
    b"9" * 1_000,
    b"0." + b"0" * 999,
    b" \t\r\nnull \t\r\n",
    b'""',
    b'{"":{"":[]}}',
    b'{"a":1,"a":2}',
    rb'"\"\\\/\b\f\n\r\t\u00E9\u0001"',
    rb'"\ud83d\ude00\uDBFF\uDFFF"',
    b'"\x7f"',
    '"é€😀\uffff\U0010ffff\ue000\ud7ff"'.encode(),
    b"[" * 64 + b"]" * 64,
]
REFUSED = [
    (b"", "unexpected end", 0),
    (b" \n", "unexpected end", 2),
    (b"[1", "unexpected end", 2),
    (b"[1,", "unexpected end", 3),
    (b'{"a"', "unexpected end", 4),
    (b'{"a":', "unexpected end", 5),
    (b'{"a":1,', "unexpected end", 7),
    (b"{", "unexpected end", 1),
    (b'"abcdefghijkl', "unexpected end", 13),
    (b"-", "unexpected end", 1),
    (b"1.", "unexpected end", 2),
    (b"1e", "unexpected end", 2),
    (b"1e+", "unexpected end", 3),
    (b"[,]", "unexpected character", 1),
    (b"[1,]", "unexpected character", 3),
    (b"[1 2]", "unexpected character", 3),
    (b"[}", "unexpected character", 1),
    (b'{"a":1]', "unexpected character", 6),
    (b'{"a":1,}', "unexpected character", 7),
    (b"{1:2}", "unexpected character", 1),
    (b'{"a",1}', "unexpected character", 4),
    (b"01", "unexpected character", 1),
    (b"-01", "unexpected character", 2),
    (b"+1", "unexpected character", 0),
    (b".5", "unexpected character", 0),
    (b"1.e1", "unexpected character", 2),
    (b"[tru]", "unexpected character", 1),
    (b"nul", "unexpected character", 0),
    (b"NaN", "unexpected character", 0),
    (b"-Infinity", "unexpected character", 1),
    (b"'a'", "unexpected character", 0),
    (b"/**/1", "unexpected character", 0),
    (b"\xef\xbb\xbf1", "unexpected character", 0),
    (b"\x001", "unexpected character", 0),
    (b"1\x00", "text after the value", 1),
    (b"1 2", "text after the value", 2),
    (b"{}}", "text after the value", 2),
    (b"nulll", "text after the value", 4),
    (b"[" * 64 + b"{", "nested too deep", 64),
    (b'"a\nb"', "control character in a string", 2),
    (b'"12345678\x00"', "control character in a string", 9),
    (rb'"\x"', "malformed escape", 1),
    (rb'"\u12"', "malformed escape", 1),
    (rb'"\u12g4"', "malformed escape", 1),
    (rb'"\U0001"', "malformed escape", 1),
    (b'"\\', "malformed escape", 1),
    (rb'"a\u0000"', "U+0000 in a string", 2),
    (rb'{"\u0000":1}', "U+0000 in a string", 2),
    (rb'"\ud800"', "lone surrogate", 1),
    (rb'"\udc00"', "lone surrogate", 1),
    (rb'"\ud800\ud800"', "lone surrogate", 1),
    (rb'"\udc00\udc00"', "lone surrogate", 1),
    (rb'"\ud800\u0041"', "lone surrogate", 1),
    (rb'"\ud800\n"', "lone surrogate", 1),
    (rb'"\ud83d\ude00\ude00"', "lone surrogate", 13),
    (b'"\x80"', "malformed UTF-8", 1),
    (b'"a\xc0\x80"', "malformed UTF-8", 2),
    (b'"\xe0\x9f\xbf"', "malformed UTF-8", 1),
    (b'"\xed\xa0\x80"', "malformed UTF-8", 1),
    (b'"\xf0\x8f\xbf\xbf"', "malformed UTF-8", 1),
    (b'"\xf4\x90\x80\x80"', "malformed UTF-8", 1),
    (b'"\xf5\x80\x80\x80"', "malformed UTF-8", 1),
    (b'"\xe2\x82"', "malformed UTF-8", 1),
    (b'"\xe2\x82', "malformed UTF-8", 1),
    (b"[1e401]", "number out of range", 1),
    (b"1e-401", "number out of range", 0),
    (b"1e99999999999999999999", "number out of range", 0),
    (b"9" * 1_001, "number out of range", 0),
    (b"-0." + b"0" * 1_000, "number out of range", 0),
]


class TestCheck:
    @pytest.mark.parametrize("data", ACCEPTED)
    def test_accepts(self, jsontext: ModuleType, data: bytes) -> None:
        assert verdict(jsontext, data, 64) is None

    @pytest.mark.parametrize(("data", "reason", "offset"), REFUSED)
    def test_says_what_is_wrong_and_where(
        self, jsontext: ModuleType, data: bytes, reason: str, offset: int
    ) -> None:
        assert verdict(jsontext, data, 64) == (reason, offset)

    def test_depth_counts_arrays_and_objects(self, jsontext: ModuleType) -> None:
        assert verdict(jsontext, b"1", 0) is None
        assert verdict(jsontext, b"[]", 0) == ("nested too deep", 0)
        deepest = b'[{"a":' * 128 + b"[]" + b"}]" * 128
        assert verdict(jsontext, deepest, 256) == ("nested too deep", 6 * 128)
        deepest = b'[{"a":' * 128 + b"1" + b"}]" * 128
        assert verdict(jsontext, deepest, 256) is None
        assert verdict(jsontext, deepest, 255) == ("nested too deep", 6 * 127 + 1)
        for depth_max in (-1, 257):
            with pytest.raises(ValueError, match="is not in 0 … 256"):
                jsontext.check(b"1", depth_max)

    def test_takes_any_buffer(self, jsontext: ModuleType) -> None:
        text = b'{"a":[1,2]}'
        for data in (bytearray(text), memoryview(b"--" + text)[2:]):
            jsontext.check(data)
        with pytest.raises(jsontext.JsonError):
            jsontext.check(memoryview(text)[:-1])
        for wrong in ("{}", 1, None):
            with pytest.raises(TypeError):
                jsontext.check(wrong)

    def test_the_error_is_a_value_error_that_travels(self, jsontext: ModuleType) -> None:
        with pytest.raises(ValueError, match="unexpected end at byte 1") as caught:
            jsontext.check(b"[")
        again = pickle.loads(pickle.dumps(caught.value))
        assert (again.reason, again.offset) == ("unexpected end", 1)

    @pytest.mark.parametrize("size", range(34))
    def test_finds_the_end_of_strings_of_every_length(
        self, jsontext: ModuleType, size: int
    ) -> None:
        for at in range(size):
            data = b'"' + b"a" * at + b"\x1f" + b"a" * (size - at) + b'"'
            assert verdict(jsontext, data) == ("control character in a string", at + 1)
        assert verdict(jsontext, b'"' + b"~" * size + b'"') is None
        assert verdict(jsontext, b'"' + b"~" * size) == ("unexpected end", size + 1)

    def test_knows_every_byte_in_every_place_of_a_word(self, jsontext: ModuleType) -> None:
        for byte in range(256):
            for at in range(9):
                data = b'"' + b"~" * at + bytes([byte]) + b" " * (16 - at) + b'"'
                assert (verdict(jsontext, data) is None) == acceptable(data), data

    def test_knows_the_bounds_of_utf8(self, jsontext: ModuleType) -> None:
        seconds = b'"\x20\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xff'
        for lead in range(0x80, 0x100):
            for second in seconds:
                for rest in (b"", b"\x80", b"\xbf\xbf", b"\xc0\x80", b"\x80\x7f"):
                    data = b'"' + bytes([lead, second]) + rest + b'"'
                    assert (verdict(jsontext, data) is None) == acceptable(data), data

    @given(values, st.sampled_from(FORMS))
    def test_accepts_what_json_writes(
        self, jsontext: ModuleType, value: Any, form: Callable[[Any], str]
    ) -> None:
        refused = verdict(jsontext, form(value).encode(), 256)
        assert (refused is None) == fits_everywhere(value)

    @given(damaged() | st.lists(pieces, max_size=12).map(b"".join) | st.binary(max_size=12))
    @example(b'"\xed\xa0\x80"')
    @example(rb'"\ud800"')
    def test_agrees_with_the_json_module(self, jsontext: ModuleType, data: bytes) -> None:
        assert (verdict(jsontext, data) is None) == acceptable(data)


def fits_everywhere(value: Any) -> bool:
    """The value itself keeps the extra rules: the numbers that Python writes need none."""
    if isinstance(value, float) and math.isinf(value):
        return False
    if isinstance(value, int | float) or value is None:
        return len(str(value)) <= 1_000
    if isinstance(value, dict):
        return all(map(fits_everywhere, [*value.keys(), *value.values()]))
    return all(map(fits_everywhere, value)) if isinstance(value, list) else "\0" not in value


@given(damaged() | st.lists(pieces, max_size=12).map(b"".join), st.integers(0, DEPTH_MAX))
def test_both_say_the_same(data: bytes, depth_max: int) -> None:
    assert verdict(compiled, data, depth_max) == verdict(plain, data, depth_max)
