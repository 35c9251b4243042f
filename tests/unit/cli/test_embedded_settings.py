"""How much memory the embedded PostgreSQL takes for its buffers."""

from pathlib import Path

import pytest

from taskforge_server.api.cli import embedded
from taskforge_server.api.cli.embedded import GIB, settings_for


def buffers(folder: Path) -> int:
    return int(settings_for(folder)["shared_buffers"].removesuffix("kB")) * 1024


@pytest.fixture
def bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that says what the container may have."""
    path = tmp_path / "memory.max"
    monkeypatch.setattr(embedded, "MEMORY_BOUNDS", (tmp_path / "missing", path))
    return path


def test_a_quarter_of_what_a_container_may_have(tmp_path: Path, bound: Path) -> None:
    bound.write_text(f"{GIB}\n")
    assert buffers(tmp_path) == GIB // 4


def test_a_container_without_a_bound_has_the_whole_machine(tmp_path: Path, bound: Path) -> None:
    alone = buffers(tmp_path)
    bound.write_text("max\n")
    assert buffers(tmp_path) == alone
    assert 0 < alone <= embedded.BUFFERS_MAX_BYTES
