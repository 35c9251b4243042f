"""The events that wait for the log, encoded as they are decided, and which of them are durable.

    decision ──_gather, _head──► gathering body ──take_batch──► log ──► committed
"""
import zlib

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from taskforge_server.ext.buf cimport (
    buf_free, buf_init, buf_need, mp_array, mp_bin, mp_bin_head, mp_int, mp_str, mp_uint, tf_be32, w8,
    w64,
)
from taskforge_server.ext.ids cimport splitmix64
from taskforge_server.ext.tableevents cimport (
    BODY_HEAD_BYTES, BODY_VERSION, EVENT_BYTES, KEYED_EVENT, OWNED_EVENT,
)
from taskforge_server.ext.tableparts cimport QueueState, check_id


cdef class Names:
    """The queues, types or workers that the gathering body names, in order of first use."""

    def __dealloc__(self):
        free(self.local_of)
        free(self.used)

    cdef int32_t index(self, uint32_t value) except -1:
        cdef uint32_t room, i
        cdef int32_t *local_of
        cdef uint32_t *used
        if value >= self.room:
            room = max(64, (value + 1) * 2)
            local_of = <int32_t *>realloc(self.local_of, room * sizeof(int32_t))
            if local_of == NULL:
                raise MemoryError()
            for i in range(self.room, room):
                local_of[i] = -1
            self.local_of = local_of
            self.room = room
        if self.local_of[value] < 0:
            if self.count == self.used_room:
                room = max(16, self.used_room * 2)
                used = <uint32_t *>realloc(self.used, room * sizeof(uint32_t))
                if used == NULL:
                    raise MemoryError()
                self.used = used
                self.used_room = room
            self.used[self.count] = value
            self.local_of[value] = self.count
            self.count += 1
        return self.local_of[value]

    cdef void reset(self) noexcept:
        cdef uint32_t i
        for i in range(self.count):
            self.local_of[self.used[i]] = -1
        self.count = 0


cdef class Log(Waiting):
    """One body gathers at a time; its lsn is `gathering_lsn`."""

    def __cinit__(self, int shard, seed):
        self.nonce_state = <uint64_t>((seed ^ 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF)
        self.body_queues, self.body_types, self.body_workers = Names(), Names(), Names()
        self.keys = []
        buf_init(&self.events)

    def __dealloc__(self):
        buf_free(&self.events)

    def adopt(self, int64_t head_lsn):
        """The log's head is ours: all up to it is durable, the next batch goes above it."""
        if self.gathered_events or head_lsn < self.gathering_lsn - 1:
            raise ValueError(f"cannot adopt {head_lsn} at {self.gathering_lsn}")
        self.committed_lsn = head_lsn
        self.gathering_lsn = head_lsn + 1

    cdef int _gather(self, int64_t now_us) except -1:
        """Room for one more event, whose texts the caller makes room for."""
        buf_need(&self.events, EVENT_BYTES)
        if not self.gathered_events:
            self.base_us = now_us
        self.gathered_events += 1
        return 0

    cdef void _head(self, int fields, int kind, const Job *job) noexcept:
        """Array header, kind and job id of an event."""
        cdef Buf *b = &self.events
        mp_array(b, fields)
        w8(b, <uint8_t>kind)
        mp_bin_head(b, 16)
        w64(b, job.id_hi)
        w64(b, job.id_lo)

    def owned(self, str node not None, epoch, int64_t now_us):
        """The first event of an ownership."""
        cdef bytes name = node.encode()
        self._gather(now_us)
        mp_array(&self.events, 4)
        w8(&self.events, OWNED_EVENT)
        mp_str(&self.events, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        buf_need(&self.events, EVENT_BYTES)
        mp_uint(&self.events, epoch)
        mp_int(&self.events, now_us - self.base_us)
        self.floor_us, self.owned_lsn = max(self.floor_us, now_us), self.gathering_lsn

    def keyed(self, bytes project_id, str key not None, bytes body_hash not None,
              bytes ids not None, int64_t now_us):
        """The request with this idempotency key made these jobs."""
        cdef bytes text = key.encode()
        check_id("project_id", project_id)
        if PyBytes_GET_SIZE(ids) % 16:
            raise ValueError(f"{PyBytes_GET_SIZE(ids)} bytes are no row of ids")
        self._gather(now_us)
        mp_array(&self.events, 6)
        w8(&self.events, KEYED_EVENT)
        mp_bin(&self.events, PyBytes_AS_STRING(project_id), 16)
        mp_str(&self.events, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
        mp_bin(&self.events, PyBytes_AS_STRING(body_hash), PyBytes_GET_SIZE(body_hash))
        buf_need(&self.events, EVENT_BYTES)
        mp_int(&self.events, now_us - self.base_us)
        mp_bin(&self.events, PyBytes_AS_STRING(ids), PyBytes_GET_SIZE(ids))
        self.keys.append((self.gathering_lsn, (project_id, key, body_hash, ids, now_us)))

    def take_batch(self):
        """(lsn, number of events, body) of what gathered, or None; the next lsn gathers from now."""
        cdef Buf head
        cdef Buf *b = &head
        cdef uint32_t i
        cdef bytes body, name
        cdef unsigned char *raw
        cdef QueueState q
        cdef Py_ssize_t size, count = self.gathered_events
        if not count:
            return None
        buf_init(b)
        try:
            buf_need(b, 64 + 18 * (self.body_queues.count + self.body_workers.count))
            mp_array(b, 6)
            mp_bin_head(b, 8)
            w64(b, splitmix64(&self.nonce_state))
            mp_int(b, self.base_us)
            mp_array(b, self.body_queues.count)
            for i in range(self.body_queues.count):
                q = self.queues[self.body_queues.used[i]]
                mp_bin_head(b, 16)
                w64(b, q.id_hi)
                w64(b, q.id_lo)
            mp_array(b, self.body_types.count)
            for i in range(self.body_types.count):
                name = self.type_names[self.body_types.used[i]]
                mp_str(b, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
            buf_need(b, 32 + 18 * self.body_workers.count)
            mp_array(b, self.body_workers.count)
            for i in range(self.body_workers.count):
                name = self.workers[self.body_workers.used[i]]
                mp_bin(b, PyBytes_AS_STRING(name), 16)
            buf_need(b, 16)
            mp_uint(b, count)
            size = BODY_HEAD_BYTES + b.size + self.events.size
            body = PyBytes_FromStringAndSize(NULL, size)
            raw = <unsigned char *>PyBytes_AS_STRING(body)
            memcpy(raw + BODY_HEAD_BYTES, b.data, b.size)
            memcpy(raw + BODY_HEAD_BYTES + b.size, self.events.data, self.events.size)
            raw[0] = BODY_VERSION
            tf_be32(raw + 1, zlib.crc32(memoryview(body)[BODY_HEAD_BYTES:]))
        finally:
            buf_free(b)
        lsn = self.gathering_lsn
        if self.events.room > 4 * self.events.size + 65536:
            buf_free(&self.events)     # after a burst
        self.events.size = 0
        self.gathered_events = 0
        self.body_queues.reset()
        self.body_types.reset()
        self.body_workers.reset()
        self.gathering_lsn += 1
        return lsn, count, body

    def committed(self, int64_t lsn):
        """All up to this lsn is durable."""
        if lsn >= self.gathering_lsn:
            raise ValueError(f"lsn {lsn} was not taken yet")
        self.committed_lsn = max(self.committed_lsn, lsn)
