"""Which rows of a table others take the place of: id and lsn of rows of binary COPY.

    in    rows of binary COPY: the id first, the lsn in some column
    out   places: 16 bytes of id, 8 of lsn, for each; the least and the greatest id
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from taskforge_server.ext.buf cimport tf_rd16, tf_rd32, tf_rd64

cdef enum:
    ID_AT = 6        # number of columns (2), length of the id (4)
    ID_BYTES = 16
    PLACE_BYTES = 24


def row_places(list rows not None, int lsn_column):
    """(places, least id, greatest id) of these parts of whole rows; None when there is no row, or an id
    comes twice. ValueError for what is no row."""
    cdef bytes part, places
    cdef const unsigned char *least
    cdef const unsigned char *greatest
    cdef const unsigned char *p
    cdef const unsigned char *end
    cdef unsigned char *out
    cdef Py_ssize_t count = 0, room = 16, i
    cdef int bits = 4
    cdef uint32_t *seen
    cdef bint twice = False
    for part in rows:
        p = <const unsigned char *>PyBytes_AS_STRING(part)
        end = p + PyBytes_GET_SIZE(part)
        while p < end:
            p = _next(p, end, lsn_column, NULL)
            count += 1
    places = PyBytes_FromStringAndSize(NULL, count * PLACE_BYTES)
    out = <unsigned char *>PyBytes_AS_STRING(places)
    for part in rows:
        p = <const unsigned char *>PyBytes_AS_STRING(part)
        end = p + PyBytes_GET_SIZE(part)
        while p < end:
            p = _next(p, end, lsn_column, out)
            out += PLACE_BYTES
    while room < 2 * count:
        room *= 2
        bits += 1
    seen = <uint32_t *>calloc(room, sizeof(uint32_t))
    if seen == NULL:
        raise MemoryError()
    out = <unsigned char *>PyBytes_AS_STRING(places)
    least = greatest = out
    for i in range(count):
        if _known(seen, bits, out, i):
            twice = True
            break
        if memcmp(out + i * PLACE_BYTES, least, ID_BYTES) < 0:
            least = out + i * PLACE_BYTES
        elif memcmp(out + i * PLACE_BYTES, greatest, ID_BYTES) > 0:
            greatest = out + i * PLACE_BYTES
    free(seen)
    if twice or not count:
        return None
    return places, least[:ID_BYTES], greatest[:ID_BYTES]


cdef const unsigned char *_next(
        const unsigned char *p, const unsigned char *end, int lsn_column, unsigned char *out
        ) except NULL:
    """Behind the row at `p`, whose place goes to `out` if there is one."""
    cdef const unsigned char *job_id = p + ID_AT
    cdef int columns, column, size
    if end - p < 2:
        raise ValueError("no row")
    columns = tf_rd16(p)
    if not 0 < lsn_column < columns:
        raise ValueError(f"{columns} columns")
    p += 2
    for column in range(columns):
        if end - p < 4:
            raise ValueError("a row is cut off")
        size = <int>tf_rd32(p)
        p += 4
        if size > end - p or (column == 0 and size != 16) or (column == lsn_column and size != 8):
            raise ValueError("no row with an id and an lsn")
        if column == lsn_column and out != NULL:
            memcpy(out, job_id, ID_BYTES)
            memcpy(out + ID_BYTES, p, 8)
        if size > 0:
            p += size
    return p


cdef bint _known(
        uint32_t *seen, int bits, const unsigned char *places, Py_ssize_t number) noexcept:
    """Whether an earlier place has the same id; else it is seen from now on.

    Ids of one millisecond differ in a few of their upper bits alone, and products carry upwards: so
    these bits are folded down, and the place is the uppermost bits of a product."""
    cdef const unsigned char *job_id = places + number * PLACE_BYTES
    cdef uint64_t mixed = (
        tf_rd64(job_id) * <uint64_t>0x9e3779b97f4a7c15) ^ (
        tf_rd64(job_id + 8) * <uint64_t>0xc2b2ae3d27d4eb4f)
    cdef Py_ssize_t mask = ((<Py_ssize_t>1) << bits) - 1
    cdef Py_ssize_t at = <Py_ssize_t>(
        ((mixed ^ (mixed >> 32)) * <uint64_t>0xff51afd7ed558ccd) >> (64 - bits))
    while seen[at]:
        if not memcmp(places + <Py_ssize_t>(seen[at] - 1) * PLACE_BYTES, job_id, ID_BYTES):
            return True
        at = (at + 1) & mask
    seen[at] = <uint32_t>(number + 1)
    return False
