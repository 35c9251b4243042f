cdef enum:
    JSON_OK = 0
    JSON_END
    JSON_CHARACTER
    JSON_TRAILING
    JSON_DEPTH
    JSON_CONTROL
    JSON_ESCAPE
    JSON_NUL
    JSON_SURROGATE
    JSON_UTF8
    JSON_NUMBER


# Checks one JSON text. 0: it is one; otherwise a code of the above, and where, in bytes.
# `depth_max` above DEPTH_LIMIT counts as DEPTH_LIMIT.
cdef int check_bytes(
    const char* data, Py_ssize_t size, int depth_max, Py_ssize_t* offset
) noexcept nogil
cdef str reason_text(int code)
