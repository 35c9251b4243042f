"""Rows of `jobs` and `job_executions` as binary COPY, written from and read into the slot table.

    row = number of columns (int16), then per column: length (int32, -1 for NULL) and the value

All words are big endian; times are microseconds since 2000. The columns are those that
`pure.tablerows` lists, in that order. A row has one of two forms, and its number of columns says
which: all columns, or those without the rare ones, which are all NULL then.
"""
import struct

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int16_t, uint8_t
from libc.string cimport memcmp, memcpy, memset

import msgpack

from taskforge_server.ext.buf cimport buf_need, tf_rd16, tf_rd32, tf_rd64, w8, w16, w32, w64, wmem
from taskforge_server.ext.attempts cimport RUN_SUCCEEDED
from taskforge_server.ext.ids cimport execution_id_into
from taskforge_server.ext.slots cimport (
    CANCELLED, FAILED, FREE, PENDING, PROCESSING, SCHEDULED, SUCCEEDED, Blob,
)

cdef enum:
    JOB_COLUMNS = 34
    PLAIN_JOB_COLUMNS = 19
    PAGE_COLUMNS = 21
    PAGE_OPTIONS_AT = 14       # the columns of the options, in their order, are its last
    OPTIONS = 7
    ATTEMPT_COLUMNS = 12
    PLAIN_ATTEMPT_COLUMNS = 10
    FIXED_BYTES = 640         # all of a row but its texts

cdef int64_t PG_EPOCH_US = 946684800000000
cdef int64_t NEVER_US = <int64_t>1 << 62    # the due time of a job that is held: none in its row
cdef int TEXT_OID = 25
COPY_SIGNATURE = b"PGCOPY\n\xff\r\n\x00"
# What the options of a job name, and where each stands in the row.
OPTION_NAMES = ("idempotency_key", "unique_key", "group_key", "tags", "waiting_on", "more", "keep")
cdef int *OPTION_CELLS = [24, 25, 26, 27, 28, 32, 33]

cdef char **STATUS = [b"", b"pending", b"scheduled", b"processing", b"succeeded", b"failed", b"cancelled"]
cdef uint32_t *STATUS_SIZE = [0, 7, 9, 10, 9, 6, 9]
cdef char **RUN_STATUS = [b"", b"started", b"succeeded", b"retrying", b"failed"]
cdef uint32_t *RUN_STATUS_SIZE = [0, 7, 9, 8, 6]


cdef inline void null(Buf *b) noexcept:
    w32(b, 0xffffffff)


cdef inline void uuid(Buf *b, uint64_t hi, uint64_t lo) noexcept:
    w32(b, 16)
    w64(b, hi)
    w64(b, lo)


cdef inline void text(Buf *b, const void *p, uint32_t n) noexcept:
    w32(b, n)
    wmem(b, p, n)


cdef inline void moment(Buf *b, int64_t us) noexcept:
    """A timestamptz; 0 is NULL."""
    if us:
        w32(b, 8)
        w64(b, <uint64_t>(us - PG_EPOCH_US))
    else:
        null(b)


cdef inline void int2(Buf *b, uint16_t v) noexcept:
    w32(b, 2)
    w16(b, v)


cdef inline void int4(Buf *b, uint32_t v) noexcept:
    w32(b, 4)
    w32(b, v)


cdef inline void int8(Buf *b, int64_t v) noexcept:
    w32(b, 8)
    w64(b, <uint64_t>v)


cdef inline void jsonb(Buf *b, const Blob *blob) noexcept:
    if blob == NULL:
        null(b)
    else:
        w32(b, blob.size + 1)
        w8(b, 1)
        wmem(b, blob.data, blob.size)


cdef inline void raw16(Buf *b, bytes value) noexcept:
    if value is None:
        null(b)
    else:
        text(b, PyBytes_AS_STRING(value), 16)


cdef tuple option_columns(Blob *options):
    """What the options map fills, ready for the row: the five columns that stand side by side, and
    the two at the end. No tags are NULL."""
    named = msgpack.unpackb(options.data[:options.size])
    parts = []
    for name in OPTION_NAMES:
        value = named.get(name)
        if value is None or value == []:
            parts.append(b"\xff\xff\xff\xff")
        elif name == "waiting_on":
            parts.append(struct.pack(">ii", 4, value))
        elif name == "more":
            parts.append(struct.pack(">ib", len(value) + 1, 1) + value)
        elif name == "keep":
            parts.append(struct.pack(">i?", 1, value))
        elif name == "tags":
            items = [item.encode() for item in value]
            array = struct.pack(">iiiii", 1, 0, TEXT_OID, len(items), 1)
            array += b"".join(struct.pack(">i", len(item)) + item for item in items)
            parts.append(struct.pack(">i", len(array)) + array)
        else:
            data = value.encode()
            parts.append(struct.pack(">i", len(data)) + data)
    return b"".join(parts[:5]), b"".join(parts[5:])


cdef inline bint is_rare(int column) noexcept:
    """Whether a column of `jobs` is NULL for a job that waits or simply succeeded: lease_lsn,
    worker_id, deadline_at, and all from last_error on."""
    return 14 <= column <= 15 or column == 20 or column >= 22


cdef int put_job_row(
    Buf *out, const Job *job, int shard, uint64_t queue_hi, uint64_t queue_lo, uint64_t project_hi,
    uint64_t project_lo, bytes type_name, bytes worker_id, str reason) except -1:
    """One row; `worker_id` and `reason` are None where the state has none."""
    cdef bint full = job_form(job) == FULL
    cdef bint running = job.state == PROCESSING
    cdef uint32_t type_size = <uint32_t>PyBytes_GET_SIZE(type_name)
    cdef bytes options = None, told = None
    cdef bytes why = None if reason is None else reason.encode()
    cdef Py_ssize_t more = FIXED_BYTES + type_size + job.payload.size
    cdef double timeout_s
    cdef uint64_t word
    if job.output != NULL:
        more += job.output.size
    if job.options != NULL:
        options, told = option_columns(<Blob *>job.options)
        more += PyBytes_GET_SIZE(options) + PyBytes_GET_SIZE(told)
    if why is not None:
        more += PyBytes_GET_SIZE(why)
    buf_need(out, more)
    w16(out, JOB_COLUMNS if full else PLAIN_JOB_COLUMNS)
    uuid(out, job.id_hi, job.id_lo)
    uuid(out, queue_hi, queue_lo)
    uuid(out, project_hi, project_lo)
    text(out, PyBytes_AS_STRING(type_name), type_size)
    jsonb(out, job.payload)
    text(out, STATUS[job.state], STATUS_SIZE[job.state])
    int4(out, 9 - <uint32_t>(job.key >> 60))
    moment(out, job.due_us if job.due_us < NEVER_US else 0)
    int8(out, job.created_us - PG_EPOCH_US)
    int8(out, job.updated_us - PG_EPOCH_US)
    moment(out, job.started_us)
    moment(out, job.updated_us if job.state >= SUCCEEDED else 0)
    int2(out, <uint16_t>shard)
    int8(out, job.lsn)
    if running:
        int8(out, job.lease_lsn)
        raw16(out, worker_id)
    elif full:
        null(out)
        null(out)
    int2(out, job.attempts)
    int2(out, job.crashes)
    int2(out, job.max_attempts)
    if job.timeout_ms:
        timeout_s = job.timeout_ms / 1000.0
        memcpy(&word, &timeout_s, 8)
        int8(out, <int64_t>word)
    else:
        null(out)
    if full:
        moment(out, job.deadline_us if running else 0)
    jsonb(out, job.output if job.state == SUCCEEDED else NULL)
    if not full:
        return 0
    jsonb(out, job.output if job.state != SUCCEEDED else NULL)
    if job.state == FAILED and why is not None:
        text(out, PyBytes_AS_STRING(why), <uint32_t>PyBytes_GET_SIZE(why))
    else:
        null(out)
    if options is None:
        null(out)
        null(out)
        null(out)
        null(out)
        null(out)
    else:
        wmem(out, PyBytes_AS_STRING(options), PyBytes_GET_SIZE(options))
    if job.state == CANCELLED and why is not None:
        text(out, PyBytes_AS_STRING(why), <uint32_t>PyBytes_GET_SIZE(why))
    else:
        null(out)
    null(out)
    if job.returns:
        int2(out, job.returns)
    else:
        null(out)
    if told is None:
        null(out)
        null(out)
    else:
        wmem(out, PyBytes_AS_STRING(told), PyBytes_GET_SIZE(told))
    return 0


cdef int put_attempt_row(Buf *out, const Attempt *run, int shard, bytes worker_id) except -1:
    """One row of an attempt, running or over."""
    cdef uint64_t hi, lo
    cdef bint full = attempt_form(run) == FULL
    cdef bint good = run.status == RUN_SUCCEEDED
    buf_need(out, 320 + (0 if run.output == NULL else run.output.size))
    execution_id_into(run.job_hi, run.job_lo, run.number, run.started_us, &hi, &lo)
    w16(out, ATTEMPT_COLUMNS if full else PLAIN_ATTEMPT_COLUMNS)
    uuid(out, hi, lo)
    uuid(out, run.job_hi, run.job_lo)
    raw16(out, worker_id)
    text(out, RUN_STATUS[run.status], RUN_STATUS_SIZE[run.status])
    int4(out, run.number)
    # The start is a time even when it is the epoch itself.
    int8(out, run.started_us - PG_EPOCH_US)
    moment(out, run.finished_us)
    int8(out, run.started_us - PG_EPOCH_US)
    int2(out, <uint16_t>shard)
    int8(out, run.lsn)
    if not full:
        return 0
    if good:
        text(out, run.output.data, run.output.size)
    else:
        null(out)
    jsonb(out, NULL if good else run.output)
    return 0


# --- reading -----------------------------------------------------------------------------------

cdef Py_ssize_t row_end(const unsigned char *data, Py_ssize_t at, Py_ssize_t size) noexcept:
    """Where the row that begins at `at` ends; -1: the data end within it; -2: it is no row."""
    cdef int columns, i, n
    if at + 2 > size:
        return -1
    columns = <short>tf_rd16(data + at)
    if columns < 0:
        return -2
    at += 2
    for i in range(columns):
        if at + 4 > size:
            return -1
        n = <int>tf_rd32(data + at)
        at += 4
        if n > 0:
            at += n
    return at if at <= size else -1


cdef struct Cell:
    const unsigned char *p
    int size


cdef inline Cell cell(const unsigned char **at) noexcept:
    cdef Cell c
    c.size = <int>tf_rd32(at[0])
    c.p = at[0] + 4
    at[0] += 4
    if c.size >= 0:
        at[0] += c.size
    else:
        c.p = NULL
    return c


cdef inline int64_t cell_time(Cell c) noexcept:
    return 0 if c.p == NULL else <int64_t>tf_rd64(c.p) + PG_EPOCH_US


cdef inline int64_t cell_int8(Cell c) noexcept:
    return 0 if c.p == NULL else <int64_t>tf_rd64(c.p)


cdef inline uint16_t cell_int2(Cell c) noexcept:
    return 0 if c.p == NULL else tf_rd16(c.p)


cdef inline uint32_t cell_ms(Cell c) noexcept:
    """Of seconds, a double."""
    cdef double seconds
    cdef uint64_t word
    if c.p == NULL:
        return 0
    word = tf_rd64(c.p)
    memcpy(&seconds, &word, 8)
    return <uint32_t>(seconds * 1000 + 0.5)


cdef inline void tell(JobRow *row, int option, Cell c) noexcept:
    """One of the options of the job, unless it is NULL."""
    if c.p != NULL:
        row.told = True
        row.columns[option] = c.p
        row.column_sizes[option] = c.size


cdef int sized(Cell c, int size) except -1:
    if c.size != size and c.p != NULL:
        raise ValueError(f"a damaged row: {c.size} bytes where {size} must stand")
    return 0


cdef int is_jsonb(Cell c) except -1:
    if c.p != NULL and (c.size < 1 or c.p[0] != 1):
        raise ValueError("jsonb of an unknown version")
    return 0


cdef int read_job_row(const unsigned char *p, JobRow *row) except -1:
    """One whole row of an unfinished job; ValueError for anything else."""
    cdef Cell cells[JOB_COLUMNS]
    cdef int i
    cdef Job *job = &row.job
    cdef int columns = tf_rd16(p)
    if columns != JOB_COLUMNS and columns != PLAIN_JOB_COLUMNS:
        raise ValueError(f"a row of {columns} columns, not {JOB_COLUMNS} or {PLAIN_JOB_COLUMNS}")
    p += 2
    for i in range(JOB_COLUMNS):
        if columns == PLAIN_JOB_COLUMNS and is_rare(i):
            cells[i] = Cell(NULL, -1)
        else:
            cells[i] = cell(&p)
    for i in (0, 1, 2, 15):
        sized(cells[i], 16)
    for i in (7, 8, 9, 10, 11, 13, 14, 19, 20):
        sized(cells[i], 8)
    for i in (12, 16, 17, 18, 31):
        sized(cells[i], 2)
    sized(cells[6], 4)
    sized(cells[28], 4)
    sized(cells[33], 1)
    for i in (0, 1, 2, 3, 4, 5, 6, 8, 9, 13):
        if cells[i].p == NULL:
            raise ValueError(f"a damaged row: column {i} is NULL")
    memset(row, 0, sizeof(JobRow))
    job.id_hi = tf_rd64(cells[0].p)
    job.id_lo = tf_rd64(cells[0].p + 8)
    row.queue_hi = tf_rd64(cells[1].p)
    row.queue_lo = tf_rd64(cells[1].p + 8)
    row.project_hi = tf_rd64(cells[2].p)
    row.project_lo = tf_rd64(cells[2].p + 8)
    row.type = cells[3].p
    row.type_size = cells[3].size
    row.payload = cells[4].p + 1
    row.payload_size = cells[4].size - 1
    for i in range(PENDING, PROCESSING + 1):
        if cells[5].size == <int>STATUS_SIZE[i] and not memcmp(cells[5].p, STATUS[i], cells[5].size):
            job.state = i
    if job.state == FREE:
        raise ValueError(f"a job that is {cells[5].p[:cells[5].size].decode()}, not unfinished")
    is_jsonb(cells[4])
    is_jsonb(cells[22])
    row.priority = <int>tf_rd32(cells[6].p)
    if not 0 <= row.priority <= 9:
        raise ValueError(f"a damaged row: priority {row.priority}")
    job.due_us = cell_time(cells[7])
    if cells[7].p == NULL and job.state == SCHEDULED:
        job.due_us = NEVER_US
    job.created_us = cell_time(cells[8])
    job.updated_us = cell_time(cells[9])
    job.started_us = cell_time(cells[10])
    job.lsn = cell_int8(cells[13])
    job.lease_lsn = cell_int8(cells[14])
    if cells[15].p != NULL:
        row.has_worker = True
        row.worker_hi = tf_rd64(cells[15].p)
        row.worker_lo = tf_rd64(cells[15].p + 8)
    job.attempts = cell_int2(cells[16])
    job.crashes = cell_int2(cells[17])
    job.max_attempts = cell_int2(cells[18])
    job.returns = <uint8_t>cell_int2(cells[31])
    job.timeout_ms = cell_ms(cells[19])
    job.deadline_us = cell_time(cells[20])
    if cells[22].p != NULL:
        row.output = cells[22].p + 1
        row.output_size = cells[22].size - 1
    for i in range(OPTIONS):
        tell(row, i, cells[OPTION_CELLS[i]])
    return 0


cdef int read_page_row(const unsigned char *p, JobRow *row) except -1:
    """One whole row of a page of a lane, which the reader knows: queue, project and type are not in
    it, nor in `row`. It is pending; NULL is what most jobs have."""
    cdef Cell cells[PAGE_COLUMNS]
    cdef int i
    cdef Job *job = &row.job
    if tf_rd16(p) != PAGE_COLUMNS:
        raise ValueError(f"a row of {tf_rd16(p)} columns, not {PAGE_COLUMNS}")
    p += 2
    for i in range(PAGE_COLUMNS):
        cells[i] = cell(&p)
    sized(cells[0], 16)
    for i in (2, 3, 4, 9, 10, 11):
        sized(cells[i], 8)
    for i in (6, 7, 8, 13):
        sized(cells[i], 2)
    sized(cells[5], 4)
    sized(cells[18], 4)
    sized(cells[20], 1)
    for i in range(4):
        if cells[i].p == NULL:
            raise ValueError(f"a damaged row: column {i} is NULL")
    is_jsonb(cells[1])
    is_jsonb(cells[12])
    memset(row, 0, sizeof(JobRow))
    job.state = PENDING
    job.id_hi = tf_rd64(cells[0].p)
    job.id_lo = tf_rd64(cells[0].p + 8)
    row.payload = cells[1].p + 1
    row.payload_size = cells[1].size - 1
    job.lsn = cell_int8(cells[2])
    job.created_us = cell_time(cells[3])
    job.updated_us = cell_time(cells[3] if cells[4].p == NULL else cells[4])
    row.priority = 0 if cells[5].p == NULL else <int>tf_rd32(cells[5].p)
    if not 0 <= row.priority <= 9:
        raise ValueError(f"a damaged row: priority {row.priority}")
    job.attempts = cell_int2(cells[6])
    job.crashes = cell_int2(cells[7])
    job.max_attempts = cell_int2(cells[8])
    job.due_us = cell_time(cells[9])
    job.started_us = cell_time(cells[10])
    job.timeout_ms = cell_ms(cells[11])
    if cells[12].p != NULL:
        row.output = cells[12].p + 1
        row.output_size = cells[12].size - 1
    job.returns = <uint8_t>cell_int2(cells[13])
    for i in range(OPTIONS):
        tell(row, i, cells[PAGE_OPTIONS_AT + i])
    return 0


cdef bytes options_of_row(const JobRow *row):
    """The options map of these columns, its keys in their order; None when all are NULL."""
    cdef int i
    cdef Py_ssize_t at, size
    named = {}
    for i in range(OPTIONS):
        if row.columns[i] == NULL:
            continue
        name = OPTION_NAMES[i]
        data = row.columns[i][:row.column_sizes[i]]
        if i < 3:
            named[name] = data.decode()
            continue
        if name == "waiting_on":
            named[name] = struct.unpack(">i", data)[0]
            continue
        if name == "more":
            if data[:1] != b"\x01":
                raise ValueError("jsonb of an unknown version")
            named[name] = data[1:]
            continue
        if name == "keep":
            named[name] = data != b"\x00"
            continue
        dimensions, nulls, oid = struct.unpack_from(">iii", data)
        if oid != TEXT_OID or nulls or dimensions not in (0, 1):
            raise ValueError("tags are no one-dimensional text[]")
        texts = []
        at = 20
        for _ in range(struct.unpack_from(">i", data, 12)[0] if dimensions else 0):
            size = struct.unpack_from(">i", data, at)[0]
            texts.append(data[at + 4:at + 4 + size].decode())
            at += 4 + size
        named[name] = texts
    return msgpack.packb(named) if named else None


cdef Py_ssize_t first_row(bytes data) except -1:
    """Where the rows begin: behind the header, if there is one."""
    if not data.startswith(COPY_SIGNATURE):
        return 0
    if PyBytes_GET_SIZE(data) < 19:
        raise ValueError("the data end within the header")
    return 19 + <int>tf_rd32(<const unsigned char *>PyBytes_AS_STRING(data) + 15)


cdef Py_ssize_t next_row(const unsigned char *p, Py_ssize_t start, Py_ssize_t size) except -1:
    """Where the row that begins at `start` ends; 0 when there is none but the trailer."""
    cdef Py_ssize_t end
    if start >= size:
        return 0
    end = row_end(p, start, size)
    if end == -2 and <int16_t>tf_rd16(p + start) == -1:
        if start + 2 != size:
            raise ValueError(f"{size - start - 2} bytes after the trailer")
        return 0
    if end < 0:
        raise ValueError(f"the row at byte {start} is cut or damaged")
    return end


def split_rows(bytes data not None):
    """(start, end) of each row of binary COPY. A header and a trailer are allowed.

    Raises ValueError when the data are cut or damaged.
    """
    cdef const unsigned char *p = <const unsigned char *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t start = first_row(data), end
    cdef list rows = []
    while (end := next_row(p, start, PyBytes_GET_SIZE(data))):
        rows.append((start, end))
        start = end
    return rows
