"""Reading msgpack without objects: a cursor that goes bad at the first byte that does not fit.

A Scan never reads past its end. After any failure `bad` is set, and every later read gives zero,
so callers check once at the end of a record.
"""
from libc.stdint cimport int16_t, int32_t, int64_t, int8_t, uint8_t, uint32_t, uint64_t

from taskforge_server.ext.buf cimport tf_rd16, tf_rd32, tf_rd64


cdef struct Scan:
    const unsigned char *p
    const unsigned char *end
    bint bad


cdef inline bint scan_has(Scan *s, uint64_t n) noexcept nogil:
    if s.bad or <uint64_t>(s.end - s.p) < n:
        s.bad = True
        return False
    return True


cdef inline int64_t scan_int(Scan *s) noexcept nogil:
    """An integer that fits int64 (a uint64 above it is bad)."""
    cdef uint8_t c
    cdef uint64_t u
    if not scan_has(s, 1):
        return 0
    c = s.p[0]
    s.p += 1
    if c < 0x80:
        return c
    if c >= 0xe0:
        return <int8_t>c
    if c == 0xcc and scan_has(s, 1):
        s.p += 1
        return (s.p - 1)[0]
    if c == 0xcd and scan_has(s, 2):
        s.p += 2
        return tf_rd16(s.p - 2)
    if c == 0xce and scan_has(s, 4):
        s.p += 4
        return tf_rd32(s.p - 4)
    if c == 0xcf and scan_has(s, 8):
        s.p += 8
        u = tf_rd64(s.p - 8)
        if u <= <uint64_t>0x7fffffffffffffff:
            return <int64_t>u
    if c == 0xd0 and scan_has(s, 1):
        s.p += 1
        return <int8_t>(s.p - 1)[0]
    if c == 0xd1 and scan_has(s, 2):
        s.p += 2
        return <int16_t>tf_rd16(s.p - 2)
    if c == 0xd2 and scan_has(s, 4):
        s.p += 4
        return <int32_t>tf_rd32(s.p - 4)
    if c == 0xd3 and scan_has(s, 8):
        s.p += 8
        return <int64_t>tf_rd64(s.p - 8)
    s.bad = True
    return 0


cdef inline int64_t scan_range(Scan *s, int64_t low, int64_t high) noexcept nogil:
    """An integer within [low, high]; outside is bad."""
    cdef int64_t v = scan_int(s)
    if v < low or v > high:
        s.bad = True
        return low
    return v


cdef inline uint32_t scan_array(Scan *s) noexcept nogil:
    cdef uint8_t c
    if not scan_has(s, 1):
        return 0
    c = s.p[0]
    s.p += 1
    if c & 0xf0 == 0x90:
        return c & 0x0f
    if c == 0xdc and scan_has(s, 2):
        s.p += 2
        return tf_rd16(s.p - 2)
    if c == 0xdd and scan_has(s, 4):
        s.p += 4
        return tf_rd32(s.p - 4)
    s.bad = True
    return 0


cdef inline const unsigned char *scan_bytes(Scan *s, uint32_t n) noexcept nogil:
    if not scan_has(s, n):
        return NULL
    s.p += n
    return s.p - n


cdef inline const unsigned char *scan_bin(Scan *s, uint32_t *n) noexcept nogil:
    """A bin; its bytes stay where they are."""
    cdef uint8_t c
    n[0] = 0
    if not scan_has(s, 1):
        return NULL
    c = s.p[0]
    s.p += 1
    if c == 0xc4 and scan_has(s, 1):
        n[0] = s.p[0]
        s.p += 1
    elif c == 0xc5 and scan_has(s, 2):
        n[0] = tf_rd16(s.p)
        s.p += 2
    elif c == 0xc6 and scan_has(s, 4):
        n[0] = tf_rd32(s.p)
        s.p += 4
    else:
        s.bad = True
        return NULL
    return scan_bytes(s, n[0])


cdef inline const unsigned char *scan_bin_or_nil(Scan *s, uint32_t *n) noexcept nogil:
    """A bin, or NULL for nil."""
    n[0] = 0
    if scan_has(s, 1) and s.p[0] == 0xc0:
        s.p += 1
        return NULL
    return scan_bin(s, n)


cdef inline const unsigned char *scan_str(Scan *s, uint32_t *n) noexcept nogil:
    cdef uint8_t c
    n[0] = 0
    if not scan_has(s, 1):
        return NULL
    c = s.p[0]
    s.p += 1
    if c & 0xe0 == 0xa0:
        n[0] = c & 0x1f
    elif c == 0xd9 and scan_has(s, 1):
        n[0] = s.p[0]
        s.p += 1
    elif c == 0xda and scan_has(s, 2):
        n[0] = tf_rd16(s.p)
        s.p += 2
    elif c == 0xdb and scan_has(s, 4):
        n[0] = tf_rd32(s.p)
        s.p += 4
    else:
        s.bad = True
        return NULL
    return scan_bytes(s, n[0])


cdef inline void scan_skip(Scan *s) noexcept nogil:
    """Past one value, whatever it is of nil, truth values, integers, texts, bytes and arrays."""
    cdef uint64_t left = 1
    cdef uint32_t n
    cdef uint8_t c
    while left and scan_has(s, 1):
        left -= 1
        c = s.p[0]
        if c & 0xf0 == 0x90 or c == 0xdc or c == 0xdd:
            left += scan_array(s)
        elif c & 0xe0 == 0xa0 or 0xd9 <= c <= 0xdb:
            scan_str(s, &n)
        elif 0xc4 <= c <= 0xc6:
            scan_bin(s, &n)
        elif c == 0xc0 or c == 0xc2 or c == 0xc3:
            s.p += 1
        else:
            scan_int(s)
