"""One shard in memory; the behaviour stands in table.pyx, the plain twin in pure/table.py."""
from libc.stdint cimport int64_t

from taskforge_server.ext.tablequestions cimport Questions


cdef class ShardTable(Questions):
    cdef bint _put_back(self, int kind, bytes token, bytes error, int64_t now_us, int64_t due_us) except -1
