"""A growable byte buffer and what is written into it: msgpack and big-endian words.

All functions are inline C; a Buf is owned by whoever declares it, who calls `buf_free` at the end.
msgpack integers take their shortest form, so equal values give equal bytes in every writer.
"""
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

cdef extern from *:
    """
    static inline void tf_be16(unsigned char *p, unsigned short v) {
        v = __builtin_bswap16(v); __builtin_memcpy(p, &v, 2); }
    static inline void tf_be32(unsigned char *p, unsigned int v) {
        v = __builtin_bswap32(v); __builtin_memcpy(p, &v, 4); }
    static inline void tf_be64(unsigned char *p, unsigned long long v) {
        v = __builtin_bswap64(v); __builtin_memcpy(p, &v, 8); }
    static inline unsigned short tf_rd16(const unsigned char *p) {
        unsigned short v; __builtin_memcpy(&v, p, 2); return __builtin_bswap16(v); }
    static inline unsigned int tf_rd32(const unsigned char *p) {
        unsigned int v; __builtin_memcpy(&v, p, 4); return __builtin_bswap32(v); }
    static inline unsigned long long tf_rd64(const unsigned char *p) {
        unsigned long long v; __builtin_memcpy(&v, p, 8); return __builtin_bswap64(v); }
    """
    void tf_be16(unsigned char *p, uint16_t v) noexcept nogil
    void tf_be32(unsigned char *p, uint32_t v) noexcept nogil
    void tf_be64(unsigned char *p, uint64_t v) noexcept nogil
    uint16_t tf_rd16(const unsigned char *p) noexcept nogil
    uint32_t tf_rd32(const unsigned char *p) noexcept nogil
    uint64_t tf_rd64(const unsigned char *p) noexcept nogil


cdef struct Buf:
    unsigned char *data
    Py_ssize_t size
    Py_ssize_t room


cdef inline void buf_init(Buf *b) noexcept nogil:
    b.data = NULL
    b.size = 0
    b.room = 0


cdef inline void buf_free(Buf *b) noexcept nogil:
    free(b.data)
    buf_init(b)


cdef inline int buf_need(Buf *b, Py_ssize_t more) except -1 nogil:
    """Make room for `more` bytes; MemoryError leaves the buffer as it was."""
    cdef Py_ssize_t room
    cdef unsigned char *data
    if b.size + more <= b.room:
        return 0
    room = b.room * 2 if b.room > 128 else 256
    while room < b.size + more:
        room *= 2
    data = <unsigned char *>realloc(b.data, room)
    if data == NULL:
        with gil:
            raise MemoryError()
    b.data = data
    b.room = room
    return 0


cdef inline int put_raw(Buf *b, const void *p, Py_ssize_t n) except -1 nogil:
    buf_need(b, n)
    memcpy(b.data + b.size, p, n)
    b.size += n
    return 0


# --- big-endian words (COPY rows, tokens); the caller has made room ---------------------------

cdef inline void w8(Buf *b, uint8_t v) noexcept nogil:
    b.data[b.size] = v
    b.size += 1


cdef inline void w16(Buf *b, uint16_t v) noexcept nogil:
    tf_be16(b.data + b.size, v)
    b.size += 2


cdef inline void w32(Buf *b, uint32_t v) noexcept nogil:
    tf_be32(b.data + b.size, v)
    b.size += 4


cdef inline void w64(Buf *b, uint64_t v) noexcept nogil:
    tf_be64(b.data + b.size, v)
    b.size += 8


cdef inline void wmem(Buf *b, const void *p, Py_ssize_t n) noexcept nogil:
    memcpy(b.data + b.size, p, n)
    b.size += n


# --- msgpack; at most nine bytes an integer or header, the caller has made room -----------------

cdef inline void mp_uint(Buf *b, uint64_t v) noexcept nogil:
    if v < 128:
        w8(b, <uint8_t>v)
    elif v < 256:
        w8(b, 0xcc)
        w8(b, <uint8_t>v)
    elif v < 65536:
        w8(b, 0xcd)
        w16(b, <uint16_t>v)
    elif v <= <uint64_t>0xffffffff:
        w8(b, 0xce)
        w32(b, <uint32_t>v)
    else:
        w8(b, 0xcf)
        w64(b, v)


cdef inline void mp_int(Buf *b, int64_t v) noexcept nogil:
    if v >= 0:
        mp_uint(b, <uint64_t>v)
    elif v >= -32:
        w8(b, <uint8_t>v)
    elif v >= -128:
        w8(b, 0xd0)
        w8(b, <uint8_t>v)
    elif v >= -32768:
        w8(b, 0xd1)
        w16(b, <uint16_t>v)
    elif v >= -2147483648:
        w8(b, 0xd2)
        w32(b, <uint32_t>v)
    else:
        w8(b, 0xd3)
        w64(b, <uint64_t>v)


cdef inline void mp_nil(Buf *b) noexcept nogil:
    w8(b, 0xc0)


cdef inline void mp_array(Buf *b, uint32_t n) noexcept nogil:
    if n < 16:
        w8(b, <uint8_t>(0x90 | n))
    elif n < 65536:
        w8(b, 0xdc)
        w16(b, <uint16_t>n)
    else:
        w8(b, 0xdd)
        w32(b, n)


cdef inline void mp_map(Buf *b, uint32_t n) noexcept nogil:
    if n < 16:
        w8(b, <uint8_t>(0x80 | n))
    elif n < 65536:
        w8(b, 0xde)
        w16(b, <uint16_t>n)
    else:
        w8(b, 0xdf)
        w32(b, n)


cdef inline void mp_bin_head(Buf *b, uint32_t n) noexcept nogil:
    if n < 256:
        w8(b, 0xc4)
        w8(b, <uint8_t>n)
    elif n < 65536:
        w8(b, 0xc5)
        w16(b, <uint16_t>n)
    else:
        w8(b, 0xc6)
        w32(b, n)


cdef inline void mp_str_head(Buf *b, uint32_t n) noexcept nogil:
    if n < 32:
        w8(b, <uint8_t>(0xa0 | n))
    elif n < 256:
        w8(b, 0xd9)
        w8(b, <uint8_t>n)
    elif n < 65536:
        w8(b, 0xda)
        w16(b, <uint16_t>n)
    else:
        w8(b, 0xdb)
        w32(b, n)


cdef inline int mp_bin(Buf *b, const void *p, Py_ssize_t n) except -1 nogil:
    buf_need(b, n + 5)
    mp_bin_head(b, <uint32_t>n)
    wmem(b, p, n)
    return 0


cdef inline int mp_str(Buf *b, const void *p, Py_ssize_t n) except -1 nogil:
    buf_need(b, n + 5)
    mp_str_head(b, <uint32_t>n)
    wmem(b, p, n)
    return 0
