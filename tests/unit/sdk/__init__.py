"""Tests of the Python SDK, without a server."""
