"""Data directories that a PostgreSQL may use, whoever runs the tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import data_folder


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A new directory. Not below pytest's own: that is closed to the user that runs PostgreSQL."""
    with data_folder() as folder:
        yield folder
