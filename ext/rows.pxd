"""Rows of `jobs` and `job_executions` as binary COPY, written from and read into the slot table."""
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from taskforge_server.ext.attempts cimport Attempt
from taskforge_server.ext.buf cimport Buf
from taskforge_server.ext.slots cimport PROCESSING, SUCCEEDED, Job

cdef enum:
    FULL = 0      # a row of all columns
    PLAIN = 1     # one without the rare columns
    FORMS = 2

cdef struct JobRow:
    Job job                      # without payload, options, output, queue, type, worker
    uint64_t queue_hi, queue_lo, project_hi, project_lo, worker_hi, worker_lo
    bint has_worker
    int priority
    const unsigned char *type
    const unsigned char *payload
    const unsigned char *output
    uint32_t type_size, payload_size, output_size
    bint told                          # any of the columns below is not NULL
    const unsigned char *columns[7]    # those that options fill, in the order of OPTIONS
    uint32_t column_sizes[7]


cdef inline int job_form(const Job *job) noexcept:
    """Plain: it waits or succeeded, was told nothing, and the newest error of it is none."""
    if job.options != NULL or job.returns:
        return FULL
    if job.state == SUCCEEDED:
        return PLAIN
    return PLAIN if job.state < PROCESSING and job.output == NULL else FULL


cdef inline int attempt_form(const Attempt *run) noexcept:
    """Plain: there is neither a result nor an error."""
    return PLAIN if run.output == NULL else FULL


cdef int put_job_row(
    Buf *out, const Job *job, int shard, uint64_t queue_hi, uint64_t queue_lo, uint64_t project_hi,
    uint64_t project_lo, bytes type_name, bytes worker_id, str reason) except -1
cdef int put_attempt_row(Buf *out, const Attempt *run, int shard, bytes worker_id) except -1
cdef Py_ssize_t row_end(const unsigned char *data, Py_ssize_t at, Py_ssize_t size) noexcept
cdef int read_job_row(const unsigned char *p, JobRow *row) except -1
cdef int read_page_row(const unsigned char *p, JobRow *row) except -1
cdef bytes options_of_row(const JobRow *row)
cdef Py_ssize_t first_row(bytes data) except -1
cdef Py_ssize_t next_row(const unsigned char *p, Py_ssize_t start, Py_ssize_t size) except -1
