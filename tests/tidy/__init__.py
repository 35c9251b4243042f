"""The rules of the source, as tests."""
