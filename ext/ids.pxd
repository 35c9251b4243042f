from libc.stdint cimport int64_t, uint64_t


cdef enum:
    C_SHARD_MAX = 4095
    C_COUNTER_MAX = (1 << 20) - 1


cdef inline uint64_t mix64(uint64_t value) noexcept nogil:
    """The finalizer of splitmix64: a bijection that spreads every bit over all."""
    value = (value ^ (value >> 30)) * <uint64_t>0xBF58476D1CE4E5B9ULL
    value = (value ^ (value >> 27)) * <uint64_t>0x94D049BB133111EBULL
    return value ^ (value >> 31)


cdef inline uint64_t splitmix64(uint64_t* state) noexcept nogil:
    """The next number of the generator with this state."""
    state[0] += <uint64_t>0x9E3779B97F4A7C15ULL
    return mix64(state[0])


cdef inline uint64_t load_u64(const unsigned char* at) noexcept nogil:
    """Eight bytes, big endian."""
    return (
        (<uint64_t>at[0] << 56) | (<uint64_t>at[1] << 48) | (<uint64_t>at[2] << 40)
        | (<uint64_t>at[3] << 32) | (<uint64_t>at[4] << 24) | (<uint64_t>at[5] << 16)
        | (<uint64_t>at[6] << 8) | <uint64_t>at[7]
    )


cdef inline void store_u64(unsigned char* at, uint64_t value) noexcept nogil:
    """Eight bytes, big endian."""
    at[0] = <unsigned char>(value >> 56)
    at[1] = <unsigned char>(value >> 48)
    at[2] = <unsigned char>(value >> 40)
    at[3] = <unsigned char>(value >> 32)
    at[4] = <unsigned char>(value >> 24)
    at[5] = <unsigned char>(value >> 16)
    at[6] = <unsigned char>(value >> 8)
    at[7] = <unsigned char>value


cdef inline int shard_of_hi(uint64_t hi) noexcept nogil:
    return <int>(hi & 0xFFF)


cdef inline int64_t time_ms_of_hi(uint64_t hi) noexcept nogil:
    return <int64_t>(hi >> 16)


# The id of an execution, as two big-endian halves; see ids.pyx for the mix.
cdef void execution_id_into(
    uint64_t job_hi, uint64_t job_lo, uint64_t attempt, int64_t started_us, uint64_t* hi, uint64_t* lo
) noexcept nogil


cdef class IdSource:
    cdef readonly int shard
    cdef int64_t time_ms  # of the last id given or seen; -1: none
    cdef uint64_t counter  # of the last id given or seen
    cdef uint64_t state  # of the generator

    cdef void next_into(self, int64_t now_us, uint64_t* hi, uint64_t* lo) noexcept
    cdef void see_halves(self, uint64_t hi, uint64_t lo) noexcept
