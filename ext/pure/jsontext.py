"""The plain twin of `ext.jsontext`: the same interface, reasons and offsets. See there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

DEPTH_LIMIT = 256
DIGITS_MAX = 1_000
EXPONENT_MAX = 400

SPACE = re.compile(rb"[ \t\r\n]*")
PLAIN = re.compile(rb'[^\x00-\x1f"\\\x80-\xff]*')
ESCAPE = re.compile(rb'\\(?:["\\/bfnrt]|u([0-9a-fA-F]{4}))')
DIGITS = re.compile(rb"[0-9]*")
LITERALS = (b"true", b"false", b"null")


class JsonError(ValueError):
    """The data is not a JSON text that can be stored: the reason, and the offset in bytes."""

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(f"{reason} at byte {offset}")
        self.reason = reason
        self.offset = offset

    def __reduce__(self) -> tuple[type[JsonError], tuple[str, int]]:
        return type(self), (self.reason, self.offset)


def check(data: Buffer, depth_max: int = 64) -> None:
    """Return if the data is one JSON text that jsonb accepts. JsonError: it is not."""
    if not 0 <= depth_max <= DEPTH_LIMIT:
        raise ValueError(f"depth_max {depth_max} is not in 0 … {DEPTH_LIMIT}")
    _Scan(bytes(memoryview(data)), depth_max).text()


class _Scan:
    """A position in the data, and the brackets that would close what is open there."""

    def __init__(self, data: bytes, depth_max: int) -> None:
        self.data = data
        self.depth_max = depth_max
        self.at = 0
        self.closers: list[bytes] = []

    def text(self) -> None:
        while True:
            first = self.expect_any()
            if first in b"{[":
                self.open(first)
                if self.expect_any() != self.closers[-1]:
                    if first == b"{":
                        self.key()
                    continue
            else:
                self.scalar(first)
            if self.after_value():
                return

    def open(self, bracket: bytes) -> None:
        if len(self.closers) == self.depth_max:
            raise JsonError("nested too deep", self.at)
        self.closers.append(b"}" if bracket == b"{" else b"]")
        self.at += 1

    def after_value(self) -> bool:
        """Go to the start of the next value; True: the text is over."""
        while self.closers:
            byte = self.expect_any()
            if byte == b",":
                self.at += 1
                if self.closers[-1] == b"}":
                    self.expect_any()
                    self.key()
                return False
            self.expect(self.closers.pop())
        self.skip(SPACE)
        if self.at != len(self.data):
            raise JsonError("text after the value", self.at)
        return True

    def key(self) -> None:
        if self.peek() != b'"':
            raise self.unexpected()
        self.string()
        self.skip(SPACE)
        self.expect(b":")

    def scalar(self, first: bytes) -> None:
        if first == b'"':
            self.string()
        elif first in b"-0123456789":
            self.number()
        else:
            for literal in LITERALS:
                if self.data.startswith(literal, self.at):
                    self.at += len(literal)
                    return
            raise self.unexpected()

    def string(self) -> None:
        self.at += 1
        while True:
            self.skip(PLAIN)
            byte = self.peek()
            if byte == b'"':
                self.at += 1
                return
            if byte == b"":
                raise self.unexpected()
            if byte == b"\\":
                self.escape()
            elif byte < b"\x20":
                raise JsonError("control character in a string", self.at)
            else:
                self.utf8(byte[0])

    def escape(self) -> None:
        start = self.at
        unit = self.unit()
        if unit == 0:
            raise JsonError("U+0000 in a string", start)
        if 0xD800 <= unit <= 0xDFFF:
            paired = unit < 0xDC00 and ESCAPE.match(self.data, self.at)
            if not paired or not 0xDC00 <= self.unit() <= 0xDFFF:
                raise JsonError("lone surrogate", start)

    def unit(self) -> int:
        """The UTF-16 unit of a numeric escape; -1 for any other escape."""
        found = ESCAPE.match(self.data, self.at)
        if not found:
            raise JsonError("malformed escape", self.at)
        self.at = found.end()
        return int(found[1], 16) if found[1] else -1

    def utf8(self, lead: int) -> None:
        size = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
        try:
            self.data[self.at : self.at + size].decode()
        except UnicodeDecodeError:
            raise JsonError("malformed UTF-8", self.at) from None
        self.at += size

    def number(self) -> None:
        start = self.at
        if self.peek() == b"-":
            self.at += 1
        whole = self.digits()
        if whole > 1 and self.data[self.at - whole] == ord("0"):
            self.at -= whole - 1
            raise self.unexpected()
        fraction = exponent = 0
        if self.peek() == b".":
            self.at += 1
            fraction = self.digits()
        if self.peek() in (b"e", b"E"):
            self.at += 1
            if self.peek() in (b"+", b"-"):
                self.at += 1
            digits = self.data[self.at : self.at + self.digits()]
            exponent = int(digits.lstrip(b"0")[:4] or b"0")
        if whole + fraction > DIGITS_MAX or exponent > EXPONENT_MAX:
            raise JsonError("number out of range", start)

    def digits(self) -> int:
        """How many digits stood here: at least one."""
        start = self.at
        self.skip(DIGITS)
        if self.at == start:
            raise self.unexpected()
        return self.at - start

    def peek(self) -> bytes:
        return self.data[self.at : self.at + 1]

    def skip(self, pattern: re.Pattern[bytes]) -> None:
        found = pattern.match(self.data, self.at)
        assert found
        self.at = found.end()

    def expect_any(self) -> bytes:
        """The next byte that is no white space."""
        self.skip(SPACE)
        if self.at == len(self.data):
            raise self.unexpected()
        return self.peek()

    def expect(self, byte: bytes) -> None:
        if self.peek() != byte:
            raise self.unexpected()
        self.at += 1

    def unexpected(self) -> JsonError:
        ended = self.at == len(self.data)
        return JsonError("unexpected end" if ended else "unexpected character", self.at)
