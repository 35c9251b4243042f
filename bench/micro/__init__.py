"""One operation at a time, run by pytest-benchmark."""
