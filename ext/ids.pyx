"""Ids of jobs and executions: UUIDv7 with the shard number inside.

    hi   48 bits  milliseconds since the Unix epoch
          4 bits  version, 7
         12 bits  shard number
    lo    2 bits  variant, binary 10
         20 bits  counter: 0 in each new millisecond, one more for each id; a full one carries
                  into the milliseconds, which then run ahead of the clock
         42 bits  random

The id of an execution has the same `hi`, with the time of its start. The other 62 bits of `lo`
are a function of its job and attempt, so that replay finds the same id:

    mix64(mix64(job_hi + attempt * GOLDEN) ^ job_lo) >> 2

Invariant of a source: each id is greater, as 16 bytes, than every id that it gave or saw before.
The random bits are splitmix64 from the seed: the same seed and calls give the same ids.
Times are in 0 … TIME_MS_MAX; a clock outside is taken for the nearer end.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int64_t, uint64_t

SHARD_MAX = 4095
TIME_MS_MAX = (1 << 48) - 1

cdef int64_t C_TIME_MS_MAX = (<int64_t>1 << 48) - 1
cdef uint64_t GOLDEN = <uint64_t>0x9E3779B97F4A7C15ULL
cdef uint64_t VARIANT = <uint64_t>1 << 63
cdef const char* DIGITS = b"0123456789abcdef"

cdef extern from "Python.h":
    str PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    void* PyUnicode_DATA(object text)


cdef inline int64_t time_ms(int64_t time_us) noexcept nogil:
    if time_us < 0:
        return 0
    return min(time_us // 1000, C_TIME_MS_MAX)


cdef inline uint64_t high_half(int64_t time_ms, uint64_t shard) noexcept nogil:
    return (<uint64_t>time_ms << 16) | 0x7000 | shard


@cython.final
cdef class IdSource:
    """Gives the ids of one shard, each greater than the one before."""

    def __cinit__(self, int shard, object seed):
        if not 0 <= shard <= C_SHARD_MAX:
            raise ValueError(f"shard {shard} is not in 0 … {SHARD_MAX}")
        self.shard = shard
        self.time_ms = -1
        self.counter = 0
        self.state = <uint64_t>(seed & 0xFFFFFFFFFFFFFFFF)

    cdef void next_into(self, int64_t now_us, uint64_t* hi, uint64_t* lo) noexcept:
        """The next id, as two big-endian halves."""
        cdef int64_t now_ms = time_ms(now_us)
        if now_ms > self.time_ms:
            self.time_ms = now_ms
            self.counter = 0
        elif self.counter == C_COUNTER_MAX:
            self.time_ms += 1
            self.counter = 0
        else:
            self.counter += 1
        hi[0] = high_half(self.time_ms, <uint64_t>self.shard)
        lo[0] = VARIANT | (self.counter << 42) | (splitmix64(&self.state) >> 22)

    cdef void see_halves(self, uint64_t hi, uint64_t lo) noexcept:
        """An id of this shard was met: stay above it."""
        cdef int64_t seen_ms = time_ms_of_hi(hi)
        cdef uint64_t counter = (lo >> 42) & C_COUNTER_MAX
        if seen_ms > self.time_ms:
            self.time_ms = seen_ms
            self.counter = counter
        elif seen_ms == self.time_ms and counter > self.counter:
            self.counter = counter

    def next(self, int64_t now_us) -> bytes:
        """The next id, 16 bytes."""
        cdef uint64_t hi, lo
        self.next_into(now_us, &hi, &lo)
        return from_halves(hi, lo)

    def see(self, bytes id not None) -> None:
        """An id of this shard was met: stay above it. ValueError: it is of another shard."""
        cdef const unsigned char* at = checked(id)
        if shard_of_hi(load_u64(at)) != self.shard:
            raise ValueError(f"the id is of shard {shard_of(id)}, not of {self.shard}")
        self.see_halves(load_u64(at), load_u64(at + 8))


cdef void execution_id_into(
    uint64_t job_hi, uint64_t job_lo, uint64_t attempt, int64_t started_us, uint64_t* hi, uint64_t* lo
) noexcept nogil:
    """The id of an attempt of a job, as two big-endian halves: within a millisecond in the order of
    the jobs, so that rows in this order go to the end of an index.

        time of the job, 16 bits | its counter, 20 | attempt, 8 | mixed of both, 18
    """
    hi[0] = high_half(time_ms(started_us), job_hi & C_SHARD_MAX)
    lo[0] = VARIANT | (
        (job_hi >> 16 & 0xffff) << 46
        | (job_lo >> 42 & 0xfffff) << 26
        | (attempt & 0xff) << 18
        | mix64(mix64(job_hi + attempt * GOLDEN) ^ job_lo) >> 46)


def execution_id(bytes job_id not None, uint64_t attempt, int64_t started_us) -> bytes:
    """The id of an attempt of a job: the same for the same arguments."""
    cdef const unsigned char* at = checked(job_id)
    cdef uint64_t hi, lo
    execution_id_into(load_u64(at), load_u64(at + 8), attempt, started_us, &hi, &lo)
    return from_halves(hi, lo)


def shard_of(bytes id not None) -> int:
    """The shard number in an id."""
    return shard_of_hi(load_u64(checked(id)))




def uuid_text(bytes id not None) -> str:
    """The canonical text: 36 characters in lower case."""
    cdef const unsigned char* at = checked(id)
    cdef str text = PyUnicode_New(36, 127)
    cdef char* out = <char*>PyUnicode_DATA(text)
    cdef int index
    for index in range(16):
        if index == 4 or index == 6 or index == 8 or index == 10:
            out[0] = c"-"
            out += 1
        out[0] = DIGITS[at[index] >> 4]
        out[1] = DIGITS[at[index] & 15]
        out += 2
    return text


def uuid_bytes(str text not None) -> bytes:
    """The 16 bytes of a UUID: 36 characters with hyphens, or 32 hexadecimal digits."""
    cdef Py_ssize_t size
    cdef const char* at = PyUnicode_AsUTF8AndSize(text, &size)
    cdef unsigned char raw[16]
    cdef int index, high, low
    if size != 36 and size != 32:
        raise ValueError("not a UUID")
    for index in range(16):
        if size == 36 and (index == 4 or index == 6 or index == 8 or index == 10):
            if at[0] != c"-":
                raise ValueError("not a UUID")
            at += 1
        high = digit(at[0])
        low = digit(at[1])
        if high < 0 or low < 0:
            raise ValueError("not a UUID")
        raw[index] = <unsigned char>(high << 4 | low)
        at += 2
    return PyBytes_FromStringAndSize(<char*>raw, 16)


cdef inline int digit(char character) noexcept:
    """The value of a hexadecimal digit; -1: it is none."""
    if c"0" <= character <= c"9":
        return character - c"0"
    if c"a" <= character <= c"f":
        return character - c"a" + 10
    if c"A" <= character <= c"F":
        return character - c"A" + 10
    return -1


cdef const unsigned char* checked(bytes id) except NULL:
    if PyBytes_GET_SIZE(id) != 16:
        raise ValueError(f"an id has 16 bytes, not {PyBytes_GET_SIZE(id)}")
    return <const unsigned char*>PyBytes_AS_STRING(id)


cdef bytes from_halves(uint64_t hi, uint64_t lo):
    cdef unsigned char raw[16]
    store_u64(raw, hi)
    store_u64(raw + 8, lo)
    return PyBytes_FromStringAndSize(<char*>raw, 16)
