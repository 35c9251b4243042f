"""Is this one JSON text that PostgreSQL's jsonb surely accepts? Checked once, at the door.

Strict RFC 8259, and besides:

    encoding   valid UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF; no BOM
    strings    no U+0000, raw or escaped (jsonb cannot hold it); escaped surrogates only in pairs
    depth      at most `depth_max` arrays and objects inside each other; a scalar has depth 0
    numbers    at most DIGITS_MAX digits before the exponent, leading zeros of a fraction
               included, and an exponent within ±EXPONENT_MAX. Every double that a program prints
               passes; the numeric of jsonb could hold more, but writes 1e16000 out in full, so
               that a short text would grow without measure when it is read back

The error names the first byte that cannot stand where it stands: for an escape its backslash, for
malformed UTF-8 the lead byte, for a number out of range its first byte, for a literal that is
misspelt its first letter, for an unfinished text the size of the data.

The scan keeps one bit a level, object or array, and does not recurse.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memcpy, memset

DEPTH_LIMIT = 256
DIGITS_MAX = 1_000
EXPONENT_MAX = 400

cdef enum:
    C_DEPTH_LIMIT = 256
    C_DEPTH_WORDS = 4  # of 64 bits, one for each level
    C_DIGITS_MAX = 1_000
    C_EXPONENT_MAX = 400

ctypedef const unsigned char* Bytes

# What each byte is inside a string: 0 plain, else it ends the run of plain bytes.
cdef unsigned char SPECIAL[256]
memset(SPECIAL, 0, 256)
memset(SPECIAL, 1, 0x20)
memset(SPECIAL + 0x80, 1, 0x80)
SPECIAL[c'"'] = 1
SPECIAL[c"\\"] = 1

cdef tuple REASONS = (
    "valid",
    "unexpected end",
    "unexpected character",
    "text after the value",
    "nested too deep",
    "control character in a string",
    "malformed escape",
    "U+0000 in a string",
    "lone surrogate",
    "malformed UTF-8",
    "number out of range",
)


class JsonError(ValueError):
    """The data is not a JSON text that can be stored: the reason, and the offset in bytes."""

    def __init__(self, str reason, Py_ssize_t offset):
        super().__init__(f"{reason} at byte {offset}")
        self.reason = reason
        self.offset = offset

    def __reduce__(self):
        return type(self), (self.reason, self.offset)


cdef str reason_text(int code):
    """The reason that a code stands for."""
    return REASONS[code]


def check(data, int depth_max=64) -> None:
    """Return if the data is one JSON text that jsonb accepts. JsonError: it is not."""
    cdef Py_buffer view
    cdef Py_ssize_t offset = 0
    cdef int code
    if not 0 <= depth_max <= C_DEPTH_LIMIT:
        raise ValueError(f"depth_max {depth_max} is not in 0 … {DEPTH_LIMIT}")
    if PyBytes_CheckExact(data):
        code = check_bytes(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), depth_max, &offset)
    else:
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        code = check_bytes(<const char*>view.buf, view.len, depth_max, &offset)
        PyBuffer_Release(&view)
    if code != JSON_OK:
        raise JsonError(reason_text(code), offset)


cdef int check_bytes(
    const char* data, Py_ssize_t size, int depth_max, Py_ssize_t* offset
) noexcept nogil:
    cdef Bytes at = <Bytes>data
    cdef int code = scan_text(&at, <Bytes>data + size, min(depth_max, C_DEPTH_LIMIT))
    offset[0] = at - <Bytes>data
    return code


# Each scan_… starts at its first byte and leaves `at` behind its last, or at the offending byte.

cdef int scan_text(Bytes* at, Bytes end, int depth_max) noexcept nogil:
    cdef uint64_t objects[C_DEPTH_WORDS]  # one bit a level: 1 object, 0 array
    cdef uint64_t bit
    cdef int depth = 0
    cdef int code
    cdef unsigned char first
    while True:
        # A value starts here.
        if not skip_space(at, end):
            return JSON_END
        first = at[0][0]
        if first == c"{" or first == c"[":
            if depth == depth_max:
                return JSON_DEPTH
            bit = <uint64_t>1 << (depth & 63)
            if first == c"{":
                objects[depth >> 6] |= bit
            else:
                objects[depth >> 6] &= ~bit
            depth += 1
            at[0] += 1
            if not skip_space(at, end):
                return JSON_END
            if at[0][0] != first + 2:  # { and }, [ and ] are two apart
                code = scan_key(at, end) if first == c"{" else JSON_OK
                if code != JSON_OK:
                    return code
                continue
        else:
            code = scan_scalar(at, end)
            if code != JSON_OK:
                return code
        code = scan_after(at, end, objects, &depth)
        if code != JSON_OK or depth == 0:
            return code


cdef inline int scan_after(Bytes* at, Bytes end, uint64_t* objects, int* depth) noexcept nogil:
    """What follows a value, to the start of the next one; or to the end, with depth 0."""
    cdef bint more = skip_space(at, end)
    cdef bint is_object
    while depth[0] != 0:
        if not more:
            return JSON_END
        is_object = objects[(depth[0] - 1) >> 6] >> ((depth[0] - 1) & 63) & 1
        if at[0][0] == c",":
            at[0] += 1
            if not is_object:
                return JSON_OK
            if not skip_space(at, end):
                return JSON_END
            return scan_key(at, end)
        if at[0][0] != (c"}" if is_object else c"]"):
            return JSON_CHARACTER
        at[0] += 1
        depth[0] -= 1
        more = skip_space(at, end)
    return JSON_TRAILING if more else JSON_OK


cdef inline bint skip_space(Bytes* at, Bytes end) noexcept nogil:
    """Go to the next byte that is no white space. False: there is none."""
    while at[0] != end:
        if at[0][0] > c" ":
            return True
        if not (at[0][0] == c" " or at[0][0] == c"\n" or at[0][0] == c"\r" or at[0][0] == c"\t"):
            return True
        at[0] += 1
    return False


cdef inline int scan_scalar(Bytes* at, Bytes end) noexcept nogil:
    cdef unsigned char first = at[0][0]
    if first == c'"':
        return scan_string(at, end)
    if first == c"-" or c"0" <= first <= c"9":
        return scan_number(at, end)
    if first == c"t":
        return scan_literal(at, end, b"true", 4)
    if first == c"f":
        return scan_literal(at, end, b"false", 5)
    if first == c"n":
        return scan_literal(at, end, b"null", 4)
    return JSON_CHARACTER


cdef inline int scan_literal(
    Bytes* at, Bytes end, const char* literal, Py_ssize_t size
) noexcept nogil:
    if end - at[0] < size or memcmp(at[0], literal, size) != 0:
        return JSON_CHARACTER
    at[0] += size
    return JSON_OK


cdef inline int scan_key(Bytes* at, Bytes end) noexcept nogil:
    """A key and its colon."""
    cdef int code
    if at[0][0] != c'"':
        return JSON_CHARACTER
    code = scan_string(at, end)
    if code != JSON_OK:
        return code
    if not skip_space(at, end):
        return JSON_END
    if at[0][0] != c":":
        return JSON_CHARACTER
    at[0] += 1
    return JSON_OK


cdef int scan_string(Bytes* at, Bytes end) noexcept nogil:
    cdef Bytes here = at[0] + 1
    cdef int code = JSON_OK
    while True:
        while end - here >= 8 and is_plain(here):
            here += 8
        while here != end and not SPECIAL[here[0]]:
            here += 1
        if here == end:
            code = JSON_END
        elif here[0] == c'"':
            at[0] = here + 1
            return JSON_OK
        elif here[0] < 0x20:
            code = JSON_CONTROL
        elif here[0] == c"\\":
            code = scan_escape(&here, end)
        else:
            code = scan_utf8(&here, end)
        if code != JSON_OK:
            at[0] = here
            return code


cdef inline bint is_plain(Bytes at) noexcept nogil:
    """Whether none of the next eight bytes is special. Sees each byte in its own lane of a word."""
    cdef uint64_t word, quote, escape, ones = <uint64_t>0x0101010101010101ULL
    memcpy(&word, at, 8)
    quote = word ^ (ones * c'"')
    escape = word ^ (ones * c"\\")
    return (
        (word | (word - ones * 0x20) | (quote - ones) | (escape - ones)) & (ones * 0x80)
    ) == 0


cdef int scan_escape(Bytes* at, Bytes end) noexcept nogil:
    cdef Bytes here = at[0]
    cdef unsigned char kind
    cdef int unit, low
    if end - here < 2:
        return JSON_ESCAPE
    kind = here[1]
    if (
        kind == c'"' or kind == c"\\" or kind == c"/" or kind == c"n" or kind == c"t"
        or kind == c"r" or kind == c"b" or kind == c"f"
    ):
        at[0] += 2
        return JSON_OK
    unit = utf16_unit(here, end)
    if unit < 0:
        return JSON_ESCAPE
    if unit == 0:
        return JSON_NUL
    at[0] += 6
    if unit & 0xF800 == 0xD800:
        low = utf16_unit(here + 6, end)
        if unit >= 0xDC00 or low < 0xDC00 or low > 0xDFFF:
            at[0] = here
            return JSON_SURROGATE
        at[0] += 6
    return JSON_OK


cdef int utf16_unit(Bytes at, Bytes end) noexcept nogil:
    """The number in an escape like \\u00e9; -1: here is none."""
    cdef int unit = 0
    cdef int index
    cdef unsigned char digit
    if end - at < 6 or at[0] != c"\\" or at[1] != c"u":
        return -1
    for index in range(2, 6):
        digit = at[index]
        if c"0" <= digit <= c"9":
            digit -= c"0"
        elif c"a" <= digit | 0x20 <= c"f":
            digit = (digit | 0x20) - c"a" + 10
        else:
            return -1
        unit = unit << 4 | digit
    return unit


cdef int scan_utf8(Bytes* at, Bytes end) noexcept nogil:
    """One character of two bytes or more. The second byte has its own range after some leads."""
    cdef unsigned char lead = at[0][0]
    cdef unsigned char least = 0x80
    cdef unsigned char greatest = 0xBF
    cdef int size, index
    if lead < 0xC2 or lead > 0xF4:
        return JSON_UTF8
    size = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    if end - at[0] < size:
        return JSON_UTF8
    if lead == 0xE0:
        least = 0xA0  # below: overlong
    elif lead == 0xED:
        greatest = 0x9F  # above: surrogates
    elif lead == 0xF0:
        least = 0x90  # below: overlong
    elif lead == 0xF4:
        greatest = 0x8F  # above: beyond U+10FFFF
    if not least <= at[0][1] <= greatest:
        return JSON_UTF8
    for index in range(2, size):
        if at[0][index] & 0xC0 != 0x80:
            return JSON_UTF8
    at[0] += size
    return JSON_OK


cdef int scan_number(Bytes* at, Bytes end) noexcept nogil:
    cdef Bytes here = at[0]
    cdef Py_ssize_t whole, fraction = 0
    cdef int exponent = 0
    if here[0] == c"-":
        here += 1
    whole = skip_digits(&here, end)
    if whole == 0:
        return unexpected(at, here, end)
    if whole > 1 and here[-whole] == c"0":
        return unexpected(at, here - whole + 1, end)
    if here != end and here[0] == c".":
        here += 1
        fraction = skip_digits(&here, end)
        if fraction == 0:
            return unexpected(at, here, end)
    if here != end and here[0] | 0x20 == c"e":
        here += 1
        if here != end and (here[0] == c"+" or here[0] == c"-"):
            here += 1
        if here == end or not c"0" <= here[0] <= c"9":
            return unexpected(at, here, end)
        while here != end and c"0" <= here[0] <= c"9":
            exponent = min(exponent * 10 + here[0] - c"0", C_EXPONENT_MAX + 1)
            here += 1
    if whole + fraction > C_DIGITS_MAX or exponent > C_EXPONENT_MAX:
        return JSON_NUMBER
    at[0] = here
    return JSON_OK


cdef inline Py_ssize_t skip_digits(Bytes* at, Bytes end) noexcept nogil:
    """How many digits stood here."""
    cdef Bytes start = at[0]
    while at[0] != end and c"0" <= at[0][0] <= c"9":
        at[0] += 1
    return at[0] - start


cdef inline int unexpected(Bytes* at, Bytes here, Bytes end) noexcept nogil:
    at[0] = here
    return JSON_END if here == end else JSON_CHARACTER
