"""How the process's allocator deals with large blocks.

Rows for a COPY, of tens of megabytes, come and go between millions of small blocks that stay. With
a fixed threshold they are mapped, and go back to the system as soon as they are freed. What is
smaller (request bodies, frames, log rows) comes from the heap, which keeps its pages for the next
one; the holes that it leaves there are given back when there is time for that.
"""

import ctypes
import gc

from taskforge_server.engine import limits

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


_library = ctypes.CDLL(None)


def map_large_blocks() -> bool:
    """Set the thresholds; False where the C library has none."""
    mallopt = getattr(_library, "mallopt", None)
    if mallopt is None:
        return False
    return bool(
        mallopt(_M_MMAP_THRESHOLD, limits.MAPPED_BLOCK_BYTES_MIN)
        and mallopt(_M_TRIM_THRESHOLD, limits.HEAP_TRIM_BYTES)
    )


def keep() -> None:
    """What is there now stays for good: the garbage collector, which stops everything while it
    looks, need not look at it again."""
    gc.freeze()


def give_back() -> None:
    """Give all free pages back to the system; takes milliseconds where there are many."""
    trim = getattr(_library, "malloc_trim", None)
    if trim is not None:
        trim(0)
