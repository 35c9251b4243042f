"""How the process's allocator deals with large blocks.

Rows for a COPY, of tens of megabytes, come and go between millions of small blocks that stay. glibc
learns from the first of them to take such blocks from the heap too, where each leaves a hole. With a
fixed threshold they are mapped, and go back to the system as soon as they are freed. What is smaller
(request bodies, frames, log rows) comes from the heap, which keeps its pages for the next one.
"""

import ctypes

from taskforge_server.engine import limits

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def map_large_blocks() -> bool:
    """Set the thresholds; False where the C library has none."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(
        mallopt(_M_MMAP_THRESHOLD, limits.MAPPED_BLOCK_BYTES_MIN)
        and mallopt(_M_TRIM_THRESHOLD, limits.HEAP_TRIM_BYTES)
    )
