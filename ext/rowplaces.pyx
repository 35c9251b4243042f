"""Which rows of a table others take the place of: id and lsn of rows of binary COPY.

    in    rows of binary COPY: the id first, the lsn in some column, the same in all
    out   16 bytes of id for each; the greatest lsn of each shard; the least and the greatest id
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from taskforge_server.ext.buf cimport tf_rd16, tf_rd32, tf_rd64
from taskforge_server.ext.ids cimport shard_of_hi

cdef enum:
    ID_AT = 6        # number of columns (2), length of the id (4)
    ID_BYTES = 16
    SHARDS = 1 << 12     # what an id has room for


def row_places(list rows not None, int lsn_column):
    """(ids, greatest lsns, least id, greatest id) of these parts of whole rows; None when there is no row,
    or an id comes twice. The lsns stand in order of their shards, up to the last one; 0: none of its
    rows is here. ValueError for what is no row."""
    cdef bytes part, ids
    cdef int64_t lsns[SHARDS]
    cdef int last = -1
    cdef const unsigned char *least
    cdef const unsigned char *greatest
    cdef const unsigned char *p
    cdef const unsigned char *end
    cdef unsigned char *out
    cdef Py_ssize_t count = 0, room = 16, i
    cdef int bits = 4
    cdef uint32_t *seen
    cdef bint twice = False
    memset(lsns, 0, sizeof(lsns))
    for part in rows:
        p = <const unsigned char *>PyBytes_AS_STRING(part)
        end = p + PyBytes_GET_SIZE(part)
        while p < end:
            p = _next(p, end, lsn_column, lsns, &last)
            count += 1
    ids = PyBytes_FromStringAndSize(NULL, count * ID_BYTES)
    out = <unsigned char *>PyBytes_AS_STRING(ids)
    for part in rows:
        p = <const unsigned char *>PyBytes_AS_STRING(part)
        end = p + PyBytes_GET_SIZE(part)
        while p < end:
            memcpy(out, p + ID_AT, ID_BYTES)
            out += ID_BYTES
            p = _next(p, end, lsn_column, lsns, &last)
    while room < 2 * count:
        room *= 2
        bits += 1
    seen = <uint32_t *>calloc(room, sizeof(uint32_t))
    if seen == NULL:
        raise MemoryError()
    out = <unsigned char *>PyBytes_AS_STRING(ids)
    least = greatest = out
    for i in range(count):
        if _known(seen, bits, out, i):
            twice = True
            break
        if memcmp(out + i * ID_BYTES, least, ID_BYTES) < 0:
            least = out + i * ID_BYTES
        elif memcmp(out + i * ID_BYTES, greatest, ID_BYTES) > 0:
            greatest = out + i * ID_BYTES
    free(seen)
    if twice or not count:
        return None
    return ids, [lsns[i] for i in range(last + 1)], least[:ID_BYTES], greatest[:ID_BYTES]


cdef const unsigned char *_next(
        const unsigned char *p, const unsigned char *end, int lsn_column, int64_t *lsns, int *last
        ) except NULL:
    """Behind the row at `p`, whose lsn counts among those of its shard, the last of which is `last`."""
    cdef const unsigned char *job_id = p + ID_AT
    cdef int columns, column, size, shard
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
        if column == lsn_column:
            shard = shard_of_hi(tf_rd64(job_id))
            lsns[shard] = max(lsns[shard], <int64_t>tf_rd64(p))
            last[0] = max(last[0], shard)
        if size > 0:
            p += size
    return p


cdef bint _known(
        uint32_t *seen, int bits, const unsigned char *ids, Py_ssize_t number) noexcept:
    """Whether the same id stands earlier; else it is seen from now on.

    Ids of one millisecond differ in a few of their upper bits alone, and products carry upwards: so
    these bits are folded down, and the place is the uppermost bits of a product."""
    cdef const unsigned char *job_id = ids + number * ID_BYTES
    cdef uint64_t mixed = (
        tf_rd64(job_id) * <uint64_t>0x9e3779b97f4a7c15) ^ (
        tf_rd64(job_id + 8) * <uint64_t>0xc2b2ae3d27d4eb4f)
    cdef Py_ssize_t mask = ((<Py_ssize_t>1) << bits) - 1
    cdef Py_ssize_t at = <Py_ssize_t>(
        ((mixed ^ (mixed >> 32)) * <uint64_t>0xff51afd7ed558ccd) >> (64 - bits))
    while seen[at]:
        if not memcmp(ids + <Py_ssize_t>(seen[at] - 1) * ID_BYTES, job_id, ID_BYTES):
            return True
        at = (at + 1) & mask
    seen[at] = <uint32_t>(number + 1)
    return False
