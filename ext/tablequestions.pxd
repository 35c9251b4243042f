"""What is asked of single jobs; see the text of tablequestions.pyx."""
from libc.stdint cimport uint32_t

from taskforge_server.ext.tableaway cimport Pages


cdef class Questions(Pages):
    cdef uint32_t _leased(self, bytes token) except? 0xffffffff
    cdef dict _view(self, uint32_t slot)
