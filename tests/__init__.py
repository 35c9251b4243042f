"""The tests of the server and of the Python SDK."""
