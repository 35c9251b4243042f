"""What a server has written goes to the disk soon, and not all of it at some moment."""

import os
import time
from pathlib import Path

import pytest

from taskforge_server.api.cli import writeback
from taskforge_server.api.cli.writeback import Writeback

MIB = 1024**2
LONG_S = 60.0
TRIES = 1_000


def is_cached(path: Path) -> bool:
    """Whether its first page is in the kernel's cache: one that is not written yet has to be."""
    file = os.open(path, os.O_RDONLY)
    try:
        return os.preadv(file, [bytearray(1)], 0, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
    finally:
        os.close(file)


def written(path: Path, look: Writeback) -> bool:
    """Looks until the kernel has written it and let it go."""
    until_s = time.monotonic() + LONG_S
    while is_cached(path) and time.monotonic() < until_s:
        os.utime(path)  # it goes on changing
        look.look()
    return not is_cached(path)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A file of a database, none of it on the disk yet."""
    (tmp_path / "16384").mkdir()
    file = tmp_path / "16384" / "16385"
    probe = tmp_path / "16384" / "16386"
    probe.write_bytes(b"x")
    with probe.open("rb") as opened:
        os.fsync(opened.fileno())
        for _ in range(TRIES):
            # A page that another core has just touched stays.
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if is_cached(probe):
        pytest.skip("this file system is memory: nothing of it is written anywhere")
    file.write_bytes(bytes(MIB))
    return file


def test_files_that_changed_are_written(tmp_path: Path, table: Path) -> None:
    assert is_cached(table)
    assert written(table, Writeback(tmp_path))


def test_files_that_did_not_change_are_left_alone(tmp_path: Path, table: Path) -> None:
    os.utime(table, (1.0, 1.0))
    Writeback(tmp_path).look()
    with table.open("rb") as opened:
        os.fsync(opened.fileno())
    Writeback(tmp_path).look()
    assert is_cached(table)


def test_databases_and_tables_come_and_go(tmp_path: Path) -> None:
    look = Writeback(tmp_path / "gone")
    look.look()
    look.start()
    look.stop()


def test_what_waits_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = tmp_path / "meminfo"
    known.write_text("MemFree:   1 kB\nDirty:        2048 kB\nWriteback:     7 kB\n")
    monkeypatch.setattr(writeback, "MEMINFO", known)
    assert writeback.waiting_bytes() == 2 * MIB
