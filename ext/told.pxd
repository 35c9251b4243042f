"""What the options of a job say that the table itself looks at: a msgpack map, read without objects.

Options come from ourselves. A map that is none, or that ends early, says what was read until there.
"""
from libc.string cimport memcmp

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from taskforge_server.ext.buf cimport tf_rd16, tf_rd32
from taskforge_server.ext.scan cimport Scan, scan_array, scan_bin, scan_has, scan_int, scan_str


cdef struct Told:
    const unsigned char *group   # group_key
    const unsigned char *more    # JSON text
    uint32_t group_size
    uint32_t more_size
    bint keep


cdef inline uint32_t told_map(Scan *s) noexcept nogil:
    cdef uint8_t c
    if not scan_has(s, 1):
        return 0
    c = s.p[0]
    s.p += 1
    if c & 0xf0 == 0x80:
        return c & 0x0f
    if c == 0xde and scan_has(s, 2):
        s.p += 2
        return tf_rd16(s.p - 2)
    s.bad = True
    return 0


cdef inline void told_skip(Scan *s) noexcept nogil:
    """Past a text, an integer, nil, a truth value or a row of texts."""
    cdef uint8_t c
    cdef uint32_t n, i
    if not scan_has(s, 1):
        return
    c = s.p[0]
    if c & 0xe0 == 0xa0 or 0xd9 <= c <= 0xdb:
        scan_str(s, &n)
    elif c == 0xc0 or c == 0xc2 or c == 0xc3:
        s.p += 1
    elif 0xc4 <= c <= 0xc6:
        scan_bin(s, &n)
    elif c & 0xf0 == 0x90 or c == 0xdc or c == 0xdd:
        for i in range(scan_array(s)):
            if s.bad:
                return
            scan_str(s, &n)
    else:
        scan_int(s)


cdef inline void told_read(Told *t, const void *data, Py_ssize_t size) noexcept nogil:
    cdef Scan s
    cdef uint32_t count, i, n
    cdef const unsigned char *key
    t.group = t.more = NULL
    t.group_size = t.more_size = 0
    t.keep = False
    s.p = <const unsigned char *>data
    s.end = s.p + size
    s.bad = False
    count = told_map(&s)
    for i in range(count):
        key = scan_str(&s, &n)
        if s.bad:
            return
        if n == 4 and not memcmp(key, b"more", 4):
            t.more = scan_bin(&s, &t.more_size)
        elif n == 4 and not memcmp(key, b"keep", 4):
            t.keep = scan_has(&s, 1) and s.p[0] == 0xc3
            told_skip(&s)
        elif n == 9 and not memcmp(key, b"group_key", 9):
            t.group = scan_str(&s, &t.group_size)
        else:
            told_skip(&s)
