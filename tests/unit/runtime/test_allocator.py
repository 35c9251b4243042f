"""Large blocks are mapped, and given back; what stays is not looked at again."""

import gc
import subprocess
import sys

import pytest

from taskforge_server.engine.runtime import allocator

PROGRAM = """
import sys
from pathlib import Path
from taskforge_server.engine.runtime import allocator

def resident_pages():
    return int(Path("/proc/self/statm").read_text().split()[1])

if sys.argv[1] == "with":
    assert allocator.map_large_blocks()
first = b"x" * (2 << 20)
del first  # from here on the allocator would take such blocks from the heap
before = resident_pages()
large, small = [], []
for _ in range(64):
    large.append(b"x" * (1 << 20))
    small.append(b"y" * 100_000)
large.clear()
if sys.argv[1] == "with":
    allocator.give_back()
print(resident_pages() - before)
"""


def pages_kept(how: str) -> int:
    """What is still resident of 64 MiB in large blocks, freed, with small ones between them."""
    command = [sys.executable, "-c", PROGRAM, how]
    return int(subprocess.run(command, check=True, timeout=60, capture_output=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the thresholds are glibc's")
def test_large_blocks_leave_no_holes() -> None:
    assert pages_kept("with") < 4096


def test_the_collector_passes_over_what_stays() -> None:
    mine: list[object] = []
    allocator.keep()
    try:
        assert not any(known is mine for known in gc.get_objects())
    finally:
        gc.unfreeze()
    assert any(known is mine for known in gc.get_objects())
