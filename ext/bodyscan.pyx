"""What is asked of a body before it is decoded, answered by a scan that makes no objects.

A field named twice: decoders let the last of two win, silently; what the caller meant is then
anybody's guess. Only our own objects are looked at, those at a depth of at most `depth` (the
outermost object has depth 1): what stands deeper is a payload and not ours to judge.

Two answers:

    offset     of the first repeated name (in JSON also of a name written with an escape, which
               could hide a repetition); -1: there is none
    entries    of the longest array at depth 2, where a batch has its items: a decoder would make
               all of them before it could say that they are too many

`scan_json` wants a text that `jsontext.check` has passed. Anything may be given to `scan_msgpack`:
where the data breaks off, or makes no sense, the scan ends and the decoder will say so; more than
`depth_max` arrays and maps inside each other raise DepthError, before anything recurses. More than
NAMES_MAX names are not compared: our objects have fewer, so the decoder meets an unknown one.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memchr, memcmp

DEPTH_LIMIT = 256
NAMES_MAX = 32
ENTRIES_DEPTH = 2
OWN_DEPTH_MAX = 4

cdef enum:
    C_DEPTH_LIMIT = 256
    C_NAMES_MAX = 32
    C_ENTRIES_DEPTH = 2
    C_OWN_DEPTH_MAX = 4
    NONE = -1

ctypedef const unsigned char* Bytes


class DepthError(ValueError):
    """More levels of arrays and maps than allowed."""


cdef struct Answer:
    Py_ssize_t offset
    uint64_t entries
    bint too_deep


cdef struct Names:
    Py_ssize_t count
    Bytes start[C_NAMES_MAX]
    Py_ssize_t size[C_NAMES_MAX]


cdef inline bint repeats(Names* names, Bytes start, Py_ssize_t size) noexcept nogil:
    """Whether the name is known; notes it."""
    cdef Py_ssize_t i
    for i in range(names.count):
        if names.size[i] == size and memcmp(names.start[i], start, size) == 0:
            return True
    if names.count < C_NAMES_MAX:
        names.start[names.count] = start
        names.size[names.count] = size
        names.count += 1
    return False


def scan_json(bytes data not None, int depth) -> tuple[int, int]:
    """(offset of a name that is not the first of its kind in an object of ours or -1, entries)."""
    if not 1 <= depth <= C_OWN_DEPTH_MAX:
        raise ValueError(f"depth {depth} is not in 1 … {OWN_DEPTH_MAX}")
    cdef const unsigned char* text = data
    cdef Answer answer
    look_json(text, text + len(data), depth, &answer)
    return answer.offset, answer.entries


cdef void look_json(Bytes begin, Bytes end, int own, Answer* answer) noexcept nogil:
    cdef Names names[C_OWN_DEPTH_MAX + 1]
    cdef bint is_object[C_DEPTH_LIMIT + 1]
    cdef bint name_next = False
    cdef bint escaped
    cdef int depth = 0
    cdef unsigned char c
    cdef Bytes at = begin
    cdef Bytes start
    cdef uint64_t commas = 0
    answer.offset = NONE
    answer.entries = 0
    while at < end:
        c = at[0]
        at += 1
        if c == c'"':
            start = at
            at = string_end(at, end)
            if name_next:
                name_next = False
                if depth <= own and answer.offset == NONE:
                    escaped = memchr(start, c"\\", at - start) != NULL
                    if escaped or repeats(&names[depth], start, at - start):
                        answer.offset = start - 1 - begin
            at += 1
        elif c == c"{" or c == c"[":
            if depth == C_DEPTH_LIMIT:
                return
            depth += 1
            name_next = is_object[depth] = c == c"{"
            if depth <= own:
                names[depth].count = 0
            if depth == C_ENTRIES_DEPTH:
                commas = 0
        elif c == c"}" or c == c"]":
            if depth == C_ENTRIES_DEPTH and not is_object[depth]:
                answer.entries = max(answer.entries, commas + 1)
            depth -= 1
            name_next = False
            if depth <= 0:
                return
        elif c == c",":
            name_next = depth > 0 and is_object[depth]
            if depth == C_ENTRIES_DEPTH:
                commas += 1


cdef inline Bytes string_end(Bytes at, Bytes end) noexcept nogil:
    """The closing quote of the string that begins here."""
    cdef Bytes quote
    cdef Bytes back
    while True:
        quote = <Bytes>memchr(at, c'"', end - at) if at < end else NULL
        if quote == NULL:
            return end
        back = quote
        while back > at and (back - 1)[0] == c"\\":
            back -= 1
        if (quote - back) & 1 == 0:
            return quote
        at = quote + 1


def scan_msgpack(bytes data not None, int depth, int depth_max) -> tuple[int, int]:
    """(offset of a name that is not the first of its kind in a map of ours or -1, entries)."""
    if not 1 <= depth <= C_OWN_DEPTH_MAX:
        raise ValueError(f"depth {depth} is not in 1 … {OWN_DEPTH_MAX}")
    if not depth <= depth_max <= C_DEPTH_LIMIT:
        raise ValueError(f"depth_max {depth_max} is not in {depth} … {DEPTH_LIMIT}")
    cdef const unsigned char* text = data
    cdef Answer answer
    look_msgpack(text, text + len(data), depth, depth_max, &answer)
    if answer.too_deep:
        raise DepthError(f"more than {depth_max} arrays and maps inside each other")
    return answer.offset, answer.entries


cdef struct Head:
    # What one byte and the length behind it say of a value.
    bint is_str
    bint is_map
    bint is_container
    uint64_t count  # entries of a container, bytes of all others
    int size        # of the head itself; 0: broken off, or no msgpack


cdef void look_msgpack(
    Bytes begin, Bytes end, int own, int depth_max, Answer* answer
) noexcept nogil:
    cdef Names names[C_OWN_DEPTH_MAX + 1]
    cdef uint64_t left[C_DEPTH_LIMIT + 1]   # values that a container still has to come
    cdef bint is_map[C_DEPTH_LIMIT + 1]
    cdef int depth = 0
    cdef Bytes at = begin
    cdef Head head
    cdef bint is_name
    answer.offset = NONE
    answer.entries = 0
    answer.too_deep = False
    left[0] = 1
    is_map[0] = False
    while True:
        while left[depth] == 0:
            if depth == 0:
                return
            depth -= 1
        read_head(at, end, &head)
        if head.size == 0:
            return
        is_name = is_map[depth] and left[depth] & 1 == 0
        left[depth] -= 1
        if head.is_container:
            if depth == depth_max:
                answer.too_deep = True
                return
            at += head.size
            depth += 1
            if depth == C_ENTRIES_DEPTH and not head.is_map:
                answer.entries = max(answer.entries, head.count)
            left[depth] = head.count * 2 if head.is_map else head.count
            is_map[depth] = head.is_map
            if depth <= own:
                names[depth].count = 0
            continue
        if <uint64_t>(end - at) < head.size + head.count:
            return
        if is_name and head.is_str and depth <= own and answer.offset == NONE:
            if repeats(&names[depth], at + head.size, head.count):
                answer.offset = at - begin
        at += head.size + head.count


cdef inline void read_head(Bytes at, Bytes end, Head* head) noexcept nogil:
    cdef Py_ssize_t left = end - at
    cdef uint8_t c
    cdef int i
    cdef int width = 0  # of the length behind the first byte
    head.is_str = head.is_map = head.is_container = False
    head.count = 0
    head.size = 0
    if left < 1:
        return
    c = at[0]
    head.size = 1
    if c < 0x80 or c >= 0xe0 or c == 0xc0 or c == 0xc2 or c == 0xc3:
        return
    if c < 0xa0:
        head.is_container = True
        head.is_map = c < 0x90
        head.count = c & 0x0f
    elif c < 0xc0:
        head.is_str = True
        head.count = c & 0x1f
    elif 0xc4 <= c <= 0xc6:
        width = 1 << (c - 0xc4)
    elif 0xc7 <= c <= 0xc9:
        width = 1 << (c - 0xc7)
    elif 0xca <= c <= 0xd3:
        head.count = fixed_bytes(c)
    elif 0xd4 <= c <= 0xd8:
        head.count = 1 + (1 << (c - 0xd4))
    elif 0xd9 <= c <= 0xdb:
        head.is_str = True
        width = 1 << (c - 0xd9)
    elif c >= 0xdc:
        head.is_container = True
        head.is_map = c >= 0xde
        width = 2 << (c & 1)
    else:
        head.size = 0  # 0xc1 is no msgpack
    if width == 0:
        return
    if left < 1 + width:
        head.size = 0
        return
    head.size = 1 + width
    for i in range(1, width + 1):
        head.count = head.count << 8 | at[i]
    if 0xc7 <= c <= 0xc9:
        head.count += 1  # the type of the extension


cdef inline int fixed_bytes(uint8_t c) noexcept nogil:
    """What follows float32, float64, uint8 … uint64, int8 … int64."""
    if c == 0xca:
        return 4
    if c == 0xcb:
        return 8
    return 1 << ((c - 0xcc) & 3)
