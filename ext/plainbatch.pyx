"""Batches of plain jobs, taken from MessagePack without an object per job.

    body = {"jobs": [{"job_type": str, "payload": bin, "priority"?: 0–9} …]}

A body of exactly this shape, every value within its bounds and every payload sound JSON text, becomes
a SubmitBatch in one pass. Anything else gives None, and the caller takes the long way, which also
knows what to say about it: nothing is refused here.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memchr, memcmp

from taskforge_server.ext.jsontext cimport JSON_OK, check_bytes
from taskforge_server.ext.scan cimport Scan, scan_array, scan_bin, scan_has, scan_range, scan_str
from taskforge_server.ext.tableparts cimport SubmitBatch

cdef enum:
    HAS_TYPE = 1
    HAS_PAYLOAD = 2
    HAS_PRIORITY = 4
    TYPE_BYTES_MAX = 255


cdef inline uint32_t scan_map(Scan *s) noexcept nogil:
    cdef uint8_t c
    if not scan_has(s, 1):
        return 0
    c = s.p[0]
    s.p += 1
    if c & 0xf0 == 0x80:
        return c & 0x0f
    s.bad = True     # no plain job has more than three entries
    return 0


cdef inline bint named(const unsigned char *p, uint32_t n, const char *name, uint32_t size) noexcept nogil:
    return n == size and not memcmp(p, name, size)


def plain_batch(bytes body not None, Py_ssize_t jobs_max, Py_ssize_t payload_bytes_max, int depth_max):
    """The jobs of a plain body, or None where it is not plain."""
    cdef SubmitBatch batch = SubmitBatch()
    cdef Scan s
    cdef uint32_t count, i, n, entry, entries, seen
    cdef uint32_t type_size = 0, payload_size = 0, known_size = 0
    cdef const unsigned char *name
    cdef const unsigned char *kind = NULL
    cdef const unsigned char *known = NULL     # the newest type that passed its check
    cdef const unsigned char *payload = NULL
    cdef int64_t priority
    cdef Py_ssize_t offset
    s.p = <const unsigned char *>PyBytes_AS_STRING(body)
    s.end = s.p + PyBytes_GET_SIZE(body)
    s.bad = False
    if scan_map(&s) != 1:
        return None
    name = scan_str(&s, &n)
    if s.bad or not named(name, n, "jobs", 4):
        return None
    count = scan_array(&s)
    if s.bad or not count or count > jobs_max:
        return None
    for i in range(count):
        entries = scan_map(&s)
        seen = 0
        priority = 0
        for entry in range(entries):
            name = scan_str(&s, &n)
            if s.bad:
                return None
            if named(name, n, "job_type", 8) and not seen & HAS_TYPE:
                kind = scan_str(&s, &type_size)
                seen |= HAS_TYPE
            elif named(name, n, "payload", 7) and not seen & HAS_PAYLOAD:
                payload = scan_bin(&s, &payload_size)
                seen |= HAS_PAYLOAD
            elif named(name, n, "priority", 8) and not seen & HAS_PRIORITY:
                priority = scan_range(&s, 0, 9)
                seen |= HAS_PRIORITY
            else:
                return None
        if s.bad or (seen & 3) != 3 or not 1 <= type_size <= TYPE_BYTES_MAX:
            return None
        if known == NULL or known_size != type_size or memcmp(known, kind, type_size):
            if memchr(kind, 0, type_size) != NULL:
                return None
            try:
                PyUnicode_DecodeUTF8(<const char *>kind, type_size, NULL)
            except UnicodeDecodeError:
                return None
            known, known_size = kind, type_size
        if payload_size > payload_bytes_max or payload_size < 1:
            return None
        if check_bytes(<const char *>payload, payload_size, depth_max, &offset) != JSON_OK:
            return None
        batch.add_raw(kind, type_size, payload, payload_size, priority, 0, 0, 0, NULL, 0)
    return batch if s.p == s.end else None
