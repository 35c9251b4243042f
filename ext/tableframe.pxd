"""The JOBS message of the worker stream, made of jobs that just started."""
from libc.stdint cimport uint32_t

from taskforge_server.ext.slots cimport Slots
from taskforge_server.ext.tableparts cimport QueueState


cdef bytes jobs_frame(
    Slots slots, QueueState q, list names, const uint32_t *picked,
    const unsigned char *kind_of, Py_ssize_t n)
