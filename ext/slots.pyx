"""The storage of one shard's live jobs: structs in chunks, found by id, listed by first unsaved change.

    chunks  [ 1,024 Jobs ][ 1,024 Jobs ]…     never move, so a Job * stays good while its slot is used
    index   id -> slot, open addressing with linear probing, at most 3/4 full; 32 bits of the hash
            stand beside the slot
    dirty   a doubly linked list through the jobs, oldest unsaved change first

Invariants: a slot is in the index exactly while its state is not FREE; the dirty list is ordered by
`dirty_lsn`; payload, options and output belong to the slot and are freed with it.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset


cdef Blob *blob_new(const void *data, Py_ssize_t size) except NULL:
    cdef Blob *blob = <Blob *>malloc(4 + (size if size > 4 else 4))
    if blob == NULL:
        raise MemoryError()
    blob.size = <uint32_t>size
    memcpy(blob.data, data, size)
    return blob


cdef bytes blob_bytes(Blob *blob):
    return None if blob == NULL else PyBytes_FromStringAndSize(blob.data, blob.size)


cdef class Slots:
    def __cinit__(self):
        self.free_head = NONE
        self.dirty_head = NONE
        self.dirty_tail = NONE
        self._rehash(8)

    def __dealloc__(self):
        cdef uint32_t slot
        cdef Job *job
        for slot in range(self.chunks_used << CHUNK_BITS):
            job = job_at(self, slot)
            if job.state != FREE:
                free(job.payload)
                free(job.options)
                free(job.output)
        for slot in range(self.chunks_used):
            free(self.chunks[slot])
        free(self.chunks)
        free(self.index)

    cdef int _grow(self) except -1:
        """One more chunk, all of it on the free chain in order of its slots."""
        cdef Job **chunks
        cdef Job *chunk
        cdef uint32_t i, room, first
        if self.chunks_used == self.chunks_room:
            room = self.chunks_room * 2 if self.chunks_room else 8
            chunks = <Job **>realloc(self.chunks, room * sizeof(Job *))
            if chunks == NULL:
                raise MemoryError()
            self.chunks = chunks
            self.chunks_room = room
        chunk = <Job *>malloc(CHUNK * sizeof(Job))
        if chunk == NULL:
            raise MemoryError()
        first = self.chunks_used << CHUNK_BITS
        for i in range(CHUNK):
            chunk[i].state = FREE
            chunk[i].next = first + i + 1
        chunk[CHUNK - 1].next = self.free_head
        self.free_head = first
        self.chunks[self.chunks_used] = chunk
        self.chunks_used += 1
        return 0

    cdef uint32_t new(self, uint64_t id_hi, uint64_t id_lo) except? NONE:
        """A zeroed job with that id, in the index; its state is the caller's next act."""
        cdef uint32_t slot
        cdef Job *job
        if self.free_head == NONE:
            self._grow()
        if (self.used + 1) * <uint64_t>4 > (<uint64_t>3 << self.index_bits):
            self._rehash(self.index_bits + 1)
        slot = self.free_head
        job = job_at(self, slot)
        self.free_head = job.next
        memset(job, 0, sizeof(Job))
        job.id_hi = id_hi
        job.id_lo = id_lo
        job.prev = NONE
        job.next = NONE
        self._index_put(hash32(id_hi, id_lo) << 32 | (slot + 1))
        self.used += 1
        return slot

    cdef void free(self, uint32_t slot) noexcept:
        cdef Job *job = job_at(self, slot)
        if job.flags & F_DIRTY:
            self.mark_clean(slot)
        self._index_drop(job.id_hi, job.id_lo)
        self.drop_blob(&job.payload)
        self.drop_blob(&job.options)
        self.drop_blob(&job.output)
        job.state = FREE
        job.next = self.free_head
        self.free_head = slot
        self.used -= 1

    # --- the index ------------------------------------------------------------------------------

    cdef int _rehash(self, uint32_t bits) except -1:
        cdef uint64_t *old = self.index
        cdef uint64_t i, room = 0 if old == NULL else <uint64_t>1 << self.index_bits
        cdef uint64_t *fresh = <uint64_t *>calloc(<size_t>1 << bits, sizeof(uint64_t))
        if fresh == NULL:
            raise MemoryError()
        self.index = fresh
        self.index_bits = bits
        for i in range(room):
            if old[i]:
                self._index_put(old[i])
        free(old)
        return 0

    cdef void _index_put(self, uint64_t entry) noexcept:
        cdef uint64_t mask = (<uint64_t>1 << self.index_bits) - 1
        cdef uint64_t i = entry >> (64 - self.index_bits)
        while self.index[i]:
            i = (i + 1) & mask
        self.index[i] = entry

    cdef uint64_t _position(self, uint64_t id_hi, uint64_t id_lo) noexcept:
        """Where the entry of that id stands, or the empty place where it is missed.

        Entries of another hash are passed over without a look at their jobs.
        """
        cdef uint64_t mask = (<uint64_t>1 << self.index_bits) - 1
        cdef uint64_t tag = hash32(id_hi, id_lo)
        cdef uint64_t i = tag >> (32 - self.index_bits)
        cdef Job *job
        while self.index[i]:
            if self.index[i] >> 32 == tag:
                job = job_at(self, <uint32_t>self.index[i] - 1)
                if job.id_lo == id_lo and job.id_hi == id_hi:
                    break
            i = (i + 1) & mask
        return i

    cdef uint32_t find(self, uint64_t id_hi, uint64_t id_lo) noexcept:
        """The slot with that id, or NONE (which is what an empty place less one gives)."""
        return <uint32_t>self.index[self._position(id_hi, id_lo)] - 1

    cdef void _index_drop(self, uint64_t id_hi, uint64_t id_lo) noexcept:
        """Remove by shifting back (Knuth, TAOCP 6.4, algorithm R): no tombstones."""
        cdef uint64_t mask = (<uint64_t>1 << self.index_bits) - 1
        cdef uint64_t i = self._position(id_hi, id_lo)
        cdef uint64_t j = i, wanted
        while True:
            j = (j + 1) & mask
            if not self.index[j]:
                break
            wanted = self.index[j] >> (64 - self.index_bits)
            if ((j - wanted) & mask) >= ((j - i) & mask):
                self.index[i] = self.index[j]
                i = j
        self.index[i] = 0

    # --- blobs ----------------------------------------------------------------------------------

    cdef int set_blob(self, Blob **where, const void *data, Py_ssize_t size) except -1:
        """Replace what stands there; data NULL leaves nothing."""
        cdef Blob *blob = NULL
        if data != NULL:
            blob = blob_new(data, size)
            self.blob_bytes_used += size + 4
        self.drop_blob(where)
        where[0] = blob
        return 0

    cdef void drop_blob(self, Blob **where) noexcept:
        if where[0] != NULL:
            self.blob_bytes_used -= where[0].size + 4
            free(where[0])
            where[0] = NULL

    # --- the dirty list -------------------------------------------------------------------------

    cdef void mark_dirty(self, uint32_t slot, int64_t lsn, int64_t now_us) noexcept:
        """Its first unsaved change is this one, unless it has an older one."""
        cdef Job *job = job_at(self, slot)
        if job.flags & F_DIRTY:
            return
        job.flags |= F_DIRTY
        job.dirty_lsn = lsn
        job.dirty_us = now_us
        job.prev = self.dirty_tail
        job.next = NONE
        if self.dirty_tail == NONE:
            self.dirty_head = slot
        else:
            job_at(self, self.dirty_tail).next = slot
        self.dirty_tail = slot
        self.dirty += 1

    cdef void mark_clean(self, uint32_t slot) noexcept:
        cdef Job *job = job_at(self, slot)
        job.flags &= <uint8_t>~F_DIRTY
        if job.prev == NONE:
            self.dirty_head = job.next
        else:
            job_at(self, job.prev).next = job.next
        if job.next == NONE:
            self.dirty_tail = job.prev
        else:
            job_at(self, job.next).prev = job.prev
        job.prev = NONE
        job.next = NONE
        self.dirty -= 1
