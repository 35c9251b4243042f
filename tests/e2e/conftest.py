"""Data directories that a PostgreSQL may use, whoever runs the tests."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A new directory. Not below pytest's own: that is closed to the user that runs PostgreSQL."""
    folder = Path(tempfile.mkdtemp(prefix="taskforge-tests-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
