"""The JOBS message of the worker stream, made of jobs that just started.

    queue, job types, the type of each job | tokens | payloads | details of jobs that are not plain
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t

from taskforge_server.ext.buf cimport (
    Buf, buf_free, buf_init, buf_need, mp_array, mp_bin, mp_bin_head, mp_map, mp_str, mp_uint, w8, w64,
)
from taskforge_server.ext.slots cimport F_MORE, Job, job_at
from taskforge_server.ext.tableparts cimport TOKEN_BYTES
from taskforge_server.ext.told cimport Told, told_read

cdef enum:
    JOBS_FRAME = 11


cdef bytes jobs_frame(
    Slots slots, QueueState q, list names, const uint32_t *picked,
    const unsigned char *kind_of, Py_ssize_t n):
    """The JOBS message of the worker stream."""
    cdef Buf out
    cdef Buf *b = &out
    cdef Py_ssize_t i, details = 0, texts = 0
    cdef uint32_t timeout_ms
    cdef Told told
    cdef Job *job
    cdef bytes name
    buf_init(b)
    try:
        buf_need(b, 64 + n)
        mp_array(b, 7)
        w8(b, JOBS_FRAME)
        mp_str(b, PyBytes_AS_STRING(q.name), PyBytes_GET_SIZE(q.name))
        buf_need(b, 16)
        mp_array(b, <uint32_t>len(names))
        for name in names:
            mp_str(b, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        mp_bin(b, kind_of, n if len(names) > 1 else 0)
        buf_need(b, 16 + TOKEN_BYTES * n)
        mp_bin_head(b, <uint32_t>(TOKEN_BYTES * n))
        for i in range(n):
            job = job_at(slots, picked[i])
            w64(b, job.id_hi)
            w64(b, job.id_lo)
            w64(b, <uint64_t>job.lease_lsn)
            if job.flags & F_MORE:
                texts += job.options.size
                details += 1
            else:
                details += job.attempts != 1 or job.deadline_us != 0 or q.soft_timeout_ms != 0
        mp_array(b, <uint32_t>n)
        for i in range(n):
            job = job_at(slots, picked[i])
            mp_bin(b, job.payload.data, job.payload.size)
        buf_need(b, 16 + 120 * details + texts)
        mp_map(b, <uint32_t>details)
        for i in range(n):
            job = job_at(slots, picked[i])
            if job.attempts == 1 and not job.deadline_us and not q.soft_timeout_ms and (
                    not job.flags & F_MORE):
                continue
            timeout_ms = job.timeout_ms if job.timeout_ms else q.timeout_ms
            mp_uint(b, i)
            mp_map(b, 3 + (q.soft_timeout_ms != 0) + ((job.flags & F_MORE) != 0))
            mp_str(b, b"attempt", 7)
            mp_uint(b, job.attempts)
            mp_str(b, b"timeout_ms", 10)
            mp_uint(b, timeout_ms)
            mp_str(b, b"deadline_us", 11)
            mp_uint(b, job.deadline_us)
            if q.soft_timeout_ms:
                mp_str(b, b"soft_timeout_ms", 15)
                mp_uint(b, q.soft_timeout_ms)
            if job.flags & F_MORE:
                told_read(&told, job.options.data, job.options.size)
                mp_str(b, b"more", 4)
                mp_bin(b, told.more, told.more_size)
        return PyBytes_FromStringAndSize(<char *>b.data, b.size)
    finally:
        buf_free(b)
